"""Lesions with known truth: place, shape and contrast drawn after the thesis, and put into a scan of a healthy head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

CORE_RADIUS_MM = 5.0  # larger lesions mostly have a necrotic core (thesis, ch. 1)
CONTRAST = (0.14, 0.95)  # of the rim against the tissue, white matter = 1; drawn log-uniformly
ATTEMPTS = 200  # at a place for a lesion, before there is no room


class PhantomError(ValueError):
    """A synthetic scan cannot be made as asked for; the message says why and what to do."""


@dataclass(frozen=True)
class Lesion:
    """A star-shaped lesion. Lengths in mm, intensities relative to white matter = 1."""

    centre: tuple  # voxel (slice, row, column), float
    radius_mm: float
    waves: np.ndarray  # (waves, 5): direction vector (3), phase, amplitude relative to the radius
    contrast: float
    core: float | None  # intensity of the necrotic core, None without one
    rim_mm: float
    edge_mm: float


def draw_lesions(radii_mm, where, rng, *, spacing_mm=(1, 1, 1), gap_mm=4.0):
    """Draw place, shape and contrast of lesions.

    Parameters
    ----------
    radii_mm : sequence of float
        One a lesion.
    where : (slice, row, column) array
        Relative probability of a centre at each voxel, 0 where no centre may lie; a lesion may reach there.
    rng : numpy.random.Generator
    spacing_mm : (slice, row, column) float
        Of `where`.
    gap_mm : float
        The least distance between the surfaces of two lesions, were they spheres.

    Returns
    -------
    list of Lesion
        In the order of `radii_mm`.

    Raises
    ------
    PhantomError
        `where` has no room for them.
    """
    places = np.argwhere(where > 0)
    weights = np.asarray(where[where > 0], float)
    lesions = []
    for radius in radii_mm:
        centre = _free_place(places, weights, radius, lesions, rng, np.asarray(spacing_mm), gap_mm)
        lesions.append(_draw_lesion(centre, radius, rng))
    return lesions


def _free_place(places, weights, radius, lesions, rng, spacing_mm, gap_mm):
    for _ in range(ATTEMPTS if weights.sum() else 0):
        centre = places[rng.choice(len(places), p=weights / weights.sum())] + rng.uniform(-0.5, 0.5, 3)
        apart = [np.linalg.norm((le.centre - centre) * spacing_mm) - le.radius_mm - radius for le in lesions]
        if min(apart, default=gap_mm) >= gap_mm:
            return tuple(centre.tolist())
    raise PhantomError(f"no room for lesion {len(lesions) + 1} (radius {radius:.1f} mm): allow more voxels in `where`")


def _draw_lesion(centre, radius, rng):
    n = 6
    waves = np.empty((n, 5))
    waves[:, :3] = rng.standard_normal((n, 3)) * np.linspace(1.0, 4.0, n)[:, None]
    waves[:, 3] = rng.uniform(0, 2 * np.pi, n)
    irregular = 0.06 + 0.012 * radius  # shape complexity grows with size (thesis, Fig. 5.3)
    waves[:, 4] = irregular * rng.uniform(0.3, 1.0, n)
    contrast = float(np.exp(rng.uniform(*np.log(CONTRAST))))
    core = float(rng.uniform(0.3, 0.65)) if radius > CORE_RADIUS_MM * rng.uniform(0.9, 1.25) else None
    return Lesion(
        centre, float(radius), waves, contrast, core, float(rng.uniform(1.5, 3.2)), float(rng.uniform(1.0, 2.0))
    )


def implant(image, lesions, *, white_matter, spacing_mm=(1, 1, 1)):
    """Put lesions into a scan of a healthy head: the phantom's own, or one that is given.

    Parameters
    ----------
    image : (slice, row, column) array
        Left as it is.
    lesions : list of Lesion
        Their centres are voxels of `image`.
    white_matter : float
        Intensity of white matter in `image`: lesion contrast is relative to it.
    spacing_mm : (slice, row, column) float
        Of `image`.

    Returns
    -------
    image : (slice, row, column) float32 array
    label : (slice, row, column) bool array
        True where a lesion fills half of a voxel or more.

    Examples
    --------
    >>> ball = Lesion((4, 4, 4), 2.0, np.zeros((1, 5)), contrast=0.5, core=None, rim_mm=2.0, edge_mm=1.0)
    >>> image, label = implant(np.ones((9, 9, 9)), [ball], white_matter=1.0)
    >>> label.sum(), image[4, 4, 4]
    (np.int64(33), np.float32(1.42))
    """
    image, label = np.array(image, np.float32), np.zeros(image.shape, bool)
    for lesion in lesions:
        reach = np.ceil((1.8 * lesion.radius_mm + 8) / np.asarray(spacing_mm)).astype(int)
        middle = np.round(lesion.centre).astype(int)
        box = tuple(slice(max(m - r, 0), m + r + 1) for m, r in zip(middle, reach, strict=True))
        depth, wave = _depth_mm(lesion, box, image.shape, spacing_mm)
        image[box] = _blend(image[box], depth, wave, lesion, white_matter)
        label[box] |= depth >= 0
    return image, label


def _depth_mm(lesion, box, shape, spacing_mm):
    """How deep each voxel of a box lies below the lesion's surface, mm (negative outside), and its first wave."""
    inside = tuple(slice(b.start, min(b.stop, n)) for b, n in zip(box, shape, strict=True))
    axes = [(g - c) * s for g, c, s in zip(np.ogrid[inside], lesion.centre, spacing_mm, strict=True)]
    offset = np.stack(np.broadcast_arrays(*axes), axis=-1)
    distance = np.linalg.norm(offset, axis=-1)
    direction = offset / np.maximum(distance, 1e-6)[..., None]
    waves = np.cos(np.einsum("...i,wi->...w", direction, lesion.waves[:, :3]) + lesion.waves[:, 3])
    surface = lesion.radius_mm * np.maximum(1 + np.einsum("...w,w->...", waves, lesion.waves[:, 4]), 0.4)
    return surface - distance, waves[..., 0]


def _blend(tissue, depth, wave, lesion, white_matter):
    """The lesion's look: soft edge, bright body, dark core inside an uneven rim, slightly dark oedema around."""
    fine = tissue - ndimage.gaussian_filter(tissue, 1.5)  # the scan's own grain goes on inside the lesion
    body = white_matter * (0.92 + lesion.contrast) + fine
    if lesion.core is not None:
        rim_mm = lesion.rim_mm * (1 + 0.4 * wave)
        body = body + _ramp((depth - rim_mm) / 1.5 + 0.5) * (white_matter * lesion.core + fine - body)
    cover = _ramp(depth / lesion.edge_mm + 0.5)
    oedema = 0.12 * np.exp(np.minimum(depth, 0) / (0.25 * lesion.radius_mm)) * (lesion.radius_mm > 3)
    around = tissue - white_matter * oedema * (1 - cover)
    return np.maximum(around + cover * (body - around), 0).astype(np.float32)


def _ramp(x):
    """Smooth step from 0 to 1."""
    x = np.clip(x, 0, 1)
    return x**2 * (3 - 2 * x)
