"""One map under every matching rule: the same components, other counts."""

import pandas as pd

from kit.metrics.detection import sweep
from kit.metrics.matching import RULES
from kit.metrics.outlines import lesionwise


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
        One row a rule: rule, and the columns of `kit.metrics.sweep`; under `brats` also wise_dice and wise_hd95_mm, the
        lesion-wise scores with their penalties (`kit.metrics.LesionWise`), NaN under the others. Rows of several
        scans go to `kit.metrics.intervals` with ``by="rule"``.

    Examples
    --------
    >>> import numpy as np
    >>> truth, probability = np.zeros((2, 5, 9, 20))
    >>> truth[2, 3:6, 3:6] = probability[2, 6, 3:6] = 1
    >>> rule_table(probability, truth)[["rule", "tp", "fp"]].values.tolist()
    [['thesis', 1, 0], ['overlap', 0, 1], ['iou', 0, 1], ['brats', 1, 0], ['centre', 0, 1]]
    """
    options = {"low": low, "spacing_mm": spacing_mm}
    parts = []
    for rule in rules:
        table = sweep(probability, truth, (threshold,), (min_volume_mm3,), rule=rule, **options)
        table.insert(0, "rule", getattr(rule, "name", rule))
        parts.append(table)
    table = pd.concat(parts, ignore_index=True).assign(wise_dice=float("nan"), wise_hd95_mm=float("nan"))
    if (table.rule == "brats").any():
        wise = lesionwise(probability, truth, threshold, min_volume_mm3=min_volume_mm3, **options)
        table.loc[table.rule == "brats", ["wise_dice", "wise_hd95_mm"]] = wise.dice, wise.hd95_mm
    return table
