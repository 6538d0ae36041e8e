"""A lesion that is put into a scan looks like one, has its size, and lies where lesions lie."""

from dataclasses import replace

import numpy as np
import pytest
from small_scans import make_scan

from kit.phantom import Lesion, PhantomError, Tissue, draw_lesions, implant, likely_places
from kit.phantom.lesions import draw_lesion
from kit.scans import lesion_table


def ball(radius, *, contrast=0.8, centre=(20.0, 20.0, 20.0), **look):
    return Lesion(centre, radius, contrast, **look)


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize("drawn", [False, True])
def test_an_implanted_lesion_has_its_physical_volume_on_any_grid(spacing_mm, drawn):
    centre = (20.2, 30.4, 45.1)
    lesion = draw_lesion(centre, 6.0, np.random.default_rng(3)) if drawn else ball(6.0, centre=centre)
    _, label = implant(np.ones((41, 61, 91)), [lesion], white_matter=1.0, spacing_mm=spacing_mm)
    assert label.sum() * np.prod(spacing_mm) == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.03)


def test_a_lesion_is_bright_with_a_blurred_border_and_leaves_the_rest_alone():
    before = np.ones((41, 41, 41), np.float32)
    image, label = implant(before, [ball(4.0, edge_mm=1.5)], white_matter=1.0)
    assert image[20, 20, 20] == pytest.approx(1.8, abs=0.02)
    border = image[20, 20, 24]
    assert 1.2 < border < 1.7
    assert (image[0] == 1).all()
    assert (before == 1).all()
    assert label[20, 20, 20]
    assert not label[0].any()


def test_a_lesion_in_thick_slices_is_the_mean_over_their_thickness():
    lesion = ball(3.0, centre=(23.5, 20, 20), contrast=0.6)
    fine, _ = implant(np.ones((48, 41, 41)), [lesion], white_matter=1.0)
    thick_lesion = replace(lesion, centre=((23.5 - 1.5) / 4, 20, 20))
    thick, label = implant(np.ones((12, 41, 41)), [thick_lesion], white_matter=1.0, spacing_mm=(4, 1, 1))
    share = (fine.reshape(12, 4, 41, 41).mean(axis=1) - 1) / 0.6
    assert thick - 1 == pytest.approx(0.6 * share, abs=0.03)
    assert np.array_equal(label[abs(share - 0.5) > 0.04], (share > 0.5)[abs(share - 0.5) > 0.04])


def test_a_large_lesion_has_a_dark_core_inside_a_bright_rim_and_is_labelled_whole():
    image, label = implant(np.ones((41, 41, 41)), [ball(9.0, core=0.4)], white_matter=1.0)
    assert image[20, 20, 20] == pytest.approx(0.4, abs=0.1)
    rim = np.linalg.norm(np.indices(image.shape) - 20, axis=0).round() == 8
    assert np.median(image[rim]) > 1.7
    assert np.percentile(image[rim], 10) > 1.1  # of uneven thickness
    assert label[20, 20, 20]


def test_small_lesions_are_solid_and_large_ones_mostly_have_a_core():
    rng = np.random.default_rng(0)
    hollow = {r: np.mean([draw_lesion((0, 0, 0), r, rng).core is not None for _ in range(200)]) for r in (2.0, 5.0, 9)}
    assert hollow[2.0] < 0.05 < 0.3 < hollow[5.0] < hollow[9] < 0.97


def test_lesions_are_nearly_balls_and_less_so_when_they_are_large():
    rng, sigma = np.random.default_rng(1), {}
    for radius in (2.0, 5.0, 12.0):
        fine_mm = (radius / 14,) * 3  # the voxel grid adds to sigma_r
        drawn = [draw_lesion((30, 30, 30), radius, rng) for _ in range(16)]
        labels = [implant(np.ones((61, 61, 61)), [le], white_matter=1.0, spacing_mm=fine_mm)[1] for le in drawn]
        sigma[radius] = np.median([lesion_table(label, fine_mm).sigma_r[0] for label in labels])
    assert 0.04 < sigma[2.0] < sigma[5.0] < sigma[12.0] < 0.15


