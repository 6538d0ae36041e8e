"""What was found on one scan: Dice, hysteresis, lesion-wise detection, and every finding as a row."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kit.metrics.matching import checked_options, count, effective_low, rule_of
from kit.metrics.pairing import (
    check_shapes,
    checked_probability,
    dice_of,
    pair,
    read_map,
)
from kit.metrics.rates import derive
from kit.scans import as_mask, checked_spacing

COLUMNS = (
    *("scan_id", "patient_id", "kind", "component", "slice", "row", "column", "x_mm", "y_mm", "z_mm", "volume_mm3"),
    *("diameter_mm", "peak", "nearest_lesion", "nearest_predicted", "nearest_mm", "rule", "threshold"),
)
TYPES = {"component": int, "nearest_lesion": int, "nearest_predicted": int}
TYPES |= dict.fromkeys(["slice", "row", "column", "x_mm", "y_mm", "z_mm", "volume_mm3", "diameter_mm"], float)
TYPES |= dict.fromkeys(["peak", "nearest_mm", "threshold"], float)


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
    def counts(self):
        """Tp, fn and fp, a dict of int."""
        return count(self.truth.found, self.predicted.hit)

    @property
    def tp(self):
        """Lesions found."""
        return self.counts["tp"]

    @property
    def fn(self):
        """Lesions missed."""
        return self.counts["fn"]

    @property
    def fp(self):
        """Predicted components that match no lesion."""
        return self.counts["fp"]

    @property
    def recall(self):
        """tp / (tp + fn); NaN for a scan without lesion."""
        return float(derive(self.counts)["recall"])

    @property
    def precision(self):
        """tp / (tp + fp); NaN where nothing is predicted."""
        return float(derive(self.counts)["precision"])

    @property
    def dice(self):
        """`dice` of all predicted components against the truth, voxel by voxel."""
        return dice_of(self.predicted.overlap.sum(), self.predicted.voxels.sum(), self.truth_voxels)

    @property
    def dice_healthy(self):
        """`dice` of what is not lesion."""
        predicted, truth = self.predicted.voxels.sum(), self.truth_voxels
        both = self.voxels - predicted - truth + self.predicted.overlap.sum()
        return dice_of(both, self.voxels - predicted, self.voxels - truth)

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
    return dice_of(np.count_nonzero(a & b), np.count_nonzero(a), np.count_nonzero(b))


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
    low, spacing = effective_low(threshold, low), checked_spacing(spacing_mm)
    predicted = read_map(checked_probability(probability), low, spacing)
    return np.append(False, predicted.keeps(threshold, min_volume_mm3))[predicted.labels]


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
        A word of `kit.metrics.RULES`: thesis, overlap, iou, brats or centre (`kit.metrics.matching` describes them).

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
    options = {"low": low, "min_volume_mm3": min_volume_mm3, "rule": checked_options(threshold, low, rule)}
    return detection_of(pair(probability, truth, spacing_mm), threshold, **options)


def detection_of(pairing, threshold=0.5, *, low=0.2, min_volume_mm3=0, rule="thesis"):
    """`detect` for a `kit.metrics.Pairing`."""
    matched = pairing.match(threshold, low=low, min_volume_mm3=min_volume_mm3, rule=rule)
    contact, links = matched.contact, matched.links
    lesions = contact.truth.table.assign(found=links.found, dice=matched.lesion_dice)
    table = contact.component_table.assign(peak=contact.predicted.peak, overlap=contact.overlap)
    table = table.iloc[matched.kept].assign(hit=links.hit)
    names, other = lesions.component.to_numpy(), table.component.to_numpy()
    pairs = tuple((int(names[lesion]), int(other[component])) for lesion, component in np.argwhere(links.pairs))
    return Detection(lesions, table, pairs, pairing.truth.size, pairing.lesion_voxels, rule_of(rule).name)


def error_table(
    probability,
    truth,
    *,
    threshold=0.5,
    low=0.2,
    min_volume_mm3=0,
    rule="thesis",
    spacing_mm,
    affine=None,
    scan_id="",
    patient_id="",
):
    """List the true positives, false negatives and false positives of one scan, in this order.

    Parameters
    ----------
    probability, truth, threshold, low, min_volume_mm3, rule, spacing_mm
        As in `kit.metrics.detect`.
    affine : (4, 4) array, optional
        From a (slice, row, column) index to world RAS mm, such as `kit.scans.Scan.affine`.
    scan_id, patient_id : str

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`:

        - ``kind``: "TP" or "FN", a lesion of the truth; "FP", a predicted component;
        - ``component``: its number among the truth's (TP, FN) or the prediction's components (FP), the latter as they
          are numbered in the map binarised at the lower threshold;
        - ``slice, row, column``: centre of mass in voxels; ``x_mm, y_mm, z_mm``: in the world, NaN without `affine`;
        - ``volume_mm3``, ``diameter_mm``: of the sphere of that volume;
        - ``peak``: the highest probability in it, also in a lesion that was missed;
        - ``nearest_lesion``: for an FP, the lesion with the nearest centre; ``nearest_predicted``: for a lesion, the
          predicted component with the nearest centre; -1 where there is none, or where it does not apply;
        - ``nearest_mm``: how far that is, NaN where there is none;
        - ``rule``, ``threshold``: what decided.

        Components that a rule spares (`kit.metrics.matching`) have no row.

    Raises
    ------
    ValueError
        As `kit.metrics.detect`.

    Examples
    --------
    >>> truth, probability = np.zeros((2, 5, 9, 20))
    >>> truth[2, 3:6, 3:6] = 1
    >>> probability[2, 4, 15] = 0.75
    >>> table = error_table(probability, truth, spacing_mm=(2, 1, 1))
    >>> table[["kind", "component", "peak", "nearest_mm"]].values.tolist()
    [['FN', 1, 0.0, 11.0], ['FP', 1, 0.75, 11.0]]
    """
    rule = checked_options(threshold, low, rule)
    options = {"threshold": threshold, "low": low, "min_volume_mm3": min_volume_mm3, "rule": rule}
    names = {"affine": affine, "scan_id": scan_id, "patient_id": patient_id}
    return error_table_of(pair(probability, truth, spacing_mm), **options, **names)


def error_table_of(
    pairing, *, threshold=0.5, low=0.2, min_volume_mm3=0, rule="thesis", affine=None, scan_id="", patient_id=""
):
    """`error_table` for a `kit.metrics.Pairing`."""
    found = detection_of(pairing, threshold, low=low, min_volume_mm3=min_volume_mm3, rule=rule)
    lesions = found.truth.assign(peak=_lesion_peaks(pairing, rule_of(rule).merge))
    false, spacing = found.false_positives, pairing.spacing_mm
    parts = [
        _rows(lesions[lesions.found], "TP", found.predicted, "nearest_predicted", spacing),
        _rows(lesions[~lesions.found], "FN", found.predicted, "nearest_predicted", spacing),
        _rows(false, "FP", lesions, "nearest_lesion", spacing),
    ]
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    table[["x_mm", "y_mm", "z_mm"]] = _world(table, affine)
    columns = {"scan_id": scan_id, "patient_id": patient_id, "rule": found.rule, "threshold": float(threshold)}
    return table.assign(**columns)[list(COLUMNS)].astype(TYPES)


def _lesion_peaks(pairing, merge):
    """(lesion,) highest probability inside each."""
    lesions = pairing.lesions(merge)
    flat = np.flatnonzero(pairing.truth)
    owner, value = lesions.labels.reshape(-1)[flat] - 1, pairing.probability.reshape(-1)[flat]
    peak = np.zeros(len(lesions.table))
    np.maximum.at(peak, owner[owner >= 0], value[owner >= 0])  # below 0: a lesion that does not count
    return peak


def _rows(items, kind, others, column, spacing):
    """One row an item of one kind, with the nearest of the other side in `column`."""
    here, there = (np.array(table.centre.tolist()).reshape(-1, 3) for table in (items, others))
    table = pd.DataFrame(here, columns=["slice", "row", "column"]).assign(kind=kind, nearest_lesion=-1)
    table["nearest_predicted"], table["nearest_mm"] = -1, np.nan
    for name in ("component", "volume_mm3", "diameter_mm", "peak"):
        table[name] = items[name].to_numpy()
    if len(here) and len(there):
        distance = np.linalg.norm((here[:, None] - there) * spacing, axis=-1).round(9)
        table[column] = others.component.to_numpy()[distance.argmin(axis=1)]
        table["nearest_mm"] = distance.min(axis=1)
    return table


def _world(table, affine):
    if affine is None:
        return np.full((len(table), 3), np.nan)
    affine = np.asarray(affine, float)
    return table[["slice", "row", "column"]].to_numpy(float) @ affine[:3, :3].T + affine[:3, 3]
