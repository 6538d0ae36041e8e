"""A synthetic contrast-enhanced head without lesions, drawn around the MNI152 template.

Intensities are relative: white matter is 1.0, air 0. Everything that never changes is drawn once in template space
(1 mm, axes (slice, row, column)); a head is that drawing warped, with its own vessels, membranes and thicknesses.
Positions below are MNI millimetres (x to the right, y to the front, z up), as in an atlas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from nilearn import datasets
from scipy import ndimage
from torch.nn import functional as F

SHAPE = (160, 256, 256)
TEMPLATE_CENTRE = np.array([74.0, 116.0, 98.0])  # template voxel that lies at HEAD_CENTRE of every head
HEAD_CENTRE = np.array([75.0, 130.0, 127.5])
BOX = (slice(0, 160), slice(18, 242), slice(38, 218))  # where heads lie in SHAPE: the rest is air
BOX_SHAPE = tuple(b.stop - b.start for b in BOX)

# Large vessels of every head: name, radius at both ends in mm, points (x, y, z). Mirrored ones are drawn on both sides.
MIDLINE_VESSELS = (
    (
        "superior sagittal sinus",
        1.5,
        4.5,
        [(0, 66, 18), (0, 62, 48), (0, 38, 70), (0, 0, 82), (0, -45, 76), (0, -82, 48), (0, -105, 8)],
    ),
    ("straight sinus", 2.0, 3.0, [(0, -42, 6), (0, -60, 4), (0, -85, 0), (0, -102, 2)]),
    ("basilar artery", 1.6, 1.8, [(0, -33, -62), (1, -27, -48), (0, -24, -34), (0, -22, -24)]),
    (
        "pericallosal arteries",
        1.2,
        0.8,
        [(0, 8, -16), (1, 34, -6), (0, 40, 14), (0, 22, 28), (0, -8, 34), (0, -32, 28)],
    ),
    ("great vein", 1.6, 1.8, [(0, -18, 16), (0, -32, 14), (0, -42, 6)]),
    ("pituitary", 4.0, 3.5, [(-3, 4, -32), (3, 4, -32)]),
)
SIDE_VESSELS = (
    ("transverse sinus", 4.0, 3.5,
     [(0, -103, 2), (24, -98, -6), (46, -78, -18), (56, -52, -28), (50, -44, -44), (44, -42, -62)]),
    ("internal carotid", 2.4, 2.2, [(22, -4, -66), (20, 0, -46), (14, 2, -34), (15, 6, -20)]),
    ("middle cerebral", 1.7, 1.0, [(15, 4, -18), (30, 4, -18), (41, 2, -12), (44, -12, 2), (42, -28, 16)]),
    ("middle cerebral, lower", 1.4, 0.9, [(39, 4, -14), (46, -2, -12), (48, -20, -6), (52, -38, 4)]),
    ("posterior cerebral", 1.4, 0.9, [(2, -20, -20), (18, -24, -14), (22, -38, -6), (14, -60, 0), (10, -80, 4)]),
    ("anterior cerebral", 1.3, 1.1, [(14, 5, -18), (6, 8, -17), (1, 12, -14)]),
    ("internal cerebral vein", 1.0, 1.2, [(3, 2, 16), (2, -14, 16), (1, -28, 14)]),
    ("choroid plexus, atrium", 1.6, 3.0, [(14, -8, 22), (20, -26, 18), (24, -40, 8), (30, -36, -2), (33, -26, -12)]),
)  # fmt: skip
AIR = (
    ((28, 48, -58), 15),
    ((-28, 48, -58), 15),
    ((0, 40, -46), 12),
    ((5, 66, -8), 8),
    ((40, -30, -46), 7),
    ((-40, -30, -46), 7),
)
EYES = (((31, 58, -28), 12), ((-31, 58, -28), 12))


@dataclass(frozen=True)
class Head:
    """One warped head. All arrays are (slice, row, column) of `SHAPE`; intensities relative to white matter = 1."""

    image: np.ndarray  # float32, noise-free, bias-free
    brain: np.ndarray  # bool
    junction: np.ndarray  # float32 in [0, 1]: how much grey and white matter meet here


def draw_head(rng):
    """Draw one head without lesions: brain, fluid, membranes, vessels, skull, scalp and face.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    Head

    Notes
    -----
    The brain is the MNI152 2009a symmetric template (Fonov et al. 2011, NeuroImage 54:313) as carried by nilearn.
    """
    template = _template()
    own = _stacked(_draw_vessels(template, rng))
    grid = _warp(rng)
    tissue, inside, junction, outside, face, air, eyes = _pull(template.maps, grid)
    vessel, plexus = _pull(own, grid)
    field = lambda scale: smooth_field(rng, BOX_SHAPE, scale)  # noqa: E731
    texture = 0.025 * field(5) + 0.03 * field(20)
    grey_contrast = rng.uniform(0.75, 1.1)
    image = 1 + grey_contrast * (tissue - 1) + texture
    image += (1 - inside) * (_around_the_brain(outside, face, air, eyes, texture, field, rng) - image)
    within = np.clip(1 - outside, 0, 1)  # vessels and sinuses stay below the skull
    image += np.clip(plexus, 0, 1) * within * (rng.uniform(1.2, 1.7) - image)
    image += vessel * within  # vessels carry their contrast against what they cross
    whole = [np.zeros(SHAPE, np.float32) for _ in range(3)]
    for target, part in zip(whole, (np.maximum(image, 0), inside, junction * (inside > 0.95)), strict=True):
        target[BOX] = part
    return Head(whole[0], whole[1] > 0.5, whole[2])


def smooth_field(rng, shape, scale):
    """Draw a smooth random field: float32 of a shape, mean about 0, s.d. about 1, correlated over `scale` voxels.

    >>> smooth_field(np.random.default_rng(0), (16, 20, 24), 6).shape
    (16, 20, 24)
    """
    field = rng.standard_normal([n // scale + 4 for n in shape], dtype=np.float32)
    for n in shape:  # contracts the first axis and appends it, three times: the order comes out right
        field = np.einsum("abc,na->bcn", field, _cubic_basis(n, scale))  # no BLAS: its threads change last bits
    return 3 * field  # 3: one over the mean root sum of squares of the basis


@cache
def _cubic_basis(n, scale):
    """Cubic B-splines every `scale` voxels, evaluated at n voxels: (n, splines) float32."""
    x = np.abs(np.arange(n)[:, None] / scale + 1 - np.arange(n // scale + 4))
    near, far = 2 / 3 - x**2 + x**3 / 2, np.clip(2 - x, 0, None) ** 3 / 6
    return np.where(x < 1, near, far).astype(np.float32)


@dataclass(frozen=True)
class _Template:
    """What never changes; `maps` is (7, slice, row, column) float32:

    tissue (brain intensity), inside (1 in the brain), junction (where grey meets white matter), and in mm, positive
    inside but for the first: outside (of the cranial cavity), face (and neck), air (sinuses), eyes.
    """

    maps: torch.Tensor
    surface: np.ndarray  # voxels just outside the brain, (n, 3): where cortical vessels start
    core: np.ndarray  # voxels of white matter and deep sulci, (n, 3)


@cache
def _template():
    t1, grey, white = (
        np.ascontiguousarray(load(resolution=1).get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1, ::-1])
        for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    tissue = 1 + 1.35 * (t1 - np.median(t1[white > 0.95]))  # fluid about 0.35, cortex about 0.75
    cavity = ndimage.gaussian_filter(ndimage.zoom(brain.astype(np.float32), 0.5, order=1), 3.0) > 0.28
    outside = ndimage.distance_transform_edt(~cavity) - ndimage.distance_transform_edt(cavity)
    outside = _resize(2.0 * ndimage.gaussian_filter(outside, 1.5).astype(np.float32), t1.shape)
    shell = np.argwhere((~brain) & (outside < -0.5) & (outside > -9))
    core = np.argwhere((white > 0.3) & (outside < -4))
    maps = (
        np.where(brain, np.maximum(tissue, 0.2), 0.3), ndimage.gaussian_filter(brain.astype(np.float32), 0.5),
        np.clip(4 * grey * white, 0, 1), outside, _face(t1.shape), _balls(t1.shape, AIR), _balls(t1.shape, EYES),
    )  # fmt: skip
    return _Template(_stacked(maps), shell.astype(np.float32), core.astype(np.float32))


def _face(shape):
    k, i, j = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    z, y, x = k - 72, 98 - i, 98 - j
    face = 1 - np.sqrt((x / 66) ** 2 + ((y - 20) / 74) ** 2 + ((z + 66) / 62) ** 2)
    neck = 1 - np.sqrt((x / 66) ** 2 + ((y + 48) / 62) ** 2 + ((z + 90) / 70) ** 2)
    return (64 * np.maximum(face, neck)).astype(np.float32)


def _balls(shape, balls):
    depth = np.full(shape, -9.0, np.float32)
    for centre, radius in balls:
        (place,) = mni_to_template([centre])
        box = tuple(slice(int(max(c - radius - 5, 0)), int(c + radius + 6)) for c in place)
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.ogrid[box], place, strict=True)))
        depth[box] = np.maximum(depth[box], radius - distance)
    return depth


def _resize(volume, shape):
    return F.interpolate(torch.from_numpy(volume)[None, None], size=shape, mode="trilinear")[0, 0].numpy()


def mni_to_template(points_mm):
    """Convert MNI millimetres (x, y, z) to template voxels (slice, row, column)."""
    x, y, z = np.asarray(points_mm, np.float32).T
    return np.stack([z + 72, 98 - y, 98 - x], axis=1)


# ---------------------------------------------------------------------------------------------------------- warping


def _warp(rng):
    """Sampling grid (1, slice, row, column, 3) that brings a template volume into a new patient's head."""
    scale = rng.normal(1.07, 0.025) * (1 + 0.03 * rng.standard_normal(3))  # template voxels per voxel of the head
    angles = np.radians(rng.normal(0, [4, 3, 3]))
    rotation = _rotation(angles)
    centre = HEAD_CENTRE + rng.normal(0, 2, 3)
    axes = [np.arange(b.start, b.stop, dtype=np.float32) - np.float32(c) for b, c in zip(BOX, centre, strict=True)]
    k, i, j = np.meshgrid(*axes, indexing="ij", sparse=True)
    sizes = np.array(_template().maps.shape[1:])
    grid = np.empty((*BOX_SHAPE, 3), np.float32)
    for axis in range(3):
        a, b, c = (rotation[axis] * scale).astype(np.float32)
        position = a * k + b * i + c * j + np.float32(TEMPLATE_CENTRE[axis])
        position += 2.0 * smooth_field(rng, BOX_SHAPE, 40) + 0.5 * smooth_field(rng, BOX_SHAPE, 16)
        grid[..., 2 - axis] = position * np.float32(2 / (sizes[axis] - 1)) - 1  # grid_sample wants (x, y, z)
    return torch.from_numpy(grid)[None]


