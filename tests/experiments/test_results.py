"""Measured, recorded and published results stand in one table, with intervals by patients."""

import numpy as np
import pandas as pd
import pytest

from kit.experiments import (
    EXPERIMENTS,
    Record,
    RunError,
    changes,
    compare_recorded,
    comparison_table,
    comparisons,
    format_scores,
    found_by,
    outline_changes,
    published_row,
    published_sampled,
    read_record,
    record_table,
    sweep_at,
    whole_scan_changes,
    whole_scan_table,
)
from kit.experiments.results.recorded import TEST_DRAWS
from kit.metrics import compare


def sweep_of(tp, fn, fp, threshold=(0.5, 0.9)):
    """Sweep rows of scans of as many patients, the same at both thresholds but for a false positive less."""
    rows = [
        {"scan_id": f"s{k}", "patient_id": f"p{k}", "threshold": t, "min_volume_mm3": 0, "tp": a, "fn": b,
         "fp": c - (t > 0.5), "dice": 0.5 + 0.1 * k, "dice_healthy": 0.99, "slices": 160}
        for k, (a, b, c) in enumerate(zip(tp, fn, fp, strict=True))
        for t in threshold
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def record(tmp_path):
    """Two experiments on three patients, read back from files."""
    sweeps = {"A": sweep_of([1, 0, 3], [1, 2, 0], [5, 6, 7]), "B": sweep_of([2, 1, 3], [0, 1, 0], [4, 5, 6])}
    own = {"labels": "clean", "seed": 7}
    runs = [{"experiment": name, **own, "patches_worth": 9000} for name in sweeps]
    sampled = pd.concat(sweep.assign(experiment=name, **own) for name, sweep in sweeps.items())
    tables = {
        "runs": pd.DataFrame(runs),
        "histories": pd.DataFrame([{"experiment": "A", **own, "epoch": 1}]),
        "sweeps": sampled,
        "points": sampled,
        "lesions": pd.DataFrame([{"experiment": "A", **own, "found": True}]),
        "sampled": sampled,
        "borders": pd.DataFrame([{"experiment": "A", **own, "distance_mm": 1}]),
    }
    for name, part in tables.items():
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    return read_record(tmp_path)


def test_an_experiment_stands_beside_its_record_and_what_was_published(record):
    table = comparison_table("A", sweep_of([1], [0], [3]), 500, record)
    assert table.index.tolist() == ["measured here", "saved trainings", "published"]
    assert table.patches_worth.tolist() == [500, 9000, 40e6]
    assert table.recall.tolist() == pytest.approx([1, 4 / 7, 0.898])
    assert table.precision.tolist() == pytest.approx([1 / 4, 4 / 22, 0.517])
    assert table.lesions.tolist() == [1, 7, 122]
    assert table.loc["saved trainings", "dice"] == pytest.approx(0.6)
    assert table.loc["saved trainings", "recall_low"] < 4 / 7 < table.loc["saved trainings", "recall_high"]


def test_without_a_record_measured_and_published_stand_alone():
    assert not read_record("")
    table = comparison_table("FCN", sweep_of([1], [0], [3]), 500, read_record(""))
    assert table.index.tolist() == ["measured here", "published"]
    assert table.loc["published", "precision"] == 0.0023


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_published_row(name):
    row = published_row(name).iloc[0]
    if name != "FCN":
        assert row.recall == published_sampled().loc[name, "recall"]
        assert row.patches_worth == (220e6 if name[0] in "GH" else 40e6)
    assert row.lesions == 122


def test_a_record_is_one_row_an_experiment(record):
    table = record_table(record)
    assert table.index.tolist() == ["A", "B"]
    assert table.recall.tolist() == pytest.approx([4 / 7, 6 / 7])
    assert record_table(record, threshold=0.9).precision.tolist() == pytest.approx([4 / 19, 6 / 18])


def test_changes_of_scores_are_the_paired_comparison_of_two_experiments(record):
    wanted = compare(*(sweep_at(record.of(name).sampled) for name in "AB"), trainings="seed", draws=TEST_DRAWS)
    found = compare_recorded(record, "A", "B")
    assert found.index.tolist() == ["recall", "precision", "dice", "dice_healthy"]
    pd.testing.assert_frame_equal(found, wanted.loc[found.index])
    assert found.loc["recall", "difference"] == pytest.approx(2 / 7)


def test_formatted_rates_have_their_intervals_and_a_rate_that_does_not_exist_a_dash(record):
    text = format_scores(comparison_table("A", sweep_of([0], [0], [0]), 500, record))
    assert text.loc["measured here", "recall %"] == "–"
    assert text.loc["published", "recall %"] == "89.8"
    assert text.loc["saved trainings", "recall %"].startswith("57.1 (")
    assert text.loc["saved trainings", "patches worth"] == "9,000"


def test_changes_stand_beside_the_published_ones_and_pairs_that_are_not_on_record_are_left_out(record):
    found = changes(record, [("A", "B"), ("A", "C"), ("A", "B")])
    assert found.index.get_level_values("change").unique().tolist() == ["A → B"]
    assert found.loc["A → B"].drop(columns=["published", "corrected"]).equals(compare_recorded(record, "A", "B"))
    assert found.published.round(3).tolist() == [0.017, -0.039, -0.031, 0.001]
    assert changes(read_record(""), [("A", "B")]).empty


def test_what_is_not_on_record_is_refused_by_its_name(record):
    with pytest.raises(RunError, match="C with clean labels is not recorded"):
        compare_recorded(record, "A", "C")
    with pytest.raises(RunError, match="nothing with faulty labels is recorded"):
        record_table(record, labels="faulty")


def test_a_record_that_lacks_a_table_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(RunError, match=r"runs\.csv is missing; make a record by"):
        read_record(tmp_path)


def test_a_part_of_a_record_holds_one_experiment_and_kind_of_labels(record):
    part = record.of("B")
    assert isinstance(part, Record)
    assert set(part.sweeps.experiment) == {"B"}
    assert not record.of("B", "faulty")
    assert np.isfinite(part.sweeps.tp).all()


def test_changes_are_steps_with_what_the_thesis_published_of_them(record):
    found = changes(record, [("A", "B"), ("A", "B"), ("B", "C"), ("", "A")])
    assert found.index.unique("change").tolist() == ["A → B"]  # C is not recorded
    pd.testing.assert_frame_equal(
        found.loc["A → B"].drop(columns=["published", "corrected"]), compare_recorded(record, "A", "B")
    )
    printed = published_sampled()
    assert found.published["A → B", "recall"] == pytest.approx(printed.recall["B"] - printed.recall["A"])


def test_recall_found_by_chance_stands_beside_the_recall_of_the_record(record):
    moved = record.sampled.assign(placed=4, hits=1)
    table = record_table(Record(**{**vars(record), "sampled": moved}))
    assert table.chance.tolist() == [0.25, 0.25]
    assert format_scores(table)["by chance %"].tolist() == ["25.0", "25.0"]
    assert "by chance %" not in format_scores(record_table(record))


def test_scans_and_lesions_of_several_trainings_are_counted_once(record):
    both = pd.concat([record.sampled, record.sampled.assign(seed=8, tp=0, fn=record.sampled.tp + record.sampled.fn)])
    once, twice = record_table(record), record_table(Record(**{**vars(record), "sampled": both}))
    assert twice[["scans", "lesions"]].equals(once[["scans", "lesions"]])
    assert twice.recall.tolist() == pytest.approx((once.recall / 2).tolist())


@pytest.fixture
def twice(record):
    """The record with two trainings of each experiment, the second with more false positives."""
    points = record.sampled[["experiment", "labels", "seed", "scan_id", "patient_id", "threshold", "tp", "fn", "fp"]]
    points = pd.concat([points, points.assign(seed=8, fp=points.fp + 1)])
    fates = [("A", 7, 8, 6, True, 0.5), ("A", 7, 8, 4, False, 0), ("A", 8, 8, 6, False, 0), ("A", 8, 8, 4, False, 0),
             ("B", 7, 8, 6, True, 0.9), ("B", 7, 8, 4, True, 0.7), ("B", 7, np.nan, 6, False, 0)]  # fmt: skip
    lesions = pd.DataFrame(fates, columns=["experiment", "seed", "fp_per_scan", "diameter_mm", "found", "dice"])
    lesions = lesions.assign(labels="clean", scan_id="s0", component=(lesions.diameter_mm == 6) + 1, threshold=0.5)
    lesions = lesions.assign(volume_mm3=lesions.diameter_mm**3, size_mm=lesions.diameter_mm)
    return Record(**{**vars(record), "points": points, "lesions": lesions})


def test_recall_on_whole_scans_is_that_of_each_training_at_so_many_false_positives(twice):
    table = whole_scan_table(twice, rates=(8, 5))
    assert table.recall["A"].round(4).tolist() == pytest.approx([4 / 7, 2 / 7, 3 / 7], abs=1e-4)  # 5 or 6 a scan
    assert table.trainings.eq(2).all()
    found = whole_scan_changes(twice, [("A", "B"), ("A", "C")], (8, 5))
    assert found.index.tolist() == [("A → B", 8), ("A → B", 5)]
    assert found.difference["A → B", 8] == pytest.approx(2 / 7)
    assert (found.corrected >= found.p).all()
    assert found.patients.eq(twice.points.patient_id.nunique()).all()
    assert whole_scan_changes(twice, [("A", "C")]).empty
    assert whole_scan_changes(read_record(""), [("A", "B")]).empty


def test_a_comparison_is_corrected_for_all_that_the_record_allows_however_few_are_asked_for(twice):
    third = {name: table[table.experiment == "B"].assign(experiment="C") for name, table in vars(twice).items()}
    record = Record(**{name: pd.concat([table, third[name]]) for name, table in vars(twice).items()})
    assert comparisons(record) == [("A", "B"), ("B", "C")]
    every = whole_scan_changes(record, rates=(8, 5))
    assert len(every) == 4
    pd.testing.assert_frame_equal(whole_scan_changes(record, [("A", "B")], (8, 5)), every.loc[["A → B"]])
    assert (every.corrected["A → B"] > whole_scan_changes(twice, [("A", "B")], (8, 5)).corrected["A → B"]).any()


def test_networks_that_mapped_different_scans_are_compared_on_those_that_both_mapped(twice):
    few = twice.points.patient_id.unique()[:2]
    points = twice.points[(twice.points.experiment == "A") | twice.points.patient_id.isin(few)]
    uneven = Record(**{**vars(twice), "points": points})
    found, alike = (
        whole_scan_changes(one, [("A", "B")], (8, 5))
        for one in (uneven, Record(**{**vars(twice), "points": points[points.patient_id.isin(few)]}))
    )
    assert found.patients.eq(2).all()
    pd.testing.assert_frame_equal(found, alike)
    assert whole_scan_table(uneven, rates=(8,)).scans["B"].eq("2").all()


def test_each_lesion_is_found_by_a_share_of_the_trainings(twice):
    shares = found_by(twice)
    assert shares.columns.tolist() == ["volume_mm3", "diameter_mm", "size_mm", "A", "B"]
    assert shares[["diameter_mm", "A", "B"]].values.tolist() == [[4, 0, 1], [6, 0.5, 1]]


def test_outlines_are_compared_on_the_lesions_that_both_find(twice):
    rng, rows = np.random.default_rng(1), []
    for number in range(40):
        for name, seed, gain in (("A", 7, 0), ("A", 8, 0.02), ("B", 7, 0.2)):
            rows.append({"experiment": name, "seed": seed, "patient_id": f"p{number // 4}", "component": number % 4,
                         "found": (number + seed) % 5 > 0, "dice": rng.uniform(0.4, 0.6) + gain})  # fmt: skip
    lesions = pd.DataFrame(rows).assign(labels="clean", scan_id=lambda rows: rows.patient_id, fp_per_scan=8)
    record = Record(**{**vars(twice), "lesions": lesions})
    table = outline_changes(record, [("A", "B"), ("A", "C")], (8, 2))
    assert table.index.tolist() == [("A → B", 8)]
    row = table.loc["A → B", 8]
    found = lesions[lesions.found].pivot_table(index=["patient_id", "component"], columns="experiment", values="dice")
    both = found.dropna()  # the slow twin: a draw of patients at a time
    means = both.groupby("patient_id").apply(lambda part: (part.B - part.A).to_numpy())
    drawn = [np.concatenate([means.iloc[k] for k in rng.integers(0, 10, 10)]).mean() for _ in range(2000)]
    assert (row.lesions, row.patients) == (len(both), 10)
    assert row.difference == pytest.approx((both.B - both.A).mean())
    assert [row.low, row.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert row.p == row.corrected < 0.01
    assert outline_changes(record, [("A", "C")]).empty


def test_without_a_record_there_are_no_changes():
    assert changes(read_record(""), [("A", "B")]).empty
