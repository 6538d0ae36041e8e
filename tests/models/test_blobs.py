"""Tubes and blobs are told apart where they were drawn, and lesions and the surface are left out."""

import numpy as np
import pytest

from kit.models import find_blobs, look_alikes


@pytest.fixture
def head():
    """A grey box in the air, (48, 64, 64), with a little texture."""
    image = np.zeros((48, 64, 64), np.float32)
    image[2:46, 4:60, 4:60] = 1 + 0.01 * np.random.default_rng(0).standard_normal((44, 56, 56))
    return image


def test_a_vessel_across_the_slices_and_one_within_a_slice_differ_in_steepness(head):
    head[2:46, 20:23, 20:23] = 2.5
    head[34:37, 40:43, 4:60] = 2.5
    tubes = look_alikes(head, depth=5, count=50)
    steep, flat = tubes[(tubes.row - 21).abs() < 2], tubes[(tubes.row - 41).abs() < 2]
    assert len(steep) + len(flat) == len(tubes)
    assert steep.steepness.min() > 0.95
    assert flat.steepness.max() < 0.05


def test_a_ball_is_a_blob(head):
    head[32:35, 30:33, 30:33] = 2.5
    (found,) = look_alikes(head, depth=5).itertuples()
    assert (found.kind, found.slice, found.row, found.column) == ("blob", 33, 31, 31)
    assert found.brightness == 2.5


def test_lesions_the_surface_and_the_lower_half_are_left_out(head):
    label = np.zeros(head.shape, bool)
    label[33, 31, 31] = True
    for place in ((33, 31, 31), (33, 6, 31), (10, 31, 31)):
        head[tuple(slice(p - 1, p + 2) for p in place)] = 2.5
    assert look_alikes(head, label, depth=5).empty


def test_places_keep_their_distance_and_their_number(head):
    head[2:46, 20:23, 20:23] = 2.5
    slices = np.sort(look_alikes(head, depth=5, count=3, apart=6).slice)
    assert len(slices) == 3
    assert np.diff(slices).min() > 6


def test_a_scan_with_nothing_bright_or_no_inside_gives_an_empty_table(head):
    assert look_alikes(head).empty
    assert list(look_alikes(np.zeros((3, 4, 5), np.float32)).columns) == list(look_alikes(head).columns)


def test_the_scale_decides_which_blob_is_found_first(head):
    head[20:23, 20:23, 20:23] = 2.5
    head[26:39, 34:47, 34:47] = 1.6
    for sigma, centre in ((1, [21, 21, 21]), (5, [32, 40, 40])):
        first = find_blobs(head, sigma=sigma, brightness=1.05).query("kind == 'blob'").iloc[0]
        assert np.abs(first[["slice", "row", "column"]].to_numpy(int) - centre).max() <= 1
        assert first.scale == sigma


def test_blobs_are_looked_for_in_the_region_and_above_the_brightness_only(head):
    head[20:23, 20:23, 20:23] = 2.5
    head[32:35, 40:43, 40:43] = 4
    region = np.zeros(head.shape, bool)
    region[:, :30] = True
    assert find_blobs(head, region, brightness=1.2)[["slice", "row", "column"]].values.tolist() == [[21, 21, 21]]
    assert find_blobs(head, brightness=2.5)[["slice", "row", "column"]].values.tolist() == [[33, 41, 41]]
