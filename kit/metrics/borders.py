"""How a probability map falls off across the border of lesions: sharp, too wide, or with fringes."""

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt

from kit.scans import lesion_table


def border_profile(probability, truth, *, reach_mm=5.0, spacing_mm=(1, 1, 1)):
    """Mean probability over the distance from the lesions' border.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
        Known at least to `reach_mm` around each lesion.
    truth : (slice, row, column) bool array
    reach_mm : float
    spacing_mm : (slice, row, column) float

    Returns
    -------
    pandas.DataFrame
        One row a whole millimetre: distance_mm (below 0 inside lesions; a voxel's distance is the one to the nearest
        voxel centre on the other side, less half of the finest spacing, rounded away from 0), voxels, probability
        (their mean). No row without lesions.

    Examples
    --------
    >>> truth = np.zeros((1, 1, 8), bool)
    >>> truth[..., 4:] = True
    >>> border_profile(np.linspace(0, 0.7, 8)[None, None], truth, reach_mm=2).round(2).values.tolist()
    [[-2.0, 1.0, 0.5], [-1.0, 1.0, 0.4], [1.0, 1.0, 0.3], [2.0, 1.0, 0.2]]
    """
    probability, truth = np.asarray(probability), np.asarray(truth, bool)
    seen, bins, values = np.zeros(truth.shape, bool), [], []
    pad = np.ceil((reach_mm + 1) / np.asarray(spacing_mm)).astype(int)
    for box in lesion_table(truth, spacing_mm).box:
        around = tuple(slice(max(low - 2 * p, 0), stop + 2 * p) for (low, stop), p in zip(box, pad, strict=True))
        inside = truth[around]  # twice as far as is counted: another lesion may be nearer to a voxel out there
        counted = np.zeros(inside.shape, bool)
        counted[_shrunk(around, box, pad)] = True
        signed = np.where(inside, -_away(inside, spacing_mm), _away(~inside, spacing_mm))
        step = np.sign(signed) * np.ceil(abs(signed) - 0.5 * min(spacing_mm) - 1e-6)
        near = counted & (abs(step) <= reach_mm) & ~seen[around]
        seen[around] |= near
        bins.append(step[near])
        values.append(probability[around][near])
    if not bins:
        return pd.DataFrame(columns=["distance_mm", "voxels", "probability"])
    told = pd.DataFrame({"distance_mm": np.concatenate(bins), "probability": np.concatenate(values)})
    return told.groupby("distance_mm").probability.agg(voxels="size", probability="mean").reset_index()


def pool_profiles(profiles):
    """One profile of several scans', every voxel with the same weight."""
    whole = pd.concat(profiles)
    whole = whole.assign(probability=whole.probability * whole.voxels)
    total = whole.groupby("distance_mm")[["voxels", "probability"]].sum()
    return total.assign(probability=total.probability / total.voxels).reset_index()


def _shrunk(around, box, pad):
    """The box with `pad` voxels on each side, counted from where `around` begins."""
    sides = zip(around, box, pad, strict=True)
    return tuple(slice(max(low - p, 0) - a.start, stop + p - a.start) for a, (low, stop), p in sides)


def _away(mask, spacing_mm):
    """Distance in mm of a mask's voxels to the nearest one outside it; infinite where there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return distance_transform_edt(mask, sampling=spacing_mm)
