"""Every artefact does to an image what the physics of its acquisition does."""

import numpy as np
import pytest

from kit.phantom import acquisition
from kit.phantom.acquisition import acquire, averaged, flow_ghosts, line_by_line, wrapped
from kit.phantom.head.template import SHAPE


def block(shape=(8, 64, 48)):
    image = np.zeros(shape, np.float32)
    image[:, 16:48, 12:36] = 1
    return image


def moving(lines, mm=1.0, times=9):
    drift = mm * np.sin(2 * np.pi * times * np.arange(lines) / lines)
    return np.fft.ifftshift(drift - drift[lines // 2])


@pytest.fixture(scope="module")
def head():
    image = np.zeros(SHAPE, np.float32)
    image[10:150, 30:226, 60:196] = 1
    return image


# ---------------------------------------------------------------------------------------------------------- artefacts


@pytest.mark.parametrize("axis", [1, 2])
def test_all_lines_of_a_head_that_lies_still_give_the_image_back(axis):
    np.testing.assert_allclose(line_by_line(block(), axis), block(), atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_motion_ghosts_move_signal_along_the_phase_axis_and_not_across(axis):
    image = block()
    ghosted = line_by_line(image, axis, drift=moving(image.shape[axis]))
    beyond = image.max(axis=axis, keepdims=True) * (image == 0)  # air along the phase axis
    across = (image.max(axis=axis, keepdims=True) == 0) * np.ones_like(image)
    assert ghosted[beyond > 0].mean() > 0.003
    assert ghosted[across > 0].max() < 1e-5
    before, after = ((part**2).sum() for part in (image, ghosted))
    assert after == pytest.approx(before, rel=1e-4)  # a change of phase keeps the energy


def test_a_constant_drift_is_a_shift():
    image = block()
    np.testing.assert_allclose(line_by_line(image, 1, drift=np.full(64, 3.0)), np.roll(image, 3, 1), atol=1e-5)


def test_an_edge_rings_along_the_phase_axis_when_outer_lines_are_missing():
    rung = line_by_line(block(), 1, kept=0.5)[2, 17:47, 24]
    assert 1.03 < rung.max() < 1.2  # Gibbs: 9 % above the step
    assert abs(rung[:4] - 1).max() > 4 * abs(rung[13:17] - 1).max()  # far from the edge it fades


def test_blood_casts_copies_at_equal_distances_along_the_phase_axis():
    blood = np.zeros((4, 200, 20), np.float32)
    blood[2, 100, 7] = 1
    ghosts = flow_ghosts(blood, 1, np.random.default_rng(2))
    places = np.argwhere(ghosts)
    assert set(places[:, 0]) == {2}
    assert set(places[:, 2]) == {7}
    away = np.sort(np.abs(places[:, 1] - 100))
    assert away[0] == away[1]
    assert 0.02 < abs(ghosts).max() < 0.14


def test_what_the_field_of_view_cuts_off_in_front_appears_behind():
    image = block()
    folded = wrapped(image, 1, 8)
    assert folded[:, :24].max() == 0
    np.testing.assert_allclose(folded.sum(), image.sum())
    assert folded.max() == 2  # over the other end
    np.testing.assert_array_equal(folded[:, 24:40], image[:, 24:40])


def test_signal_is_lost_above_the_air_of_the_skull_base_and_nowhere_else(monkeypatch, head):
    for name in ("MOTION", "WRAP", "RINGING", "SMOOTH_NOISE"):
        monkeypatch.setattr(acquisition, name, 0)
    monkeypatch.setattr(acquisition, "NOISE", (1e-4, 1.1e-4))
    scans = []
    for share in (0, 1):
        monkeypatch.setattr(acquisition, "HOLE", share)
        scan = acquire(head, np.random.default_rng(5)).astype(float)
        scans.append(scan[:, 40:216, 70:186] / scan[120, 100:150, 100:150].mean())
    ratio = [scan[10:70].reshape(60, -1).min(1) / np.median(scan[10:70].reshape(60, -1), 1) for scan in scans]
    assert ratio[1].min() < 0.6 < ratio[0].min()


# ------------------------------------------------------------------------------------------------------- thick slices


@pytest.mark.parametrize("spacing_mm", [(5, 1, 1), (5, 0.8, 0.8), (1, 3, 1), (1.5, 0.9, 2.5)])
def test_thick_slices_conserve_the_mean(spacing_mm):
    volume = np.random.default_rng(0).random((30, 36, 40)).astype(np.float32)
    thick = averaged(volume, spacing_mm)
    assert thick.shape == tuple(int(n / s + 1e-6) for n, s in zip(volume.shape, spacing_mm, strict=True))
    whole = [int(np.floor(n * s)) for n, s in zip(thick.shape, spacing_mm, strict=True)]
    assert thick.mean() == pytest.approx(volume[tuple(map(slice, whole))].mean(), rel=0.01)


def test_a_thick_slice_is_the_mean_of_its_slices():
    volume = np.random.default_rng(0).random((10, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(averaged(volume, (5, 1, 1))[1], volume[5:10].mean(0), rtol=1e-5)
    half = averaged(volume, (2.5, 1, 1))[0]
    np.testing.assert_allclose(half, (volume[0] + volume[1] + 0.5 * volume[2]) / 2.5, rtol=1e-5)


# -------------------------------------------------------------------------------------------------------------- scans


def test_a_scan_is_noisy_biased_and_dark_in_low_slices_and_leaves_the_head_alone(head):
    scan = acquire(head, np.random.default_rng(0))
    assert scan.shape == SHAPE
    assert scan.dtype == np.int16
    assert head.max() == 1
    low, high = (scan[k, 60:200, 80:180].mean() for k in (14, 80))
    assert low < 0.9 * high
    assert scan[5].std() > 0  # noise in air


def test_scans_differ_in_noise_and_gain(head):
    scans = [acquire(head, np.random.default_rng(seed))[60:100, 100:150, 100:150] for seed in range(4)]
    gain = [scan.mean() for scan in scans]
    grain = [np.diff(scan.astype(float), axis=0).std() / scan.mean() for scan in scans]
    assert max(gain) > 1.5 * min(gain)
    assert max(grain) > 1.3 * min(grain)


def test_a_scan_of_thick_slices_has_their_grid(head):
    scan = acquire(head, np.random.default_rng(1), spacing_mm=(5, 0.9, 0.9))
    assert scan.shape == (32, 284, 284)


def test_the_same_seed_gives_the_same_scan(head):
    blood = np.zeros_like(head)
    blood[80, 100:110, 100:110] = 1
    one, other = (acquire(head, np.random.default_rng(3), blood=blood) for _ in range(2))
    np.testing.assert_array_equal(one, other)
