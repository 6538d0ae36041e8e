"""The arguments of each command of `python -m kit`: a function a command, which gets `add_argument`."""

import argparse
import os
from pathlib import Path

from kit.experiments import EXAMPLES, EXPERIMENTS, FAULTS, ROOT, VARIANTS
from kit.metrics import RULES
from kit.models import NETWORKS
from kit.samplers import SCHEMES
from kit.scans import COLLECTIONS, SEARCHES

TRAINING_S, QUICK_S = 48 * 3600, 1800  # what a cell may take: at full scale, or at quick
EXPORTS = ("maps", "lesions", "nnunet")


def run(add):
    """A notebook, where its executed copy goes, and parameters."""
    add("notebook", help="a path, or the name of one in notebooks/")
    add("-o", "--output", required=True, help="where the executed notebook goes")
    value = "one of its parameters, as often as needed; lists as 0.1,0.5; relative paths start from the notebook"
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    add("--timeout", type=_count, default=TRAINING_S, help="seconds a cell may take (%(default)s)")


def commit(add):
    """How many notebooks run at a time, and how long a cell may take."""
    add("--jobs", type=_count, default=min(4, os.cpu_count() or 1), help="notebooks at a time (%(default)s)")
    add("--timeout", type=_count, default=QUICK_S, help="seconds a cell may take (%(default)s)")


def demo(add):
    """As `commit`, and where the pages go."""
    commit(add)
    add("--out", default="runs/demo", help="folder of the pages (%(default)s)")


def import_(add):
    """A collection by its word, its folder, and patterns of one's own."""
    add("name", help=f"of {', '.join(COLLECTIONS)}")
    add("folder", type=Path, help="where the collection was unpacked")
    add("--image", help="for pairs: pattern of the images, such as '{patient}_{session}_t1gd.nii.gz' (none)")
    add("--label", help="for pairs: pattern of their labels (none)")
    add("--lesion-codes", help="for pairs and bids: label values that are lesion, such as '1;3' (all above 0)")


def check(add):
    """One or several manifests."""
    add("manifests", nargs="+", type=Path, metavar="MANIFEST", help="one or several")
    add("--data-root", type=Path, help="folder that their paths start from (each manifest's own)")


def split(add):
    """A manifest, and shares of its patients or a number of folds."""
    add("manifest", type=Path, help="table of the scans and their labels")
    add("--test", type=_part, default=0.2, help="share of the patients (%(default)s)")
    add("--validation", type=_part, default=0.15, help="share of the patients (%(default)s)")
    add("--folds", type=_count, help="deal out all but the test patients to so many folds instead (none)")
    add("--fold", type=_count, default=1, help="the fold that is for validation (%(default)s)")
    add("--seed", type=int, default=2015, help="of the lot (%(default)s)")
    add("--data-root", type=Path, help="folder that the manifest's paths start from (the manifest's own)")


def register(add):
    """A manifest with several sessions, and where the records go."""
    add("manifest", type=Path, help="table of the scans and their labels")
    add("-o", "--output", type=Path, required=True, help="folder of the records, pairs.csv and missing_lesions.csv")
    add("--jobs", type=_count, default=1, help="processes that register (%(default)s)")
    add("--spacing", type=float, default=1.0, help="voxel size in mm at which scans are compared (%(default)s)")
    add("--data-root", type=Path, help="folder that the manifest's paths start from (the manifest's own)")


def phantom(add):
    """A manifest with synthetic scans."""
    add("manifest", type=Path, help="such as data_manifest.csv")


