"""The head is found with its dark inside and without the noise of the air, and in it the brain, with all lesions."""

import numpy as np
import pytest
from small_scans import drawn_head

from kit.phantom import draw_head, draw_scan
from kit.phantom.acquisition import acquire
from kit.scans import (
    ScanError,
    brain_mask,
    brain_statistics,
    components,
    fit_template,
    foreground,
    intensity_statistics,
    load_scan,
    normalise,
    search_region,
)

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
    np.testing.assert_allclose(normalise(image, (mean, sd)), (image - mean) / sd, atol=1e-5)


def test_statistics_that_do_not_exist_are_refused():
    with pytest.raises(ScanError, match="do not vary"):
        intensity_statistics(np.ones((2, 3, 4)))
    with pytest.raises(ScanError, match="0 foreground voxels"):
        intensity_statistics(VOXELS, np.zeros(VOXELS.shape))
    with pytest.raises(ScanError, match="statistics is 'head'; choose one of scan, brain"):
        normalise(VOXELS, "head")
    with pytest.raises(ScanError, match="sd above 0"):
        normalise(VOXELS, (1, 0))


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


# ------------------------------------------------------------------------------------------------------------- brain


@pytest.mark.parametrize("spacing_mm", [(2, 2, 2), (5, 1.5, 1.5)])
def test_the_brain_of_a_drawn_head_is_found_without_most_of_its_scalp_and_face(spacing_mm):
    image, brain, scalp = drawn_head(spacing_mm)
    mask = brain_mask(image * 700 - 20, spacing_mm)
    assert (brain & ~mask).sum() < 0.01 * brain.sum()
    assert (scalp & mask).sum() < 0.25 * scalp.sum()
    assert not (mask & ~foreground(image)).any()


def test_of_a_stripped_brain_all_is_kept():
    image, brain, _ = drawn_head((3, 2, 2), stripped=True)
    np.testing.assert_array_equal(brain_mask(image, (3, 2, 2)), foreground(image))
    assert not (brain & ~foreground(image)).any()


def test_where_no_brain_is_found_the_head_is_searched_with_a_warning():
    image, _, _ = drawn_head((2, 2, 2))
    with pytest.warns(UserWarning, match="no brain is found.*voxel sizes"):
        mask = brain_mask(image[48:60])
    np.testing.assert_array_equal(mask, foreground(image[48:60]))
    assert not brain_mask(np.zeros((3, 4, 5))).any()


def test_a_scan_is_searched_in_its_own_mask_or_by_the_word(write_image):
    image, _, _ = drawn_head((4, 4, 4))
    scan = load_scan(write_image("scan.nii.gz", image.T, np.diag([-4.0, -4, 4, 1])), spacing_mm=None)
    np.testing.assert_array_equal(search_region(scan, {}), foreground(scan.image))
    np.testing.assert_array_equal(search_region(scan, {}, "brain"), brain_mask(scan.image, scan.spacing_mm))
    mask = write_image("mask.nii.gz", (image.T > 0.5).astype(np.uint8), np.diag([-4.0, -4, 4, 1]))
    np.testing.assert_array_equal(search_region(scan, {"mask": mask}, "brain"), scan.image > 0.5)
    with pytest.raises(ScanError, match="search is 'skull'; choose one of head, brain"):
        search_region(scan, {}, "skull")


# ------------------------------------------------------------------------------------- normalisation by the brain


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (0.7, -3), (900, 50)])
def test_normalised_by_the_brain_a_scan_is_the_same_with_skull_and_without_in_any_units(scale, offset):
    (whole, brain, _), (stripped, _, _) = (drawn_head((2, 2, 2), stripped) for stripped in (False, True))
    whole, stripped = (normalise(image * scale + offset, "brain", (2, 2, 2)) for image in (whole, stripped))
    np.testing.assert_allclose(whole[brain], stripped[brain], atol=0.05)
    assert np.median(whole[brain]) == pytest.approx(0, abs=0.05)
    assert stripped.min() == pytest.approx(-2.5, abs=0.01)


def test_lesions_vessels_and_wide_ventricles_do_not_move_the_brains_statistics():
    image, brain, _ = drawn_head((2, 2, 2))
    wanted = brain_statistics(image, (2, 2, 2))
    middle = np.array(image.shape) // 2
    balls = [sum((g - m) ** 2 for g, m in zip(np.indices(image.shape), middle + at, strict=True)) for at in (-12, 14)]
    image[brain & (balls[0] < 10**2)] = 2.5  # 4 cm, bright
    image[brain & (balls[1] < 12**2)] = 0.3  # 5 cm, fluid
    image[:, middle[1] :: 9, middle[2] :: 9][brain[:, middle[1] :: 9, middle[2] :: 9]] = 4
    np.testing.assert_allclose(brain_statistics(image, (2, 2, 2)), wanted, rtol=0.02)


