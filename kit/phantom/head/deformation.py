"""How one template becomes many heads: size, shape, folds, ventricles and atrophy, as one smooth warp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from kit.phantom.head.template import BOX, BOX_SHAPE, COARSE, HEAD_CENTRE, TEMPLATE_CENTRE, pull, smooth_field, to_grid

HALF = tuple(n // 2 for n in BOX_SHAPE)  # a warp is smooth: it is drawn at every second voxel
# Waves of the whole head, and of the brain inside its skull: distance of the knots in half voxels, s.d. in mm.
SKULL_WAVES = ((45, 2.5), (20, 0.8))
BRAIN_WAVES = ((16, 2.2), (7, 1.2))
WIDENING_STEPS = 3  # in one step, the wall of a narrow ventricle would pass the opposite one


@dataclass(frozen=True)
class Warp:
    """Which template voxel each second voxel of BOX shows: of the head as a whole, and inside its skull."""

    skull: torch.Tensor  # (3, slice, row, column) float32
    brain: torch.Tensor
    coarse: dict  # name in COARSE: (slice, row, column) float32 over all of BOX


def draw_warp(maps, rng, atrophy):
    """Draw the warp of one head.

    Parameters
    ----------
    maps : Template
    rng : numpy.random.Generator
    atrophy : float
        0 in the young, 1 in a brain that has shrunk around wide ventricles.

    Returns
    -------
    Warp
    """
    skull = _affine(rng) + _waves(rng, SKULL_WAVES)
    outside, extra, *shrink = _coarse(maps, skull, slice(0, 5))
    free = torch.from_numpy(np.clip((-outside - 1) / 8, 0, 1))  # the skull holds the brain's surface
    brain = skull + free * _waves(rng, BRAIN_WAVES)
    brain += torch.from_numpy(np.stack(shrink) * (1.6 * atrophy * np.clip(1 + 0.5 * smooth_field(rng, HALF, 16), 0, 2)))
    widen = (rng.normal(0.6, 0.9) + 6 * atrophy) * (1 + 0.35 * smooth_field(rng, HALF, 20))
    for _ in range(WIDENING_STEPS):
        brain += free * torch.from_numpy(_coarse(maps, brain, slice(5, 8)) * (widen / WIDENING_STEPS))
    inner = _coarse(maps, brain, slice(8, 10))
    coarse = {name: full(v) for name, v in zip((*COARSE[:2], *COARSE[8:]), (outside, extra, *inner), strict=True)}
    return Warp(skull, brain, coarse)


def _coarse(maps, position, channels):
    return pull(maps.coarse[channels], to_grid(position, maps.maps.shape[1:]))


def full(field):
    """Bring what was drawn at every second voxel to all of BOX: array (slice, row, column), or a tensor of channels."""
    tensor = torch.as_tensor(field)
    size = {"size": BOX_SHAPE, "mode": "trilinear", "align_corners": True}
    return F.interpolate(tensor[None], **size)[0] if tensor.ndim == 4 else full(tensor[None])[0].numpy()


def _affine(rng):
    """Template voxels that the voxels of an upright head of any size show, turned a little."""
    scale = rng.normal(1.08, 0.018) * (
        1 + np.array([0.018, 0.035, 0.035]) * rng.standard_normal(3)
    )  # template per head
    rotation = _rotation(np.radians(rng.normal(0, [4, 3, 3]))) * scale[:, None]
    centre = HEAD_CENTRE + rng.normal(0, 1, 3)
    axes = [np.linspace(b.start, b.stop - 1, n) - c for b, n, c in zip(BOX, HALF, centre, strict=True)]
    k, i, j = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True)
    rows = zip(rotation.astype(np.float32), TEMPLATE_CENTRE.astype(np.float32), strict=True)
    return torch.from_numpy(np.stack([a * k + b * i + c * j + o for (a, b, c), o in rows]))


def _waves(rng, waves):
    """Random movement of three axes: (3, slice, row, column) float32."""
    moves = [sum(mm * smooth_field(rng, HALF, scale) for scale, mm in waves) for _ in range(3)]
    return torch.from_numpy(np.stack(moves).astype(np.float32))


def _rotation(angles):
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_slice = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_row = np.array([[cb, 0, -sb], [0, 1, 0], [sb, 0, cb]])
    about_column = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_slice @ about_row @ about_column
