"""Draws are what the thesis says, patches are what a plain slice or a slow rotation gives, and the cache is honest."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from small_scans import SHAPE, make_scan, save, write_cohort

from kit import samplers
from kit.manifest import ManifestError
from kit.samplers import Cohort, PreparedScan, draw, patches, prepare
from kit.volume import ScanError, foreground, normalise

PATCH = (5, 21, 21)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three scans with lesions and a fourth without a label."""
    table = write_cohort(tmp_path_factory.mktemp("scans"), seeds=[1, 2, 3, 4])
    table.loc[3, "label"] = ""
    return table


@pytest.fixture(scope="module")
def cohort(files, tmp_path_factory):
    return prepare(files, tmp_path_factory.mktemp("cache"), progress=False)


def cohort_of(volume, lesion=(), healthy=()):
    """A cohort of one scan from an array, its own normalisation."""
    volume = np.asarray(volume, np.float16)
    flat = [np.asarray(positions, np.int32) for positions in (lesion, healthy)]
    return Cohort((PreparedScan("made", volume, *flat, 0.0, 1.0, volume.size, float(volume.min())),), None)


def row_at(*voxel):
    return pd.DataFrame([voxel], columns=["slice", "row", "column"]).assign(scan=pd.Categorical(["made"]))


def voxels(rows):
    return list(rows[["scan", "slice", "row", "column"]].itertuples(index=False, name=None))


def test_every_lesion_voxel_is_visited_exactly_once_an_epoch(cohort):
    rows = draw(cohort, "balanced", seed=3, epoch=5)
    wanted = {(f"s{seed}", *voxel) for seed in (1, 2, 3) for voxel in np.argwhere(make_scan(seed)[1]).tolist()}
    assert sorted(voxels(rows[rows.label])) == sorted(wanted)
    assert set(rows.why[rows.label]) == {"lesion"}


@pytest.mark.parametrize(("scheme", "times"), [("balanced", 1), ("ratio", 10)])
def test_healthy_voxels_come_in_the_schemes_proportion(cohort, scheme, times):
    rows = draw(cohort, scheme)
    assert (~rows.label).sum() == times * rows.label.sum()


def test_healthy_voxels_are_never_black_nor_lesion_and_lie_in_the_cohorts_own_scans(cohort):
    rows = draw(cohort, "ratio", seed=1)
    for seed in (1, 2, 3, 4):
        image, label = make_scan(seed)
        mine = rows[(rows.scan == f"s{seed}") & ~rows.label]
        index = tuple(mine[["slice", "row", "column"]].to_numpy().T)
        assert len(mine) > 100  # the scan without a label gives healthy voxels too
        assert foreground(image)[index].all()
        assert seed == 4 or not label[index].any()
    assert set(rows.scan) == {"s1", "s2", "s3", "s4"}


def test_no_patch_of_a_draw_is_black(cohort):
    rows = draw(cohort, "balanced", seed=1, limit=600)
    found = patches(cohort, rows, (1, 21, 21), rows.angle)
    assert found.flatten(1).std(dim=1).min() > 0.1


def test_healthy_voxels_are_drawn_uniformly_over_all_scans_together(cohort):
    counts = pd.concat([draw(cohort, "ratio", epoch=k) for k in range(5)]).query("~label").scan.value_counts()
    pool = pd.Series({scan.scan_id: len(scan.healthy) for scan in cohort.scans})
    expected = pool / pool.sum() * counts.sum()
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_healthy_voxels_are_drawn_anew_each_epoch(cohort):
    first, second = (voxels(draw(cohort, seed=1, epoch=k).query("~label")) for k in (1, 2))
    assert len(set(first) & set(second)) < 0.1 * len(first)


def test_the_same_seed_and_epoch_give_the_same_table_whatever_came_before(cohort):
    wanted = draw(cohort, seed=7, epoch=4)
    draw(cohort, seed=7, epoch=5)
    pd.testing.assert_frame_equal(draw(cohort, seed=7, epoch=4), wanted)
    assert not draw(cohort, seed=8, epoch=4).equals(wanted)


def test_positives_and_negatives_are_shuffled_together(cohort):
    label = draw(cohort).label.to_numpy()
    assert 0.4 < np.mean(label[1:] == label[:-1]) < 0.6


def test_a_limit_gives_a_random_subset_without_repetition_in_the_same_proportion(cohort):
    first, second = (draw(cohort, seed=1, epoch=k, limit=100) for k in (1, 2))
    assert len(first) == 100
    assert first.label.sum() == 50
    assert len(set(voxels(first[first.label]))) == 50
    assert set(voxels(first[first.label])) != set(voxels(second[second.label]))
    assert draw(cohort, "ratio", limit=100).label.sum() == 9
    assert len(draw(cohort, limit=10**9)) == len(draw(cohort))


