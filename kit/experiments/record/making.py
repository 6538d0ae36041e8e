"""Makes a record: every experiment trained several times at a larger size than a notebook's, and evaluated.

    python -m kit record --budget 20000 --patients 172 --device cuda --dtype bfloat16
    python -m kit record --experiments D D+hard-negatives --seed 2016 --scans 12 --budget 2400 --epochs 12
    python -m kit record --experiments --weights "D (weights)" weights/D.safetensors

Trains each experiment on a synthetic cohort of its own. Whole test scans are mapped (around what exceeds `ABOVE`), and
partitions of them (Table 5.5) in full. Seven tables are written: runs.csv (a row a run: size, seed, commit, hardware,
time), histories.csv, sweeps.csv, points.csv and lesions.csv (whole scans), sampled.csv (partitions, with what a map
finds by chance), borders.csv (`kit.metrics.border_profile`). `kit.experiments.read_record` reads them. At the end some
slices are written with all maps (`kit.experiments.cut_slices`).
A run that was stopped goes on where it was when the same command is given again. Runs that the tables have already are
kept when further ones are made elsewhere.
"""

import subprocess
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from kit.experiments.faults import FAULTS, with_faults
from kit.experiments.recipes import EXPERIMENTS, place_of, run_experiment
from kit.experiments.runs import RunError, check_choices, detector_facts, digest, environment, own_maps, scan_facts
from kit.metrics import (
    PARTITION_MARGIN_MM,
    border_profile,
    chance_recall,
    froc,
    pair,
    partitions,
    pool_profiles,
    score,
    sweep_lesions_of,
)
from kit.models import Detector, weights_metadata
from kit.phantom import make_missing, plan_cohort
from kit.scans import (
    load_map,
    load_row,
    read_manifest,
    search_region,
    select,
    to_own_grid,
    write_manifest,
    write_table,
)

ROOT = Path(__file__).resolve().parents[3]
TABLES = ("runs", "histories", "sweeps", "points", "lesions", "sampled", "borders")
VARIANTS = {  # of an experiment: what `+word` after its name changes, "times" being how often the budget
    "hard-negatives": {"scheme": "hard-negatives"},
    "by-size": {"scheme": "by-size"},
    "hard-by-size": {"scheme": "hard-by-size"},
    "balanced": {"scheme": "balanced"},
    "cohort": {"intensities": "cohort"},
    "patches": {"examples": "patches", "times": 52.5},  # one step of D costs as much as so many patches
    "scanner": {"augment": "scanner"},
    "longer": {"times": 5 / 3},  # D's training then lasts as long as G's, and the FCN's loss stops falling
}
ABOVE = 0.1  # whole scans are mapped around what exceeds it
CHANCE_AT = (0.3, 0.5, 0.7, 0.9, 0.99)  # thresholds of the chance control
ODDS = 1 / (1 + np.exp(-np.arange(0, 17.05, 0.1)))  # thresholds of points.csv, by logit, to where float32 is 1
SCORED = ["scan_id", "patient_id", "threshold", "min_volume_mm3", "tp", "fn", "fp", "dice", "dice_healthy", "slices"]
RATES = (8, 4, 2, 1)  # false positives a scan at which lesions.csv has a row of each lesion, beside fixed thresholds
FATES = [
    "scan_id",
    "patient_id",
    "fp_per_scan",
    "threshold",
    "component",
    "volume_mm3",
    "diameter_mm",
    "size_mm",
    "found",
    "dice",
]


