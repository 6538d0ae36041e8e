"""Sensitivity against false positives a scan (FROC), its average, average precision and the scan-level AUROC.

Every function starts from operating points: rows (scan_id, patient_id, threshold, tp, fn, fp), one or more a scan, from
`kit.metrics.operating_points` or, coarser, `kit.metrics.sweep` at one minimum volume. Between two thresholds of a scan
nothing changes, so that scans with different thresholds are added up exactly, at all thresholds of all of them.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from kit.metrics.comparisons import CONFIDENCE, DRAWS, patient_weights, quantiles

FP_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of LUNA16 and many after it
DRAWS_AT_ONCE = 100  # bootstrap draws in memory at once


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts along falling thresholds, by cluster (patient): `tp`, `fp` (cluster, threshold); `lesions`, `scans`."""

    threshold: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    lesions: np.ndarray
    scans: np.ndarray


def froc(points, *, cluster="patient_id", draws=0, confidence=CONFIDENCE, seed=0):
    """Return the FROC curve of a cohort: recall against the mean number of false positives a scan.

    Scans without lesions count: their false positives are in `fp` and they are in `scans`.

    Parameters
    ----------
    points : pandas.DataFrame
        Operating points, see the module.
    cluster, draws, confidence, seed
        As in `kit.metrics.intervals`; with draws there are limits `recall_low` and `recall_high` of the recall at
        each threshold.

    Returns
    -------
    pandas.DataFrame
        From the highest threshold down: threshold, tp, fn, fp, recall, precision, fp_per_scan.

    Raises
    ------
    ValueError
        If a scan has a threshold twice.

    Examples
    --------
    >>> points = pd.DataFrame({"scan_id": ["s", "s", "t"], "patient_id": ["p", "p", "q"], "threshold": [0.9, 0.6, 0.7],
    ...                        "tp": [1, 2, 0], "fn": [1, 0, 0], "fp": [0, 1, 2]})
    >>> froc(points)[["threshold", "recall", "fp_per_scan"]].values.tolist()
    [[0.9, 0.5, 0.0], [0.7, 0.5, 1.0], [0.6, 1.0, 1.5]]
    """
    curve = gather(points, cluster)
    tp, fp, lesions, scans = (counts.sum(axis=0) for counts in (curve.tp, curve.fp, curve.lesions, curve.scans))
    table = pd.DataFrame({"threshold": curve.threshold, "tp": tp, "fn": lesions - tp, "fp": fp})
    table["recall"] = tp / lesions if lesions else np.nan
    table["precision"] = _ratio(tp, tp + fp)
    table["fp_per_scan"] = fp / scans
    if draws:
        rates = _drawn(curve, lambda tp, fp, lesions, scans: _ratio(tp, lesions[:, None]), draws, seed)
        table["recall_low"], table["recall_high"] = quantiles(rates, confidence)
    return table


def froc_average(points, rates=FP_PER_SCAN, *, cluster="patient_id", draws=DRAWS, confidence=CONFIDENCE, seed=0):
    """Return the recall at given numbers of false positives a scan, and their average, with intervals by patients.

    The recall at a number is the highest one of an operating point with at most as many false positives a scan: no
    interpolation, for between two operating points there is no threshold to choose. A number below what the
    highest threshold gives has recall 0; one that the map never reaches keeps the recall of the lowest threshold.

    Parameters
    ----------
    points : pandas.DataFrame
        Operating points, see the module.
    rates : sequence of float
        False positives a scan.
    cluster, draws, confidence, seed
        As in `kit.metrics.intervals`.

    Returns
    -------
    pandas.DataFrame
        Indexed by false positives a scan and "average": recall, low, high. NaN in a cohort without lesions.

    References
    ----------
    A. A. A. Setio et al., LUNA16, Medical Image Analysis 42 (2017) 1-13, for the seven numbers. There and in other
    programs the curve is interpolated linearly, which gives slightly higher values.
    """
    curve = gather(points, cluster)
    statistic = partial(_recall_at, rates=np.asarray(rates, float))
    index = pd.Index([*rates, "average"], name="false positives a scan", dtype=object)
    return _with_limits(curve, statistic, index, draws, confidence, seed)


