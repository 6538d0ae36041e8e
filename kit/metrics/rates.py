"""What the scans of a cohort add up to: pooled rates, recall by lesion size, and intervals."""

from itertools import pairwise
from math import inf, nan, sqrt
from statistics import NormalDist

import numpy as np
import pandas as pd

SIZE_CLASSES_MM = (0, 2, 3, 4, 5, 7, 10, 15, inf)


def summarise(table, by=("threshold", "min_volume_mm3")):
    """Pool the rows of several scans: counts are added up first and divided afterwards.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `sweep` from several scans, one row a scan within each group.
    by : sequence of str
        Columns that tell the groups apart; name the network's column as well where there is one.

    Returns
    -------
    pandas.DataFrame
        One row a group: the columns of `by`, scans, tp, fn, fp, recall, precision, fp_per_scan, fp_per_slice, dice
        (mean over the scans that have lesions) and dice_healthy (mean over all); where the table has it, lesion_dice
        (mean over all lesions). NaN where a denominator is 0.

    Examples
    --------
    >>> rows = pd.DataFrame({"threshold": 0.5, "min_volume_mm3": 0, "tp": [2, 1], "fn": [0, 1], "fp": [3, 5],
    ...                      "dice": [0.8, 0.4], "dice_healthy": [1.0, 1.0], "slices": [160, 160]})
    >>> summarise(rows)[["scans", "recall", "fp_per_scan", "fp_per_slice", "dice"]].round(3).values.tolist()
    [[2.0, 0.75, 4.0, 0.025, 0.6]]
    """
    by = list(by)
    table = table.assign(scans=1, dice=table.dice.where(table.tp + table.fn > 0))
    groups = table.groupby(by)
    total = groups[["scans", "tp", "fn", "fp", "slices"]].sum()
    rates = {
        "recall": total.tp / (total.tp + total.fn),
        "precision": total.tp / (total.tp + total.fp),
        "fp_per_scan": total.fp / total.scans,
        "fp_per_slice": total.fp / total.slices,
    }
    pooled = total.drop(columns="slices").assign(**rates).join(groups[["dice", "dice_healthy"]].mean())
    if "lesion_dice" in table:
        weighted = (table.lesion_dice * (table.tp + table.fn)).groupby([table[name] for name in by]).sum()
        pooled["lesion_dice"] = weighted / (total.tp + total.fn)
    return pooled.reset_index()


def with_and_without_lesions(table, by=("threshold", "min_volume_mm3")):
    """Summarise the scans that have lesions and those that have none apart, and all together.

    A detector that is only ever shown scans with lesions says nothing about how often it disturbs a healthy reading.

    Parameters
    ----------
    table, by
        As in `summarise`.

    Returns
    -------
    pandas.DataFrame
        As `summarise`, with a first column ``lesions``: "with", "without", "all"; kinds without a scan are left out.

    Examples
    --------
    >>> rows = pd.DataFrame({"threshold": 0.5, "min_volume_mm3": 0, "tp": [2, 0], "fn": [0, 0], "fp": [3, 5],
    ...                      "dice": [0.8, 0.4], "dice_healthy": [1.0, 1.0], "slices": [160, 160]})
    >>> with_and_without_lesions(rows)[["lesions", "scans", "fp_per_scan"]].values.tolist()
    [['with', 1, 3.0], ['without', 1, 5.0], ['all', 2, 4.0]]
    """
    some = table.tp + table.fn > 0
    kinds = {"with": table[some], "without": table[~some], "all": table}
    parts = [summarise(rows, by).assign(lesions=kind) for kind, rows in kinds.items() if len(rows)]
    whole = pd.concat(parts, ignore_index=True)
    return whole[["lesions", *(name for name in whole if name != "lesions")]]


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
            counts = {"lesions": len(found), "found": int(found.sum()), "recall": _ratio(found.sum(), len(found))}
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
        counts = {"lesions": len(found), "found": int(found.sum()), "recall": _ratio(found.sum(), len(found))}
        rows.append({"from_mm": first, "to_mm": stop, **counts, "low": low, "high": high})
    return pd.DataFrame(rows)


def wilson_interval(successes, trials, confidence=0.95):
    """Return the Wilson score interval of a proportion, for independent trials.

    Lesions of one patient are not independent: `kit.metrics.intervals` takes that into account.

    Parameters
    ----------
    successes, trials : int
    confidence : float

    Returns
    -------
    (float, float)
        Within [0, 1]; NaN without trials.

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
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, weight = successes / trials, z**2 / trials
    middle = (rate + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def _ratio(part, whole):
    return float(part / whole) if whole else nan


def with_interval(table, rate, scale=1, digits=1):
    """A column of a table as text, each figure with its interval: a list such as ["89.8 (83.2–95.1)"].

    The limits are the columns `<rate>_low` and `<rate>_high`; without them the figure stands alone, and an unknown one
    is a dash.

    Examples
    --------
    >>> rows = pd.DataFrame({"recall": [0.898, 0.5, nan], "recall_low": [0.832, nan, nan], "recall_high": 0.951})
    >>> with_interval(rows, "recall", 100)
    ['89.8 (83.2–95.1)', '50.0', '–']
    """
    columns = table.reindex(columns=[rate, f"{rate}_low", f"{rate}_high"]).astype(float) * scale
    text = []
    for value, low, high in columns.to_numpy():
        limits = f" ({low:.{digits}f}–{high:.{digits}f})" if low == low else ""
        text.append(f"{value:.{digits}f}{limits}" if value == value else "–")
    return text
