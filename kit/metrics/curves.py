"""Curves over a cohort: FROC and its averages, recall over lesion size, reliability.

FROC, average precision and AUROC start from operating points: rows (scan_id, patient_id, threshold, tp, fn, fp), one or
more a scan, from `kit.metrics.operating_points` or, coarser, `kit.metrics.sweep` at one minimum volume. Between two
thresholds of a scan nothing changes, so that scans with different thresholds are added up exactly, at all thresholds.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import inf, nan

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from kit.metrics.rates import CONFIDENCE, DRAWS, derive, patient_weights, quantiles, ratio

FP_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of LUNA16 and many after it
DRAWS_AT_ONCE = 100  # bootstrap draws in memory at once
SIZE_CLASSES_MM = (0, 2, 3, 4, 5, 7, 10, 15, inf)
BINS = 10  # of probability


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

    Raises ValueError if a scan has a threshold twice.

    Examples
    --------
    >>> points = pd.DataFrame({"scan_id": ["s", "s", "t"], "patient_id": ["p", "p", "q"], "threshold": [0.9, 0.6, 0.7],
    ...                        "tp": [1, 2, 0], "fn": [1, 0, 0], "fp": [0, 1, 2]})
    >>> froc(points)[["threshold", "recall", "fp_per_scan"]].values.tolist()
    [[0.9, 0.5, 0.0], [0.7, 0.5, 1.0], [0.6, 1.0, 1.5]]
    """
    curve = gather(points, cluster)
    tp, fp, lesions, scans = (counts.sum(axis=0) for counts in (curve.tp, curve.fp, curve.lesions, curve.scans))
    counts = {"tp": tp, "fn": lesions - tp, "fp": fp}
    table = pd.DataFrame({"threshold": curve.threshold, **counts, **derive({**counts, "scans": scans})})
    if draws:
        rates = _drawn(curve, lambda tp, fp, lesions, scans: ratio(tp, lesions[:, None]), draws, seed)
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

    Returns NaN where one of the two kinds is missing.

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


def recall_curve(lesions, at_mm=None, width_mm=1.0, by=("threshold", "min_volume_mm3"), size="size_mm"):
    """Return recall over lesion size as a running share: of the lesions near each size, how many are found.

    Parameters
    ----------
    lesions : pandas.DataFrame
        Rows of `kit.metrics.sweep_lesions` from several scans.
    at_mm : sequence of float, optional
        Sizes; by default every whole mm up to the largest lesion.
    width_mm : float
        Lesions up to this far away count, both ends included.
    by : sequence of str
        Columns that tell the curves apart.
    size : str
        size_mm (cube root of the volume, as in the thesis) or diameter_mm.

    Returns
    -------
    pandas.DataFrame
        One row a curve and size: the columns of `by`, at_mm, lesions, found, recall; NaN where no lesion is near.

    Examples
    --------
    >>> lesions = pd.DataFrame({"threshold": 0.5, "min_volume_mm3": 0, "size_mm": [2, 2.5, 6], "found": [0, 1, 1]})
    >>> recall_curve(lesions, (2, 6), 1)[["at_mm", "lesions", "recall"]].values.tolist()
    [[2.0, 2.0, 0.5], [6.0, 1.0, 1.0]]
    """
    by = list(by)
    at_mm = np.arange(1, np.ceil(lesions[size].max() if len(lesions) else 0) + 1) if at_mm is None else at_mm
    rows = []
    for names, group in lesions.groupby(by):
        for at in at_mm:
            found = group.found[(group[size] - at).abs() <= width_mm]
            counts = {"lesions": len(found), "found": int(found.sum()), "recall": float(ratio(found.sum(), len(found)))}
            rows.append(dict(zip(by, names, strict=True)) | {"at_mm": float(at)} | counts)
    return pd.DataFrame(rows, columns=[*by, "at_mm", "lesions", "found", "recall"])


def recall_by_size(lesions, edges_mm=SIZE_CLASSES_MM, size="diameter_mm", confidence=0.95):
    """Return the recall of lesions class by class of size.

    Parameters
    ----------
    lesions : pandas.DataFrame
        `Detection.truth` of one scan, or of several scans one below the other.
    edges_mm : sequence of float
        A class goes from one edge up to the next, which belongs to the class above.
    size : str
        The column to sort by: diameter_mm, or size_mm as in the thesis' figures.
    confidence : float
        Of the interval, by `wilson_interval`.

    Returns
    -------
    pandas.DataFrame
        One row a class: from_mm, to_mm, lesions, found, recall, low, high; NaN in a class without lesions.

    Examples
    --------
    >>> lesions = pd.DataFrame({"diameter_mm": [2.0, 4.5, 6.0], "found": [False, True, True]})
    >>> recall_by_size(lesions, (0, 4.5, 10))[["lesions", "found", "recall"]].values.tolist()
    [[1.0, 0.0, 0.0], [2.0, 2.0, 1.0]]
    """
    rows = []
    for first, stop in pairwise(edges_mm):
        found = lesions.found[(lesions[size] >= first) & (lesions[size] < stop)]
        low, high = wilson_interval(found.sum(), len(found), confidence)
        counts = {"lesions": len(found), "found": int(found.sum()), "recall": float(ratio(found.sum(), len(found)))}
        rows.append({"from_mm": first, "to_mm": stop, **counts, "low": low, "high": high})
    return pd.DataFrame(rows)


