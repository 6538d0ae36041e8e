"""Vessels of a head, drawn in template space: large ones from a table, small ones by chance."""

from __future__ import annotations

import numpy as np

from kit.phantom.template import mni_to_template

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


def draw_vessels(template, rng):
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
