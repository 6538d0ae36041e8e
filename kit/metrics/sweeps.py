"""What changes along the threshold and from rule to rule: sweeps, operating points, rules; all tables of a scan."""

from itertools import product

import numpy as np
import pandas as pd

from kit.metrics.curves import reliability
from kit.metrics.detection import detection_of, error_table_of
from kit.metrics.matching import RULES, checked_options, rule_of
from kit.metrics.outlines import lesionwise_of
from kit.metrics.pairing import pair

THRESHOLDS = (*(round(0.05 * step, 2) for step in range(2, 20)), 0.99, 0.999)
MIN_VOLUMES_MM3 = (*range(0, 101, 10), 150, 200, 500)
LESION_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
LESION_MIN_VOLUMES_MM3 = (0, 40, 80, 150)  # as in the thesis' Table 6.1
MOST_POINTS = 1000


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
    """Run `kit.metrics.detect` for every threshold and minimum volume, labelling once for each lower threshold in use.

    Hysteresis at any threshold from `low` upwards selects among the same components, by their highest probability.

    Parameters
    ----------
    probability, truth, low, spacing_mm, rule
        As in `kit.metrics.detect`.
    thresholds, min_volumes_mm3 : sequence of float

    Returns
    -------
    pandas.DataFrame
        One row a combination: threshold, min_volume_mm3, tp, fn, fp, dice, dice_healthy (both after removing small
        components), slices, the number of the scan's slices, and lesion_dice, the mean over the scan's lesions of
        `kit.metrics.Detection.truth.dice` (missed ones are 0; NaN without lesions).

    Raises
    ------
    ValueError
        As `kit.metrics.detect`.

    Examples
    --------
    >>> truth = np.zeros((3, 9, 9))
    >>> truth[1, 3:6, 3:6] = 1
    >>> sweep(0.9 * truth, truth, (0.5, 0.95), (0, 50)).tp.tolist()
    [1, 0, 0, 0]
    """
    rule = checked_options(thresholds, low, rule)
    return sweep_of(pair(probability, truth, spacing_mm), thresholds, min_volumes_mm3, low=low, rule=rule)


def sweep_of(pairing, thresholds=THRESHOLDS, min_volumes_mm3=MIN_VOLUMES_MM3, *, low=0.2, rule="thesis"):
    """`sweep` for a `kit.metrics.Pairing`."""
    combined = _combinations(pairing, thresholds, min_volumes_mm3, low, rule)
    return pd.DataFrame([{**at, **matched.summary} for at, matched in combined])


def sweep_lesions(
    probability,
    truth,
    thresholds=LESION_THRESHOLDS,
    min_volumes_mm3=LESION_MIN_VOLUMES_MM3,
    *,
    low=0.2,
    spacing_mm=(1, 1, 1),
    rule="thesis",
):
    """Say for each lesion whether it is found, and how well outlined, at several thresholds and minimum volumes.

    Parameters
    ----------
    probability, truth, thresholds, min_volumes_mm3, low, spacing_mm, rule
        As in `sweep`.

    Returns
    -------
    pandas.DataFrame
        One row a lesion and combination: threshold, min_volume_mm3, component, volume_mm3, diameter_mm, size_mm,
        found (bool), dice (of the lesion and its own components, 0 where missed).

    Examples
    --------
    >>> truth = np.zeros((3, 9, 9))
    >>> truth[1, 3:6, 3:6] = 1
    >>> sweep_lesions(0.8 * truth, truth, (0.5, 0.9), (0,))[["threshold", "found", "dice"]].values.tolist()
    [[0.5, True, 1.0], [0.9, False, 0.0]]
    """
    rule = checked_options(thresholds, low, rule)
    return sweep_lesions_of(pair(probability, truth, spacing_mm), thresholds, min_volumes_mm3, low=low, rule=rule)


