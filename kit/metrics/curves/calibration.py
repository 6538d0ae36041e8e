"""Whether probabilities are what they say: reliability diagrams and their error."""

import numpy as np
import pandas as pd

BINS = 10  # of probability


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
