"""From one scan's map and truth to all its tables, and from a folder of anybody's maps to those of a cohort."""

import ast
import difflib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from kit.metrics.calibration import reliability
from kit.metrics.detection import detect, sweep
from kit.metrics.errortable import error_table
from kit.metrics.matching import RULES
from kit.metrics.ruletable import rule_table
from kit.metrics.sweeps import operating_points, sweep_lesions
from kit.scans import (
    ScanError,
    lesion_table,
    load_map,
    load_row,
    read_grid,
    read_label,
    read_map,
    save_map,
    search_region,
)

PARTITION_MARGIN_MM = 5.0
TABLES = ("scan", "sweep", "lesions", "predicted", "errors", "points", "lesion_sweep", "reliability", "rules")
TUPLES = {"centre": ast.literal_eval, "box": ast.literal_eval}  # how a CSV file's cells become what they were
NAMES = (
    "{}.nii.gz",
    "{}.nii",
    "{}/map.nii.gz",
)  # where a scan's map may lie; the last is how `evaluate_cohort` writes it
SHOWN = 50  # problems a message lists before it only counts


class PredictionError(ValueError):
    """A folder of maps that cannot be scored; `problems` lists all that is wrong with it."""

    def __init__(self, folder, problems):
        self.problems = list(problems)
        more = [f"... and {len(self.problems) - SHOWN} more"] if len(self.problems) > SHOWN else []
        head = f"{folder}: {len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}, nothing was scored"
        super().__init__("\n  ".join([head, *self.problems[:SHOWN], *more]))


def score_scan(probability, scan, row, mask=None, *, threshold=0.5, low=0.2, rule="thesis", min_volume_mm3=0):
    """Score one map: every table that is kept of a scan.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
        On the grid of `scan.image`.
    scan : kit.scans.Scan
        With its label.
    row : mapping
        `scan_id` and `patient_id`.
    mask : bool (slice, row, column), optional
        Where calibration is looked at: the search region.
    threshold, low, rule
        As in `kit.metrics.detect`; the tables of single findings are at this threshold.
    min_volume_mm3 : float
        For the error table and the table of rules; the others have all minimum volumes, or none.

    Returns
    -------
    dict of str to pandas.DataFrame
        sweep (`kit.metrics.sweep`), lesions and predicted (`kit.metrics.Detection`), errors
        (`kit.metrics.error_table`), points (`kit.metrics.operating_points`), lesion_sweep
        (`kit.metrics.sweep_lesions`), reliability (`kit.metrics.reliability`), rules (`kit.metrics.rule_table`).
    """
    truth, spacing = scan.label, scan.spacing_mm
    options = {"low": low, "spacing_mm": spacing, "rule": rule}
    found = detect(probability, truth, threshold, **options)
    names = {name: row.get(name, "") for name in ("scan_id", "patient_id")}
    at = {"threshold": threshold, "low": low, "min_volume_mm3": min_volume_mm3, "spacing_mm": spacing}
    return {
        "sweep": sweep(probability, truth, **options),
        "lesions": found.truth,
        "predicted": found.predicted,
        "errors": error_table(probability, truth, rule=rule, affine=scan.affine, **at, **names),
        "points": operating_points(probability, truth, **options),
        "lesion_sweep": sweep_lesions(probability, truth, **options),
        "reliability": reliability(probability, truth, mask),
        "rules": rule_table(probability, truth, **at),
    }


def find_predictions(folder, table):
    """Find the map or mask of every scan in a folder: `<scan_id>.nii.gz`, `<scan_id>.nii` or `<scan_id>/map.nii.gz`.

    Parameters
    ----------
    folder : path
    table : pandas.DataFrame
        Rows of a manifest.

    Returns
    -------
    (dict, list of str)
        scan_id to path, and what is wrong: scans without a map, and scans with two.
    """
    folder = Path(folder)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    paths, problems = {}, [] if folder.is_dir() else [f"{folder}: no such folder"]
    for scan_id in table.scan_id if folder.is_dir() else ():
        found = [path for path in (folder / name.format(scan_id) for name in NAMES) if path.is_file()]
        if len(found) == 1:
            paths[scan_id] = found[0]
        elif found:
            names = " and ".join(str(path.relative_to(folder)) for path in found)
            problems.append(f"{scan_id}: has {names}; keep one of them")
        else:
            near = difflib.get_close_matches(f"{scan_id}.nii.gz", there, 1, 0.8)
            hint = f" (there is {near[0]})" if near else ""
            problems.append(f"{scan_id}: no {scan_id}.nii.gz{hint}; write its map there, all 0 where nothing is found")
    return paths, problems


