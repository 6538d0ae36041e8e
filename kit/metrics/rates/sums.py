"""What a cohort adds up to: a rate is one sum over scans divided by another, so counts are added up first."""

import numpy as np
import pandas as pd

RATES = {
    "recall": ("tp", "lesions"),
    "precision": ("tp", "predicted"),
    "fp_per_scan": ("fp", "scans"),
    "fp_per_slice": ("fp", "slices"),
    "dice": ("dice", "with_lesions"),  # mean over the scans that have lesions
    "dice_healthy": ("dice_healthy", "scans"),
    "lesion_dice": ("lesion_dice", "lesions"),  # mean over lesions, a missed one counts as 0
}


def derive(sums, rates=RATES):
    """Divide: the rates of some sums, NaN where a denominator is 0.

    Parameters
    ----------
    sums : mapping of str to float or array
        tp, fn, fp, and whichever of the other addends of `RATES` there are.
    rates : mapping
        Of `RATES`; those with an addend that is missing are left out.

    Returns
    -------
    dict of str to float array

    Examples
    --------
    >>> {name: rate.tolist() for name, rate in derive({"tp": 3, "fn": 1, "fp": np.arange(2)}).items()}
    {'recall': 0.75, 'precision': [1.0, 0.75]}
    """
    sums = _with_totals(sums)
    return {
        name: ratio(sums[above], sums[below])
        for name, (above, below) in rates.items()
        if above in sums and below in sums
    }


def ratio(part, whole):
    """`part / whole`, element by element; NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def summarise(table, by=("threshold", "min_volume_mm3")):
    """Pool the rows of several scans: counts are added up first and divided afterwards.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.metrics.sweep` from several scans, one row a scan within each group.
    by : sequence of str
        Columns that tell the groups apart; name the network's column as well where there is one.

    Returns
    -------
    pandas.DataFrame
        One row a group: the columns of `by`, scans, tp, fn, fp and the rates of `RATES` for which the table has the
        columns: recall, precision, fp_per_scan, fp_per_slice, dice (mean over the scans that have lesions),
        dice_healthy (mean over all), lesion_dice (mean over all lesions). NaN where a denominator is 0.

    Examples
    --------
    >>> rows = pd.DataFrame({"threshold": 0.5, "min_volume_mm3": 0, "tp": [2, 1], "fn": [0, 1], "fp": [3, 5],
    ...                      "dice": [0.8, 0.4], "dice_healthy": [1.0, 1.0], "slices": [160, 160]})
    >>> summarise(rows)[["scans", "recall", "fp_per_scan", "fp_per_slice", "dice"]].round(3).values.tolist()
    [[2.0, 0.75, 4.0, 0.025, 0.6]]
    """
    by = [by] if isinstance(by, str) else list(by)
    sums = sums_of(table, by)
    counts = sums[["scans", "tp", "fn", "fp"]].astype(int)
    return counts.assign(**derive(sums)).reset_index()


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


def with_interval(table, rate, scale=1, digits=1):
    """A column of a table as text, each figure with its interval: a list such as ["89.8 (83.2–95.1)"].

    The limits are the columns `<rate>_low` and `<rate>_high`; without them the figure stands alone, and an unknown one
    is a dash.

    Examples
    --------
    >>> rows = pd.DataFrame({"recall": [0.898, 0.5, np.nan], "recall_high": 0.951})
    >>> rows["recall_low"] = [0.832, np.nan, np.nan]
    >>> with_interval(rows, "recall", 100)
    ['89.8 (83.2–95.1)', '50.0', '–']
    """
    columns = table.reindex(columns=[rate, f"{rate}_low", f"{rate}_high"]).astype(float) * scale
    text = []
    for value, low, high in columns.to_numpy():
        limits = f" ({low:.{digits}f}–{high:.{digits}f})" if low == low else ""
        text.append(f"{value:.{digits}f}{limits}" if value == value else "–")
    return text


def sums_of(table, by):
    """What the rates are made of, added up over the scans of each group."""
    addends = _with_totals({"tp": table.tp, "fn": table.fn, "fp": table.fp})
    lesions = addends["lesions"]
    addends |= {"scans": 1, "with_lesions": lesions > 0}
    addends |= {name: table[name] for name in ("slices", "dice_healthy") if name in table}
    if "dice" in table:
        addends["dice"] = table.dice.where(lesions > 0, 0)
    if "lesion_dice" in table:
        addends["lesion_dice"] = (table.lesion_dice * lesions).fillna(0)
    parts = pd.DataFrame(addends, index=table.index).astype(float)
    return parts.groupby([table[name] for name in by]).sum()


def _with_totals(sums):
    """Sums, and how many lesions there are and how many components are predicted."""
    return {**sums, "lesions": sums["tp"] + sums["fn"], "predicted": sums["tp"] + sums["fp"]}


def rates_of(sums, columns, rates):
    """(..., addend) sums -> (..., rate), NaN where a denominator is 0."""
    found = derive({name: sums[..., number] for number, name in enumerate(columns)}, rates)
    return np.stack(list(found.values()), axis=-1)
