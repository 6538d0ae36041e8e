"""Rates against the rows as they stand, the bootstrap against the slow one, and the exchange test against counting."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from small_maps import cohort

from kit.metrics import (
    RATES,
    compare,
    correct,
    detect,
    intervals,
    patient_weights,
    quantiles,
    summarise,
    sweep,
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


# intervals and comparisons ------------------------------------------------------------------------------------------


def rate_by_rows(table, rate):
    """Slow twin: a rate from the rows as they stand."""
    lesions = table.tp + table.fn
    return {
        "recall": table.tp.sum() / max(lesions.sum(), 1),
        "precision": table.tp.sum() / max((table.tp + table.fp).sum(), 1),
        "fp_per_scan": table.fp.mean(),
        "fp_per_slice": table.fp.sum() / table.slices.sum(),
        "dice": table.dice[lesions > 0].mean(),
        "dice_healthy": table.dice_healthy.mean(),
        "lesion_dice": (table.lesion_dice * lesions).sum() / max(lesions.sum(), 1),
    }[rate]


@pytest.mark.parametrize("rate", RATES)
def test_intervals_agree_with_drawing_the_rows_themselves(rate):
    table, draws = cohort(12), 60
    row = intervals(table, draws=draws, seed=3).iloc[0]
    patients = [rows for _, rows in table.groupby("patient_id")]
    values = []
    for counts in patient_weights(12, draws, 3).astype(int):
        values.append(
            rate_by_rows(pd.concat([rows for rows, n in zip(patients, counts, strict=True) for _ in range(n)]), rate)
        )
    assert row[rate] == pytest.approx(rate_by_rows(table, rate))
    assert (row[f"{rate}_low"], row[f"{rate}_high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_intervals_have_the_values_of_summarise_for_every_group():
    table = cohort(9, thresholds=(0.3, 0.5, 0.9))
    ours, theirs = intervals(table, draws=20), summarise(table)
    for name in ("threshold", "scans", "tp", "fn", "fp", "recall", "precision", "fp_per_scan", "fp_per_slice", "dice"):
        np.testing.assert_allclose(ours[name], theirs[name])


def test_networks_on_the_same_patients_share_their_draws():
    table = pd.concat([cohort(8).assign(network=name) for name in "AB"])
    both = intervals(table, by=["network"], draws=50)
    assert both.drop(columns="network").drop_duplicates().shape[0] == 1


def test_a_rate_without_denominator_is_nan_and_a_table_without_dice_has_no_dice():
    table = pd.DataFrame({"patient_id": [1, 2], "tp": 0, "fn": 0, "fp": [3, 5], "threshold": 0.5})
    row = intervals(table, by=["threshold"], draws=20).iloc[0]
    assert np.isnan([row.recall, row.recall_low, row.recall_high]).all()
    assert (row.precision, row.fp_per_scan) == (0, 4)
    assert "dice" not in row
    with pytest.raises(ValueError, match="no column threshold"):
        intervals(table.drop(columns="threshold"))


def test_an_interval_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    tp = rng.integers(0, 2, 300)
    table = pd.DataFrame({"patient_id": range(300), "tp": tp, "fn": 1 - tp, "fp": 0, "threshold": 0.5})
    row = intervals(table, by=["threshold"]).iloc[0]
    reach = 1.96 * np.sqrt(row.recall * (1 - row.recall) / 300)
    assert (row.recall_low, row.recall_high) == pytest.approx((row.recall - reach, row.recall + reach), abs=0.01)


def test_quantiles_leave_out_nan_and_agree_with_numpy():
    values = np.random.default_rng(1).random((101, 3, 2))
    values[::3, 1, 0], values[:, 2, 1] = np.nan, np.nan
    expected = [[np.nanquantile(values[:, i, j], [0.05, 0.95]) for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(quantiles(values, 0.9)[:, :2], np.moveaxis(expected, -1, 0))
    assert np.isnan(quantiles(values, 0.9)[:, 2, 1]).all()


def test_the_difference_of_two_networks_is_that_of_their_rates():
    a, b = cohort(10, seed=1), cohort(10, seed=1).assign(fp=lambda t: t.fp + 2)
    result = compare(a, b.sample(frac=1, random_state=2))  # in whatever order the rows come
    for rate in RATES:
        assert result.a[rate] == pytest.approx(rate_by_rows(a, rate))
        assert result.b[rate] == pytest.approx(rate_by_rows(b, rate))
    assert result.difference.fp_per_scan == pytest.approx(2)
    assert (result.low.fp_per_scan, result.high.fp_per_scan) == pytest.approx((2, 2))
    assert result.difference.recall == 0
    assert result.p.recall == 1


def test_the_p_value_counts_all_exchanges_of_few_patients():
    a = cohort(6, seed=4)
    b = cohort(6, seed=4).assign(fp=lambda t: np.random.default_rng(1).poisson(6, len(t)))
    sums = [table.groupby("patient_id").fp.sum().to_numpy() for table in (a, b)]
    observed = abs(sums[1].sum() - sums[0].sum())
    differences = [
        abs(sum(s * (y - x) for s, x, y in zip(signs, *sums, strict=True))) for signs in product((1, -1), repeat=6)
    ]
    expected = np.mean([difference >= observed for difference in differences])
    assert compare(a, b).p.fp_per_scan == pytest.approx(expected)


def test_drawn_exchanges_come_near_to_all_of_them():
    a, b = cohort(12, seed=5), cohort(12, seed=5).assign(fp=lambda t: np.random.default_rng(2).poisson(5, len(t)))
    every, drawn = (compare(a, b, permutations=number).p for number in (5000, 4000))  # 2^12 = 4096
    assert every.fp_per_scan == pytest.approx(drawn.fp_per_scan, abs=0.03)
    assert every.precision == pytest.approx(drawn.precision, abs=0.03)


def test_p_values_of_networks_that_do_not_differ_are_spread_evenly():
    p = [compare(cohort(7, seed=s), _other_fp(cohort(7, seed=s), s), draws=2).p.fp_per_scan for s in range(120)]
    assert np.mean(np.array(p) <= 0.25) == pytest.approx(0.25, abs=0.12)


def _other_fp(table, seed):
    return table.assign(fp=np.random.default_rng(10_000 + seed).poisson(4, len(table)))


def test_the_smallest_p_of_five_patients_is_two_in_thirty_two():
    table = pd.DataFrame({"scan_id": range(5), "patient_id": range(5), "tp": 1, "fn": 0, "fp": range(5)})
    assert compare(table, table.assign(fp=table.fp + 3)).p.fp_per_scan == 2 / 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[1:], "only one of the two has '0-0'"),
        (lambda b: pd.concat([b, b[:1]]), "'0-0' comes twice"),
        (lambda b: b.assign(patient_id=b.patient_id + 1), "another patient_id"),
    ],
)
def test_tables_that_are_not_paired_are_refused(change, message):
    table = cohort(4, seed=7)
    with pytest.raises(ValueError, match=message):
        compare(table, change(table))


def trained(effects, seed=0, patients=40):
    """Scans of as many trainings as there are `effects`; the recall of each is 0.5 and its effect."""
    rng, parts = np.random.default_rng(seed), []
    for training, effect in enumerate(effects):
        tp = rng.binomial(10, 0.5 + effect, patients)
        scans = {"scan_id": range(patients), "patient_id": range(patients), "tp": tp, "fn": 10 - tp, "fp": 1}
        parts.append(pd.DataFrame(scans).assign(training_seed=training, threshold=0.5))
    return pd.concat(parts, ignore_index=True)


def test_intervals_over_trainings_agree_with_drawing_the_rows_themselves():
    table, draws = trained([-0.3, 0, 0.2], patients=7), 80
    row = intervals(table, ["threshold"], trainings="training_seed", draws=draws, seed=3).iloc[0]
    patients, trainings = patient_weights(7, draws, 3), patient_weights(3, draws, (3, 1))
    values = []
    for some, drawn in zip(patients, trainings, strict=True):
        times = table.patient_id.map(dict(enumerate(some))) * table.training_seed.map(dict(enumerate(drawn)))
        rows = table.loc[table.index.repeat(times.astype(int))]
        values.append(rate_by_rows(rows.assign(slices=1, dice=0, dice_healthy=0, lesion_dice=0), "recall"))
    assert (row.patients, row.trainings, row.scans) == (7, 3, 21)
    assert (row.recall_low, row.recall_high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_trainings_that_differ_widen_the_interval_and_one_training_changes_nothing():
    wide, narrow = (
        intervals(trained([-0.3, 0, 0.3]), ["threshold"], trainings=name).iloc[0] for name in ("training_seed", None)
    )
    assert wide.recall == narrow.recall
    assert wide.recall_high - wide.recall_low > 3 * (narrow.recall_high - narrow.recall_low)
    one, none = (intervals(trained([0]), ["threshold"], trainings=name).iloc[0] for name in ("training_seed", None))
    assert (one.recall_low, one.recall_high) == (none.recall_low, none.recall_high)


def test_a_training_that_was_tested_on_fewer_scans_counts_for_those():
    table = trained([0, 0.4], patients=20)
    table = table[(table.training_seed == 0) | (table.patient_id < 5)]
    row = intervals(table, ["threshold"], trainings="training_seed").iloc[0]
    assert (row.patients, row.scans) == (20, 25)
    assert row.recall == table.tp.sum() / (10 * 25)


def test_trainings_that_are_compared_have_the_same_scans():
    table = trained([0, 0.1], patients=6)
    fewer = table[(table.training_seed == 0) | (table.patient_id != 3)]
    for sides in ((table, fewer), (fewer, fewer)):
        with pytest.raises(ValueError, match="training_seed 1 lacks scan 3: compare trainings on the same scans"):
            compare(*sides, trainings="training_seed")


def test_networks_differ_only_by_more_than_their_trainings_do():
    options = {"trainings": "training_seed"}
    clear = compare(trained([0, 0.01, -0.01]), trained([0.2, 0.21, 0.19], seed=1), **options).loc["recall"]
    unclear = compare(trained([-0.2, 0, 0.2]), trained([-0.1, 0.1, 0.3], seed=1), **options).loc["recall"]
    assert clear.p < 0.005
    assert clear.low > 0
    assert clear.patients == 40
    assert unclear.p > 0.2
    assert unclear.low < 0 < unclear.high
    assert compare(*(trained([x], seed=s) for s, x in enumerate((-0.1, 0.1)))).loc["recall"].p < 0.05  # patients alone


def test_holm_raises_each_p_by_the_tests_that_are_left():
    p = [0.03, 0.001, np.nan, 0.8, 0.02]
    np.testing.assert_allclose(correct(p), [0.06, 0.004, np.nan, 0.8, 0.06])
    np.testing.assert_allclose(correct([0.9, 0.6]), [1, 1])
    assert len(correct([])) == 0