def test_angles_are_uniform_between_minus_and_plus_15_degrees(cohort):
    angle = draw(cohort, "ratio").angle
    assert angle.between(-15, 15).all()
    assert angle.std() == pytest.approx(30 / 12**0.5, rel=0.05)
    assert abs(angle.mean()) < 0.5


def test_unrotated_patches_are_plain_slices_of_the_normalised_scan(cohort):
    rows = draw(cohort, limit=60)
    rows = rows[rows.slice.between(2, 21) & rows.row.between(10, 85) & rows.column.between(10, 85)]
    found = patches(cohort, rows, PATCH).numpy()
    images = {scan.scan_id: cohort.image(index) for index, scan in enumerate(cohort.scans)}
    for patch, (scan, z, y, x) in zip(found, voxels(rows), strict=True):
        np.testing.assert_array_equal(patch, images[scan][z - 2 : z + 3, y - 10 : y + 11, x - 10 : x + 11])


@pytest.mark.parametrize("voxel", [(0, 0, 0), (3, 5, 1), (1, 2, 6)])
def test_beyond_the_scan_lies_its_minimum(voxel):
    volume = np.arange(4 * 6 * 7).reshape(4, 6, 7) - 50
    found = patches(cohort_of(volume), row_at(*voxel), (3, 5, 7))[0].numpy()
    padded = np.pad(volume, 10, constant_values=-50)
    z, y, x = (v + 10 for v in voxel)
    np.testing.assert_array_equal(found, padded[z - 1 : z + 2, y - 2 : y + 3, x - 3 : x + 4])


def test_a_patch_wholly_beyond_a_small_scans_reach_is_filled_with_air():
    found = patches(cohort_of(np.ones((1, 2, 2)) * [[[-3, 1], [1, 1]]]), row_at(0, 0, 0), (9, 31, 31))
    assert found.shape == (1, 9, 31, 31)
    assert (found[0] > -3).sum() == 3


def test_rotated_patches_agree_with_a_slow_rotation(cohort):
    rows = draw(cohort, seed=2, limit=24)
    found = patches(cohort, rows, PATCH, rows.angle).numpy()
    larger = patches(cohort, rows, (5, 41, 41)).numpy()
    for patch, window, angle in zip(found, larger, rows.angle, strict=True):
        slow = ndimage.rotate(window, angle, axes=(1, 2), reshape=False, order=1)
        np.testing.assert_allclose(patch, slow[:, 10:31, 10:31], atol=2e-4)


def test_rotation_keeps_the_wanted_voxel_at_the_centre_to_the_last_bit(cohort):
    rows = draw(cohort, limit=200)
    turned = patches(cohort, rows, PATCH, rows.angle)
    assert torch.equal(turned[:, 2, 10, 10], patches(cohort, rows, PATCH)[:, 2, 10, 10])
    assert not torch.equal(turned, patches(cohort, rows, PATCH))


@pytest.mark.parametrize("angle", [-45.0, -15.0, 15.0, 45.0])
def test_rotation_brings_no_corner_that_was_not_in_the_scan(angle):
    volume = np.full((1, 61, 61), 2.0)
    volume[:, [0, -1]] = volume[:, :, [0, -1]] = -9  # only reached if more than sqrt(2) of the patch were read
    found = patches(cohort_of(volume), row_at(0, 30, 30), (1, 39, 39), [angle])
    torch.testing.assert_close(found, torch.full((1, 1, 39, 39), 2.0))


def test_statistics_are_those_of_all_non_black_voxels_of_the_training_scans(cohort):
    values = np.concatenate([image[foreground(image)] for image, _ in map(make_scan, (1, 2, 3, 4))])
    assert cohort.statistics == pytest.approx((values.mean(dtype=float), values.std(dtype=float)), rel=1e-5)


def test_validation_scans_are_normalised_with_the_training_statistics(files, tmp_path):
    cohort = prepare(files[:1], tmp_path, statistics=(250.0, 50.0), progress=False)
    wanted = normalise(make_scan(1)[0], 250.0, 50.0)
    np.testing.assert_allclose(cohort.image(0), wanted, atol=0.01, rtol=1e-3)


def test_scan_intensities_give_every_scan_mean_0_and_sd_1(files, tmp_path):
    cohort = prepare(files[:2], tmp_path, intensities="scan", progress=False)
    for index, seed in enumerate((1, 2)):
        values = cohort.image(index)[foreground(make_scan(seed)[0])]
        assert (values.mean(), values.std()) == pytest.approx((0, 1), abs=1e-3)


