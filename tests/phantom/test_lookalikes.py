"""Look-alikes change the image and no label, lie where they lie in patients, and keep away from the lesions."""

import numpy as np
import pytest
from scipy import ndimage

from kit.phantom import Lesion
from kit.phantom.head.anatomy import Head
from kit.phantom.lookalikes import add_infarct, add_lacunes, add_meningioma, with_lookalikes


@pytest.fixture(scope="module")
def head():
    """A ball of white matter, with cortex, fluid, a skull around and a nucleus inside."""
    distance = np.linalg.norm(np.indices((100, 110, 120)) - np.array([50, 55, 60])[:, None, None, None], axis=0)
    depth = (45 - distance).astype(np.float32)
    csf, grey, white = (((depth > a) & (depth <= b)).astype(np.float32) for a, b in ((0, 2), (2, 6), (6, 99)))
    region = np.where(distance < 9, 4, np.where(depth > 2, 1, 0)).astype(np.uint8)
    image = 0.33 * csf + 0.75 * grey + white + 0.1 * (depth <= 0)
    return Head(image.astype(np.float32), depth > 0, white, grey, csf, region, depth, np.zeros_like(depth))


@pytest.mark.parametrize("seed", range(4))
def test_a_meningioma_is_bright_sits_on_the_dura_and_has_a_tail(head, seed):
    after = add_meningioma(head, np.random.default_rng(seed)).image
    bright = (after > 1.3) & (head.image < 1.1)
    assert bright.sum() > 100
    assert head.depth_mm[bright].min() < 1
    assert (np.abs(after - head.image)[head.depth_mm < -2] < 0.01).all()
    thin = ndimage.binary_opening(bright, iterations=2)
    assert (bright & ~ndimage.binary_dilation(thin, iterations=4)).sum() > 5  # the tail


@pytest.mark.parametrize("seed", range(4))
def test_an_old_infarct_is_dark_and_reaches_from_the_cortex_into_white_matter(head, seed):
    changed = add_infarct(head, np.random.default_rng(seed))
    lost = head.image - changed.image > 0.15
    assert lost.sum() > 500
    assert head.depth_mm[lost].min() < 4 < 10 < head.depth_mm[lost].max()
    assert changed.white[lost].mean() < 0.5 * head.white[lost].mean()
    assert changed.image.min() >= 0


def test_lacunes_are_small_dark_and_deep(head):
    lost = head.image - add_lacunes(head, np.random.default_rng(1)).image > 0.1
    sizes = np.bincount(ndimage.label(lost)[0].ravel())[1:]
    assert 0 < sizes.max() < 500
    assert head.depth_mm[lost].min() > 15


def test_look_alikes_keep_away_from_lesions(head):
    lesions = [Lesion((50, 55, c), 12.0, contrast=1.0) for c in (40, 75)]
    away = np.min([np.linalg.norm(np.indices(head.image.shape).T - le.centre, axis=3).T for le in lesions], axis=0)
    for seed in range(5):
        after = add_lacunes(head, np.random.default_rng(seed), lesions).image
        assert (after == head.image)[away < 13].all()


def test_most_heads_have_none(head):
    heads = [with_lookalikes(head, np.random.default_rng(seed)) for seed in range(30)]
    assert 10 < sum(h is head for h in heads) < 28
