"""Change between sessions: none where they are the same, and what was drawn as grown or dead is found as such."""

import numpy as np
import pytest
from small_scans import drawn_balls

from kit.models import ChangeDetector, ModelError, change_posterior, match_intensities
from kit.models.related import CHANGES

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)]
SHAPE = (24, 40, 40)


def session(balls, spacing_mm, seed, gain=1.0, offset=0.0):
    """A brain of slow texture with balls in it, as a scanner of this gain shows it."""
    mm = [np.arange(n) * step for n, step in zip(SHAPE, spacing_mm, strict=True)]
    tissue = 10 + np.sin(mm[0] / 9)[:, None, None] + np.cos(mm[1] / 7)[:, None] + np.sin(mm[2] / 8)
    noise = np.random.default_rng(seed).normal(0, 0.15, SHAPE)
    return (gain * (tissue + 4 * drawn_balls(balls, spacing_mm, shape=SHAPE, noise=0) + noise) + offset).astype(
        np.float32
    )


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_identical_sessions_have_not_changed_anywhere(spacing_mm):
    image = session([(12, 20, 20, 4.0)], spacing_mm, 0)
    q = change_posterior(image, image, np.ones(SHAPE, bool), spacing_mm=spacing_mm)
    assert q[CHANGES.index("unchanged")].min() > 0.99


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_other_noise_and_gain_are_no_change(spacing_mm):
    balls = [(12, 20, 20, 4.0)]
    later, earlier = session(balls, spacing_mm, 0), session(balls, spacing_mm, 1, gain=2.5, offset=30)
    q = change_posterior(later, earlier, np.ones(SHAPE, bool), spacing_mm=spacing_mm)
    assert (q[0] > 0.5).mean() > 0.999
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_a_drawn_growth_and_a_drawn_necrosis_are_found_each_by_its_name(spacing_mm):
    new, gone, stays = (12.0, 10.0, 10.0, 4.0), (12.0, 28.0, 30.0, 4.0), (12.0, 30.0, 10.0, 3.0)
    later = session([new, stays], spacing_mm, 0)
    earlier = session([gone, stays], spacing_mm, 1, gain=1.7)
    q = dict(zip(CHANGES, change_posterior(later, earlier, np.ones(SHAPE, bool), spacing_mm=spacing_mm), strict=True))
    inside = {name: drawn_balls([ball], spacing_mm, shape=SHAPE, noise=0) > 0.9
              for name, ball in (("new", new), ("gone", gone), ("stays", stays))}  # fmt: skip
    assert q["growth"][inside["new"]].mean() > 0.85
    assert q["necrosis"][inside["gone"]].mean() > 0.85
    assert q["unchanged"][inside["stays"]].mean() > 0.9
    far = drawn_balls([(*ball[:3], 9.0) for ball in (new, gone)], spacing_mm, shape=SHAPE, noise=0) < 0.01
    assert (q["unchanged"][far] > 0.5).mean() > 0.999


def test_a_lesion_that_became_larger_has_grown_at_its_rim_and_not_in_its_middle():
    spacing_mm = (1.0, 1.0, 1.0)
    later, earlier = session([(12, 20, 20, 9.0)], spacing_mm, 0), session([(12, 20, 20, 5.0)], spacing_mm, 1)
    growth = change_posterior(later, earlier, np.ones(SHAPE, bool), spacing_mm=spacing_mm)[1]
    away = np.linalg.norm(np.indices(SHAPE).reshape(3, -1).T - (12, 20, 20), axis=1).reshape(SHAPE)
    assert growth[(away > 6) & (away < 8)].mean() > 0.9
    assert growth[away < 2].mean() < 0.1
    assert growth[away > 12].mean() < 0.01


def test_neighbours_outvote_a_single_voxel_the_more_the_larger_beta_is():
    rng = np.random.default_rng(0)
    earlier = rng.normal(10, 0.3, SHAPE).astype(np.float32)
    later = earlier + rng.normal(0, 0.1, SHAPE).astype(np.float32)
    later[12, 20, 20] += 0.7  # one brighter voxel, five or six standard deviations
    options = {"mask": np.ones(SHAPE, bool), "blur_mm": 0.01}
    alone, held = (change_posterior(later, earlier, beta=beta, **options)[1][12, 20, 20] for beta in (0.0, 2.0))
    assert held < alone - 0.2


def test_intensities_are_matched_by_what_has_not_changed():
    rng = np.random.default_rng(0)
    moving = rng.normal(100, 20, SHAPE)
    fixed = 3 * moving - 50
    fixed[8:12, 10:20, 10:20] += 900  # one voxel in a hundred
    np.testing.assert_allclose(match_intensities(moving, fixed, np.ones(SHAPE, bool)), 3 * moving - 50, atol=1)


def test_outside_the_mask_nothing_has_changed():
    mask = np.zeros(SHAPE, bool)
    mask[:, :20] = True
    later, earlier = session([(12, 30, 20, 4.0)], (1, 1, 1), 0), session([], (1, 1, 1), 1)
    q = change_posterior(later, earlier, mask)
    assert (q[0][~mask] == 1).all()
    assert not change_posterior(later, earlier, np.zeros(SHAPE, bool))[1:].any()


def test_one_session_alone_is_refused():
    with pytest.raises(ModelError, match="two sessions"):
        ChangeDetector()(np.zeros(SHAPE))
