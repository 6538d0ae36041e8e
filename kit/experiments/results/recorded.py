"""A record is read: the tables of experiments that were trained several times (`python -m kit record` writes them)."""

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from kit.experiments.recipes import EXPERIMENTS
from kit.experiments.results.published import SCORES, published_sampled
from kit.experiments.results.sampled import score_row, sweep_at
from kit.experiments.runs import RunError
from kit.metrics import (
    compare,
    compare_froc,
    correct,
    crossing_p,
    froc_average,
    patient_weights,
    quantiles,
    with_interval,
)

MATCHED = (("G", "G-Eroded-Pairs"), ("D", "G+balanced"), ("D+longer", "G"))  # sampling alone, width alone, same time
RATES = (8, 4, 2, 1)  # false positives a scan at which recall is compared
TEST_DRAWS = 40_000  # p corrected for 42 comparisons is at 0.05 where a draw in 1,700 has the other sign


@dataclass(frozen=True)
class Record:
    """The tables of recorded runs, each row with `experiment`, kind of `labels` and `seed` (`kit.experiments.record`).

    `runs`: size, commit, hardware, time. `histories`: as `kit.experiments.train` returns. Of whole test scans `sweeps`
    (as `kit.metrics.sweep`), `points` (counts at finer thresholds, for FROC curves) and `lesions` (each lesion's fate
    at some thresholds). `sampled`: a sweep of partitions of the test scans. Where sweeps have `placed` and `hits`,
    these are of `kit.metrics.chance_recall`. `borders`: as `kit.metrics.border_profile`, over all partitions.
    """

    runs: pd.DataFrame
    histories: pd.DataFrame
    sweeps: pd.DataFrame
    points: pd.DataFrame
    lesions: pd.DataFrame
    sampled: pd.DataFrame
    borders: pd.DataFrame

    def of(self, experiment, labels="clean"):
        """The part of one experiment; false where the record has none."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Record(*(part[(part.experiment == experiment) & (part.labels == labels)] for part in parts))

    def names(self, labels="clean"):
        """The experiments with such labels, in the order of the tables."""
        return list(self.runs[self.runs.labels == labels].experiment.drop_duplicates())

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
        return Record(*(pd.DataFrame(columns=["experiment", "labels", "seed"]) for _ in names))
    missing = [name for name in names if not (Path(folder) / f"{name}.csv").is_file()]
    if missing:
        raise RunError(f"{folder}: {missing[0]}.csv is missing; make a record by `python -m kit record`, or pass ''")
    return Record(*(pd.read_csv(Path(folder) / f"{name}.csv") for name in names))


def record_table(record, threshold=0.5, labels="clean"):
    """Every recorded experiment in the columns of `comparison_table`, indexed by experiment.

    Raises
    ------
    kit.experiments.RunError
        If no experiment with such labels is recorded.
    """
    names = record.names(labels)
    if not names:
        raise RunError(f"nothing with {labels} labels is recorded; make a record by `python -m kit record`")
    rows = {}
    for name in names:
        mine = record.of(name, labels)
        rows[name] = score_row(mine.sampled, int(mine.runs.patches_worth.iloc[0]), threshold)
    return pd.concat(rows, names=["experiment", ""]).droplevel(1)


def changes(record, pairs, threshold=0.5):
    """What going from one recorded experiment to another changed, and what it changed in the thesis (Table 5.5).

    Parameters
    ----------
    record : Record
    pairs : sequence of (str, str)
        Experiments before and after; pairs of which one is not recorded are left out.
    threshold : float

    Returns
    -------
    pandas.DataFrame
        Indexed by change ("A → B") and rate (of `SCORES`): the columns of `kit.metrics.compare`, after less before on
        the same patients and over all trainings, `corrected` (p by Holm's method over all rows: `kit.metrics.correct`)
        and `published`, all as fractions; NaN where the thesis lacks one of the two.
    """
    printed = published_sampled()[list(SCORES)]
    rows = {}
    for before, after in dict.fromkeys(pairs):
        if record.of(before) and record.of(after):
            published = printed.reindex([after]).iloc[0] - printed.reindex([before]).iloc[0]
            rows[f"{before} → {after}"] = compare_recorded(record, before, after, threshold).assign(published=published)
    if not rows:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=["change", "rate"]))
    found = pd.concat(rows, names=["change", "rate"])
    return found.assign(corrected=correct(found.p))


def compare_recorded(record, before, after, threshold=0.5, labels=("clean", "clean")):
    """Compare two recorded experiments patient by patient: how much each score changes from `before` to `after`.

    `labels` are the kinds of training labels of the two. Returns `kit.metrics.compare`, indexed by the four `SCORES`;
    RunError if one of the two is not recorded.
    """
    sides = []
    for name, kind in zip((before, after), labels, strict=True):
        mine = record.of(name, kind)
        if not mine:
            raise RunError(f"{name} with {kind} labels is not recorded; `python -m kit record` can add it")
        sides.append(sweep_at(mine.sampled, threshold))
    return compare(*sides, trainings="seed", draws=TEST_DRAWS).loc[list(SCORES)]


def whole_scan_table(record, names=None, rates=RATES, labels="clean"):
    """Recall of recorded experiments on whole scans at given numbers of false positives a scan.

    Parameters
    ----------
    record : Record
    names : sequence of str, optional
        Experiments; None: all with such labels.
    rates : sequence of float
        False positives a scan.
    labels : str

    Returns
    -------
    pandas.DataFrame
        Indexed by experiment and false positives a scan (and "average"): recall with low and high, a 95 % bootstrap
        over patients and trainings (`kit.metrics.froc_average`), trainings, the number of them, and scans, how many
        each mapped: "24", or "12–24" where not all mapped the same.
    """
    rows = {}
    for name in record.names(labels) if names is None else names:
        points = record.of(name, labels).points
        mapped = points.groupby("seed").scan_id.nunique()
        about = {"trainings": len(mapped), "scans": "–".join(map(str, sorted({mapped.min(), mapped.max()})))}
        rows[name] = froc_average(points, rates, trainings="seed").assign(**about)
    return pd.concat(rows, names=["experiment"])


def format_recall(table):
    """Format `whole_scan_table` for reading: a row an experiment, recall in percent with its interval.

    >>> rates = pd.MultiIndex.from_tuples([("D", 8), ("D", 2)])
    >>> numbers = pd.DataFrame({"recall": [0.7, 0.5], "low": 0.4, "high": 0.8, "trainings": 3, "scans": "24"}, rates)
    >>> format_recall(numbers).values.tolist()
    [[3, '24', '70 (40–80)', '50 (40–80)']]
    """
    text = with_interval(table.rename(columns={"low": "recall_low", "high": "recall_high"}), "recall", 100, 0)
    wide = pd.Series(text, table.index).unstack(sort=False)
    wide = wide.rename(columns={rate: f"{rate:g} FP a scan" for rate in wide if rate != "average"})
    for at, name in enumerate(("trainings", "scans")):
        wide.insert(at, name, table[name].groupby(level=0, sort=False).first())
    return wide.rename_axis(index="recall % at", columns=None)


def comparisons(record):
    """All pairs of recorded experiments that are compared: each with the one that it differs from by one change.

    These are the thesis' ten steps, three that match two networks by their sampling or time, and the variants.
    """
    pairs = [(one.against, name) for name, one in EXPERIMENTS.items()] + list(MATCHED)
    pairs += [(name.partition("+")[0], name) for name in record.names() if "+" in name]
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= set(record.names())]


def whole_scan_changes(record, pairs=None, rates=(8, 2)):
    """What going from one recorded experiment to another changed of the recall on whole scans.

    Parameters
    ----------
    record : Record
    pairs : sequence of (str, str), optional
        Experiments before and after; by default all `comparisons`. Pairs of which one is not recorded are left out. Two
        are compared on the patients whose whole scans both mapped.
    rates : sequence of float
        False positives a scan.

    Returns
    -------
    pandas.DataFrame
        Indexed by change ("A → B") and false positives a scan: patients, the columns of `kit.metrics.compare_froc`, and
        `corrected`, p by Holm's method over all `comparisons` at these rates, whether they are asked for or not.
    """
    every, rows, memo = comparisons(record), {}, {}
    pairs = every if pairs is None else list(pairs)
    for before, after in dict.fromkeys([*every, *pairs]):
        sides = [record.of(name).points for name in (before, after)]
        if all(map(len, sides)):
            both = set.intersection(*(set(points.patient_id) for points in sides))
            sides = [points[points.patient_id.isin(both)] for points in sides]
            rows[f"{before} → {after}"] = compare_froc(
                *sides, rates, trainings="seed", draws=TEST_DRAWS, memo=memo
            ).drop(index="average")
            rows[f"{before} → {after}"].insert(0, "patients", len(both))
    if not rows:
        names = ["change", "false positives a scan"]
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=names))
    found = pd.concat(rows, names=["change"])
    asked = found.index.isin([f"{before} → {after}" for before, after in pairs], level=0)
    return found.assign(corrected=correct(found.p))[asked]


def found_by(record, rate=8, labels="clean"):
    """How often each test lesion is found: a share of an experiment's trainings, at so many false positives a scan.

    Returns
    -------
    pandas.DataFrame
        Indexed by scan_id and component: volume_mm3, diameter_mm, size_mm, and a column for each experiment.
    """
    at = record.lesions[(record.lesions.fp_per_scan == rate) & (record.lesions.labels == labels)]
    lesion = ["scan_id", "component"]
    shares = at.assign(found=at.found.astype(float)).pivot_table(columns="experiment", index=lesion, values="found")
    known = at.groupby(lesion)[["volume_mm3", "diameter_mm", "size_mm"]].first()
    return known.join(shares[[name for name in record.names(labels) if name in shares]])


def outline_changes(record, pairs=None, rates=(8, 2), *, draws=TEST_DRAWS, seed=0):
    """What going from one recorded experiment to another changed of the outlines of the lesions that both find.

    A lesion's Dice is its mean over the trainings that find it; patients are drawn, as in `kit.metrics.intervals`.

    Parameters
    ----------
    record, pairs
        As for `whole_scan_changes`.
    rates : sequence of float
        Of `RATES`: false positives a scan.

    Returns
    -------
    pandas.DataFrame
        Indexed by change ("A → B") and false positives a scan: lesions and patients (that both find), a and b (mean
        Dice), difference (b - a), its limits low and high, p (two-sided, of the same draws) and `corrected` (by Holm).
    """
    rows = {}
    for before, after in dict.fromkeys(comparisons(record) if pairs is None else pairs):
        for rate in rates:
            sides = [_outlines(record.of(name).lesions, rate) for name in (before, after)]
            both = pd.concat(sides, axis=1, keys=["a", "b"], join="inner")
            if len(both):
                rows[f"{before} → {after}", rate] = _compare_outlines(both, draws, seed)
    names = ["change", "false positives a scan"]
    if not rows:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=names))
    found = pd.DataFrame(rows).T.rename_axis(names).astype({"lesions": int, "patients": int})
    return found.assign(corrected=correct(found.p))


def _outlines(lesions, rate):
    at = lesions[(lesions.fp_per_scan == rate) & lesions.found]
    return at.groupby(["patient_id", "scan_id", "component"]).dice.mean()


def _compare_outlines(both, draws, seed):
    apart = (both.b - both.a).groupby(level="patient_id").agg(["sum", "size"])
    weights = patient_weights(len(apart), draws, seed)
    drawn = (weights @ apart["sum"].to_numpy()) / (weights @ apart["size"].to_numpy())
    low, high = quantiles(drawn[:, None])[:, 0]
    means = both.mean()
    about = {"lesions": len(both), "patients": len(apart), "a": means.a, "b": means.b, "difference": means.b - means.a}
    return about | {"low": low, "high": high, "p": crossing_p(drawn[:, None])[0]}
