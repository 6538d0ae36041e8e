"""How good a probability map is on one scan: Dice, hysteresis, lesion-wise detection, sweeps over thresholds."""

from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from kit.metrics.matching import RULES, rule_of
from kit.metrics.pairing import (
    Encounter,
    Predicted,
    Truth,
    check_shapes,
    checked_pair,
    checked_probability,
    effective_low,
    read_maps,
    read_truth,
)
from kit.scans import as_mask, checked_spacing, measure

THRESHOLDS = (*(round(0.05 * step, 2) for step in range(2, 20)), 0.99, 0.999)
MIN_VOLUMES_MM3 = (*range(0, 101, 10), 150, 200, 500)


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found, missed and invented in one scan.

    Attributes
    ----------
    truth : pandas.DataFrame
        `kit.scans.lesion_table` of the truth, with ``found`` (bool) and ``dice``: of the lesion and all components
        matched to it, 0 where it is missed. Under the rule `brats` merged lesions are one row, tiny ones have none.
    predicted : pandas.DataFrame
        The same of the prediction, with ``peak`` (highest probability inside), ``overlap`` (voxels shared with the
        truth) and ``hit`` (bool; False is a false positive). Components keep the number they have in the map binarised
        at the lower threshold.
    pairs : tuple of (int, int)
        (truth component, predicted component) of every match.
    voxels, truth_voxels : int
        Size of the scan, and of all that is lesion in it.
    rule : str
        The word of the rule that decided.
    """

    truth: pd.DataFrame
    predicted: pd.DataFrame
    pairs: tuple
    voxels: int
    truth_voxels: int
    rule: str = "thesis"

    @property
    def tp(self):
        """Lesions found."""
        return int(self.truth.found.sum())

    @property
    def fn(self):
        """Lesions missed."""
        return len(self.truth) - self.tp

    @property
    def fp(self):
        """Predicted components that match no lesion."""
        return int((~self.predicted.hit).sum())

    @property
    def recall(self):
        """tp / (tp + fn); NaN for a scan without lesion."""
        return _ratio(self.tp, len(self.truth))

    @property
    def precision(self):
        """tp / (tp + fp); NaN where nothing is predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def dice(self):
        """`dice` of all predicted components against the truth, voxel by voxel."""
        return _dice(self.predicted.overlap.sum(), self.predicted.voxels.sum(), self.truth_voxels)

    @property
    def dice_healthy(self):
        """`dice` of what is not lesion."""
        predicted, truth = self.predicted.voxels.sum(), self.truth_voxels
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
    check_shapes(a, b, "a", "b")
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
    probability = checked_probability(probability)
    predicted = _read_map(probability, effective_low(threshold, low), checked_spacing(spacing_mm))
    return np.append(False, _chosen(predicted, threshold, min_volume_mm3))[predicted.labels]


def detect(probability, truth, threshold=0.5, *, low=0.2, min_volume_mm3=0, spacing_mm=(1, 1, 1), rule="thesis"):
    """Compare a probability map with the truth, lesion by lesion.

    The map is binarised by `hysteresis`, components below `min_volume_mm3` are removed, and the rule pairs the rest
    with the lesions. Give the scan's own `spacing_mm`: volumes and distances are physical.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
        Or a bool mask.
    truth : (slice, row, column) bool array, or numbers that are all 0 or 1
    threshold, low : float
        Above 0 and at most 1.
    min_volume_mm3 : float
    spacing_mm : (slice, row, column) float
    rule : str or kit.metrics.Rule
        A word of `kit.metrics.RULES`: thesis (see `match`), overlap, iou, brats or centre.

    Returns
    -------
    Detection

    Raises
    ------
    ValueError
        If the shapes differ, the map has NaN or values outside [0, 1], the truth is not binary, a threshold or the
        spacing is out of range, or there is no such rule.

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
    rule, spacing = rule_of(rule), checked_spacing(spacing_mm)
    probability, truth = checked_pair(probability, truth)
    predicted = _read_map(probability, effective_low(threshold, low), spacing)
    encounter = Encounter(read_truth(truth, spacing, merge=rule.merge), predicted, spacing, truth)
    chosen = np.flatnonzero(_chosen(predicted, threshold, min_volume_mm3))
    links = rule.link(encounter, chosen)
    lesions = encounter.truth.table.assign(found=links.found, dice=encounter.lesion_dice(links, chosen))
    table = measure(predicted.labels, spacing).assign(peak=predicted.peak, overlap=encounter.overlap)
    table = table.iloc[chosen].assign(hit=links.hit)
    names, other = lesions.component.to_numpy(), table.component.to_numpy()
    pairs = tuple((int(names[lesion]), int(other[component])) for lesion, component in np.argwhere(links.pairs))
    return Detection(lesions, table, pairs, truth.size, int(np.count_nonzero(truth)), rule.name)


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
        Tables of `kit.scans.lesion_table`.
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
    >>> from kit.scans import lesion_table
    >>> truth = lesion_table([[[1, 1, 0, 0, 0, 0]]], (1, 1, 1))
    >>> predicted = lesion_table([[[0, 1, 0, 1, 0, 0]]], (1, 1, 1))
    >>> match(truth, predicted, (1, 1, 1))
    ((1, 1),)
    """
    centre = np.array(predicted.centre.tolist()).reshape(-1, 3)
    arrays = Predicted(predicted.voxels.to_numpy(), predicted.volume_mm3.to_numpy(), centre, None, None, None, None)
    encounter = Encounter(Truth(truth, None), arrays, checked_spacing(spacing_mm))
    links = RULES["thesis"].link(encounter, np.arange(len(predicted)))
    names, other = truth.component.to_numpy(), predicted.component.to_numpy()
    return tuple((int(names[lesion]), int(other[component])) for lesion, component in np.argwhere(links.pairs))


