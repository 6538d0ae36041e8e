"""How well each lesion is outlined: Dice and HD95 lesion by lesion, and their means with penalties as in BraTS."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

from kit.metrics.detection import combinations
from kit.scans import as_mask, checked_spacing

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
    options = {"low": low, "spacing_mm": spacing_mm, "rule": rule}
    ((_, encounter, chosen, links),) = combinations(probability, truth, (threshold,), (min_volume_mm3,), **options)
    table = encounter.truth.table[["component", "volume_mm3"]].assign(found=links.found)
    table["dice"] = encounter.lesion_dice(links, chosen)
    spacing = checked_spacing(spacing_mm)
    table["hd95_mm"] = [
        _distance(encounter, lesion, chosen[own], spacing) if own.any() else PENALTY_MM
        for lesion, own in enumerate(links.pairs)
    ]
    return LesionWise(table, int((~links.hit).sum()))


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


def _surface(mask):
    return mask & ~binary_erosion(mask, generate_binary_structure(3, 1))


def _distance(encounter, lesion, components, spacing):
    """HD95 of a lesion and some components, looked at in the box around both."""
    shape = encounter.truth.labels.shape
    own = encounter.predicted.flat[np.isin(encounter.predicted.owner, components)]
    box = encounter.truth.table.box.iloc[lesion]
    places = np.array(np.unravel_index(own, shape))
    low = np.minimum(places.min(axis=1), [first for first, _ in box])
    high = np.maximum(places.max(axis=1) + 1, [stop for _, stop in box])
    predicted = np.zeros(high - low, bool)
    predicted[tuple(places - low[:, None])] = True
    return hd95(encounter.truth.labels[tuple(map(slice, low, high))] == lesion + 1, predicted, spacing)
