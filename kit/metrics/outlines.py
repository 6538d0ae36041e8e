"""How well lesions are outlined: Dice and HD95 lesion by lesion, and how a map falls off across their border."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

from kit.metrics.matching import checked_options
from kit.metrics.pairing import pair
from kit.scans import as_mask, checked_spacing, lesion_table

PENALTY_MM = 374.0  # HD95 of a miss or a false positive in BraTS: about the diagonal of its 240 x 240 x 155 mm grid


@dataclass(frozen=True, eq=False)
class LesionWise:
    """`lesions`: one row a lesion; `fp`: how many false positives count in the means `dice` and `hd95_mm`."""

    lesions: pd.DataFrame
    fp: int

    @property
    def dice(self):
        """Mean over lesions and false positives, both kinds of error counting 0; 1 where there is neither."""
        count = len(self.lesions) + self.fp
        return float(self.lesions.dice.sum() / count) if count else 1.0

    @property
    def hd95_mm(self):
        """Mean over lesions and false positives, both kinds of error counting 374 mm; 0 where there is neither."""
        count = len(self.lesions) + self.fp
        return float((self.lesions.hd95_mm.sum() + PENALTY_MM * self.fp) / count) if count else 0.0


def lesionwise(probability, truth, threshold=0.5, *, low=0.2, min_volume_mm3=0, spacing_mm=(1, 1, 1), rule="brats"):
    """Score every lesion of a scan by Dice and HD95 against all predicted components that are its own.

    With the rule `brats` these are the lesion-wise scores of the BraTS challenges with the parameters of BraTS-METS:
    lesions that one dilation (over faces and edges) joins are one, a component that reaches into a lesion's dilation
    is its own, lesions of 2 mm3 and less are left out, a miss and a false positive count Dice 0 and HD95 374 mm.

    Where this differs from the published program: HD95 is taken between voxel centres of both surfaces, every
    surface voxel counting once, where the program weighs surface elements by their area; the prediction is binarised
    by hysteresis and not by an argmax; distances honour `spacing_mm`, while the dilation is one voxel in every
    direction as there, where all voxels have 1 mm.

    Parameters
    ----------
    probability, truth, threshold, low, min_volume_mm3, spacing_mm, rule
        As in `kit.metrics.detect`.

    Returns
    -------
    LesionWise
        `lesions` has component, volume_mm3, found, dice and hd95_mm (`PENALTY_MM` where missed).

    Raises
    ------
    ValueError
        As `kit.metrics.detect`.

    References
    ----------
    BraTS 2023 lesion-wise performance metrics, github.com/rachitsaluja/BraTS-2023-Metrics; A. W. Moawad et al., The
    Brain Tumor Segmentation (BraTS-METS) Challenge 2023, arXiv:2306.00838.

    Examples
    --------
    >>> truth, probability = np.zeros((2, 5, 9, 20))
    >>> truth[1:4, 3:6, 3:6] = 1
    >>> probability[1:4, 3:6, 3:5] = probability[2, 4, 15] = 0.9
    >>> scores = lesionwise(probability, truth)
    >>> scores.lesions[["dice", "hd95_mm"]].values.tolist(), scores.fp, scores.dice, scores.hd95_mm
    ([[0.8, 1.0]], 1, 0.4, 187.5)
    """
    options = {"low": low, "min_volume_mm3": min_volume_mm3, "rule": checked_options(threshold, low, rule)}
    return lesionwise_of(pair(probability, truth, spacing_mm), threshold, **options)


def lesionwise_of(pairing, threshold=0.5, *, low=0.2, min_volume_mm3=0, rule="brats"):
    """`lesionwise` for a `kit.metrics.Pairing`."""
    matched = pairing.match(threshold, low=low, min_volume_mm3=min_volume_mm3, rule=rule)
    contact, links = matched.contact, matched.links
    table = contact.truth.table[["component", "volume_mm3"]].assign(found=links.found, dice=matched.lesion_dice)
    table["hd95_mm"] = [
        _distance(contact, lesion, matched.kept[own]) if own.any() else PENALTY_MM
        for lesion, own in enumerate(links.pairs)
    ]
    return LesionWise(table, matched.counts["fp"])


def hd95(a, b, spacing_mm=(1, 1, 1)):
    """Return the 95 % Hausdorff distance of two labels in mm.

    The larger of the two directed ones: the 95th percentile (interpolated linearly) of the distances from the surface
    voxels of one label to the nearest surface voxel of the other. A surface voxel has a face neighbour outside.

    Parameters
    ----------
    a, b : (slice, row, column) bool arrays, or numbers that are all 0 or 1
    spacing_mm : (slice, row, column) float

    Returns
    -------
    float
        0 where both are empty, infinite where one is.

    Examples
    --------
    >>> hd95([[[1, 0, 0, 0]]], [[[0, 0, 1, 0]]], (1, 1, 2))
    4.0
    """
    a, b = as_mask(a, "a"), as_mask(b, "b")
    spacing = checked_spacing(spacing_mm)
    if not a.any() or not b.any():
        return 0.0 if not a.any() and not b.any() else float("inf")
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(a | b))
    a, b = _surface(a[box]), _surface(b[box])
    directed = [distance_transform_edt(~to, sampling=spacing)[of] for of, to in ((a, b), (b, a))]
    return float(max(np.percentile(distances, 95) for distances in directed))


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
    voxels = pd.DataFrame({"distance_mm": np.concatenate(bins), "probability": np.concatenate(values)})
    return voxels.groupby("distance_mm").probability.agg(voxels="size", probability="mean").reset_index()


def pool_profiles(profiles):
    """One profile of several scans', every voxel with the same weight."""
    whole = pd.concat(profiles)
    whole = whole.assign(probability=whole.probability * whole.voxels)
    total = whole.groupby("distance_mm")[["voxels", "probability"]].sum()
    return total.assign(probability=total.probability / total.voxels).reset_index()


def _surface(mask):
    return mask & ~binary_erosion(mask, generate_binary_structure(3, 1))


def _distance(contact, lesion, components):
    """HD95 of a lesion and some components, looked at in the box around both."""
    shape = contact.truth.labels.shape
    own = contact.predicted.flat[np.isin(contact.predicted.owner, components)]
    box = contact.truth.table.box.iloc[lesion]
    places = np.array(np.unravel_index(own, shape))
    low = np.minimum(places.min(axis=1), [first for first, _ in box])
    high = np.maximum(places.max(axis=1) + 1, [stop for _, stop in box])
    predicted = np.zeros(high - low, bool)
    predicted[tuple(places - low[:, None])] = True
    return hd95(contact.truth.labels[tuple(map(slice, low, high))] == lesion + 1, predicted, contact.spacing_mm)


def _shrunk(around, box, pad):
    """The box with `pad` voxels on each side, counted from where `around` begins."""
    sides = zip(around, box, pad, strict=True)
    return tuple(slice(max(low - p, 0) - a.start, stop + p - a.start) for a, (low, stop), p in sides)


def _away(mask, spacing_mm):
    """Distance in mm of a mask's voxels to the nearest one outside it; infinite where there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return distance_transform_edt(mask, sampling=spacing_mm)