def _rotation(angles):
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_slice = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_row = np.array([[cb, 0, -sb], [0, 1, 0], [sb, 0, cb]])
    about_column = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_slice @ about_row @ about_column


def _stacked(volumes):
    return torch.from_numpy(np.stack(volumes).astype(np.float32, copy=False))


def _pull(maps, grid):
    return F.grid_sample(maps[None], grid, align_corners=True, padding_mode="border")[0].numpy()


# ------------------------------------------------------------------------------------------ what surrounds the brain


def _around_the_brain(outside, face, air, eyes, texture, field, rng):
    """Fluid, membranes, skull, scalp and face as layers of the distance from the cranial cavity."""
    uneven = field(28)
    inner = outside + 0.4 * uneven
    skull = rng.uniform(5, 7.5) + 0.5 * uneven
    scalp = skull + rng.uniform(4.5, 7) + 0.7 * field(40)
    membrane = rng.uniform(0.8, 1.3) * (1 + 0.45 * field(12))  # mm thick, patchy: some of it nodular
    beyond = inner - skull
    muscle = np.clip(0.45 + 0.08 * field(10) + texture, 0.1, 1)
    fat = np.clip(2 * field(14) - 2.2, 0, 1)
    image = np.full(BOX_SHAPE, 0.3, np.float32)  # fluid
    _paint(image, inner + membrane, np.clip(0.75 + 0.35 * field(8), 0.3, 1.6))
    _paint(image, inner, 0.10)
    _paint(image, inner - 1.8, 0.42 + 3 * texture)
    _paint(image, beyond + 1.8, 0.10)
    _paint(image, beyond, rng.uniform(0.9, 1.3) + 4 * texture)
    _paint(image, np.minimum(beyond, face - 5), muscle + fat * (1 - muscle))
    _paint(image, np.minimum(beyond, eyes + 2), 0.9)
    _paint(image, np.minimum(beyond, eyes), 0.25)
    _paint(image, np.minimum(beyond, air), rng.uniform(0.8, 1.5))  # enhancing mucosa
    _paint(image, np.minimum(beyond, air - 2 - 0.6 * uneven), 0.03)
    _paint(image, np.minimum(inner - scalp, -face), 0)
    return image


