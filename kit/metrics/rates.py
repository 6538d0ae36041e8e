"""What a cohort adds up to, how sure that is, and whether two networks differ.

A rate is one sum over scans divided by another (`RATES`), so counts are added up first and divided once, here. Lesions
and scans of one patient are not independent: whole patients are drawn and exchanged. Two thousand draws are one product
of a matrix of weights and a matrix of sums:

    weights (draw, patient)  @  sums (patient, addend)  ->  (draw, addend)  ->  rates, one row a draw
"""

from functools import lru_cache
from itertools import product

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
DRAWS, PERMUTATIONS, CONFIDENCE = 2000, 10_000, 0.95


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
    sums = _sums(table, by)
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


def intervals(
    table,
    by=("threshold", "min_volume_mm3"),
    *,
    cluster="patient_id",
    draws=DRAWS,
    confidence=CONFIDENCE,
    seed=0,
    rates=RATES,
):
    """Return every rate of every group with its percentile interval, drawing whole patients with replacement.

    All rates and all groups with as many patients share their draws, so that they can be set against each other.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.metrics.sweep`, one a scan in each group, with the column `cluster`.
    by : str or sequence of str
        Columns that tell the groups apart; name the network's column as well where there is one.
    cluster : str
        Rows with the same value are drawn together.
    draws : int
    confidence : float
        In (0, 1).
    seed : int
    rates : mapping
        Of `RATES`; those whose columns the table lacks are left out.

    Returns
    -------
    pandas.DataFrame
        One row a group: the columns of `by`, patients, scans, tp, fn, fp, and for each rate its value over all scans
        and the limits `<rate>_low` and `<rate>_high`. NaN where a denominator is 0; draws without a value are left
        out, which makes intervals of precision a little narrow when a detector often stays silent.

    Raises ValueError if the table lacks a column that is needed.

    Examples
    --------
    >>> scans = pd.DataFrame({"patient_id": ["a", "a", "b", "c"], "tp": [2, 1, 4, 1], "fn": [1, 0, 0, 1],
    ...                       "fp": [3, 0, 1, 2], "threshold": 0.5})
    >>> intervals(scans, by=["threshold"])[["recall", "fp_per_scan"]].values.tolist()
    [[0.8, 1.5]]
    """
    by = [by] if isinstance(by, str) else list(by)
    _require(table, [*by, cluster, "tp", "fn", "fp"])
    sums, rows = _sums(table, [*by, cluster]), []
    for names, group in sums.groupby(by, sort=True):
        drawn = _rates(_weights(len(group), draws, seed) @ group.to_numpy(float), group.columns, rates)  # (draw, rate)
        rows.append(dict(zip(by, names, strict=True)) | _row(group, rates, _limits(drawn, confidence)))
    return pd.DataFrame(rows)


def compare(
    a,
    b,
    rates=RATES,
    *,
    cluster="patient_id",
    draws=DRAWS,
    permutations=PERMUTATIONS,
    confidence=CONFIDENCE,
    seed=0,
):
    """Compare two networks on the same scans: the difference of every rate, its interval and a p-value.

    The interval draws patients with replacement, the same ones for both networks. The p-value is that of a two-sided
    sign-flip test: if the networks did not differ, a patient's two results could be exchanged, so all patients'
    results are exchanged at random and it is counted how often the difference becomes as large as it is. With few
    patients all exchanges are tried: n patients cannot give a p below 2 / 2^n.

    Parameters
    ----------
    a, b : pandas.DataFrame
        Rows of `kit.metrics.sweep`, one a scan, at one threshold and minimum volume each, with `scan_id` and `cluster`.
    rates : mapping
        Of `RATES`; those whose columns a table lacks are left out.
    cluster, draws, confidence, seed
        As in `intervals`.
    permutations : int
        How many exchanges are drawn where there are more.

    Returns
    -------
    pandas.DataFrame
        One row a rate, indexed by it: a, b, difference (b - a), low, high, p, patients.

    Raises ValueError if the scans are not the same, a scan comes twice, or a patient's name differs.

    References
    ----------
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 15; E. J. G. Pitman,
    Significance tests which may be applied to samples from any populations, Suppl. J. R. Stat. Soc. 4 (1937) 119-130.

    Examples
    --------
    >>> a = pd.DataFrame({"scan_id": list("rstu"), "patient_id": list("rstu"), "tp": 1, "fn": 1, "fp": [4, 9, 6, 5]})
    >>> compare(a, a.assign(fp=[1, 2, 1, 0])).loc["fp_per_scan", ["a", "b", "difference", "p"]].tolist()
    [6.0, 1.0, -5.0, 0.125]
    """
    a, b = _paired(a, b, cluster)
    left, right = _sums(a, [cluster]), _sums(b, [cluster])
    columns = [name for name in left.columns if name in right.columns]
    left, right = left[columns].to_numpy(float), right[columns].to_numpy(float)  # (patient, addend)
    values = [_rates(side.sum(0), columns, rates) for side in (left, right)]  # (rate,) each
    weights = _weights(len(left), draws, seed)
    drawn = _rates(weights @ right, columns, rates) - _rates(weights @ left, columns, rates)
    low, high = _limits(drawn, confidence)
    p = _exchange_p(left, right, columns, rates, permutations, seed)
    result = {"a": values[0], "b": values[1], "difference": values[1] - values[0], "low": low, "high": high, "p": p}
    names = derive(dict.fromkeys(columns, 0), rates)
    return pd.DataFrame(result, index=pd.Index(list(names), name="rate")).assign(patients=len(left))


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