def average_precision(points, *, cluster="patient_id", draws=DRAWS, confidence=CONFIDENCE, seed=0):
    """Return the average precision, with its interval by patients.

    The area under the precision-recall curve as a sum of rectangles, from the highest threshold down:
    sum over k of (R_k - R_{k-1}) P_k, without interpolation. Recall that no threshold reaches adds nothing, so a
    detector that finds half of the lesions cannot have more than 0.5. Where recall falls with the threshold, which the
    thesis' rule allows, a step back counts nothing. This is the definition of scikit-learn and of picai_eval.

    Parameters
    ----------
    points, cluster, draws, confidence, seed
        As in `froc_average`.

    Returns
    -------
    pandas.DataFrame
        One row, "average precision": value, low, high. NaN in a cohort without lesions.
    """
    table = _with_limits(gather(points, cluster), _precision_area, ["average precision"], draws, confidence, seed)
    return table.rename(columns={"recall": "value"})


def auroc(scores, positive):
    """Return how often a scan with lesions has a higher score than one without (ties count half): the scan-level AUROC.

    Parameters
    ----------
    scores : sequence of float
        One a scan: the highest probability in it.
    positive : sequence of bool
        Whether the scan has lesions.

    Returns
    -------
    float
        NaN where one of the two kinds is missing.

    Examples
    --------
    >>> auroc([0.9, 0.4, 0.4], [True, True, False])
    0.75
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    if positive.all() or not positive.any():
        return float("nan")
    difference = scores[positive][:, None] - scores[~positive]
    return float(np.mean((difference > 0) + (difference == 0) / 2))


def gather(points, cluster="patient_id"):
    """Add up the operating points of each cluster's scans at all thresholds of the cohort: a `Curve`."""
    if points.duplicated(["scan_id", "threshold"]).any():
        raise ValueError("a scan has a threshold twice; give the points of one minimum volume, rule and network")
    thresholds = np.unique(points.threshold)[::-1]
    names = list(dict.fromkeys(points[cluster]))
    size = len(names), len(thresholds)
    curve = Curve(thresholds, np.zeros(size), np.zeros(size), np.zeros(size[0]), np.zeros(size[0]))
    for _, scan in points.sort_values("threshold", ascending=False).groupby("scan_id", sort=False):
        place = names.index(scan[cluster].iloc[0])
        # at each threshold holds the scan's lowest point that is not below it; above its first nothing is predicted
        step = np.searchsorted(-scan.threshold.to_numpy(), -thresholds, side="right") - 1
        for name in ("tp", "fp"):
            getattr(curve, name)[place] += np.where(step >= 0, scan[name].to_numpy()[np.maximum(step, 0)], 0)
        curve.lesions[place] += scan.tp.iloc[0] + scan.fn.iloc[0]
        curve.scans[place] += 1
    return curve


def _recall_at(tp, fp, lesions, scans, rates):
    """(draw, threshold) counts -> (draw, rate and one for the average)."""
    recall, per_scan = _ratio(tp, lesions[:, None]), fp / scans[:, None]
    best = [np.where(per_scan <= rate + 1e-12, recall, 0).max(axis=1) for rate in rates]
    best = np.where(lesions > 0, best, np.nan).T  # (draw, rate)
    return np.column_stack([best, best.mean(axis=1)])


def _precision_area(tp, fp, lesions, scans):
    recall = np.maximum.accumulate(_ratio(tp, lesions[:, None]), axis=1)
    gained = np.diff(recall, axis=1, prepend=0)
    precision = np.nan_to_num(_ratio(tp, tp + fp))
    return np.where(lesions > 0, (gained * precision).sum(axis=1), np.nan)[:, None]


def _with_limits(curve, statistic, index, draws, confidence, seed):
    whole = (counts.sum(axis=0)[None] for counts in (curve.tp, curve.fp, curve.lesions, curve.scans))
    low, high = quantiles(_drawn(curve, statistic, draws, seed), confidence)
    return pd.DataFrame({"recall": statistic(*whole)[0], "low": low, "high": high}, index=index)


def _drawn(curve, statistic, draws, seed):
    """A statistic of each bootstrap draw: (draw, ...)."""
    weights = patient_weights(len(curve.scans), draws, seed)
    parts = []
    for first in range(0, draws, DRAWS_AT_ONCE):
        some = weights[first : first + DRAWS_AT_ONCE]
        parts.append(statistic(some @ curve.tp, some @ curve.fp, some @ curve.lesions, some @ curve.scans))
    return np.concatenate(parts)


def _ratio(part, whole):
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
