"""What surrounds the brain in one head: skull with its marrow, scalp, muscle, and the face with its air."""

from __future__ import annotations

import numpy as np

from kit.phantom.head.deformation import HALF, full
from kit.phantom.head.skull import DEPTHS, FRACTIONS
from kit.phantom.head.template import BOX_SHAPE, pull_points, smooth_field

# Where the skull base of any head lies in BOX.
BASE = (slice(0, 84), slice(0, 172), slice(14, 174))


def draw_envelope(maps, warp, texture, rng):
    """Draw the head outside of its cranial cavity.

    Parameters
    ----------
    maps : Template
    warp : Warp
    texture : (slice, row, column) float32 array
        Over BOX, added to soft tissue.
    rng : numpy.random.Generator

    Returns
    -------
    (slice, row, column) float32 array
        Over BOX; what it holds inside the cavity means nothing.
    """
    level = _levels(rng)
    outside, extra = warp.coarse["outside"], warp.coarse["extra"]
    thin = np.clip(1 - (extra - 3) / 14, 0.3, 1)  # under muscle, and at the base
    skull = rng.uniform(5.5, 9) * (1 + 0.12 * full(smooth_field(rng, HALF, 16))) * thin
    scalp = rng.uniform(3.5, 8.5) * (1 + 0.1 * full(smooth_field(rng, HALF, 24)))
    marbled, bent = full(smooth_field(rng, HALF, 4)), full(smooth_field(rng, HALF, 12))
    skin = skull + scalp + extra - outside
    here = np.flatnonzero((outside > -2) & (skin > -1))
    take = lambda volume: volume.ravel()[here]  # noqa: E731
    values = _layers(*map(take, (outside, extra, skin, skull, scalp, marbled, bent, texture)), level, rng)
    image = np.zeros(BOX_SHAPE, np.float32)
    image.ravel()[here] = values
    _paint_base(image[BASE], maps, warp, marbled[BASE], (skin - scalp)[BASE], level, rng)
    return image


def _levels(rng):
    """Intensities of materials: those of fat and all that holds fat depend on the sequence."""
    fat = rng.uniform(1.1, 2.1) if rng.random() < 0.85 else rng.uniform(0.3, 0.6)  # fat suppressed
    return {
        "fat": fat, "marrow": fat * rng.uniform(0.3, 0.75), "bone": rng.uniform(0.05, 0.12),
        "muscle": rng.uniform(0.45, 0.75), "skin": rng.uniform(0.6, 1.0), "fluid": rng.uniform(0.15, 0.3),
        "enhancing": rng.uniform(0.95, 1.5),
    }  # fmt: skip


def _layers(outside, extra, skin, skull, scalp, marbled, bent, texture, level, rng):
    """Inner table, marrow and outer table; muscle with sheets of fat; fat under the skin, with the galea in it."""
    image = np.full(outside.shape, level["bone"], np.float32)
    table = rng.uniform(1.2, 2.0)
    marrow = level["marrow"] * np.clip(1 + 0.25 * marbled, 0.2, 2)
    _paint(image, np.minimum(outside - table, skull - 1.2 * table - outside), marrow)
    layer = np.abs(np.sin((outside - skull) / 5 + 2.5 * bent))  # fat between one muscle and the next
    sheets = np.clip(0.3 + 0.3 * marbled - 2.5 * layer, 0, 0.6) + np.clip(marbled - 1.6, 0, 0.3)
    muscle = level["muscle"] + 2 * texture
    _paint(image, outside - skull, muscle + sheets * (level["fat"] - muscle))
    fat = level["fat"] * (1 + 2 * texture)
    galea = np.exp(-(((skin - 0.5 * scalp) / 0.8) ** 2)) * np.clip(1 - extra / 4, 0, 0.5)
    beyond = np.minimum(scalp - skin, outside - skull)
    _paint(image, beyond, fat - galea * (fat - level["muscle"]))
    _paint(image, np.minimum(1.4 - skin, outside - skull), level["skin"])
    _paint(image, -skin, 0)
    return image


def _paint_base(image, maps, warp, marbled, below, level, rng):
    """The skull base over what layers gave, in place; `below` the scalp, mm."""
    size = smooth_field(rng, image.shape, 22)
    here = np.nonzero((warp.coarse["outside"][BASE] > 0.5) & (below > -1))
    marbled, below, size, outside = (v[here] for v in (marbled, below, size, warp.coarse["outside"][BASE]))
    position = full(warp.skull)[(slice(None), *BASE)][(slice(None), *here)]
    volumes = pull_points(maps.base, position, origin=[c.start for c in maps.base_cut])
    base = dict(zip((*FRACTIONS, *DEPTHS), volumes, strict=True))
    beyond = np.clip(outside - 0.5, 0, 1) * np.clip(below + 1, 0, 1)
    rich = level["enhancing"] * np.clip(1 + 0.12 * marbled, 0.5, 1.4)
    values = {**level, "marrow": level["marrow"] * np.clip(1 + 0.25 * marbled, 0.2, 2), "enhancing": rich}
    part = image[here]
    for name in FRACTIONS:
        part += base[name] * beyond * (values[name] - part)
    _paint_air(part, base, marbled, size, beyond * np.clip(below - 1, 0, 1), rich)
    image[here] = part


def _paint_air(image, base, marbled, size, beyond, rich):
    """Air with a lining, thin and patchy, here and there thick, and now and then none left for air."""
    lining = np.clip(0.5 * marbled + 0.1 + 0.4 * size, 0, 4)
    for name, grow in (("sinus", 2.0), ("cells", 0.5), ("nose", 0.4)):
        depth = base[name] - 6 + grow * size + (0.4 if name == "nose" else 0)
        cover = np.clip(depth + 0.5, 0, 1) * beyond
        image += cover * ((0.55 if name == "cells" else 0.8) * rich - image)
        image -= np.clip(depth - lining + 0.5, 0, 1) * beyond * (image - 0.02)


def _paint(image, depth, value):
    """Blend `value` in where `depth` (mm beyond a surface) is positive, over one voxel."""
    cover = np.clip(depth + 0.5, 0, 1)
    image += cover * (value - image)