def sweep(
    probability,
    truth,
    thresholds=THRESHOLDS,
    min_volumes_mm3=MIN_VOLUMES_MM3,
    *,
    low=0.2,
    spacing_mm=(1, 1, 1),
    rule="thesis",
):
    """Run `detect` for every threshold and minimum volume, labelling the map once for each lower threshold in use.

    Hysteresis at any threshold from `low` upwards selects among the same components, by their highest probability.

    Parameters
    ----------
    probability, truth, low, spacing_mm, rule
        As in `detect`.
    thresholds, min_volumes_mm3 : sequence of float

    Returns
    -------
    pandas.DataFrame
        One row a combination: threshold, min_volume_mm3, tp, fn, fp, dice, dice_healthy (both after removing small
        components), slices, the number of the scan's slices, and lesion_dice, the mean over the scan's lesions of
        `Detection.truth.dice` (missed ones are 0; NaN without lesions).

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
    probability, truth = checked_pair(probability, truth)
    rows, slices, size, positive = [], len(truth), truth.size, np.count_nonzero(truth)
    for at, encounter, chosen, links in combinations(
        probability, truth, thresholds, min_volumes_mm3, low=low, spacing_mm=spacing_mm, rule=rule
    ):
        found, hit = links.found, links.hit
        counts = {"tp": int(found.sum()), "fn": int((~found).sum()), "fp": int((~hit).sum())}
        both, predicted = encounter.overlap[chosen].sum(), encounter.predicted.voxels[chosen].sum()
        counts["dice"] = _dice(both, predicted, positive)
        counts["dice_healthy"] = _dice(size - predicted - positive + both, size - predicted, size - positive)
        own = encounter.lesion_dice(links, chosen)
        rows.append({**at, **counts, "slices": slices, "lesion_dice": float(own.mean()) if len(own) else nan})
    return pd.DataFrame(rows)


def combinations(probability, truth, thresholds, min_volumes_mm3, *, low=0.2, spacing_mm=(1, 1, 1), rule="thesis"):
    """Go through the combinations of a sweep, labelling once for each lower threshold in use.

    Parameters
    ----------
    probability, truth, thresholds, min_volumes_mm3, low, spacing_mm, rule
        As in `sweep`.

    Yields
    ------
    (dict, kit.metrics.Encounter, (component,) int array, kit.metrics.Links)
        Threshold and minimum volume; lesions and all components; which of them are predicted, and what they match.
    """
    rule, spacing = rule_of(rule), checked_spacing(spacing_mm)
    probability, truth = checked_pair(probability, truth)
    lesions = read_truth(truth, spacing, merge=rule.merge)
    lows = {effective_low(threshold, low) for threshold in thresholds}
    maps = read_maps(probability, lows, spacing)
    meet = {value: Encounter(lesions, predicted, spacing, truth) for value, predicted in maps.items()}
    known = {}
    for threshold in thresholds:
        value = effective_low(threshold, low)
        for volume in min_volumes_mm3:
            chosen = np.flatnonzero(_chosen(meet[value].predicted, threshold, volume))
            key = value, chosen.tobytes()
            if key not in known:  # neighbouring combinations often predict the same
                known[key] = rule.link(meet[value], chosen)
            yield {"threshold": threshold, "min_volume_mm3": volume}, meet[value], chosen, known[key]


def _read_map(probability, low, spacing):
    return read_maps(probability, [low], spacing)[low]


def _chosen(predicted, threshold, min_volume_mm3):
    """Which components hysteresis keeps at `threshold`, less the small ones: (component,) bool."""
    # a Python float takes the map's own precision, so that 0.9 in a float32 map reaches 0.9
    return (predicted.peak >= float(threshold)) & (predicted.volume_mm3 >= min_volume_mm3)


def _dice(both, a, b):
    return float(2 * both / (a + b)) if a + b else 1.0


def _ratio(part, whole):
    return float(part / whole) if whole else nan