def _paint(image, depth, value):
    """Blend `value` in where `depth` (mm beyond a surface) is positive, over one voxel."""
    cover = np.clip(depth + 0.5, 0, 1)
    image += cover * (value - image)


# ---------------------------------------------------------------------------------------------------------- vessels


def _draw_vessels(template, rng):
    """Two template volumes: contrast that vessels and sinuses add, and how much of a voxel is choroid plexus."""
    vessel = np.zeros(template.maps.shape[1:], np.float32)
    plexus = np.zeros_like(vessel)
    level = rng.uniform(0.55, 1.0)  # contrast agent in the blood differs from patient to patient
    for sides, table in (((1,), MIDLINE_VESSELS), ((1, -1), SIDE_VESSELS)):
        for name, first, last, points in table:
            for side in sides:
                line = np.array(points, np.float32) * (side, 1, 1) + rng.normal(0, 1.0, (len(points), 3))
                target = plexus if name.startswith("choroid") else vessel
                value = 1.0 if target is plexus else level * rng.uniform(0.8, 1.1)
                _draw_tube(target, mni_to_template(line), first, last, value)
    for start, count, steep, radius in ((template.surface, 150, 0.45, 1.3), (template.core, 110, 0.75, 0.95)):
        for point in start[rng.integers(len(start), size=count)]:
            line = _wander(point, rng, steep, length=int(rng.integers(8, 45)))
            first = radius * rng.uniform(0.5, 1.3)
            _draw_tube(vessel, line, first, first * rng.uniform(0.4, 1.0), level * rng.uniform(0.2, 1.0))
    return vessel, plexus


