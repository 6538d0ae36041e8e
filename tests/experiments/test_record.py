"""A record is made by one command, goes on where it stopped, and says where each figure comes from."""

import shutil

import numpy as np
import pandas as pd
import pytest
from small_scans import write_cohort

from kit.__main__ import main
from kit.experiments import (
    RunError,
    cut_slices,
    gather,
    read_record,
    read_slices,
    record_experiment,
    record_table,
    record_weights,
)
from kit.experiments.record import making, slices
from kit.metrics import froc
from kit.models import build, save_weights
from kit.phantom import plan_cohort
from kit.scans import load_map, load_scan

SIZE = {"examples": "patches", "budget": 128, "epochs": 2, "validation_patches": 32, "device": "cpu", "progress": False}
SIZE |= {"intensities": "scan"}  # these heads hold no brain


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = write_cohort(tmp_path_factory.mktemp("cohort"), (1, 2, 3, 4, 5))
    return table.assign(patient_id=list("pqrst"), session=1, split=["train", "train", "validation", "test", "test"])


@pytest.fixture(scope="module")
def first(table, tmp_path_factory):
    """A finished run of A: its row, and the folder of runs."""
    runs = tmp_path_factory.mktemp("record") / "runs"
    return record_experiment("A", table, runs, **SIZE), runs