def record_experiment(
    name, table, runs, *, labels="clean", seed=2015, scans=None, device="auto", progress=True, **size
):
    """Run one experiment for the record, or go on with it; its seven tables are written to its folder.

    Parameters
    ----------
    name : str
        A key of `kit.experiments.EXPERIMENTS`, or one with a key of `VARIANTS`, such as "D+hard-negatives".
    table : pandas.DataFrame
        A cohort with training, validation and test scans.
    runs : path
        One subfolder an experiment, kind of labels and seed; the prepared scans are shared.
    labels : str
        A key of `kit.experiments.FAULTS`: the faults of training and validation labels. Test labels stay clean.
    seed : int
    scans : int, optional
        How many test scans are mapped whole, the first ones of the table; by default all. Partitions are of all.
    size
        examples, budget, epochs, validation_patches, dtype and more: see `kit.experiments.run_experiment`.

    Returns
    -------
    pandas.Series
        The run's row of runs.csv.

    Raises
    ------
    kit.experiments.RunError
        Before any work for an unknown experiment, variant or kind of labels, for a variant that is a multiple of a
        budget where none is given in steps, and as `kit.experiments.run_experiment`.
    """
    base, size = experiment_of(name, {"dtype": "float32"} | size, labels=(labels, FAULTS))
    folder, seen = Path(runs) / f"{name}-{labels}-{seed}", table
    if labels != "clean":
        seen = table[table.split.isin(["train", "validation"])]
        seen = with_faults(seen, Path(runs) / f"labels-{labels}-{seed}", labels, seed=seed, progress=progress)
    options = {"cache_dir": Path(runs) / "cache", "seed": seed, "device": device, "progress": progress, **size}
    network, statistics, history = run_experiment(base, seen, folder, **options)
    options = {"scans": scans, "device": device, "progress": progress}
    evaluated = _evaluated(Detector(network, statistics), table, folder, history, **options)
    about = {"scheme": size.get("scheme") or EXPERIMENTS[base].scheme, "examples": size.get("examples", "segments")}
    about |= {"intensities": size.get("intensities", "brain"), "augment": size.get("augment", "none")}
    named = {"experiment": name, "labels": labels, "seed": seed}
    return _write_run(
        named, EXPERIMENTS[base].network, table, history, about | {"dtype": size["dtype"]}, evaluated, folder
    )


def record_weights(name, path, table, runs, *, seed=2015, scans=None, device="auto", progress=True):
    """Evaluate weights that were trained elsewhere for the record, as a run of its own name.

    That none of the test patients was trained on is for the caller to know.

    Parameters
    ----------
    name : str
        Of the run, such as "D (weights)"; not that of an experiment.
    path : path
        Weights with the metadata of a run of this kit. What the table's row says of the training is read from these
        ("unknown" where they are silent), and from `<stem>_history.csv` beside them where it is.
    table, runs, seed, scans
        As for `record_experiment`.

    Returns
    -------
    pandas.Series
        The run's row of runs.csv.

    Raises
    ------
    kit.experiments.RunError
        Before any work for the name of an experiment, or weights that do not say which network they are of; for a name
        under which other weights were evaluated, or these on other test scans.
    """
    said, beside = weights_of(name, path), Path(path).with_name(f"{Path(path).stem}_history.csv")
    known = pd.DataFrame([{"patches_worth": int(said["patches_worth"]), "voxels_learnt": int(said["voxels_learnt"])}])
    history = pd.read_csv(beside) if beside.is_file() else known.assign(epoch=1, seconds=np.nan)
    folder, detector = Path(runs) / f"{name}-clean-{seed}", Detector.load(said["network"], path)
    options = {"scans": scans, "device": device, "progress": progress}
    evaluated = _evaluated(detector, table, folder, history, **options)
    about = {word: said.get(word, "unknown") for word in ("scheme", "examples", "intensities", "augment", "dtype")}
    named = {"experiment": name, "labels": "clean", "seed": seed}
    return _write_run(named, said["network"], table, history, about, evaluated, folder)


def experiment_of(name, size=(), **words):
    """The experiment of a name such as "D" or "D+hard-negatives", and the options of a run with those of the variant.

    RunError for an unknown one, and for a multiple of a budget that is not given, or not in steps.
    `words` are more choices to be checked with it, see `kit.experiments.check_choices`.

    >>> experiment_of("D+cohort")
    ('D', {'intensities': 'cohort'})
    >>> experiment_of("D+patches", {"budget": 2400})
    ('D', {'budget': 126000, 'examples': 'patches'})
    """
    base, _, variant = name.partition("+")
    check_choices(experiment=(base, EXPERIMENTS), **({"variant": (variant, VARIANTS)} if variant else {}), **words)
    size, changed = dict(size), dict(VARIANTS.get(variant, {}))
    if times := changed.pop("times", None):
        if not size.get("budget") or size.get("examples", "segments") != "segments":
            raise RunError(f"{name}: is a multiple of a number of steps; give budget, with examples 'segments'")
        size["budget"] = round(size["budget"] * times)
    return base, size | changed


