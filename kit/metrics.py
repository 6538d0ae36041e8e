"""How good a probability map is on one scan: Dice, hysteresis, lesion-wise detection, sweeps over thresholds."""

from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from kit.lesions import as_mask, components, lesion_table, measure

THRESHOLDS = (*(round(0.05 * step, 2) for step in range(2, 20)), 0.99, 0.999)
MIN_VOLUMES_MM3 = (*range(0, 101, 10), 150, 200, 500)

SMALL_LESION_MM3 = 50.0  # below it a lesion is matched by distance, from it on by its box
NEAR_MM = 5.0


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found, missed and invented in one scan.

    Attributes
    ----------
    truth : pandas.DataFrame
        `kit.lesions.lesion_table` of the truth, with ``found`` (bool).
    predicted : pandas.DataFrame
        The same of the prediction, with ``peak`` (highest probability inside), ``overlap`` (voxels shared with the
        truth) and ``hit`` (bool; False is a false positive). Components keep the number they have in the map binarised
        at the lower threshold.
    pairs : tuple of (int, int)
        (truth component, predicted component) of every match.
    voxels : int
        Size of the scan.
    """

    truth: pd.DataFrame
    predicted: pd.DataFrame
    pairs: tuple
    voxels: int

    @property
    def tp(self):
        """Lesions found."""
        return len(self.pairs)

    @property
    def fn(self):
        """Lesions missed."""
        return len(self.truth) - self.tp

    @property
    def fp(self):
        """Predicted components that match no lesion."""
        return len(self.predicted) - self.tp

    @property
    def recall(self):
        """tp / (tp + fn); NaN for a scan without lesion."""
        return _ratio(self.tp, len(self.truth))

    @property
    def precision(self):
        """tp / (tp + fp); NaN where nothing is predicted."""
        return _ratio(self.tp, len(self.predicted))

    @property
    def dice(self):
        """`dice` of all predicted components against the truth, voxel by voxel."""
        return _dice(self.predicted.overlap.sum(), self.predicted.voxels.sum(), self.truth.voxels.sum())

    @property
    def dice_healthy(self):
        """`dice` of what is not lesion."""
        predicted, truth = self.predicted.voxels.sum(), self.truth.voxels.sum()
        both = self.voxels - predicted - truth + self.predicted.overlap.sum()
        return _dice(both, self.voxels - predicted, self.voxels - truth)

    @property
    def missed(self):
        """Rows of `truth` that were not found."""
        return self.truth[~self.truth.found]

    @property
    def false_positives(self):
        """Rows of `predicted` that match no lesion."""
        return self.predicted[~self.predicted.hit]


def dice(a, b):
    """Return the Dice coefficient 2 |a and b| / (|a| + |b|) of two labels.

    Parameters
    ----------
    a, b : (slice, row, column) bool arrays, or numbers that are all 0 or 1

    Returns
    -------
    float
        From 0 to 1; 1 where both are empty, for then they agree.

    Raises
    ------
    ValueError
        If the shapes differ or a label is not binary.

    Examples
    --------
    >>> dice([[[1, 1, 0, 0]]], [[[0, 1, 1, 1]]])
    0.4
    """
    a, b = as_mask(a, "a"), as_mask(b, "b")
    _check_shapes(a, b, "a", "b")
    return _dice(np.count_nonzero(a & b), np.count_nonzero(a), np.count_nonzero(b))


def hysteresis(probability, threshold, low=0.2, *, min_volume_mm3=0, spacing_mm=(1, 1, 1)):
    """Binarise a map: keep what reaches `low` and hangs together with a voxel that reaches `threshold`.

    Both thresholds are inclusive, voxels hang together over faces, edges and corners, and a threshold below `low`
    stands for both.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
    threshold, low : float
        Above 0 and at most 1.
    min_volume_mm3 : float
        Components smaller than this are left out.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    (slice, row, column) bool array

    Raises
    ------
    ValueError
        If the map has NaN or values outside [0, 1], or a threshold is out of range.

    Examples
    --------
    >>> hysteresis(np.array([[[0.2, 0.6, 0.1, 0.3]]]), 0.5).tolist()
    [[[True, True, False, False]]]
    """
    probability = _checked_probability(probability)
    labels, table = _candidates(probability, _effective_low(threshold, low), spacing_mm)
    keep = np.zeros(len(table) + 1, bool)
    keep[_select(table, threshold, min_volume_mm3).component] = True
    return keep[labels]


def detect(probability, truth, threshold=0.5, *, low=0.2, min_volume_mm3=0, spacing_mm=(1, 1, 1)):
    """Compare a probability map with the truth, lesion by lesion.

    The map is binarised by `hysteresis`, components below `min_volume_mm3` are removed, and `match` pairs the rest
    with the lesions. Give the scan's own `spacing_mm`: volumes and distances are physical.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
    truth : (slice, row, column) bool array, or numbers that are all 0 or 1
    threshold, low : float
        Above 0 and at most 1.
    min_volume_mm3 : float
    spacing_mm : (slice, row, column) float

    Returns
    -------
    Detection

    Raises
    ------
    ValueError
        If the shapes differ, the map has NaN or values outside [0, 1], the truth is not binary, or a threshold or the
        spacing is out of range.

    Examples
    --------
    >>> truth, probability = np.zeros((2, 9, 20, 20))
    >>> truth[4, 3:6, 3:6] = 1
    >>> probability[4, 4:6, 3:6] = 0.9
    >>> probability[7, 15, 15] = 0.6
    >>> found = detect(probability, truth)
    >>> found.tp, found.fn, found.fp, found.recall, found.precision, found.pairs
    (1, 0, 1, 1.0, 0.5, ((1, 1),))
    >>> found.false_positives[["voxels", "peak", "centre"]].values.tolist()
    [[1, 0.6, (7.0, 15.0, 15.0)]]
    """
    probability, truth = _checked_pair(probability, truth)
    _, table = _candidates(probability, _effective_low(threshold, low), spacing_mm, truth)
    selected = _select(table, threshold, min_volume_mm3)
    lesions = lesion_table(truth, spacing_mm)
    pairs = match(lesions, selected, spacing_mm)
    return Detection(
        truth=lesions.assign(found=lesions.component.isin([lesion for lesion, _ in pairs])),
        predicted=selected.assign(hit=selected.component.isin([component for _, component in pairs])),
        pairs=pairs,
        voxels=truth.size,
    )


def match(truth, predicted, spacing_mm):
    """Pair lesions with predicted components by the thesis' rule.

    Each lesion proposes to the component whose centre of mass is nearest, and to no other. A lesion below 50 mm3 is
    accepted when that is nearer than 5 mm; a larger one when the component's centre lies in the lesion's box, which
    reaches from centre to centre of its outermost voxels. Where several accepted lesions name one component, the
    nearest keeps it and the others are missed. In a tie, the lower component number wins.

    A component that appears can therefore take a lesion away from the one that held it: recall may rise with the
    threshold.

    Parameters
    ----------
    truth, predicted : pandas.DataFrame
        Tables of `kit.lesions.lesion_table`.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    tuple of (int, int)
        (truth component, predicted component) of every match, by truth component.

    References
    ----------
    Section 5.1.2 of the thesis; which pair keeps a component, and that limits are physical, it leaves open.

    Examples
    --------
    >>> truth = lesion_table([[[1, 1, 0, 0, 0, 0]]], (1, 1, 1))
    >>> predicted = lesion_table([[[0, 1, 0, 1, 0, 0]]], (1, 1, 1))
    >>> match(truth, predicted, (1, 1, 1))
    ((1, 1),)
    """
    if truth.empty or predicted.empty:
        return ()
    centre = np.array(predicted.centre.tolist())  # (predicted, 3)
    offset = (np.array(truth.centre.tolist())[:, None] - centre) * np.asarray(spacing_mm)  # (truth, predicted, 3)
    # rounded, so that a tie stays one whatever the order of the sums
    distance = np.linalg.norm(offset, axis=-1).round(9)
    nearest = distance.argmin(axis=1)  # (truth,)
    distance = distance.min(axis=1)
    box = np.array(truth.box.tolist())  # (truth, 3, 2)
    in_box = ((box[..., 0] <= centre[nearest]) & (centre[nearest] <= box[..., 1] - 1)).all(axis=1)
    accepted = np.where(truth.volume_mm3 < SMALL_LESION_MM3, distance < NEAR_MM, in_box)
    proposals = sorted(zip(distance[accepted], np.flatnonzero(accepted), nearest[accepted], strict=True), reverse=True)
    keeper = {component: lesion for _, lesion, component in proposals}  # the nearest comes last and stays
    names, other = truth.component.to_numpy(), predicted.component.to_numpy()
    return tuple(sorted((int(names[lesion]), int(other[component])) for component, lesion in keeper.items()))


def sweep(probability, truth, thresholds=THRESHOLDS, min_volumes_mm3=MIN_VOLUMES_MM3, *, low=0.2, spacing_mm=(1, 1, 1)):
    """Run `detect` for every threshold and minimum volume, labelling the map once for each lower threshold in use.

    Hysteresis at any threshold from `low` upwards selects among the same components, by their highest probability.

    Parameters
    ----------
    probability, truth, low, spacing_mm
        As in `detect`.
    thresholds, min_volumes_mm3 : sequence of float

    Returns
    -------
    pandas.DataFrame
        One row a combination: threshold, min_volume_mm3, tp, fn, fp, dice, dice_healthy (both after removing small
        components) and slices, the number of the scan's slices.

    Raises
    ------
    ValueError
        As `detect`.

    Examples
    --------
    >>> truth = np.zeros((3, 9, 9))
    >>> truth[1, 3:6, 3:6] = 1
    >>> sweep(0.9 * truth, truth, (0.5, 0.95), (0, 50)).tp.tolist()
    [1, 0, 0, 0]
    """
    probability, truth = _checked_pair(probability, truth)
    lesions = lesion_table(truth, spacing_mm)
    lows = sorted({_effective_low(threshold, low) for threshold in thresholds})
    tables = {value: _candidates(probability, value, spacing_mm, truth)[1] for value in lows}
    rows = []
    for threshold in thresholds:
        for volume in min_volumes_mm3:
            selected = _select(tables[_effective_low(threshold, low)], threshold, volume)
            found = Detection(lesions, selected, match(lesions, selected, spacing_mm), truth.size)
            counts = {name: getattr(found, name) for name in ("tp", "fn", "fp", "dice", "dice_healthy")}
            rows.append({"threshold": threshold, "min_volume_mm3": volume, **counts, "slices": len(truth)})
    return pd.DataFrame(rows)


def _candidates(probability, low, spacing_mm, truth=None):
    """Label a map at its lower threshold; the table also says how high each component rises and what it hits."""
    mask = probability >= low
    labels = components(mask)
    table = measure(labels, spacing_mm)
    owner = labels[mask] - 1  # (voxel,)
    peak = np.zeros(len(table), probability.dtype)
    np.maximum.at(peak, owner, probability[mask])
    table["peak"] = peak
    if truth is not None:
        table["overlap"] = np.bincount(owner[truth[mask]], minlength=len(table))
    return labels, table


def _select(table, threshold, min_volume_mm3):
    """Return the components that hysteresis keeps at `threshold`, less the small ones."""
    # a Python float takes the map's own precision, so that 0.9 in a float32 map reaches 0.9
    return table[(table.peak.to_numpy() >= float(threshold)) & (table.volume_mm3.to_numpy() >= min_volume_mm3)]


def _effective_low(threshold, low):
    for name, value in (("threshold", threshold), ("low", low)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}: pass a probability above 0 and at most 1")
    return float(min(threshold, low))


def _checked_probability(probability):
    probability = np.asarray(probability)
    if probability.ndim != 3:
        raise ValueError(f"probability has shape {probability.shape}: pass one scan with axes (slice, row, column)")
    if not np.issubdtype(probability.dtype, np.floating):
        probability = probability.astype(np.float32)
    low, high = probability.min(initial=0), probability.max(initial=0)
    if np.isnan(low):
        raise ValueError(
            f"probability holds NaN in {np.isnan(probability).sum()} voxels: the network's output is broken"
        )
    if low < 0 or high > 1:
        raise ValueError(f"probability reaches from {low} to {high}: pass values in [0, 1], not logits or percent")
    return probability


def _checked_pair(probability, truth):
    probability, truth = _checked_probability(probability), as_mask(truth, "truth")
    _check_shapes(probability, truth, "probability", "truth")
    return probability, truth


def _check_shapes(a, b, first, second):
    if a.shape != b.shape:
        raise ValueError(f"{first} has shape {a.shape} and {second} {b.shape}: both must lie on the same grid")


def _dice(both, a, b):
    return float(2 * both / (a + b)) if a + b else 1.0


def _ratio(part, whole):
    return float(part / whole) if whole else nan
