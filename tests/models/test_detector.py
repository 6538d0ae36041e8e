"""A detector normalises as its weights say, and can undo the prior that it was trained on."""

import nibabel
import numpy as np
import pytest
from small_scans import drawn_head

from kit.models import Detector, ModelError, build, prior_shift, probability_map, save_weights
from kit.scans import load_scan, normalise


def odds(p):
    return p / (1 - p)


def test_with_the_shift_odds_change_by_the_ratio_of_the_priors(tmp_path):
    path = tmp_path / "A.safetensors"
    save_weights(build("A", seed=0), path, {"lesion_share": "0.5", "prior": "0.01"})
    image = np.random.default_rng(0).normal(300, 50, (3, 12, 12))
    plain, calibrated = (Detector.load("A", path, calibrated=c)(image) for c in (False, True))
    np.testing.assert_allclose(odds(calibrated) / odds(plain), 1 / 99, rtol=1e-3)


def test_a_classifier_of_balanced_samples_becomes_calibrated_for_the_true_share():
    rng = np.random.default_rng(0)
    lesion = rng.random(400_000) < 0.02
    value = rng.normal(lesion * 2.0)  # one number a voxel; the balanced posterior is known
    balanced = 2 * value - 2  # its logit
    p = 1 / (1 + np.exp(-(balanced + prior_shift(0.5, 0.02))))
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1.0)):
        some = (p >= low) & (p < high)
        assert lesion[some].mean() == pytest.approx(p[some].mean(), abs=0.02)


def test_weights_that_do_not_tell_their_prior_and_shares_out_of_range_are_refused(tmp_path):
    save_weights(build("A", seed=0), tmp_path / "A.safetensors")
    with pytest.raises(ModelError, match="calibrated=False"):
        Detector.load("A", tmp_path / "A.safetensors", calibrated=True)
    with pytest.raises(ModelError, match="prior is 0"):
        prior_shift(0.5, 0)


@pytest.mark.parametrize(
    ("about", "statistics"),
    [
        ({"intensities": "brain"}, "brain"),
        ({"intensities": "scan"}, "scan"),
        ({}, "scan"),
        ({"intensities": "cohort", "mean": "3.5", "sd": "2"}, (3.5, 2.0)),
    ],
)
def test_scans_are_normalised_by_the_word_of_the_weights(tmp_path, about, statistics):
    save_weights(build("A", seed=0), tmp_path / "A.safetensors", about)
    detector = Detector.load("A", tmp_path / "A.safetensors")
    assert detector.statistics == statistics
    if statistics == "brain":
        image, _, _ = drawn_head((4, 4, 4))
        seen = np.repeat(np.repeat(np.repeat(image, 4, 0), 4, 1), 4, 2)[:, 30:-30, 30:-30]
        mask = np.zeros(seen.shape, bool)
        mask[100, 60, 40:44] = True
        expected = probability_map(detector.network, normalise(seen, "brain"), mask)
        np.testing.assert_array_equal(detector(seen, mask), expected)


def test_voxels_that_loading_leaves_as_they_are_are_taken_and_others_refused(tmp_path):
    image = np.random.default_rng(0).normal(300, 50, (3, 9, 9)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image.T, np.diag([1.015625, 1.015625, 1, 1])), tmp_path / "scan.nii")
    scan, detector = load_scan(tmp_path / "scan.nii"), Detector(build("A", seed=0))
    assert max(scan.spacing_mm) == 1.015625
    assert detector(scan.image, spacing_mm=scan.spacing_mm).shape == (3, 9, 9)
    with pytest.raises(ModelError, match=r"voxels are 1 x 1\.03 x 1 mm.*as kit\.scans\.load_row does"):
        detector(scan.image, spacing_mm=(1, 1.03, 1))


def test_a_lattice_of_a_map_holds_the_whole_maps_values():
    network, image = build("D", seed=0), np.random.default_rng(0).normal(size=(3, 21, 19)).astype("f4")
    whole, lattice = probability_map(network, image), probability_map(network, image, step=4)
    np.testing.assert_allclose(lattice[:, ::4, ::4], whole[:, ::4, ::4], atol=1e-6)
    assert np.count_nonzero(lattice) == 3 * 6 * 5
