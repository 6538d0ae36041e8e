"""The skull base, the face and the outline of the head, drawn once in template space.

Positions are MNI millimetres (x to the right, y to the front, z up); all but the air cells is drawn the same on both
sides, the warp of each head makes the sides differ. Depths are in mm, positive inside. Shapes and places are read off
an atlas of sectional anatomy, rounded; they claim no more than what a reader of brain scans expects where.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, spatial

SHELL_MM = 13.0  # from the cavity to the skin where no face, neck or muscle adds to it
BASE_TOP, BASE_BACK, BASE_SIDE = 6, -58, 86  # the skull base is drawn below, in front and between these, MNI mm
FRACTIONS = ("bone", "marrow", "fat", "muscle", "fluid", "enhancing")
DEPTHS = ("nose", "sinus", "cells")
# Each: tube radius at both ends (mm), then its points.
TUBES = {
    "bone": [
        (7, 8, (56, -34, -46), (40, -26, -44), (16, -8, -42)),  # petrous pyramid
        (9, 12, (60, -36, -44), (56, -42, -58)),  # mastoid
        (5, 5, (56, -8, -50), (54, -4, -62), (50, 2, -76)),  # mandible
        (4, 5, (70, -10, -48), (68, 20, -50), (56, 46, -50), (42, 62, -52)),  # zygomatic arch
        (4, 3, (50, 48, -28), (47, 52, -40), (50, 50, -50)),  # lateral wall of the orbit
        (4, 4, (44, 66, -20), (22, 76, -20), (8, 80, -22)),  # upper rim of the orbit
        (3, 4, (42, 66, -50), (22, 74, -52), (12, 78, -44)),  # lower rim
        (1.5, 1.5, (13, 16, -46), (14, 14, -72)),  # pterygoid plates
        (6, 6, (20, -36, -68), (14, -28, -66)),  # occipital condyle
        (9, 9, (0, -6, -40), (0, -20, -60)),  # clivus
        (6, 6, (0, -26, -68), (0, -26, -90)),  # dens
        (4, 3, (20, 70, -70), (40, 40, -72), (36, 20, -72)),  # upper jaw
    ],
    "marrow": [
        (6.5, 6, (0, -5, -41), (0, -19, -60)),
        (4, 4, (0, -26, -69), (0, -26, -90)),
        (3, 3, (56, -8, -51), (54, -4, -62), (50, 2, -76)),
        (1.5, 3, (69, 0, -49), (68, 20, -50), (56, 46, -50), (44, 60, -52)),
        (2, 1.5, (50, 48, -30), (47, 52, -40)),
        (4, 4, (20, -36, -68), (14, -28, -66)),
        (2.5, 2, (16, -8, -42), (26, -14, -43)),  # apex of the petrous bone
        (2, 1.5, (20, 70, -70), (40, 40, -72)),
    ],
    "muscle": [
        (2.0, 1.6, (29, 48, -36), (20, 34, -33), (13, 24, -31)),  # optic nerve
        (1.2, 2.2, (41, 60, -36), (36, 46, -35), (15, 24, -33)),  # straight muscles of the eye: lateral,
        (1.2, 2.2, (21, 60, -36), (18, 46, -35), (13, 24, -33)),  # medial,
        (1.2, 2.0, (31, 58, -25), (28, 46, -26), (15, 25, -30)),  # upper,
        (1.2, 2.0, (31, 58, -46), (28, 46, -45), (15, 25, -36)),  # lower
        (5, 9, (48, 0, -58), (30, 10, -60), (18, 14, -62)),  # lateral pterygoid
        (8, 8, (60, 14, -56), (60, 10, -76)),  # masseter
    ],
    "fat": [
        (7, 8, (50, 36, -58), (44, 40, -70)),  # cheek
        (3.5, 5, (26, 2, -56), (28, -4, -74)),  # beside the pharynx
        (3, 3, (18, 30, -46), (20, 30, -58)),  # pterygopalatine fossa
        (5, 5, (48, 34, -34), (50, 26, -42)),  # temporal fossa
        (7, 8, (66, -14, -62), (64, -16, -76)),  # parotid gland
        (3, 4, (24, -62, -74), (8, -70, -78)),
    ],
    "enhancing": [
        (4.5, 5, (11, 10, -36), (12, 0, -36), (12, -8, -38)),  # cavernous sinus
        (3.5, 4.5, (3, 2, -35), (0, 3, -35)),  # pituitary
        (2.5, 2.5, (7, 18, -70), (12, 2, -62)),  # lining of the pharynx
        (2, 2.5, (18, 6, -58), (30, 14, -56)),  # pterygoid veins
        (4, 3.5, (32, 68, -29), (42, 62, -28)),  # lacrimal gland
    ],
    "turbinate": [
        (4.5, 4.5, (9.5, 22, -64), (9.5, 76, -63)),
        (3.2, 3.2, (7, 24, -53), (7, 66, -50)),
        (2, 2, (5, 26, -44), (5, 46, -42)),
    ],
    "airway": [(3, 3, (58, -22, -46), (88, -24, -46)), (3, 3, (46, -20, -45), (50, -22, -45))],  # ear
}
# Ellipsoids: (x, y, z) of the centre and three half axes.
BALLS = {
    "orbit": [(31, 56, -36, 20, 18, 18), (24, 42, -34, 13, 18, 13)],
    "globe": [(32, 61, -36, 12, 12, 12)],
    "sinus": [(32, 46, -58, 14, 19, 15), (24, 52, -50, 8, 12, 8), (7, 18, -42, 9, 13, 9), (12, 79, -20, 14, 6, 13)],
    "ethmoid": [(9, 48, -36, 7, 26, 11)],
    "mastoid": [(57, -38, -50, 10, 14, 17), (46, -28, -42, 8, 8, 6)],
    "pharynx": [(0, 8, -60, 11, 12, 12), (0, 2, -78, 9, 7, 18)],
    "skull": [(0, -16, -14, 81, 101, 72), (46, 34, -16, 26, 36, 44)],
    "face": [(0, 16, -60, 70, 72, 66), (0, 40, -76, 46, 56, 50)],
    "neck": [(0, -46, -96, 66, 60, 76), (32, -22, -92, 36, 52, 62)],
    "nose": [(0, 84, -58, 13, 22, 15), (0, 80, -44, 8, 14, 22)],
    "ear": [(79, -26, -42, 5, 15, 26)],
}


def head_outline(outside, box):
    """What face, neck and muscle add to the head beyond a shell of SHELL_MM around the cranial cavity, mm, 0 or more.

    `outside` is the distance from the cavity (negative inside) and `box` its MNI coordinates (x, y, z), broadcastable.
    """
    spacing = float(abs(np.diff(box[1].ravel()[:2]))[0])
    reach = 40 / spacing  # closes the hollows at the temples, below the occiput and between the lobes
    pad = int(reach) + 2
    shell = np.pad(outside < SHELL_MM, pad, mode="edge")
    closed = ndimage.distance_transform_edt(ndimage.distance_transform_edt(~shell) < reach) - reach
    closed = closed[(slice(pad, -pad),) * 3] * spacing
    closed = np.where(closed > -20, closed, -20)
    parts = [_balls(name, box) for name in ("skull", "face", "neck", "nose", "ear")]
    skin = _blend([np.maximum(closed, SHELL_MM - outside), *parts[:4]], 4.0)
    skin = np.maximum(skin, parts[4])
    return ndimage.gaussian_filter(np.clip(skin - (SHELL_MM - outside), 0, None), 2 / spacing).astype(np.float32)


def skull_base(outside, box):
    """Materials of the skull base: fractions (FRACTIONS), then depths of air (DEPTHS) in mm plus 6, one volume each.

    Parameters
    ----------
    outside : (slice, row, column) array
        Distance from the cranial cavity in mm, negative inside.
    box : tuple of three arrays
        MNI coordinates (x, y, z) of the voxels, broadcastable to the shape of `outside`.

    Returns
    -------
    (9, slice, row, column) float32 array
    """
    x, y, _ = box
    aside = np.abs(x)
    rng = np.random.default_rng(6)  # the air cells are the same in every head, but for its warp
    tubes = {name: _tubes(name, box, outside.shape) for name in TUBES}
    orbit = np.minimum(_balls("orbit", box), aside - 13)
    globe = _balls("globe", box)
    nasal = _nasal_cavity(box)
    septum = np.where(y > 20, 1.2 - np.abs(x + 1.5 * np.sin(y / 14)), -9)
    nose = np.minimum(nasal, -np.maximum(septum, tubes["turbinate"]))
    sinus = np.minimum(_balls("sinus", box) + _rough(1.5, 3, outside.shape, rng), np.minimum(aside - 0.8, -orbit - 2))
    ethmoid, mastoid = (_cells(name, box, outside.shape, mm, rng) for name, mm in (("ethmoid", 8.0), ("mastoid", 5.5)))
    walls = np.maximum(_balls("sinus", box), np.maximum(_balls("ethmoid", box), _balls("mastoid", box))) + 1.6
    bone = np.maximum(tubes["bone"] + _rough(0.8, 2, outside.shape, rng), np.maximum(walls, 1 - np.abs(orbit + 1)))
    lining = np.where(orbit > 0, 1.2 - np.abs(globe), np.where(nasal > 0, septum, -9))
    fractions = {
        "bone": np.where(np.maximum(nasal, orbit) > 0, -9, bone),
        "marrow": tubes["marrow"] + _rough(1.0, 1.5, outside.shape, rng),
        "fat": np.maximum(tubes["fat"] + _rough(1.5, 2, outside.shape, rng), orbit),
        "muscle": np.maximum(tubes["muscle"], lining),
        "fluid": globe - 1.0,
        "enhancing": np.maximum(tubes["enhancing"] + _rough(0.5, 1.5, outside.shape, rng), nasal + 1),
    }
    nose = np.maximum(nose + _rough(0.5, 2, outside.shape, rng), tubes["airway"])
    depths = {"nose": nose, "sinus": sinus, "cells": np.maximum(ethmoid, mastoid)}
    parts = [np.clip(fractions[f] + 0.5, 0, 1) for f in FRACTIONS] + [np.clip(depths[d] + 6, 0, 12) for d in DEPTHS]
    return np.stack(parts).astype(np.float32)


def _nasal_cavity(box):
    """Depth in the cavity of the nose, from the nostrils to the pharynx, septum and turbinates not taken out; mm."""
    x, y, z = box
    half_width = np.clip(3.5 + 0.5 * (-z - 42), 3.5, 15) * np.clip(1.2 - ((y - 40) / 55) ** 2, 0.2, 1)
    front = 84 + 0.7 * np.clip(-z - 44, 0, 30)
    cavity = np.minimum(half_width - np.abs(x), np.minimum(np.minimum(y - 16, front - y), -34 - z))
    return np.maximum(cavity, _balls("pharynx", box))


def _rough(mm, scale, shape, rng):
    """Noise of an s.d. in mm that blurs over `scale` voxels: what keeps drawn shapes from looking drawn."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), scale)
    return mm * noise * np.float32(2 * scale * np.pi**0.5) ** 1.5


