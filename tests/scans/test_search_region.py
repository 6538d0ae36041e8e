"""Real scans, with skull and without, thick slices and odd fields of view: no lesion is lost where one is looked for.

How much of the head each region holds is what was measured; LOG.md has the table.
"""

import warnings

import numpy as np
import pytest

from kit.scans import brain_mask, components, foreground, load_row, search_region

STRIPPED = [("met-00110", "2"), ("glioma-0003", "4"), ("glioma-0005", "4"), ("glioma-0006", "4")]
THICK = [f"gbm-{number}-{time}" for number in ("01", "02", "05") for time in ("pre", "post")]


def row_of(shared_data, name, codes=""):
    """A manifest's row of a real scan, with its mask of the brain where it has one."""
    folder = shared_data / "scans" / name
    mask = folder / "brain.nii.gz"
    row = {"scan_id": name, "image": str(folder / "t1c.nii.gz"), "label": str(folder / "label.nii.gz")}
    return row | {"lesion_codes": codes, "mask": str(mask) if mask.is_file() else ""}


def quiet_brain(image, spacing_mm):
    """The brain's mask, and whether it was found: where it is not, a warning says that the whole head is searched."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return brain_mask(image, spacing_mm), not [one for one in told if "no brain is found" in str(one.message)]


def assert_no_lesion_is_lost(label, region):
    """Every lesion is met by the region, and of all lesion voxels 1 in 5000 at most lies outside it."""
    lesions = components(label)
    assert set(np.unique(lesions[region])) >= set(range(1, lesions.max() + 1))
    assert (label & ~region).sum() <= label.sum() / 5000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codes"), STRIPPED)
def test_of_a_stripped_brain_head_brain_and_given_mask_are_the_same_region(name, codes, shared_data):
    row = row_of(shared_data, name, codes)
    scan = load_row(row)
    head, brain = (search_region(scan, row | {"mask": ""}, search) for search in ("head", "brain"))
    regions = [head, brain] + ([search_region(scan, row)] if row["mask"] else [])
    for region in regions:
        assert_no_lesion_is_lost(scan.label, region)
        assert (region ^ head).sum() <= 0.01 * head.sum()
        assert 0.10 < region.mean() < 0.22


@pytest.mark.slow
@pytest.mark.parametrize("name", THICK)
def test_where_a_header_denies_thick_slices_all_of_the_head_is_searched(name, shared_data):
    scan = load_row(row_of(shared_data, name))
    brain, found = quiet_brain(scan.image, scan.spacing_mm)
    assert not found
    np.testing.assert_array_equal(brain, foreground(scan.image))
    assert_no_lesion_is_lost(scan.label, brain)
    assert 0.35 < brain.mean() < 0.47


@pytest.mark.slow
@pytest.mark.parametrize(("name", "found", "share"), [("gbm-01-pre", True, 0.64), ("gbm-02-pre", False, 1.0)])
def test_slices_of_six_millimetres_and_a_half_keep_their_lesions(name, found, share, shared_data):
    scan = load_row(row_of(shared_data, name), spacing_mm=None)
    brain, is_found = quiet_brain(scan.image, (6.5, 0.94, 0.94))
    assert is_found == found
    assert_no_lesion_is_lost(scan.label, brain)
    assert brain.sum() == pytest.approx(share * foreground(scan.image).sum(), rel=0.05)


FIELDS = {
    "whole": (np.s_[:], True, 0.55),
    "upper two thirds": (np.s_[54:], False, 1.0),
    "lower two thirds": (np.s_[:108], True, 0.51),
    "slab of 60 mm": (np.s_[62:122], True, 0.79),
    "without the forehead": (np.s_[:, 40:], True, 0.59),
}


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_parts_of_a_head_with_skull_keep_their_lesions(field, shared_data):
    part, found, share = FIELDS[field]
    scan = load_row(row_of(shared_data, "tumour-b1"))
    image, label = scan.image[part], scan.label[part]
    assert components(label).max() == 2
    brain, is_found = quiet_brain(image, scan.spacing_mm)
    assert is_found == found
    assert_no_lesion_is_lost(label, brain)
    assert brain.sum() == pytest.approx(share * foreground(image).sum(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("head-t1", 0.60), ("brain-t1gd", 1.0)])
def test_healthy_heads_are_searched_in_their_brains(name, share, shared_data):
    row = {"image": str(shared_data / "healthy" / f"{name}.nii.gz"), "label": "", "mask": ""}
    scan = load_row(row)
    brain = search_region(scan, row, "brain")
    assert brain.sum() == pytest.approx(share * search_region(scan, row).sum(), rel=0.03)
