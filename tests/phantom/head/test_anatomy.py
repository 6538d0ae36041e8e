"""Heads without lesions: what they hold, where, and how much they differ."""

import numpy as np
import pytest

from kit.phantom.head.anatomy import draw_head
from kit.phantom.head.deformation import draw_warp, full
from kit.phantom.head.template import BOX_SHAPE, REGIONS, SHAPE, pull, template, to_grid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def heads():
    return [draw_head(np.random.default_rng(seed)) for seed in range(3)]


def median(head, fraction):
    return np.median(head.image[(fraction > 0.97) & (head.vessel < 0.02) & (head.region == REGIONS["cerebrum"])])


def test_arrays_are_full_size_and_of_one_kind_each(heads):
    kinds = {"image": "f4", "brain": "?", "region": "u1", **dict.fromkeys(("white", "grey", "csf", "vessel"), "f4")}
    for name, kind in kinds.items():
        array = getattr(heads[0], name)
        assert array.shape == SHAPE, name
        assert array.dtype == np.dtype(kind), name
    assert heads[0].depth_mm.dtype == np.float32


def test_fractions_fill_the_cranial_cavity_and_nothing_else(heads):
    for head in heads:
        total = head.white + head.grey + head.csf
        assert min(a.min() for a in (head.white, head.grey, head.csf)) >= 0
        np.testing.assert_allclose(total[head.depth_mm > 0.5], 1, atol=1e-4)
        assert not total[head.depth_mm < -0.5].any()
        assert not head.region[head.depth_mm < -1].any()


def test_the_brain_is_white_and_grey_matter_and_the_fluid_between(heads):
    for head in heads:
        tissue = head.white + head.grey
        assert (head.brain & (tissue > 0.5)).sum() > 0.98 * (tissue > 0.5).sum()
        assert set(np.unique(head.region[head.brain])) == {1, 2, 3, 4, 5}
        ventricles = (head.region == REGIONS["ventricles"]) & (head.depth_mm > 15)
        assert head.csf[ventricles].mean() > 0.7


def test_no_crown_is_cut_off_and_a_margin_of_air_lies_around_the_head(heads):
    for head in heads:
        air = head.image < 0.1
        for rim in (air[-1], air[:, :4], air[:, -4:], air[:, :, :20], air[:, :, -20:]):
            assert rim.mean() > 0.998


def test_white_matter_is_brighter_than_cortex_and_cortex_than_fluid_and_by_how_much_differs(heads):
    white, cortex = ([median(h, getattr(h, name)) for h in heads] for name in ("white", "grey"))
    fluid = [np.median(h.image[(h.csf > 0.97) & (h.depth_mm > 20) & (h.vessel < 0.02)]) for h in heads]
    np.testing.assert_allclose(white, 1, atol=0.06)
    assert np.ptp(cortex) > 0.05
    assert all(f < 0.75 * c and c < 0.97 for f, c in zip(fluid, cortex, strict=True))
    assert min(fluid) > 0.08  # no black holes


def test_the_inner_table_of_the_skull_is_dark(heads):
    for head in heads:
        assert np.median(head.image[np.abs(head.depth_mm + 1) < 0.5]) < 0.45


def test_atrophy_widens_the_ventricles_and_shrinks_the_brain():
    maps = template()
    ventricles, brain = [], []
    for atrophy in (0.0, 1.0):
        warp = draw_warp(maps, np.random.default_rng(5), atrophy)
        region = pull(maps.region, to_grid(full(warp.brain), maps.maps.shape[1:]), "nearest")[0]
        assert region.shape == BOX_SHAPE
        ventricles.append((region == REGIONS["ventricles"]).sum())
        brain.append((region > 0).sum())
    assert ventricles[1] > 1.5 * ventricles[0]
    assert brain[1] < brain[0]


def test_heads_differ_in_shape_by_millimetres():
    maps = template()
    one, other = (draw_warp(maps, np.random.default_rng(seed), 0.2).brain.numpy() for seed in (1, 2))
    apart = np.sqrt(((one - other) ** 2).sum(0))[30:50, 40:70, 30:60]
    assert 2 < apart.mean() < 25
