"""Vessels of a head, drawn in template space: sinuses, named arteries and veins, and the trees that grow from them."""

from __future__ import annotations

import numpy as np
from scipy import interpolate, ndimage

from kit.phantom.head.template import COARSE, mni_axes, mni_to_template
from kit.phantom.head.trees import POINT_MM, along, draw_tubes, ground, grow, resampled, to_fluid

CONTRAST = (1.1, 2.8)  # of blood in the sinuses with white matter, white matter = 1
OF_ARTERIES = (0.6, 1.0)  # the arteries' part of it
ARTERY_LEAVES, VEIN_LEAVES = (1200, 2800), (1600, 4600)  # how many last branches a head has
OF_REGION = np.array([1, 1, 0.4, 0.15, 0.3, 0])  # how densely branches end in each of the REGIONS
WINDING_MM = 0.9  # s.d. of how far a named vessel swerves
SIDES = (1, -1)  # of the head: the tables hold the right side
SINUS_FRONT_MM, SINUS_BACK_MM = (1.3, 2.5), (4.0, 6.5)  # half width and depth of the superior sagittal sinus
SPILL_MM = 2.5  # how far sinuses reach beyond the cavity, whose edge then cuts them
LEAF_MM, TRUNK_MM = (0.4, 0.35), 1.3  # radius: of the last branches, median and s.d. of the logarithm; the widest
GRANULATIONS = 5  # of the sinuses' arachnoid, on average
DVA, DVA_MM = 0.1, (6, 16)  # developmental venous anomaly: its probability, above that in patients, and its reach

# Each line: radius at both ends in mm, how many trees grow from each side's, points (x, y, z) in MNI mm.
# Those "in fluid" are drawn to the middle of the cistern or fissure that they run through.
ARTERIES_IN_FLUID = {
    "basilar": (1.7, 1.9, 2, [(0, -23, -50), (0, -17, -42), (0, -12.5, -32), (0, -11, -24), (0, -11, -19)]),
    "vertebral": (1.6, 1.5, 3, [(16, -36, -68), (11, -31, -62), (5, -26, -55), (0, -23, -50)]),
    "posterior cerebral": (1.3, 0.9, 5, [(1, -11, -18), (11, -14, -17), (18, -23, -14), (17, -32, -9), (14, -42, -4),
                                         (14, -58, 3), (10, -72, 6)]),
    "superior cerebellar": (0.8, 0.6, 2, [(1, -11, -21), (12, -18, -22), (18, -32, -20), (12, -42, -16)]),
    "middle cerebral, stem": (1.6, 1.5, 1, [(13, 3, -17), (20, 4, -18), (29, 3, -18), (35, 3, -15)]),
    "middle cerebral, upper": (1.2, 0.8, 6, [(35, 3, -15), (39, 6, -8), (38, 10, 0), (37, 4, 10), (40, -14, 14)]),
    "middle cerebral, lower": (1.3, 0.8, 6, [(35, 3, -15), (40, -3, -10), (41, -10, -3), (41, -22, 8), (48, -36, 18)]),
    "anterior cerebral, stem": (1.2, 1.1, 0, [(13, 3, -17), (7, 7, -18), (2, 9, -16)]),
    "pericallosal": (1.1, 0.7, 6, [(2, 9, -16), (2, 22, -12), (2, 33, -6), (2, 39, 6), (2, 34, 18), (2, 20, 27),
                                   (2, 0, 31), (2, -20, 32), (2, -34, 28)]),
    "callosomarginal": (0.9, 0.6, 5, [(2, 38, 2), (3, 46, 16), (4, 38, 32), (5, 20, 42), (6, 0, 48), (7, -20, 50)]),
    "posterior communicating": (0.6, 0.6, 0, [(13, 1, -18), (11, -6, -18), (10, -13, -17)]),
}  # fmt: skip
ARTERIES = {
    "internal carotid": (2.5, 2.0, 0, [(26, -12, -90), (27, -16, -66), (26, -18, -52), (20, -12, -46), (13, -9, -42),
                                       (11, -6, -36), (11, 4, -33), (12, 9, -29), (12, 6, -24), (13, 3, -17)]),
    "anterior communicating": (0.7, 0.7, 0, [(-2, 9, -16), (2, 9, -16)]),
}  # fmt: skip
VEINS_IN_FLUID = {
    "basal": (0.8, 1.4, 4, [(16, 2, -18), (12, -10, -17), (18, -22, -13), (15, -32, -6), (6, -38, 2), (0, -41, 6)]),
    "inferior sagittal sinus": (0.5, 1.0, 2, [(0, 26, 30), (0, 4, 37), (0, -20, 36), (0, -36, 26), (0, -44, 8)]),
    "Sylvian": (1.2, 1.4, 5, [(56, -24, 14), (52, -6, 0), (48, 8, -8), (40, 16, -16), (28, 14, -22), (16, 12, -26)]),
}
VEINS = {
    "internal cerebral": (0.9, 1.5, 0, [(2.5, 2, 12), (3, -8, 15), (3, -20, 12), (2.5, -30, 9), (0, -40, 6)]),
    "thalamostriate": (0.5, 0.8, 0, [(20, -22, 20), (17, -10, 18), (10, 0, 14), (2.5, 2, 12)]),
    "septal": (0.4, 0.6, 0, [(8, 26, 8), (3, 16, 8), (2, 6, 10), (2.5, 2, 12)]),
    "great": (2.0, 2.8, 1, [(0, -38, 5), (0, -43, 6), (0, -48, 7), (0, -52, 4)]),
    "straight sinus": (2.0, 2.8, 2, [(0, -50, 6), (0, -62, 0), (0, -78, -9), (0, -94, -19)]),
    "petrosal": (0.6, 0.9, 1, [(14, -8, -36), (28, -22, -38), (42, -36, -38), (52, -44, -36)]),
}
# Along the inner table: their points are moved onto it.
TRANSVERSE = [(0, -96, -20), (12, -96, -20), (26, -92, -22), (42, -82, -24), (54, -64, -28), (57, -52, -32)]
SIGMOID = [(57, -52, -32), (55, -46, -40), (48, -42, -48), (40, -40, -54), (32, -36, -60)]