def check_predictions(paths, table, *, progress=True):
    """Read every label and map once and say what is wrong: other grids, values outside [0, 1], unreadable files."""
    problems = []
    rows = [row for row in table.to_dict("records") if row["scan_id"] in paths]
    for row in tqdm(rows, "checking maps", disable=not progress):
        scan_id = row["scan_id"]
        try:
            grid = read_grid(row["image"])
            read_label(row["label"], grid, lesion_codes=row.get("lesion_codes") or None)
            read_map(paths[scan_id], grid)
        except ScanError as error:
            problems.append(f"{scan_id}: {error}")
    return problems


def score_folder(folder, table, *, threshold=0.5, low=0.2, rule="thesis", min_volume_mm3=0, progress=True):
    """Score a folder of maps or masks against the labels of a manifest's rows.

    Parameters
    ----------
    folder : path
        See `find_predictions`. Masks of 0 and 1 are maps as well.
    table : pandas.DataFrame
        Labelled rows of a manifest; every one needs its map.
    threshold, low, rule, min_volume_mm3
        As in `score_scan`.
    progress : bool

    Returns
    -------
    dict of str to pandas.DataFrame
        The tables of `score_scan` over all scans, each row with its scan_id and patient_id, and `scan`: one row a
        scan with slices, voxels looked at and lesions.

    Raises
    ------
    PredictionError
        Before anything is scored, with everything that is wrong.
    """
    paths, problems = find_predictions(folder, table)
    problems += check_predictions(paths, table, progress=progress)
    if problems:
        raise PredictionError(folder, problems)
    parts = {name: [] for name in TABLES}
    for row in tqdm(table.to_dict("records"), "scoring", disable=not progress):
        scan = load_row(row)
        mask = search_region(scan, row)
        tables = score_scan(
            load_map(paths[row["scan_id"]], scan),
            scan,
            row,
            mask,
            threshold=threshold,
            low=low,
            rule=rule,
            min_volume_mm3=min_volume_mm3,
        )
        tables["scan"] = pd.DataFrame([describe(mask, tables)])
        for name, part in tables.items():
            parts[name].append(named(part, row))
    return {name: joined(tables) for name, tables in parts.items()}


def score_rules(folder, table, *, threshold=0.5, min_volume_mm3=0, rules=RULES, progress=True):
    """Score the maps that a folder has by every rule: `kit.metrics.rule_table` of each scan, one below the other.

    Parameters
    ----------
    folder : path
        See `find_predictions`; rows of `table` without a map are left out.
    table : pandas.DataFrame
        Labelled rows of a manifest.
    threshold, min_volume_mm3, rules
        As in `kit.metrics.rule_table`.

    Returns
    -------
    pandas.DataFrame
        With scan_id and patient_id; without a row where no scan has a map.
    """
    paths, _ = find_predictions(folder, table)
    options = {"min_volume_mm3": min_volume_mm3, "rules": rules}
    parts = []
    rows = [row for row in table.to_dict("records") if row["scan_id"] in paths]
    for row in tqdm(rows, "scoring", disable=not progress):
        scan = load_row(row)
        scores = rule_table(
            load_map(paths[row["scan_id"]], scan), scan.label, threshold, spacing_mm=scan.spacing_mm, **options
        )
        parts.append(named(scores, row))
    return joined(parts) if parts else pd.DataFrame(columns=["scan_id", "patient_id", "rule", "tp", "fn", "fp"])


def describe(mask, tables):
    """What `scan.csv` says of a scan, but how long it took."""
    return {"voxels": int(mask.sum()), "slices": len(mask), "lesions": len(tables["lesions"])}


def named(table, row):
    """A scan's table with its scan_id and patient_id in front."""
    names = {name: row[name] for name in ("scan_id", "patient_id")}
    return table.assign(**names)[[*names, *(name for name in table if name not in names)]]


def joined(tables):
    """Tables of several scans as one; those without rows only lend their columns."""
    whole = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    return whole.astype({name: bool for name in ("found", "hit") if name in whole})  # a file without rows has no type


