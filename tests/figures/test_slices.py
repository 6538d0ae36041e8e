"""Slices are drawn on the axes that are given, with their outline, heat and window."""

import numpy as np
import pytest

from kit.figures import slices


def head(shape=(12, 40, 40)):
    """A bright box with a gradient, in the air."""
    image = np.zeros(shape, np.float32)
    image[1:-1, 5:-5, 5:-5] = np.linspace(100, 200, shape[2] - 10)
    return image


def outline(ax):
    (collection,) = ax.collections
    return {tuple(map(tuple, segment)) for segment in collection.get_segments()}


def test_the_outline_runs_along_the_pixels_edges(axes):
    label = np.zeros((5, 5), bool)
    label[2, 3] = True
    ax = slices.show_slice(axes(), np.eye(5), label)
    upright = {((x, 1.5), (x, 2.5)) for x in (2.5, 3.5)}
    level = {((2.5, y), (3.5, y)) for y in (1.5, 2.5)}
    assert outline(ax) == upright | level


def test_the_outline_reaches_the_edge_of_a_slice_that_is_all_lesion(axes):
    assert len(outline(slices.show_slice(axes(), np.eye(3), np.ones((3, 3), bool)))) == 12


def test_heat_is_clear_below_the_threshold_and_shown_at_it(axes):
    probability = np.array([[0.0, 0.19], [0.2, 1.0]])
    ax = slices.show_slice(axes(), np.eye(2), probability=probability, threshold=0.2)
    assert ax.images[1].get_array().mask.tolist() == [[True, True], [False, False]]
    assert ax.images[1].get_clim() == (0, 1)


def test_a_window_is_used_as_given(axes):
    assert slices.show_slice(axes(), np.eye(3), window=(-1, 4)).images[0].get_clim() == (-1, 4)


def test_the_window_leaves_the_air_out_whatever_the_offset_of_the_scan():
    low, high = slices.window_of(head())
    assert (low, high) == pytest.approx((100, 200), abs=4)
    assert slices.window_of(head() - 1000) == pytest.approx((low - 1000, high - 1000))
    assert slices.window_of(head()[5]) == pytest.approx((low, high), abs=2)


def test_a_constant_image_has_a_window_too():
    assert slices.window_of(np.full((3, 4, 4), 7.0)) == (7, 8)


def test_crops_have_their_centre_in_the_middle_and_air_beyond_the_scan(axes):
    image = head()
    image[6, 10, 38] = 500
    shown = slices.finding_crops(axes(1, 3), image, [(6.2, 9.8, 38.0), (0, 0, 0)], titles=["found", "edge"], half=8)
    picture = shown[0].images[0].get_array()
    assert picture.shape == (17, 17)
    assert picture[8, 8] == 500
    assert (picture[:, 10:] == 0).all()
    assert [ax.get_title() for ax in shown] == ["found", "edge", ""]
    assert not shown[2].images


def test_crops_carry_label_and_probability(axes):
    image, label = head(), np.zeros((12, 40, 40), bool)
    label[6, 20, 20] = True
    (ax,) = slices.finding_crops(axes(), image, [(6, 20, 20)], half=4, label=label, probability=label * 0.9)
    assert len(outline(ax)) == 4
    assert ax.images[1].get_array()[4, 4] == pytest.approx(0.9)


def test_upright_planes_have_the_highest_slice_at_the_top(axes):
    box = np.arange(27.0).reshape(3, 3, 3)
    axial, coronal, sagittal = slices.three_planes(axes(1, 3), box, window=(0, 27))
    assert axial.images[0].get_array()[0].tolist() == [9, 10, 11]
    assert coronal.images[0].get_array()[0].tolist() == [3, 4, 5]
    assert sagittal.images[0].get_array()[0].tolist() == [1, 4, 7]
    assert [ax.yaxis_inverted() for ax in (axial, coronal, sagittal)] == [True, False, False]


def test_a_slice_is_framed_to_the_head(axes):
    ax = slices.frame_head(slices.show_slice(axes(), head()[5]), head()[5], margin=2)
    assert ax.get_xlim() == (2.5, 36.5)
    assert ax.get_ylim() == (36.5, 2.5)
