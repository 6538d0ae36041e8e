"""Measured, recorded and published results of the thesis' experiments, brought into one shape.

`results/record` holds what `python -m kit record` gave; `kit.experiments.published` what the thesis printed.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from kit.experiments.published import PATCHES_VISITED, sampled, whole_scans, whole_scans_fcn
from kit.experiments.runs import RunError
from kit.metrics import compare, intervals

SCORES = ("recall", "precision", "dice", "dice_healthy")
# column, factor and digits with which a whole-scan figure is shown: recall and precision in percent
WHOLE = (("recall", 100, 1), ("precision", 100, 2), ("fp_per_scan", 1, 1), ("fp_per_slice", 1, 2), ("dice", 1, 3))


@dataclass(frozen=True)
class Record:
    """Tables of recorded runs, each row with its `experiment` and kind of `labels`: see `kit.experiments.record`.

    `runs`: size, seed, commit, hardware, time. `histories`: as `kit.experiments.train` returns. `sweeps`: as
    `kit.metrics.sweep` of every test scan. `lesions`: every test lesion, and whether it was `found` at 0.5.
    `borders`: as `kit.metrics.border_profile`, over all test scans.
    """

    runs: pd.DataFrame
    histories: pd.DataFrame
    sweeps: pd.DataFrame
    lesions: pd.DataFrame
    borders: pd.DataFrame

    def of(self, experiment, labels="clean"):
        """The part of one experiment."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Record(*(part[(part.experiment == experiment) & (part.labels == labels)] for part in parts))

    def __bool__(self):
        return len(self.runs) > 0


def read_record(folder):
    """Read the tables that `kit.experiments.gather` wrote; an empty path gives an empty record.

    Raises
    ------
    kit.experiments.RunError
        If the folder lacks one of the tables.
    """
    names = [field.name for field in fields(Record)]
    if not folder:
        return Record(*(pd.DataFrame(columns=["experiment", "labels"]) for _ in names))
    missing = [name for name in names if not (Path(folder) / f"{name}.csv").is_file()]
    if missing:
        raise RunError(f"{folder}: {missing[0]}.csv is missing; make a record by `python -m kit record`, or pass ''")
    return Record(*(pd.read_csv(Path(folder) / f"{name}.csv") for name in names))


def beside(name, sweep, patches_visited, record, threshold=0.5):
    """One experiment's sampled evaluation, as measured here, as on record and as published (Table 5.5), row by row.

    Parameters
    ----------
    name : str
        A key of `kit.experiments.EXPERIMENTS`.
    sweep : pandas.DataFrame
        `kit.metrics.Scores.sweep` of what was measured here.
    patches_visited : int
        By the network that was measured.
    record : Record
        Where it has the experiment, its row is there too.
    threshold : float

    Returns
    -------
    pandas.DataFrame
        Indexed by source ("measured here", "on record", "published"): patches_visited, scans, lesions, the four
        `SCORES` in [0, 1] and for each its `<score>_low` and `<score>_high`, a 95 % bootstrap over patients; NaN
        where the thesis does not tell.
    """
    rows = {"measured here": score(sweep, patches_visited, threshold)}
    if mine := record.of(name):
        rows["on record"] = score(mine.sweeps, int(mine.runs.patches_visited.iloc[0]), threshold)
    rows["published"] = published_row(name)
    return pd.concat(rows, names=["source", ""]).droplevel(1)


def score(sweep, patches_visited, threshold=0.5):
    """One row in the columns of `beside` from the sweep of a cohort's scans."""
    found = intervals(at_threshold(sweep, threshold), by=["threshold"])
    return found.assign(lesions=found.tp + found.fn, patches_visited=patches_visited)[_columns()]


def published_row(name):
    """What the thesis printed of an experiment, in the columns of `beside`: Table 5.5; for the FCN 5.6, whole scans."""
    printed = whole_scans_fcn() if name == "FCN" else sampled()
    visited = PATCHES_VISITED["G and H" if name[0] in "GH" else "A-F"] if name != "FCN" else float("nan")
    row = printed.loc[[name]].assign(patches_visited=visited, scans=50, lesions=122)
    return row.reindex(columns=_columns())


