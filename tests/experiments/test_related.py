"""Related methods as experiments: fitted without test scans, trained for a given time, compared under one contract."""

import itertools
import shutil
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from small_scans import drawn_head, save, write_cohort

from kit.experiments import RunError, compare_methods, fit_method, measure_change, train_unet
from kit.experiments.related import (
    GivenMaps,
    chance_curve,
    claims,
    fit_candidates,
    fitting,
    lesion_changes,
    method_rows,
    recall_at,
    unet_detectors,
    unet_training,
)
from kit.experiments.related.fitting import threshold_for
from kit.experiments.related.follow_ups import known_motion, turned
from kit.metrics import PredictionError, score
from kit.models import CandidateDetector, Detector, FollowUps, ModelError, UNet, UNetDetector, build
from kit.scans import load_row, save_map

SPLITS = ["train", "train", "validation", "test"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four small scans with lesions, one of them a test scan."""
    made = write_cohort(tmp_path_factory.mktemp("related"), [1, 2, 3, 4])
    return made.assign(patient_id=list("pqrs"), session=1, split=SPLITS)


@pytest.fixture
def whole_heads(monkeypatch):
    """Small scans have no brain that could be found."""
    monkeypatch.setattr(fitting, "brain_mask", lambda image, spacing_mm: image > 0)
    monkeypatch.setattr("kit.models.related.candidates.brain_statistics", lambda image, spacing_mm: (300.0, 80.0))


# fitting


def test_fitting_never_opens_a_test_scan(table, monkeypatch, whole_heads):
    opened = []

    def load(row):
        assert row["split"] != "test"
        opened.append(row["scan_id"])
        return load_row(row)

    monkeypatch.setattr(fitting, "load_row", load)
    detector, found = fit_method("template", table, progress=False)
    assert opened == ["s1", "s2", "s3"]
    assert isinstance(detector, CandidateDetector)
    assert set(found.split) == {"train", "validation"}


def test_candidates_are_kept_and_a_scan_is_not_looked_at_twice(table, tmp_path, monkeypatch, whole_heads):
    first, found = fit_method("template", table, cache_dir=tmp_path, progress=False)
    monkeypatch.setattr(fitting, "load_row", None)
    again, read = fit_method("template", table, cache_dir=tmp_path, progress=False)
    assert again == first
    pd.testing.assert_frame_equal(read, found)


def test_candidates_of_another_scan_of_the_same_name_are_not_read(table, tmp_path, whole_heads):
    row = table[:1]
    first = fitting.candidates("template", row, tmp_path, progress=False)
    empty = row.assign(label=save(np.zeros((24, 96, 96), np.uint8), tmp_path / "empty.nii"))
    assert first.lesion.any()
    assert not fitting.candidates("template", empty, tmp_path, progress=False).lesion.any()
    pd.testing.assert_frame_equal(fitting.candidates("template", row, tmp_path, progress=False), first)


def test_a_cohort_without_anything_to_fit_on_is_refused(table):
    with pytest.raises(RunError, match="no labelled training or validation scan"):
        fit_method("blobs", table[table.split == "test"], progress=False)


def drawn_candidates(seed=0, scans=20):
    """Each scan has two lesions and ten other candidates, which score nearly as high but are not round."""
    rng, rows = np.random.default_rng(seed), []
    for scan in range(scans):
        for at in range(12):
            lesion = at + 1 if at < 2 else 0
            about = {"scan_id": f"s{scan}", "lesion": lesion, "score": rng.normal(0.6 + 0.05 * (lesion > 0), 0.05)}
            about |= {"anisotropy": rng.uniform(0.0, 0.4) if lesion else rng.uniform(0.3, 1.0)}
            rows.append({**about, "contrast": 1.0, "volume_mm3": 50.0})
    return pd.DataFrame(rows)


def test_the_criterion_that_tells_lesions_from_others_is_chosen_with_a_limit_between_them():
    found = drawn_candidates()
    detector = fit_candidates("template", found, scans=20)
    (limit,) = [value for column, side, value in detector.criteria if (column, side) == ("anisotropy", "most")]
    assert 0.3 < limit < 0.45
    plain = CandidateDetector("template").probability(found)
    assert recall_at(detector.probability(found), found, 20, (1,)) > recall_at(plain, found, 20, (1,)) + 0.2


def test_lesions_and_others_are_equally_heavy_so_that_half_lies_between_them():
    found = drawn_candidates(scans=60).assign(anisotropy=0.0)
    probability = fit_candidates("template", found, scans=60).probability(found)
    lesion = (found.lesion > 0).to_numpy()
    assert (probability[lesion] > 0.5).mean() == pytest.approx((probability[~lesion] < 0.5).mean(), abs=0.1)


def recall_by_counting(probability, found, scans, rate):
    """The slow twin of `recall_at`: every threshold tried."""
    best, all_lesions = 0, found[found.lesion > 0][["scan_id", "lesion"]].drop_duplicates()
    for threshold in probability[probability > 0]:
        kept = found[probability >= threshold]
        if (kept.lesion == 0).sum() <= rate * scans:
            best = max(best, len(kept[kept.lesion > 0][["scan_id", "lesion"]].drop_duplicates()))
    return best / len(all_lesions)


def test_recall_at_some_false_candidates_is_that_of_the_best_threshold():
    rng = np.random.default_rng(1)
    found = pd.DataFrame({"scan_id": rng.choice(list("abc"), 60), "lesion": rng.integers(0, 4, 60)})
    probability = np.where(rng.random(60) < 0.2, 0, rng.random(60))
    for rate in (0, 1, 2.5, 100):
        assert recall_at(probability, found, 3, (rate,))[0] == recall_by_counting(probability, found, 3, rate)


def test_a_threshold_lets_through_no_more_than_was_asked_for():
    rng = np.random.default_rng(2)
    found, probability = pd.DataFrame({"lesion": rng.integers(0, 2, 50)}), rng.random(50)
    for rate in (0, 1, 5):
        at = threshold_for(probability, found, 2, rate)
        false = (found.lesion == 0).to_numpy()
        assert (probability[false] >= at).sum() == 2 * rate
    assert threshold_for(probability, found, 2, 1000) == probability.min()


def test_what_is_fitted_on_the_test_scans_claims_the_wanted_false_candidates_there():
    here, there = drawn_candidates(1), drawn_candidates(2)
    found = claims("template", (here, 20), (there, 20), 40, rates=(1, 2)).set_index("fitted_on")
    assert (found.fp_per_scan["test"].to_numpy() <= [1, 2]).all()
    assert found.recall.between(0.3, 1).all()
    assert len(found) == 4


# training


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet")
    given = {"minutes": 0.15, "side": 16, "widths": (8, 16), "device": "cpu", "learning_rate": 3e-3}
    given |= {"intensities": "scan", "progress": False}
    return folder, given, train_unet(table, folder / "run", cache_dir=folder / "cache", **given)


def test_training_learns_and_leaves_weights_on_its_way(trained):
    folder, _, (network, history) = trained
    assert history.share.tolist() == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1]
    assert history.steps.is_monotonic_increasing
    assert history.train_loss.iloc[-1] < 0.9 * history.train_loss.iloc[0]
    assert {f"weights_{percent}.safetensors" for percent in (6, 12, 25, 50, 75, 100)} <= {
        p.name for p in (folder / "run").iterdir()
    }
    written = UNetDetector.load(folder / "run" / "weights.safetensors").network.state_dict()
    assert all(torch.equal(value, written[name]) for name, value in network.state_dict().items())


def test_a_finished_training_is_read_back_and_another_one_refused(table, trained):
    folder, given, (network, history) = trained
    again, read = train_unet(table, folder / "run", cache_dir=folder / "cache", **given)
    assert torch.equal(again.head.weight, network.head.weight)
    pd.testing.assert_frame_equal(read, history)
    with pytest.raises(RunError, match="seed is 8, but this run was started with 0"):
        train_unet(table, folder / "run", cache_dir=folder / "cache", seed=8, **given)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 70, 130])
def test_a_stopped_training_goes_on_and_ends_as_if_it_had_not_been_stopped(
    table, trained, tmp_path, monkeypatch, steps
):
    """By a clock that ticks once a step, 150 of them; steps after the last checkpoint are taken again."""
    given = {**trained[1], "minutes": 150 / 60, "cache_dir": trained[0] / "cache", "seed": 3}
    monkeypatch.setattr(unet_training, "process_time", partial(next, itertools.count()))
    whole, history = train_unet(table, tmp_path / "whole", **given)
    calls, learn = itertools.count(), unet_training._learn

    def killed(*step):
        if next(calls) == steps:
            raise KeyboardInterrupt
        return learn(*step)

    monkeypatch.setattr(unet_training, "_learn", killed)
    with pytest.raises(KeyboardInterrupt):
        train_unet(table, tmp_path / "stopped", **given)
    with pytest.raises(RunError, match="training_scans is"):
        train_unet(table[1:], tmp_path / "stopped", **given)
    network, resumed = train_unet(table, tmp_path / "stopped", **given)
    assert next(calls) <= 150 + 4, "more than the last steps were taken again"
    pd.testing.assert_frame_equal(resumed, history)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in whole.state_dict().items())
    for name in ("weights", "weights_25"):
        parts = [(tmp_path / run / f"{name}.safetensors").read_bytes() for run in ("whole", "stopped")]
        assert parts[0] == parts[1]


def test_the_networks_of_a_training_are_named_by_their_minutes_and_the_last_one_is_the_unet(trained, tmp_path):
    folder, *_ = trained
    found = list(unet_detectors(folder / "run"))
    assert len(found) == 6
    assert found[-2:] == ["U-Net, 0.11 min", "U-Net"]
    with pytest.raises(RunError, match="no weights of a U-Net"):
        unet_detectors(tmp_path)


# one contract


class Constant:
    """A detector that calls the brightest voxels lesions."""

    def __call__(self, image, mask=None, **options):
        return ((image > 650) & mask).astype(np.float32)


def detectors():
    return {
        "template": CandidateDetector("template"),
        "blobs": CandidateDetector("blobs"),
        "U-Net": UNetDetector(UNet((8, 16)), "scan"),
        "A": Detector(build("A", seed=0), "scan"),
        "function": Constant(),
    }


@pytest.mark.parametrize("name", detectors())
def test_every_detector_is_called_alike_and_scored_by_the_same_function(table, tmp_path, whole_heads, name):
    row = table[table.split == "test"]
    middle = np.zeros((24, 96, 96), bool)
    middle[8:16, 30:66, 30:66] = True
    found = score(detectors()[name], row, tmp_path, where=lambda scan, row: middle, device="cpu", progress=False)
    assert found.sweep.tp.max() + found.sweep.fn.max() > 0
    again = score(tmp_path, row, progress=False)  # as anybody's maps
    pd.testing.assert_frame_equal(again.sweep, found.sweep)


def test_a_folder_of_maps_is_a_detector_that_sees_the_searched_region_only(table, tmp_path):
    row = table[table.split == "test"].iloc[0].to_dict()
    scan = load_row(row)
    rng, mask = np.random.default_rng(0), scan.image > 600
    probability = rng.random(scan.image.shape).astype(np.float32)
    save_map(probability, scan, tmp_path / f"{row['scan_id']}.nii.gz")
    found = GivenMaps(tmp_path).for_scan(scan, row)(scan.image, mask, device="cpu")
    np.testing.assert_allclose(found, np.where(mask, probability, 0))
    with pytest.raises(PredictionError, match=r"no s1\.nii\.gz"):
        GivenMaps(tmp_path).for_scan(scan, table.iloc[0].to_dict())
    assert np.isnan(GivenMaps(tmp_path).seconds(row))


@pytest.mark.parametrize("detector", [Detector(build("A", seed=0)), UNetDetector(UNet((8, 16)))])
def test_networks_refuse_voxels_that_they_were_not_trained_on(detector):
    with pytest.raises(ModelError, match=r"3 x 1 x 1 mm, networks see 1 mm"):
        detector(np.zeros((8, 20, 20), np.float32), spacing_mm=(3.0, 1.0, 1.0))


def test_detectors_are_compared_on_the_same_scans_with_chance_and_read_back(table, tmp_path):
    silent, calls = (lambda image, mask, **options: np.zeros(image.shape, np.float32)), []

    def flood(image, mask, **options):
        calls.append(1)
        return mask.astype(np.float32)

    three = {"bright": Constant(), "silent": silent, "flood": flood}
    options = {"search": "head", "progress": False}
    tables = compare_methods(three, table[table.split != "train"], tmp_path, **options)
    rows = method_rows(tables["sweeps"], tables["seconds"])
    assert rows.index.tolist() == list(three)
    assert rows.recall["bright"] == 1
    assert rows.chance["bright"] < 0.4
    assert rows.recall["silent"] == rows.chance["silent"] == 0
    assert (rows.scans == 2).all()
    assert len(chance_curve(tables["sweeps"])) == len(tables["sweeps"]) / 2
    assert set(tables["froc"].method) == set(three)
    again = compare_methods(three, table[table.split != "train"], tmp_path, **options)
    assert len(calls) == 2
    pd.testing.assert_frame_equal(again["sweeps"], tables["sweeps"])


@dataclass
class Brighter:
    """A detector that calls lesion what is brighter than a level."""

    level: float

    def __call__(self, image, mask=None, **options):
        return ((image > self.level) & mask).astype(np.float32)


def test_maps_of_another_detector_or_scan_of_the_same_name_are_refused(table, tmp_path):
    row, options = table[table.split == "test"], {"search": "head", "progress": False}
    compare_methods({"mine": Brighter(650)}, row, tmp_path / "work", **options)
    for detector, rows, message in (
        (Brighter(700), row, "detector is {.*700}, but this run was started with {.*650}"),
        (Brighter(650), row.assign(image=table.image[0]), r"image is '…/s1\.nii"),
        (Brighter(650), row.assign(label=table.label[0]), r"label is '…/s1-seg\.nii"),
    ):
        with pytest.raises(RunError, match=f"(?s)s4.*{message}.*choose another folder"):
            compare_methods({"mine": detector}, rows, tmp_path / "work", **options)
    maps = tmp_path / "work" / "mine"
    compare_methods({"given": GivenMaps(maps)}, row, tmp_path / "again", **options)
    shutil.copy(save(np.zeros((24, 96, 96), np.float32), tmp_path / "m.nii.gz"), maps / "s4" / "map.nii.gz")
    with pytest.raises(RunError, match=r"map is '…/map\.nii\.gz, sha256"):
        compare_methods({"given": GivenMaps(maps)}, row, tmp_path / "again", **options)


# follow-ups


def test_lesions_are_new_grown_smaller_or_the_same():
    later, earlier = np.zeros((2, 3, 20, 40), bool)
    for at, (before, now) in enumerate([(0, 4), (2, 4), (4, 2), (3, 3)]):
        earlier[1, 2 : 2 + before, 10 * at : 10 * at + 5] = later[1, 2 : 2 + now, 10 * at : 10 * at + 5] = True
    assert lesion_changes(later, earlier).change.tolist() == ["new", "grown", "smaller", "same"]
    assert len(lesion_changes(earlier & False, earlier)) == 0


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Two sessions of one drawn head: a ball that stays, a new one, and a patient with one session."""
    folder, rows = tmp_path_factory.mktemp("sessions"), []
    image, brain, _ = drawn_head((3.0, 3.0, 3.0))
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, image.shape), 1.5)
    image = 300 * (image + texture / texture.std() * 0.1 * brain)
    away = [np.linalg.norm(np.indices(image.shape).reshape(3, -1).T - place, axis=1).reshape(image.shape)
            for place in ((42, 45, 25), (40, 30, 40))]  # fmt: skip
    for session, balls in ((1, away[:1]), (2, away)):
        label = np.any([one < 3 for one in balls], axis=0)
        scan = save(
            (image + 250 * label + rng.normal(0, 5, image.shape)).astype(np.float32), folder / f"t{session}.nii"
        )
        rows.append({"scan_id": f"t_{session}", "patient_id": "t", "session": session, "image": scan,
                     "label": save(label.astype(np.uint8), folder / f"l{session}.nii")})  # fmt: skip
    return pd.DataFrame(rows).assign(mask="", lesion_codes="", split="test")


