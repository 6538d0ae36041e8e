"""What a scan looks like, on scans drawn with known contrast, noise, spectrum, vessels and edges."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from nilearn import datasets
from scipy import ndimage

from kit.phantom.realism import Tissue, compare_scans, measure_lesions, measure_scan, noise, see_tissue, spectrum
from kit.scans import read_manifest, write_manifest

CSF, GREY, NOISE, BIAS = 0.4, 0.8, 0.02, 0.1


@pytest.fixture(scope="module")
def head():
    """A skull-stripped brain at 2 mm of known fluid and grey matter (white is 1), with a smooth bias and noise."""
    loaders = datasets.load_mni152_gm_template, datasets.load_mni152_wm_template, datasets.load_mni152_template
    grey, white, t1 = (
        load(resolution=2).get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1, ::-1] for load in loaders
    )
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    classes = np.argmax(np.stack([np.maximum(1 - grey - white, 0), grey, white]), axis=0)
    image = ndimage.gaussian_filter(np.array([CSF, GREY, 1.0])[classes], 0.3)
    image = image * np.exp(BIAS * ramp(image)) + np.random.default_rng(1).normal(0, NOISE, image.shape)
    return (700 * image * brain).astype(np.float32)


def ramp(image):
    return np.broadcast_to(np.linspace(-1, 1, image.shape[1])[:, None], image.shape)


def check_contrast(found):
    assert found["csf"] == pytest.approx(CSF, abs=0.06)
    assert found["grey"] == pytest.approx(GREY, abs=0.03)


def drawn(image, spacing=(1.0, 1.0, 1.0), sd=0.1):
    everywhere = np.ones(image.shape, bool)
    return Tissue(image.astype(np.float32), everywhere, everywhere, everywhere, spacing, {"white_sd": sd})


def ball(shape, centre, radius, spacing):
    axes = [(g - c) * s for g, c, s in zip(np.ogrid[tuple(map(slice, shape))], centre, spacing, strict=True)]
    return np.sqrt(sum(a**2 for a in axes)) <= radius


@pytest.mark.slow
def test_contrast_noise_and_bias_are_what_was_drawn(head):
    tissue = see_tissue(head, spacing_mm=(2, 2, 2))
    found = measure_scan(tissue)
    assert found["fit"] > 0.8
    check_contrast(found)
    assert found["noise"] == pytest.approx(NOISE, rel=0.25)
    assert found["bias"] == pytest.approx(np.std(BIAS * ramp(head)[tissue.healthy]), rel=0.25)
    assert np.median(tissue.image[tissue.white]) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_thick_slices_change_no_contrast_and_near_lesions_nothing_is_healthy(head):
    label = np.zeros(head[::2].shape, bool)
    label[25:28, 60:66, 40:46] = True
    tissue = see_tissue(head[::2], label, (4, 2, 2))
    check_contrast(measure_scan(tissue))
    near = ndimage.distance_transform_edt(~label, sampling=(4, 2, 2)) <= 6
    assert not tissue.healthy[near].any()
    assert tissue.brain[label].all()


@pytest.mark.slow
def test_scans_of_a_manifest_are_compared_under_their_names_whatever_the_unit_of_intensity(head, tmp_path):
    file = nibabel.Nifti1Image(0.01 * head.transpose(2, 1, 0) - 3, np.diag([-2.0, -2, 2, 1]))
    nibabel.save(file, tmp_path / "a.nii.gz")
    row = {"scan_id": "a", "patient_id": "p", "session": 1, "image": "a.nii.gz", "label": "", "split": "test"}
    write_manifest(pd.DataFrame([row]), tmp_path / "manifest.csv")
    scans, lesions, spectra = compare_scans(read_manifest(tmp_path / "manifest.csv"), progress=False)
    assert scans.scan_id.tolist() == ["a"]
    assert scans.grey[0] == pytest.approx(GREY, abs=0.05)  # read at 1 mm: interpolation mixes tissues
    assert set(spectra.scan_id) == {"a"}
    assert lesions.empty


def test_noise_of_a_smooth_image_is_that_of_its_grain_alone():
    slope = np.linspace(0, 1, 50)[:, None] * np.linspace(0, 1, 60)
    image = slope + np.random.default_rng(0).normal(0, 0.03, (20, 50, 60))
    assert noise(image, np.ones(image.shape, bool)) == pytest.approx(0.03, rel=0.03)


def test_white_noise_has_a_flat_spectrum_of_its_variance_times_the_voxel():
    image = np.random.default_rng(0).normal(0, 0.1, (40, 80, 80))
    curve = spectrum(drawn(image, spacing=(2.0, 1.0, 1.0)))
    assert curve.in_plane.iloc[3:-1].mean() == pytest.approx(0.01 * 1, rel=0.05)
    assert curve.through_plane.dropna().iloc[3:-1].mean() == pytest.approx(0.01 * 2, rel=0.05)
    assert curve.through_plane.last_valid_index() == 11  # 0.25 cycles per mm: slices are 2 mm apart


def test_a_wave_stands_in_the_spectrum_at_its_own_frequency_and_direction():
    places = np.arange(96) * 0.5  # columns of 0.5 mm
    image = np.zeros((60, 60, 96)) + np.sin(2 * np.pi * places / 6) + np.random.default_rng(0).normal(0, 1e-3, 96)
    curve = spectrum(drawn(image, spacing=(1.0, 1.0, 0.5)))
    assert curve.frequency[curve.in_plane.idxmax()] == pytest.approx(1 / 6)
    assert curve.through_plane.max() < 1e-6


def test_blur_steepens_the_spectrum_across_the_slices_it_blurs():
    image = np.random.default_rng(0).normal(0, 0.1, (80, 80, 80))
    found = measure_scan(drawn(ndimage.gaussian_filter1d(image, 2, axis=0)))
    assert found["slope"] == pytest.approx(0, abs=0.1)
    assert found["slope_through"] < -2


def test_thin_bright_tubes_are_vessels_and_a_large_bright_mass_is_none():
    image = np.ones((30, 60, 60))
    image[:, 10:12, 10:12] = image[:, 40:42, 20:22] = 2  # two tubes of 2 x 2 mm with slices 2 mm apart
    image[5:25, 20:38, 38:56] = 2
    found = measure_scan(drawn(image, spacing=(2.0, 1.0, 1.0)))
    litres = image.size * 2 / 1e6
    assert found["vessels"] == pytest.approx(2 / litres)
    assert found["vessel_share"] == pytest.approx(1000 * 2 * 30 * 4 / image.size)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.75, 0.75)])
def test_the_edge_of_a_blurred_lesion_is_2_56_times_the_blur_and_its_contrast_what_was_drawn(spacing):
    shape, centre, fine = (50, 60, 60), (25.2, 30.1, 29.7), 1.2
    label = ball(shape, centre, 9, spacing)
    image = 0.9 + 0.6 * ndimage.gaussian_filter(label.astype(float), fine / np.array(spacing))
    (row,) = measure_lesions(drawn(image, spacing, sd=0.05), label).itertuples()
    assert row.edge_mm == pytest.approx(2.563 * fine, rel=0.12)
    assert row.contrast == pytest.approx(0.6, abs=0.03)
    assert row.contrast_sd == pytest.approx(row.contrast / 0.05)
    assert row.around == pytest.approx(0.9, abs=0.02)


def test_the_core_of_a_ring_belongs_to_the_lesion_and_is_measured():
    shape, centre, spacing = (40, 50, 50), (20, 25, 25), (1.0, 1.0, 1.0)
    whole, core = ball(shape, centre, 10, spacing), ball(shape, centre, 6, spacing)
    image = np.where(whole, 1.5, 1.0)
    image[core] = 0.4
    (row,) = measure_lesions(drawn(image), whole & ~core).itertuples()
    assert row.voxels == whole.sum()
    assert (row.rim, row.core, row.around) == pytest.approx((1.5, 0.4, 1.0))


def test_a_label_without_lesion_gives_the_columns_and_no_row():
    table = measure_lesions(drawn(np.ones((5, 5, 5))), np.zeros((5, 5, 5)))
    assert len(table) == 0
    assert {"rim", "core", "around", "contrast", "contrast_sd", "edge_mm", "sigma_r"} <= set(table)
