"""Figures of the experiments hold what they are said to show."""

import numpy as np
import pandas as pd
import pytest

from kit.experiments import EXPERIMENTS, SCORES, published_row
from kit.figures import KIND_COLOURS, network_style
from kit.figures import experiments as plots
from kit.metrics import border_profile
from kit.samplers import WHY, draw


def test_every_experiment_looks_different_and_every_reason_has_a_marker():
    styles = [tuple(network_style(name).values()) for name in EXPERIMENTS]
    assert len(set(styles)) == len(EXPERIMENTS)
    assert set(plots.MARKERS) == set(WHY) <= set(KIND_COLOURS)


def test_sample_patches_show_lesions_above_and_healthy_ones_below(cohort, axes):
    rows = draw(cohort, "border-pairs", limit=100)
    drawn = plots.sample_patches(axes(2, 3), cohort, rows, (5, 21, 21))
    assert {ax.get_title() for ax in drawn[0]} <= {"lesion", "lesion border"}
    assert {ax.get_title() for ax in drawn[1]} <= {"healthy", "beside the border"}
    assert drawn[0][0].images[0].get_array().shape == (21, 21)


def test_drawn_voxels_are_marked_by_reason_and_pairs_are_joined(cohort, axes):
    rows = draw(cohort, "border-pairs", seed=1)
    rows = rows[(rows.scan == "s1") & (rows.slice == rows[rows.pair >= 0].slice.mode()[0])]
    ax = plots.drawn_voxels(axes(), cohort.image(0)[rows.slice.iloc[0]], None, rows)
    marked = sum(len(points.get_offsets()) for points in ax.collections)
    assert marked == len(rows)
    joined = rows[rows.pair >= 0].groupby("pair").size()
    assert len(ax.lines) == len(joined)
    assert (joined == 2).any()
    figure = plots.legend_of_reasons(ax.figure, rows.why)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [why for why in WHY if why in set(rows.why)]


def test_a_forest_has_a_dot_an_interval_and_a_star_for_every_experiment(axes):
    published = pd.concat([published_row(name) for name in ("A", "D")])
    measured = published.assign(**{f"{s}{end}": published[s] for s in SCORES for end in ("_low", "_high")})
    drawn = plots.forest(axes(1, 4), measured, published)
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == ["D", "A"]
    stars = [line.get_xdata()[0] for line in drawn[0].lines if line.get_marker() == "*"]
    assert stars == pytest.approx([84.7, 89.8])


def test_steps_whose_interval_holds_zero_are_grey(axes):
    index = pd.MultiIndex.from_tuples([("A → B", "recall"), ("B → C", "recall")], names=["step", "rate"])
    told = {"difference": [0.1, 0.2], "low": [-0.1, 0.1], "high": [0.3, 0.3], "published": [0.02, np.nan]}
    ax = plots.step_plot(axes(), pd.DataFrame(told, index=index), "recall")
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_color() for line in dots] == [plots.BLUE, "0.6"]  # from below: the last step first


def test_profiles_and_learning_curves_have_a_line_a_network(axes):
    truth = np.zeros((9, 21, 21), bool)
    truth[3:6, 8:13, 8:13] = True
    profile = border_profile(truth * 0.9, truth)
    ax = plots.border_profiles(axes(), {"D": profile, "G": profile}, {"D": {"color": "red"}})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["D", "G"]
    histories = pd.DataFrame({"experiment": ["A", "A", "D"], "patches_worth": [1, 2, 1], "validation_loss": 0.1})
    assert len(plots.learning_curves(axes(), histories).lines) == 2
