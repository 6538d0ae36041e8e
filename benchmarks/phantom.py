"""Of what use the synthetic scans are: what they cost, what they look like, what is learnt on them alone.

    python benchmarks/phantom.py cost [SCANS]
    python benchmarks/phantom.py looks --manifest data_manifest.csv --out FOLDER
    python benchmarks/phantom.py train --manifest data_manifest.csv --steps 3000 --out FOLDER [--set KEY=VALUE ...]
    python benchmarks/phantom.py real --weights FOLDER/run/weights.safetensors --scans real.csv --out FOLDER

`train` and `real` are the test that counts: D learns on synthetic scans alone, the same number of steps before and
after a change of the generator, and then looks for lesions in patients' scans. `real.csv` is a manifest of yours: scans
without a label are healthy, and whatever is found there is wrong. Maps are kept in FOLDER/maps to be looked at, and
not made again; remove them to map anew.
"""

import argparse
import ast
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kit.experiments import run_experiment
from kit.metrics import sweep, sweep_lesions
from kit.models import Detector
from kit.phantom import compare_scans, make_missing, make_scan, plan_cohort
from kit.phantom.head import template
from kit.scans import load_map, load_row, read_manifest, save_map, search_region, write_table

THETAS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
LARGE_MM = 5.0  # diameter from which a reader would call a lesion one
MOST_FP = 20  # a scan: more, and nobody would look at them


