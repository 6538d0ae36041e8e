"""Patches are what a plain slice or a slow rotation gives, and label maps the labels there."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from small_scans import cohort_of

from kit.samplers import Places, Resident, draw, label_maps, patches

PATCH = (5, 21, 21)


def row_at(*voxel):
    return pd.DataFrame([voxel], columns=["slice", "row", "column"]).assign(scan=pd.Categorical(["made"]))


def voxels(rows):
    return list(rows[["scan", "slice", "row", "column"]].itertuples(index=False, name=None))


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


def test_label_maps_are_the_labels_around_the_voxel(cohort):
    rows = draw(cohort, limit=80).assign(angle=np.float32(0))
    found = label_maps(cohort, rows, 6)
    for some, (name, z, y, x) in zip(found.numpy(), voxels(rows), strict=True):
        label = np.zeros(cohort.scans[0].volume.shape, bool)
        label.ravel()[next(scan for scan in cohort.scans if scan.scan_id == name).lesion] = True
        np.testing.assert_array_equal(some, np.pad(label, 9)[z + 9, y + 6 : y + 12, x + 6 : x + 12])
    assert torch.equal(Resident(cohort, "cpu").label_maps(Places.of(rows, "cpu"), 6), found)


def test_turned_label_maps_agree_with_turning_the_label_itself():
    label = np.zeros((1, 41, 41), bool)
    label[0, 20:34, 20] = label[0, 20, 20:26] = True
    cohort = cohort_of(label, label)
    row = row_at(0, 20, 20).assign(angle=np.float32(15))
    found = label_maps(cohort, row, 15, row.angle.to_numpy())[0]
    slow = ndimage.rotate(label[0].astype(float), 15, reshape=False, order=0)[13:28, 13:28]
    np.testing.assert_array_equal(found, slow > 0.5)
    turned = Resident(cohort, "cpu").label_maps(Places.of(row, "cpu"), 15)[0]
    assert torch.equal(turned, found)


def test_the_label_of_the_wanted_voxel_is_its_own_whatever_the_angle(cohort):
    rows = draw(cohort, limit=200)
    found = label_maps(cohort, rows, 6, rows.angle.to_numpy())[:, 3, 3]
    np.testing.assert_array_equal(found, rows.label)
