"""The template that heads are drawn around, in its own space: tissue, cavity, face, air; and smooth random fields.

Template space has 1 mm voxels and axes (slice, row, column). Positions in tables are MNI millimetres (x to the right, y
to the front, z up), as in an atlas.
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
AIR = (
    ((28, 48, -58), 15),
    ((-28, 48, -58), 15),
    ((0, 40, -46), 12),
    ((5, 66, -8), 8),
    ((40, -30, -46), 7),
    ((-40, -30, -46), 7),
)
EYES = (((31, 58, -28), 12), ((-31, 58, -28), 12))
REGIONS = {"cerebrum": 1, "cerebellum": 2, "brain stem": 3, "deep grey": 4, "ventricles": 5}
# Where regions surely are: ellipsoids, each (x, y, z) of the centre and three half axes; on both sides.
PLACES = {
    "cerebrum": [(48, -20, -18, 12, 30, 10), (30, 4, -34, 10, 12, 12), (22, -85, -2, 10, 14, 8),
                 (45, -60, -2, 12, 20, 10), (0, -12, 0, 14, 12, 8), (24, -60, 2, 8, 14, 5), (28, -20, -16, 8, 14, 8)],
    "cerebellum": [(26, -64, -40, 20, 20, 12), (0, -62, -26, 7, 14, 14)],
    "brain stem": [(0, -26, -36, 12, 8, 12), (0, -38, -60, 6, 5, 14), (0, -20, -20, 12, 6, 8)],
    "deep grey": [(12, -18, 8, 13, 17, 11), (26, 2, 1, 11, 21, 14), (13, 14, 8, 7, 12, 13)],
    "ventricles": [(14, -5, 16, 16, 42, 18), (26, -36, 4, 14, 18, 20), (32, -16, -16, 8, 22, 8), (24, -60, 6, 8, 22, 6),
                   (0, -12, 0, 5, 20, 12), (0, -46, -34, 10, 10, 14)],
}  # fmt: skip


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
class Template:
    """What never changes; `maps` is (8, slice, row, column) float32:

    tissue (brain intensity), inside (1 in the brain), grey and white (fractions), and in mm, positive inside but for
    the first: outside (of the cranial cavity), face (and neck), air (sinuses), eyes.
    """

    maps: torch.Tensor
    region: torch.Tensor  # (1, slice, row, column) float32: the numbers of REGIONS, 0 outside the brain
    surface: np.ndarray  # voxels just outside the brain, (n, 3): where cortical vessels start
    core: np.ndarray  # voxels of white matter and deep sulci, (n, 3)


@cache
def template():
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
        grey, white, outside, _face(t1.shape), _balls(t1.shape, AIR), _balls(t1.shape, EYES),
    )  # fmt: skip
    region = stacked([_regions(t1, grey, brain - grey - white)])
    return Template(stacked(maps), region, shell.astype(np.float32), core.astype(np.float32))


def _regions(t1, grey, csf):
    """Cerebrum, cerebellum and brain stem, parted along the fluid between them, then nuclei and ventricles in them."""
    k, i, j = np.ogrid[: t1.shape[0], : t1.shape[1], : t1.shape[2]]
    aside, y, z = np.abs(98 - j), 98 - i, k - 72
    within = lambda name: np.any(  # noqa: E731
        [((aside - a) / r) ** 2 + ((y - b) / s) ** 2 + ((z - c) / t) ** 2 < 1 for a, b, c, r, s, t in PLACES[name]], 0
    )
    seeds = np.zeros(t1.shape, np.int16)
    for name in ("cerebrum", "brain stem", "cerebellum"):
        seeds[within(name)] = REGIONS[name]
    seeds[np.broadcast_to((z > 10) | ((y > 4) & (z > -30)), t1.shape)] = REGIONS["cerebrum"]
    seeds[t1 == 0] = 99
    region = ndimage.watershed_ift((255 * np.clip(1 - t1, 0, 1)).astype(np.uint8), seeds)
    leaked = (region == REGIONS["brain stem"]) & ((z > -6) | (aside > 16) | (y < -41))
    region = np.where(leaked, np.where(z > -22, REGIONS["cerebrum"], REGIONS["cerebellum"]), region)
    region[(region == REGIONS["cerebrum"]) & within("deep grey") & (grey > 0.3)] = REGIONS["deep grey"]
    region[within("ventricles") & (csf > 0.5)] = REGIONS["ventricles"]
    return np.where(region == 99, 0, region)


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


def stacked(volumes):
    return torch.from_numpy(np.stack(volumes).astype(np.float32, copy=False))


def pull(maps, grid, mode="bilinear"):
    return F.grid_sample(maps[None], grid, mode=mode, align_corners=True, padding_mode="border")[0].numpy()
