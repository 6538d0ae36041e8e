"""The template that heads are drawn around, in its own space, and smooth random fields.

Template space has 1 mm voxels and axes (slice, row, column). Positions in tables are MNI millimetres (x to the right, y
to the front, z up), as in an atlas. The brain is the MNI152 2009a symmetric template (Fonov et al. 2011, NeuroImage
54:313) as carried by nilearn; skull and face are drawn around it by `kit.phantom.head.skull`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage, spatial
from torch.nn import functional as F

from kit.phantom.head.skull import BASE_BACK, BASE_SIDE, BASE_TOP, head_outline, skull_base

SHAPE = (160, 256, 256)
ORIGIN = np.array([72.0, 112.0, 98.0])  # template voxel of MNI (0, 0, 0)
TEMPLATE_CENTRE = np.array([74.0, 130.0, 98.0])  # template voxel that lies at HEAD_CENTRE of every head
HEAD_CENTRE = np.array([63.5, 135.0, 127.5])
BOX = (slice(0, 160), slice(10, 248), slice(34, 222))  # where heads lie in SHAPE: the rest is air
BOX_SHAPE = tuple(b.stop - b.start for b in BOX)
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
# The choroid plexus: (x, y, z) and radius, from the foramen of Monro over body and atrium to the temporal horn.
PLEXUS = [(3, 2, 11, 0.8), (6, -6, 18, 1.2), (8, -14, 19, 1.5), (11, -22, 18, 1.6), (15, -32, 17, 2.2),
          (22, -39, 11, 4.0), (27, -43, 5, 4.4), (30, -42, 0, 3.0),
          (31, -32, -9, 1.8), (30, -14, -19, 1.4)]  # fmt: skip
# The free edge of the falx, (y, z) from the straight sinus to the crista galli.
FREE_EDGE = [(-100, -10), (-66, 2), (-46, 14), (-20, 34), (0, 42), (20, 42), (35, 34), (55, 8), (70, -22)]


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
    """What never changes. Tensors are float32 (channel, slice, row, column).

    All but `base` cover the same box, from the first voxel's centre to the last one's.
    """

    maps: torch.Tensor  # at 1 mm: fractions of white and of grey matter, falx and tentorium
    region: torch.Tensor  # the numbers of REGIONS, 0 outside the brain
    coarse: torch.Tensor  # at 2 mm: as COARSE says
    base: torch.Tensor  # the skull base at 1 mm, as `kit.phantom.head.skull.skull_base` says
    base_cut: tuple  # slices of the template that `base` covers
    surface: np.ndarray  # voxels just outside the brain, (n, 3): where cortical vessels start
    core: np.ndarray  # voxels of white matter and deep sulci, (n, 3)


# Distance from the cranial cavity (mm, negative inside), what face and neck add to the head (mm), two vectors (mm of
# movement per mm): brain from its skull, ventricle from its brain; distance from the ventricles, depth in the plexus.
COARSE = (
    "outside",
    "extra",
    *(f"{move} {axis}" for move in ("shrink", "widen") for axis in "zyx"),
    "ventricle",
    "plexus",
)


@cache
def template():
    """Draw the template once a process, a few seconds."""
    t1, grey, white = (_loaded(name) for name in ("template", "gm_template", "wm_template"))
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    region = _regions(t1, grey, brain - grey - white)
    tissue = np.where(region == REGIONS["ventricles"], 0.3, 1) * brain  # their walls move from brain to brain
    white, grey = _sharpened(t1, white, grey, tissue)
    coarse = _coarse(brain, region)
    outside = _resize(coarse[0], t1.shape)
    shell = np.argwhere((~brain) & (outside < -0.5) & (outside > -9))
    core = np.argwhere((white > 0.3) & (outside < -4))
    cut = _base_cut(t1.shape)
    base = skull_base(outside[cut], mni_axes(t1.shape, cut))
    maps = stacked([white, grey, _sheets(region, outside)])
    points = (shell.astype(np.float32), core.astype(np.float32))
    return Template(maps, stacked([region]), stacked(coarse), torch.from_numpy(base), cut, *points)


def _loaded(name):
    from nilearn import datasets  # heavy, and only needed where a head is drawn

    volume = getattr(datasets, f"load_mni152_{name}")(resolution=1).get_fdata(dtype=np.float32)
    front = int(ORIGIN[1]) - 98  # nilearn's box ends in the middle of the nose
    return np.pad(volume.transpose(2, 1, 0)[:, ::-1, ::-1], ((0, 0), (front, 0), (0, 0)))


def _sharpened(t1, white, grey, tissue):
    """Fractions as one brain has them: the maps are means over many, in which narrow sulci are half filled.

    Dark lines of the mean image tell where the sulci and the folia of the cerebellum run.
    """
    lines = np.maximum(ndimage.gaussian_filter(t1, 2.5) - t1, 0)
    fluid = 1.5 * np.clip(1 - white - grey, 0, 1) + 3 * lines
    parts = white**3, grey**3, fluid**3
    return [tissue * part / (sum(parts) + 1e-6) for part in parts[:2]]


def _coarse(brain, region):
    """The maps of COARSE."""
    half = lambda mask: ndimage.zoom(mask.astype(np.float32), 0.5, order=1)  # noqa: E731
    box = mni_axes(brain.shape, voxels=half(brain).shape)
    vault = np.clip((box[2] + 22) / 20, 0, 1)  # the base follows the brain more closely than the vault
    hull = [ndimage.gaussian_filter(half(brain), blur) for blur in (1.6, 3.0)]
    outside = 2 * ndimage.gaussian_filter(_distance(hull[0] + vault * (hull[1] - hull[0]) > 0.33), 1.5)
    ventricle = 2 * ndimage.gaussian_filter(_distance(half(region == REGIONS["ventricles"]) > 0.5), 0.7)
    axes = [
        np.linspace(0, n - 1, m, dtype=np.float32) - o
        for n, m, o in zip(brain.shape, outside.shape, ORIGIN, strict=True)
    ]
    box = (-axes[2][None, None], -axes[1][None, :, None], axes[0][:, None, None])
    shrink = [0.5 * g * np.exp(np.minimum(outside, 0) / 30) for g in np.gradient(outside)]
    wall = ndimage.gaussian_filter(ventricle, 1.5)
    reach = np.exp(-np.maximum(ventricle, 0) / 18) * np.where(box[2] > -20, 1, 0.2)  # the fourth widens little
    widen = [-0.5 * g * reach for g in np.gradient(wall)]
    return [outside, head_outline(outside, box), *shrink, *widen, ventricle, _plexus(box)]


def _distance(mask):
    return (ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)).astype(np.float32)


def _sheets(region, outside):
    """How much of a voxel falx and tentorium fill: float32 in [0, 1]."""
    x, y, z = mni_axes(region.shape)
    edge = np.interp(y, *np.transpose(FREE_EDGE))  # of the falx, over the corpus callosum
    falx = np.where((z > edge) & (outside < 0), 0.55 - np.abs(x), -9)
    low, high = mni_to_template([(72, -12, -72), (-72, -112, 10)]).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    falx[box] = np.maximum(falx[box], _tentorium(region[box], *mni_axes(region.shape, box)))
    return np.clip(falx + 0.5, 0, 1)


def _tentorium(region, x, y, z):
    """Depth in the sheet midway between cerebrum and cerebellum, mm."""
    above, below = (ndimage.distance_transform_edt(region != REGIONS[n]) for n in ("cerebrum", "cerebellum"))
    free = (y < -20 - 0.9 * np.maximum(z + 24, 0)) | (np.abs(x) > 26)  # the notch leaves the brain stem room
    return np.where((np.maximum(above, below) < 6) & free & (z < 6), 0.6 - np.abs(above - below) / 2, -9)


def _plexus(box):
    """Depth in the choroid plexus of both sides, mm, as wide as it may get: `ventricle` cuts its shape."""
    line = np.array(PLEXUS, np.float32)
    at = np.arange(0, len(line) - 1, 0.1)
    line = np.stack([np.interp(at, np.arange(len(line)), c) for c in line.T], axis=1)
    shape = np.broadcast_shapes(*(b.shape for b in box))
    points = np.stack([np.broadcast_to(b, shape) for b in (np.abs(box[0]), *box[1:])], axis=-1).reshape(-1, 3)
    away, nearest = spatial.cKDTree(line[:, :3]).query(points, distance_upper_bound=9)
    radius = np.append(line[:, 3], 0)[nearest]
    return np.clip(radius - away, -4, 9).reshape(shape)


def _regions(t1, grey, csf):
    """Cerebrum, cerebellum and brain stem, parted along the fluid between them, then nuclei and ventricles in them."""
    x, y, z = mni_axes(t1.shape)
    aside = np.abs(x)
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


def _base_cut(shape):
    low, high = mni_to_template([(BASE_SIDE, 500, -500), (-BASE_SIDE, BASE_BACK, BASE_TOP)])
    return tuple(slice(max(int(a), 0), min(int(b) + 1, n)) for a, b, n in zip(low, high, shape, strict=True))


def _resize(volume, shape):
    volume = torch.from_numpy(volume)[None, None]
    return F.interpolate(volume, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()


def mni_to_template(points_mm):
    """Convert MNI millimetres (x, y, z) to template voxels (slice, row, column)."""
    x, y, z = np.asarray(points_mm, np.float32).T
    return np.stack([z + ORIGIN[0], ORIGIN[1] - y, ORIGIN[2] - x], axis=1)


def mni_axes(shape, cut=(slice(None),) * 3, voxels=None):
    """MNI millimetres x, y, z of a template volume's voxels: three broadcastable float32 arrays.

    Of a cut of it, or of another number of voxels from its first to its last.
    """
    axes = [np.linspace(0, n - 1, m, dtype=np.float32) for n, m in zip(shape, voxels or shape, strict=True)]
    k, i, j = (a[c] - np.float32(o) for a, c, o in zip(axes, cut, ORIGIN, strict=True))
    return -j[None, None], -i[None, :, None], k[:, None, None]


def stacked(volumes):
    """Volumes of one shape, (slice, row, column) each, as one float32 tensor (channel, slice, row, column)."""
    return torch.from_numpy(np.stack(volumes).astype(np.float32, copy=False))


def pull(maps, grid, mode="bilinear", beyond="border"):
    """Sample volumes (channel, slice, row, column) at a grid (1, a, b, c, 3): float32 array (channel, a, b, c)."""
    return F.grid_sample(maps[None], grid, mode=mode, align_corners=True, padding_mode=beyond)[0].numpy()


def pull_points(maps, position, mode="bilinear", origin=(0, 0, 0)):
    """Sample volumes at voxel positions (3, n): float32 (channel, n) array, 0 beyond a cut that starts at `origin`."""
    grid = to_grid(position[:, None, None], maps.shape[1:], origin)
    return pull(maps, grid, mode, "zeros" if any(origin) else "border")[:, 0, 0]


def to_grid(position, shape, origin=(0, 0, 0)):
    """Turn voxel positions (3, slice, row, column) in a volume of a shape into a grid for `pull`.

    `origin` is the volume's first voxel, where it is a cut of the one that positions count in.
    """
    scaled = [(p - o) * np.float32(2 / (n - 1)) - 1 for p, n, o in zip(position, shape, origin, strict=True)]
    return torch.stack(scaled[::-1], dim=-1)[None]  # grid_sample wants (x, y, z)
