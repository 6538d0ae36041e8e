"""An experiment is a row of data, its run resumes, and its weights say how the scans were normalised."""

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
from small_scans import make_scan, write_cohort

from kit.experiments import (
    EXAMPLES,
    EXPERIMENTS,
    PROFILES,
    Experiment,
    RunError,
    before_and_after,
    evaluate_sampled,
    first_epoch,
    published_row,
    read_record,
    run_experiment,
    run_size,
)
from kit.metrics import partition_chance
from kit.models import NETWORKS, Detector, ModelError, weights_metadata
from kit.samplers import SCHEMES, draw
from kit.scans import load_map, load_row, load_truth, select

SMALL = {"examples": "patches", "epochs": 2, "patches_per_epoch": 64, "validation_patches": 32}
SMALL |= {"progress": False, "device": "cpu", "intensities": "scan"}  # these heads hold no brain


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    table = write_cohort(folder, (1, 2, 3))
    return table.assign(patient_id=["p", "q", "r"], session=1, split=["train", "train", "validation"])


def test_every_experiment_names_a_network_and_a_scheme():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.network in NETWORKS
        assert experiment.scheme in SCHEMES
        assert experiment.against in EXPERIMENTS or name == "A"


def test_the_experiments_are_those_of_the_thesis():
    assert [name for name in EXPERIMENTS if published_row(name).recall.notna().all()] == list(EXPERIMENTS)


def test_the_two_profiles_are_sizes_of_one_recipe():
    for examples in EXAMPLES:
        sizes = [PROFILES[profile][examples] for profile in ("quick", "full")]
        assert set(sizes[0]) == set(sizes[1]) == {"budget", "epochs", "validation_patches"}
    whole = run_size(EXPERIMENTS["D"], "full", examples="patches")
    assert (whole["epochs"], whole["patches_per_epoch"], whole["validation_patches"]) == (20, None, None)
    assert run_size(EXPERIMENTS["D"], "full")["steps_per_epoch"] * 40 == 20_000
    assert run_size(EXPERIMENTS["D"], "quick", {"budget": 0}) == run_size(EXPERIMENTS["D"], "quick")
    assert run_size(EXPERIMENTS["D"], "quick", {"dtype": "bfloat16"})["steps_per_epoch"] == 40
    assert run_size(EXPERIMENTS["D"], "quick", {"budget": 900}, examples="patches")["patches_per_epoch"] == 300


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ({"name": "G-pairs"}, "experiment is 'G-pairs' (perhaps 'G-Pairs' is meant): choose one of A, B"),
        ({"profile": "huge"}, "profile is 'huge': choose one of quick, full"),
        (
            {"intensities": "scans"},
            "intensities is 'scans' (perhaps 'scan' is meant): choose one of brain, scan, cohort",
        ),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"device": "gpu"}, "device is 'gpu': give auto, cpu, or cuda where there is a GPU"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
    ],
)
def test_an_unknown_word_is_refused_with_its_choices_before_any_work(tmp_path, word, message):
    given = {"name": "A", "table": None, "folder": tmp_path / "run"} | word
    with pytest.raises(RunError, match=re.escape(message)):
        run_experiment(**given)
    assert not (tmp_path / "run").exists()