@pytest.fixture
def runs(first, tmp_path):
    """A folder of runs of a test's own, with that run in it."""
    return shutil.copytree(first[1], tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no brain is found")  # these heads hold none
def test_a_run_leaves_what_the_record_is_read_from(table, first, runs, tmp_path):
    row = first[0]
    assert (row.patches_worth, row.training_scans, row.test_scans, row.test_lesions) == (128, 2, 2, 6)
    record_experiment("A", table, runs, labels="faulty", **SIZE | {"scans": 1})
    gather(runs, tmp_path / "results")
    found = read_record(tmp_path / "results")
    assert found.runs[["experiment", "labels"]].values.tolist() == [["A", "clean"], ["A", "faulty"]]
    assert found.runs.hardware.str.contains("CPU").all()
    assert len(found.of("A", "faulty").histories) == 2
    assert record_table(found).loc["A", "lesions"] == 6
    assert found.runs.seed.tolist() == [2015, 2015]
    mine = found.of("A")
    assert mine.sweeps[mine.sweeps.threshold == 0.5].scan_id.nunique() == 2
    assert mine.lesions.groupby(["threshold", "fp_per_scan"], dropna=False).size().eq(6).all()
    assert mine.sampled.placed.notna().any()  # what is found by chance
    lesions = (mine.points.tp + mine.points.fn).groupby(mine.points.scan_id)
    assert lesions.nunique().eq(1).all()
    assert lesions.first().sum() == 6
    cut_slices(runs, table, tmp_path / "results")
    shown = read_slices(tmp_path / "results")
    assert len(shown.table) == len(shown.images) == len(shown.labels) == len(shown.maps["A"]) > 0
    for at, (scan_id, place) in enumerate(shown.table[["scan_id", "slice"]].to_numpy()):
        scan = load_scan(*table.set_index("scan_id").loc[scan_id, ["image", "label"]], spacing_mm=None)
        folder = runs / "A-clean-2015" / "whole_128" / scan_id
        there = tuple(slice(length) for length in scan.label.shape[1:])
        assert np.array_equal(shown.labels[at][there], scan.label[place])
        row, column = shown.table.loc[at, ["row", "column"]]
        assert shown.labels[at][row - 2 : row + 3, column - 2 : column + 3].any() == ("mm" in shown.table.what[at])
        assert np.abs(shown.maps["A"][at][there] - load_map(folder / "map.nii.gz", scan)[place]).max() < 0.003


@pytest.mark.slow
def test_weights_are_evaluated_as_the_run_that_made_them_was(table, first, runs, tmp_path):
    weights = shutil.copy(runs / "A-clean-2015" / "weights.safetensors", tmp_path / "A.safetensors")
    row = record_weights("A (mine)", weights, table, runs, device="cpu", progress=False)
    same = ["network", "patches_worth", "test_scans", "test_lesions", "scheme", "examples", "intensities", "augment"]
    assert row[same].tolist() == first[0][same].tolist()
    assert row.training_seconds is None, "no history lies beside the weights"
    gather(runs, tmp_path / "results")
    found = read_record(tmp_path / "results")
    for name in ("points", "lesions", "sampled"):
        own, other = (getattr(found.of(run), name).iloc[:, 1:].reset_index(drop=True) for run in ("A (mine)", "A"))
        pd.testing.assert_frame_equal(own, other)
    with pytest.raises(RunError, match="'A \\(weights\\)'"):
        record_weights("A", weights, table, runs)


def test_maps_of_other_weights_or_test_scans_are_not_taken_for_those_of_the_same_name(table, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise RuntimeError("scans are mapped")

    monkeypatch.setattr(making, "score", stopped)
    for seed in (0, 1):
        about = {"network": "A", "patches_worth": "100", "voxels_learnt": "100"}
        save_weights(build("A", seed=seed), tmp_path / f"{seed}.safetensors", about)
    first, given = tmp_path / "0.safetensors", {"device": "cpu", "progress": False}
    for _ in range(2):
        with pytest.raises(RuntimeError, match="scans are mapped"):
            record_weights("mine", first, table, tmp_path / "runs", **given)
    scan = next((tmp_path / "runs").glob("*/sampled_100")) / "s"
    scan.mkdir()
    (scan / "map.nii.gz").touch()
    with pytest.raises(RunError, match=r"detector is \{'class': .*, but this run was started with"):
        record_weights("mine", tmp_path / "1.safetensors", table, tmp_path / "runs", **given)
    with pytest.raises(RunError, match=r"scan \w+ is"):
        record_weights("mine", first, table.assign(label=table.label[0]), tmp_path / "runs", **given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no brain is found")  # these heads hold none
def test_a_record_is_made_in_parts_and_what_was_there_is_kept(table, runs, tmp_path):
    out, later = tmp_path / "results", tmp_path / "later"
    gather(runs, out)
    cut_slices(runs, table, out)
    before = read_record(out), read_slices(out)
    record_experiment("B", table, later, **SIZE)
    gather(later, out)
    cut_slices(later, table, out)
    both, shown = read_record(out), read_slices(out)
    assert both.runs.experiment.tolist() == ["A", "B"]
    for name in ("runs", "histories", "sweeps", "points", "lesions", "sampled", "borders"):
        old, new = getattr(before[0].of("A"), name), getattr(both.of("A"), name)
        pd.testing.assert_frame_equal(old.reset_index(drop=True), new.reset_index(drop=True), check_dtype=False)
    assert list(shown.maps) == ["A", "B"]
    pd.testing.assert_frame_equal(shown.table, before[1].table)
    np.testing.assert_array_equal(shown.maps["A"], before[1].maps["A"])
    np.testing.assert_array_equal(shown.labels, before[1].labels)
    assert shown.maps["B"].any()
    shutil.move(later / "B-clean-2015", later / "B+more-clean-2015")
    cut_slices(later, table, out, names=["B+more"])  # a variant is shown where it is asked for
    np.testing.assert_array_equal(read_slices(out).maps["B+more"], shown.maps["B"])


def test_runs_on_other_test_scans_are_not_put_together(runs, tmp_path):
    gather(runs, tmp_path / "results")
    kept = (tmp_path / "results" / "sampled.csv").read_bytes()
    shutil.move(runs / "A-clean-2015", runs / "B-clean-2015")
    for path in (runs / "B-clean-2015").glob("*.csv"):
        part = pd.read_csv(path)
        if "experiment" in part:
            part["experiment"] = "B"
            part.assign(**({"tp": part.tp + 1} if path.stem == "sampled" else {})).to_csv(path, index=False)
    with pytest.raises(RunError, match="holds runs on other test scans"):
        gather(runs, tmp_path / "results")
    assert (tmp_path / "results" / "sampled.csv").read_bytes() == kept


def test_slices_show_lesions_all_some_and_none_find_each_of_another_scan():
    rows = [("s", 1, 9, "AD"), ("t", 1, 3, "AD"), ("s", 2, 4, "A"), ("u", 1, 5, "D"), ("v", 1, 2, ""), ("u", 2, 7, "")]
    rows += [("w", 1, 6, "AD"), ("x", 1, 6, "AD")]
    fates = [{"scan_id": scan, "component": one, "diameter_mm": mm, "found": name in by, "experiment": name,
              "dice": 0.3 if (name, scan) == ("D", "x") else 0.8}
             for scan, one, mm, by in rows for name in "AD"]  # fmt: skip
    chosen = slices._lesions_to_show(pd.DataFrame(fates), 2)
    assert [lesion[:2] for lesion in chosen] == [("s", 1), ("t", 1), ("x", 1), ("u", 1), ("u", 2), ("v", 1)]
    assert chosen[2][2] == "6.0 mm, found by 2 of 2, Dice 0.30 to 0.80"
    assert chosen[5][2] == "2.0 mm, found by 0 of 2"


def test_slices_of_no_record_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(RunError, match=r"slices\.npz is missing; `python -m kit record` writes it"):
        read_slices(tmp_path)
    with pytest.raises(RunError, match="no finished training of any experiment with clean labels and seed 2015"):
        cut_slices(tmp_path, None, tmp_path)
    with pytest.raises(RunError, match=r"no finished training of D\+longer with clean labels"):
        cut_slices(tmp_path, None, tmp_path, names=["D+longer"])


def test_unknown_words_are_refused_all_at_once_before_any_work(tmp_path):
    with pytest.raises(RunError, match=r"experiment is 'Z'(.|\n)*labels is 'fault' \(perhaps 'faulty' is meant\)"):
        record_experiment("Z", None, tmp_path / "runs", labels="fault", **SIZE)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_variant_is_named_after_its_experiment_and_fewer_whole_scans_are_mapped(table, tmp_path):
    row = record_experiment(
        "A+cohort", table, tmp_path, scans=1, **{k: v for k, v in SIZE.items() if k != "intensities"}
    )
    assert (row.experiment, row.network, row.intensities, row.test_scans) == ("A+cohort", "A", "cohort", 1)
    with pytest.raises(RunError, match=r"variant is 'chort' \(perhaps 'cohort' is meant\)"):
        record_experiment("A+chort", table, tmp_path, **SIZE)


@pytest.mark.parametrize(("name", "budget", "examples"), [("A+patches", 315, "patches"), ("A+longer", 10, "segments")])
def test_a_variants_budget_is_a_multiple_of_that_of_its_experiment(
    name, budget, examples, table, tmp_path, monkeypatch
):
    """One step costs as much as 52.5 patches, and a longer run has 5 steps for 3."""
    seen = {}

    def spied(*_, **size):
        seen.update(size)
        raise KeyboardInterrupt

    monkeypatch.setattr("kit.experiments.record.making.run_experiment", spied)
    with pytest.raises(KeyboardInterrupt):
        record_experiment(name, table, tmp_path, **SIZE | {"examples": "segments", "budget": 6})
    assert (seen["budget"], seen["examples"], "times" in seen) == (budget, examples, False)
    for size in (SIZE, {"examples": "segments"}):
        with pytest.raises(RunError, match="multiple of a number of steps"):
            record_experiment(name, table, tmp_path, **size)


def test_faulty_labels_are_seen_in_training_only(table, tmp_path, monkeypatch):
    seen = {}

    def spied(name, cohort, *_, **__):
        seen["train"] = cohort
        raise KeyboardInterrupt

    monkeypatch.setattr("kit.experiments.record.making.run_experiment", spied)
    for seed in (2015, 2016):  # each training has faults of its own
        with pytest.raises(KeyboardInterrupt):
            record_experiment("A", table, tmp_path, labels="faulty", seed=seed, **SIZE)
        assert set(seen["train"].split) == {"train", "validation"}
        assert seen["train"].label.str.contains(f"labels-faulty-{seed}").all()


def test_a_finished_run_is_read_back(table, first, runs, monkeypatch):
    monkeypatch.setattr("kit.experiments.training.learn_patches", None)
    monkeypatch.setattr("kit.models.detector.probability_map", None)
    second = record_experiment("A", table, runs, **SIZE)
    assert second.patches_per_second == first[0].patches_per_second


def test_the_command_refuses_another_cohort_in_the_same_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kit.experiments.record.making.make_missing", lambda table: table)
    folder = tmp_path / "cohort"
    folder.mkdir()
    plan_cohort(12, 2015, follow_ups=0).to_csv(folder / "manifest.csv", index=False)  # the same names, other heads
    assert main(["record", "--runs", str(tmp_path), "--out", str(tmp_path / "out"), "--patients", "12"]) == 2
    assert "another cohort than the 12 patients of seed 2016" in capsys.readouterr().err


@pytest.mark.slow
def test_a_longer_run_is_evaluated_anew(table, runs):
    longer = record_experiment("A", table, runs, **SIZE | {"budget": 192, "epochs": 3, "scans": 1})
    assert longer.patches_worth == 192
    folders = sorted(path.name for path in (runs / "A-clean-2015").glob("*_*") if path.is_dir())
    assert folders == ["sampled_128", "sampled_192", "whole_128", "whole_192"]


def test_recorded_points_are_where_counts_change_and_give_the_counts_at_every_recorded_threshold():
    rng, parts = np.random.default_rng(0), []
    for name in "st":
        thresholds = np.sort(1 / (1 + np.exp(-rng.uniform(0, 12, 40))))[::-1]
        parts.append(pd.DataFrame({
            "scan_id": name, "patient_id": name, "threshold": thresholds,
            "tp": np.minimum(rng.integers(0, 2, 40).cumsum(), 5), "fp": rng.integers(0, 2, 40).cumsum(),
        }).assign(fn=lambda rows: 5 - rows.tp))  # fmt: skip
    kept = making._at_odds(pd.concat(parts))
    assert len(kept) < 40 + 40 + 2 < 2 * len(making.ODDS)
    curve = froc(kept).set_index("threshold")
    for threshold in making.ODDS:
        at = [part[part.threshold >= threshold].iloc[-1:] for part in parts]
        found = curve[curve.index >= threshold * (1 - 1e-12)]
        row = found.loc[found.index.min()]
        wanted = sum(part.tp.sum() for part in at) / 10, sum(part.fp.sum() for part in at) / 2
        assert (row.recall, row.fp_per_scan) == pytest.approx(wanted)
