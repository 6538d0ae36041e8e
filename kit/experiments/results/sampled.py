"""An experiment on partitions of test scans: measured here, recorded and published side by side (Table 5.5)."""

from math import nan
from pathlib import Path

import pandas as pd

from kit.experiments.results.published import COLUMNS, SCORES, published_row
from kit.metrics import compare, intervals, partition_chance, partitions, score, with_interval
from kit.models import Detector
from kit.scans import load_map, load_row, load_truth, select, write_table

# In bfloat16 A, D and G found the same lesions as in float32 at all 20 thresholds; false positives in six scans
# differed by one at most at 0.5, and by nine at most at the others (LOG.md, 2026-11-29).
SAMPLED = {"where": partitions, "dtype": "auto"}
# score, its heading, and the factor and digits with which it is shown
SAMPLED_FORMAT = (
    *(("recall", "recall %", 100, 1), ("chance", "by chance %", 100, 1), ("precision", "precision %", 100, 1)),
    *(("dice", "Dice lesion", 1, 3), ("dice_healthy", "Dice healthy", 1, 3)),
)
WHOLE_SCAN_FORMAT = (
    *(("recall", 100, 1), ("precision", 100, 2), ("fp_per_scan", 1, 1), ("fp_per_slice", 1, 2), ("dice", 1, 3)),
)


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
        Indexed by source ("measured here", "saved trainings", "published"): patches_worth, scans, lesions, chance
        (recall of lesions moved to random places, where the sweep has it: `with_chance`, `chance_recall`), the four
        `SCORES` in [0, 1] and for each its `<score>_low` and `<score>_high`, a 95 % bootstrap over patients
        (and trainings, of saved ones). NaN where the thesis published nothing.
    """
    rows = {"measured here": score_row(sweep, patches_worth, threshold)}
    if mine := record.of(name):
        rows["saved trainings"] = score_row(mine.sampled, int(mine.runs.patches_worth.iloc[0]), threshold)
    rows["published"] = published_row(name)
    return pd.concat(rows, names=["source", ""]).droplevel(1)


def evaluate_sampled(name, trained, table, folder, record, *, device="auto", progress=True):
    """Evaluate a trained experiment on partitions of the test scans, and compare it with the record and the thesis.

    Maps are computed in bfloat16 where the device has it (`kit.models.best_dtype`). What is there from an earlier
    call with as much training is read back. `sampled.csv` in the folder has the comparison.

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
    found = score(detector, select(table, "test"), maps, device=device, progress=progress, **SAMPLED)
    compared = comparison_table(name, with_chance(found.sweep, table, maps), visited, record)
    write_table(compared.reset_index(), Path(folder) / "sampled.csv")
    return found, compared, maps


def with_chance(sweep, table, maps, *, threshold=0.5, **options):
    """Add what maps of partitions find by chance to a sweep: `placed` and `hits` of `kit.metrics.partition_chance`.

    Parameters
    ----------
    sweep : pandas.DataFrame
        `kit.metrics.Scores.sweep` of maps that `kit.metrics.partitions` limited.
    table : pandas.DataFrame
        Rows of a manifest; those of the sweep's scans are used.
    maps : path
        The folder with a scan's map in `<scan_id>/map.nii.gz`.
    threshold : float
        At which the columns are filled; elsewhere, with a minimum volume, and for scans without lesions they are NaN.
    options
        Of `kit.metrics.partition_chance`, such as a rule.
    """
    parts = []
    for row in table[table.scan_id.isin(sweep.scan_id)].to_dict("records"):
        truth = load_truth(row)  # on the grid of the scan's file, where maps are scored
        if truth.label.any():
            mapped = load_map(Path(maps) / row["scan_id"] / "map.nii.gz", truth)
            found = partition_chance(mapped, load_row(row), row, thresholds=(threshold,), **options)
            parts.append(found.assign(scan_id=row["scan_id"], min_volume_mm3=0))
    keys = ["scan_id", "threshold", "min_volume_mm3"]
    return sweep.merge(pd.concat(parts), on=keys, how="left", validate="one_to_one") if parts else sweep