def sweep_lesions_of(
    pairing, thresholds=LESION_THRESHOLDS, min_volumes_mm3=LESION_MIN_VOLUMES_MM3, *, low=0.2, rule="thesis"
):
    """`sweep_lesions` for a `kit.metrics.Pairing`."""
    parts = []
    for at, matched in _combinations(pairing, thresholds, min_volumes_mm3, low, rule):
        own = matched.contact.truth.table[["component", "volume_mm3", "diameter_mm", "size_mm"]]
        parts.append(own.assign(**at, found=matched.links.found, dice=matched.lesion_dice))
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    first = ["threshold", "min_volume_mm3"]
    return table[[*first, *(name for name in table if name not in first)]]


def operating_points(probability, truth, *, low=0.2, min_volume_mm3=0, spacing_mm=(1, 1, 1), rule="thesis"):
    """Count hits and errors at every threshold that makes a difference: the points of an exact FROC curve.

    From `low` upwards, what is predicted changes only where the threshold passes a component's highest probability.

    Parameters
    ----------
    probability, truth, low, min_volume_mm3, spacing_mm, rule
        As in `kit.metrics.detect`.

    Returns
    -------
    pandas.DataFrame
        threshold, tp, fn, fp, from the highest threshold down, which is 1 and has the row even where nothing reaches
        it. Of more than 1000 different thresholds, 1000 are kept, evenly spread by rank, the lowest among them.

    Examples
    --------
    >>> truth = np.array([[[1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]])
    >>> probability = np.array([[[0.5, 0, 0, 0, 0, 0, 0, 0.25, 0, 0.75]]])
    >>> operating_points(probability, truth).values.tolist()
    [[1.0, 0.0, 1.0, 0.0], [0.75, 0.0, 1.0, 1.0], [0.5, 1.0, 0.0, 1.0], [0.25, 1.0, 0.0, 2.0]]
    """
    options = {"low": low, "min_volume_mm3": min_volume_mm3, "rule": checked_options(low, low, rule)}
    return operating_points_of(pair(probability, truth, spacing_mm), **options)


def operating_points_of(pairing, *, low=0.2, min_volume_mm3=0, rule="thesis"):
    """`operating_points` for a `kit.metrics.Pairing`."""
    predicted = pairing.predicted(float(low))
    large = predicted.peak[predicted.volume_mm3 >= min_volume_mm3]
    peaks = np.unique(np.append(large, np.ones(1, predicted.peak.dtype)))
    if len(peaks) > MOST_POINTS:
        peaks = peaks[np.linspace(0, len(peaks) - 1, MOST_POINTS).round().astype(int)]
    combined = _combinations(pairing, peaks[::-1].tolist(), (min_volume_mm3,), low, rule)
    return pd.DataFrame([{"threshold": at["threshold"], **matched.counts} for at, matched in combined])


def rule_table(probability, truth, threshold=0.5, *, low=0.2, min_volume_mm3=0, spacing_mm=(1, 1, 1), rules=RULES):
    """Score one scan by each rule, at one threshold and minimum volume.

    Parameters
    ----------
    probability, truth, threshold, low, min_volume_mm3, spacing_mm
        As in `kit.metrics.detect`.
    rules : sequence of str or kit.metrics.Rule

    Returns
    -------
    pandas.DataFrame
        One row a rule: rule, and the columns of `sweep`; under `brats` also wise_dice and wise_hd95_mm, the
        lesion-wise scores with their penalties (`kit.metrics.LesionWise`), NaN under the others. Rows of several
        scans go to `kit.metrics.intervals` with ``by="rule"``.

    Examples
    --------
    >>> truth, probability = np.zeros((2, 5, 9, 20))
    >>> truth[2, 3:6, 3:6] = probability[2, 6, 3:6] = 1
    >>> rule_table(probability, truth)[["rule", "tp", "fp"]].values.tolist()
    [['thesis', 1, 0], ['overlap', 0, 1], ['iou', 0, 1], ['brats', 1, 0], ['centre', 0, 1]]
    """
    for rule in rules:
        checked_options(threshold, low, rule)
    options = {"low": low, "min_volume_mm3": min_volume_mm3, "rules": rules}
    return rule_table_of(pair(probability, truth, spacing_mm), threshold, **options)