def test_a_scan_without_a_brain_is_normalised_by_its_innermost_part_with_a_warning():
    image, _, _ = drawn_head((2, 2, 2))
    with pytest.warns(UserWarning, match="no brain is found.*innermost part"):
        brain, unit = brain_statistics(image[48:60])
    assert (brain, unit) == pytest.approx((1, 0.4), rel=0.05)


def test_a_scan_of_nothing_has_no_brain_to_be_normalised_by():
    with pytest.raises(ScanError, match="no voxel is brighter than air"):
        brain_statistics(np.zeros((3, 4, 5)))


def test_a_brain_is_fitted_once_however_often_it_is_asked_for(monkeypatch):
    image, _, _ = drawn_head((4, 4, 4))
    wanted = brain_mask(image, (4, 4, 4)), brain_statistics(image, (4, 4, 4))
    monkeypatch.setattr("kit.scans.head._fit_template", None)
    np.testing.assert_array_equal(brain_mask(image.copy(), (4, 4, 4)), wanted[0])
    assert brain_statistics(image, (4, 4, 4)) == wanted[1]
    with pytest.raises(TypeError):
        brain_statistics(image + 1, (4, 4, 4))


def test_a_fitted_brain_is_found_by_other_processes_in_the_folder_of_kept_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "kept"))
    image, _, _ = drawn_head((4, 5, 4))
    head = foreground(image)
    monkeypatch.setattr("kit.scans.head._FITS", {})
    similarity, to_template = fit_template(image, head, (4, 5, 4))
    (file,) = (tmp_path / "kept").iterdir()
    monkeypatch.setattr("kit.scans.head._FITS", {})  # as in another process
    with monkeypatch.context() as patched:
        patched.setattr("kit.scans.head._fit_template", None)
        again = fit_template(image, head, (4, 5, 4))
        with pytest.raises(TypeError):
            fit_template(image + 1, head, (4, 5, 4))
    assert again[0] == similarity
    np.testing.assert_array_equal(again[1], to_template)
    file.write_bytes(file.read_bytes()[:100])  # damaged: made anew
    monkeypatch.setattr("kit.scans.head._FITS", {})
    np.testing.assert_array_equal(fit_template(image, head, (4, 5, 4))[1], to_template)
    assert file.stat().st_size > 100


@pytest.mark.slow
def test_of_a_synthetic_head_the_brain_is_the_same_with_skull_and_without():
    head = draw_head(np.random.default_rng([7, 0]))
    whole = acquire(head.image, np.random.default_rng([7, 2, 1])).astype(np.float32)
    stripped = np.where(head.brain, whole, 0)
    apart = normalise(stripped, "brain")[head.brain] - normalise(whole, "brain")[head.brain]
    assert abs(apart).mean() < 0.05
    apart = normalise(stripped)[head.brain] - normalise(whole)[head.brain]
    assert abs(apart).mean() > 0.15


@pytest.mark.slow
def test_no_lesion_of_a_synthetic_head_is_lost():
    image, label = draw_scan(2015009, [8.0, 3.0, 2.0, 4.0, 1.5, 5.0])
    mask = brain_mask(image)
    assert (label & mask).sum() > 0.97 * label.sum()
    numbered = components(label)
    assert set(np.unique(numbered[mask])) == set(range(numbered.max() + 1))
    assert mask.sum() < 0.75 * foreground(image).sum()


REAL = [("met-00110", "2"), ("glioma-0003", "4"), ("glioma-0005", "4"), ("glioma-0006", "4"), ("tumour-b1", None)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codes"), REAL)
def test_no_voxel_of_a_real_lesion_is_lost(name, codes, shared_data):
    folder = shared_data / "scans" / name
    scan = load_scan(folder / "t1c.nii.gz", folder / "label.nii.gz", lesion_codes=codes)
    mask = brain_mask(scan.image, scan.spacing_mm)
    head = foreground(scan.image)
    assert not (scan.label & head & ~mask).any()
    assert mask.sum() < 0.65 * head.sum() if name == "tumour-b1" else (mask == head).all()
