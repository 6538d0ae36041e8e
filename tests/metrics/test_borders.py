"""A border's profile counts each voxel once, at its physical distance."""

import numpy as np
import pytest

from kit.metrics import border_profile, pool_profiles


def ball(shape, centre, radius_mm, spacing_mm):
    grid = np.indices(shape).astype(float)
    return sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing_mm, strict=True)) <= radius_mm**2


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (3.0, 1.0, 0.5)])
def test_a_profile_agrees_with_measuring_every_voxel_to_every_other(spacing_mm):
    shape = (9, 22, 26)
    truth = ball(shape, (3, 8, 8), 4, spacing_mm) | ball(shape, (6, 15, 20), 3, spacing_mm)
    probability = np.random.default_rng(0).random(shape)
    places = np.argwhere(np.ones(shape)) * spacing_mm
    inside = truth.ravel()
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    nearest = np.where(inside, apart[:, ~inside].min(1), apart[:, inside].min(1))
    step = np.where(inside, -1, 1) * np.ceil(nearest - 0.5 * min(spacing_mm) - 1e-6)
    found = border_profile(probability, truth, reach_mm=3, spacing_mm=spacing_mm).set_index("distance_mm")
    for distance in found.index:
        mine = step == distance
        assert found.voxels[distance] == mine.sum()
        assert found.probability[distance] == pytest.approx(probability.ravel()[mine].mean())
    assert set(found.index) == set(step[abs(step) <= 3])


def test_a_perfect_map_is_a_step():
    truth = ball((20, 20, 20), (10, 10, 10), 5, (1, 1, 1))
    profile = border_profile(truth.astype(float), truth)
    assert profile.probability.tolist() == (profile.distance_mm < 0).astype(float).tolist()


def test_profiles_are_pooled_by_voxels():
    truth = ball((20, 20, 20), (10, 10, 10), 5, (1, 1, 1))
    whole = pool_profiles([border_profile(0.2 + 0 * truth, truth), border_profile(0.8 + 0 * truth, truth)])
    assert whole.probability.tolist() == pytest.approx([0.5] * len(whole))


def test_without_lesions_there_is_no_profile():
    assert border_profile(np.zeros((3, 3, 3)), np.zeros((3, 3, 3))).empty