def weights_of(name, path):
    """The metadata of weights that are to stand in a record under a name of their own.

    RunError for the name of an experiment, or weights that do not say which network they are of, and how far it came.
    """
    if name.partition("+")[0] in EXPERIMENTS:
        raise RunError(f"{name}: is the name of an experiment; give these weights another, such as '{name} (weights)'")
    said = weights_metadata(path)
    if missing := [word for word in ("network", "patches_worth", "voxels_learnt") if word not in said]:
        raise RunError(f"{path}: its metadata lack {', '.join(missing)}; give weights that a run of this kit wrote")
    return said


def gather(runs, out):
    """Put the tables of all finished runs of a folder together, and write them to another.

    Runs that `out` has and `runs` lacks are kept, so that a record can be made in parts and on several machines.
    RunError if they were evaluated on other test scans.
    """
    out, done = Path(out), sorted(path.parent for path in Path(runs).glob("*/borders.csv"))
    tables = {file: _gathered([folder / f"{file}.csv" for folder in done], out / f"{file}.csv") for file in TABLES}
    scans = tables["sampled"]
    if ((scans.tp + scans.fn).groupby(scans.scan_id).nunique() > 1).any():
        raise RunError(
            f"{out}: holds runs on other test scans than those in {runs}; name another folder for the tables"
        )
    out.mkdir(parents=True, exist_ok=True)
    for file, table in tables.items():
        write_table(table.round(10 if file == "points" else 5), out / f"{file}.csv")  # thresholds crowd near 1


def _gathered(paths, before):
    """Tables of runs in one, with the runs that only an earlier table has; ordered as experiments are."""
    whole = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    if before.is_file():
        old = pd.read_csv(before)
        keys, known = (pd.MultiIndex.from_frame(rows[["experiment", "labels", "seed"]]) for rows in (old, whole))
        whole = pd.concat([old[~keys.isin(known)], whole], ignore_index=True)
    whole = whole.assign(order=whole.experiment.map(place_of))
    whole = whole.sort_values(["labels", "order", "experiment", "seed"], kind="stable")
    return whole.drop(columns="order")


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


def _evaluated(detector, table, folder, history, *, scans, **options):
    """A detector's tables of whole test scans and of partitions, and what the run's row says of them."""
    test, visited = select(table, "test"), int(history.patches_worth.iloc[-1])
    parts = folder / f"sampled_{visited}", folder / f"whole_{visited}"  # more training, other folders
    seen = {f"scan {row['scan_id']}": digest(scan_facts(row)) for row in test.to_dict("records")}
    for part in parts:
        own_maps(part, {"detector": detector_facts(detector), **seen})
    sampled = score(detector, test, parts[0], where=partitions, **options)
    whole = score(detector, test.head(len(test) if scans is None else scans), parts[1], above=ABOVE, **options)
    about = {"test_scans": len(whole.scans), "test_lesions": len(whole.lesions)}
    return about | {"evaluation_seconds": round(whole.scans.seconds.sum())}, {
        "sweeps": _with_chance(_thinned(whole.sweep), test, parts[1]),
        "points": _at_odds(whole.points), "lesions": _fates(whole, test, parts[1]),
        "sampled": _with_chance(sampled.sweep.query("min_volume_mm3 == 0"), test, parts[1], PARTITION_MARGIN_MM),
        "borders": _borders(test, parts[0]),
    }  # fmt: skip


