"""The pass over a cohort against numbers known by construction, and crops against a slow twin."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_scans import save, write_cohort

from kit.scans import (
    cohort_statistics,
    components,
    crop,
    lesion_crops,
    lesion_table,
    load_row,
    pool_slices,
    relative,
    spread,
    summarise_cohort,
)


@pytest.fixture
def table(tmp_path):
    """Two labelled sessions of one patient and one unlabelled scan of another, of another size."""
    rows = write_cohort(tmp_path, [1, 2]).assign(patient_id="p", session=[1, 2])
    other = write_cohort(tmp_path, [3], shape=(20, 64, 80)).assign(patient_id="q", session=1, label="")
    return pd.concat([rows, other], ignore_index=True).assign(split="test")


def test_the_tables_hold_what_is_in_the_scans(table):
    found = cohort_statistics(table, progress=False)
    scan = load_row(table.loc[0])
    known = lesion_table(scan.label, scan.spacing_mm)
    of_first = found.lesions[found.lesions.scan_id == "s1"]
    pd.testing.assert_frame_equal(of_first[known.columns].reset_index(drop=True), known)
    assert found.scans.lesions.iloc[0] == len(known)
    assert found.scans.lesion_voxels.iloc[0] == scan.label.sum()
    assert found.scans.slices.tolist() == [24, 24, 20]
    assert len(found.slices) == 24 + 24 + 20


def test_a_scan_without_label_counts_no_lesions_and_is_no_scan_without_lesions(table):
    found = cohort_statistics(table, progress=False)
    assert found.scans.labelled.tolist() == [True, True, False]
    assert np.isnan(found.scans.lesions.iloc[2])
    first = found.scans[~found.scans.follow_up]
    assert summarise_cohort(first, found.lesions[~found.lesions.follow_up])["lesions_per_scan"] == first.lesions.iloc[0]


def test_follow_ups_are_later_sessions_of_the_same_patient(table):
    assert cohort_statistics(table, progress=False).scans.follow_up.tolist() == [False, True, False]


def test_a_cohort_without_labels_has_empty_tables_with_all_columns(table):
    found = cohort_statistics(table.assign(label=""), progress=False)
    assert found.lesions.empty
    assert {"diameter_mm", "rim", "core", "follow_up"} <= set(found.lesions.columns)
    summary = summarise_cohort(found.scans, found.lesions)
    assert np.isnan([summary["lesions_per_scan"], summary["mean_radius_mm"], summary["negatives_per_positive"]]).all()


def test_rim_and_core_of_a_ring_in_relative_intensity(tmp_path):
    grid = np.ogrid[-20:21, -20:21, -20:21]
    distance = np.sqrt(sum(g**2 for g in grid))
    image = np.where(distance < 19, 100, -50.0)
    label = distance < 8
    image[label] = np.where(distance[label] > 5, 250, 40)
    paths = {"image": save(image, tmp_path / "i.nii"), "label": save(label.astype(np.uint8), tmp_path / "l.nii")}
    row = {"scan_id": "a", "patient_id": "p", "session": 1, "split": "", "mask": "", **paths}
    lesion = cohort_statistics(pd.DataFrame([row]), progress=False).lesions.iloc[0]
    assert lesion.rim == pytest.approx((250 + 50) / 150)
    assert lesion.core == pytest.approx((40 + 50) / 150)


def test_pooled_slices_are_those_of_all_voxels_together():
    rng = np.random.default_rng(0)
    one, two = rng.normal(1, 1, 50), rng.normal(3, 2, 200)
    rows = [{"slice": 4, "voxels": len(v), "mean": v.mean(), "sd": v.std()} for v in (one, two)]
    pooled = pool_slices(pd.DataFrame([*rows, {"slice": 9, "voxels": 0, "mean": 0, "sd": 0}]))
    both = np.concatenate([one, two])
    assert pooled.index.tolist() == [4]
    assert pooled.loc[4].tolist() == pytest.approx([2, both.mean(), both.std()])


def test_a_crop_is_the_padded_array_cut_at_every_centre():
    array = np.random.default_rng(1).normal(size=(3, 5, 4))
    half = (1, 2, 3)
    padded = np.pad(array, [(h + 2, h + 2) for h in half], constant_values=array.min())
    for centre in np.ndindex(5, 7, 6):  # from one voxel outside to one beyond
        at = np.array(centre) - 1
        twin = padded[tuple(slice(a + 2, a + 2 * h + 3) for a, h in zip(at, half, strict=True))]
        np.testing.assert_array_equal(crop(array, at, half), twin)


def test_a_crop_far_outside_is_all_air():
    assert (crop(np.ones((2, 2, 2)) * [1, 3], (50, -50, 0), 2) == 1).all()


def test_lesion_crops_come_in_the_order_asked_for_and_show_one_lesion_each(table):
    lesions = cohort_statistics(table, progress=False).lesions
    wanted = lesions.iloc[[4, 0, 3]]
    for (image, label), lesion in zip(lesion_crops(table, wanted, half=10), wanted.itertuples(), strict=True):
        assert image.shape == label.shape == (21, 21, 21)
        assert label.sum() == lesion.voxels
        assert components(label).max() == 1
    assert lesion_crops(table, lesions.iloc[:0]) == []


def test_relative_intensity_does_not_depend_on_the_units_of_a_scan(table):
    image = load_row(table.loc[0]).image
    np.testing.assert_allclose(relative(3 * image - 700), relative(image), atol=1e-4)


def test_spread_of_few_rows_gives_them_all():
    assert spread(pd.DataFrame({"voxels": [3, 1]}), 8).voxels.tolist() == [1, 3]
    assert spread(pd.DataFrame({"voxels": []}), 8).empty


def test_lesions_are_measured_in_millimetres_of_the_resampled_scan(tmp_path):
    image, label = np.ones((10, 30, 30)), np.zeros((10, 30, 30), np.uint8)
    image[:, 5:25, 5:25] = np.linspace(90, 110, 20)
    label[4:6, 10:14, 10:14] = 1
    for name, array in (("image", image.astype("f4")), ("label", label)):
        nib.save(nib.Nifti1Image(array.T.copy(), np.diag([-1.0, -1, 3, 1])), tmp_path / f"{name}.nii")
    paths = {name: str(tmp_path / f"{name}.nii") for name in ("image", "label")}
    row = {"scan_id": "a", "patient_id": "p", "session": 1, "split": "", **paths}
    found = cohort_statistics(pd.DataFrame([row]), progress=False)
    assert found.scans.slices.iloc[0] == 30
    assert found.lesions.volume_mm3.iloc[0] == pytest.approx(2 * 4 * 4 * 3)
