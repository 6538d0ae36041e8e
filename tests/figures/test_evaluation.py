"""Figures draw what the tables say on the axes they are given, with units, and return them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from small_maps import DRAWN, block, points_of

from kit.experiments import published_sampled
from kit.figures import evaluation
from kit.metrics import (
    detect,
    error_table,
    froc,
    froc_average,
    pool,
    recall_by_size,
    recall_curve,
    reliability,
    summarise,
    sweep,
    sweep_lesions,
)

SHAPE = (9, 20, 24)


@pytest.fixture(scope="module")
def pair():
    truth = block(SHAPE, "2:4 3:6 3:6", "5:8 10:15 12:17", "1:2 17:18 20:21")
    probability = np.where(block(SHAPE, "2:4 3:6 3:5", "5:8 11:15 12:18"), 0.85, 0.0)
    probability[7, 2, 2:5], probability[1, 10, 20] = 0.6, 0.3
    return probability, truth


def axes_of(rows=1, columns=1):
    return Figure().subplots(rows, columns)


def test_the_size_filter_curve_has_a_point_a_volume(pair):
    ax = axes_of()
    summary = summarise(sweep(*pair, (0.5,)))
    assert evaluation.precision_recall(ax, summary, over="min_volume_mm3") is ax
    assert len(ax.lines[0].get_xdata()) == summary.precision.notna().sum()
    assert "mm³" in ax.texts[0].get_text()
    with pytest.raises(ValueError, match="rows of one threshold"):
        evaluation.precision_recall(ax, pd.concat([summary, summary]), over="min_volume_mm3")


@pytest.mark.parametrize(("by", "name"), [("threshold", "θ 0.5"), ("min_volume_mm3", "from 40 mm³")])
def test_recall_curves_have_a_line_a_value(pair, by, name):
    lesions = sweep_lesions(*pair)
    other = {"threshold": "min_volume_mm3", "min_volume_mm3": "threshold"}[by]
    curves = recall_curve(lesions[lesions[other] == {"threshold": 0.5, "min_volume_mm3": 0}[other]])
    ax = evaluation.recall_over_size_curves(axes_of(), curves, by)
    assert name in [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(ax.lines) == curves[by].nunique()
    assert "mm" in ax.get_xlabel()


def test_false_positives_are_where_the_error_table_has_them(pair):
    errors = error_table(*pair, spacing_mm=(2, 1, 1))
    axes = axes_of(1, 3)
    assert evaluation.false_positive_positions(axes, errors, SHAPE, head=np.ones(SHAPE, bool)) is axes
    false = errors[errors.kind == "FP"]
    for ax, (vertical, horizontal, _) in zip(axes, evaluation.PLANES, strict=True):
        assert sorted(ax.collections[-1].get_offsets().tolist()) == sorted(
            false[[horizontal, vertical]].values.tolist()
        )
        assert all((ax.get_xlabel(), ax.get_ylabel()))
    low, high = axes[0].get_ylim()
    assert low > high  # rows run downwards, the nose is up
    histograms = evaluation.false_positive_histograms(axes_of(1, 3), errors, SHAPE)
    assert [sum(patch.get_height() for patch in ax.patches) for ax in histograms] == [len(false)] * 3


def test_planes_without_false_positives_stay_empty():
    errors = error_table(np.zeros(SHAPE), np.zeros(SHAPE), spacing_mm=(1, 1, 1))
    evaluation.false_positive_positions(axes_of(1, 3), errors, SHAPE)
    evaluation.false_positive_histograms(axes_of(1, 3), errors, SHAPE)


def test_the_froc_curve_shows_its_band_and_average():
    points = points_of(DRAWN)
    ax = evaluation.froc_curve(axes_of(), froc(points, draws=20), froc_average(points, draws=20), label="D")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["D", "average 43 %"]
    assert len(ax.collections) == 1
    assert ax.get_xscale() == "log"


def test_the_reliability_diagram_counts_its_bins():
    pooled = pool(reliability([0.05, 0.06, 0.95], [False, True, True]))
    axes = evaluation.reliability_diagram(axes_of(2, 1), pooled, error=0.5)
    assert axes[0].lines[1].get_ydata().tolist() == [0.5, 1]
    assert [bar.get_height() for bar in axes[1].patches] == pooled["count"].tolist()
    assert "ECE 0.5" in axes[0].get_title()


def test_dice_of_lesions_stands_beside_that_of_scans(pair):
    found, rows = detect(*pair), sweep(*pair, (0.5,), (0,)).assign(scan_id="s")
    axes = evaluation.dice_of_lesions(axes_of(1, 2), found.truth, rows)
    assert [len(points.get_offsets()) for points in axes[0].collections] == [2, 1]
    assert axes[1].patches[0].get_width() == found.dice


def test_scans_with_and_without_lesions_stand_apart(pair):
    rows = pd.concat([sweep(*pair, (0.5,), (0,)), sweep(pair[0], np.zeros(SHAPE), (0.5,), (0,))])
    ax = evaluation.false_positives_of_scans(axes_of(), rows)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1], [3]]
    evaluation.false_positives_of_scans(axes_of(), rows[:1])


def summary():
    return pd.DataFrame({"threshold": [0.5, 0.1, 0.9], "recall": [0.8, 0.9, 0.1], "precision": [0.5, 0.2, np.nan]})


def test_the_precision_recall_curve_goes_by_threshold_in_percent(axes):
    ax = evaluation.precision_recall(axes(), summary(), label="D", mark=(0.1, 0.9))
    assert ax.lines[0].get_xydata().tolist() == [[90, 20], [80, 50]]  # without predictions there is no precision
    assert [text.get_text() for text in ax.texts] == ["θ 0.1"]


def test_each_label_stands_beside_its_own_dot(axes):
    ax = evaluation.precision_recall(axes(), summary(), mark=(0.1, 0.5))
    places = {text.get_text(): (*text.xy, text.xyann[1]) for text in ax.texts}
    assert places == {"θ 0.1": (90, 20, 0), "θ 0.5": (80, 50, 0)}


@pytest.mark.parametrize(("width", "side"), [(8, "left"), (1.5, "right")])
def test_words_beside_a_point_stay_in_the_axes(width, side):
    figure = Figure(figsize=(width, 3))
    ax = evaluation.precision_recall(figure.subplots(), summary(), mark=(0.1,))
    evaluation.published_point(ax, 0.7, 0.1, "thesis")
    figure.canvas.draw()
    assert ax.texts[0].get_ha() == side, "the side of the words where the point is"
    inside = ax.get_window_extent()
    assert all(inside.x0 < text.get_window_extent().x0 < text.get_window_extent().x1 < inside.x1 for text in ax.texts)


def test_two_words_at_one_point_stand_on_either_side(axes):
    ax = evaluation.precision_recall(axes(), summary(), mark=(0.5,))
    evaluation.published_point(ax, 0.8, 0.5, "D")
    assert [text.get_ha() for text in ax.texts] == ["left", "right"]


def test_two_curves_in_one_are_refused(axes):
    with pytest.raises(ValueError, match="rows of one min_volume_mm3"):
        evaluation.precision_recall(axes(), pd.concat([summary(), summary()]))


def test_a_published_point_lies_where_the_curve_would(axes):
    network = published_sampled().loc["D"]
    ax = evaluation.published_point(axes(), network.recall, network.precision, "thesis, D")
    assert ax.lines[0].get_xydata() == pytest.approx(np.array([[84.7, 75.2]]))
    assert ax.texts[0].get_text() == "thesis, D"


def test_recall_over_size_says_how_many_lesions_stand_behind_each_point(axes):
    table = recall_by_size(
        pd.DataFrame({"diameter_mm": [1.0, 1.5, 6.0], "found": [False, True, True]}), (0, 2, 5, np.inf)
    )
    ax = evaluation.recall_over_size(axes(), table)
    assert [text.get_text() for text in ax.texts] == ["n = 2", "n = 0", "n = 1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0–2", "2–5", "≥ 5"]
    assert [bar.lines[0].get_ydata().tolist() for bar in ax.containers] == [[50], [100]]
