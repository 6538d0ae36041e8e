"""A detector over a cohort: probability maps, and tidy tables of what was found, missed and invented.

    python -m kit.evaluation PREDICTIONS MANIFEST -o runs/theirs

scores a folder of anybody's maps or masks with the same tables, and one HTML page. Each scan that is computed here has
a folder of its own, so that a run that was stopped goes on with the next scan:

    runs/final/P03_1/map.nii.gz   probability, on the scan's own grid: overlays in 3D Slicer or ITK-SNAP
                     sweep.csv    one row a threshold and minimum volume
                     lesions.csv, predicted.csv   every lesion and every predicted component at one threshold
                     errors.csv   every finding for an error browser
                     points.csv, lesion_sweep.csv, reliability.csv, rules.csv   see kit.scoring.score_scan
                     scan.csv     seconds, voxels classified; written last
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from kit.dense import probability_map
from kit.lesions import lesion_table
from kit.manifest import read_manifest, select
from kit.manifestfile import ManifestError
from kit.models import build, load_weights, weights_metadata
from kit.report import write_report
from kit.rules import RULES
from kit.scanfile import ScanError
from kit.scoring import (
    TABLES,
    PredictionError,
    describe,
    joined,
    named,
    read_table,
    score_folder,
    score_scan,
    search_region,
    write_table,
)
from kit.volume import load_map, load_scan, normalise, save_map

PARTITION_MARGIN_MM = 5.0


@dataclass(frozen=True)
class Detector:
    """A trained network with the intensities it was trained on.

    `statistics` is the (mean, s.d.) of the training cohort, or None where each scan is normalised by its own.
    """

    network: object
    statistics: tuple | None = None

    @classmethod
    def load(cls, name, path):
        """Read a network's weights; their metadata say how its scans were normalised."""
        network = build(name)
        load_weights(network, path)
        told = weights_metadata(path)
        return cls(network, (float(told["mean"]), float(told["sd"])) if "mean" in told else None)

    def __call__(self, image, mask=None, **options):
        """Map a raw image to a probability map, see `kit.dense.probability_map`."""
        return probability_map(self.network, normalise(image, *(self.statistics or (None, None))), mask, **options)


@dataclass(frozen=True)
class Evaluation:
    """Tables over a cohort, every row with its `scan_id` and `patient_id`.

    `scans`: seconds, voxels classified; `sweep`: see `kit.metrics.sweep`; `lesions` (with `found`) and `predicted`
    (with `hit`, `peak`): see `kit.metrics.Detection`, at one threshold and without a minimum volume; the others are
    told by `kit.scoring.score_scan`.
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
        A word of `kit.rules.RULES`: who is matched with whom. Scans that were scored with another rule or threshold
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
    scan = load_scan(row["image"], row["label"], lesion_codes=row.get("lesion_codes") or None)
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


def main(arguments=None):
    """The command; returns the exit code: 0, or 2 where something given cannot be used."""
    told = _parser().parse_args(arguments)
    out = told.output or Path("runs", "scores", told.predictions.resolve().name)
    try:
        if out.exists() and any(out.iterdir()):
            raise PredictionError(out, ["has files already; name another folder by -o, or delete it"])
        table = read_manifest(told.manifest, data_root=told.data_root)
        table = table[table.label != ""] if told.split == "all" else select(table, told.split)
        asked = {"threshold": told.threshold, "low": told.low, "rule": told.rule, "min_volume_mm3": told.min_volume}
        tables = score_folder(told.predictions, table, **asked, progress=sys.stderr.isatty())
    except (ManifestError, PredictionError, ScanError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    _write_scores(tables, out, {"predictions": told.predictions.name, "manifest": told.manifest.name, **asked})
    print(out / "report.html")
    return 0


def _write_scores(tables, out, about):
    """Tables and report in a folder that appears whole or not at all."""
    part = out.with_name(f".{os.getpid()}-{out.name}")
    part.mkdir(parents=True)
    try:
        for name, table in tables.items():
            write_table(table, part / f"{'scans' if name == 'scan' else name}.csv")
        write_report(part / "report.html", tables, about)
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _parser():
    def share(text):
        value = float(text)
        if not 0 < value <= 1:
            raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
        return value

    parser = argparse.ArgumentParser(
        prog="python -m kit.evaluation",
        description="Score a folder of probability maps or masks against a manifest's labels: tables and a page.",
        epilog="Maps are named <scan_id>.nii.gz, on their scan's grid; masks hold 0 and 1.",
    )
    parser.add_argument("predictions", type=Path, help="folder with one map a scan")
    parser.add_argument("manifest", type=Path, help="table of the scans and their labels")
    parser.add_argument("-o", "--output", type=Path, help="new folder for tables and report.html (runs/scores/NAME)")
    parser.add_argument(
        "--split", default="test", help="train, validation or test: first sessions; all: every label (%(default)s)"
    )
    parser.add_argument("--rule", default="thesis", choices=list(RULES), help="how findings are matched (%(default)s)")
    parser.add_argument("--threshold", type=share, default=0.5, help="upper threshold of hysteresis (%(default)s)")
    parser.add_argument("--low", type=share, default=0.2, help="lower threshold of hysteresis (%(default)s)")
    parser.add_argument("--min-volume", type=float, default=0.0, help="mm3 that a finding needs at least (%(default)s)")
    parser.add_argument("--data-root", type=Path, help="folder that the manifest's paths start from")
    return parser


if __name__ == "__main__":
    sys.exit(main())