def cost(scans):
    """Print the seconds of one core that a built-in scan takes to be drawn and written."""
    started = time.process_time()
    template()
    print(f"template, once a process: {time.process_time() - started:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        for row in plan_cohort().head(scans).to_dict("records"):
            started = time.process_time()
            make_scan(row | {"image": f"{folder}/image.nii.gz", "label": f"{folder}/label.nii.gz"})
            print(f"{row['scan_id']}: {time.process_time() - started:.1f} s")


def looks(manifest, out, only=()):
    """Measure a manifest's scans and write scans.csv, lesions.csv and spectra.csv."""
    tables = compare_scans(make_missing(chosen(read_manifest(manifest, check_files=False), only)))
    for name, table in zip(("scans", "lesions", "spectra"), tables, strict=True):
        write_table(table, out / f"{name}.csv")
    print(tables[0].round(3).to_string(index=False))


def train(manifest, steps, seed, out, options):
    """Train D on segments with hard negatives; the weights are FOLDER/run/weights.safetensors."""
    table = make_missing(read_manifest(manifest, check_files=False))
    given = {"profile": "full", "scheme": "hard-negatives", "epochs": 20, "validation_patches": 1000} | options
    _, _, history = run_experiment("D", table, out / "run", budget=steps, seed=seed, **given)
    print(history.round(3).to_string(index=False))


def real(weights, scans, out, search="brain", only=()):
    """Map a manifest's scans, and write scans.csv and thetas.csv: what is found and invented at each threshold."""
    detector = Detector.load("D", weights)
    (out / "maps").mkdir(exist_ok=True)
    parts = []
    for row in chosen(read_manifest(scans, check_files=False), only).to_dict("records"):
        started, path = time.perf_counter(), out / "maps" / f"{row['scan_id']}.nii.gz"
        if not path.exists():
            scan = load_row(row)
            save_map(detector(scan.image, search_region(scan, row, search)), scan, path)
        parts.append(counted(row, path))
        half = parts[-1].query("theta == 0.5").iloc[0]
        seen = f"{half.found:.0f} of {half.lesions:.0f} lesions, {half.fp:.0f} FP at theta 0.5"
        print(f"{row['scan_id']}: {seen} ({time.perf_counter() - started:.0f} s)", flush=True)
    table = pd.concat(parts, ignore_index=True)
    summary = summarised(table)
    write_table(table, out / "scans.csv")
    write_table(summary, out / "thetas.csv")
    print(summary.round(3).to_string(index=False))
    print(verdict(summary))


def counted(row, path):
    """Count lesions and findings of a scan on its own grid: one row a threshold."""
    scan = load_row(row, spacing_mm=None)
    truth = np.zeros(scan.image.shape, bool) if scan.label is None else scan.label
    given = (load_map(path, scan), truth, THETAS, (0,))
    lesions = sweep_lesions(*given, spacing_mm=scan.spacing_mm)
    lesions["large"] = lesions.diameter_mm >= LARGE_MM
    rows = []
    for at in sweep(*given, spacing_mm=scan.spacing_mm).itertuples():
        here = lesions[lesions.threshold == at.threshold]
        rows.append(
            {
                "scan_id": row["scan_id"], "healthy": not row["label"], "theta": at.threshold,
                "lesions": len(here), "found": int(here.found.sum()),
                "large": int(here.large.sum()), "large_found": int((here.found & here.large).sum()),
                "fp": at.fp, "dice": at.dice, "dice_of_found": here.dice[here.found].mean(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def summarised(table):
    """One row a threshold over all scans: lesions found, FP a scan with lesions, findings a healthy scan."""
    rows = []
    for theta, part in table.groupby("theta"):
        sick, healthy = part[~part.healthy], part[part.healthy]
        sums = sick[["large_found", "large", "found", "lesions"]].sum()
        mean = {"fp_a_scan": sick.fp.mean(), "most_fp": sick.fp.max(), "findings_healthy": healthy.fp.mean()}
        outlined = (sick.dice_of_found * sick.found).sum() / max(sums.found, 1)
        rows.append({"theta": theta, **sums, **mean, "dice_of_found": outlined if sums.found else np.nan})
    return pd.DataFrame(rows)


def verdict(summary):
    """The threshold that finds most large lesions at no more than 20 FP a scan, in words."""
    allowed = summary[summary.fp_a_scan <= MOST_FP]
    if allowed.empty:
        return f"at no threshold are there at most {MOST_FP} FP a scan"
    best = allowed.sort_values(["large_found", "found", "fp_a_scan"], ascending=[False, False, True]).iloc[0]
    return (
        f"best at no more than {MOST_FP} FP a scan: theta {best.theta:g} finds {best.large_found:.0f} of "
        f"{best.large:.0f} lesions of {LARGE_MM:g} mm and more (all: {best.found:.0f} of {best.lesions:.0f}), with "
        f"{best.fp_a_scan:.1f} FP a scan; findings a healthy scan: {best.findings_healthy:.1f}; Dice of those found: "
        f"{best.dice_of_found:.2f}"
    )


def chosen(table, only):
    """The rows of a manifest table with the scan_ids `only`; all rows without."""
    missing = set(only) - set(table.scan_id)
    if missing:
        raise SystemExit(f"no scan_id {', '.join(sorted(missing))} in the manifest")
    return table[table.scan_id.isin(only)] if only else table


def setting(text):
    """KEY=VALUE as a pair; numbers, True and None are read as such."""
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def main():
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    words = parser.add_subparsers(dest="word", required=True)
    about = {name: words.add_parser(name, help=work.__doc__) for name, work in WORDS.items()}
    about["cost"].add_argument("scans", type=int, nargs="?", default=3)
    for name in ("looks", "train", "real"):
        about[name].add_argument("--out", type=Path, required=True)
    for name in ("looks", "train"):
        about[name].add_argument("--manifest", type=Path, required=True)
    for name in ("looks", "real"):
        about[name].add_argument("--only", nargs="+", default=(), metavar="SCAN_ID")
    about["train"].add_argument("--steps", type=int, default=3000)
    about["train"].add_argument("--seed", type=int, default=2015)
    about["train"].add_argument("--set", dest="options", type=setting, nargs="+", default=[], metavar="KEY=VALUE")
    about["real"].add_argument("--weights", type=Path, required=True)
    about["real"].add_argument("--scans", type=Path, required=True)
    about["real"].add_argument("--search", default="brain", choices=("brain", "head"))
    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    if "options" in given:
        given["options"] = dict(given["options"])
    if "out" in given:
        given["out"].mkdir(parents=True, exist_ok=True)
    WORDS[given.pop("word")](**given)


WORDS = {"cost": cost, "looks": looks, "train": train, "real": real}

if __name__ == "__main__":
    main()
