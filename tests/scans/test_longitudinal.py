"""Sessions of a patient: registered once, found again, and lesions that a later label has lost are listed."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_scans import drawn_head, moved, rigid, world

from kit.__main__ import main
from kit.scans import Registration, longitudinal, missing_lesions, register_sessions, write_manifest

pytest.importorskip("SimpleITK", reason='the extra is not installed: pip install ".[registration]"')
SPACING_MM = (4.0, 3.0, 3.0)
MOTIONS = {1: np.eye(4), 2: rigid((3, -2, 5), (6, -4, 8)), 3: rigid((-2, 4, 1), (-5, 7, 2))}
BALLS = {"A": (35, 30, 30), "B": (35, 30, 36), "C": (30, 45, 20), "D": (28, 25, 40)}  # voxels of the first session


def write(path, array, affine):
    """A (slice, row, column) array whose index is brought to the world by `affine`."""
    image = nib.Nifti1Image(array.T, affine[:, [2, 1, 0, 3]])
    image.set_sform(image.affine, code=1)
    nib.save(image, path)
    return str(path)


def balls(names, shape, radius=2):
    grid = np.indices(shape)
    label = np.zeros(shape, bool)
    for name in names:
        label |= sum((axis - centre) ** 2 for axis, centre in zip(grid, BALLS[name], strict=True)) <= radius**2
    return label


def session(folder, number, shown, labelled):
    """A row of the manifest: the head moved as in `MOTIONS`; which lesions are bright, and which are labelled."""
    image, _, _ = drawn_head(SPACING_MM)
    image = image + 1.5 * balls(shown, image.shape)
    scan = world(image.astype(np.float32), SPACING_MM)
    label = world(balls(labelled, image.shape).astype(np.float32), SPACING_MM)
    files = [
        moved(one, MOTIONS[number], image.shape, SPACING_MM, order=order).image
        for one, order in ((scan, 1), (label, 0))
    ]
    names = [f"s{number}.nii", f"s{number}-seg.nii"]
    paths = [write(folder / name, array.astype(dtype), scan.affine)
             for name, array, dtype in zip(names, files, ("f4", "u1"), strict=True)]  # fmt: skip
    return {
        "scan_id": f"s{number}",
        "patient_id": "p",
        "session": number,
        "image": paths[0],
        "label": paths[1],
        "split": "",
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three sessions: B's label is lost in the second and has come again in the third; C has healed in the second."""
    folder = tmp_path_factory.mktemp("sessions")
    return pd.DataFrame([
        session(folder, 2, "ABD", "AD"),
        session(folder, 1, "ABC", "ABC"),
        session(folder, 3, "ABD", "AB"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def registered(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return folder, register_sessions(table, folder, spacing_mm=None)


def test_later_sessions_are_laid_over_the_first_and_their_motion_is_found(registered):
    folder, pairs = registered
    assert pairs[["fixed", "moving", "session", "problem"]].values.tolist() == [
        ["s1", "s2", 2, ""],
        ["s1", "s3", 3, ""],
    ]
    for row in pairs.itertuples():
        found = Registration.load(folder / row.record)
        corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-80, 60) for z in (-40, 60)]).T
        assert np.linalg.norm(((found.transform - MOTIONS[row.session]) @ corners)[:3], axis=0).max() < 2
        assert row.similarity > 0.9 > 0.6 > row.similarity_before
        assert found.angle_deg == pytest.approx(row.angle_deg)


def test_what_is_registered_is_not_registered_again_until_an_image_changes(registered, table, monkeypatch, tmp_path):
    folder, pairs = registered
    monkeypatch.setattr(longitudinal, "register", None)
    pd.testing.assert_frame_equal(register_sessions(table, folder, spacing_mm=None), pairs)
    old = nib.load(table.loc[0, "image"])
    brighter = old.get_fdata().T.astype("f4") + 1
    other = table.copy()
    other.loc[0, "image"] = write(tmp_path / "s2.nii", brighter, old.affine[:, [2, 1, 0, 3]])
    with pytest.raises(TypeError):  # it would be registered now
        register_sessions(other, folder, spacing_mm=None)


def test_a_stopped_run_goes_on_with_the_pairs_that_are_missing(registered, table, monkeypatch):
    folder, pairs = registered
    (folder / pairs.loc[1, "record"]).unlink()
    asked, other = [], Registration.load(folder / pairs.loc[0, "record"])
    monkeypatch.setattr(longitudinal, "_made", lambda job, path: asked.append(path.name) or other)
    register_sessions(table, folder, spacing_mm=None)
    assert asked == [pairs.loc[1, "record"]]
    monkeypatch.undo()
    pd.testing.assert_frame_equal(register_sessions(table, folder, spacing_mm=None), pairs)


def test_lesions_lost_by_a_later_label_are_listed_with_their_place_and_whether_they_still_shine(registered, table):
    folder, _ = registered
    found = missing_lesions(table, folder, spacing_mm=None)
    assert found[["earlier", "follow_up", "lesion"]].values.tolist() == [
        ["s1", "s2", 1],  # C, healed: components are numbered from the lowest slice
        ["s1", "s2", 3],  # B
        ["s2", "s3", 1],  # D
        ["s1", "s3", 1],  # C
    ]
    bright = dict(zip(zip(found["follow_up"], found["lesion"], strict=True), found["brightness"], strict=True))
    assert bright["s2", 3] > 1.8
    assert bright["s2", 1] < 1.4
    assert found["volume_mm3"].iloc[0] == balls("C", (50, 77, 64)).sum() * 36
    back = np.linalg.inv(world(np.zeros((50, 77, 64)), SPACING_MM).affine)
    to_world = np.linalg.inv(back)
    expected = (back @ MOTIONS[2] @ to_world @ [*BALLS["B"], 1])[:3]
    np.testing.assert_allclose(found["centre"].iloc[1], expected, atol=1)


def test_a_reach_beyond_the_neighbour_counts_it_as_there(registered, table):
    folder, _ = registered
    found = missing_lesions(table, folder, spacing_mm=None, reach_mm=12)
    assert ["s1", "s2", 3] not in found[["earlier", "follow_up", "lesion"]].values.tolist()


def test_a_pair_that_cannot_be_registered_is_named_and_the_others_are_done(registered, table, tmp_path):
    folder, pairs = registered
    blank = table.copy()
    blank.loc[2, "image"] = str(tmp_path / "gone.nii")
    again = register_sessions(blank, folder, spacing_mm=None)
    assert again.iloc[0].equals(pairs.iloc[0])
    assert "gone.nii" in again.loc[1, "problem"]
    assert np.isnan(again.loc[1, "similarity"])
    assert set(missing_lesions(blank, folder, spacing_mm=None)["follow_up"]) == {"s2"}


def test_single_sessions_need_no_registration(table, tmp_path):
    assert register_sessions(table.iloc[[0]], tmp_path).empty
    assert missing_lesions(table.iloc[[0]], tmp_path).empty


def test_the_command_writes_pairs_and_missing_lesions_as_tables(table, tmp_path, capsys):
    folder = Path(table.loc[0, "image"]).parent
    write_manifest(table.iloc[:2].assign(split="train"), folder / "manifest.csv")
    for _ in range(2):  # the second time nothing is left to register
        assert main(["register", str(folder / "manifest.csv"), "-o", str(tmp_path / "out"), "--spacing", "4"]) == 0
        pairs, missing = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("pairs", "missing_lesions"))
        assert pairs[["fixed", "moving"]].values.tolist() == [["s1", "s2"]]
        assert set(missing["follow_up"]) == {"s2"}
        assert "1 pairs registered, 0 not; 1 of 1 labelled follow-ups lack lesions" in capsys.readouterr().out
    assert main(["register", str(folder / "nowhere.csv"), "-o", str(tmp_path / "out")]) == 2
