"""The scale space answers to balls at their place and scale, as one plain filter of scipy would."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_scans import drawn_balls, drawn_tube

from kit.models import CandidateDetector, blob_candidates, laplacian_scale_space
from kit.models.related import scale_maxima
from kit.models.related.scale_space import roundness

SPACINGS = [(1.0, 1.0, 1.0), (2.0, 0.9, 1.1)]


def test_a_scale_is_the_laplacian_of_a_gaussian_times_its_variance():
    image = np.random.default_rng(0).normal(0, 1, (24, 24, 24)).astype(np.float32)
    found = laplacian_scale_space(image, [1.5])[0]
    twin = -(1.5**2) * ndimage.gaussian_laplace(image.astype(float), 1.5)
    np.testing.assert_allclose(found, twin, atol=0.01)


def test_coarse_scales_on_every_second_voxel_are_those_on_every_voxel():
    image = drawn_balls([(24, 20, 27, 6.0)], (1.0, 1.0, 1.0), noise=0)
    found = laplacian_scale_space(image, [3.4])[0]
    twin = -(3.4**2) * ndimage.gaussian_laplace(image.astype(float), 3.4)
    assert np.abs(found - twin).max() < 0.1 * twin.max()


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("radius", [2.0, 4.2, 8.0])
def test_a_sphere_in_noise_is_the_strongest_place_and_its_scale_says_its_radius(radius, spacing_mm):
    place = (24.0, 20.0, 27.0)
    image = drawn_balls([(*place, radius)], spacing_mm)
    found = scale_maxima(laplacian_scale_space(image, spacing_mm=spacing_mm), np.ones(image.shape, bool))
    first = found.iloc[0]
    at = first[["slice", "row", "column"]].to_numpy(float) * spacing_mm
    np.testing.assert_allclose(at, place, atol=1.01 * max(spacing_mm))
    assert 0.7 < first.radius_mm / radius < 1.42  # half a step of the scales either way


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_a_tube_is_rejected_and_a_ball_beside_it_stays(spacing_mm):
    image = drawn_balls([(24, 14, 14, 3.0)], spacing_mm) + drawn_tube((24, 34), 2.0, spacing_mm)
    found, regions = blob_candidates(image, np.ones(image.shape, bool), spacing_mm)
    middle = np.array([(region * spacing_mm).mean(0) for region in regions])
    ball = np.linalg.norm(middle - (24, 14, 14), axis=1) < 3
    tube = (np.hypot(middle[:, 0] - 24, middle[:, 1] - 34) < 2) & (np.abs(middle[:, 2] - 24) < 16)  # not its ends
    whole = CandidateDetector("blobs", (("volume_mm3", "least", 20), ("anisotropy", "most", 0.5)))
    assert (whole.probability(found)[ball] > 0).any()
    assert not (whole.probability(found)[tube] > 0).any()


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_a_response_falls_off_around_a_ball_and_along_no_tube(spacing_mm):
    image = drawn_balls([(24, 14, 14, 3.0)], spacing_mm, noise=0) + drawn_tube((24, 34), 2.0, spacing_mm)
    responses = laplacian_scale_space(image, spacing_mm=spacing_mm)
    places = np.round(np.array([(24, 14, 14), (24, 34, 24)]) / spacing_mm).astype(int)
    table = pd.DataFrame(places, columns=["slice", "row", "column"]).assign(sigma_mm=1.7)
    ball, tube = roundness(responses, table, spacing_mm=spacing_mm)
    assert ball > 0.6
    assert tube < 0.1


def test_roundness_is_the_ratio_of_curvatures_of_a_drawn_bowl_turned_about():
    turn = np.linalg.qr(np.random.default_rng(0).normal(0, 1, (3, 3)))[0]
    curvatures, spacing_mm = np.array([1.0, 2.0, 4.0]), np.array([2.0, 0.9, 1.1])
    places = (np.indices((9, 15, 15)).reshape(3, -1).T - (4, 7, 7)) * spacing_mm  # mm
    bowl = -((places @ turn) ** 2 @ curvatures).reshape(1, 9, 15, 15)
    table = pd.DataFrame({"slice": [4], "row": [7], "column": [7], "sigma_mm": [1.2]})
    assert roundness(bowl, table, (1.2,), spacing_mm)[0] == pytest.approx(0.25)


def test_a_flat_scan_and_an_empty_mask_have_no_candidates():
    flat = np.ones((20, 20, 20), np.float32)
    assert len(blob_candidates(flat, np.ones(flat.shape, bool))[0]) == 0
    assert (
        len(blob_candidates(drawn_balls([(10, 10, 10, 3)], (1, 1, 1), shape=flat.shape), np.zeros(flat.shape, bool))[0])
        == 0
    )
