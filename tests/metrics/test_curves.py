"""FROC, its average and AP against counting by hand, against scikit-like sums, and against picai_eval's own figures."""

import json

import numpy as np
import pandas as pd
import pytest
from small_maps import DRAWN, picai_hits, picai_pair, points_of, random_pair

from kit.metrics import (
    FP_PER_SCAN,
    auroc,
    average_precision,
    detect,
    froc,
    froc_average,
    operating_points,
    patient_weights,
)

SPACING = (2.4, 0.9, 1.3)


def test_the_curve_of_drawn_points():
    curve = froc(points_of(DRAWN))
    assert curve.threshold.tolist() == [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3]
    assert curve.tp.tolist() == [0, 1, 1, 2, 3, 3, 3]
    assert (curve.fp_per_scan * 3).tolist() == [1, 1, 2, 2, 5, 9, 17]
    assert curve.recall.tolist() == [0, 0.25, 0.25, 0.5, 0.75, 0.75, 0.75]


def test_the_average_takes_the_best_recall_that_each_number_allows():
    table = froc_average(points_of(DRAWN), draws=10)
    # at most 3/8, 3/4, 3/2, 3, 6, 12, 24 false positives in three scans
    assert table.recall.tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.75, 0.75, 0.75, 3 / 7])
    assert table.index.tolist() == [*FP_PER_SCAN, "average"]


def test_average_precision_of_drawn_points():
    expected = 0.25 * (1 / 2) + 0.25 * (2 / 4) + 0.25 * (3 / 8)
    assert average_precision(points_of(DRAWN), draws=10).value.item() == pytest.approx(expected)


def test_recall_that_falls_with_the_threshold_counts_nothing():
    points = points_of(["a1: 0.9 1 1 0, 0.5 0 2 2, 0.4 2 0 2"])
    assert average_precision(points, draws=10).value.item() == pytest.approx(0.5 + 0.5 * 0.5)


def test_the_curve_of_maps_is_their_detection_at_every_threshold():
    pairs = [random_pair(seed) for seed in range(4)] + [(random_pair(9)[0], np.zeros((5, 12, 11), bool))]
    tables = [
        operating_points(*pair, spacing_mm=SPACING).assign(scan_id=f"s{i}", patient_id=f"p{i // 2}")
        for i, pair in enumerate(pairs)
    ]
    curve = froc(pd.concat(tables))
    for row in curve.itertuples():
        found = [detect(*pair, row.threshold, spacing_mm=SPACING) for pair in pairs]
        assert row.tp == sum(one.tp for one in found)
        assert row.fp == sum(one.fp for one in found)
        assert row.fp_per_scan == row.fp / 5  # the scan without lesions counts


@pytest.mark.parametrize("statistic", ["average", "ap"])
def test_intervals_agree_with_drawing_the_points_themselves(statistic):
    points, draws = points_of(DRAWN), 40
    patients = [rows for _, rows in points.groupby("patient_id", sort=False)]
    values = []
    for counts in patient_weights(3, draws, 5).astype(int):
        drawn = [patients[i].assign(scan_id=f"{i}-{k}") for i, n in enumerate(counts) for k in range(n)]
        drawn = pd.concat(drawn)
        if statistic == "ap":
            values.append(average_precision(drawn, draws=2).value.item())
        else:
            values.append(froc_average(drawn, draws=2).recall["average"])
    ours = (
        average_precision(points, draws=draws, seed=5)
        if statistic == "ap"
        else froc_average(points, draws=draws, seed=5)
    )
    expected = np.nanquantile(values, [0.025, 0.975])
    assert ours.iloc[-1][["low", "high"]].tolist() == pytest.approx(expected.tolist())


def test_a_cohort_without_lesions_has_no_recall_but_false_positives():
    points = points_of(["a1: 0.9 0 0 1", "b1: 0.8 0 0 3"])
    curve = froc(points, draws=10)
    assert curve.recall.isna().all()
    assert curve.fp_per_scan.tolist() == [0.5, 2]
    assert froc_average(points, draws=10).recall.isna().all()
    assert average_precision(points, draws=10).value.isna().all()


def test_a_threshold_twice_is_refused():
    with pytest.raises(ValueError, match="threshold twice"):
        froc(pd.concat([points_of(DRAWN)] * 2))


def test_auroc_is_one_for_perfect_scores_and_half_for_none():
    assert auroc([3, 2, 1], [True, True, False]) == 1
    assert auroc([1, 1, 1], [True, False, False]) == 0.5
    assert np.isnan(auroc([1, 2], [True, True]))


def test_auroc_ap_and_froc_are_those_of_picai_eval(shared_data):
    """Ten maps with ten lesions: AUROC .75, AP .2777777777777778, FROC 0 at .1 and .5 at .4 false positives a scan.

    Origin: github.com/DIAGNijmegen/picai_eval 1.4, tests/output-expected/metrics-full-expected.json.
    """
    folder = shared_data / "metrics" / "picai_eval"
    expected = json.loads((folder / "output-expected" / "metrics-full-expected.json").read_text())
    names = list(expected["lesion_results"])
    points = pd.concat([picai_points(picai_hits(folder, name)).assign(scan_id=name, patient_id=name) for name in names])
    curve = froc(points)
    assert (
        average_precision(points, draws=2).value.item()
        == pytest.approx(expected["AP"])
        == pytest.approx(0.2777777777777778)
    )
    assert curve.recall.tolist() == expected["lesion_TPR"][:2] == [0, 0.5]
    assert curve.fp_per_scan.tolist() == pytest.approx(expected["lesion_FPR"][:2])
    pairs = [picai_pair(folder, name) for name in names]
    assert auroc([p.max() for p, _ in pairs], [t.any() for _, t in pairs]) == expected["auroc"] == 0.75


def picai_points(hits):
    """Counts of one case from (is lesion, confidence, IoU) rows: picai_eval matches once and then sweeps confidence."""
    rows = [
        {
            "threshold": threshold,
            "tp": sum(is_lesion and confidence >= threshold for is_lesion, confidence, _ in hits),
            "fn": sum(is_lesion and confidence < threshold for is_lesion, confidence, _ in hits),
            "fp": sum(not is_lesion and confidence >= threshold for is_lesion, confidence, _ in hits),
        }
        for threshold in (2.0, 1.0)
    ]
    return pd.DataFrame(rows)
