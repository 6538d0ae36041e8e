"""FROC, its average and AP against counting by hand, against scikit-like sums, and against picai_eval's own figures."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from small_maps import DRAWN, picai_hits, picai_pair, points_of, random_pair

from kit.metrics import (
    FP_PER_SCAN,
    auroc,
    average_precision,
    compare_froc,
    detect,
    expected_calibration_error,
    froc,
    froc_average,
    operating_points,
    patient_weights,
    pool,
    recall_by_size,
    recall_curve,
    reliability,
    wilson_interval,
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


def trained_twice():
    """Two trainings that saw the drawn scans, the second a little worse."""
    points = points_of(DRAWN)
    return pd.concat([points.assign(seed=1), points.assign(seed=2, fp=points.fp + 1)])


def test_recall_of_two_trainings_is_the_mean_of_their_curves_each_at_its_own_threshold():
    points = trained_twice()
    each = [froc_average(part, draws=2).recall for _, part in points.groupby("seed")]
    assert each[0].loc["average"] != each[1].loc["average"]
    both = froc_average(points, trainings="seed", draws=50)
    assert both.recall.tolist() == pytest.approx(np.mean(each, axis=0).tolist())


def average_of_draw(points, counts, times):
    """The average recall of patients taken so often and of trainings taken so often, drawn by hand."""
    curves = []
    for (_, part), n in zip(points.groupby("seed"), times, strict=True):
        patients = [rows for _, rows in part.groupby("patient_id")]
        drawn = [patients[i].assign(scan_id=f"{i}-{k}") for i, m in enumerate(counts) for k in range(m)]
        curves += n * [froc_average(pd.concat(drawn), draws=2).recall.loc["average"]]
    return np.mean(curves)


def test_intervals_over_trainings_agree_with_drawing_patients_and_trainings():
    points, draws = trained_twice(), 30
    weights, trained = patient_weights(3, draws, 5).astype(int), patient_weights(2, draws, (5, 1)).astype(int)
    values = [average_of_draw(points, *drawn) for drawn in zip(weights, trained, strict=True)]
    table = froc_average(points, trainings="seed", draws=draws, seed=5)
    assert table.loc["average", ["low", "high"]].tolist() == pytest.approx(np.nanquantile(values, [0.025, 0.975]))


def test_differences_agree_with_drawing_patients_for_both_networks_and_trainings_for_each():
    points, draws = trained_twice(), 30
    third = points[points.seed == 2].assign(seed=3, fn=lambda rows: rows.tp + rows.fn, tp=0)  # finds nothing
    better = pd.concat([points.assign(tp=points.tp + points.fn, fn=0), third])  # three trainings against two
    weights = patient_weights(3, draws, 5).astype(int)
    trained = [patient_weights(count, draws, (5, 1 + side)).astype(int) for side, count in enumerate((2, 3))]
    values = [
        average_of_draw(better, counts, theirs) - average_of_draw(points, counts, ours)
        for counts, ours, theirs in zip(weights, *trained, strict=True)
    ]
    found = compare_froc(points, better, trainings="seed", draws=draws, seed=5).loc["average"]
    assert found[["low", "high"]].tolist() == pytest.approx(np.nanquantile(values, [0.025, 0.975]))
    sides = np.count_nonzero(np.array(values) <= 1e-12), np.count_nonzero(np.array(values) >= -1e-12)
    assert found.p == pytest.approx(min(1, 2 * (min(sides) + 1) / (draws + 1)))


def test_comparisons_that_keep_draws_in_one_memo_are_those_that_draw_anew():
    points, memo = trained_twice(), {}
    better = points.assign(tp=points.tp + points.fn, fn=0)
    least = set(sorted(points.patient_id.unique())[:2])
    few = [side[side.patient_id.isin(least)] for side in (points, better)]
    for sides, rates in ((points, better), (1,)), ((better, points), (1,)), ((points, better), (8,)), (few, (1,)):
        plain, kept = (compare_froc(*sides, rates, trainings="seed", draws=50, memo=m) for m in (None, memo))
        pd.testing.assert_frame_equal(plain, kept, check_exact=True)
    assert len(memo) == 12  # four trainings at rate 1, at rate 8 and on fewer patients; the second comparison drew none


def test_a_network_compared_with_itself_differs_by_nothing_and_one_that_finds_more_by_what_it_finds():
    points = points_of(DRAWN)
    same = compare_froc(points, points, draws=50)
    assert same.difference.eq(0).all()
    assert same.p.eq(1).all()
    better = points.assign(tp=points.tp + points.fn, fn=0)
    found = compare_froc(points, better, (1, 8), draws=200)
    expected = froc_average(better, (1, 8), draws=2).recall - froc_average(points, (1, 8), draws=2).recall
    assert found.difference.tolist() == pytest.approx(expected.tolist())
    assert (found.low <= found.difference).all()
    assert (found.difference <= found.high).all()
    with pytest.raises(ValueError, match="compare them on the same patients"):
        compare_froc(points, points[points.patient_id != points.patient_id.iloc[0]])


def test_trainings_are_compared_in_pairs_on_the_patients_that_both_have():
    points = trained_twice()
    few = set(sorted(points.patient_id.unique())[:2])
    uneven = points[(points.seed == 1) | points.patient_id.isin(few)]
    better = points.assign(tp=points.tp + points.fn, fn=0)
    found = compare_froc(uneven, better, (1, 8), trainings="seed", draws=400)
    parts = [[part for _, part in side.groupby("seed")] for side in (uneven, better)]
    each = [
        compare_froc(
            *(one[one.patient_id.isin(set(a.patient_id) & set(b.patient_id))] for one in (a, b)), (1, 8), draws=2
        )
        for a in parts[0]
        for b in parts[1]
    ]
    for column in ("a", "b", "difference"):
        assert found[column].tolist() == pytest.approx(np.mean([one[column] for one in each], axis=0).tolist())
    assert (found.low <= found.difference).all()
    assert (found.difference <= found.high).all()
    apart = points[(points.seed == 1) ^ points.patient_id.isin(few)]
    with pytest.raises(ValueError, match="no patient in common"):
        compare_froc(apart, apart, trainings="seed")


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


# reliability --------------------------------------------------------------------------------------------------------


def test_bins_are_those_of_looking_at_every_voxel():
    rng = np.random.default_rng(0)
    probability, truth, mask = rng.random((3, 4, 5)), rng.random((3, 4, 5)) < 0.3, rng.random((3, 4, 5)) < 0.7
    probability[0, 0, :3] = 0, 0.5, 1
    mask[0, 0, :3] = True
    table = reliability(probability, truth, mask, bins=4)
    for row in table.itertuples():
        inside = [
            (p, t) for p, t, m in zip(probability.flat, truth.flat, mask.flat, strict=True) if m and row.from_p <= p
        ]
        inside = [(p, t) for p, t in inside if p < row.to_p or (row.to_p == 1 and p == 1)]
        assert row[3] == len(inside)
        assert row.lesion == sum(t for _, t in inside)
        assert row.total_p == pytest.approx(sum(p for p, _ in inside))
    assert table["count"].sum() == mask.sum()


def test_scans_are_added_up_before_anything_is_divided():
    first, second = reliability([0.3] * 9, [True] * 9, bins=2), reliability([0.1], [False], bins=2)
    pooled = pool(pd.concat([first, second]))
    assert pooled.fraction[0] == 0.9
    assert pooled.mean_p[0] == pytest.approx(0.28)
    assert np.isnan(pooled.fraction[1])
    assert expected_calibration_error(pd.concat([first, second])) == pytest.approx(0.62)


def test_a_truthful_detector_has_hardly_any_error_and_a_boastful_one_has():
    rng = np.random.default_rng(1)
    probability = rng.random(100_000)
    truth = rng.random(100_000) < probability
    assert expected_calibration_error(reliability(probability, truth)) < 0.01
    boast = expected_calibration_error(reliability(np.sqrt(probability), truth))
    assert boast == pytest.approx(1 / 6, abs=0.01)  # E[sqrt(p) - p]


def test_float32_values_at_an_edge_and_the_order_of_voxels_change_nothing():
    probability = np.array([0.2, 0.5, 0.75, 1], np.float32)
    truth = np.array([True, False, True, True])
    table = reliability(probability, truth, bins=4)
    pd.testing.assert_frame_equal(table, reliability(probability[::-1], truth[::-1], bins=4))
    assert table["count"].tolist() == [1, 0, 1, 2]


def test_nothing_to_look_at_has_no_error():
    assert np.isnan(expected_calibration_error(reliability(np.zeros(3), np.zeros(3), np.zeros(3))))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0.1, 0.2], [True]), "shapes"),
        (([0.1], [True], [True, False]), "shapes"),
        (([1.2], [True]), r"outside \[0, 1\]"),
        (([np.nan], [True]), "NaN"),
    ],
)
def test_what_is_no_probability_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        reliability(*given)
    with pytest.raises(ValueError, match="bins is 0"):
        reliability([0.1], [True], bins=0)


# recall over size ---------------------------------------------------------------------------------------------------


def test_the_recall_curve_counts_lesions_near_each_size():
    lesions = pd.DataFrame({"threshold": [0.5] * 4 + [0.9] * 4, "min_volume_mm3": 0, "size_mm": [1.0, 2.0, 2.1, 7] * 2})
    lesions["found"] = [False, True, False, True, False, False, False, True]
    curve = recall_curve(lesions, (1, 2, 4, 7)).set_index(["threshold", "at_mm"])
    assert curve.lesions.tolist() == [2, 3, 0, 1] * 2
    assert curve.recall[0.5].tolist()[:2] == [0.5, 1 / 3]
    assert np.isnan(curve.recall[0.5, 4])
    assert curve.recall[0.9, 7] == 1
    assert recall_curve(lesions).at_mm.unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert recall_curve(lesions[:0]).empty


def test_recall_by_size_puts_an_edge_into_the_class_above_and_loses_nobody():
    lesions = pd.DataFrame({"diameter_mm": [1, 2, 2.9, 3, 40], "found": [False, False, True, True, True]})
    classes = recall_by_size(lesions, (0, 2, 3, np.inf))
    assert classes.lesions.tolist() == [1, 2, 2]
    assert classes.found.tolist() == [0, 1, 2]
    assert classes.recall.tolist() == [0, 0.5, 1]
    assert (classes.low[1], classes.high[1]) == wilson_interval(1, 2)


def test_recall_by_size_of_an_empty_class_is_nan():
    classes = recall_by_size(pd.DataFrame({"diameter_mm": [1.0], "found": [True]}), (0, 2, 3))
    assert classes.loc[1, ["recall", "low", "high"]].isna().all()


def test_recall_by_size_reads_the_lesions_of_a_detection():
    truth = np.zeros((3, 12, 12), bool)
    truth[1, 1, 1] = truth[1, 6:10, 6:10] = True
    found = detect(truth * (np.arange(12) > 4), truth, spacing_mm=(2.0, 0.8, 1.1))
    assert found.truth.size_mm.tolist() == pytest.approx([1.207, 3.042], abs=1e-3)
    assert recall_by_size(found.truth, (0, 3, np.inf), size="size_mm").recall.tolist() == [0, 1]


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (1, 1), (105, 122), (3, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval_agrees_with_scipy(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_without_trials_is_nan():
    assert np.isnan(wilson_interval(0, 0)).all()