def test_a_follow_up_needs_a_session_before_it(sessions):
    follow_ups = FollowUps(sessions)
    detector = follow_ups.for_scan("later", sessions.iloc[1].to_dict())
    assert detector.earlier.label.sum() < load_row(sessions.iloc[1].to_dict()).label.sum()
    with pytest.raises(ModelError, match="t_1 has no earlier session"):
        follow_ups.for_scan("later", sessions.iloc[0].to_dict())
    with pytest.raises(RunError, match="second labelled session"):
        measure_change(sessions[:1], "nowhere")


def test_a_turned_head_is_the_same_head_elsewhere(sessions):
    row = sessions.iloc[1].to_dict()
    scan = load_row(row)
    moved, motion = turned(scan, row), known_motion(scan, row)
    places = np.argwhere(moved.label)[::20]
    world = scan.affine @ np.append(places, np.ones((len(places), 1)), axis=1).T
    back = (np.linalg.inv(scan.affine) @ motion @ world)[:3].round().astype(int)
    assert scan.label[tuple(back)].mean() > 0.8
    assert np.trace(motion[:3, :3]) == pytest.approx(1 + 2 * np.cos(np.radians(6)))
    np.testing.assert_array_equal(turned(scan, row).image, moved.image)


def test_the_new_lesion_of_a_turned_follow_up_is_found_and_the_old_one_is_no_change(sessions, tmp_path, monkeypatch):
    pytest.importorskip("SimpleITK", reason='the extra is not installed: pip install ".[registration]"')
    monkeypatch.setattr("kit.models.related.change.brain_statistics", lambda image, spacing_mm: (200.0, 80.0))
    lesions, scans = measure_change(sessions, tmp_path, search="head", progress=False)
    assert lesions.set_index("change").found.to_dict() == {"same": False, "new": True}
    assert scans.error_mm[0] < 1.5
    assert scans.similarity[0] > scans.similarity_before[0]
    assert scans.fp[0] <= 12  # at the skin, which is interpolated twice
