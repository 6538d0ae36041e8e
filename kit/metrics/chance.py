"""Boxes around lesions and in healthy tissue, and what a map finds by chance: lesions that were moved elsewhere."""

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.metrics.matching import checked_options
from kit.metrics.pairing import as_mask, check_shapes, checked_probability, checked_spacing, pair
from kit.metrics.sweeps import THRESHOLDS, sweep_of
from kit.scans import components, frame, lesion_table, search_region, spacing, to_own_grid

PARTITION_MARGIN_MM = 5.0
TRIES = 200  # places tried for a lesion before it is left out


def chance_recall(
    probability,
    truth,
    region=None,
    *,
    thresholds=THRESHOLDS,
    low=0.2,
    spacing_mm=(1, 1, 1),
    rule="thesis",
    margin_mm=None,
    draws=4,
    seed=0,
):
    """Count how many lesions a map would find if they lay at random places of the search region.

    A map that calls much of a head a lesion finds many lesions wherever they lie. What it finds beyond this recall it
    has seen. Lesions keep their shapes and sizes; they are put where they overlap neither a true lesion nor each other.

    Parameters
    ----------
    probability, truth, thresholds, low, spacing_mm, rule
        As in `kit.metrics.sweep`.
    region : bool (slice, row, column), optional
        Where the moved lesions lie, whole; by default everywhere.
    margin_mm : float, optional
        For an evaluation in boxes around lesions (`kit.metrics.partitions`): the map counts in boxes with such a margin
        around the moved lesions only.
    draws, seed : int
        How often all lesions are moved, and the seed of the places.

    Returns
    -------
    pandas.DataFrame
        One row a threshold: threshold, placed (lesions, over all draws), hits (those found). A lesion without a place
        is not placed. Divide sums over scans.

    Raises
    ------
    ValueError
        As `kit.metrics.detect`, or for a region of another shape.

    Examples
    --------
    >>> truth = np.zeros((5, 20, 20), bool)
    >>> truth[2, 4:6, 4:6] = True
    >>> flood, silence = np.ones(truth.shape), np.zeros(truth.shape)
    >>> [int(chance_recall(map, truth, thresholds=[0.5], margin_mm=2).hits[0]) for map in (flood, silence)]
    [4, 0]
    """
    rule = checked_options(thresholds, low, rule)
    probability, truth = checked_probability(probability), as_mask(truth, "truth")
    region = np.ones(truth.shape, bool) if region is None else as_mask(region, "region")
    check_shapes(probability, truth, "probability", "truth")
    check_shapes(region, truth, "region", "truth")
    rng, parts = np.random.default_rng(seed), []
    for _ in range(draws):
        moved, placed = moved_lesions(truth, region, rng)
        seen = probability if margin_mm is None else np.where(_boxes(moved, margin_mm, spacing_mm), probability, 0)
        rows = sweep_of(pair(seen, moved, spacing_mm), thresholds, (0,), low=low, rule=rule)
        parts.append(pd.DataFrame({"threshold": rows.threshold, "placed": placed, "hits": rows.tp}))
    return pd.concat(parts).groupby("threshold", as_index=False).sum()


def partitions(scan, row, *, margin_mm=PARTITION_MARGIN_MM, seed=0):
    """The sampled evaluation's voxels: a box around every lesion, and boxes of the same sizes in healthy tissue.

    The thesis (section 5.1.2) does not give the size of its partitions. A margin of 5 mm is close to what its figures
    imply: network D has 34 false positives in the partitions and 4068 in the whole scans, so that the partitions are
    about 1 % of the heads. A healthy box for which the search region has no place is left out: recall is still that of
    all lesions, and false positives are counted in so much less tissue.

    Returns
    -------
    bool (slice, row, column)
        Empty for a scan without lesion.
    """
    mask = np.zeros(scan.label.shape, bool)
    for around, healthy in _partition_boxes(scan, row, margin_mm, seed):
        _look(mask, around)[:] = True
        if healthy is not None:
            _look(mask, healthy)[:] = True
    return mask & (scan.image > scan.image.min())