def _balls(name, box):
    """Depth in the union of a name's ellipsoids, mm: right at the surface, roughly elsewhere."""
    x, y, z = box
    depth = None
    for a, b, c, *half in BALLS[name]:
        away = np.sqrt(((np.abs(x) - a) / half[0]) ** 2 + ((y - b) / half[1]) ** 2 + ((z - c) / half[2]) ** 2)
        ball = (min(half) * (1 - away)).astype(np.float32)
        depth = ball if depth is None else np.maximum(depth, ball)
    return depth


def _tubes(name, box, shape):
    """Depth in the union of a name's tubes, mm, -9 and less far from them."""
    depth = np.full(shape, -9, np.float32)
    for first, last, *points in TUBES[name]:
        radii = np.linspace(first, last, len(points))
        for n in range(len(points) - 1):
            for side in (1, -1):
                ends = np.array(points[n : n + 2], np.float32) * (side, 1, 1)
                _deepen_along(depth, box, ends, radii[n : n + 2])
    return depth


def _deepen_along(depth, box, ends, radii):
    """Raise `depth` to the depth in a straight tube between two ends (2, 3), near it."""
    near = [np.flatnonzero((c.ravel() > low) & (c.ravel() < high)) for c, low, high in zip(
        box, ends.min(0) - radii.max() - 9, ends.max(0) + radii.max() + 9, strict=True)]  # fmt: skip
    if min(map(len, near)) == 0:
        return
    cut = tuple(slice(n[0], n[-1] + 1) for n in near[::-1])
    axis = ends[1] - ends[0]
    offset = [c.ravel()[n].reshape([-1 if i == 2 - k else 1 for i in range(3)]) - e
              for k, (c, n, e) in enumerate(zip(box, near, ends[0], strict=True))]  # fmt: skip
    along = np.clip(sum(o * a for o, a in zip(offset, axis / (axis**2).sum(), strict=True)), 0, 1)
    away = np.sqrt(sum((o - along * a) ** 2 for o, a in zip(offset, axis, strict=True)))
    depth[cut] = np.maximum(depth[cut], radii[0] + along * (radii[1] - radii[0]) - away)


def _cells(name, box, shape, size_mm, rng):
    """Depth in a name's ellipsoids cut into irregular cells of a size: a Voronoi diagram of random points."""
    depth = np.broadcast_to(_balls(name, box), shape).copy()
    low, high = (np.array([f(c) for c in box]) for f in (np.min, np.max))
    points = rng.uniform(low, high, (int(np.prod(high - low) / size_mm**3), 3))
    voxels = np.stack([np.broadcast_to(c, shape)[depth > 0] for c in box], axis=-1)
    near, _ = spatial.cKDTree(points).query(voxels, k=2)
    depth[depth > 0] = np.minimum(depth[depth > 0], (near[:, 1] - near[:, 0]) / 2 - 0.6)
    return depth


def _blend(depths, mm):
    """Union of depths whose surfaces run into each other over some mm: a smooth maximum."""
    top = np.maximum.reduce(np.broadcast_arrays(*depths))
    return top + mm * np.log(sum(np.exp(np.clip((d - top) / mm, -20, 0)) for d in depths))
