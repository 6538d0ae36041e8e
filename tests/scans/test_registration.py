"""Registration: known motions are found again, labels go with them, and what cannot be laid over is refused."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from small_scans import drawn_head

from kit.scans import Grid, Registration, Scan, ScanError, register

pytest.importorskip("SimpleITK", reason='the extra is not installed: pip install ".[registration]"')


def world(image, spacing_mm, label=None):
    """A scan whose middle is the origin of the world: slices upwards, rows backwards, columns leftwards."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = np.multiply(spacing_mm, (1, -1, -1))
    affine[:3, 3] = -affine[:3, :3] @ (np.array(image.shape) - 1) / 2
    affine[3, 3] = 1
    return Scan(image, label, spacing_mm, affine, Grid(image.shape[::-1], affine[:, [2, 1, 0, 3]]))


def rigid(turn_deg, shift_mm):
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(turn_deg, degrees=True).as_matrix()
    motion[:3, 3] = shift_mm
    return motion


def moved(scan, motion, shape, spacing_mm, order=1):
    """The slow twin of resampling: another scan's voxels, each sent through the world back into the first."""
    other = world(np.zeros(shape, np.float32), spacing_mm)
    places = np.indices(shape).reshape(3, -1)
    to_scan = np.linalg.inv(scan.affine) @ np.linalg.inv(motion) @ other.affine
    index = (to_scan @ np.vstack([places, np.ones(places.shape[1])]))[:3]
    return replace(other, image=map_coordinates(scan.image, index, order=order, cval=0).reshape(shape))


@pytest.fixture(scope="module")
def head():
    image, brain, _ = drawn_head((4.0, 3.0, 3.0))
    image = image.copy()
    image[30:34, 30:38, 40:46] = 2  # something that is on one side only
    return world(image, (4.0, 3.0, 3.0)), brain


def farthest(found, truth, scan, mask):
    """How far apart (mm) two motions bring any voxel of a mask."""
    index = np.argwhere(mask)[::50]
    places = scan.affine @ np.c_[index, np.ones(len(index))].T
    return np.linalg.norm(((found - truth) @ places)[:3], axis=0).max()


@pytest.mark.parametrize(("turn_deg", "shift_mm"), [((5, -4, 8), (12, -9, 15)), ((0, 0, 0), (0, 0, 0))])
def test_a_known_motion_between_two_anisotropic_grids_is_found_to_a_millimetre(head, turn_deg, shift_mm):
    fixed, brain = head
    motion = rigid(turn_deg, shift_mm)
    other = moved(fixed, motion, (40, 90, 75), (5.5, 2.5, 3.0))
    other = replace(other, image=(other.image**1.3 * 400).astype(np.float32))  # another scanner's contrast
    found = register(fixed, other)
    assert farthest(found.transform, motion, fixed, brain) < 1.0
    assert found.similarity > 0.85
    assert found.similarity > found.similarity_before - 0.01
    assert found.angle_deg == pytest.approx(np.linalg.norm(turn_deg), abs=0.5)


def test_the_same_scans_and_seed_give_the_same_numbers(head):
    fixed, _ = head
    other = moved(fixed, rigid((3, 0, 2), (4, 0, 0)), (40, 90, 75), (5.5, 2.5, 3.0))
    assert np.array_equal(register(fixed, other).transform, register(fixed, other).transform)


def test_resampling_agrees_with_each_voxel_sent_through_the_world(head):
    scan, _ = head
    motion = rigid((4, -3, 6), (7, -5, 9))
    grid = world(np.zeros((40, 80, 70), np.float32), (5.0, 2.5, 3.0))
    found = Registration(np.linalg.inv(motion), 1.0, 1.0, 1.0, 1.0).resample(scan, grid)
    twin = moved(replace(scan, image=scan.image - scan.image.min()), motion, (40, 80, 70), (5.0, 2.5, 3.0))
    inside = twin.image > 0
    assert inside.sum() > 50_000
    differs = np.abs(found.image - scan.image.min() - twin.image)[inside]
    assert np.quantile(differs, 0.99) < 1e-3
    assert found.grid is grid.grid


def test_a_label_goes_with_its_scan_and_keeps_its_volume(head):
    scan, _ = head
    label = np.zeros(scan.image.shape, bool)
    label[20:25, 30:37, 25:32] = True
    other = Registration(rigid((0, 0, 10), (3, 3, 3)), 1.0, 1.0, 1.0, 1.0).resample(replace(scan, label=label), scan)
    assert other.label.dtype == bool
    assert other.label.sum() == pytest.approx(label.sum(), rel=0.1)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = Registration(rigid((1, 2, 3), (4, 5, 6)), 0.9, 0.2, 1.1, 0.95)
    record.save(tmp_path / "pair.json")
    again = Registration.load(tmp_path / "pair.json")
    assert np.array_equal(again.transform, record.transform)
    assert (again.similarity, again.overlap) == (0.9, 0.95)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"transform": [1], "similarity": 1}', '{"transform": "x"}'])
def test_what_is_no_record_is_refused_by_name(tmp_path, text):
    (tmp_path / "pair.json").write_text(text)
    with pytest.raises(ScanError, match=r"pair\.json: no record of a registration"):
        Registration.load(tmp_path / "pair.json")


def test_a_mask_of_another_shape_or_without_voxels_is_refused(head):
    fixed, _ = head
    for mask in (np.ones((1, 2, 3), bool), np.zeros(fixed.image.shape, bool)):
        with pytest.raises(ScanError, match="mask has shape"):
            register(fixed, fixed, mask=mask)


def test_scans_that_share_no_head_are_refused(head):
    fixed, _ = head
    noise = np.random.default_rng(0).normal(100, 10, (8, 20, 20)).astype(np.float32)
    with pytest.raises(ScanError, match="could not be registered"):
        register(fixed, world(noise, (4.0, 3.0, 3.0)))


def test_without_simpleitk_the_message_says_how_to_get_it(head, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ScanError, match=r"pip install .*registration"):
        register(head[0], head[0])
