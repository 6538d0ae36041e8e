"""Lesions with known truth: place, shape and look drawn after the literature, and put into a scan of a healthy head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from kit.phantom.head.template import REGIONS
from kit.phantom.surroundings import darken, displace, noise, ramp

LARGE_MM = 6.0
ATTEMPTS = 200  # at a place for a lesion, before there is no room
TOLERATED = 0.08  # share of a lesion's volume that may lie where none should, as it pushes or invades what is there
CONTRAST = (0.2, 1.15)  # of the enhancing part against white matter = 1; drawn log-uniformly
RING_CONTRAST = 0.25  # the least where there is a core: a ring that is seen
HAEMORRHAGIC, TREATED, MIXED = 0.08, 0.1, 0.25  # shares of the lesions; of those with a core, for `MIXED`
SOLID, BILOBED = 0.12, 0.15  # shares of the large lesions
PLACES = (  # share of the lesions, region, what it is
    (0.72, "cerebrum", "junction"),  # grey-white junction; shares of the brain's parts after Delattre et al. 1988
    (0.15, "cerebellum", "brain"),
    (0.07, "cerebrum", "cortex"),  # some of them at the dura
    (0.03, "brain stem", "brain"),
    (0.03, "deep grey", "brain"),
)
LEGENDRE = {
    2: lambda c: (3 * c**2 - 1) / 2,
    3: lambda c: (5 * c**3 - 3 * c) / 2,
    4: lambda c: (35 * c**4 - 30 * c**2 + 3) / 8,
}


class PhantomError(ValueError):
    """A synthetic scan cannot be made as asked for; the message says why and what to do."""


@dataclass(frozen=True)
class Lesion:
    """A lesion, nearly a ball. Lengths in mm; intensities and contrasts relative to white matter = 1."""

    centre: tuple  # voxel (slice, row, column), float
    radius_mm: float  # of the ball of the same volume
    contrast: float  # of the enhancing part; below 0 for one that is dark
    lobes: np.ndarray = field(default_factory=lambda: np.zeros((0, 5)))  # (n, 5): axis, order 2-4, relative height
    core: float | None = None  # intensity of the necrotic or bloody core, None without one
    rim_mm: float = 2.0  # mean thickness of the enhancing rim
    pockets: float | None = None  # of a mixed lesion: core only where a random field (s.d. 1) is above this
    nodules: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))  # (n, 4): place, radius; lesion radius = 1
    patchy: float = 0.0  # s.d. of the enhancement, relative to it
    edge_mm: float = 1.0
    push: float = 0.0  # share of the volume by which tissue is displaced, the rest is replaced
    oedema_mm: float = 0.0  # how far it spreads in white matter
    oedema: float = 0.0  # how much darker white matter is there, of its intensity
    seed: int = 0  # of the random fields inside and around


# ------------------------------------------------------------------------------------------------------------- draw


def draw_lesions(radii_mm, where, rng, *, spacing_mm=(1, 1, 1), gap_mm=4.0, keep_out=None, only_small=None):
    """Draw place, shape and look of lesions.

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
    keep_out : (slice, row, column) bool array, optional
        Where at most 8 % of a lesion may lie: ventricles, what is outside the brain.
    only_small : (slice, row, column) bool array, optional
        Where only lesions below a radius of 6 mm have their centre: the brain stem.

    Returns
    -------
    list of Lesion
        In the order of `radii_mm`.

    Raises
    ------
    PhantomError
        `where` has no room for them.
    """
    options = {"spacing_mm": spacing_mm, "gap_mm": gap_mm, "keep_out": keep_out}
    draw_small = draw_large = place_drawer(where, rng, **options)
    if only_small is not None and max(radii_mm, default=0) >= LARGE_MM:
        draw_large = place_drawer(np.where(only_small, 0, where), rng, **options)
    lesions = [None] * len(radii_mm)
    for n in sorted(range(len(radii_mm)), key=lambda n: -radii_mm[n]):  # the largest first, while there is room
        draw_place = draw_large if radii_mm[n] >= LARGE_MM else draw_small
        centre = draw_place(radii_mm[n], [lesion for lesion in lesions if lesion])
        if centre is None:
            raise PhantomError(
                f"no room for lesion {n + 1} (radius {radii_mm[n]:.1f} mm): allow more voxels in `where`"
            )
        lesions[n] = draw_lesion(centre, float(radii_mm[n]), rng)
    return lesions


def place_drawer(where, rng, *, spacing_mm=(1, 1, 1), gap_mm=4.0, keep_out=None):
    """Make a function that draws free places; arguments as for `draw_lesions`.

    It takes a radius in mm and the lesions that are there, and returns a centre (slice, row, column), or None where
    none was free in 200 attempts.
    """
    flat = np.flatnonzero(np.asarray(where) > 0)
    likely = np.cumsum(np.asarray(where, np.float64).ravel()[flat])

    def draw_place(radius_mm, lesions):
        for _ in range(ATTEMPTS if flat.size else 0):
            voxel = flat[min(np.searchsorted(likely, rng.uniform(0, likely[-1])), flat.size - 1)]
            centre = np.array(np.unravel_index(voxel, where.shape)) + rng.uniform(-0.5, 0.5, 3)
            if _is_free(centre, radius_mm, lesions, spacing_mm, gap_mm, keep_out):
                return tuple(centre.tolist())
        return None

    return draw_place


def likely_places(tissue):
    """Where metastases lie in a brain: relative probability, float32 (slice, row, column).

    Mostly at the grey-white junction, where vessels narrow, and in the cerebellum; few in the brain stem and the deep
    nuclei (Delattre et al. 1988, Arch Neurol 45:741: 80 % cerebral hemispheres, 15 % cerebellum, 5 % brain stem).

    `tissue` is a `kit.phantom.Head`, or a `Tissue` estimated from a given scan.
    """
    depth_mm = tissue.depth_mm
    inside = np.flatnonzero((tissue.region > 0) & (depth_mm > 1))
    grey, white, region, depth_mm = (a.ravel()[inside] for a in (tissue.grey, tissue.white, tissue.region, depth_mm))
    kinds = {
        "junction": np.minimum(4 * grey * white, 1) * (depth_mm > 2.5) * (depth_mm < 35),
        "brain": (grey + white) * (depth_mm > 2.5),
        "cortex": grey * (depth_mm < 7),
    }
    where = np.zeros(tissue.white.shape, np.float32)
    for share, name, kind in PLACES:
        here = kinds[kind] * (region == REGIONS[name]) * (kinds[kind] > 0.25)
        where.ravel()[inside] += np.float32(share / max(here.sum(dtype=np.float64), 1.0)) * here
    return where


def _is_free(centre, radius_mm, lesions, spacing_mm, gap_mm, keep_out):
    apart = [np.linalg.norm((le.centre - centre) * spacing_mm) - le.radius_mm - radius_mm for le in lesions]
    if min(apart, default=gap_mm) < gap_mm:
        return False
    if keep_out is None:
        return True
    layers = np.linspace(0.3, 1, 8)[:, None, None] ** (1 / 3) * _directions(64)
    voxels = np.round(centre + layers.reshape(-1, 3) * radius_mm / spacing_mm).astype(int)
    voxels = np.clip(voxels, 0, np.array(keep_out.shape) - 1)
    return keep_out[tuple(voxels.T)].mean() <= TOLERATED


def _directions(n):
    """Unit vectors spread evenly over the sphere (Fibonacci lattice): (n, 3)."""
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    return np.stack([z, np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn)], axis=1)


def draw_lesion(centre, radius_mm, rng):
    """Draw the look of one metastasis: solid, ring or mixed; with blood or treated in some; its oedema and push.

    Returns a `Lesion`. Above a radius of about 5 mm most have a necrotic core (thesis, ch. 1).
    """
    large = radius_mm >= LARGE_MM
    treated, bloody = (rng.uniform() < share for share in (TREATED, HAEMORRHAGIC))
    hollow = rng.uniform() < (1 - SOLID) / (1 + np.exp((4.8 - radius_mm) / 0.6))
    contrast = float(np.exp(rng.uniform(*np.log(CONTRAST)))) * (0.5 if treated else 1.0)
    core = rng.uniform(1.1, 1.8) if bloody else rng.uniform(0.3, 0.9)
    swollen = radius_mm > rng.uniform(2.5, 6)
    return Lesion(
        centre,
        radius_mm,
        max(contrast, RING_CONTRAST * (1 + bloody)) if hollow else contrast,
        lobes=draw_lobes(radius_mm, rng, irregular=1.7 if treated else 1.0, bilobed=large and rng.uniform() < BILOBED),
        core=float(core) if hollow else None,
        rim_mm=float(min(rng.uniform(1.1, 3.4), rng.uniform(0.35, 0.6) * radius_mm)),
        pockets=float(rng.uniform(-0.5, 0.4)) if rng.uniform() < MIXED else None,
        nodules=_draw_nodules(rng),
        patchy=float(rng.uniform(0.08, 0.2) + 0.2 * (treated or bloody)),
        edge_mm=float(rng.uniform(0.6, 1.3) + treated),
        push=float(rng.uniform(0.2, 0.5) if treated else rng.uniform(0.5, 0.9)),
        oedema_mm=float(min(radius_mm * rng.uniform(0.6, 2.4), 28.0)) if swollen else 0.0,
        oedema=float(rng.uniform(0.12, 0.3)),
        seed=int(rng.integers(2**31)),
    )


def draw_lobes(radius_mm, rng, irregular=1.0, bilobed=False):
    """Low-order waves on the surface; sigma_r grows slowly with size (thesis, Fig. 5.3)."""
    orders = np.array([2, 2, 3, 3, 4, 4])
    axes = rng.standard_normal((6, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    height = rng.standard_normal(6) * [1, 1, 0.6, 0.6, 0.25, 0.25]
    sigma = irregular * (0.045 + 0.0045 * radius_mm) * np.exp(0.25 * rng.standard_normal())
    height *= sigma / np.sqrt(np.sum(height**2 / (2 * orders + 1)))  # the mean square of a Legendre polynomial
    lobes = np.column_stack([axes, orders, np.clip(height, -0.3, 0.3)])
    if not bilobed:
        return lobes
    lobes[:, 4] *= 0.4
    return np.vstack([lobes, [*axes[0], 2, 0.25], [*axes[0], 4, 0.1]])


def _draw_nodules(rng):
    """Mural nodules: enhancing lumps on the inside of the rim."""
    n = rng.integers(0, 4)
    place = rng.standard_normal((n, 3))
    place *= rng.uniform(0.65, 0.85, (n, 1)) / np.linalg.norm(place, axis=1, keepdims=True)
    return np.column_stack([place, rng.uniform(0.2, 0.4, n)])


# ---------------------------------------------------------------------------------------------------------- implant


def implant(image, lesions, *, white_matter, spacing_mm=(1, 1, 1), tissue=None):
    """Put lesions into a scan of a healthy head: the phantom's own, or one that is given.

    Parameters
    ----------
    image : (slice, row, column) array
        Left as it is.
    lesions : list of Lesion
        Their centres are voxels of `image`.
    white_matter : float
        Intensity of white matter in `image`, where air is 0: lesion contrast is relative to it.
    spacing_mm : (slice, row, column) float
        Of `image`.
    tissue : Head or Tissue, optional
        What the head consists of, for mass effect, oedema and the skull that stops both; `estimate_tissue` finds it
        in a given scan. Without it lesions are put in, and their surroundings are left alone.

    Returns
    -------
    image : (slice, row, column) float32 array
    label : (slice, row, column) bool array
        True where a lesion, rim and core, fills half of a voxel or more.

    Examples
    --------
    >>> image, label = implant(np.ones((9, 9, 9)), [Lesion((4, 4, 4), 2.0, contrast=0.5)], white_matter=1.0)
    >>> label.sum(), image[4, 4, 4]
    (np.int64(27), np.float32(1.5))
    """
    image, label = np.array(image, np.float32), np.zeros(np.shape(image), bool)
    if tissue is not None:
        white = displace(image, tissue, lesions, spacing_mm)
        darken(image, white, tissue, lesions, spacing_mm, white_matter)
    for lesion in lesions:
        box, cover, body = _drawn(lesion, image.shape, np.asarray(spacing_mm, float))
        if tissue is not None:
            cover *= np.clip(tissue.depth_mm[box] + 0.5, 0, 1)  # the dura holds
        value = white_matter * body + _grain(image[box])
        image[box] += cover * (value - image[box])
        label[box] |= cover >= 0.5
    return image, label


def surface_mm(lesion, offset, distance):
    """Distance of a lesion's surface from its centre in the direction of `offset` (three arrays, mm)."""
    shape = np.ones_like(distance)
    for *axis, order, height in lesion.lobes:
        shape += height * LEGENDRE[order](sum(o * a for o, a in zip(offset, axis, strict=True)) / distance)
    cosines = np.einsum("di,wi->wd", _directions(500), lesion.lobes[:, :3])
    mean = 1 + sum((h * LEGENDRE[o](c) for o, h, c in zip(*lesion.lobes.T[3:], cosines, strict=True)), np.zeros(500))
    return lesion.radius_mm * shape / np.cbrt(np.mean(mean**3))


