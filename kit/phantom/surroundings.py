"""What a lesion does to the brain around it: displaced tissue, and oedema in the white matter."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from kit.scans import brain_mask

SWELLING = 0.25  # volume that oedema adds to the white matter it fills
STEP_MM = 2.0  # the coarse grid, on which oedema spreads
OPENING_MM = 3.0
LATTICE = 24  # random numbers an axis behind `noise`
TISSUE = (0.5, 1.3)  # of white matter's intensity: what may be brain in a given scan


@dataclass(frozen=True)
class Tissue:
    """What a given head consists of, as far as it shows. All arrays are (slice, row, column); `Head` has the same."""

    white: np.ndarray  # float32 fractions of a voxel in [0, 1], 0 outside the cranial cavity
    grey: np.ndarray
    csf: np.ndarray
    region: np.ndarray  # uint8: 1 in the brain, 5 in large spaces of fluid inside, 0 elsewhere
    depth_mm: np.ndarray  # float32, below the inner table of the skull, negative outside


def estimate_tissue(image, *, white_matter, spacing_mm=(1, 1, 1)):
    """Estimate tissue fractions of a given scan of a healthy head from its intensities.

    Parameters
    ----------
    image : (slice, row, column) array
        T1-weighted; axes as `kit.scans.load_scan` brings them.
    white_matter : float
        Intensity of white matter in `image`; its least intensity is taken for air.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    Tissue
        White matter from the intensity 0.9, grey matter about 0.75, fluid below 0.5 of white matter's, inside what an
        opening by 3 mm leaves of the brain (a crude skull-stripping).
    """
    spacing_mm = np.asarray(spacing_mm, float)
    relative = ndimage.gaussian_filter(np.asarray(image, np.float32), 0.6 / spacing_mm)
    relative = (relative - np.min(image)) / np.float32(white_matter - np.min(image))
    mask = brain_mask(image, tuple(spacing_mm))
    depth = _depth_mm(mask & (relative > TISSUE[0]) & (relative < TISSUE[1]), spacing_mm)
    inside = np.clip(depth + 0.5, 0, 1)
    fluid = np.clip((0.65 - relative) / 0.25, 0, 1)
    white = np.clip((relative - 0.8) / 0.12, 0, 1) * (relative < 1.4)
    white *= ndimage.gaussian_filter(white, 1.5 / spacing_mm) > 0.3  # not vessels, dura and noise
    ventricles = ndimage.gaussian_filter(fluid, 2.0 / spacing_mm) > 0.6
    region = np.where(ventricles & (depth > 15), 5, 1).astype(np.uint8) * (depth > 0)
    grey = np.clip(1 - fluid - white, 0, 1)
    return Tissue(*(a * inside for a in (white, grey, fluid)), region, depth)


def _depth_mm(tissue, spacing_mm):
    """Signed distance from the surface of the brain with its fluid: the largest piece that an opening leaves.

    Found on a grid of 2 mm.
    """
    every, coarse = _coarse(spacing_mm)
    steps_mm = np.multiply(every, spacing_mm)
    edt = lambda mask: ndimage.distance_transform_edt(mask, steps_mm).astype(np.float32)  # noqa: E731
    whole = ndimage.uniform_filter(tissue.astype(np.float32), every)[coarse] > 0.5
    pieces, n = ndimage.label(edt(whole) > OPENING_MM)
    brain = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]) if n else whole
    wide = edt(~brain) < 3 * OPENING_MM
    brain = ndimage.binary_fill_holes(edt(wide) > 1.5 * OPENING_MM)  # closes sulci, ventricles and vessels
    return _lengthened(edt(brain) - edt(~brain), tissue.shape, every)


def _coarse(spacing_mm):
    """Every how many voxels, and as slices, a grid of about 2 mm is."""
    every = tuple(max(1, round(STEP_MM / s)) for s in spacing_mm)
    return every, tuple(slice(None, None, e) for e in every)


def _lengthened(array, shape, every):
    """Bring values on every n-th voxel to all of them, by linear interpolation."""
    for axis, (n, e) in enumerate(zip(shape, every, strict=True)):
        places = np.arange(n) / e
        first = places.astype(int)
        second = np.minimum(first + 1, array.shape[axis] - 1)
        share = (places - first).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        array = array.take(first, axis) * (1 - share) + array.take(second, axis) * share
    return array


# ------------------------------------------------------------------------------------------------------ mass effect


def displace(image, tissue, lesions, spacing_mm):
    """Push tissue out of the way of lesions, in place; returns the white matter fractions, pushed likewise.

    A ball that grows in an incompressible medium moves what was at distance s to the distance t with
    t^3 = s^3 + a^3, where a^3 is the volume that came in: the ball's, and that of the oedema. The skull stops it.
    """
    white = np.array(tissue.white, np.float32)
    for lesion in lesions:
        if lesion.push * lesion.radius_mm < 1 and not lesion.oedema_mm:
            continue
        reach_mm = min(3.5 * lesion.radius_mm + 1.2 * lesion.oedema_mm + 6, 50)
        box, offset = around(lesion.centre, image.shape, spacing_mm, reach_mm)
        shrink = _shrinkage(lesion, np.sqrt(sum(o**2 for o in offset)), reach_mm)
        shrink *= ramp(tissue.depth_mm[box] / 12 + 0.05)
        moved = np.nonzero(shrink < 0)
        share = shrink[moved]
        places = [v + share * o.ravel()[v] / s for v, o, s in zip(moved, offset, spacing_mm, strict=True)]
        for volume, order in ((image, 3), (white, 1)):
            volume[box][moved] = ndimage.map_coordinates(volume[box], places, order=order, mode="nearest")
    return white


def _shrinkage(lesion, distance, reach_mm):
    """Where the tissue at a distance from the centre came from: s / t - 1, 0 where it moved less than 0.1 mm."""
    t = np.linspace(0, reach_mm, 400) + 1e-3
    volume = lesion.push * np.minimum(t, lesion.radius_mm) ** 3
    swollen = np.clip(t, lesion.radius_mm, lesion.radius_mm + lesion.oedema_mm)
    volume += SWELLING * (swollen**3 - lesion.radius_mm**3)
    shrink = np.cbrt(np.maximum(t**3 - volume, 0)) / t - 1
    shrink *= ramp((reach_mm - t) / (0.4 * reach_mm))
    return np.interp(distance, t, np.where(shrink * t < -0.1, shrink, 0)).astype(np.float32)


def around(centre, shape, spacing_mm, reach_mm):
    """The box within `reach_mm` of a centre, and the three sparse axes of offsets from the centre, mm."""
    box, offset = [], []
    for axis, (c, n, s) in enumerate(zip(centre, shape, spacing_mm, strict=True)):
        box.append(slice(max(int(c - reach_mm / s), 0), min(int(c + reach_mm / s) + 2, n)))
        mm = (np.arange(box[-1].start, box[-1].stop) - c) * s
        offset.append(mm.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)]))
    return tuple(box), offset


# ----------------------------------------------------------------------------------------------------------- oedema


def darken(image, white, tissue, lesions, spacing_mm, white_matter):
    """Put vasogenic oedema around lesions into an image, in place.

    It spreads along white matter, so that it reaches into the gyri like fingers, and spares the cortex.
    """
    loss, swells = np.zeros(image.shape, np.float32), np.minimum(1.5 * white, 1)  # thin gyri never reach 1
    for lesion in lesions:
        if not lesion.oedema_mm:
            continue
        box, offset = around(lesion.centre, image.shape, spacing_mm, lesion.radius_mm + 1.5 * lesion.oedema_mm + 4)
        way = way_through_white_mm(lesion, offset, swells[box], tissue.depth_mm[box], spacing_mm)
        uneven = noise(np.random.default_rng([lesion.seed, 1]), [o.ravel() for o in offset], 7.0)
        share = ramp((lesion.oedema_mm * (1 + 0.3 * uneven) - way) / (2 + 0.3 * lesion.oedema_mm) + 0.5)
        loss[box] = np.maximum(loss[box], lesion.oedema * share)
    image -= white_matter * loss * swells


def way_through_white_mm(lesion, offset, white, depth_mm, spacing_mm):
    """Length of the shortest way from the lesion, where 1 mm of grey matter counts as 4: on a 2 mm grid, in a box."""
    every, coarse = _coarse(spacing_mm)
    cost = 1 / np.clip(ndimage.uniform_filter(white, every)[coarse], 0.25, 1)
    cost[depth_mm[coarse] < 0] = 100
    distance = np.sqrt(sum(o**2 for o in offset))[coarse]
    way = np.where(distance < lesion.radius_mm, 0, 1e3).astype(np.float32)
    steps = [(0, 0, 1), (0, 1, 0), (1, 0, 0), *((1, a, b) for a, b in product((-1, 1), repeat=2))]
    lengths = [np.linalg.norm(np.multiply(step, every) * spacing_mm) for step in steps]
    for _ in range(int(lesion.oedema_mm / STEP_MM) + 3):
        for step, length in zip(steps, lengths, strict=True):
            here, there = _neighbours(step)
            leg = np.float32(length / 2) * (cost[here] + cost[there])
            np.minimum(way[here], way[there] + leg, out=way[here])
            np.minimum(way[there], way[here] + leg, out=way[there])
    return _lengthened(way, white.shape, every)


def _neighbours(step):
    here = tuple(slice(max(-s, 0), -s if s > 0 else None) for s in step)
    there = tuple(slice(max(s, 0), s if s < 0 else None) for s in step)
    return here, there


# ------------------------------------------------------------------------------------------------------------ fields


def ramp(x):
    """Smooth step from 0 to 1.

    >>> ramp(np.array([-1.0, 0.5, 2.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    x = np.clip(x, 0, 1)
    return x**2 * (3 - 2 * x)


def noise(rng, axes, scale):
    """Draw a smooth random field around a point, s.d. about 1: the same one on whatever grid it is looked at.

    `axes` are three 1-d arrays of positions relative to the point; the field is correlated over `scale` of their unit
    and fades to 0 beyond 10 of it.

    >>> coarse, fine = (noise(np.random.default_rng(0), [np.linspace(0, 4, n)] * 3, 2.0) for n in (3, 5))
    >>> np.allclose(coarse, fine[::2, ::2, ::2])
    True
    """
    field = rng.standard_normal((LATTICE, LATTICE, LATTICE), dtype=np.float32)
    for axis in axes:  # contracts the first axis and appends it, three times: the order comes out right
        x = np.abs(np.asarray(axis)[:, None] / scale + LATTICE / 2 - np.arange(LATTICE))
        splines = np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.clip(2 - x, 0, None) ** 3 / 6).astype(np.float32)
        field = np.einsum("abc,na->bcn", field, splines)  # no BLAS: its threads change last bits
    return 3 * field