def before_and_after(weights, trained, table, folder, *, device="auto", progress=True, threshold=0.5):
    """What fine-tuning changed on the user's validation patients: partitions around their lesions and as much besides.

    Parameters
    ----------
    weights : path
        Where `trained` started from.
    trained : (network, statistics, history)
        As `kit.experiments.run_experiment` returns.
    table : pandas.DataFrame
        Rows of a manifest; those of the validation split are evaluated.
    folder : path
        The run's; maps are kept there.
    device, progress
        As in `evaluate_sampled`.
    threshold : float

    Returns
    -------
    pandas.DataFrame
        Indexed by `SCORES` and, after recall, chance (what `with_chance` finds), in [0, 1]: before, after, difference,
        low, high, p and patients, see `kit.metrics.compare`. Chance has no interval and no p.
    """
    network, statistics, history = trained
    visited, sides = int(history.patches_worth.iloc[-1]), []
    detectors = {"start": Detector.load(network.name, weights), str(visited): Detector(network, statistics)}
    for name, detector in detectors.items():
        maps = Path(folder) / f"validation_{name}"
        found = score(detector, select(table, "validation"), maps, device=device, progress=progress, **SAMPLED)
        sides.append(sweep_at(with_chance(found.sweep, table, maps, threshold=threshold), threshold))
    found = compare(*sides)
    before, after = map(_chance_of, sides)
    found.loc["chance", ["a", "b", "difference", "patients"]] = before, after, after - before, found.patients.max()
    found = found.loc[[SCORES[0], "chance", *SCORES[1:]]].astype({"patients": int})
    return found.rename(columns={"a": "before", "b": "after"})


def score_row(sweep, patches_worth, threshold=0.5):
    """Pool the sweep of a cohort's scans, of all trainings where it has their `seed`: a row of `comparison_table`.

    Scans and lesions are counted once, however many trainings there are.
    """
    trainings = "seed" if "seed" in sweep else None
    rows = sweep_at(sweep, threshold)
    times = rows.seed.nunique() if trainings else 1
    found = intervals(rows, by=["threshold"], trainings=trainings)
    size = {"scans": found.scans // times, "lesions": (found.tp + found.fn) // times}
    return found.assign(**size, patches_worth=patches_worth, chance=_chance_of(rows))[COLUMNS]


def _chance_of(rows):
    """The share of lesions moved to random places that were found there; NaN without columns of `with_chance`."""
    moved = rows.reindex(columns=["hits", "placed"]).astype(float).sum()
    return moved.hits / moved.placed if moved.placed else nan


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
    shown = [row for row in SAMPLED_FORMAT if row[0] != "chance" or table.chance.notna().any()]
    columns |= {title: with_interval(table, score, *shape) for score, title, *shape in shown}
    text = pd.DataFrame(columns, table.index)
    text.loc[table.scans.isna().to_numpy()] = ""
    text.loc[table.patches_worth.isna().to_numpy(), "patches worth"] = "not published"
    return text


def format_whole_scans(table):
    """Format pooled whole scans for reading, indexed by min_volume_mm3.

    Takes `kit.metrics.intervals` by min_volume_mm3, or `published_whole_scans`. Returns what there is of scans, tp, fn
    and fp, and as text of recall and precision (percent), fp_per_scan, fp_per_slice and dice, with their intervals.

    >>> from kit.experiments import published_whole_scans
    >>> format_whole_scans(published_whole_scans("FCN")).precision.tolist()
    ['0.23']
    """
    counts = [name for name in ("scans", "tp", "fn", "fp") if name in table]
    text = {score: with_interval(table, score, *shape) for score, *shape in WHOLE_SCAN_FORMAT if score in table}
    return table[["min_volume_mm3", *counts]].assign(**text).set_index("min_volume_mm3")