def draw_vessels(template, rng):
    """Draw the vessels of one patient.

    Parameters
    ----------
    template : Template
        As `kit.phantom.head.template.template` gives it.
    rng : numpy.random.Generator

    Returns
    -------
    vessel : (slice, row, column) float32 array
        In template space: contrast that vessels add to white matter (1.0); where they fill a voxel in part, that part.
    cover : array of the same shape and dtype
        The part of a voxel that vessels fill, in [0, 1]. Over tissue of any value, ``value + vessel + cover *
        (1 - value)`` is what is seen.
    """
    land = ground(template.maps, template.region, template.coarse)
    blood = rng.uniform(*CONTRAST)
    arteries = _network(land, (ARTERIES, ARTERIES_IN_FLUID), ARTERY_LEAVES, [], rng)
    veins = _network(land, (VEINS, VEINS_IN_FLUID), VEIN_LEAVES, _sinuses(land, rng), rng)
    small = _small_vessels(template, land, rng)
    points, radii = (np.concatenate(parts) for parts in zip(arteries, veins, small, strict=True))
    value = np.full(len(radii), blood)
    value[: len(arteries[1])] *= rng.uniform(*OF_ARTERIES)
    cover, vessel = draw_tubes(land.outside.shape, points, radii, value)
    _draw_sagittal_sinus(cover, vessel, land, blood, rng)
    _leave_granulations(cover, vessel, land, rng)
    return vessel, cover


# ------------------------------------------------------------------------------------------------------ large vessels


def _network(land, tables, leaves, lines, rng):
    """Named vessels and the trees that grow from them: points (n, 3) and radii (n,) to draw."""
    free, in_fluid = (_lines(table, rng) for table in tables)
    in_fluid = [(_winding(to_fluid(line, land), rng), *rest) for line, *rest in in_fluid]
    lines = [*lines, *free, *in_fluid]
    parts = [_tube(line, first, last, rng) for line, first, last, _ in lines]
    roots = [line[_places(len(line), trees, rng)] for line, *_, trees in lines if trees]
    count = int(rng.integers(*leaves))
    chosen = rng.choice(len(land.nodes), count, replace=False, p=_density(land))
    median, spread = LEAF_MM
    tree = grow(land, np.concatenate(roots), chosen, median * np.exp(spread * rng.standard_normal(count)), rng)
    points, radii = along(tree)
    return _joined([*parts, (points, np.minimum(radii, TRUNK_MM))])


def _density(land):
    """Where branches end, as probabilities of the nodes: sulci hold more of them than gyri and falx carry."""
    aside = np.abs(land.nodes[:, 2] - mni_to_template([(0, 0, 0)])[0, 2])
    density = OF_REGION[land.region] * np.clip((land.depth - 1) / 10, 0.1, 1) * np.where(aside < 4, 0.35, 1)
    return density / density.sum()


