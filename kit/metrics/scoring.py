"""From a detector, or a folder of maps, to the tables of a cohort: `score`, the one loop over scans."""

import ast
import difflib
import inspect
import json
import multiprocessing
import os
import pickle
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from kit.metrics.curves import reliability
from kit.metrics.pairing import checked_probability, pair
from kit.metrics.sweeps import score_settings, tables_of
from kit.scans import (
    SEARCHES,
    ScanError,
    load_row,
    load_truth,
    read_map,
    replacing,
    save_map,
    search_region,
    to_own_grid,
    write_table,
)

TUPLES = {"centre": ast.literal_eval, "box": ast.literal_eval}  # how a CSV file's cells become what they were
MAP = "map.nii.gz"
NAMES = ("{}.nii.gz", "{}.nii", f"{{}}/{MAP}")  # where a scan's map may lie; the last is how `score` writes it
MOST_LISTED = 50  # problems a message lists before it only counts


class PredictionError(ValueError):
    """Maps that cannot be scored; `problems` lists all that is wrong with them."""

    def __init__(self, source, problems):
        self.problems = list(problems)
        more = [f"... and {len(self.problems) - MOST_LISTED} more"] if len(self.problems) > MOST_LISTED else []
        head = f"{source}: {len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}, nothing was scored"
        super().__init__("\n  ".join([head, *self.problems[:MOST_LISTED], *more]))


@dataclass(frozen=True)
class Scores:
    """Tables over a cohort, every row with its `scan_id` and `patient_id`.

    `scans`: seconds that mapping took (NaN where maps were given), voxels of the search region, slices, lesions,
    threshold and rule. The others are those of `score_scan` under the same names.
    """

    scans: pd.DataFrame
    sweep: pd.DataFrame
    lesions: pd.DataFrame
    predicted: pd.DataFrame
    errors: pd.DataFrame
    points: pd.DataFrame
    lesion_sweep: pd.DataFrame
    reliability: pd.DataFrame
    rules: pd.DataFrame


TABLES = tuple(field.name for field in fields(Scores))


def score(
    source,
    table,
    folder=None,
    *,
    threshold=0.5,
    low=0.2,
    rule="thesis",
    min_volume_mm3=0,
    rules=None,
    search="head",
    where=None,
    workers=1,
    progress=True,
    **options,
):
    """Score a detector, or a folder of anybody's maps, on every scan of a table.

    A score belongs to the scan's own voxel grid, on which its label was drawn and foreign maps come: volumes, distances
    and slices are those of the file, in mm by its own spacing. A detector sees the scan at 1 mm; its map and the search
    region are brought onto the scan's own grid and the map is written there, as float32, before anything is counted.
    What is scored is that file, be it new, from an earlier run or somebody else's, so that all roads give the same
    tables to the last digit.

    Parameters
    ----------
    source : callable or path
        From (image, mask, **options) to a probability map, such as `kit.models.Detector`, with (slice, row, column)
        arrays at 1 mm. One that needs more than an image has a method `for_scan` of (scan, row), whose result is
        called: there `kit.models.FollowUps` looks up the session before. Or a folder of maps or masks, see
        `find_predictions`.
    table : pandas.DataFrame
        Labelled rows of a manifest.
    folder : path, optional
        Keeps the tables, and a detector's maps, in one subfolder a scan; a scan that is there already is read back, and
        scored again from its map where another rule or threshold is asked for. A folder is for one source, search
        region and set of labels. Without it nothing stays.
    threshold, low, rule, min_volume_mm3, rules
        As in `score_scan`.
    search : {"head", "brain"}
        Where a scan is searched whose row has no `mask`, see `kit.scans.search_region`.
    where : callable, optional
        In place of `search`: from (scan, row) to the search region, bool (slice, row, column) on the scan at 1 mm, such
        as `partitions`.
    workers : int
        How many processes score. 1 is this process, one scan after the other; more are started beside it and score
        while it maps the next scan. A script that asks for more needs ``if __name__ == "__main__"``.
    progress : bool
    options
        Go to the detector: device, dtype.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        Before any work, if there is no such rule, or a threshold or `workers` is out of range.
    PredictionError
        Before anything is scored, with everything that is wrong with the maps of a folder: missing ones, other grids,
        values outside [0, 1], unreadable files; or with scans that have no label.
    """
    settings = score_settings(threshold, low, rule, min_volume_mm3, rules)
    rows, foreign = table.to_dict("records"), isinstance(source, str | os.PathLike)
    _check_call(source, rows, settings, search, workers, options if foreign else {})
    paths, problems = find_predictions(source, table) if foreign else ({}, [])
    with TemporaryDirectory() if folder is None else nullcontext(folder) as kept:
        jobs = [_Job(row, Path(kept) / row["scan_id"], settings, paths.get(row["scan_id"])) for row in rows]
        todo = [job for job in jobs if not job.is_done()]
        checked = [job for job in todo if job.source in paths.values()]
        problems += filter(None, _each(_problem, checked, workers, "checking maps", len(checked), progress))
        if problems:
            raise PredictionError(source, problems)
        where = where or (None if search == "head" else partial(search_region, search=search))
        ready = (_ready(job, source, where, options, folder is not None) for job in todo)
        for _ in _each(_score_job, ready, workers, "scoring", len(todo), progress):
            pass
        found = [{name: named(read_table(job.place / f"{name}.csv"), job.row) for name in TABLES} for job in jobs]
    typed = _without_rows(settings)
    return Scores(*(joined([tables[name] for tables in found], typed[name]) for name in TABLES))


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


