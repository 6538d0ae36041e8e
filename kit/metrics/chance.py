"""The recall that a map would have by chance: its findings against lesions that were moved to random places."""

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.metrics.matching import checked_options
from kit.metrics.pairing import as_mask, check_shapes, checked_probability, checked_spacing, pair
from kit.metrics.sweeps import THRESHOLDS, sweep_of

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
