"""The mid-sagittal plane of a head, found in the scan, and what lies across it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

STEP_MM = 4.0  # the scan is compared with its mirror image on a lattice of this width
BLUR_MM = 3.0
TILT, SHIFT_MM = 0.2, 12.0  # how far the search goes: radians of yaw and roll, mm from the middle of the mask
NEAR_MM = 4.0  # a mirrored place is the brightest so near: heads are not mirrored to the millimetre


@dataclass(frozen=True)
class Plane:
    """The plane normal . x = offset_mm, x in mm along (slice, row, column) from the first voxel; `symmetry` is the
    correlation of the head with its mirror image, 1 for a mirrored head."""

    normal: tuple
    offset_mm: float
    symmetry: float

    def distance_mm(self, points_mm):
        """How far points (..., 3) lie from the plane, positive towards growing columns."""
        return np.asarray(points_mm) @ np.asarray(self.normal) - self.offset_mm

    @property
    def angles_deg(self):
        """Degrees by which the head is turned (yaw) and leant (roll)."""
        slice_, row, column = self.normal
        return float(np.degrees(np.arctan2(row, column))), float(np.degrees(np.arctan2(slice_, column)))


def mirrored(points_mm, plane):
    """Points (..., 3) across a plane, in mm along (slice, row, column).

    >>> mirrored([[0.0, 5.0, 2.0]], Plane((0.0, 0.0, 1.0), 10.0, 1.0)).tolist()
    [[0.0, 5.0, 18.0]]
    """
    points = np.asarray(points_mm, float)
    return points - 2 * plane.distance_mm(points)[..., None] * np.asarray(plane.normal)


def find_plane(image, mask, spacing_mm=(1.0, 1.0, 1.0)):
    """Find the plane across which a head is most like itself.

    The correlation of the blurred scan with its mirror image, over the mask on a lattice of 4 mm, is maximised over
    yaw, roll and offset by the simplex method, from the middle of the mask and 6 mm beside it.

    Parameters
    ----------
    image : (slice, row, column) float array
    mask : (slice, row, column) bool array
    spacing_mm : (slice, row, column) float

    Returns
    -------
    Plane

    References
    ----------
    After the idea of Ardekani et al., Automatic detection of the mid-sagittal plane in 3-D brain images, IEEE TMI
    16:947, 1997.
    """
    spacing = np.asarray(spacing_mm, float)
    blurred = ndimage.gaussian_filter(np.asarray(image, np.float32), BLUR_MM / spacing, truncate=2.5)
    every = np.maximum(np.round(STEP_MM / spacing).astype(int), 1)
    coarse, steps = blurred[tuple(slice(None, None, n) for n in every)], every * spacing
    points = np.argwhere(mask[tuple(slice(None, None, n) for n in every)]) * steps
    if len(points) < 8:
        return Plane((0.0, 0.0, 1.0), float((image.shape[2] - 1) / 2 * spacing[2]), float("nan"))
    centre = points.mean(0)
    here = ndimage.map_coordinates(coarse, (points / steps).T, order=1, mode="nearest")

    def unlike(values):
        if np.abs(values[:2]).max() > TILT or abs(values[2]) > SHIFT_MM:
            return 2.0
        there = mirrored(points, _plane(values, centre))
        return 1 - _correlation(here, ndimage.map_coordinates(coarse, (there / steps).T, order=1, mode="nearest"))

    starts = [np.array([0.0, 0.0, shift]) for shift in (-6.0, 0.0, 6.0)]
    first = min(starts, key=unlike)
    simplex = first + np.vstack([np.zeros(3), np.diag([0.05, 0.05, 3.0])])
    best = optimize.minimize(unlike, first, method="Nelder-Mead",
                             options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-5})  # fmt: skip
    plane = _plane(best.x, centre)
    return Plane(plane.normal, plane.offset_mm, float(1 - best.fun))


def asymmetry(image, places, plane, spacing_mm=(1.0, 1.0, 1.0)):
    """How much brighter places are than the brightest voxel near their mirror images: (place,) in the image's unit.

    Near the plane itself there is no other side: within 4 mm of it the asymmetry is that place's brightness over the
    scan's median there, 0 at least.
    """
    spacing = np.asarray(spacing_mm, float)
    at = places[["slice", "row", "column"]].to_numpy(int)
    across = np.round(mirrored(at * spacing, plane) / spacing).astype(int)
    reach = np.maximum(np.round(NEAR_MM / spacing).astype(int), 1)
    own = np.abs(plane.distance_mm(at * spacing)) < NEAR_MM
    found = np.empty(len(at))
    for number, (here, there) in enumerate(zip(at, across, strict=True)):
        middle = here if own[number] else there
        box = image[tuple(slice(max(a - r, 0), max(a + r + 1, 0)) for a, r in zip(middle, reach, strict=True))]
        other = image.min() if not box.size else (np.median(box) if own[number] else box.max())
        found[number] = image[tuple(here)] - other
    return found


def _plane(values, centre):
    yaw, roll, shift = values
    normal = np.array([np.tan(roll), np.tan(yaw), 1.0])
    normal /= np.linalg.norm(normal)
    return Plane(tuple(normal.tolist()), float(normal @ centre + shift), float("nan"))


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0