def test_an_experiment_whose_scheme_or_network_is_unknown_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "odd", Experiment("A", "pairs"))
    with pytest.raises(RunError, match="scheme is 'pairs'"):
        run_experiment("odd", None, tmp_path / "run")
    monkeypatch.setitem(EXPERIMENTS, "odd", Experiment("Z", "balanced"))
    with pytest.raises(ModelError, match="no network 'Z'"):
        run_experiment("odd", None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains_and_gives_a_detector(table, tmp_path, name):
    size = {
        "examples": "patches",
        "budget": 48,
        "epochs": 1,
        "validation_patches": 8,
        "progress": False,
        "device": "cpu",
        "intensities": "scan",
    }
    network, statistics, history = run_experiment(name, table, tmp_path / "run", **size)
    assert 20 <= history.patches_worth[0] <= 48
    found = Detector(network, statistics)(make_scan(1)[0][:, 40:52, 40:52])
    assert found.shape == (24, 12, 12)
    assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("intensities", ["scan", "cohort"])
def test_weights_are_kept_with_what_a_detector_needs(table, tmp_path, intensities):
    network, statistics, history = run_experiment("A", table, tmp_path / "a", **SMALL | {"intensities": intensities})
    about = weights_metadata(tmp_path / "a" / "weights.safetensors")
    assert (about["network"], about["experiment"], about["patches_worth"]) == ("A", "A", "128")
    loaded = Detector.load("A", tmp_path / "a" / "weights.safetensors")
    assert loaded.statistics == statistics
    assert (statistics == "scan") == (intensities == "scan")
    for ours, theirs in zip(network.state_dict().values(), loaded.network.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(history) == 2


def test_weights_of_a_run_that_was_killed_are_normalised_as_they_were_trained(table, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    given = SMALL | {"intensities": "cohort", "epochs": 1}
    *_, statistics, _ = run_experiment("A", table, tmp_path / "a", **given)
    monkeypatch.setattr("kit.experiments.training.evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        run_experiment("A", table, tmp_path / "a", **given | {"epochs": 2})
    assert Detector.load("A", tmp_path / "a" / "weights.safetensors").statistics == statistics


def test_a_run_goes_on_with_more_epochs_as_if_never_stopped(table, tmp_path):
    run_experiment("A", table, tmp_path / "a", seed=5, **SMALL | {"epochs": 1})
    *_, resumed = run_experiment("A", table, tmp_path / "a", seed=5, **SMALL)
    *_, straight = run_experiment("A", table, tmp_path / "b", seed=5, **SMALL)
    assert resumed.drop(columns="seconds").equals(straight.drop(columns="seconds"))


def test_a_run_is_not_resumed_under_another_seed(table, tmp_path):
    run_experiment("A", table, tmp_path / "a", seed=5, **SMALL | {"epochs": 1})
    with pytest.raises(RunError, match="seed"):
        run_experiment("A", table, tmp_path / "a", seed=6, **SMALL)


def test_the_first_epoch_is_what_a_run_draws_first(table, tmp_path):
    cohort, rows = first_epoch("G-Pairs", table, tmp_path / "run", seed=3, limit=50, intensities="scan")
    assert [scan.scan_id for scan in cohort.scans] == table.scan_id[table.split == "train"].tolist()
    expected = draw(cohort, "border-pairs", 3, epoch=1, limit=50)
    pd.testing.assert_frame_equal(rows[expected.columns], expected)
    assert (rows.component[rows.label] > 0).all()
    assert (tmp_path / "cache").is_dir()


def test_a_sampled_evaluation_is_read_back_until_there_is_more_training(table, tmp_path):
    trained = run_experiment("A", table, tmp_path, **SMALL)
    test = table.assign(split=table.split.replace("validation", "test"))
    options = {"device": "cpu", "progress": False}
    found, compared, maps = evaluate_sampled("A", trained, test, tmp_path, read_record(""), **options)
    assert maps == tmp_path / "sampled_128"
    assert [path.name for path in maps.iterdir()] == found.scans.scan_id.tolist() == ["s3"]
    assert compared.index.tolist() == ["measured here", "published"]
    assert pd.read_csv(tmp_path / "sampled.csv").patches_worth[0] == 128
    written = (maps / "s3" / "map.nii.gz").stat().st_mtime_ns
    again, _, _ = evaluate_sampled("A", trained, test, tmp_path, read_record(""), **options)
    assert (maps / "s3" / "map.nii.gz").stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(again.sweep, found.sweep)


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """A finished run of A on the small cohort: its folder, and what it returned."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, run_experiment("A", table, folder, **SMALL)


def test_fine_tuning_starts_from_the_weights_at_a_tenth_of_the_rate_and_says_so(table, trained, tmp_path):
    weights = trained[0] / "weights.safetensors"
    network, _, history = run_experiment("A", table, tmp_path / "mine", weights=weights, **SMALL, learning_rate=0.0)
    for mine, theirs in zip(network.parameters(), trained[1][0].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    history = run_experiment("A", table, tmp_path / "other", weights=weights, **SMALL)[2]
    assert history.learning_rate.tolist() == [0.001, 0.001]
    assert not {"weights", str(weights)} & set((tmp_path / "other" / "parameters.json").read_text().split('"'))
    start = weights_metadata(tmp_path / "other" / "weights.safetensors")["start"]
    assert start == hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    with pytest.raises(RunError, match="start is not given, but this run was started with"):
        run_experiment("A", table, tmp_path / "other", **SMALL | {"learning_rate": 0.001})


def test_fine_tuning_refuses_weights_of_another_network_or_normalisation(table, trained, tmp_path):
    weights = trained[0] / "weights.safetensors"
    with pytest.raises(ModelError, match="holds weights of network A, not of B"):
        run_experiment("B", table, tmp_path / "run", weights=weights, **SMALL)
    with pytest.raises(RunError, match="learnt from scans normalised by 'scan'; give intensities='scan'"):
        run_experiment("A", table, tmp_path / "run", weights=weights, **SMALL | {"intensities": "brain"})
    assert not (tmp_path / "run").exists()


def test_what_fine_tuning_changed_is_measured_on_the_validation_patients(table, trained, tmp_path):
    weights = trained[0] / "weights.safetensors"
    same = before_and_after(weights, trained[1], table, tmp_path, device="cpu", progress=False)
    assert same.index.tolist() == ["recall", "chance", "precision", "dice", "dice_healthy"]
    row = next(select(table, "validation").itertuples())._asdict()
    mapped = load_map(tmp_path / "validation_start" / row["scan_id"] / "map.nii.gz", load_truth(row))
    moved = partition_chance(mapped, load_row(row), row, thresholds=(0.5,)).iloc[0]
    assert moved.placed > 0
    assert same.before["chance"] == same.after["chance"] == moved.hits / moved.placed
    assert same.difference.dropna().eq(0).all()
    assert same.patients.eq(1).all()
