"""A run's folder gives back what was put in, refuses what does not belong to it, and never holds half a file."""

import json
import platform

import numpy as np
import pandas as pd
import pytest
import torch

from kit.experiments import RunError, open_run
from kit.experiments.runs import detector_facts, digest, own_maps, scan_facts
from kit.models import CandidateDetector, Detector, build

PARAMETERS = {"network": "D", "seed": 7, "shape": (5, 51, 51), "limit": None}


def test_the_same_parameters_return_to_the_run(tmp_path):
    first = open_run(tmp_path / "a" / "run", PARAMETERS)
    written = (first.folder / "parameters.json").read_bytes()
    again = open_run(tmp_path / "a" / "run", PARAMETERS)
    assert again == first
    assert (first.folder / "parameters.json").read_bytes() == written


def test_other_parameters_are_refused_and_each_difference_is_named(tmp_path):
    open_run(tmp_path, PARAMETERS)
    given = {"network": "D", "seed": 8, "shape": (5, 51, 51), "extra": True}
    with pytest.raises(RunError) as refused:
        open_run(tmp_path, given)
    message = str(refused.value)
    assert "seed is 8, but this run was started with 7" in message
    assert "limit is not given, but this run was started with None" in message
    assert "extra is True, but this run was started with not given" in message
    assert "network" not in message
    assert "choose another folder" in message


def test_parameters_may_be_paths_and_numpy_numbers(tmp_path):
    run = open_run(tmp_path, {"rate": np.float64(0.1), "folder": tmp_path, "count": np.int32(3)})
    assert run.parameters == {"rate": 0.1, "folder": f"…/{tmp_path.name}", "count": 3}


def test_versions_and_hardware_are_written_but_not_the_machines_name(tmp_path):
    open_run(tmp_path, PARAMETERS)
    text = (tmp_path / "parameters.json").read_text()
    content = json.loads(text)
    assert content["versions"]["torch"] == torch.__version__
    assert content["hardware"]["cpus"] > 0
    assert platform.node() not in text


def test_detectors_are_told_apart_by_their_weights_and_numbers():
    networks = build("A", seed=0), build("A", seed=0).to(memory_format=torch.channels_last), build("A", seed=1)
    first, again, other = (detector_facts(Detector(network, (3.5, 2.0))) for network in networks)
    assert first == again != other
    assert detector_facts(Detector(networks[0], "scan")) != first
    assert detector_facts(CandidateDetector("blobs")) == {
        "class": "CandidateDetector", "method": "blobs", "criteria": [], "weights": [["score", 1.0]], "offset": 0.0,
    }  # fmt: skip


def test_parameters_beside_maps_are_compared_and_those_of_a_start_without_maps_replaced(tmp_path):
    own_maps(tmp_path / "m", {"detector": "a"})
    own_maps(tmp_path / "m", {"detector": "b"})  # nothing was mapped by a
    (tmp_path / "m" / "s").mkdir()
    (tmp_path / "m" / "s" / "map.nii.gz").touch()
    own_maps(tmp_path / "m", {"detector": "b"})
    with pytest.raises(RunError, match="detector is 'a', but this run was started with 'b'"):
        own_maps(tmp_path / "m", {"detector": "a"})
    (tmp_path / "m" / "parameters.json").unlink()
    own_maps(tmp_path / "m", {"detector": "a"})  # maps of an earlier version
    assert not (tmp_path / "m" / "parameters.json").exists(), "of whose maps these are nothing is known"


def test_scans_are_told_apart_by_what_is_in_their_files_and_synthetic_images_by_their_source(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"one")
    row = {"image": str(tmp_path / "a.nii"), "label": "", "source": ""}
    first, made = digest(scan_facts(row)), digest(scan_facts(row | {"source": "phantom:7"}))
    assert digest(scan_facts(row | {"mask": "", "lesion_codes": ""})) == first
    (tmp_path / "a.nii").write_bytes(b"two")
    assert digest(scan_facts(row)) != first
    assert digest(scan_facts(row | {"source": "phantom:7"})) == made
    assert digest(scan_facts(row | {"source": "phantom:8"})) != made


def test_damaged_parameters_are_refused_with_a_remedy(tmp_path):
    (tmp_path / "parameters.json").write_text("{half")
    with pytest.raises(RunError, match=r"parameters\.json cannot be read .* Choose another folder"):
        open_run(tmp_path, PARAMETERS)


def test_a_table_comes_back_to_the_last_bit(tmp_path):
    run = open_run(tmp_path, PARAMETERS)
    loss = np.random.default_rng(0).lognormal(sigma=20, size=10_000)
    loss[1] = np.nan
    table = pd.DataFrame({"epoch": range(10_000), "loss": loss, "name": ["a", "b,c"] * 5_000})
    assert run.save_table("history", table).name == "history.csv"
    pd.testing.assert_frame_equal(run.load_table("history"), table, check_exact=True)


def test_a_missing_table_is_named_with_a_remedy(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.csv is missing"):
        open_run(tmp_path, PARAMETERS).load_table("metrics")


def test_a_checkpoint_comes_back_whole(tmp_path):
    run = open_run(tmp_path, PARAMETERS)
    assert run.load_checkpoint() is None
    tensors = {"a.weight": torch.randn(3, 4).T, "b": torch.tensor([1.5]), "half": torch.ones(2, dtype=torch.bfloat16)}
    state = {"epoch": 3, "loss": 0.1 + 0.2, "best": None, "rows": [{"x": float("nan")}]}
    run.save_checkpoint(tensors, state)
    found, back = run.load_checkpoint()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert found["half"].dtype == torch.bfloat16
    assert repr(back) == repr(state)


def test_a_damaged_checkpoint_is_refused_with_a_remedy(tmp_path):
    run = open_run(tmp_path, PARAMETERS)
    run.save_checkpoint({"a": torch.zeros(1000)}, {})
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RunError, match="Delete it to train again"):
        run.load_checkpoint()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    run = open_run(tmp_path, PARAMETERS)
    run.save_checkpoint({"a": torch.zeros(3)}, {"epoch": 1})

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint({"a": torch.ones(3)}, {"epoch": 2})
    assert run.load_checkpoint()[1] == {"epoch": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "parameters.json"]
