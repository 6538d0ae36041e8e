"""The mid-sagittal plane of a drawn head is found wherever the head is turned, and what lies across it."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_scans import drawn_head

from kit.models import Plane, find_plane
from kit.models.related import mirrored
from kit.models.related.symmetry import asymmetry

SPACING_MM = (4.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def head():
    image, brain, _ = drawn_head(SPACING_MM)
    rng = np.random.default_rng(1)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, image.shape), 2)  # gyri: without them any plane would do
    return image + texture / texture.std() * 0.2 * brain, brain


def made_symmetric(image):
    return (image + image[:, :, ::-1]) / 2


def test_a_mirrored_head_has_symmetry_1_about_its_middle(head):
    image, brain = head
    plane = find_plane(made_symmetric(image), brain, SPACING_MM)
    assert plane.symmetry == pytest.approx(1, abs=0.01)
    assert plane.offset_mm == pytest.approx((image.shape[2] - 1) / 2 * SPACING_MM[2], abs=0.5)
    assert np.abs(plane.angles_deg).max() < 0.5


def test_a_head_that_is_no_mirror_image_has_less_symmetry(head):
    image, brain = head
    assert find_plane(image, brain, SPACING_MM).symmetry < 0.9


@pytest.mark.parametrize(("yaw_deg", "shift_mm"), [(5.0, 6.0), (-7.0, -4.5)])
def test_the_plane_of_a_turned_and_shifted_head_is_found(head, yaw_deg, shift_mm):
    image, brain = head
    scale, shift = np.array(SPACING_MM), np.array([0, 0, shift_mm])
    angle = np.radians(yaw_deg)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])  # in mm
    middle = (np.array(image.shape) - 1) / 2 * scale
    matrix = turn * scale / scale[:, None]
    offset = (middle - turn @ (middle + shift)) / scale
    moved = ndimage.affine_transform(made_symmetric(image), matrix, offset, order=1)
    mask = ndimage.affine_transform(brain.astype(float), matrix, offset, order=1) > 0.5
    plane = find_plane(moved, mask, SPACING_MM)
    assert plane.symmetry > 0.97
    assert plane.distance_mm(middle + shift) == pytest.approx(0, abs=1.0)
    assert abs(plane.angles_deg[0]) == pytest.approx(abs(yaw_deg), abs=1.0)
    assert plane.angles_deg[1] == pytest.approx(0, abs=1.0)


def test_mirroring_twice_comes_home_and_a_place_and_its_image_are_equally_far_from_the_plane():
    normal = np.array([0.1, -0.2, 1.0]) / np.linalg.norm([0.1, -0.2, 1.0])
    plane, points = Plane(tuple(normal), 30.0, 1.0), np.random.default_rng(0).normal(20, 9, (5, 3))
    np.testing.assert_allclose(mirrored(mirrored(points, plane), plane), points)
    np.testing.assert_allclose(plane.distance_mm(mirrored(points, plane)), -plane.distance_mm(points))


def test_a_bright_place_without_a_partner_is_asymmetric_and_a_pair_is_not():
    image = np.zeros((9, 30, 41), np.float32)
    image[4, 5, 8] = image[4, 5, 32] = 2.0  # a pair about column 20
    image[4, 25, 10] = 2.0  # alone
    places = pd.DataFrame({"slice": 4, "row": [5, 25], "column": [8, 10]})
    plane = Plane((0.0, 0.0, 1.0), 20 * 1.2, 1.0)
    np.testing.assert_allclose(asymmetry(image, places, plane, (3.0, 1.0, 1.2)), [0, 2])


def test_a_mask_without_voxels_gives_the_middle_of_the_scan_and_no_symmetry():
    plane = find_plane(np.zeros((5, 6, 9)), np.zeros((5, 6, 9), bool), (2.0, 1.0, 1.5))
    assert plane.offset_mm == 6.0
    assert np.isnan(plane.symmetry)