def _drawn(lesion, shape, spacing_mm):
    """A lesion's box, and in it the share of each voxel that it fills, and its intensity there."""
    reach = np.ceil((1.9 * lesion.radius_mm + 2) / spacing_mm).astype(int)
    middle = np.round(lesion.centre).astype(int)
    first, last = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, shape)
    box = tuple(slice(int(a), int(max(b, a))) for a, b in zip(first, last, strict=True))
    parts = np.ceil(spacing_mm / np.clip(lesion.radius_mm / 4, 0.5, 1)).astype(int)  # of a voxel, for partial volume
    axes = [
        (np.arange(a * p, max(b, a) * p) / p + (0.5 / p - 0.5) - c) * s
        for a, b, p, c, s in zip(first, last, parts, lesion.centre, spacing_mm, strict=True)
    ]
    offset = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = np.sqrt(sum(o**2 for o in offset)) + 1e-6
    depth = surface_mm(lesion, offset, distance) - distance
    cover = ramp(depth / lesion.edge_mm + 0.5)
    body = _body(lesion, axes, offset, depth)
    whole = _pooled(cover, parts)
    return box, whole, _pooled(cover * body, parts) / np.maximum(whole, 1e-6)


def _body(lesion, axes, offset, depth):
    """Intensity of the enhancing part and the core at each point, white matter = 1."""
    rng = np.random.default_rng(lesion.seed)
    relative = [a / lesion.radius_mm for a in axes]
    coarse, holes = noise(rng, relative, 0.45), noise(rng, relative, 0.35)
    fine = noise(rng, axes, 1.8)
    body = 1 + lesion.contrast * np.maximum(1 + lesion.patchy * (0.7 * fine + 0.7 * coarse), 0.3)
    if lesion.core is None:
        return body
    below_rim = depth - lesion.rim_mm * np.clip(1 + 0.45 * coarse, 0.65, 2.2)
    if lesion.pockets is not None:
        below_rim = np.minimum(below_rim, 1.5 * (holes - lesion.pockets))
    for *place, radius in lesion.nodules:
        away = sum((o / lesion.radius_mm - p) ** 2 for o, p in zip(offset, place, strict=True))
        below_rim = np.minimum(below_rim, lesion.radius_mm * (np.sqrt(away) - radius - 0.05 * holes))
    soft_mm = 0.8 + 0.08 * lesion.radius_mm
    core = lesion.core * (1 + 0.06 * fine + (0.05 + 0.4 * (lesion.core > 1) * lesion.patchy) * coarse)
    return body + ramp(below_rim / soft_mm + 0.5) * (core - body)


def _pooled(fine, parts):
    """Means over each voxel's parts."""
    (k, i, j), (a, b, c) = fine.shape, parts
    return fine.reshape(k // a, a, i // b, b, j // c, c).mean(axis=(1, 3, 5))


def _grain(tissue):
    """The scan's own noise, which goes on inside a lesion; vessels and borders are no noise."""
    grain = tissue - ndimage.gaussian_filter(tissue, 1.0)
    limit = 3 * np.median(np.abs(grain)) if grain.size else 0
    return np.clip(grain, -limit, limit)