def patient_weights(patients, draws=DRAWS, seed=0):
    """How often each patient comes up in each draw with replacement: (draw, patient) float, rows adding up to patients.

    Examples
    --------
    >>> patient_weights(3, draws=2).sum(axis=1).tolist()
    [3.0, 3.0]
    """
    return _weights(int(patients), int(draws), int(seed)).copy()


def quantiles(values, confidence=CONFIDENCE):
    """The two limits between which `confidence` of the values of each column lies, NaN left out.

    Parameters
    ----------
    values : (draw, ...) float array

    Returns
    -------
    (2, ...) float array
        NaN where a column has no value.
    """
    values = np.sort(values, axis=0)  # NaN comes last
    count = (~np.isnan(values)).sum(axis=0)
    share = np.array([(1 - confidence) / 2, (1 + confidence) / 2]).reshape(2, *[1] * (values.ndim - 1))
    place = share * np.maximum(count - 1, 0)  # (2, ...)
    below = np.floor(place).astype(int)
    ends = [np.take_along_axis(values, np.minimum(below + step, len(values) - 1), axis=0) for step in (0, 1)]
    part = place - below
    return np.where(part > 0, (1 - part) * ends[0] + part * ends[1], ends[0])


@lru_cache(maxsize=8)
def _weights(patients, draws, seed):
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws).astype(float)


def _sums(table, by):
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


def _rates(sums, columns, rates):
    """(..., addend) sums -> (..., rate), NaN where a denominator is 0."""
    found = derive({name: sums[..., number] for number, name in enumerate(columns)}, rates)
    return np.stack(list(found.values()), axis=-1)


def _limits(drawn, confidence):
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: pass a share between 0 and 1, such as 0.95")
    return quantiles(drawn, confidence)


def _row(group, rates, limits):
    total = group.sum()
    row = {"patients": len(group)} | {name: int(total[name]) for name in ("scans", "tp", "fn", "fp")}
    for (name, value), low, high in zip(derive(total, rates).items(), *limits, strict=True):
        row |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _paired(a, b, cluster):
    """Both tables, one row a scan in the same order."""
    for table in (a, b):
        _require(table, ["scan_id", cluster, "tp", "fn", "fp"])
        twice = table.scan_id[table.scan_id.duplicated()]
        if len(twice):
            raise ValueError(f"scan {twice.iloc[0]!r} comes twice: give the rows of one threshold and minimum volume")
    a, b = a.set_index("scan_id"), b.set_index("scan_id")
    alone = sorted(set(a.index) ^ set(b.index), key=str)
    if alone:
        raise ValueError(f"only one of the two has {', '.join(map(repr, alone[:5]))}: compare them on the same scans")
    b = b.loc[a.index]
    other = a.index[(a[cluster] != b[cluster]).to_numpy()]
    if len(other):
        raise ValueError(f"scan {other[0]!r} belongs to another {cluster} in each table: correct one of them")
    return a.reset_index(), b.reset_index()


def _exchange_p(left, right, columns, rates, permutations, seed):
    """The two-sided p of each rate's difference when patients' results are exchanged between the networks."""
    change = right - left  # (patient, addend)
    observed = _rates(right.sum(0), columns, rates) - _rates(left.sum(0), columns, rates)
    patients = len(left)
    every = patients < 31 and 2**patients <= permutations
    if every:
        flips = np.array(list(product((0.0, 1.0), repeat=patients)))
    else:
        flips = np.random.default_rng(seed).integers(0, 2, (permutations, patients)).astype(float)
    moved = flips @ change  # (exchange, addend)
    difference = _rates(right.sum(0) - moved, columns, rates) - _rates(left.sum(0) + moved, columns, rates)
    known = ~np.isnan(difference)
    as_large = (np.abs(np.where(known, difference, 0)) >= np.abs(observed) - 1e-12) & known
    spare = 0 if every else 1  # leaving all patients where they are counts as one of the exchanges
    p = (as_large.sum(0) + spare) / np.maximum(known.sum(0) + spare, 1)
    return np.where(np.isnan(observed), np.nan, p)


def _require(table, columns):
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
