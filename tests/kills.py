"""Work killed at random moments and taken up again: it must end in the same bytes, and lose nothing that was finished.

    PYTHONPATH=. python tests/kills.py --kills 50

Each kind of work runs in children forked from one process that has imported everything. A child is killed by SIGKILL
at a random moment of the time that undisturbed work takes, and another goes on in the same folder, until the work is
done; then every file is compared with those of undisturbed work, but for times of the clock. After each kill what was
finished before must still be there, unchanged.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from small_scans import write_cohort

from kit.experiments import EXPERIMENTS, Experiment, Run, run_experiment
from kit.metrics import score
from kit.models import NETWORKS, Network
from kit.samplers import prepare
from kit.viewer import VERDICTS, VerdictBook

CLOCK = {"history.csv": "seconds", "scans.csv": "seconds", "verdicts.csv": "marked"}  # columns that tell the time
LONGEST_CHAIN = 8  # kills of one folder before its work is let through
SHAPE = (8, 72, 72)
TINY = Network("Tiny", (3, 15, 15), "conv3-4 mp-3-2 conv3-8", (16, 2))  # a step takes milliseconds


def training(examples):
    size = {"budget": 24 if examples == "segments" else 24 * 64, "epochs": 24, "validation_patches": 64}
    options = {"examples": examples, "intensities": "scan", "dtype": "float32", "device": "cpu", "progress": False}

    def work(table, folder):
        run_experiment("Tiny", table, folder / "run", **options, **size, seed=3)

    def finished(folder):
        found = Run(folder / "run", {}).load_checkpoint()
        rows = [] if found is None else found[1]["progress"]["history"]
        return {row["epoch"]: row["train_loss"] for row in rows}

    return work, finished


def preparing(table, folder):
    prepare(table, folder / "cache", intensities="scan", progress=False)


def prepared(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cache/*/facts.json")}


def evaluating(table, folder):
    score(found_bright, table, folder / "scores", progress=False)


def found_bright(image, mask):
    """In place of a detector: what is brighter than most is lesion."""
    return np.where(mask, np.clip((image - 400) / 800, 0, 1), 0).astype(np.float32)


def evaluated(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("scores/*/settings.json")}


def judging(table, folder):
    """Verdicts on thirty errors; each is noted beside as soon as the book has it."""
    book = VerdictBook(folder / "verdicts.csv")
    for number in range(30):
        error = {"scan_id": "s1", "kind": "FP", "component": number, "slice": 1.0, "row": 2.0, "column": float(number)}
        if not book.of(error)[0]:
            book.mark(error, VERDICTS[number % 3])
        (folder / f".noted-{number}").touch()


def judged(folder):
    """What was noted, and is in the book: a verdict that is noted and missing is lost."""
    noted = [int(path.name.removeprefix(".noted-")) for path in folder.glob(".noted-*")]
    if not noted:
        return {}
    book = VerdictBook(folder / "verdicts.csv").table.set_index("component").verdict
    return {number: book.get(number, book.get(str(number))) or "lost" for number in noted}


WORK = {
    "training on patches": training("patches"),
    "training on segments": training("segments"),
    "preparation": (preparing, prepared),
    "evaluation": (evaluating, evaluated),
    "verdicts": (judging, judged),
}


def run(kind, kills, rng, root):
    """Kill one kind of work so often; returns how often, in how many folders, and what the kills met."""
    work, finished = WORK[kind]
    table = write_small_cohort(root)
    whole, done, folders, met = root / "whole", 0, 0, set()
    begun = time.perf_counter()
    assert attempt(work, table, whole) == "finished"
    took = time.perf_counter() - begun
    wanted = contents(whole)
    while done < kills:
        folder, ended, chain, before = root / f"killed{folders}", "", 0, {}
        while ended != "finished":
            last = chain == LONGEST_CHAIN or done == kills
            ended = attempt(work, table, folder, None if last else rng.uniform(0, took))
            done, chain = done + (ended == "killed"), chain + (ended == "killed")
            now = finished(folder) if folder.exists() else {}
            assert {key: now.get(key) for key in before} == before, f"lost: {before} is now {now}"
            assert "lost" not in now.values()
            met.add(len(now))
            before = now
        difference = compared(contents(folder), wanted)
        assert not difference, f"{kind} ended in other files after {chain} kills: {difference}"
        folders += 1
    return {"kills": done, "folders": folders, "finished parts met": sorted(met), "seconds undisturbed": round(took, 1)}


def write_small_cohort(root):
    (root / "scans").mkdir()
    table = write_cohort(root / "scans", range(1, 7), lesions=2, shape=SHAPE)
    splits = ["train"] * 3 + ["validation"] + ["test"] * 2
    return table.assign(patient_id=[f"p{number}" for number in range(6)], session=1, split=splits)


def attempt(work, table, folder, seconds=None):
    """Do the work in a child: "finished", or "killed" where it was not done after so many seconds."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(table, folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # one that has ended waits to be asked, so that its number is still its own
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"the work failed after an earlier kill: exit code {code}"
    return "killed" if code else "finished"


def contents(folder):
    """What each file of a folder holds; parts that a killed process left lie hidden and are nobody's."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): held(path) for path in files if "contents" not in path.parts}


def held(path):
    if path.name in CLOCK:
        table = pd.read_csv(path)
        return table.drop(columns=CLOCK[path.name], errors="ignore").to_csv(index=False).encode()
    return path.read_bytes()


def compared(found, wanted):
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each kind of work (%(default)s)")
    parser.add_argument("--seed", type=int, default=2015, help="of the moments (%(default)s)")
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=WORK, help="kinds (all)")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads of a parent do not live on in its children
    stop_the_clock()
    NETWORKS["Tiny"], EXPERIMENTS["Tiny"] = TINY, Experiment("Tiny", "balanced")
    for kind in given.work:
        with tempfile.TemporaryDirectory() as root:
            print(f"{kind}: {run(kind, given.kills, random.Random(given.seed), Path(root))}", flush=True)


def stop_the_clock():
    """Checkpoints hold how long epochs took; here they take no time, so that all else can be compared to the byte."""
    sys.modules["kit.experiments.training"].perf_counter = lambda: 0.0


if __name__ == "__main__":
    main()
