"""What changes along the threshold: every lesion's fate in a sweep, and every operating point of a map."""

import numpy as np
import pandas as pd

from kit.metrics.detection import combinations
from kit.metrics.pairing import checked_pair

LESION_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
LESION_MIN_VOLUMES_MM3 = (0, 40, 80, 150)  # as in the thesis' Table 6.1
MOST_POINTS = 1000


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
        As in `kit.metrics.sweep`.

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
    options = {"low": low, "spacing_mm": spacing_mm, "rule": rule}
    parts = []
    for at, encounter, chosen, links in combinations(probability, truth, thresholds, min_volumes_mm3, **options):
        own = encounter.truth.table[["component", "volume_mm3", "diameter_mm", "size_mm"]]
        parts.append(own.assign(**at, found=links.found, dice=encounter.lesion_dice(links, chosen)))
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
    probability, truth = checked_pair(probability, truth)
    options = {"low": low, "spacing_mm": spacing_mm, "rule": rule}
    ((_, encounter, _, _),) = combinations(probability, truth, (low,), (0,), **options)
    predicted = encounter.predicted
    peaks = np.unique(
        np.append(predicted.peak[predicted.volume_mm3 >= min_volume_mm3], np.ones(1, predicted.peak.dtype))
    )
    if len(peaks) > MOST_POINTS:
        peaks = peaks[np.linspace(0, len(peaks) - 1, MOST_POINTS).round().astype(int)]
    rows = []
    for at, _, _, links in combinations(probability, truth, peaks[::-1].tolist(), (min_volume_mm3,), **options):
        found = links.found
        counts = {"tp": int(found.sum()), "fn": int((~found).sum()), "fp": int((~links.hit).sum())}
        rows.append({"threshold": at["threshold"], **counts})
    return pd.DataFrame(rows)
