"""The template: its regions lie where an atlas has them, and sampling it agrees with a slower way."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from kit.phantom.head.template import COARSE, REGIONS, mni_to_template, pull_points, template


def at(points_mm):
    """Index of MNI positions (x, y, z)."""
    return tuple(np.round(mni_to_template(points_mm)).astype(int).T)


def region_at(*points_mm):
    return template().region[0].numpy()[at(points_mm)].tolist()


def test_points_are_sampled_as_scipy_samples_them():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 5, 7, 9)).astype(np.float32)
    points = rng.uniform(0, [[4], [6], [8]], (3, 40)).astype(np.float32)
    expected = [ndimage.map_coordinates(m, points, order=1) for m in maps]
    np.testing.assert_allclose(pull_points(torch.from_numpy(maps), torch.from_numpy(points)), expected, atol=1e-5)


def test_a_cut_is_sampled_at_the_positions_of_the_whole_and_is_zero_beyond():
    rng = np.random.default_rng(1)
    whole = torch.from_numpy(rng.standard_normal((1, 8, 10, 12)).astype(np.float32))
    points = torch.from_numpy(rng.uniform([[3], [4], [5]], [[6], [8], [9]], (3, 20)).astype(np.float32))
    cut = whole[:, 2:7, 3:9, 4:10].contiguous()
    np.testing.assert_allclose(pull_points(cut, points, origin=(2, 3, 4)), pull_points(whole, points), atol=1e-5)
    assert not pull_points(cut, torch.zeros(3, 4), origin=(2, 3, 4)).any()


@pytest.mark.slow
def test_regions_lie_where_an_atlas_has_them():
    assert region_at((30, 20, 40), (-45, -20, -16), (20, -88, 5)) == [REGIONS["cerebrum"]] * 3
    assert region_at((25, -65, -40), (-10, -75, -30)) == [REGIONS["cerebellum"]] * 2
    assert region_at((0, -26, -34), (0, -40, -60)) == [REGIONS["brain stem"]] * 2
    assert region_at((12, -18, 8), (-26, 4, 2)) == [REGIONS["deep grey"]] * 2
    assert region_at((10, -15, 22), (-24, -40, 8)) == [REGIONS["ventricles"]] * 2
    assert region_at((0, 95, 0), (90, 0, 0)) == [0, 0]


@pytest.mark.slow
def test_fractions_are_of_one_brain_white_inside_grey_and_fluid_in_the_ventricles():
    white, grey, sheet = template().maps.numpy()
    assert min(white.min(), grey.min(), sheet.min()) >= 0
    assert (white + grey).max() <= 1 + 1e-5
    ventricles = template().region[0].numpy() == REGIONS["ventricles"]
    assert (white + grey)[ventricles].mean() < 0.15
    assert white[at([(25, -20, 30)])] > 0.95
    sure = np.maximum(white, grey)[(white + grey) > 0.9]
    assert (sure > 0.8).mean() > 0.8  # borders are narrow: the mean of many brains has 0.6 here


@pytest.mark.slow
def test_falx_and_tentorium_are_thin_sheets_that_leave_the_brain_stem_free():
    sheet = template().maps[2].numpy()
    assert sheet[at([(0, 20, 60), (0, -60, 40)])].min() > 0.9
    assert sheet[at([(3, 20, 60), (0, 10, 10), (0, -26, -20), (0, -26, -34)])].max() == 0


@pytest.mark.slow
def test_the_plexus_runs_through_the_ventricles_and_the_vault_adds_nothing_to_the_head():
    coarse = dict(zip(COARSE, template().coarse.numpy(), strict=True))
    assert (coarse["ventricle"][coarse["plexus"] > 0.5] < 3).mean() > 0.8
    half = lambda points: tuple(i // 2 for i in at(points))  # noqa: E731
    assert coarse["extra"][half([(0, -20, 92), (30, -20, 80)])].max() < 1
    assert coarse["extra"][half([(0, 60, -60)])] > 20  # the face
    assert coarse["extra"].min() >= 0
