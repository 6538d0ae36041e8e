"""FROC curves, their averages and comparison, average precision, AUROC.

They start from operating points: rows (scan_id, patient_id, threshold, tp, fn, fp), one or more a scan, from
`kit.metrics.operating_points` or, coarser, `kit.metrics.sweep` at one minimum volume. Between two thresholds of a scan
nothing changes, so that scans with different thresholds are added up exactly, at all thresholds.

A network that was trained several times has one curve a training, each with its own thresholds: recall at so many false
positives a scan is read off each and averaged.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from kit.metrics.rates import CONFIDENCE, DRAWS, crossing_p, derive, patient_weights, quantiles, ratio

FP_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # of LUNA16 and many after it
DRAWS_AT_ONCE = 100  # bootstrap draws in memory at once


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts along falling thresholds, by cluster (patient): `tp`, `fp` (cluster, threshold); `lesions`, `scans`."""

    clusters: list
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
        rates = _drawn([curve], lambda tp, fp, lesions, scans: ratio(tp, lesions[:, None]), draws, seed)
        table["recall_low"], table["recall_high"] = quantiles(rates, confidence)
    return table


def froc_average(
    points,
    rates=FP_PER_SCAN,
    *,
    cluster="patient_id",
    trainings=None,
    draws=DRAWS,
    confidence=CONFIDENCE,
    seed=0,
):
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
    cluster, trainings, draws, confidence, seed
        As in `kit.metrics.intervals`; the trainings need not have seen all scans.

    Returns
    -------
    pandas.DataFrame
        Indexed by false positives a scan and "average": recall, low, high. NaN in a cohort without lesions.

    References
    ----------
    A. A. A. Setio et al., LUNA16, Medical Image Analysis 42 (2017) 1-13, for the seven numbers. There and in other
    programs the curve is interpolated linearly, which gives slightly higher values.
    """
    curves = _curves(points, cluster, trainings)
    statistic = partial(_recall_at, rates=np.asarray(rates, float))
    return _with_limits(curves, statistic, _rate_index(rates), draws, confidence, seed)


def compare_froc(
    a,
    b,
    rates=FP_PER_SCAN,
    *,
    cluster="patient_id",
    trainings=None,
    draws=DRAWS,
    confidence=CONFIDENCE,
    seed=0,
    memo=None,
):
    """Compare two networks on the same patients by their recall at given numbers of false positives a scan.

    Each training of one network stands beside each of the other on the patients that both were scored on, so that a
    training that was scored on fewer scans makes no difference of its own; the mean over these pairs is given. Patients
    are drawn for both networks at once, trainings for each by itself. p is the two-sided one of that bootstrap: twice
    the share of draws in which the sign of the difference is another. Correct it for the number of tests
    (`kit.metrics.correct`).

    Parameters
    ----------
    a, b : pandas.DataFrame
        Operating points, see the module.
    rates, cluster, trainings, draws, confidence, seed
        As in `froc_average`.
    memo : dict, optional
        One for several comparisons: the draws of a training that stands in more than one are kept in it.

    Returns
    -------
    pandas.DataFrame
        Indexed by false positives a scan and "average": a, b, difference (b - a), low, high, p.

    Raises ValueError if the two, over all trainings, were not scored on the same patients, or if two trainings share
    none.

    Examples
    --------
    >>> a = pd.DataFrame({"scan_id": list("rstu"), "patient_id": list("rstu"), "threshold": 0.5,
    ...                   "tp": [1, 0, 1, 0], "fn": [0, 1, 0, 1], "fp": 1})
    >>> compare_froc(a, a.assign(tp=1, fn=0), rates=(1,)).loc[1, ["a", "b", "difference"]].tolist()
    [0.5, 1.0, 0.5]
    """
    sides = [_curves(points, cluster, trainings) for points in (a, b)]
    names = [_names(curves) for curves in sides]
    if names[0] != names[1]:
        alone = sorted(set(names[0]) ^ set(names[1]), key=str)[:5]
        raise ValueError(f"only one of the two has {', '.join(map(repr, alone))}: compare them on the same patients")
    statistic = partial(_recall_at, rates=np.asarray(rates, float))
    pairs = [_shared(*both) for both in product(*sides)]
    values = [np.mean([_whole([both[side]], statistic) for both in pairs], axis=0) for side in (0, 1)]
    memo, sizes = {} if memo is None else memo, [len(curves) for curves in sides]
    drawn = _drawn_differences(pairs, statistic, names[0], sizes, draws, seed, memo)
    low, high = quantiles(drawn, confidence)
    table = {"a": values[0], "b": values[1], "difference": values[1] - values[0], "low": low, "high": high}
    return pd.DataFrame(table | {"p": crossing_p(drawn)}, index=_rate_index(rates))


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
    table = _with_limits([gather(points, cluster)], _precision_area, ["average precision"], draws, confidence, seed)
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


def gather(points, cluster="patient_id"):
    """Add up the operating points of each cluster's scans at all thresholds of the cohort: a `Curve`."""
    if points.duplicated(["scan_id", "threshold"]).any():
        raise ValueError("a scan has a threshold twice; give the points of one minimum volume, rule and network")
    thresholds = np.unique(points.threshold)[::-1]
    names = sorted(set(points[cluster]), key=str)
    size = len(names), len(thresholds)
    curve = Curve(names, thresholds, np.zeros(size), np.zeros(size), np.zeros(size[0]), np.zeros(size[0]))
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
    allowed = [fp <= scans[:, None] * (rate + 1e-12) for rate in rates]
    most = np.stack([np.where(few, tp, 0).max(axis=1) for few in allowed], axis=1)
    best = ratio(most, lesions[:, None])  # (draw, rate)
    return np.column_stack([best, best.mean(axis=1)])


