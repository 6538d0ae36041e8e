"""Small made-up scans for the tests of samplers and training: an ellipsoid head in the air with a few bright balls."""

import nibabel
import numpy as np
import pandas as pd

from kit.samplers import Cohort, PreparedScan, depth_of
from kit.scans import components

SHAPE = (24, 96, 96)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # file axes L-P-S, so that a transposed array is (slice, row, column)


def make_scan(seed, lesions=3, shape=SHAPE):
    """(image, label): grey texture inside the head, brighter balls in it, air at 0 around it."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2
    grid = np.indices(shape)
    head = sum(((g - c) / (0.9 * c)) ** 2 for g, c in zip(grid, centre, strict=True)) < 1
    image = head * rng.normal(300, 80, shape).clip(80)
    label = np.zeros(shape, bool)
    for middle in centre + (rng.random((lesions, 3)) - 0.5) * centre * 0.8:
        label |= sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True)) < 3**2
    return (image + 500 * label).astype(np.float32), label


def save(array, path):
    """Write a (slice, row, column) array as NIfTI and return the path as text."""
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array.T), AFFINE), path)
    return str(path)


def write_cohort(folder, seeds, **given):
    """Write a scan per seed and return the manifest's rows for them."""
    rows = []
    for seed in seeds:
        image, label = make_scan(seed, **given)
        image, label = save(image, folder / f"s{seed}.nii"), save(label.astype(np.uint8), folder / f"s{seed}-seg.nii")
        rows.append({"scan_id": f"s{seed}", "image": image, "label": label, "mask": "", "lesion_codes": ""})
    return pd.DataFrame(rows)


def cohort_of(volume, label=(), healthy=(), spacing_mm=(1.0, 1.0, 1.0)):
    """A prepared cohort of one scan, from an array and its label (an array, or nothing), its own normalisation."""
    volume = np.asarray(volume, np.float16)
    label = np.zeros(volume.shape, bool) if np.size(label) == 0 else np.asarray(label, bool)
    lesion = np.flatnonzero(label).astype(np.int32)
    told = components(label).ravel()[lesion], depth_of(label).ravel()[lesion]
    healthy = np.flatnonzero(healthy).astype(np.int32) if np.size(healthy) else np.zeros(0, np.int32)
    facts = 0.0, 1.0, volume.size, float(volume.min()), tuple(spacing_mm)
    return Cohort((PreparedScan("made", volume, lesion, healthy, *told, *facts),), "scan")
