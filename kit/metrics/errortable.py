"""Every lesion found or missed and every false positive of a scan as one row: what an error browser shows."""

import numpy as np
import pandas as pd

from kit.metrics.detection import detect
from kit.metrics.matching import rule_of
from kit.metrics.pairing import checked_pair, read_truth
from kit.scans import checked_spacing

COLUMNS = (
    *("scan_id", "patient_id", "kind", "component", "slice", "row", "column", "x_mm", "y_mm", "z_mm", "volume_mm3"),
    *("diameter_mm", "peak", "nearest_lesion", "nearest_predicted", "nearest_mm", "rule", "threshold"),
)
TYPES = {"component": int, "nearest_lesion": int, "nearest_predicted": int}
TYPES |= dict.fromkeys(["slice", "row", "column", "x_mm", "y_mm", "z_mm", "volume_mm3", "diameter_mm"], float)
TYPES |= dict.fromkeys(["peak", "nearest_mm", "threshold"], float)


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
    spacing = checked_spacing(spacing_mm)
    options = {"low": low, "min_volume_mm3": min_volume_mm3, "spacing_mm": spacing, "rule": rule}
    found = detect(probability, truth, threshold, **options)
    lesions = found.truth.assign(peak=_lesion_peaks(probability, truth, spacing, rule))
    false = found.false_positives
    parts = [
        _rows(lesions[lesions.found], "TP", found.predicted, "nearest_predicted", spacing),
        _rows(lesions[~lesions.found], "FN", found.predicted, "nearest_predicted", spacing),
        _rows(false, "FP", lesions, "nearest_lesion", spacing),
    ]
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    table[["x_mm", "y_mm", "z_mm"]] = _world(table, affine)
    told = {"scan_id": scan_id, "patient_id": patient_id, "rule": found.rule, "threshold": float(threshold)}
    return table.assign(**told)[list(COLUMNS)].astype(TYPES)


def _lesion_peaks(probability, truth, spacing, rule):
    """(lesion,) highest probability inside each."""
    probability, truth = checked_pair(probability, truth)
    lesions = read_truth(truth, spacing, merge=rule_of(rule).merge)
    inside = lesions.labels > 0
    peak = np.zeros(len(lesions.table))
    np.maximum.at(peak, lesions.labels[inside] - 1, probability[inside])
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