def _wander(start, rng, steep, length):
    """A smooth random path (length, 3) in 1 mm steps; `steep` in 0..1 pulls it through the slices."""
    steps = np.cumsum(rng.standard_normal((length, 3)), axis=0) * 0.12 + rng.standard_normal(3) * 0.6
    steps[:, 0] += steep * 2 * rng.choice([-1, 1])
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    return start + np.cumsum(steps, axis=0)


def _draw_tube(volume, points, first, last, value):
    """Raise `volume` to `value` along a polyline of voxel positions, radius from `first` to `last` mm, soft edge."""
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(gaps)])
    at = np.arange(0, along[-1], 0.7)
    centres = np.stack([np.interp(at, along, p) for p in points.T], axis=1)
    radii = np.interp(at, [0, along[-1]], [first, last])
    reach = int(np.ceil(max(first, last) + 1))
    offsets = np.indices([2 * reach + 1] * 3).reshape(3, -1).T - reach
    voxels = np.round(centres).astype(int)[:, None] + offsets
    distance = np.linalg.norm(voxels - centres[:, None], axis=2)
    cover = np.clip(radii[:, None] - distance + 0.5, 0, 1)
    cover *= np.minimum(1, 1.6 * radii[:, None])  # a vessel thinner than a voxel fills it only in part
    keep = (cover > 0) & np.all((voxels >= 0) & (voxels < volume.shape), axis=2)
    np.maximum.at(volume, tuple(voxels[keep].T), (value * cover[keep]).astype(np.float32))