def record_table(record, threshold=0.5, labels="clean"):
    """Every recorded experiment in the columns of `beside`, indexed by experiment."""
    names = record.runs[record.runs.labels == labels].experiment
    rows = {}
    for name in names:
        mine = record.of(name, labels)
        rows[name] = score(mine.sweeps, int(mine.runs.patches_visited.iloc[0]), threshold)
    return pd.concat(rows, names=["experiment", ""]).droplevel(1)


def step(record, before, after, threshold=0.5, labels=("clean", "clean")):
    """Compare two recorded experiments on the same patients: `kit.metrics.compare`, after less before."""
    sides = [
        at_threshold(record.of(name, kind).sweeps, threshold)
        for name, kind in zip((before, after), labels, strict=True)
    ]
    return compare(*sides).loc[list(SCORES)]


def whole_scan_table(sweep, seed=0):
    """Table 6.1 from the sweep of whole scans at one threshold: one row a minimum volume, as it is to be read.

    Returns
    -------
    pandas.DataFrame
        Indexed by min_volume_mm3: scans, tp, fn, fp, and recall, precision, fp_per_scan, fp_per_slice, dice as text
        with 95 % bootstrap intervals over patients.
    """
    found = intervals(sweep, by=["min_volume_mm3"], seed=seed).set_index("min_volume_mm3")
    text = {
        name: [
            _with_interval(*(scale * row[name + end] for end in ("", "_low", "_high")), places)
            for _, row in found.iterrows()
        ]
        for name, scale, places in WHOLE
    }
    return found[["scans", "tp", "fn", "fp"]].assign(**text)


def published_whole_scans():
    """Tables 6.1 (D) and 5.6 (FCN) in the columns of `whole_scan_table`: a dict of network to table.

    >>> published_whole_scans()["FCN"].precision.tolist()
    ['0.23']
    """
    tables = {"D": whole_scans(), "FCN": whole_scans_fcn().assign(min_volume_mm3=0)}
    for table in tables.values():
        for name, scale, places in WHOLE:
            if name in table:
                table[name] = [f"{scale * value:.{places}f}" for value in table[name]]
    return {name: table.set_index("min_volume_mm3").assign(scans=50) for name, table in tables.items()}


def at_threshold(sweep, threshold=0.5, min_volume_mm3=0):
    """The rows of a sweep at one threshold and minimum volume, one a scan."""
    return sweep[(sweep.threshold == threshold) & (sweep.min_volume_mm3 == min_volume_mm3)]


def shown(table, digits=3):
    """A table in the columns of `beside` as it is to be read: rates in percent, each score with its interval.

    >>> told = {"patches_visited": 4e7, "scans": 50, "lesions": 122, "recall": 0.898, "precision": 0.517}
    >>> row = pd.DataFrame([told | {"dice": 0.563, "dice_healthy": 0.994}]).reindex(columns=_columns())
    >>> shown(row).drop(columns=["scans", "lesions"]).iloc[0].tolist()
    ['40,000,000', '89.8', '51.7', '0.563', '0.994']
    """
    columns = {"patches visited": table.patches_visited.map(lambda n: "not told" if n != n else f"{n:,.0f}")}
    columns |= {name: table[name].astype(int) for name in ("scans", "lesions")}
    titles = {"recall": "recall %", "precision": "precision %", "dice": "Dice lesion", "dice_healthy": "Dice healthy"}
    for score, title in titles.items():
        scale, places = (100, 1) if title.endswith("%") else (1, digits)
        parts = (table[name] * scale for name in (score, f"{score}_low", f"{score}_high"))
        columns[title] = [_with_interval(*values, places) for values in zip(*parts, strict=True)]
    return pd.DataFrame(columns)


def _with_interval(value, low, high, places):
    if value != value:
        return "–"
    return f"{value:.{places}f}" + (f" ({low:.{places}f}–{high:.{places}f})" if low == low else "")


def _columns():
    scores = [name for score in SCORES for name in (score, f"{score}_low", f"{score}_high")]
    return ["patches_visited", "scans", "lesions", *scores]