def _precision_area(tp, fp, lesions, scans):
    recall = np.maximum.accumulate(ratio(tp, lesions[:, None]), axis=1)
    gained = np.diff(recall, axis=1, prepend=0)
    precision = np.nan_to_num(ratio(tp, tp + fp))
    return np.where(lesions > 0, (gained * precision).sum(axis=1), np.nan)[:, None]


def _curves(points, cluster, trainings):
    """One curve a training."""
    parts = [points] if trainings is None else [part for _, part in points.groupby(trainings)]
    return [gather(part, cluster) for part in parts]


def _names(curves):
    return sorted({name for curve in curves for name in curve.clusters}, key=str)


def _rate_index(rates):
    return pd.Index([*rates, "average"], name="false positives a scan", dtype=object)


def _with_limits(curves, statistic, index, draws, confidence, seed):
    low, high = quantiles(_drawn(curves, statistic, draws, seed), confidence)
    return pd.DataFrame({"recall": _whole(curves, statistic), "low": low, "high": high}, index=index)


def _whole(curves, statistic):
    """A statistic of all clusters, the mean over trainings."""
    sums = [[part.sum(axis=0)[None] for part in (c.tp, c.fp, c.lesions, c.scans)] for c in curves]
    return np.mean([statistic(*counts)[0] for counts in sums], axis=0)


def _drawn(curves, statistic, draws, seed):
    """A statistic of each bootstrap draw, of clusters and of trainings: (draw, ...)."""
    names = _names(curves)
    weights = patient_weights(len(names), draws, seed)
    each = [_drawn_clusters(curve, statistic, weights, names) for curve in curves]
    return np.einsum("dt,td...->d...", _training_weights(len(curves), draws, seed, 0), np.stack(each))


def _drawn_differences(pairs, statistic, names, trainings, draws, seed, memo):
    """Second less first, of each bootstrap draw of clusters and of both networks' trainings: (draw, ...)."""
    weights = patient_weights(len(names), draws, seed)

    def drawn(curve):  # most stand in several pairs
        counts = (part.tobytes() for part in (curve.tp, curve.fp, curve.lesions, curve.scans))
        key = (*counts, *statistic.keywords["rates"], *curve.clusters, None, *names, draws, seed)
        if key not in memo:
            memo[key] = _drawn_clusters(curve, statistic, weights, names)
        return memo[key]

    each = [drawn(b) - drawn(a) for a, b in pairs]
    one, other = (_training_weights(count, draws, seed, side) for side, count in enumerate(trainings))
    return np.einsum("dt,td...->d...", (one[:, :, None] * other[:, None]).reshape(draws, -1), np.stack(each))


def _training_weights(trainings, draws, seed, side):
    """How much each training weighs in each draw: (draw, training), rows adding up to 1."""
    return patient_weights(trainings, draws, (seed, 1 + side)) / trainings


def _shared(a, b):
    """Two curves on the clusters that both have; ValueError if there are none."""
    shared = set(a.clusters) & set(b.clusters)
    if not shared:
        raise ValueError("two trainings were scored on no patient in common: score them on the same scans")
    return _among(a, shared), _among(b, shared)


def _among(curve, names):
    """A curve on some of its clusters; itself where these are all of them."""
    if names.issuperset(curve.clusters):
        return curve
    at = [place for place, name in enumerate(curve.clusters) if name in names]
    counts = (part[at] for part in (curve.tp, curve.fp, curve.lesions, curve.scans))
    return Curve([curve.clusters[place] for place in at], curve.threshold, *counts)


def _drawn_clusters(curve, statistic, weights, names):
    """A statistic of each draw of clusters; `weights` are (draw, name)."""
    weights, parts = weights[:, [names.index(name) for name in curve.clusters]], []
    for first in range(0, len(weights), DRAWS_AT_ONCE):
        some = weights[first : first + DRAWS_AT_ONCE]
        parts.append(statistic(some @ curve.tp, some @ curve.fp, some @ curve.lesions, some @ curve.scans))
    return np.concatenate(parts)
