"""Results of experiments side by side: measured here, recorded at a larger size, and published in the thesis.

A record is a folder that `python -m kit record` wrote; it is read here. What the thesis published stands here as data.
Source: the 2015 master's thesis on detecting and segmenting brain metastases with convolutional networks that this kit
reproduces; table and chapter numbers are its own. An experiment of your own has rows in every table too, with "not
published" where the thesis has no figure.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from kit.experiments.runs import RunError
from kit.metrics import compare, correct, intervals, partitions, score, with_interval
from kit.models import Detector
from kit.scans import select, write_table

COHORT = {
    "scans": 621, "patients": 493, "lesions": 1675, "lesions_per_scan": 2.7, "mean_radius_mm": 5.0,
    "negatives_per_positive": 3800, "smaller_than_5mm_cubed_of_those_below_30mm_cubed": 0.38,
    "test_scans": 50, "test_lesions": 122, "slices_per_scan": 160,
}  # fmt: skip
SCANS_PER_PATIENT = {1: 394, 2: 74, 3: 21, 4: 4}  # Table 1.1
MINUTES_PER_SCAN = (60, 90)  # patch by patch on a Quadro K4000; the clinic allows 10 (chapter 6)

SCORES = ("recall", "precision", "dice", "dice_healthy")
COLUMNS = [
    "patches_worth",
    "scans",
    "lesions",
    *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")),
]
# score, its heading, and the factor and digits with which it is shown
SAMPLED_FORMAT = (
    *(("recall", "recall %", 100, 1), ("precision", "precision %", 100, 1)),
    *(("dice", "Dice lesion", 1, 3), ("dice_healthy", "Dice healthy", 1, 3)),
)
WHOLE_SCAN_FORMAT = (
    *(("recall", 100, 1), ("precision", 100, 2), ("fp_per_scan", 1, 1), ("fp_per_slice", 1, 2), ("dice", 1, 3)),
)


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


def comparison_table(name, sweep, patches_worth, record, threshold=0.5):
    """Compare one experiment's sampled evaluation: measured here, recorded and published (Table 5.5), a row each.

    Parameters
    ----------
    name : str
        Of an experiment, of the thesis or your own.
    sweep : pandas.DataFrame
        `kit.metrics.Scores.sweep` of what was measured here.
    patches_worth : int
        By the network that was measured.
    record : Record
        Where it has the experiment, there is a row of it.
    threshold : float
        Upper threshold of hysteresis, in (0, 1]; one that the sweeps have.

    Returns
    -------
    pandas.DataFrame
        Indexed by source ("measured here", "recorded", "published"): patches_worth, scans, lesions, the four
        `SCORES` in [0, 1] and for each its `<score>_low` and `<score>_high`, a 95 % bootstrap over patients. NaN
        where the thesis published nothing.
    """
    rows = {"measured here": score_row(sweep, patches_worth, threshold)}
    if mine := record.of(name):
        rows["recorded"] = score_row(mine.sampled, int(mine.runs.patches_worth.iloc[0]), threshold)
    rows["published"] = published_row(name)
    return pd.concat(rows, names=["source", ""]).droplevel(1)


def evaluate_sampled(name, trained, table, folder, record, *, device="auto", progress=True):
    """Evaluate a trained experiment on partitions of the test scans, and compare it with the record and the thesis.

    What is there from an earlier call with as much training is read back. `sampled.csv` in the folder has the
    comparison.

    Parameters
    ----------
    name : str
        Of an experiment, of the thesis or your own.
    trained : (network, statistics, history)
        As `kit.experiments.run_experiment` returns.
    table : pandas.DataFrame
        Rows of a manifest; those of the test split are evaluated.
    folder : path
        The run's.
    record : Record
    device : str
        "auto" takes a GPU where there is one.
    progress : bool
        Show a bar of the scans.

    Returns
    -------
    found : kit.metrics.Scores
    compared : pandas.DataFrame
        See `comparison_table`.
    maps : pathlib.Path
        The folder with a scan's map in `<scan_id>/map.nii.gz`.
    """
    network, statistics, history = trained
    visited = int(history.patches_worth.iloc[-1])
    maps, detector = Path(folder) / f"sampled_{visited}", Detector(network, statistics)  # more training, another folder
    options = {"where": partitions, "device": device, "progress": progress}
    found = score(detector, select(table, "test"), maps, **options)
    compared = comparison_table(name, found.sweep, visited, record)
    write_table(compared.reset_index(), Path(folder) / "sampled.csv")
    return found, compared, maps


def score_row(sweep, patches_worth, threshold=0.5):
    """Pool the sweep of a cohort's scans, of all trainings where it has their `seed`: a row of `comparison_table`."""
    trainings = "seed" if "seed" in sweep else None
    found = intervals(sweep_at(sweep, threshold), by=["threshold"], trainings=trainings)
    return found.assign(lesions=found.tp + found.fn, patches_worth=patches_worth)[COLUMNS]


def record_table(record, threshold=0.5, labels="clean"):
    """Every recorded experiment in the columns of `comparison_table`, indexed by experiment.

    Raises
    ------
    kit.experiments.RunError
        If no experiment with such labels is recorded.
    """
    names = record.runs[record.runs.labels == labels].experiment.drop_duplicates()
    if names.empty:
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
    return compare(*sides, trainings="seed").loc[list(SCORES)]