def rule_table_of(pairing, threshold=0.5, *, low=0.2, min_volume_mm3=0, rules=RULES):
    """`rule_table` for a `kit.metrics.Pairing`."""
    rows = []
    for rule in map(rule_of, rules):
        sweep_row = sweep_of(pairing, (threshold,), (min_volume_mm3,), low=low, rule=rule)
        rows.append(sweep_row.assign(wise_dice=np.nan, wise_hd95_mm=np.nan))
        rows[-1].insert(0, "rule", rule.name)
        if rule.name == "brats":
            wise = lesionwise_of(pairing, threshold, low=low, min_volume_mm3=min_volume_mm3)
            rows[-1][["wise_dice", "wise_hd95_mm"]] = wise.dice, wise.hd95_mm
    return pd.concat(rows, ignore_index=True)


def score_scan(
    probability, scan, row, mask=None, *, threshold=0.5, low=0.2, rule="thesis", min_volume_mm3=0, rules=None
):
    """Score one map: every table that is kept of a scan.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
        On the grid of `scan.label`.
    scan : kit.scans.Scan
        Its label, spacing and affine are read.
    row : mapping
        `scan_id` and `patient_id`.
    mask : bool (slice, row, column), optional
        Where calibration is looked at: the search region.
    threshold, low, rule
        As in `kit.metrics.detect`; the tables of single findings are at this threshold.
    min_volume_mm3 : float
        For the error table and the table of rules; the others have all minimum volumes, or none.
    rules : sequence of str or kit.metrics.Rule, optional
        Of the table of rules: by default `kit.metrics.RULES`, and `rule` where it is none of them.

    Returns
    -------
    dict of str to pandas.DataFrame
        sweep (`kit.metrics.sweep`), lesions and predicted (`kit.metrics.Detection`), errors
        (`kit.metrics.error_table`), points (`kit.metrics.operating_points`), lesion_sweep
        (`kit.metrics.sweep_lesions`), reliability (`kit.metrics.reliability`), rules (`kit.metrics.rule_table`).
    """
    settings = score_settings(threshold, low, rule, min_volume_mm3, rules)
    tables = tables_of(pair(probability, scan.label, scan.spacing_mm), scan.affine, row, settings)
    return {**tables, "reliability": reliability(probability, scan.label, mask)}


def tables_of(pairing, affine, row, settings):
    """The tables of `score_scan` for a `kit.metrics.Pairing`, but reliability."""
    asked = {name: settings[name] for name in ("low", "rule")}
    volume = {"min_volume_mm3": settings["min_volume_mm3"]}
    names = {"affine": affine} | {name: row.get(name, "") for name in ("scan_id", "patient_id")}
    sweep = sweep_of(pairing, **asked)  # the first: it asks for the lowest threshold
    found = detection_of(pairing, settings["threshold"], **asked)
    return {
        "sweep": sweep,
        "lesions": found.truth,
        "predicted": found.predicted,
        "errors": error_table_of(pairing, threshold=settings["threshold"], **asked, **volume, **names),
        "points": operating_points_of(pairing, **asked),
        "lesion_sweep": sweep_lesions_of(pairing, **asked),
        "rules": rule_table_of(pairing, settings["threshold"], rules=settings["rules"], **volume, low=settings["low"]),
    }


def score_settings(threshold, low, rule, min_volume_mm3, rules):
    """The settings of `score_scan`, checked, with `Rule`s in place of words."""
    rule = checked_options(threshold, low, rule)
    table = tuple(rule_of(word) for word in (RULES if rules is None else rules))
    table = table if rules is not None or rule in table else (*table, rule)
    return {"threshold": threshold, "low": low, "rule": rule, "min_volume_mm3": min_volume_mm3, "rules": table}


def _combinations(pairing, thresholds, min_volumes_mm3, low, rule):
    """Yield ({threshold, min_volume_mm3}, `kit.metrics.Matched`), thresholds first."""
    for threshold, volume in product(thresholds, min_volumes_mm3):
        matched = pairing.match(threshold, low=low, min_volume_mm3=volume, rule=rule)
        yield {"threshold": threshold, "min_volume_mm3": volume}, matched
