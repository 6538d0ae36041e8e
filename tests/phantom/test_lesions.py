"""A lesion that is put into a scan looks like one, has its size, and keeps away from the others."""

import numpy as np
import pytest
from small_scans import make_scan

from kit.phantom import Lesion, PhantomError, draw_lesions, implant
from kit.scans import lesion_table


def ball(radius, *, contrast=0.8, core=None, centre=(20.0, 20.0, 20.0), edge_mm=1.0):
    return Lesion(centre, radius, np.zeros((1, 5)), contrast, core, rim_mm=2.0, edge_mm=edge_mm)


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (2.0, 1.0, 0.5)])
def test_an_implanted_ball_has_its_physical_volume_on_any_grid(spacing_mm):
    _, label = implant(np.ones((41, 61, 91)), [ball(6.0, centre=(20, 30, 45))], white_matter=1.0, spacing_mm=spacing_mm)
    assert label.sum() * np.prod(spacing_mm) == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.03)


def test_a_lesion_is_bright_with_a_blurred_border_and_leaves_the_rest_alone():
    before = np.ones((41, 41, 41), np.float32)
    image, label = implant(before, [ball(4.0, edge_mm=1.5)], white_matter=1.0)
    assert image[20, 20, 20] == pytest.approx(1.72, abs=0.02)
    border = image[20, 20, 24]
    assert 1.1 < border < 1.65
    assert abs(image[0] - 1).max() < 0.01
    assert (before == 1).all()
    assert label[20, 20, 20]
    assert not label[0].any()


def test_a_large_lesion_has_a_dark_core_inside_a_bright_rim():
    image, label = implant(np.ones((41, 41, 41)), [ball(9.0, core=0.4)], white_matter=1.0)
    assert image[20, 20, 20] == pytest.approx(0.4, abs=0.05)
    assert image[20, 20, 28] > 1.4
    assert label[20, 20, 20]  # the core is part of the lesion


def test_lesions_go_into_a_given_scan_and_keep_its_grain():
    image, _ = make_scan(1, lesions=0)
    where = np.zeros(image.shape)
    where[8:16, 30:60, 30:60] = 1
    lesions = draw_lesions([2.0, 3.0], where, np.random.default_rng(0))
    implanted, label = implant(image, lesions, white_matter=300.0)
    assert len(lesion_table(label, (1, 1, 1))) == 2
    assert implanted[label].mean() > image[label].mean()
    assert implanted[label].std() > 20  # the noise goes on inside


def test_lesions_keep_apart():
    where = np.zeros((60, 60, 60))
    where[20:40, 20:40, 20:40] = 1
    lesions = draw_lesions([3.0, 3.0, 3.0], where, np.random.default_rng(1))
    gaps = [np.linalg.norm(np.subtract(a.centre, b.centre)) - 6 for a in lesions for b in lesions if a is not b]
    assert min(gaps) >= 4


def test_a_head_without_room_for_a_lesion_is_refused():
    with pytest.raises(PhantomError, match="no room for lesion 1"):
        draw_lesions([3.0], np.zeros((9, 9, 9)), np.random.default_rng(0))
    crowded = np.zeros((9, 9, 9))
    crowded[4, 4, 4] = 1
    with pytest.raises(PhantomError, match="no room for lesion 2"):
        draw_lesions([3.0, 3.0], crowded, np.random.default_rng(0))