def test_raw_intensities_up_to_65535_survive_float16(tmp_path):
    image, _ = make_scan(1)
    row = {"scan_id": "s", "image": save(image * (65535 / image.max()), tmp_path / "s.nii"), "label": ""}
    cohort = prepare(pd.DataFrame([row]), tmp_path / "cache", intensities="scan", progress=False)
    np.testing.assert_allclose(cohort.image(0), normalise(image), rtol=1 / 2000, atol=1e-6)


def test_a_prepared_scan_is_not_read_again(files, tmp_path, monkeypatch):
    wanted = prepare(files, tmp_path, progress=False)
    monkeypatch.setattr(samplers, "load_scan", None)
    found = prepare(files, tmp_path, progress=False)
    pd.testing.assert_frame_equal(draw(found, seed=1), draw(wanted, seed=1))


@pytest.mark.parametrize("name", ["volume.npy", "lesion.npy", "healthy.npy", "facts.json"])
def test_a_damaged_or_missing_cache_file_is_made_anew(files, tmp_path, name):
    wanted = prepare(files[:1], tmp_path, progress=False).image(0)
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-5])
    np.testing.assert_array_equal(prepare(files[:1], tmp_path, progress=False).image(0), wanted)
    path.unlink()
    np.testing.assert_array_equal(prepare(files[:1], tmp_path, progress=False).image(0), wanted)


def test_a_killed_preparation_goes_on_where_it_stopped(files, tmp_path, monkeypatch):
    read = []

    def load(image, *given, **more):
        read.append(image)
        if len(read) == 3:
            raise KeyboardInterrupt
        return load_scan(image, *given, **more)

    load_scan = samplers.load_scan
    monkeypatch.setattr(samplers, "load_scan", load)
    with pytest.raises(KeyboardInterrupt):
        prepare(files, tmp_path, progress=False)
    prepare(files, tmp_path, progress=False)
    assert read == [*files.image[:3], *files.image[2:]]
    assert not list(tmp_path.rglob("*.part"))


def test_a_changed_file_is_prepared_again(tmp_path):
    table = write_cohort(tmp_path, seeds=[1])
    prepare(table, tmp_path / "cache", progress=False)
    save(make_scan(2)[1].astype(np.uint8), tmp_path / "s1-seg.nii")
    cohort = prepare(table, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cohort.scans[0].lesion, np.flatnonzero(make_scan(2)[1]))


def test_with_a_mask_healthy_voxels_come_from_inside_it_only(tmp_path):
    table = write_cohort(tmp_path, seeds=[1])
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :, 48:] = 3
    table["mask"] = save(mask, tmp_path / "mask.nii")
    rows = draw(prepare(table, tmp_path / "cache", progress=False))
    assert rows.column[~rows.label].min() >= 48


def test_a_label_that_lies_in_the_air_is_no_sample(tmp_path):
    image, label = make_scan(1, shape=(24, 160, 160))
    stray = label.copy()
    stray[0, :4, :4] = True
    names = {"image": save(image, tmp_path / "a.nii"), "label": save(stray.astype(np.uint8), tmp_path / "b.nii")}
    cohort = prepare(pd.DataFrame([{"scan_id": "a", **names}]), tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cohort.scans[0].lesion, np.flatnonzero(label))


def test_lesion_codes_choose_what_is_lesion(tmp_path):
    table = write_cohort(tmp_path, seeds=[1])
    codes = make_scan(1)[1] * np.uint8(2)
    codes[:, 40:60] *= 2
    table["label"], table["lesion_codes"] = save(codes, tmp_path / "codes.nii"), "4"
    cohort = prepare(table, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cohort.scans[0].lesion, np.flatnonzero(codes == 4))


def test_what_cannot_be_prepared_or_drawn_is_told_with_a_remedy(files, cohort, tmp_path):
    with pytest.raises(ManifestError, match="has no rows"):
        prepare(files[:0], tmp_path)
    with pytest.raises(ManifestError, match="intensities='raw': choose 'cohort'"):
        prepare(files, tmp_path, intensities="raw")
    with pytest.raises(ManifestError, match="'pairs': choose one of balanced, ratio"):
        draw(cohort, "pairs")
    with pytest.raises(ManifestError, match="0 lesion"):
        draw(prepare(files[3:], tmp_path, progress=False))
    with pytest.raises(ScanError, match=r"gone\.nii"):
        prepare(files[:1].assign(image=str(tmp_path / "gone.nii")), tmp_path, progress=False)
