"""Preparing a large cohort: time and peak memory, by number of scans and of processes.

    python benchmarks/preparation.py --scans 25 100 --workers 1 2 --side 96

Scans are noise in a ball with a lesion, made in a temporary folder; each is a file of its own. Memory is the peak of
this process and of its largest child. A second call finds everything prepared and only checks it.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from kit.samplers import prepare


def made_up(folder, scans, side):
    """Files of so many scans of side x side x side voxels; returns the manifest's rows."""
    grid = np.indices((side,) * 3) - (side - 1) / 2
    radius = np.sqrt((grid**2).sum(axis=0))
    label = (np.abs(grid[0] - side / 5) < 4) & (radius < side / 3)
    nibabel.save(nibabel.Nifti1Image(label.astype(np.uint8), np.eye(4)), folder / "label.nii.gz")
    rows = []
    for number in range(scans):
        noise = np.random.default_rng(number).normal(300, 60, radius.shape).clip(50)
        image = np.where(radius < 0.45 * side, noise + 300 * label, 0).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"s{number}.nii.gz")
        rows.append({"scan_id": f"s{number}", "image": str(folder / f"s{number}.nii.gz")})
    return pd.DataFrame(rows).assign(label=str(folder / "label.nii.gz"), mask="", lesion_codes="")


def peak_mb(who):
    return resource.getrusage(who).ru_maxrss / 1024


def measure(scans, workers, side):
    """Prepare a new cohort, and again; print what it took. In a process of its own: peaks only grow."""
    with tempfile.TemporaryDirectory() as folder:
        table = made_up(Path(folder), scans, side)
        before, took = peak_mb(resource.RUSAGE_SELF), []
        for _ in range(2):
            begun = time.perf_counter()
            prepare(table, Path(folder, "cache"), intensities="scan", workers=workers, progress=False)
            took.append(time.perf_counter() - begun)
        peaks = f"{before:.0f} MB before, {peak_mb(resource.RUSAGE_SELF):.0f} after"
        largest = peak_mb(resource.RUSAGE_CHILDREN)
    print(
        f"{scans} scans, {workers} process(es): {took[0]:.1f} s, again {took[1]:.1f} s; {peaks}, child {largest:.0f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=96)
    given = parser.parse_args()
    if len(given.scans) == len(given.workers) == 1:
        measure(given.scans[0], given.workers[0], given.side)
    else:
        for scans in given.scans:
            for workers in given.workers:
                size = ["--scans", str(scans), "--workers", str(workers), "--side", str(given.side)]
                subprocess.run([sys.executable, __file__, *size], check=True)
