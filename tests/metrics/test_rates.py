import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from kit.metrics import (
    detect,
    recall_by_size,
    recall_curve,
    summarise,
    sweep,
    wilson_interval,
    with_and_without_lesions,
)

SPACING = (2.0, 0.8, 1.1)


def two_scans():
    """Sweeps of two scans of different height, one of them without lesion."""
    rng = np.random.default_rng(5)
    truth = rng.random((6, 9, 8)) < 0.02
    lesion_free = np.zeros((4, 9, 8), bool)
    tables = [sweep(rng.random(t.shape) ** 6, t, (0.3, 0.6), (0, 3), spacing_mm=SPACING) for t in (truth, lesion_free)]
    return [table.assign(network=network) for network in "AD" for table in tables]


def test_summarise_adds_counts_first_and_divides_afterwards():
    first, second = tables = two_scans()[:2]
    pooled = summarise(pd.concat(tables))
    for i, row in pooled.iterrows():
        one, other = first.iloc[i], second.iloc[i]
        assert (row.threshold, row.min_volume_mm3, row.scans) == (one.threshold, one.min_volume_mm3, 2)
        assert row.recall == one.tp / (one.tp + one.fn)
        assert row.precision == (one.tp + other.tp) / (one.tp + other.tp + one.fp + other.fp)
        assert row.fp_per_scan == (one.fp + other.fp) / 2
        assert row.fp_per_slice == (one.fp + other.fp) / 10
        assert row.dice == one.dice  # the second scan has no lesion
        assert row.dice_healthy == pytest.approx((one.dice_healthy + other.dice_healthy) / 2)


def test_summarise_keeps_networks_apart_when_told_to():
    pooled = summarise(pd.concat(two_scans()), by=("network", "threshold", "min_volume_mm3"))
    assert pooled.network.tolist() == ["A"] * 4 + ["D"] * 4
    assert (pooled.scans == 2).all()


def test_rates_without_denominator_are_nan():
    empty = np.zeros((3, 4, 5))
    pooled = summarise(sweep(empty, empty, (0.5,), (0,))).iloc[0]
    assert np.isnan([pooled.recall, pooled.precision, pooled.dice]).all()
    assert (pooled.fp_per_scan, pooled.dice_healthy) == (0, 1)


def test_the_mean_dice_of_lesions_weighs_every_lesion_alike():
    rng = np.random.default_rng(8)
    truth = rng.random((6, 9, 8)) < 0.02
    more = truth | (rng.random(truth.shape) < 0.02)
    pairs = [(t * rng.uniform(0.1, 1, t.shape), t) for t in (truth, more, np.zeros_like(truth))]
    pooled = summarise(pd.concat([sweep(*pair, (0.5,), (0,), spacing_mm=SPACING) for pair in pairs])).iloc[0]
    lesions = pd.concat([detect(*pair, spacing_mm=SPACING).truth for pair in pairs[:2]])
    assert pooled.lesion_dice == pytest.approx(lesions.dice.mean())


def test_scans_without_lesions_are_shown_apart():
    parts = with_and_without_lesions(pd.concat(two_scans()[:2]))
    assert parts.lesions.tolist() == ["with"] * 4 + ["without"] * 4 + ["all"] * 4
    without = parts[parts.lesions == "without"]
    assert without[["recall", "dice"]].isna().all(axis=None)
    assert (without.fp_per_scan.to_numpy() == two_scans()[1].fp).all()
    assert set(with_and_without_lesions(two_scans()[1]).lesions) == {"without", "all"}


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
    found = detect(truth * (np.arange(12) > 4), truth, spacing_mm=SPACING)
    assert found.truth.size_mm.tolist() == pytest.approx([1.207, 3.042], abs=1e-3)
    assert recall_by_size(found.truth, (0, 3, np.inf), size="size_mm").recall.tolist() == [0, 1]


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (1, 1), (105, 122), (3, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval_agrees_with_scipy(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_without_trials_is_nan():
    assert np.isnan(wilson_interval(0, 0)).all()