def sweep_at(sweep, threshold=0.5, min_volume_mm3=0):
    """The rows of a sweep at one threshold and minimum volume, one a scan."""
    return sweep[(sweep.threshold == threshold) & (sweep.min_volume_mm3 == min_volume_mm3)]


def format_scores(table):
    """Format a table in the columns of `comparison_table` for reading: percent, and each score with its interval.

    A row without any figure says "not published"; a rate that does not exist (no lesions, no findings) is a dash.

    Examples
    --------
    >>> text = format_scores(pd.concat([published_row("D"), published_row("my own")]))
    >>> text.drop(columns=["scans", "lesions"]).values.tolist()
    [['40,000,000', '84.7', '75.2', '0.662', '0.996'], ['not published', '', '', '', '']]
    """
    whole = ("patches_worth", ",.0f"), ("scans", ".0f"), ("lesions", ".0f")
    columns = {name.replace("_", " "): [format(value, shape) for value in table[name]] for name, shape in whole}
    columns |= {title: with_interval(table, score, *shape) for score, title, *shape in SAMPLED_FORMAT}
    text = pd.DataFrame(columns, table.index)
    text.loc[table.scans.isna().to_numpy()] = ""
    text.loc[table.patches_worth.isna().to_numpy(), "patches worth"] = "not published"
    return text


def format_whole_scans(table):
    """Format pooled whole scans for reading, indexed by min_volume_mm3.

    Takes `kit.metrics.intervals` by min_volume_mm3, or `published_whole_scans`. Returns what there is of scans, tp, fn
    and fp, and as text of recall and precision (percent), fp_per_scan, fp_per_slice and dice, with their intervals.

    >>> format_whole_scans(published_whole_scans("FCN")).precision.tolist()
    ['0.23']
    """
    counts = [name for name in ("scans", "tp", "fn", "fp") if name in table]
    text = {score: with_interval(table, score, *shape) for score, *shape in WHOLE_SCAN_FORMAT if score in table}
    return table[["min_volume_mm3", *counts]].assign(**text).set_index("min_volume_mm3")


def published_row(name):
    """What the thesis published of an experiment, as one row of `comparison_table`; all NaN where that is nothing.

    Table 5.5, of partitions; for the FCN Table 5.6, of whole scans.
    """
    fcn = published_whole_scans("FCN").set_axis(["FCN"])
    published = pd.concat([published_sampled(), fcn])
    row = published.assign(scans=50, lesions=122).reindex([name])
    return row.reindex(columns=COLUMNS).rename_axis("experiment")


def published_sampled():
    """Table 5.5: partitions around every test lesion and as much healthy tissue, theta 0.5, indexed by experiment.

    `patches_worth` is not printed there: about so many, from the epochs and voxels that the thesis gives.

    >>> published_sampled().loc["D", "recall"]
    np.float64(0.847)
    """
    few, many = 40e6, 220e6
    rows = {
        "A": (0.898, 0.517, 0.563, 0.994, few), "B": (0.915, 0.478, 0.532, 0.995, few),
        "C": (0.831, 0.715, 0.612, 0.996, few), "D": (0.847, 0.752, 0.662, 0.996, few),
        "E": (0.831, 0.605, 0.572, 0.996, few), "F": (0.756, 0.425, 0.340, 0.997, few),
        "G": (0.898, 0.525, 0.660, 0.997, many), "G-Pairs": (0.856, 0.340, 0.645, 0.997, many),
        "G-Eroded-Pairs": (0.941, 0.407, 0.598, 0.998, many), "H-Eroded-Pairs": (0.924, 0.574, 0.580, 0.997, many),
    }  # fmt: skip
    columns = [*SCORES, "patches_worth"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("experiment")


def published_whole_scans(network):
    """The thesis on its 50 whole test scans with 122 lesions, theta 0.5: Table 6.1 (D), Table 5.6 (FCN).

    One row a minimum volume, below which components are removed; no row for any other network.

    >>> published_whole_scans("D")[["min_volume_mm3", "tp", "fp"]].values.tolist()
    [[0, 105, 4068], [40, 101, 379], [80, 99, 228], [150, 96, 138]]
    """
    if network == "FCN":
        rows = [{"min_volume_mm3": 0, "recall": 0.893, "precision": 0.0023, "dice": 0.190, "dice_healthy": 0.999}]
        return pd.DataFrame(rows).assign(scans=50)
    columns = ["min_volume_mm3", "tp", "fn", "fp", "recall", "precision", "fp_per_scan", "fp_per_slice"]
    rows = [
        (0, 105, 17, 4068, 0.861, 0.025, 83, 0.52), (40, 101, 21, 379, 0.828, 0.210, 7.7, 0.05),
        (80, 99, 23, 228, 0.811, 0.303, 4.7, 0.03), (150, 96, 26, 138, 0.787, 0.410, 2.8, 0.02),
    ]  # fmt: skip
    return pd.DataFrame(rows if network == "D" else [], columns=columns).assign(scans=50)
