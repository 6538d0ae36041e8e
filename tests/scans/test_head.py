"""The head is found with its dark inside and without the noise of the air, and normalised by what lies in it."""

import numpy as np
import pytest

from kit.scans import ScanError, foreground, intensity_statistics, load_scan, normalise

VOXELS = np.arange(24.0).reshape(2, 3, 4)


def round_head(shape=(40, 64, 64), seed=0, noise=0.04, stripped=False):
    """A scalp ring, dark skull, brain with a dark ventricle, under Rician noise; white matter is 1."""
    rng = np.random.default_rng(seed)
    row, column = np.indices(shape[1:])
    radius = np.hypot((row - 32) / 28, (column - 32) / 24)
    plane = np.select([radius < 0.2, radius < 0.8, radius < 0.9, radius < 1], [0.1, 1, 0.02, 1.4], 0)
    plane = np.where(radius < 0.8, plane, 0) if stripped else plane
    head = np.repeat(plane[None], shape[0], axis=0)
    noisy = np.hypot(head + rng.normal(0, noise, shape), rng.normal(0, noise, shape))
    inside = np.repeat((radius < (0.8 if stripped else 1))[None], shape[0], axis=0)
    return (np.where(inside, noisy, 0) if stripped else noisy).astype("f4"), inside


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.04])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (900, 50), (0.7, -3)])
def test_foreground_is_the_head_without_noisy_air_and_with_its_dark_inside(noise, scale, offset):
    image, head = round_head(noise=noise)
    found = foreground(image * scale + offset)
    assert (found ^ head).mean() < 0.005


def test_foreground_of_a_stripped_z_scored_brain_is_every_voxel_above_its_minimum():
    image, brain = round_head(stripped=True)
    found = foreground((image - 0.3) / 0.4)
    np.testing.assert_array_equal(found, brain)


def test_foreground_of_nothing_and_of_all_tissue():
    assert not foreground(np.full((3, 4, 5), 2.0)).any()
    assert foreground(np.random.default_rng(0).random((8, 9, 10)) + 5).mean() > 0.5


def test_normalised_scans_have_zero_mean_and_unit_deviation_over_their_head():
    image, _ = round_head()
    head = foreground(image)
    result = normalise(image * 300 + 7)
    assert result.dtype == np.float32
    assert result[head].mean() == pytest.approx(0, abs=1e-4)
    assert result[head].std() == pytest.approx(1, abs=1e-4)
    mean, sd = intensity_statistics(image, head)
    np.testing.assert_allclose(normalise(image, mean, sd), (image - mean) / sd, atol=1e-5)


def test_statistics_that_do_not_exist_are_refused():
    with pytest.raises(ScanError, match="do not vary"):
        intensity_statistics(np.ones((2, 3, 4)))
    with pytest.raises(ScanError, match="0 foreground voxels"):
        intensity_statistics(VOXELS, np.zeros(VOXELS.shape))
    with pytest.raises(ScanError, match="give both"):
        normalise(VOXELS, mean=1)
    with pytest.raises(ScanError, match="sd above 0"):
        normalise(VOXELS, mean=1, sd=0)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("scans/met-00110/t1c", 0.12, 0.2), ("scans/glioma-0003/t1c", 0.12, 0.22), ("healthy/head-t1", 0.17, 0.26)],
)
def test_foreground_of_real_scans_is_as_large_as_a_head(name, low, high, shared_data):
    image = load_scan(shared_data / f"{name}.nii.gz").image
    head = foreground(image)
    assert low < head.mean() < high
    assert head[tuple(n // 2 for n in image.shape)]
    assert not head[:, 0, 0].any()
