"""Figures draw what the tables say on the axes they are given, with units, and return them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from small_maps import DRAWN, block, cohort, points_of

from kit.figures import evaluation as draw
from kit.metrics import (
    compare_all,
    detect,
    error_table,
    froc,
    froc_average,
    intervals,
    pool,
    recall_curve,
    reliability,
    rule_table,
    summarise,
    sweep,
    sweep_lesions,
)
from kit.scans import components

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
    assert draw.precision_recall_over_filters(ax, summary) is ax
    assert len(ax.lines[0].get_xdata()) == summary.precision.notna().sum()
    assert "mm³" in ax.texts[0].get_text()
    with pytest.raises(ValueError, match="minimum volume twice"):
        draw.precision_recall_over_filters(ax, pd.concat([summary, summary]))


@pytest.mark.parametrize(("by", "name"), [("threshold", "θ 0.5"), ("min_volume_mm3", "from 40 mm³")])
def test_recall_curves_have_a_line_a_value(pair, by, name):
    lesions = sweep_lesions(*pair)
    other = {"threshold": "min_volume_mm3", "min_volume_mm3": "threshold"}[by]
    curves = recall_curve(lesions[lesions[other] == {"threshold": 0.5, "min_volume_mm3": 0}[other]])
    ax = draw.recall_over_size_curves(axes_of(), curves, by)
    assert name in [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(ax.lines) == curves[by].nunique()
    assert "mm" in ax.get_xlabel()


def test_false_positives_are_where_the_error_table_has_them(pair):
    errors = error_table(*pair, spacing_mm=(2, 1, 1))
    axes = axes_of(1, 3)
    assert draw.false_positive_positions(axes, errors, SHAPE, head=np.ones(SHAPE, bool)) is axes
    false = errors[errors.kind == "FP"]
    for ax, (vertical, horizontal, _) in zip(axes, draw.PLANES, strict=True):
        assert sorted(ax.collections[-1].get_offsets().tolist()) == sorted(
            false[[horizontal, vertical]].values.tolist()
        )
        assert all((ax.get_xlabel(), ax.get_ylabel()))
    low, high = axes[0].get_ylim()
    assert low > high  # rows run downwards, the nose is up
    histograms = draw.false_positive_histograms(axes_of(1, 3), errors, SHAPE)
    assert [sum(patch.get_height() for patch in ax.patches) for ax in histograms] == [len(false)] * 3


def test_planes_without_false_positives_stay_empty():
    errors = error_table(np.zeros(SHAPE), np.zeros(SHAPE), spacing_mm=(1, 1, 1))
    draw.false_positive_positions(axes_of(1, 3), errors, SHAPE)
    draw.false_positive_histograms(axes_of(1, 3), errors, SHAPE)


def test_the_froc_curve_shows_its_band_and_average():
    points = points_of(DRAWN)
    ax = draw.froc_curve(axes_of(), froc(points, draws=20), froc_average(points, draws=20), label="D")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["D", "average 43 %"]
    assert len(ax.collections) == 1
    assert ax.get_xscale() == "log"


def test_the_reliability_diagram_counts_its_bins():
    pooled = pool(reliability([0.05, 0.06, 0.95], [False, True, True]))
    axes = draw.reliability_diagram(axes_of(2, 1), pooled, error=0.5)
    assert axes[0].lines[1].get_ydata().tolist() == [0.5, 1]
    assert [bar.get_height() for bar in axes[1].patches] == pooled["count"].tolist()
    assert "ECE 0.5" in axes[0].get_title()


def test_dice_of_lesions_stands_beside_that_of_scans(pair):
    found, rows = detect(*pair), sweep(*pair, (0.5,), (0,)).assign(scan_id="s")
    axes = draw.dice_of_lesions(axes_of(1, 2), found.truth, rows)
    assert [len(points.get_offsets()) for points in axes[0].collections] == [2, 1]
    assert axes[1].patches[0].get_width() == found.dice


def test_scans_with_and_without_lesions_stand_apart(pair):
    rows = pd.concat([sweep(*pair, (0.5,), (0,)), sweep(pair[0], np.zeros(SHAPE), (0.5,), (0,))])
    ax = draw.false_positives_of_scans(axes_of(), rows)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1], [3]]
    draw.false_positives_of_scans(axes_of(), rows[:1])


def test_rules_stand_side_by_side(pair):
    table = intervals(rule_table(*pair).assign(patient_id="p"), by="rule", draws=10)
    axes = draw.rule_bars(axes_of(1, 3), table)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == table.rule.tolist()
    assert axes[0].lines[0].get_xdata().tolist() == (100 * table.recall).tolist()


def test_a_drawn_case_has_a_cross_a_component(pair):
    truth, predicted = (components(array[[6]] > 0.5)[0] for array in pair[::-1])
    ax = draw.drawn_case(axes_of(), truth, predicted, title="case", dilated=truth > 0)
    assert len(ax.lines) == truth.max() + predicted.max()
    assert ax.get_title() == "case"


def test_differences_show_an_interval_a_network():
    tables = pd.concat([cohort(5).assign(network=name) for name in "AB"])
    result = compare_all(tables, "A", rate="fp_per_scan", draws=10)
    ax = draw.differences(axes_of(), result, rate="false positives a scan", unit="")
    assert ax.get_xlabel() == "difference in false positives a scan"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B"]