def read_table(path):
    """Read back a table that `score` wrote, tuples included."""
    return pd.read_csv(path, converters=TUPLES)


@dataclass(frozen=True)
class _Job:
    """One scan to be scored into its place, from `source`, a map's file; `mask` lies on the scan's own grid."""

    row: dict
    place: Path
    settings: dict
    source: Path | None = None
    mask: np.ndarray | None = None
    seconds: float = np.nan
    keep_map: bool = True

    @property
    def saved(self):
        """The map that `score` writes."""
        return self.place / MAP

    @property
    def facts(self):
        """What tables are made with, as JSON keeps it."""
        facts = {**self.settings, "rule": self.settings["rule"].name}
        facts["rules"] = [rule.name for rule in self.settings["rules"]]
        if self.source not in (None, self.saved):
            about = self.source.stat()
            facts["map"] = [self.source.name, about.st_size, about.st_mtime_ns]
        return facts

    def is_done(self):
        """Whether the place has all tables, made with the same settings."""
        path = self.place / "settings.json"
        complete = path.is_file() and all((self.place / f"{name}.csv").is_file() for name in TABLES)
        return complete and json.loads(path.read_text()) == self.facts


def _check_call(source, rows, settings, search, workers, unused):
    """Refuse what cannot work, before any work."""
    if not (isinstance(source, str | os.PathLike) or callable(source) or hasattr(source, "for_scan")):
        raise ValueError(f"source is {source!r}: pass a detector, a function, or a folder of maps")
    if unused:
        raise ValueError(f"a folder of maps takes no {', '.join(unused)}: options go to a detector")
    if search not in SEARCHES:
        raise ValueError(f"search is {search!r}: pass one of {', '.join(SEARCHES)}")
    if workers < 1:
        raise ValueError(f"workers is {workers}: pass how many processes score, at least 1")
    for rule in {settings["rule"], *settings["rules"]} if workers > 1 else ():
        if not _travels(rule):
            raise ValueError(
                f"rule {rule.name!r} cannot be imported by other processes: move it to a module, or pass workers=1"
            )
    unlabelled = [f"{row['scan_id']}: has no label" for row in rows if not row.get("label")]
    if unlabelled:
        raise PredictionError(source, unlabelled)


def _travels(rule):
    try:
        pickle.dumps(rule)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return inspect.unwrap(getattr(rule.link, "func", rule.link)).__module__ != "__main__"


def _each(function, jobs, workers, title, total, progress):
    """The results of a function of jobs, as they come; no more jobs are taken up than there are workers."""
    with tqdm(total=total, desc=title, disable=not progress) as bar:
        for result in map(function, jobs) if workers == 1 else _in_parallel(function, jobs, workers):
            bar.update()
            yield result