def partition_chance(
    probability, scan, row, *, thresholds=THRESHOLDS, low=0.2, rule="thesis", margin_mm=PARTITION_MARGIN_MM, seed=0
):
    """`chance_recall` of a map that was made in `partitions` only: every lesion is moved into its healthy box.

    Parameters
    ----------
    probability : float (slice, row, column)
        On the grid of the scan's file, where maps are scored; 0 outside `partitions(scan, row, margin_mm=margin_mm,
        seed=seed)`.
    scan, row
        As `partitions` got them.
    thresholds, low, rule
        As in `kit.metrics.sweep`.

    Returns
    -------
    pandas.DataFrame
        As `chance_recall` gives it. A lesion is not placed if it has no healthy box, or if, moved there, it would
        leave the scan or touch a lesion that was moved before.
    """
    rule, parts = checked_options(thresholds, low, rule), components(scan.label)
    probability = checked_probability(probability)
    moved, seen, placed = np.zeros(parts.shape, bool), np.zeros(parts.shape, bool), 0
    for number, (around, healthy) in enumerate(_partition_boxes(scan, row, margin_mm, seed), start=1):
        if healthy is None:
            continue
        _look(seen, healthy)[:] = True
        voxels = np.argwhere(parts == number) - around[0] + healthy[0]
        first, last = voxels.min(axis=0), voxels.max(axis=0)
        if (first >= 0).all() and (last < parts.shape).all() and not _look(moved, (first - 1, last + 2)).any():
            moved[tuple(voxels.T)] = True
            placed += 1
    moved, seen, step = to_own_grid(moved, scan), to_own_grid(seen, scan), spacing(frame(scan.grid)[1])
    check_shapes(probability, moved, "probability", "the scan's file")
    rows = sweep_of(pair(np.where(seen, probability, 0), moved, step), thresholds, (0,), low=low, rule=rule)
    return pd.DataFrame({"threshold": rows.threshold, "placed": placed, "hits": rows.tp})


def moved_lesions(truth, region, rng):
    """Move each lesion to a random place, whole, inside the region and clear of true lesions and of one another.

    Parameters
    ----------
    truth, region : bool (slice, row, column)
    rng : numpy.random.Generator

    Returns
    -------
    (bool (slice, row, column), int)
        The moved lesions, and how many found a place in 200 tries.
    """
    touching = np.ones((3, 3, 3))
    parts = ndimage.label(truth, touching)[0]
    moved, placed, places = np.zeros_like(truth), 0, np.flatnonzero(region)
    taken = ndimage.binary_dilation(truth, touching)  # so that no moved lesion touches another
    for number, box in enumerate(ndimage.find_objects(parts), 1) if len(places) else ():
        shape = parts[box] == number
        half = np.array(shape.shape) // 2
        for place in np.array(np.unravel_index(rng.choice(places, TRIES), truth.shape)).T:
            first = place - half
            there = tuple(slice(at, at + side) for at, side in zip(first, shape.shape, strict=True))
            inside = (first >= 0).all() and (first + shape.shape <= truth.shape).all()
            if inside and not (shape & (taken[there] | ~region[there])).any():
                moved[there] |= shape
                taken |= _grown(shape, there, truth.shape)
                placed += 1
                break
    return moved, placed


def _grown(shape, there, whole):
    """A lesion in its box, and the voxels that touch it, in a scan of shape `whole`."""
    scan = np.zeros(whole, bool)
    scan[there] = shape
    around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in there)
    scan[around] = ndimage.binary_dilation(scan[around], np.ones((3, 3, 3)))
    return scan


def _boxes(lesions, margin_mm, spacing_mm):
    """The boxes around lesions with a margin on each side."""
    margin, mask = np.ceil(margin_mm / checked_spacing(spacing_mm)).astype(int), np.zeros_like(lesions)
    for box in ndimage.find_objects(ndimage.label(lesions, np.ones((3, 3, 3)))[0]):
        mask[tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margin, strict=True))] = True
    return mask


def _partition_boxes(scan, row, margin_mm, seed):
    """Each lesion's box and its healthy one (None for no place): (low, high) voxels, some perhaps outside the scan."""
    rng = np.random.default_rng([seed, *row["scan_id"].encode()])
    margin = margin_mm / np.asarray(scan.spacing_mm)
    boxes = [_grow(box, margin) for box in lesion_table(scan.label, scan.spacing_mm).box]
    mask, pairs = np.zeros(scan.label.shape, bool), []
    for box in boxes:
        _look(mask, box)[:] = True
    healthy = np.argwhere(search_region(scan, row) & ~scan.label & ~mask)
    for low, high in boxes:
        half = (high - low) // 2
        tried = healthy[rng.integers(len(healthy), size=100)] - half if len(healthy) else ()
        free = ((first, first + high - low) for first in tried)
        pairs.append(((low, high), next((box for box in free if not _look(scan.label, box).any()), None)))
    return pairs


def _grow(box, margin):
    box = np.asarray(box)
    return np.floor(box[:, 0] - margin).astype(int), np.ceil(box[:, 1] + margin).astype(int)


def _look(array, box):
    return array[tuple(slice(max(low, 0), max(high, 0)) for low, high in zip(*box, strict=True))]
