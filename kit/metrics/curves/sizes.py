"""Recall over the size of lesions."""

from itertools import pairwise
from math import inf, nan

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from kit.metrics.rates import ratio

SIZE_CLASSES_MM = (0, 2, 3, 4, 5, 7, 10, 15, inf)


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