def wilson_interval(successes, trials, confidence=0.95):
    """Return the Wilson score interval (low, high) of a proportion, for independent trials; NaN without trials.

    Lesions of one patient are not independent: `kit.metrics.intervals` takes that into account.

    References
    ----------
    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927) 209-212.

    Examples
    --------
    >>> [round(limit, 3) for limit in wilson_interval(105, 122)]
    [0.788, 0.911]
    """
    if trials == 0:
        return nan, nan
    low, high = binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def reliability(probability, truth, mask=None, *, bins=BINS):
    """Sort voxels into bins of equal width by their probability, and count how many of each are lesion.

    The thesis would show physicians the raw probability map: does 0.8 mean that eight voxels in ten are lesion? Tables
    of several scans are added up (`pool`) before anything is divided, so that every voxel counts once.

    Parameters
    ----------
    probability : array in [0, 1]
        Of any shape: voxels of a map, or one highest probability a component.
    truth : bool array of the same shape
    mask : bool array of the same shape, optional
        What counts; a map is 0 outside its search region, where there is nothing to be calibrated.
    bins : int

    Returns
    -------
    pandas.DataFrame
        One row a bin: from_p, to_p, count, lesion (how many of them are lesion) and total_p (the sum of their
        probabilities). A value at an edge belongs to the bin above, 1 to the last.

    Raises ValueError if the shapes differ, a probability is NaN or outside [0, 1], or there is no bin.

    Examples
    --------
    >>> reliability([0.1, 0.5, 1.0], [False, True, True], bins=2)[["count", "lesion", "total_p"]].values.tolist()
    [[1.0, 0.0, 0.1], [2.0, 2.0, 1.5]]
    """
    probability, truth = np.asarray(probability), np.asarray(truth, bool)
    if probability.shape != truth.shape or (mask is not None and np.shape(mask) != truth.shape):
        third = None if mask is None else np.shape(mask)
        raise ValueError(f"shapes of probability, truth and mask differ: {probability.shape}, {truth.shape}, {third}")
    if bins < 1:
        raise ValueError(f"bins is {bins}: pass at least 1")
    if mask is not None:
        mask = np.asarray(mask, bool)
        probability, truth = probability[mask], truth[mask]
    probability, truth = probability.reshape(-1), truth.reshape(-1)
    if not ((probability >= 0) & (probability <= 1)).all():  # NaN fails both
        raise ValueError("probability holds NaN or values outside [0, 1]")
    edges = np.linspace(0, 1, bins + 1)
    owner, above = np.zeros(len(probability), int), np.flatnonzero(probability >= edges[1])  # most lie in the first
    owner[above] = np.minimum(np.searchsorted(edges, probability[above], side="right") - 1, bins - 1)
    count = np.bincount(owner, minlength=bins)
    lesion = np.bincount(owner[truth], minlength=bins)
    total = np.bincount(owner, probability, minlength=bins)
    return pd.DataFrame({"from_p": edges[:-1], "to_p": edges[1:], "count": count, "lesion": lesion, "total_p": total})


def pool(table):
    """Add up the tables of several scans and say what each bin promises and what it holds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `reliability`, of one or more scans with the same bins.

    Returns
    -------
    pandas.DataFrame
        As `reliability`, with mean_p, the mean probability of a bin, and fraction, the share of lesion in it; NaN in
        an empty bin.

    Examples
    --------
    >>> pool(reliability([0.2, 0.4], [False, True], bins=1))[["mean_p", "fraction"]].round(3).values.tolist()
    [[0.3, 0.5]]
    """
    total = table.groupby(["from_p", "to_p"], as_index=False)[["count", "lesion", "total_p"]].sum()
    count = total["count"].where(total["count"] > 0)
    return total.assign(mean_p=total.total_p / count, fraction=total.lesion / count)


def expected_calibration_error(table):
    """Return the mean distance between promise and truth over all voxels (or components) of some `reliability` rows.

    ECE = sum over bins of count / all * |fraction - mean probability|; 0 is perfect. Most voxels of a head are healthy
    and rightly near 0, which makes the ECE of whole heads small whatever the other bins do: look at the diagram.

    Returns NaN without voxels.

    References
    ----------
    M. P. Naeini, G. F. Cooper, M. Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, AAAI
    2015; C. Guo et al., On calibration of modern neural networks, ICML 2017.

    Examples
    --------
    >>> expected_calibration_error(reliability([0.25, 0.25, 0.75, 0.75], [False, False, True, False], bins=2))
    0.25
    """
    pooled = pool(table)
    if not pooled["count"].sum():
        return float("nan")
    return float((pooled["count"] * (pooled.fraction - pooled.mean_p).abs()).sum() / pooled["count"].sum())


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
    recall, per_scan = ratio(tp, lesions[:, None]), fp / scans[:, None]
    best = [np.where(per_scan <= rate + 1e-12, recall, 0).max(axis=1) for rate in rates]
    best = np.where(lesions > 0, best, np.nan).T  # (draw, rate)
    return np.column_stack([best, best.mean(axis=1)])


def _precision_area(tp, fp, lesions, scans):
    recall = np.maximum.accumulate(ratio(tp, lesions[:, None]), axis=1)
    gained = np.diff(recall, axis=1, prepend=0)
    precision = np.nan_to_num(ratio(tp, tp + fp))
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
