"""The brain's surface is found in a drawn head, and a lesion never lies outside it."""

import numpy as np
import pytest
from small_scans import drawn_head

from kit.samplers.brain import beyond_brain
from kit.scans import brain_statistics, foreground


@pytest.fixture(scope="module", params=[(2, 2, 2), (5, 1.5, 1.5)])
def head(request):
    """(image, brain, spacing_mm)"""
    image, brain, _ = drawn_head(request.param)
    return image * 700 - 20, brain, request.param


def test_the_surface_of_a_drawn_brain_is_found_to_some_millimetres(head):
    image, brain, spacing_mm = head
    found = beyond_brain(image, brain_statistics(image, spacing_mm), spacing_mm)
    assert found.dtype == np.int8
    assert 2 * ((found <= 0) & brain).sum() / ((found <= 0).sum() + brain.sum()) > 0.95
    assert (brain & (found > 4)).sum() < 0.01 * brain.sum()
    assert (found < -20).any()
    assert (found > 20).any()


def test_lesion_voxels_lie_deep_inside_wherever_they_are(head):
    image, _, spacing_mm = head
    label = np.zeros(image.shape, bool)
    label[3:5, 4:6, 7] = True
    found = beyond_brain(image, brain_statistics(image, spacing_mm), spacing_mm, label)
    assert (found[label] == -100).all()
    assert found[4, 5, 9] == -100 < found[4, 5, 11]


def test_of_a_brain_without_skull_all_is_inside():
    image, _, _ = drawn_head((3, 2, 2), stripped=True)
    found = beyond_brain(image, brain_statistics(image, (3, 2, 2)), (3, 2, 2))
    inside = foreground(image)
    assert (found[inside] > 1).mean() < 0.01
    assert (found[~inside] < -1).mean() < 0.01
