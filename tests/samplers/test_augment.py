"""Each effect does what it says, and the same rows give the same bytes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from small_scans import cohort_of

from kit.samplers import (
    AUGMENTATIONS,
    NOTHING,
    TAKEN_OFF,
    Augmentation,
    Cohort,
    Places,
    Resident,
    SamplerError,
    draw,
    draw_segments,
    label_maps,
    patches,
    read_segments,
)
from kit.samplers.augment import draw_looks, vary

NO = dict.fromkeys(
    ("mirrored", "zoom", "thick", "blurred", "bias", "noisy", "power", "contrast", "offset", "stripped"), 0
)
STILL = Augmentation(**NO)
SHAPE, PATCH = (20, 70, 80), (5, 21, 21)


@pytest.fixture(scope="module")
def cohort():
    """A textured scan with a lesion, left of whose 40th column lies no brain."""
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, bool)
    label[8:12, 20:30, 50:58] = True
    volume = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) + 3 * label
    beyond = np.broadcast_to(39.5 - np.arange(SHAPE[2]), SHAPE).round().astype(np.int8)
    return cohort_of(volume, label, ~label, beyond=beyond)


def flat(count=64, shape=(5, 31, 31), signal=1.0):
    return torch.full((count, *shape), (signal - 1) / 0.4)


def varied(crops, beyond=None, seeds=None, **effects):
    """Crops with one effect, and the looks."""
    looks = draw_looks(replace(STILL, **effects), np.arange(len(crops)) if seeds is None else seeds)
    return vary(crops.clone(), looks, beyond), looks


def signal(crops):
    return 1 + 0.4 * crops.double().numpy()


def test_with_nothing_to_change_crops_stay_as_they_are():
    crops = torch.rand(9, 5, 31, 31) * 4 - 2.5
    torch.testing.assert_close(varied(crops)[0], crops, atol=1e-5, rtol=0)


def test_a_power_keeps_air_and_brain_and_goes_both_ways():
    crops = torch.linspace(-2.4, 2, 50).repeat(40, 5, 1, 1)
    found, looks = varied(crops, power=0.3)
    ratio = np.log(signal(found)) / np.log(signal(crops))
    wanted = np.broadcast_to(looks.power[:, None, None, None], ratio.shape)
    sure = abs(np.log(signal(crops))) > 0.01
    np.testing.assert_allclose(ratio[sure], wanted[sure], rtol=1e-3)
    assert looks.power.min() < 0.85 < 1.15 < looks.power.max()
    assert abs(np.log(looks.power)).max() <= 0.3


def test_contrast_and_offset_are_linear_around_the_brain():
    crops = torch.rand(40, 5, 8, 9) * 4 - 2.5
    found, looks = varied(crops, contrast=0.25, offset=0.08)
    wanted = 1 + looks.contrast[:, None, None, None] * (signal(crops) - 1) + looks.offset[:, None, None, None]
    np.testing.assert_allclose(signal(found), wanted, atol=1e-5)
    assert abs(looks.offset).max() <= 0.08 < 0.1 < abs(np.log(looks.contrast)).max() <= 0.25


def test_bias_is_a_smooth_factor_that_is_1_in_the_middle():
    found, looks = varied(flat(shape=(5, 41, 61)), bias=0.2)
    field = np.log(signal(found))
    np.testing.assert_allclose(field[:, 2, 20, 30], 0, atol=1e-6)
    slope, curvature = looks.bias[:, 2].T
    np.testing.assert_allclose(field[:, 2, 20, 60], slope / 2 + curvature / 4, atol=1e-5)
    assert abs(np.diff(field, 3, axis=3)).max() < 1e-5
    assert field.min() < -0.1 < 0.1 < field.max()


def test_blur_spreads_a_voxel_by_its_sd_and_keeps_its_sum():
    crops = flat(signal=0)
    crops[:, 2, 15, 15] = 0
    found, looks = varied(crops, blurred=1, blur_mm=(0.4, 0.7))
    spot = signal(found)[:, 2]
    np.testing.assert_allclose(spot.sum((1, 2)), 1, atol=1e-3)
    sd = np.sqrt((spot.sum(1) * (np.arange(31) - 15) ** 2).sum(1))
    np.testing.assert_allclose(sd, looks.blur_mm, atol=0.12)  # few voxels have to do
    assert abs(signal(found)[:, [0, 1, 3, 4]]).max() < 1e-6


def test_thick_slices_keep_what_is_even_and_mix_what_is_not():
    crops = torch.randn(64, 5, 9, 9, generator=torch.Generator().manual_seed(0)) * 0.2
    found, looks = varied(crops, thick=1, thick_mm=(3.0, 6.0))
    assert looks.thick_mm.min() >= 3
    assert found.std() < 0.7 * crops.std()
    assert found.diff(dim=1).std() < 0.3 * crops.diff(dim=1).std()
    even = torch.randn(64, 1, 9, 9).clamp(-2, 2).expand(-1, 5, -1, -1)
    torch.testing.assert_close(varied(even, thick=1, thick_mm=(3.0, 6.0))[0], even.contiguous(), atol=1e-5, rtol=0)
    one = torch.rand(4, 1, 9, 9)
    torch.testing.assert_close(varied(one, thick=1)[0], one, atol=1e-5, rtol=0)


def test_noise_has_its_sd_and_in_every_second_crop_neighbours_correlate():
    found, looks = varied(flat(shape=(5, 51, 51)), noisy=1)
    noise = signal(found) - 1
    np.testing.assert_allclose(noise[:, :, 3:-3, 3:-3].std((1, 2, 3)), looks.noise, rtol=0.06)
    alike = (noise[..., 1:] * noise[..., :-1]).mean((1, 2, 3)) / noise.var((1, 2, 3))
    assert (alike[looks.grain_mm > 0] > 0.1).all()
    assert (abs(alike[looks.grain_mm == 0]) < 0.05).all()
    assert 0.3 < (looks.grain_mm > 0).mean() < 0.7
    air = signal(varied(flat(signal=0), noisy=1)[0])
    assert air.min() >= -1e-6


def test_skulls_are_taken_off_exactly_outside_the_border_unless_the_middle_is():
    crops = torch.rand(50, 5, 31, 31)
    beyond = torch.randn(50, 5, 31, 31) * 5
    found, looks = varied(crops, lambda some: beyond[torch.from_numpy(some)], stripped=0.6, strip_mm=(-1.0, 3.0))
    border = np.where(beyond[:, 2, 15, 15].numpy() <= looks.strip_mm, looks.strip_mm, np.inf)[:, None, None, None]
    off = beyond.numpy() > border
    assert 0.2 < np.isfinite(border).mean() < 0.5
    assert (found.numpy()[off] == TAKEN_OFF).all()
    np.testing.assert_allclose(found.numpy()[~off], crops.numpy()[~off], atol=1e-5)


def test_a_mirrored_patch_and_its_labels_are_the_patch_seen_in_a_mirror(cohort):
    rows = draw(cohort, seed=1, limit=40, augment=replace(STILL, mirrored=0.5))
    rows["angle"] = np.float32(0)
    assert set(rows.mirror) == {-1, 1}
    found = [patches(cohort, some, PATCH, some.angle) for some in (rows, rows.drop(columns="mirror"))]
    maps = [label_maps(cohort, some, 7, some.angle) for some in (rows, rows.drop(columns="mirror"))]
    for at, mirror in enumerate(rows.mirror):
        back = [2] if mirror < 0 else []
        torch.testing.assert_close(found[0][at], found[1][at].flip(back), atol=1e-5, rtol=0)
        assert torch.equal(maps[0][at], maps[1][at].flip([1] if mirror < 0 else []))


def test_zoom_is_the_distance_from_voxel_to_voxel():
    ramp = cohort_of(np.arange(60.0) * np.ones((9, 60, 1)), beyond=np.zeros((9, 60, 60), np.int8))
    rows = pd.DataFrame({"scan": pd.Categorical(["made"] * 3), "slice": 4, "row": 30, "column": 30, "mirror": 1.0})
    rows["zoom"] = [0.9, 1.0, 1.1]
    found = patches(ramp, rows, (1, 5, 11), np.zeros(3))
    torch.testing.assert_close(found.diff(dim=3)[:, 0, 2, 4], torch.tensor([0.9, 1.0, 1.1]), atol=1e-3, rtol=0)
    assert (found[:, 0, 2, 5] == 30).all()


def test_lattices_move_with_their_crops_and_what_is_taken_off_is_nothing(cohort):
    look = replace(STILL, mirrored=0.5, zoom=0.1, stripped=0.5, strip_mm=(0.0, 0.0))
    rows = draw_segments(cohort, seed=2, steps=6, step=2, count=9, augment=look)
    crops, lattice = read_segments(cohort, rows, PATCH, 2, count=9, augment=look)
    plain, kept = read_segments(cohort, rows, PATCH, 2, count=9)
    seen = crops[:, 2, 10:27:2, 10:27:2].numpy()
    off = seen == TAKEN_OFF
    assert (lattice.kind[off] == NOTHING).all()
    assert off.any()
    np.testing.assert_array_equal(lattice.kind[~off], kept.kind[~off])
    np.testing.assert_allclose(seen[~off], plain[:, 2, 10:27:2, 10:27:2].numpy()[~off], atol=1e-4)
    lesion = lattice.kind == 2
    assert seen[lesion].mean() > 2 > 0.5 > seen[lattice.kind == 1].mean()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_rows_give_the_same_bytes_with_any_number_of_threads(cohort, threads):
    rows = draw_segments(cohort, seed=3, steps=4, step=4, augment="scanner")
    before = torch.get_num_threads()
    found = []
    for count in (1, threads):
        torch.set_num_threads(count)
        found.append(read_segments(cohort, rows, (5, 51, 51), 4, augment="scanner")[0])
    torch.set_num_threads(before)
    assert torch.equal(*found)
    again = draw_segments(cohort, seed=3, steps=4, step=4, augment="scanner")
    pd.testing.assert_frame_equal(again, rows)


def test_augmented_draws_visit_the_voxels_of_plain_ones(cohort):
    for plain, augmented in (
        [draw(cohort, seed=4, augment=word) for word in AUGMENTATIONS],
        [draw_segments(cohort, "border-pairs", seed=4, steps=3, step=4, augment=word) for word in AUGMENTATIONS],
    ):
        assert set(augmented) - set(plain) == {"mirror", "zoom", "look"}
        pd.testing.assert_frame_equal(augmented[plain.columns], plain)
        assert augmented.look.nunique() == len(augmented) or augmented.get("twin", pd.Series([False])).any()


def test_patches_of_a_resident_cohort_have_the_same_looks(cohort):
    rows = draw(cohort, seed=5, limit=60, augment="scanner")
    wanted = patches(cohort, rows, PATCH, rows.angle.to_numpy(), augment="scanner")
    found = Resident(cohort, "cpu", "scanner").patches(Places.of(rows, "cpu"), PATCH)
    near = torch.isclose(found, wanted, atol=2e-3, rtol=1e-3)
    assert near.float().mean() > 0.999  # at the border of what is taken off rounding may decide
    assert torch.equal(found == TAKEN_OFF, wanted == TAKEN_OFF) or (found == TAKEN_OFF).float().mean() > 0.01


def test_unknown_names_and_scans_normalised_otherwise_are_refused(cohort):
    rows = draw(cohort, limit=4, augment="scanner")
    with pytest.raises(
        SamplerError,
        match=r"augment is 'scaner' \(perhaps 'scanner' is meant\); choose one of none, scanner",
    ):
        draw(cohort, augment="scaner")
    for others in (Cohort(cohort.scans, "scan"), Cohort((replace(cohort.scans[0], beyond=None),), "brain")):
        with pytest.raises(SamplerError, match="intensities='brain' and the same augment"):
            patches(others, rows, PATCH, augment="scanner")
