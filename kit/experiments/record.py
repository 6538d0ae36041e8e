"""The thesis' experiments at a larger size than a notebook's, for the record: `results/`.

    python -m kit record --patches 7000000 --patients 172 --device cuda --dtype bfloat16
    python -m kit record --experiments G-Pairs G-Eroded-Pairs --labels faulty --patches 96000

Trains each experiment on a synthetic cohort of its own, evaluates it on partitions of the test scans (Table 5.5) and
writes five tables: runs.csv (a row a run: size, seed, commit, hardware, time), histories.csv, sweeps.csv, lesions.csv
and borders.csv (`kit.metrics.border_profile` over all test scans).
Stopped, it goes on where it was when the same command is given again.
"""

import subprocess
from datetime import date
from pathlib import Path

import pandas as pd

from kit.experiments.faults import with_faults
from kit.experiments.recipes import EXPERIMENTS, run_experiment
from kit.experiments.runs import environment
from kit.metrics import border_profile, partitions, pool_profiles, score
from kit.models import Detector
from kit.phantom import make_missing, plan_cohort
from kit.scans import ScanError, load_map, load_row, read_manifest, select

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("runs", "histories", "sweeps", "lesions", "borders")
SWEEP_COLUMNS = [
    "scan_id",
    "patient_id",
    "threshold",
    "min_volume_mm3",
    "tp",
    "fn",
    "fp",
    "dice",
    "dice_healthy",
    "slices",
]
LESION_COLUMNS = ["scan_id", "patient_id", "component", "volume_mm3", "diameter_mm", "size_mm", "found"]


def record_experiment(name, table, runs, *, labels="clean", seed=2015, device="auto", progress=True, **size):
    """Run one experiment for the record, or go on with it; its tables end up in its folder.

    Parameters
    ----------
    name : str
        A key of `kit.experiments.EXPERIMENTS`.
    table : pandas.DataFrame
        A cohort with training, validation and test scans.
    runs : path
        One subfolder an experiment and kind of labels; the prepared scans are shared.
    labels : str
        A key of `kit.experiments.FAULTS`: what training and validation labels suffer from. Test labels stay clean.
    size
        patches, epochs, validation_patches, dtype: see `kit.experiments.run_experiment`.

    Returns
    -------
    pandas.Series
        The run's row of runs.csv.
    """
    folder, faulty = Path(runs) / f"{name}-{labels}", table
    if labels != "clean":
        seen = table[table.split.isin(["train", "validation"])]
        faulty = with_faults(seen, Path(runs) / f"labels-{labels}", labels, seed=seed, progress=progress)
    given = {"cache_dir": Path(runs) / "cache", "seed": seed, "device": device, "progress": progress, **size}
    network, statistics, history = run_experiment(name, faulty, folder, **given)
    test = select(table, "test")
    visited, seconds = int(history.patches_visited.iloc[-1]), history.seconds.sum()
    sampled = folder / f"sampled_{visited}"  # more training, another folder
    given = {"where": partitions, "device": device, "progress": progress}
    found = score(Detector(network, statistics), test, sampled, **given)
    told = {"experiment": name, "labels": labels}
    row = told | {
        "network": EXPERIMENTS[name].network, "scheme": EXPERIMENTS[name].scheme, "patches_visited": visited,
        "epochs": len(history), "training_scans": int((table.split == "train").sum()), "test_scans": len(test),
        "test_lesions": len(found.lesions), "training_seconds": round(seconds), "patches_per_second": visited / seconds,
        "evaluation_seconds": round(found.scans.seconds.sum()), "seed": seed, "dtype": size.get("dtype", "float32"),
        **_circumstances(folder, visited),
    }  # fmt: skip
    runs_row = pd.DataFrame([row]).round({"patches_per_second": 1})
    parts = runs_row, history, _thinned(found.sweep), found.lesions, _borders(test, sampled)
    for file, part in zip(TABLES, parts, strict=True):
        columns = {"sweeps": SWEEP_COLUMNS, "lesions": LESION_COLUMNS}.get(file, list(part))
        part = part[columns].assign(**told) if file == "runs" else part[columns].assign(**told)[[*told, *columns]]
        part.to_csv(folder / f"{file}.csv", index=False)
    return pd.Series(row)


def gather(runs, out):
    """Put the tables of all finished runs of a folder together, and write them to another."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    done = sorted(path.parent for path in Path(runs).glob("*/borders.csv"))
    for file in TABLES:
        whole = pd.concat([pd.read_csv(folder / f"{file}.csv") for folder in done], ignore_index=True)
        order = whole.experiment.map({name: at for at, name in enumerate(EXPERIMENTS)})
        whole = whole.assign(order=order).sort_values(["labels", "order"], kind="stable").drop(columns="order")
        whole.round(5).to_csv(out / f"{file}.csv", index=False, lineterminator="\n")


def record_cohort(folder, patients, seed):
    """The synthetic cohort of a record, planned, made where files are missing, and read as a manifest."""
    path = Path(folder) / "manifest.csv"
    planned = plan_cohort(patients, seed, folder="scans", follow_ups=0)
    told = ["scan_id", "split", "source"]
    if path.is_file() and not pd.read_csv(path, dtype=str).reindex(columns=told).equals(planned[told].astype(str)):
        raise ScanError(
            f"{path}: holds another cohort than the {patients} patients of seed {seed} asked for; choose another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    planned.to_csv(path, index=False)
    return make_missing(read_manifest(path, check_files=False))


def _thinned(sweep):
    """All thresholds without a minimum volume, and all minimum volumes at 0.5: the rest would be megabytes."""
    return sweep[(sweep.min_volume_mm3 == 0) | (sweep.threshold == 0.5)]


def _borders(test, folder):
    """The border profile over all test scans, from the maps that were written."""
    profiles = []
    for row in test.to_dict("records"):
        scan = load_row(row, spacing_mm=None)  # where maps are scored
        mapped = load_map(folder / row["scan_id"] / "map.nii.gz", scan)
        profiles.append(border_profile(mapped, scan.label, spacing_mm=scan.spacing_mm))
    return pool_profiles(profiles).round(5)


def _circumstances(folder, visited):
    """When, by which version of the code and on what; of a run that was as long before: what was told then."""
    if (folder / "runs.csv").is_file():
        before = pd.read_csv(folder / "runs.csv").iloc[0]
        if before.patches_visited == visited:
            return before[["commit", "date", "hardware", "torch"]].to_dict()
    told = environment()
    hardware = told["hardware"]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    cpu = f"CPU, {hardware['machine']}, {hardware['cpu_capability']}, {hardware['torch_threads']} thread(s)"
    return {
        "commit": found.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
        "hardware": hardware["gpu"] or cpu,
        "torch": told["versions"]["torch"],
    }