def test_a_lesion_that_has_grown_keeps_its_shape():
    lesion = draw_lesion((30, 30, 30), 6.0, np.random.default_rng(2))
    (_, small), (_, large) = (
        implant(np.ones((61, 61, 61)), [replace(lesion, radius_mm=r)], white_matter=1.0) for r in (6.0, 9.0)
    )
    assert large.sum() / small.sum() == pytest.approx(1.5**3, rel=0.03)
    k, i, j = np.nonzero(small)
    assert large[tuple(np.round(30 + 1.45 * (a - 30)).astype(int) for a in (k, i, j))].mean() > 0.97


def test_lesions_go_into_a_given_scan_and_keep_its_grain():
    image, _ = make_scan(1, lesions=0)
    where = np.zeros(image.shape)
    where[8:16, 30:60, 30:60] = 1
    lesions = draw_lesions([2.0, 3.0], where, np.random.default_rng(0))
    implanted, label = implant(image, lesions, white_matter=300.0)
    assert len(lesion_table(label, (1, 1, 1))) == 2
    assert implanted[label].mean() > image[label].mean()
    assert implanted[label].std() > 20  # the noise goes on inside


def test_the_dura_holds_a_lesion():
    depth = np.broadcast_to(np.arange(41.0) - 16.5, (41, 41, 41)).astype(np.float32)
    empty = np.zeros((41, 41, 41), np.float32)
    tissue = Tissue(empty, empty, empty, empty.astype(np.uint8), depth)
    image, label = implant(np.ones((41, 41, 41)), [ball(6.0)], white_matter=1.0, tissue=tissue)
    assert label[20, 20, 17]
    assert not label[:, :, :16].any()
    assert (image[:, :, :15] == 1).all()


def test_lesions_keep_apart():
    where = np.zeros((60, 60, 60))
    where[20:40, 20:40, 20:40] = 1
    lesions = draw_lesions([3.0, 3.0, 3.0], where, np.random.default_rng(1))
    gaps = [np.linalg.norm(np.subtract(a.centre, b.centre)) - 6 for a in lesions for b in lesions if a is not b]
    assert min(gaps) >= 4


def test_lesions_keep_out_of_ventricles_on_an_anisotropic_grid():
    keep_out = np.zeros((20, 60, 60), bool)
    keep_out[:, :, 30:] = True
    spacing_mm = (3.0, 1.0, 1.0)
    rng = np.random.default_rng(0)
    lesions = [
        draw_lesions([5.0], np.ones(keep_out.shape), rng, spacing_mm=spacing_mm, keep_out=keep_out)[0]
        for _ in range(20)
    ]
    for lesion in lesions:
        _, label = implant(np.ones(keep_out.shape), [lesion], white_matter=1.0, spacing_mm=spacing_mm)
        assert (label & keep_out).sum() <= 0.15 * label.sum()


def test_large_lesions_keep_out_of_narrow_places():
    only_small = np.zeros((40, 40, 40), bool)
    only_small[:, :, 20:] = True
    where = np.where(only_small, 1e6, 1)
    for seed in range(5):
        large, small = draw_lesions([8.0, 2.0], where, np.random.default_rng(seed), only_small=only_small)
        assert large.centre[2] < 20 < small.centre[2]


def test_a_head_without_room_for_a_lesion_is_refused():
    with pytest.raises(PhantomError, match="no room for lesion 1"):
        draw_lesions([3.0], np.zeros((9, 9, 9)), np.random.default_rng(0))
    crowded = np.zeros((9, 9, 9))
    crowded[4, 4, 4] = 1
    with pytest.raises(PhantomError, match="no room for lesion 2"):
        draw_lesions([3.0, 3.0], crowded, np.random.default_rng(0))


def test_most_places_lie_where_grey_meets_white_matter_and_few_in_the_brain_stem():
    region = np.repeat(np.arange(6, dtype=np.uint8), 10)[None, None] * np.ones((8, 8, 1), np.uint8)
    white = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None] * np.ones(region.shape, np.float32)
    tissue = Tissue(white, 1 - white, 0 * white, region, np.full(region.shape, 9, np.float32))
    where = likely_places(tissue)
    share = [float(where[region == n].sum() / where.sum()) for n in range(6)]
    assert share[0] == share[5] == 0
    assert share[1] > 0.7 > 0.2 > share[2] > 0.1 > share[3] > 0
    assert where[4, 0, 15] > 2 * where[7, 0, 15] == 0
