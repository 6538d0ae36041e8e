"""Makes a record: every experiment trained and evaluated at a larger size than a notebook's.

    python -m kit record --budget 20000 --patients 172 --device cuda --dtype bfloat16
    python -m kit record --experiments G-Pairs G-Eroded-Pairs --labels faulty --examples patches --budget 96000

Trains each experiment on a synthetic cohort of its own, evaluates it on partitions of the test scans (Table 5.5) and
writes five tables: runs.csv (a row a run: size, seed, commit, hardware, time), histories.csv, sweeps.csv, lesions.csv
and borders.csv (`kit.metrics.border_profile` over all test scans). `kit.experiments.read_record` reads them.
A run that was stopped goes on where it was when the same command is given again.
"""

import subprocess
from datetime import date
from pathlib import Path

import pandas as pd

from kit.experiments.faults import FAULTS, with_faults
from kit.experiments.recipes import EXPERIMENTS, run_experiment
from kit.experiments.runs import RunError, check_choices, environment
from kit.metrics import border_profile, partitions, pool_profiles, score
from kit.models import Detector
from kit.phantom import make_missing, plan_cohort
from kit.scans import load_map, load_row, read_manifest, select, write_manifest, write_table

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("runs", "histories", "sweeps", "lesions", "borders")
COLUMNS = {  # what is kept of a table; of the others all
    "sweeps": [
        *("scan_id", "patient_id", "threshold", "min_volume_mm3", "tp", "fn", "fp"),
        *("dice", "dice_healthy", "slices"),
    ],
    "lesions": ["scan_id", "patient_id", "component", "volume_mm3", "diameter_mm", "size_mm", "found"],
}


def record_experiment(name, table, runs, *, labels="clean", seed=2015, device="auto", progress=True, **size):
    """Run one experiment for the record, or go on with it; its five tables are written to its folder.

    Parameters
    ----------
    name : str
        A key of `kit.experiments.EXPERIMENTS`.
    table : pandas.DataFrame
        A cohort with training, validation and test scans.
    runs : path
        One subfolder an experiment and kind of labels; the prepared scans are shared.
    labels : str
        A key of `kit.experiments.FAULTS`: the faults of training and validation labels. Test labels stay clean.
    size
        examples, budget, epochs, validation_patches, dtype: see `kit.experiments.run_experiment`.

    Returns
    -------
    pandas.Series
        The run's row of runs.csv.

    Raises
    ------
    kit.experiments.RunError
        Before any work for an unknown experiment or kind of labels, and as `kit.experiments.run_experiment` does.
    """
    check_choices(experiment=(name, EXPERIMENTS), labels=(labels, FAULTS))
    folder, seen = Path(runs) / f"{name}-{labels}", table
    if labels != "clean":
        seen = table[table.split.isin(["train", "validation"])]
        seen = with_faults(seen, Path(runs) / f"labels-{labels}", labels, seed=seed, progress=progress)
    size = {"dtype": "float32"} | size
    options = {"cache_dir": Path(runs) / "cache", "seed": seed, "device": device, "progress": progress, **size}
    network, statistics, history = run_experiment(name, seen, folder, **options)
    visited, test = int(history.patches_worth.iloc[-1]), select(table, "test")
    maps = folder / f"sampled_{visited}"  # more training, another folder
    options = {"where": partitions, "device": device, "progress": progress}
    found = score(Detector(network, statistics), test, maps, **options)
    run = _run_row(name, labels, table, history, found)
    run |= {"scheme": size.get("scheme") or EXPERIMENTS[name].scheme, "examples": size.get("examples", "segments")}
    run |= {"seed": seed, "dtype": size["dtype"], **_circumstances(folder, visited)}
    parts = pd.DataFrame([run]), history, _thinned(found.sweep), found.lesions, _borders(test, maps)
    for file, part in zip(TABLES, parts, strict=True):
        part = part[COLUMNS.get(file, list(part))].assign(experiment=name, labels=labels)
        first = ["experiment", "labels"]
        write_table(part[[*first, *part.columns.difference(first, sort=False)]], folder / f"{file}.csv")
    return pd.Series(run)


def gather(runs, out):
    """Put the tables of all finished runs of a folder together, and write them to another."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    done = sorted(path.parent for path in Path(runs).glob("*/borders.csv"))
    for file in TABLES:
        whole = pd.concat([pd.read_csv(folder / f"{file}.csv") for folder in done], ignore_index=True)
        order = whole.experiment.map({name: at for at, name in enumerate(EXPERIMENTS)})  # those unknown here come last
        whole = whole.assign(order=order).sort_values(["labels", "order"], kind="stable").drop(columns="order")
        write_table(whole.round(5), out / f"{file}.csv")


def record_cohort(folder, patients, seed):
    """The synthetic cohort of a record: planned, its missing files made, and read as a manifest.

    RunError if the folder holds another cohort.
    """
    path = Path(folder) / "manifest.csv"
    planned = plan_cohort(patients, seed, folder="scans", follow_ups=0)
    columns = ["scan_id", "split", "source"]
    if path.is_file() and not pd.read_csv(path, dtype=str).reindex(columns=columns).equals(
        planned[columns].astype(str)
    ):
        raise RunError(
            f"{path}: holds another cohort than the {patients} patients of seed {seed} asked for; choose another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(planned, path)
    return make_missing(read_manifest(path, check_files=False))


def _run_row(name, labels, table, history, found):
    """What was trained, on how much, and how fast: the first columns of runs.csv."""
    experiment, visited, seconds = EXPERIMENTS[name], int(history.patches_worth.iloc[-1]), history.seconds.sum()
    return {
        "experiment": name, "labels": labels, "network": experiment.network,
        "voxels_learnt": int(history.voxels_learnt.iloc[-1]), "patches_worth": visited, "epochs": len(history),
        "training_scans": int((table.split == "train").sum()),
        "test_scans": len(found.scans), "test_lesions": len(found.lesions), "training_seconds": round(seconds),
        "patches_per_second": round(visited / seconds, 1), "evaluation_seconds": round(found.scans.seconds.sum()),
    }  # fmt: skip


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
    """When, by which version of the code and on what hardware; of a run that is only read back, as it was written."""
    if (folder / "runs.csv").is_file():
        before = pd.read_csv(folder / "runs.csv").iloc[0]
        if before.patches_worth == visited:
            return before[["commit", "date", "hardware", "torch"]].to_dict()
    about = environment()
    hardware = about["hardware"]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    cpu = f"CPU, {hardware['machine']}, {hardware['cpu_capability']}, {hardware['torch_threads']} thread(s)"
    return {
        "commit": found.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
        "hardware": hardware["gpu"] or cpu,
        "torch": about["versions"]["torch"],
    }