def _joined(parts):
    """Several (points, radii) as one."""
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _lines(table, rng):
    """The lines of a table on both sides, their inner points moved a little: [points (n, 3), radii, trees], 2 mm steps.

    What lies in the midline is drawn once.
    """
    lines = []
    for first, last, trees, points in table.values():
        for side in SIDES if any(x for x, *_ in points) else (1,):
            line = np.array(points, float) * (side, 1, 1)
            line[1:-1] += rng.normal(0, 1.0, line[1:-1].shape)
            calibre = np.exp(rng.normal(0, 0.12))
            lines.append((_curve(mni_to_template(line)), first * calibre, last * calibre, trees))
    return lines


def _curve(points):
    """A smooth curve through points (n, 3), at steps of 2 mm."""
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0, at[-1], max(int(at[-1] / 2), 3))
    return interpolate.PchipInterpolator(at, points)(fine)


def _winding(line, rng):
    """Let a line at steps of 2 mm swerve between its ends."""
    swerve = ndimage.gaussian_filter1d(rng.standard_normal(line.shape), 1.5, axis=0) * np.sqrt(3 * np.pi**0.5)
    swerve *= np.minimum(1, np.minimum(np.arange(len(line)), np.arange(len(line))[::-1]) / 3)[:, None]
    return line + WINDING_MM * swerve


def _tube(line, first, last, rng):
    """Points along a line and the radii there, which vary by a tenth and more."""
    points = resampled(line, POINT_MM)
    uneven = ndimage.gaussian_filter1d(rng.standard_normal(len(points)), 4) * np.sqrt(8 * np.pi**0.5)
    return points, np.linspace(first, last, len(points)) * np.clip(1 + 0.13 * uneven, 0.6, 1.3)


def _places(n, trees, rng):
    """Where trees grow from a line of n points: one at its end, the others anywhere but at its beginning."""
    return np.append(rng.integers(n // 5, n, trees - 1), n - 1)


def _sinuses(land, rng):
    """Transverse and sigmoid sinuses, one side larger than the other, and short stubs of the veins of the vault."""
    lines = []
    larger = rng.choice(SIDES, p=(0.65, 0.35))
    lesser = rng.uniform(0.25, 0.95)
    for side in SIDES:
        size = 1 if side == larger else lesser
        for points, first, last, trees in ((TRANSVERSE, 3.8, 3.6, 4), (SIGMOID, 3.6, 4.0, 1)):
            line = _curve(mni_to_template(np.array(points) * (side, 1, 1)))
            lines.append((_on_inner_table(line, land, 0.7 * size * first), size * first, size * last, trees))
        for y in rng.uniform(-85, 62, rng.integers(7, 12)):
            lines.append((_bridging_vein(land, y, side, rng), 0.9, 0.8, 1))
    return lines


def _on_inner_table(line, land, depth):
    """Move the points of a line (n, 3) along the distance map until they lie `depth` mm below the inner table."""
    slopes = np.stack(np.gradient(ndimage.zoom(land.outside, 0.25, order=1))) / 4
    for _ in range(5):
        there = ndimage.map_coordinates(land.outside, line.T, order=1, mode="nearest")
        up = np.stack([ndimage.map_coordinates(s, line.T / 4, order=1, mode="nearest") for s in slopes], axis=1)
        line = line - 0.7 * (there + depth)[:, None] * up / np.maximum((up**2).sum(1, keepdims=True), 0.1)
    return line


def _bridging_vein(land, y, side, rng):
    """The last centimetre of a vein of the vault, from the superior sagittal sinus to the surface beside it."""
    (start,) = mni_to_template([(0, y, 0)])
    steps = [
        start + np.array((0, lean * a, -side * a))
        for a, lean in zip((0.5, 5, 9), rng.uniform(-0.6, 0.6, 3), strict=True)
    ]
    for point in steps:
        column = land.outside[:, int(point[1]), int(point[2])]
        point[0] = np.flatnonzero(column < -2)[-1]
    return np.array(steps)


def _draw_sagittal_sinus(cover, vessel, land, blood, rng):
    """A triangle with its base at the inner table, in the midline from the frontal base to the confluence, in place."""
    middle = int(mni_to_template([(0, 0, 0)])[0, 2])
    box = (slice(None), slice(None), slice(middle - 9, middle + 10))
    x, y, z = mni_axes(cover.shape, box)
    way = ((np.arctan2(z - 10, y + 15) + 0.2) % (2 * np.pi) - 0.2) / 3.45
    size, drift = np.clip(way, 0, 1), rng.normal(0, 1.2)
    half, depth = (
        rng.uniform(0.85, 1.15) * (a + (b - a) * size) for a, b in zip(SINUS_FRONT_MM, SINUS_BACK_MM, strict=True)
    )
    below = -land.outside[box]
    inside = np.minimum(half * (1 - below / depth) - np.abs(x - drift * size**2), below + SPILL_MM)
    part = np.where((way > -0.04) & (way < 1.01), np.clip(inside + 0.5, 0, 1), 0).astype(np.float32)
    for volume, value in ((cover, 1), (vessel, blood)):
        np.maximum(volume[box], part * np.float32(value), out=volume[box])


def _leave_granulations(cover, vessel, land, rng):
    """Arachnoid granulations: round gaps in the blood of the large sinuses, in place."""
    wide = np.argwhere((cover[::3, ::3, ::3] > 0.99) & (np.abs(land.outside[::3, ::3, ::3]) < 5)) * 3
    for centre in wide[rng.integers(len(wide), size=rng.poisson(GRANULATIONS))]:
        box = tuple(slice(max(c - 5, 0), min(c + 6, n)) for c, n in zip(centre, cover.shape, strict=True))
        away = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.ogrid[box], centre, strict=True)))
        blood = np.clip(away - rng.uniform(0.8, 2.8) + 0.5, 0, 1)
        for volume in (cover, vessel):
            volume[box] *= blood


