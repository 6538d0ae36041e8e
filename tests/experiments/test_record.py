"""A record is made by one command, goes on where it stopped, and says where each figure comes from."""

import pytest
from small_scans import write_cohort

from kit.__main__ import main
from kit.experiments import RunError, gather, read_record, record_experiment, record_table
from kit.phantom import plan_cohort

SIZE = {"examples": "patches", "budget": 128, "epochs": 2, "validation_patches": 32, "device": "cpu", "progress": False}
SIZE |= {"intensities": "scan"}  # these heads hold no brain


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = write_cohort(tmp_path_factory.mktemp("cohort"), (1, 2, 3, 4, 5))
    return table.assign(patient_id=list("pqrst"), session=1, split=["train", "train", "validation", "test", "test"])


def test_a_run_leaves_what_the_record_is_read_from(table, tmp_path):
    row = record_experiment("A", table, tmp_path / "runs", **SIZE)
    assert (row.patches_worth, row.training_scans, row.test_scans, row.test_lesions) == (128, 2, 2, 6)
    record_experiment("A", table, tmp_path / "runs", labels="faulty", **SIZE)
    gather(tmp_path / "runs", tmp_path / "results")
    found = read_record(tmp_path / "results")
    assert found.runs[["experiment", "labels"]].values.tolist() == [["A", "clean"], ["A", "faulty"]]
    assert found.runs.hardware.str.contains("CPU").all()
    assert len(found.of("A", "faulty").histories) == 2
    assert record_table(found).loc["A", "lesions"] == 6


def test_unknown_words_are_refused_all_at_once_before_any_work(tmp_path):
    with pytest.raises(RunError, match=r"experiment is 'Z'(.|\n)*labels is 'fault' \(perhaps 'faulty' is meant\)"):
        record_experiment("Z", None, tmp_path / "runs", labels="fault", **SIZE)
    assert not (tmp_path / "runs").exists()


def test_faulty_labels_are_seen_in_training_only(table, tmp_path, monkeypatch):
    seen = {}

    def spied(name, cohort, *_, **__):
        seen["train"] = cohort
        raise KeyboardInterrupt

    monkeypatch.setattr("kit.experiments.record.run_experiment", spied)
    with pytest.raises(KeyboardInterrupt):
        record_experiment("A", table, tmp_path, labels="faulty", **SIZE)
    assert set(seen["train"].split) == {"train", "validation"}
    assert seen["train"].label.str.contains("labels-faulty").all()


def test_a_finished_run_is_read_back(table, tmp_path, monkeypatch):
    first = record_experiment("A", table, tmp_path, **SIZE)
    monkeypatch.setattr("kit.experiments.training.learn_patches", None)
    monkeypatch.setattr("kit.models.detector.probability_map", None)
    second = record_experiment("A", table, tmp_path, **SIZE)
    assert second.patches_per_second == first.patches_per_second


def test_the_command_refuses_another_cohort_in_the_same_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kit.experiments.record.make_missing", lambda table: table)
    folder = tmp_path / "cohort"
    folder.mkdir()
    plan_cohort(12, 2015, follow_ups=0).to_csv(folder / "manifest.csv", index=False)  # the same names, other heads
    assert main(["record", "--runs", str(tmp_path), "--out", str(tmp_path / "out"), "--patients", "12"]) == 2
    assert "another cohort than the 12 patients of seed 2016" in capsys.readouterr().err


def test_a_longer_run_is_evaluated_anew(table, tmp_path):
    assert record_experiment("A", table, tmp_path, **SIZE).patches_worth == 128
    longer = record_experiment("A", table, tmp_path, **SIZE | {"budget": 192, "epochs": 3})
    assert longer.patches_worth == 192
    assert sorted(path.name for path in (tmp_path / "A-clean").glob("sampled_*")) == ["sampled_128", "sampled_192"]
