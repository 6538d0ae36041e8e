"""Small made-up scans for the tests of samplers and training: an ellipsoid head in the air with a few bright balls."""

from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from kit.samplers import Cohort, PreparedScan, depth_of
from kit.scans import Grid, Scan, components

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


def drawn_head(spacing_mm, stripped=False):
    """(image, brain, scalp): ellipsoids in mm: cerebrum with a ventricle and cerebellum, dark skull, scalp and face."""
    shape = np.ceil(np.array([200, 230, 190]) / spacing_mm).astype(int)
    mm = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True)]
    up, back, left = mm[0][:, None, None] - 15, mm[1][None, :, None], mm[2][None, None, :]

    def ball(slices, rows, columns, *, below=0, behind=0):
        return ((up + below) / slices) ** 2 + ((back - behind) / rows) ** 2 + (left / columns) ** 2 < 1

    brain = ball(58, 82, 66) & (up > -45) | ball(30, 30, 48, below=40, behind=40)
    skull = ball(66, 90, 74, below=4)
    outer = ball(74, 98, 82, below=4) | ball(90, 70, 60, below=60) & (up < 0)
    tissue = np.select([ball(14, 30, 14), brain, skull, outer], [0.3, 1.0, 0.1, 1.3], 0.0)
    noise = np.random.default_rng(0).normal(0, 0.03, (2, *shape))
    image = np.hypot(tissue + noise[0], noise[1])
    return (np.where(brain, image, 0) if stripped else image).astype(np.float32), brain, outer & ~skull


def world(image, spacing_mm, label=None):
    """A scan whose middle is the origin of the world: slices upwards, rows backwards, columns leftwards."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = np.multiply(spacing_mm, (1, -1, -1))
    affine[:3, 3] = -affine[:3, :3] @ (np.array(image.shape) - 1) / 2
    affine[3, 3] = 1
    return Scan(image, label, spacing_mm, affine, Grid(image.shape[::-1], affine[:, [2, 1, 0, 3]]))


def rigid(turn_deg, shift_mm):
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(turn_deg, degrees=True).as_matrix()
    motion[:3, 3] = shift_mm
    return motion


def moved(scan, motion, shape, spacing_mm, order=1):
    """The slow twin of resampling: another scan's voxels, each sent through the world back into the first."""
    other = world(np.zeros(shape, np.float32), spacing_mm)
    places = np.indices(shape).reshape(3, -1)
    to_scan = np.linalg.inv(scan.affine) @ np.linalg.inv(motion) @ other.affine
    index = (to_scan @ np.vstack([places, np.ones(places.shape[1])]))[:3]
    return replace(other, image=map_coordinates(scan.image, index, order=order, cval=0).reshape(shape))


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


def cohort_of(volume, label=(), healthy=(), spacing_mm=(1.0, 1.0, 1.0), beyond=None):
    """A prepared cohort of one scan, from an array and its label (an array, or nothing), normalised as it is.

    With `beyond` (mm outside the brain) it counts as normalised by its brain.
    """
    volume = np.asarray(volume, np.float16)
    label = np.zeros(volume.shape, bool) if np.size(label) == 0 else np.asarray(label, bool)
    lesion = np.flatnonzero(label).astype(np.int32)
    told = components(label).ravel()[lesion], depth_of(label).ravel()[lesion]
    healthy = np.flatnonzero(healthy).astype(np.int32) if np.size(healthy) else np.zeros(0, np.int32)
    facts = 0.0, 1.0, volume.size, float(volume.min()), tuple(spacing_mm)
    if beyond is None:
        return Cohort((PreparedScan("made", volume, lesion, healthy, *told, *facts),), "scan")
    return Cohort((PreparedScan("made", volume, lesion, healthy, *told, *facts, (0.0, 1.0), beyond),), "brain")


def drawn_balls(balls, spacing_mm, shape=None, noise=0.15):
    """Bright balls (slice, row, column and radius in mm) of 1 in noise around 0; 48 mm a side by default."""
    shape = np.ceil(48 / np.array(spacing_mm)).astype(int) if shape is None else shape
    fine = [
        ((np.arange(n)[:, None] + (np.arange(3) - 1) / 3) * step).ravel()
        for n, step in zip(shape, spacing_mm, strict=True)
    ]
    image = np.zeros(shape)
    for *place, radius in balls:
        parts = [(line - middle) ** 2 for line, middle in zip(fine, place, strict=True)]
        inside = parts[0][:, None, None] + parts[1][:, None] + parts[2] < radius**2
        image = np.maximum(image, inside.reshape([m for n in shape for m in (n, 3)]).mean((1, 3, 5)))
    return (image + np.random.default_rng(0).normal(0, 1, shape) * noise).astype(np.float32)


def drawn_tube(at_mm, radius_mm, spacing_mm):
    """A bright tube along the columns at (slice, row) mm, in 48 mm a side without noise."""
    mm = [np.arange(np.ceil(48 / step)) * step for step in spacing_mm]
    away = (mm[0][:, None] - at_mm[0]) ** 2 + (mm[1] - at_mm[1]) ** 2
    return np.repeat((away < radius_mm**2)[:, :, None], len(mm[2]), axis=2).astype(np.float32)