def write_table(table, path):
    """Write a CSV file whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    table.to_csv(part, index=False)
    os.replace(part, path)


def read_table(path):
    """Read back what `write_table` wrote, tuples included."""
    return pd.read_csv(path, converters=TUPLES)


@dataclass(frozen=True)
class Evaluation:
    """Tables over a cohort, every row with its `scan_id` and `patient_id`.

    `scans`: seconds, voxels classified; `sweep`: see `kit.metrics.sweep`; `lesions` (with `found`) and `predicted`
    (with `hit`, `peak`): see `kit.metrics.Detection`, at one threshold and without a minimum volume; the others are
    told by `kit.metrics.score_scan`.
    """

    scans: pd.DataFrame
    sweep: pd.DataFrame
    lesions: pd.DataFrame
    predicted: pd.DataFrame
    errors: pd.DataFrame = field(default_factory=pd.DataFrame)
    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    lesion_sweep: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    rules: pd.DataFrame = field(default_factory=pd.DataFrame)


def evaluate_cohort(
    detector, table, folder, *, threshold=0.5, rule="thesis", where=None, progress=True, **options
) -> Evaluation:
    """Map and score every labelled scan of a table; scans that are done already are read back.

    Parameters
    ----------
    detector : callable
        From (image, mask) to a probability map, such as `Detector`.
    table : pandas.DataFrame
        Rows of a manifest. A scan is searched inside its `mask` if the row has one, otherwise all over the head.
    folder : path
        Of this detector and search region alone; one subfolder a scan.
    threshold : float
        For the tables of single findings.
    rule : str
        A word of `kit.metrics.RULES`: who is matched with whom. Scans that were scored with another rule or threshold
        are scored again from their maps.
    where : callable, optional
        From (scan, row) to a mask, instead of the rule above.
    options
        Go to the detector: device, dtype.

    Returns
    -------
    Evaluation
    """
    rows = table.to_dict("records")
    asked = {"threshold": threshold, "rule": rule}
    for row in tqdm(rows, "whole scans", disable=not progress):
        place = Path(folder) / row["scan_id"]
        if not _is_scored(place, asked):
            place.mkdir(parents=True, exist_ok=True)
            _evaluate_scan(detector, row, place, asked, where or search_region, options)
    found = {
        name: [named(read_table(Path(folder) / row["scan_id"] / f"{name}.csv"), row) for row in rows] for name in TABLES
    }
    return Evaluation(*(joined(found[name]) for name in TABLES))


def partitions(scan, row, *, margin_mm=PARTITION_MARGIN_MM, seed=0):
    """The sampled evaluation's voxels: a box around every lesion, and boxes of the same sizes in healthy tissue.

    The thesis (section 5.1.2) does not give the size of its partitions. A margin of 5 mm is close to what its figures
    imply: network D has 34 false positives in the partitions and 4068 in the whole scans, so that the partitions are
    about 1 % of the heads.

    Returns
    -------
    bool (slice, row, column)
        Empty for a scan without lesion.
    """
    rng = np.random.default_rng([seed, *row["scan_id"].encode()])
    margin = margin_mm / np.asarray(scan.spacing_mm)
    boxes = [_grow(box, margin) for box in lesion_table(scan.label, scan.spacing_mm).box]
    mask, healthy = np.zeros(scan.label.shape, bool), search_region(scan, row) & ~scan.label
    for box in boxes:
        _fill(mask, box)
    healthy = np.argwhere(healthy & ~mask)
    for low, high in boxes:
        half = (high - low) // 2
        for centre in healthy[rng.integers(len(healthy), size=100)]:
            box = (centre - half, centre - half + (high - low))
            if not _look(scan.label, box).any():
                _fill(mask, box)
                break
    return mask & (scan.image > scan.image.min())


def _grow(box, margin):
    box = np.asarray(box)
    return np.floor(box[:, 0] - margin).astype(int), np.ceil(box[:, 1] + margin).astype(int)


def _fill(mask, box):
    _look(mask, box)[:] = True


def _look(array, box):
    return array[tuple(slice(max(low, 0), max(high, 0)) for low, high in zip(*box, strict=True))]


def _is_scored(place, asked):
    """Whether a scan's folder has all tables, at this threshold and by this rule."""
    if not all((place / f"{name}.csv").exists() for name in TABLES):
        return False
    told = pd.read_csv(place / "scan.csv").iloc[0]
    return all(told.get(name) == value for name, value in asked.items())


def _evaluate_scan(detector, row, place, asked, where, options):
    scan = load_row(row)
    mask = where(scan, row)
    if (place / "scan.csv").exists() and (place / "map.nii.gz").exists():  # computed before, scored otherwise
        probability = load_map(place / "map.nii.gz", scan)
        seconds = pd.read_csv(place / "scan.csv").seconds.iloc[0]
    else:
        started = time.perf_counter()
        probability = detector(scan.image, mask, **options)
        seconds = round(time.perf_counter() - started, 2)
        save_map(probability, scan, place / "map.nii.gz")
    tables = score_scan(probability, scan, row, mask, **asked)
    tables["scan"] = pd.DataFrame([{"seconds": seconds, **describe(mask, tables), **asked}])
    for name in reversed(TABLES):  # scan.csv comes last
        write_table(tables[name], place / f"{name}.csv")