def _write_run(named, network, table, history, about, evaluated, folder):
    """Write the seven tables of a run and return its row: what was trained, on how much, how fast, what it found."""
    found, tables = evaluated
    visited, seconds = int(history.patches_worth.iloc[-1]), history.seconds.sum() or None  # None: not known
    run = {
        **named, "network": network,
        "voxels_learnt": int(history.voxels_learnt.iloc[-1]), "patches_worth": visited, "epochs": len(history),
        "training_scans": int((table.split == "train").sum()),
        "test_scans": found["test_scans"], "test_lesions": found["test_lesions"],
        "training_seconds": seconds and round(seconds), "patches_per_second": seconds and round(visited / seconds, 1),
        "evaluation_seconds": found["evaluation_seconds"],
        **about, **_circumstances(folder, visited),
    }  # fmt: skip
    for file, part in ({"runs": pd.DataFrame([run]), "histories": history} | tables).items():
        part = part.assign(**named)
        write_table(part[[*named, *part.columns.difference(list(named), sort=False)]], folder / f"{file}.csv")
    return pd.Series(run)


def _thinned(sweep):
    """All thresholds without a minimum volume, and all minimum volumes at 0.5: the rest would be megabytes."""
    return sweep[(sweep.min_volume_mm3 == 0) | (sweep.threshold == 0.5)]


def _at_odds(points):
    """A scan's operating points at the thresholds `ODDS`, where its counts change: the lowest one not below each."""
    rows = []
    for _, scan in points.groupby("scan_id", sort=False):
        scan = scan.sort_values("threshold", ascending=False)
        at = np.searchsorted(-scan.threshold.to_numpy(), -ODDS, side="right") - 1
        nothing = scan.iloc[0].tp * 0  # above the scan's first point nothing is predicted
        part = scan.iloc[np.maximum(at, 0)].assign(threshold=ODDS)
        part.loc[at < 0, ["tp", "fp"]] = nothing
        part = part[(part[["tp", "fp"]].diff(-1) != 0).any(axis=1)]  # of equal counts the highest threshold says all
        rows.append(part.assign(fn=scan.tp.iloc[0] + scan.fn.iloc[0] - part.tp))
    return pd.concat(rows, ignore_index=True)[["scan_id", "patient_id", "threshold", "tp", "fn", "fp"]]


def _fates(whole, test, folder):
    """What becomes of each lesion, at fixed thresholds and where there are 8, 4, 2 and 1 false positives a scan."""
    curve, parts = froc(whole.points), [whole.lesion_sweep.query("min_volume_mm3 == 0").assign(fp_per_scan=np.nan)]
    allowed = {rate: curve[curve.fp_per_scan <= rate] for rate in RATES}
    at = {rate: rows.threshold[rows.recall.idxmax()] for rate, rows in allowed.items() if len(rows)}
    for row in test[test.scan_id.isin(whole.scans.scan_id)].to_dict("records"):
        scan = load_row(row, spacing_mm=None)  # where maps are scored
        pairing = pair(load_map(folder / row["scan_id"] / "map.nii.gz", scan), scan.label, scan.spacing_mm)
        for rate, threshold in at.items():
            found = sweep_lesions_of(pairing, (threshold,), (0,))
            parts.append(found.assign(fp_per_scan=rate, scan_id=row["scan_id"], patient_id=row["patient_id"]))
    return pd.concat(parts, ignore_index=True)[FATES]


def _with_chance(sweep, test, folder, margin_mm=None):
    """A sweep with what `kit.metrics.chance_recall` counts, at a few thresholds of the scans that have a whole map."""
    parts = [pd.DataFrame(columns=["scan_id", "threshold", "min_volume_mm3", "placed", "hits"])]
    for row in test.to_dict("records"):
        if (path := folder / row["scan_id"] / "map.nii.gz").is_file():
            scan = load_row(row, spacing_mm=None)  # where maps are scored
            region = to_own_grid(search_region(load_row(row), row), scan)
            options = {"spacing_mm": scan.spacing_mm, "margin_mm": margin_mm, "thresholds": CHANCE_AT, "draws": 2}
            found = chance_recall(load_map(path, scan), scan.label, region, **options)
            parts.append(found.assign(scan_id=row["scan_id"], min_volume_mm3=0))
    keys = ["scan_id", "threshold", "min_volume_mm3"]
    return sweep[SCORED].merge(pd.concat(parts[len(parts) > 1 :]), on=keys, how="left", validate="one_to_one")


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