def record(add):
    """Experiments, the size of their trainings, and the cohort."""
    add("--experiments", nargs="*", default=list(EXPERIMENTS), metavar="NAME",
        help=f"of {', '.join(EXPERIMENTS)} (all); what differs may follow: D+{', D+'.join(VARIANTS)}")  # fmt: skip
    add("--weights", nargs=2, action="append", default=[], metavar=("NAME", "FILE"),
        help="trained weights that are evaluated beside them, under a name of their own (none)")  # fmt: skip
    add("--labels", default="clean", choices=FAULTS, help="faults of the training labels (%(default)s)")
    add("--patients", type=_count, default=96, help="of the cohort, 7 in 12 for training (%(default)s)")
    add("--cohort-seed", type=int, default=2016, help="the built-in cohort has 2015 (%(default)s)")
    add("--examples", default="segments", choices=EXAMPLES, help="what is learnt from (%(default)s)")
    add("--budget", type=_count, default=5000, help="steps on segments, or patches to visit in all (%(default)s)")
    add("--epochs", type=_count, default=20, help="over which they are spread (%(default)s)")
    add("--scheme", default="", help=f"of sampling: {', '.join(SCHEMES)} (each experiment's own)")
    add("--search", default="head", choices=SEARCHES, help="region of healthy voxels (%(default)s)")
    add("--validation-patches", type=_count, default=4000, help="classified after each epoch (%(default)s)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="of training (%(default)s)")
    add("--device", default="auto", help="auto, cpu or cuda; auto takes a GPU where there is one (%(default)s)")
    add("--threads", type=_count, help="of the CPU (torch's choice)")
    add("--jobs", type=_count, default=1, help="processes that prepare scans (%(default)s)")
    add("--seed", type=int, default=2015, help="of weights, draws and faults (%(default)s)")
    add("--scans", type=_count, help="whole test scans that are mapped (all)")
    add("--runs", type=Path, default=ROOT / "runs" / "record", help="working folder (runs/record of the repository)")
    add("--out", type=Path, default=ROOT / "results" / "record", help="of the tables (results/record, there too)")


def related(add):
    """A cohort, and trained networks to compare with."""
    pair = {"nargs": 2, "action": "append", "default": []}
    add("manifest", type=Path, help="of a cohort with training, validation and test scans")
    add("--network", **pair, metavar=("NAME", "WEIGHTS"), help="a trained network (none)")
    add("--maps", **pair, metavar=("NAME", "FOLDER"), help="its maps of whole heads, in place of making them (none)")
    add("--unet", type=Path, metavar="RUN", help="folder of a run of kit.experiments.train_unet (none)")
    add("--follow-ups", type=Path, metavar="MANIFEST", help="with second sessions, for the change between (none)")
    add("--scans", type=_count, default=12, help="of the test scans, the first ones (%(default)s)")
    add("--fit-scans", type=_count, default=16, help="of each split, to fit on (%(default)s)")
    add("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    add("--threads", type=_count, help="of the CPU (torch's choice)")
    add("--work", type=Path, default=ROOT / "runs" / "related", help="working folder (runs/related of the repository)")
    add("--out", type=Path, default=ROOT / "results" / "related", help="of the tables (results/related, there too)")


def score(add):
    """A folder of maps or masks, a manifest, and the rule of matching."""
    add("predictions", type=Path, help="folder with one map a scan")
    add("manifest", type=Path, help="table of the scans and their labels")
    add("-o", "--output", type=Path, help="new folder for tables and report.html (runs/scores/NAME)")
    add("--split", default="test", help="train, validation or test: first sessions; all: every label (%(default)s)")
    add("--rule", default="thesis", choices=list(RULES), help="how findings are matched (%(default)s)")
    add("--threshold", type=_share, default=0.5, help="upper threshold of hysteresis (%(default)s)")
    add("--low", type=_share, default=0.2, help="lower threshold of hysteresis (%(default)s)")
    add("--min-volume", type=float, default=0.0, help="mm3 that a finding needs at least (%(default)s)")
    add("--jobs", type=_count, default=1, help="processes that score (%(default)s)")
    add("--data-root", type=Path, help="folder that the manifest's paths start from (the manifest's own)")


def export(add):
    """What is written, of which scans, and where."""
    add("what", choices=EXPORTS, help="maps and masks with a list of findings; lesions: a list; nnunet: a dataset")
    add("manifest", type=Path, help="table of the scans")
    add("out", type=Path, help="new folder; for lesions a CSV file; for nnunet named such as Dataset101_Metastases")
    add("--predictions", type=Path, help="folder with one map a scan, as for score (none)")
    add("--weights", type=Path, help="of a network that makes the maps instead (none)")
    add("--network", default="D", choices=list(NETWORKS), help="that the weights are of (%(default)s)")
    add("--search", default="head", choices=SEARCHES, help="where the network looks without a mask (%(default)s)")
    add("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    add("--split", default="all", help="train, validation or test: its labelled scans; all (%(default)s)")
    add("--threshold", type=_share, default=0.5, help="upper threshold of the mask (%(default)s)")
    add("--low", type=_share, default=0.2, help="lower threshold of the mask (%(default)s)")
    add("--min-volume", type=float, default=0.0, help="mm3 that a finding needs at least (%(default)s)")
    add("--data-root", type=Path, help="folder that the manifest's paths start from (the manifest's own)")


def _count(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _part(text):
    return 0.0 if text.strip("0.") == "" and "0" in text else _share(text)


def _share(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0 and at most 1")
    return value