def _in_parallel(function, jobs, workers):
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = set()
        for job in jobs:
            running.add(pool.submit(function, job))
            if len(running) == workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        yield from (one.result() for one in wait(running).done)


def _problem(job):
    """What is wrong with a label or a map, or None."""
    try:
        read_map(job.source, load_truth(job.row).grid)
    except ScanError as error:
        return f"{job.row['scan_id']}: {error}"
    return None


def _ready(job, source, where, options, keep):
    """The job with its map on disk: given, from an earlier run, or made now."""
    job.place.mkdir(parents=True, exist_ok=True)
    known = job.source or (job.saved if job.saved.is_file() else None)
    if known and (where is None or _kept(job, known)):
        return replace(job, source=known)
    scan = load_row(job.row)
    mask, seconds = (where or search_region)(scan, job.row), job.seconds
    if not known:
        detector = source.for_scan(scan, job.row) if hasattr(source, "for_scan") else source
        started = time.perf_counter()
        probability = detector(scan.image, mask, **options)
        seconds, known = round(time.perf_counter() - started, 2), job.saved
        save_map(checked_probability(probability), scan, job.saved)
    return replace(job, source=known, mask=to_own_grid(mask, scan), seconds=seconds, keep_map=keep)


def _kept(job, source):
    """The tables scans and reliability of an earlier run on the same map, which no setting changes."""
    paths = [job.place / f"{name}.csv" for name in ("scans", "reliability")]
    return [read_table(path) for path in paths] if source == job.saved and all(map(Path.is_file, paths)) else None


def _score_job(job):
    """Write all tables of a scan; settings.json, written last, says that they are complete."""
    truth = load_truth(job.row)
    probability = read_map(job.source, truth.grid)
    tables = tables_of(pair(probability, truth.label, truth.spacing_mm), truth.affine, job.row, job.settings)
    before = _kept(job, job.source) if job.mask is None else None
    if before:
        seconds, voxels, tables["reliability"] = *before[0][["seconds", "voxels"]].iloc[0], before[1]
    else:
        mask, seconds = _region(job.row) if job.mask is None else job.mask, job.seconds
        voxels, tables["reliability"] = np.count_nonzero(mask), reliability(probability, truth.label, mask)
    about = {"seconds": seconds, "voxels": int(voxels), "slices": len(probability), "lesions": len(tables["lesions"])}
    tables["scans"] = pd.DataFrame([{**about, **{name: job.facts[name] for name in ("threshold", "rule")}}])
    (job.place / "settings.json").unlink(missing_ok=True)
    for name in TABLES:
        write_table(tables[name], job.place / f"{name}.csv")
    with replacing(job.place / "settings.json") as part:
        part.write_text(json.dumps(job.facts))
    if not job.keep_map:
        job.saved.unlink(missing_ok=True)  # a folder's own maps were not copied


def _region(row):
    """The search region at 1 mm, as a detector gets it, on the scan's own grid."""
    scan = load_row(row)
    return to_own_grid(search_region(scan, row), scan)


def _without_rows(settings):
    """The tables of no scan: columns only."""
    row, empty = {"scan_id": "", "patient_id": ""}, np.zeros((1, 1, 1))
    tables = tables_of(pair(empty, empty), None, row, settings) | {"reliability": reliability(empty, empty)}
    columns = ["seconds", "voxels", "slices", "lesions", "threshold", "rule"]
    tables["scans"] = pd.DataFrame(columns=columns)
    return {name: named(tables[name], row)[:0] for name in TABLES}


def named(table, row):
    """A scan's table with its scan_id and patient_id in front."""
    names = {name: row[name] for name in ("scan_id", "patient_id")}
    return table.assign(**names)[[*names, *(name for name in table if name not in names)]]


def joined(tables, typed):
    """Tables of several scans as one; where none has a row, `typed`, the table without rows."""
    whole = pd.concat([table for table in tables if len(table)] or [typed], ignore_index=True)
    return whole.astype({name: bool for name in ("found", "hit") if name in whole})  # a file without rows has no type
