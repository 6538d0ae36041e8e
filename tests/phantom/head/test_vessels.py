"""Vessels run where they run in patients, branch after Murray's law, and fill the voxels that they fill."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from kit.phantom.head import vessels
from kit.phantom.head.template import mni_to_template, template
from kit.phantom.head.trees import draw_tubes, ground, grow, to_fluid
from kit.phantom.head.vessels import draw_vessels


@cache
def land():
    return ground(template().maps, template().region, template().coarse)


@cache
def drawn(seed=0):
    return draw_vessels(template(), np.random.default_rng(seed))


def at(volume, *points_mm):
    """The highest value within 2 mm of each point (x, y, z)."""
    places = mni_to_template(points_mm).round().astype(int)
    return np.array([volume[tuple(slice(c - 2, c + 3) for c in place)].max() for place in places])


# -------------------------------------------------------------------------------------------------------------- tubes


@pytest.mark.parametrize("radius", [0.2, 0.4, 0.8, 1.5, 3.0])
def test_a_tube_holds_the_blood_of_its_section(radius):
    along = np.arange(0, 40, 0.4)
    points = np.stack([along, 15 + 0.37 + 0.05 * along, 15 - 0.21 + 0.02 * along], axis=1)
    cover, contrast = draw_tubes((40, 32, 32), points, np.full(len(along), radius), np.full(len(along), 2.0))
    area = cover[10:30].sum((1, 2)).mean()
    assert area == pytest.approx(np.pi * radius**2, rel=0.15)
    np.testing.assert_allclose(contrast, 2 * cover, rtol=1e-6)
    assert cover.max() <= 1


def test_tubes_that_leave_the_volume_are_cut():
    points = np.stack([np.arange(-8.0, 16.0, 0.5)] * 3, axis=1)
    cover, _ = draw_tubes((8, 9, 10), points, np.full(len(points), 1.0), np.ones(len(points)))
    assert cover[4, 4, 4] == 1
    assert cover[0, 8, 9] == 0


# -------------------------------------------------------------------------------------------------------------- trees


@pytest.mark.slow
def test_radii_of_a_tree_follow_murrays_law():
    rng = np.random.default_rng(1)
    leaves = rng.choice(len(land().nodes), 80, replace=False)
    tree = grow(land(), mni_to_template([(38, 6, -8), (-38, 6, -8)]), leaves, rng.uniform(0.2, 0.5, 80), rng)
    rooted = tree.parent == np.arange(len(tree.parent))
    behind = np.zeros(len(tree.parent))
    np.add.at(behind, tree.parent[~rooted], tree.radius[~rooted] ** 3)
    branching = np.bincount(tree.parent[~rooted], minlength=len(behind)) > 1
    assert branching.sum() > 20
    more = tree.radius[branching] ** 3 / behind[branching]
    assert more.min() > 1 - 1e-9  # more than 1 where a leaf ends on the way of others
    assert np.median(more) == pytest.approx(1)
    assert rooted.sum() == 2


def test_vessels_in_fluid_stay_in_it():
    line = mni_to_template([(13, 3, -17), (20, 6, -15), (29, 0, -20), (35, 3, -15)])
    moved = to_fluid(line.astype(float), land())
    white_and_grey = template().maps[:2].numpy().sum(0)
    tissue = lambda points: white_and_grey[tuple(points[1:-1].round().astype(int).T)].mean()  # noqa: E731
    assert tissue(moved) < tissue(line)
    np.testing.assert_array_equal(moved[[0, -1]], line[[0, -1]])


# -------------------------------------------------------------------------------------------------------------- heads


def test_the_sagittal_sinus_lies_in_the_midline_at_the_inner_table_and_widens_to_the_back():
    _, cover = drawn()
    width = {}
    for y in (40, 45, 50, 0, -5, -10, -60, -65, -70):
        _, row, middle = mni_to_template([(0, y, 0)])[0].astype(int)
        top = np.flatnonzero(land().outside[:, row, middle] < -1)[-1]
        assert cover[top, row, middle - 2 : middle + 3].max() > 0.9
        width[y] = cover[top, row, middle - 7 : middle + 8].sum()  # mm
    front, vertex, back = np.median(np.reshape(list(width.values()), (3, 3)), axis=1)
    assert 1 < front < back < 10
    assert 2 < vertex < back


def test_named_vessels_are_where_an_atlas_has_them():
    _, cover = drawn()
    named = [(0, -12, -30), (0, -46, 7), (30, 3, -18), (-30, 3, -18), (0, -96, -20), (50, -70, -26), (2, 0, 31)]
    assert (at(cover, *named) > 0.5).all()


def test_the_basilar_artery_runs_in_front_of_the_brain_stem_and_not_in_it():
    _, cover = drawn()
    stem = template().region[0].numpy() == 3
    assert cover[ndimage.binary_erosion(stem)].mean() < 0.01
    stem_rows = np.argwhere(stem[int(mni_to_template([(0, 0, -30)])[0, 0])])[:, 0]
    slice_, row, column = mni_to_template([(0, -12, -30)])[0].astype(int)
    assert row < stem_rows.min() + 2  # rows count to the back
    assert cover[slice_, row - 3 : row + 3, column - 3 : column + 4].max() > 0.9


def test_most_branches_run_in_fluid_and_few_in_white_matter():
    _, cover = drawn()
    white, grey = template().maps[:2].numpy()
    inside = land().outside < -2
    fluid = inside & (white + grey < 0.5)
    assert cover[fluid].mean() > 5 * cover[inside & (white > 0.9)].mean()


def test_a_slice_shows_many_small_bright_dots():
    _, cover = drawn()
    for z in (20, 40):
        spots, n = ndimage.label(cover[int(mni_to_template([(0, 0, z)])[0, 0])] > 0.3)
        sizes = np.bincount(spots.ravel())[1:]
        assert n > 30
        assert np.median(sizes) < 12


def test_blood_is_brighter_than_white_matter_and_no_two_patients_are_alike():
    vessel, cover = drawn()
    other, _ = drawn(1)
    blood = vessel[cover > 0.99]
    assert blood.min() > 0.4
    assert blood.max() < 2.9
    assert vessel.dtype == cover.dtype == np.float32
    assert 0 <= cover.min() < cover.max() <= 1
    assert np.corrcoef(vessel[::2, ::2, ::2].ravel(), other[::2, ::2, ::2].ravel())[0, 1] < 0.9


def test_a_venous_anomaly_is_a_few_veins_in_white_matter_that_drain_into_fluid(monkeypatch):
    monkeypatch.setattr(vessels, "_draw_sagittal_sinus", lambda *_: None)  # drawn after it, so that the two differ
    found = []
    for share in (0, 1):
        monkeypatch.setattr(vessels, "DVA", share)
        monkeypatch.setattr(vessels, "GRANULATIONS", 0)
        found.append(draw_vessels(template(), np.random.default_rng(4))[1])
    more = found[1] - found[0]
    assert more.min() > -1e-6
    assert 10 < more.sum() < 400  # mm3 of blood
    places = np.argwhere(more > 0.02)
    assert np.ptp(places, axis=0).max() < 60
    assert template().maps[0].numpy()[tuple(places.T)].mean() > 0.4  # white matter


def test_granulations_are_gaps_in_the_large_sinuses_alone(monkeypatch):
    found = []
    for count in (0, 40):
        monkeypatch.setattr(vessels, "GRANULATIONS", count)
        found.append(draw_vessels(template(), np.random.default_rng(4))[1])
    gaps = found[0] - found[1]
    assert gaps.min() > -1e-6
    assert 50 < gaps.sum() < 3000
    assert np.abs(land().outside[gaps > 0.5]).max() < 9


def test_the_same_seed_draws_the_same_vessels():
    again, _ = draw_vessels(template(), np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn()[0])
