"""Outlines against the published steps, all pairs of surface voxels, and every voxel measured to every other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist
from small_maps import TOUCHING, block, parts, random_pair

from kit.metrics import PENALTY_MM, RULES, border_profile, dice, hd95, hysteresis, lesionwise, pool_profiles

SPACING = (2.4, 0.9, 1.3)
CROSS = ndimage.generate_binary_structure(3, 2)


def hd95_by_pairs(a, b, spacing):
    """Slow twin: all distances between surface voxels, found by looking at each voxel's six neighbours."""
    if a.any() != b.any():
        return np.inf
    surfaces = [_surface_by_looking(mask) * spacing for mask in (a, b)]
    distances = cdist(*surfaces)
    return max(np.percentile(distances.min(axis), 95) for axis in (0, 1))


def _surface_by_looking(mask):
    padded = np.pad(mask, 1)
    steps = np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    return np.array([v for v in np.argwhere(mask) if not all(padded[tuple(v + 1 + step)] for step in steps)])


def brats_by_steps(mask, truth, spacing):
    """(Dice, HD95) of a scan by the steps of the published program."""
    predicted = ndimage.label(mask, structure=TOUCHING)[0]
    scores, touched = [], {0}
    for region in parts(ndimage.binary_dilation(truth, CROSS)):
        lesion = truth & region
        mine = set(np.unique(predicted[ndimage.binary_dilation(lesion, CROSS)])) - {0}
        touched |= mine
        own = np.isin(predicted, list(mine))
        if lesion.sum() * np.prod(spacing) > 2:
            scores.append((dice(own, lesion), hd95_by_pairs(own, lesion, spacing)))
    scores += [(0, np.inf) for number in set(np.unique(predicted)) - touched]
    if not scores:
        return 1, 0
    return np.mean([s for s, _ in scores]), np.mean([min(d, 374) for _, d in scores])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.8]))
def test_brats_scores_agree_with_the_published_steps(seed, threshold):
    probability, truth = random_pair(seed)
    scores = lesionwise(probability, truth, threshold, spacing_mm=SPACING)
    expected = brats_by_steps(hysteresis(probability, threshold), truth, SPACING)
    assert (scores.dice, scores.hd95_mm) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_hd95_agrees_with_all_pairs_of_surface_voxels(seed):
    a, b = (random_pair(seed + i)[1] for i in (0, 1))
    if a.any() and b.any():
        assert hd95(a, b, SPACING) == pytest.approx(hd95_by_pairs(a, b, SPACING))


def test_hd95_of_drawn_boxes():
    a = block((6, 8, 9), "1:4 2:5 2:5")
    assert hd95(a, a, SPACING) == 0
    assert hd95(a, np.roll(a, 2, axis=0), SPACING) == pytest.approx(4.8)
    assert hd95(a, np.zeros_like(a)) == np.inf
    assert hd95(np.zeros_like(a), np.zeros_like(a)) == 0


def test_misses_and_false_positives_are_penalised():
    truth = block((5, 9, 30), "1:4 2:5 2:5", "1:4 2:5 12:15")
    predicted = block((5, 9, 30), "1:4 2:5 2:5", "1:3 2:4 22:24")
    scores = lesionwise(predicted, truth)
    assert scores.lesions[["found", "dice", "hd95_mm"]].values.tolist() == [[True, 1, 0], [False, 0, PENALTY_MM]]
    assert (scores.fp, scores.dice, scores.hd95_mm) == (1, pytest.approx(1 / 3), pytest.approx(2 * 374 / 3))


@pytest.mark.parametrize("rule", RULES)
def test_empty_scans_have_the_scores_of_the_challenge(rule):
    empty, lesion = np.zeros((3, 4, 5)), block((3, 4, 5), "0:2 1:3 1:3")
    both, missed, invented = (
        lesionwise(p, t, rule=rule) for p, t in ((empty, empty), (empty, lesion), (lesion, empty))
    )
    assert (both.dice, both.hd95_mm, both.fp) == (1, 0, 0)
    assert (missed.dice, missed.hd95_mm, missed.fp) == (0, 374, 0)
    assert (invented.dice, invented.hd95_mm, invented.fp) == (0, 374, 1)


def test_any_rule_may_decide_what_is_a_lesions_own():
    truth, predicted = block((5, 9, 20), "1:4 2:5 2:8"), block((5, 9, 20), "1:4 2:5 2:4", "1:4 2:5 5:8")
    assert lesionwise(predicted, truth, rule="overlap").dice == pytest.approx(2 * 45 / (54 + 45))
    assert lesionwise(predicted, truth, rule="iou").dice == pytest.approx(
        2 * 27 / (54 + 27) / 2
    )  # and one false positive


# borders ------------------------------------------------------------------------------------------------------------


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
