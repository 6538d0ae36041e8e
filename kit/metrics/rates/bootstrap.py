"""How sure a rate is, and whether two networks differ.

Lesions and scans of one patient are not independent: whole patients are drawn and exchanged. Two thousand draws are one
product of a matrix of weights and a matrix of sums:

    weights (draw, patient)  @  sums (patient, addend)  ->  (draw, addend)  ->  rates, one row a draw

Where a network was trained several times, each training has seen the same patients; patients and trainings are drawn
at once, each by itself, and a cell (patient, training) weighs the product (the crossed bootstrap of Owen 2007, The
pigeonhole bootstrap, Ann. Appl. Stat. 1:386).
"""

from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd

from kit.metrics.rates.sums import RATES, derive, rates_of, sums_of

DRAWS, PERMUTATIONS, CONFIDENCE = 2000, 10_000, 0.95


def intervals(
    table,
    by=("threshold", "min_volume_mm3"),
    *,
    cluster="patient_id",
    trainings=None,
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
    trainings : str, optional
        A column that tells a network's trainings apart, such as "training_seed": they are drawn as well, and the
        interval is also of how much another training would differ. Of few trainings that is an underestimate: of three
        the drawn variance is two thirds of the true one.
    draws : int
    confidence : float
        In (0, 1).
    seed : int
    rates : mapping
        Of `RATES`; those whose columns the table lacks are left out.

    Returns
    -------
    pandas.DataFrame
        One row a group: the columns of `by`, patients, scans, tp, fn, fp (and trainings), and for each rate its value
        over all scans and the limits `<rate>_low` and `<rate>_high`. NaN where a denominator is 0; draws without a
        value are left out, which makes intervals of precision a little narrow when a detector often stays silent.

    Raises ValueError if the table lacks a column that is needed.

    Examples
    --------
    >>> scans = pd.DataFrame({"patient_id": ["a", "a", "b", "c"], "tp": [2, 1, 4, 1], "fn": [1, 0, 0, 1],
    ...                       "fp": [3, 0, 1, 2], "threshold": 0.5})
    >>> intervals(scans, by=["threshold"])[["recall", "fp_per_scan"]].values.tolist()
    [[0.8, 1.5]]
    """
    by = [by] if isinstance(by, str) else list(by)
    cells = [cluster, trainings] if trainings else [cluster]
    _require(table, [*by, *cells, "tp", "fn", "fp"])
    sums, rows = sums_of(table, [*by, *cells]), []
    for names, group in sums.groupby(by, sort=True):
        drawn = _drawn(group.droplevel(by), draws, seed) @ group.to_numpy(float)
        limits = _limits(rates_of(drawn, group.columns, rates), confidence)
        about = {"patients": group.index.get_level_values(cluster).nunique()}
        about |= {"trainings": group.index.get_level_values(trainings).nunique()} if trainings else {}
        rows.append(dict(zip(by, names, strict=True)) | about | _row(group, rates, limits))
    return pd.DataFrame(rows)


def compare(
    a,
    b,
    rates=RATES,
    *,
    cluster="patient_id",
    trainings=None,
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
        With `trainings` one row a scan and training.
    cluster, trainings, draws, confidence, seed
        As in `intervals`.
    permutations : int
        How many exchanges are drawn where there are more.

    Returns
    -------
    pandas.DataFrame
        One row a rate, indexed by it: a, b, difference (b - a), low, high, p, patients.

    Raises ValueError if the scans are not the same in both and in every training, a scan comes twice, or a patient's
    name differs.

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
    sides = _paired(a, b, cluster, trainings)
    sums = [sums_of(side, [cluster, trainings] if trainings else [cluster]) for side in sides]
    columns = [name for name in sums[0].columns if name in sums[1].columns]
    left, right = (some[columns] for some in sums)  # (patient, addend), or (patient and training, addend)
    values = [rates_of(side.to_numpy(float).sum(0), columns, rates) for side in (left, right)]  # (rate,) each
    drawn = [
        rates_of(_drawn(s, draws, seed, at) @ s.to_numpy(float), columns, rates) for at, s in enumerate((left, right))
    ]
    drawn = drawn[1] - drawn[0]  # (draw, rate)
    low, high = _limits(drawn, confidence)
    if trainings:
        p = crossing_p(drawn)
    else:
        p = _exchange_p(left.to_numpy(float), right.to_numpy(float), columns, rates, permutations, seed)
    result = {"a": values[0], "b": values[1], "difference": values[1] - values[0], "low": low, "high": high, "p": p}
    names = derive(dict.fromkeys(columns, 0), rates)
    return pd.DataFrame(result, index=pd.Index(list(names), name="rate")).assign(patients=sides[0][cluster].nunique())


def correct(p):
    """Correct p-values for their number by Holm's method: below 0.05 then, all such claims hold together at 95 %.

    Parameters
    ----------
    p : sequence of float in [0, 1]
        NaN where a test could not be made; it does not count.

    Returns
    -------
    (n,) float array
        In the same order.

    References
    ----------
    S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6 (1979) 65-70.

    Examples
    --------
    >>> correct([0.01, 0.04, 0.03, np.nan]).round(3).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p, float)
    order = np.argsort(p)  # NaN comes last
    tests = np.count_nonzero(~np.isnan(p))
    raised = np.maximum.accumulate(p[order] * np.maximum(tests - np.arange(len(p)), 1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(raised, 1)
    return corrected


def patient_weights(patients, draws=DRAWS, seed=0):
    """How often each patient comes up in each draw with replacement: (draw, patient) float, rows adding up to patients.

    Examples
    --------
    >>> patient_weights(3, draws=2).sum(axis=1).tolist()
    [3.0, 3.0]
    """
    return _weights(int(patients), int(draws), seed).copy()


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


def _drawn(sums, draws, seed, side=0):
    """How often each row of `sums` comes up in each draw: (draw, row) float.

    `sums` is indexed by patient, or by patient and training. Both `side`s of a comparison share the patients' draws and
    not the trainings'.
    """
    patient, *training = (sums.index.get_level_values(level) for level in range(sums.index.nlevels))
    codes, names = pd.factorize(patient, sort=True)
    weights = _weights(len(names), draws, seed)[:, codes]
    if training:
        codes, names = pd.factorize(training[0], sort=True)
        weights = weights * _weights(len(names), draws, (seed, 1 + side))[:, codes]
    return weights


@lru_cache(maxsize=8)
def _weights(patients, draws, seed):
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws).astype(float)


def _limits(drawn, confidence):
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: pass a share between 0 and 1, such as 0.95")
    return quantiles(drawn, confidence)


def _row(group, rates, limits):
    total = group.sum()
    row = {name: int(total[name]) for name in ("scans", "tp", "fn", "fp")}
    for (name, value), low, high in zip(derive(total, rates).items(), *limits, strict=True):
        row |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _paired(a, b, cluster, trainings):
    """Both tables, one row a scan (and training), in the same order where they have no trainings."""
    own = ["scan_id", *([trainings] if trainings else [])]
    for table in (a, b):
        _require(table, [*own, cluster, "tp", "fn", "fp"])
        twice = table.scan_id[table.duplicated(own)]
        if len(twice):
            raise ValueError(f"scan {twice.iloc[0]!r} comes twice: give the rows of one threshold and minimum volume")
        for name, some in table.groupby(trainings) if trainings else ():
            if missing := sorted(set(table.scan_id) - set(some.scan_id), key=str):
                raise ValueError(f"{trainings} {name} lacks scan {missing[0]!r}: compare trainings on the same scans")
    alone = sorted(set(a.scan_id) ^ set(b.scan_id), key=str)
    if alone:
        raise ValueError(f"only one of the two has {', '.join(map(repr, alone[:5]))}: compare them on the same scans")
    patient = a.drop_duplicates("scan_id").set_index("scan_id")[cluster]
    other = b.scan_id[(b.scan_id.map(patient) != b[cluster]).to_numpy()]
    if len(other):
        raise ValueError(f"scan {other.iloc[0]!r} belongs to another {cluster} in each table: correct one of them")
    return a, b


def crossing_p(drawn):
    """Two-sided p of each rate from (draw, rate) differences; the draw that was measured counts as one."""
    known = ~np.isnan(drawn)
    sides = [(known & some).sum(0) for some in (drawn <= 0, drawn >= 0)]
    p = np.minimum(1, 2 * (np.minimum(*sides) + 1) / (known.sum(0) + 1))
    return np.where(known.any(0), p, np.nan)


def _exchange_p(left, right, columns, rates, permutations, seed):
    """The two-sided p of each rate's difference when patients' results are exchanged between the networks."""
    change = right - left  # (patient, addend)
    observed = rates_of(right.sum(0), columns, rates) - rates_of(left.sum(0), columns, rates)
    patients = len(left)
    every = patients < 31 and 2**patients <= permutations
    if every:
        flips = np.array(list(product((0.0, 1.0), repeat=patients)))
    else:
        flips = np.random.default_rng(seed).integers(0, 2, (permutations, patients)).astype(float)
    moved = flips @ change  # (exchange, addend)
    difference = rates_of(right.sum(0) - moved, columns, rates) - rates_of(left.sum(0) + moved, columns, rates)
    known = ~np.isnan(difference)
    as_large = (np.abs(np.where(known, difference, 0)) >= np.abs(observed) - 1e-12) & known
    spare = 0 if every else 1  # leaving all patients where they are counts as one of the exchanges
    p = (as_large.sum(0) + spare) / np.maximum(known.sum(0) + spare, 1)
    return np.where(np.isnan(observed), np.nan, p)


def _require(table, columns):
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
