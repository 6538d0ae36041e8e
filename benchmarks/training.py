"""Training on segments beside training on patches: voxels a second of each network, in one run.

    python benchmarks/training.py --networks A D G FCN --seconds 20 --dtype float32 --device cpu

A step is a whole one: reading what it learns from, forward, backward, and the step of gradient descent. Scans
are six synthetic heads, made in a temporary folder.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from kit.experiments import train
from kit.models import NETWORKS, build
from kit.phantom import make_missing, plan_cohort
from kit.samplers import COUNT, CROPS, prepare
from kit.scans import read_manifest, select, write_manifest


def cohorts(folder):
    """A training and a validation cohort of a few synthetic patients."""
    write_manifest(plan_cohort(6, seed=1, folder="scans", follow_ups=0), folder / "manifest.csv")
    table = make_missing(read_manifest(folder / "manifest.csv", check_files=False))
    return [prepare(select(table, split), folder / "cache", intensities="scan") for split in ("train", "validation")]


def rate(name, cohort, validation, examples, scheme, seconds, dtype, device):
    """Voxels learnt and classified a second of one way; the first epoch warms up, the second is timed."""
    options = {"dtype": dtype, "device": device, "validation_patches": 32, "progress": False, "hard_scans": 0}
    size = {"steps_per_epoch": 3} if examples == "segments" else {"patches_per_epoch": 32 * 6}
    started = time.perf_counter()
    train(build(name, seed=0), cohort, validation, examples=examples, scheme=scheme, epochs=1, **options, **size)
    factor = max(1, seconds / (time.perf_counter() - started))
    size = {key: max(3, int(value * factor)) for key, value in size.items()}
    history = train(
        build(name, seed=0), cohort, validation, examples=examples, scheme=scheme, epochs=2, **options, **size
    )
    last = history.diff().iloc[-1]
    took = history.seconds.iloc[-1]
    classified = size["steps_per_epoch"] * CROPS * COUNT**2 if examples == "segments" else last.voxels_learnt
    return {
        "learnt/s": last.voxels_learnt / took,
        "classified/s": classified / took,
        "worth/s": last.patches_worth / took,
    }


def main():
    """Print a table, one row a network and way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=10, help="for each way of each network (%(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ways = (("patches", "balanced"), ("segments", "balanced"), ("segments", "hard-negatives"))
    with tempfile.TemporaryDirectory() as folder:
        cohort, validation = cohorts(Path(folder))
        rows = {
            (name, f"{examples}, {scheme}"): rate(
                name, cohort, validation, examples, scheme, given.seconds, given.dtype, given.device
            )
            for name in given.networks
            for examples, scheme in ways
        }
    table = pd.DataFrame(rows).T.rename_axis(["network", "way"])
    first = table["learnt/s"].groupby("network", sort=False).transform("first")
    print(f"{given.threads} threads, {given.dtype}, {given.device}")
    print(table.assign(**{"classified, times": table["classified/s"] / first}).round(1).to_string())


if __name__ == "__main__":
    main()
