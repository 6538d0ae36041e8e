"""A synthetic contrast-enhanced head without lesions, drawn around the MNI152 template.

Intensities are relative: white matter is 1.0, air 0. Everything that never changes is drawn once in template space
(1 mm, axes (slice, row, column)); a head is that drawing warped, with its own vessels, membranes and thicknesses.
Positions below are MNI millimetres (x to the right, y to the front, z up), as in an atlas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kit.phantom.template import (
    BOX,
    BOX_SHAPE,
    HEAD_CENTRE,
    SHAPE,
    TEMPLATE_CENTRE,
    pull,
    smooth_field,
    stacked,
    template,
)
from kit.phantom.vessels import draw_vessels


@dataclass(frozen=True)
class Head:
    """One warped head. All arrays are (slice, row, column) of `SHAPE`; intensities relative to white matter = 1."""

    image: np.ndarray  # float32, noise-free, bias-free
    brain: np.ndarray  # bool
    white: np.ndarray  # float32 fractions of a voxel in [0, 1], 0 outside the cranial cavity
    grey: np.ndarray
    csf: np.ndarray
    region: np.ndarray  # uint8: the numbers of REGIONS, 0 elsewhere
    depth_mm: np.ndarray  # float32, below the inner table of the skull; negative outside of the cavity
    vessel: np.ndarray  # float32, contrast that vessels add

    @property
    def junction(self):
        """How much grey and white matter meet at a voxel, float32 in [0, 1]."""
        return np.clip(4 * self.grey * self.white, 0, 1)


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
    maps = template()
    own = stacked(draw_vessels(maps, rng))
    grid = _warp(rng)
    tissue, inside, grey, white, outside, face, air, eyes = pull(maps.maps, grid)
    (region,) = pull(maps.region, grid, "nearest")
    vessel, plexus = pull(own, grid)
    field = lambda scale: smooth_field(rng, BOX_SHAPE, scale)  # noqa: E731
    texture = 0.025 * field(5) + 0.03 * field(20)
    grey_contrast = rng.uniform(0.75, 1.1)
    image = 1 + grey_contrast * (tissue - 1) + texture
    image += (1 - inside) * (_around_the_brain(outside, face, air, eyes, texture, field, rng) - image)
    within = np.clip(1 - outside, 0, 1)  # vessels and sinuses stay below the skull
    image += np.clip(plexus, 0, 1) * within * (rng.uniform(1.2, 1.7) - image)
    image += vessel * within  # vessels carry their contrast against what they cross
    csf = np.clip(within - grey - white, 0, 1)
    whole = [_in_the_scan(a) for a in (np.maximum(image, 0), inside, white, grey, csf, region, vessel * within)]
    image, inside, white, grey, csf, region, vessel = whole
    depth = _in_the_scan(-outside, beyond=-60)
    return Head(image, inside > 0.5, white, grey, csf, region.astype(np.uint8), depth, vessel)


def _in_the_scan(part, beyond=0.0):
    whole = np.full(SHAPE, np.float32(beyond))
    whole[BOX] = part
    return whole


# ---------------------------------------------------------------------------------------------------------- warping


def _warp(rng):
    """Sampling grid (1, slice, row, column, 3) that brings a template volume into a new patient's head."""
    scale = rng.normal(1.07, 0.025) * (1 + 0.03 * rng.standard_normal(3))  # template voxels per voxel of the head
    angles = np.radians(rng.normal(0, [4, 3, 3]))
    rotation = _rotation(angles)
    centre = HEAD_CENTRE + rng.normal(0, 2, 3)
    axes = [np.arange(b.start, b.stop, dtype=np.float32) - np.float32(c) for b, c in zip(BOX, centre, strict=True)]
    k, i, j = np.meshgrid(*axes, indexing="ij", sparse=True)
    sizes = np.array(template().maps.shape[1:])
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