# ------------------------------------------------------------------------------------------------------ small vessels


def _small_vessels(template, land, rng):
    """Vessels of white matter and deep grey nuclei, most of them thinner than a voxel."""
    parts = [_medullary_vein(template, rng) for _ in range(rng.integers(40, 120))]
    parts += [_lenticulostriate_artery(side, rng) for side in SIDES for _ in range(rng.integers(3, 8))]
    if rng.random() < DVA:
        parts += _venous_anomaly(template, land, rng)
    return _joined(parts)


def _medullary_vein(template, rng):
    """From white matter towards the ventricle's wall."""
    ventricle = template.coarse[COARSE.index("ventricle")].numpy()
    place = template.core[rng.integers(len(template.core))]
    i, j, k = there = tuple((place / 2).round().astype(int))
    slope = np.array([ventricle[i + 1, j, k], ventricle[i, j + 1, k], ventricle[i, j, k + 1]]) - ventricle[there]
    away = slope / max(np.sqrt((slope**2).sum()), 0.1)
    foot = place - away * min(ventricle[there], rng.uniform(5, 15))
    return _bow(place + away * rng.uniform(1, 6), foot, 0.1, rng.uniform(0.12, 0.32), rng)


def _lenticulostriate_artery(side, rng):
    """From the middle cerebral artery up into the basal ganglia."""
    foot = np.array([rng.uniform(17, 30), 4, -16]) + rng.normal(0, 0.7, 3)
    tip = foot + rng.uniform((-3, -12, 14), (3, 4, 26))
    return _bow(*mni_to_template(np.array([foot, tip]) * (side, 1, 1)), rng.uniform(0.2, 0.4), 0.15, rng)


def _venous_anomaly(template, land, rng):
    """A developmental venous anomaly: thin veins gather like the hair of Medusa and drain through one wide vein."""
    heart = template.core[rng.integers(len(template.core))]
    _, (*_, way_out) = land.near.query(heart, k=40)
    out = land.nodes[way_out] - heart
    parts = [_bow(heart, heart + out, 0.7, rng.uniform(0.9, 1.4), rng)]
    for _ in range(rng.integers(8, 16)):
        ray = rng.standard_normal(3) - 0.8 * out / np.sqrt((out**2).sum())
        tip = heart + rng.uniform(*DVA_MM) * ray / np.sqrt((ray**2).sum())
        parts.append(_bow(tip, heart + 0.15 * rng.random() * out, 0.25, rng.uniform(0.35, 0.6), rng))
    return parts


def _bow(start, end, first, last, rng):
    """A tube from start to end, bent a little."""
    middle = (start + end) / 2 + rng.normal(0, 1.2, 3)
    t = np.linspace(0, 1, 8)[:, None]
    return _tube((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end, first, last, rng)
