"""How a scanner sees a head: point spread, coil sensitivity, noise and gain in every scan, artefacts in some.

Artefacts follow from how an image is sampled line by line in the phase-encoding direction (McRobbie et al. 2017, MRI
from Picture to Proton). None of them moves anatomy: labels stay where they are.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import fft, ndimage
from torch.nn import functional as F

from kit.phantom.head.template import HEAD_CENTRE, TEMPLATE_CENTRE, mni_to_template, smooth_field

BLUR_MM = (0.3, 0.6)  # s.d. of the point spread
NOISE = (0.005, 0.045)  # s.d. of the Rician noise, white matter = 1; 0.006 to 0.018 was measured in patients' scans
GAIN = (150, 1500)
# How many scans show each artefact.
MOTION, FLOW, WRAP, RINGING, HOLE, SMOOTH_NOISE = 0.15, 0.25, 0.08, 0.25, 0.2, 0.6
IN_PLANE = (1, 2)  # the axes that phase may be encoded along
HOLES = ((0, 34, -30), (0, 48, -26), (46, -26, -44), (-46, -26, -44))  # above sphenoid, ethmoid, both mastoids; MNI mm


def acquire(image, rng, *, spacing_mm=(1, 1, 1), blood=None):
    """Scan a head.

    Parameters
    ----------
    image : (slice, row, column) float32 array
        Noise-free, 1 mm voxels, white matter = 1, air 0. Left as it is.
    rng : numpy.random.Generator
    spacing_mm : (slice, row, column) float
        Of the scan: thick slices along any axis, such as (5, 0.9, 0.9). Signal is averaged over a
        voxel, see `averaged`, which brings a label to the same grid (half a voxel and more is lesion).
    blood : array of the image's shape, optional
        Contrast that vessels add. Without it the scan has no flow ghosts.

    Returns
    -------
    (slice, row, column) int16 array
    """
    phase_axis = int(rng.choice(IN_PLANE))
    image = ndimage.gaussian_filter(image, rng.uniform(*BLUR_MM, 3), truncate=3)
    if rng.random() < HOLE:
        _punch_hole(image, rng)
    if rng.random() < FLOW and blood is not None:
        image += flow_ghosts(blood, phase_axis, rng)
    if rng.random() < WRAP:
        image = wrapped(image, phase_axis, int(rng.integers(4, 13)))
    kept = rng.uniform(0.55, 0.9) if rng.random() < RINGING else 1.0
    drift = _motion(image.shape[phase_axis], rng) if rng.random() < MOTION else None
    if kept < 1 or drift is not None:
        image = line_by_line(image, phase_axis, kept, drift)
    image *= _sensitivity(image.shape, rng)
    return np.round(np.exp(rng.uniform(*np.log(GAIN))) * _noisy(averaged(image, spacing_mm), rng)).astype(np.int16)


def averaged(volume, spacing_mm):
    """Average a volume of 1 mm voxels over larger (or smaller) voxels, edge to edge: no signal is lost.

    The first voxel's outer edge stays where it is, so its centre moves by (spacing - 1) / 2 mm; what is left at the end
    of an axis and does not fill a voxel falls away.

    >>> averaged(np.arange(12, dtype=np.float32).reshape(6, 2, 1), (3, 1, 1))[:, 0, 0]
    array([2., 8.], dtype=float32)
    """
    for axis, step in enumerate(spacing_mm):
        if step != 1:
            volume = _averaged_along(volume, axis, step)
    return volume


def _averaged_along(volume, axis, step):
    n = volume.shape[axis]
    edges = np.arange(int(n / step + 1e-6) + 1) * step
    whole = np.minimum(edges.astype(int), n - 1)
    part = (edges - whole).reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
    total = np.cumsum(volume, axis=axis, dtype=np.float64)
    before = np.take(total, np.maximum(whole - 1, 0), axis=axis)
    before *= (whole > 0).reshape(part.shape)
    before += part * np.take(volume, whole, axis=axis)
    return (np.diff(before, axis=axis) / step).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- artefacts


def line_by_line(image, axis, kept=1.0, drift=None):
    """Sample an image in k-space along the phase axis and transform it back.

    Parameters
    ----------
    image : (slice, row, column) float32 array
    axis : int
        Along which phase is encoded.
    kept : float
        The part of the lines around the centre that is sampled; the others are 0: edges ring (Gibbs).
    drift : (lines,) array, optional
        Where the head was, in voxels along the axis, when each line was sampled, lines as `numpy.fft.fftfreq` orders
        them: the head smears and casts ghosts.

    Returns
    -------
    array like `image`
        The magnitude.
    """
    frequency = fft.fftfreq(image.shape[axis])
    weight = (np.abs(frequency) <= 0.5 * kept).astype(np.complex64)
    if drift is not None:
        weight *= np.exp(-2j * np.pi * frequency * drift).astype(np.complex64)
    lines = fft.fft(image, axis=axis, workers=1)
    lines *= weight.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.abs(fft.ifft(lines, axis=axis, overwrite_x=True, workers=1))


def _motion(lines, rng):
    """Where the head is as each line is sampled: breathing, and in half the scans a jerk; still at the centre lines."""
    time = np.arange(lines) / lines
    drift = rng.uniform(0.1, 0.6) * np.sin(2 * np.pi * (rng.uniform(3, 25) * time + rng.random()))
    if rng.random() < 0.5:
        drift += rng.uniform(-1.5, 1.5) * (time > rng.choice((-1, 1)) * rng.uniform(0.08, 0.35) + 0.5)
    return fft.ifftshift(drift - drift[lines // 2])


def flow_ghosts(blood, axis, rng):
    """What pulsating blood adds along the phase axis: copies of the vessels, bright or dark, weaker by the order.

    A signal that changes periodically from line to line has its Fourier series as copies at equal distances.
    """
    away = int(rng.integers(18, 90))
    strength = rng.uniform(0.03, 0.13) * rng.choice((-1, 1))
    copies = [np.roll(blood, sign * order * away, axis) / order**2 for order in (1, 2) for sign in (1, -1)]
    return np.float32(strength) * sum(copies)


def wrapped(image, axis, lost):
    """Fold the first `lost` voxels of the head along an axis over to its other end: the field of view was too small."""
    others = tuple(a for a in range(3) if a != axis)
    first, *_, last = np.flatnonzero(image.max(axis=others) > 0.3)
    image = np.moveaxis(image.copy(), axis, 0)
    end = min(int(last) + 1 + lost // 3, len(image))
    image[end - lost : end] += image[first : first + lost]
    image[: first + lost] = 0
    return np.moveaxis(image, 0, axis)


def _punch_hole(image, rng):
    """Signal that is lost above air, where the field is uneven, in place."""
    (place,) = mni_to_template([HOLES[rng.integers(len(HOLES))]])
    centre = HEAD_CENTRE + place - TEMPLATE_CENTRE + rng.normal(0, 3, 3)
    size = rng.uniform(5, 12, 3)
    box = tuple(slice(max(int(c - 3 * s), 0), int(c + 3 * s) + 1) for c, s in zip(centre, size, strict=True))
    away = sum(((g - c) / s) ** 2 for g, c, s in zip(_axes(image.shape, box), centre, size, strict=True))
    image[box] *= 1 - rng.uniform(0.5, 0.95) * np.exp(-(away**1.5))


def _axes(shape, box):
    return [
        a.astype(np.float32) for a in np.ogrid[tuple(slice(*b.indices(n)) for b, n in zip(box, shape, strict=True))]
    ]


# --------------------------------------------------------------------------------------------- sensitivity and noise


def _sensitivity(shape, rng):
    """Bias field: a polynomial over the head, fields of coils, and dark low slices (thesis, Fig. 7.1)."""
    coarse = [n // 4 for n in shape]  # smooth: drawn at every fourth voxel
    z, y, x = (a / (n - 1) - 0.5 for a, n in zip(_axes(coarse, (slice(None),) * 3), coarse, strict=True))
    a = rng.normal(0, 0.15, 3) * (1, 1, 0.6)
    b = rng.normal(0.2, 0.3, 3)
    field = a[0] * z + a[1] * y + a[2] * x + b[0] * z**2 + b[1] * y**2 + b[2] * x**2
    field += rng.uniform(0.02, 0.1) * smooth_field(rng, coarse, 22)
    field += rng.uniform(0, 0.04) * smooth_field(rng, coarse, 10)
    low = 1 - rng.uniform(0.2, 0.55) * np.exp(-(((z + 0.5) * shape[0] / rng.uniform(26, 40)) ** 2))
    field = torch.from_numpy((low * np.exp(field)).astype(np.float32))
    return F.interpolate(field[None, None], size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()


def _noisy(image, rng):
    """Rician noise; in some scans smoothed, as interpolation leaves it."""
    sd = np.float32(np.exp(rng.uniform(*np.log(NOISE))))
    side = rng.uniform(0.2, 0.6) if rng.random() < SMOOTH_NOISE else 0
    noisy = np.empty_like(image)
    for plane, target in zip(image, noisy, strict=True):  # slice by slice, what is at work stays small
        real, imaginary = (sd * _grain(plane.shape, side, rng) for _ in range(2))
        real += plane
        np.sqrt(real**2 + imaginary**2, out=target)
    return noisy


def _grain(shape, side, rng):
    """Noise of s.d. 1 over a slice; each neighbour along rows and columns has the weight `side` in it, itself 1."""
    grain = rng.standard_normal(shape, dtype=np.float32)
    if side:
        weights = np.array([side, 1, side]) / np.sqrt(1 + 2 * side**2)
        for axis in (0, 1):
            grain = ndimage.correlate1d(grain, weights, axis)
    return grain
