"""A detector over a cohort: probability maps, and tidy tables of what was found, missed and invented.

Each scan has a folder of its own, so that a run that was stopped goes on with the next scan:

    runs/final/P03_1/map.nii.gz   probability, on the scan's own grid: overlays in 3D Slicer or ITK-SNAP
                     sweep.csv    one row a threshold and minimum volume
                     lesions.csv, predicted.csv   every lesion and every predicted component at one threshold
                     scan.csv     seconds, voxels classified; written last
"""

from __future__ import annotations

import ast
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from kit.dense import probability_map
from kit.lesions import lesion_table
from kit.metrics import MIN_VOLUMES_MM3, THRESHOLDS, detect, sweep
from kit.models import build, load_weights, weights_metadata
from kit.volume import foreground, load_mask, load_scan, normalise, save_map

PARTITION_MARGIN_MM = 5.0
TUPLES = {"centre": ast.literal_eval, "box": ast.literal_eval}  # how a CSV file's cells become what they were


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
    (with `hit`, `peak`): see `kit.metrics.Detection`, at one threshold and without a minimum volume.
    """

    scans: pd.DataFrame
    sweep: pd.DataFrame
    lesions: pd.DataFrame
    predicted: pd.DataFrame


def evaluate_cohort(detector, table, folder, *, threshold=0.5, where=None, progress=True, **options):
    """Map and score every labelled scan of a table; scans that are done already are read back.

    Parameters
    ----------
    detector : callable
        From (image, mask) to a probability map, such as `Detector`.
    table : pandas.DataFrame
        Rows of a manifest. A scan is searched inside its `mask` if the row has one, otherwise all over the head.
    folder : path
        Of this detector and these settings alone; one subfolder a scan.
    threshold : float
        For the tables `lesions` and `predicted`.
    where : callable, optional
        From (scan, row) to a mask, instead of the rule above.
    options
        Go to the detector: device, dtype.

    Returns
    -------
    Evaluation
    """
    rows = table.to_dict("records")
    for row in tqdm(rows, "whole scans", disable=not progress):
        place = Path(folder) / row["scan_id"]
        if not (place / "scan.csv").exists():
            place.mkdir(parents=True, exist_ok=True)
            _evaluate_scan(detector, row, place, threshold, where or search_region, options)
    return Evaluation(*(_gather(rows, folder, name) for name in ("scan", "sweep", "lesions", "predicted")))


def search_region(scan, row):
    """Where lesions are looked for: the row's `mask` if it has one, otherwise the head without air."""
    return load_mask(row["mask"], scan) if row.get("mask") else foreground(scan.image)


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


def _evaluate_scan(detector, row, place, threshold, where, options):
    scan = load_scan(row["image"], row["label"], lesion_codes=row.get("lesion_codes") or None)
    mask = where(scan, row)
    started = time.perf_counter()
    probability = detector(scan.image, mask, **options)
    seconds = time.perf_counter() - started
    truth = scan.label
    found = detect(probability, truth, threshold, spacing_mm=scan.spacing_mm)
    save_map(probability, scan, place / "map.nii.gz")
    _write(sweep(probability, truth, THRESHOLDS, MIN_VOLUMES_MM3, spacing_mm=scan.spacing_mm), place / "sweep.csv")
    _write(found.truth, place / "lesions.csv")
    _write(found.predicted, place / "predicted.csv")
    told = {"seconds": round(seconds, 2), "voxels": int(mask.sum()), "slices": len(mask), "lesions": len(found.truth)}
    _write(pd.DataFrame([told]), place / "scan.csv")


def _write(table, path):
    part = path.with_name(f".{os.getpid()}-{path.name}")
    table.to_csv(part, index=False)
    os.replace(part, path)


def _gather(rows, folder, name):
    tables = []
    for row in rows:
        table = pd.read_csv(Path(folder) / row["scan_id"] / f"{name}.csv", converters=TUPLES)
        table.insert(0, "scan_id", row["scan_id"])
        table.insert(1, "patient_id", row["patient_id"])
        tables.append(table)
    whole = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    return whole.astype({name: bool for name in ("found", "hit") if name in whole})  # a file without rows has no type
