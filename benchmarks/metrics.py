"""What scoring one map costs, with all its tables, and what one labelling for all thresholds saves.

    python benchmarks/metrics.py [--repeats 3]

Prints CSV lines. The map and the truth are made up (160 x 256 x 256): smooth noise inside an ellipsoid with some 1,700
components from 0.1 on, 793 from 0.2 on, and 20 lesions. The plain way is what one writes with scipy: for every
threshold, label what reaches the lower threshold and keep the components that reach the upper one. Both ways have to
give the same Dice for all 20 thresholds.
"""

import argparse
import resource
from time import perf_counter

import numpy as np
from scipy import ndimage

from kit.experiments import environment
from kit.metrics import THRESHOLDS, dice, score_scan, sweep
from kit.scans import Grid, Scan

SHAPE = (160, 256, 256)
TOUCHING = np.ones((3, 3, 3))


def main(repeats=3):
    print("what,value,unit,cpu")
    cpu = environment()["hardware"]["cpu_capability"]

    def show(what, value, unit):
        print(f"{what},{value},{unit},{cpu}", flush=True)

    probability, truth = made_up(0)
    scan = Scan(None, truth, (1.0, 1.0, 1.0), np.eye(4), Grid(SHAPE, np.eye(4)))
    before = peak_mb()
    row = {"scan_id": "s", "patient_id": "p"}
    _, seconds = best(lambda: score_scan(probability, scan, row, probability > 0), repeats)
    show("all tables of a map", round(seconds, 2), "s")
    show("largest memory before and after", f"{before} and {peak_mb()}", "MB")
    ours, fast = best(lambda: sweep(probability, truth, THRESHOLDS, (0,)), repeats)
    plain, slow = best(lambda: [relabelled(probability, truth, threshold) for threshold in THRESHOLDS], 1)
    show("same Dice", np.allclose(ours.dice, plain), "")
    show("sweep of 20 thresholds", round(1000 * fast, 1), "ms")
    show("relabelling at each with scipy", round(1000 * slow), "ms")


def best(work, repeats):
    """A result, and the shortest time it took in seconds."""
    times = []
    for _ in range(repeats):
        started = perf_counter()
        result = work()
        times.append(perf_counter() - started)
    return result, min(times)


def relabelled(probability, truth, threshold):
    """The plain way: Dice at one threshold."""
    numbers, count = ndimage.label(probability >= np.float32(min(threshold, 0.2)), structure=TOUCHING)
    reaches = np.zeros(count + 1, bool)
    reaches[numbers[probability >= np.float32(threshold)]] = True
    reaches[0] = False
    return dice(reaches[numbers], truth)


def made_up(seed):
    """A map with some 1,700 components from 0.1 on, and 20 lesions, some of which it finds."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), 2)
    noise *= np.float32(3) / noise.std()
    noise -= 7
    truth = np.zeros(SHAPE, bool)
    for centre in rng.integers(40, 120, (20, 3)):
        low = centre - rng.integers(1, 5)
        truth[tuple(slice(a, 2 * c - a) for a, c in zip(low, centre, strict=True))] = True
    noise[truth] += 6
    np.exp(-noise, out=noise)
    noise += 1
    np.reciprocal(noise, out=noise)
    axes = [((np.arange(n, dtype=np.float32) / n - 0.5) / 0.42) ** 2 for n in SHAPE]
    noise *= axes[0][:, None, None] + axes[1][:, None] + axes[2] < 1
    return noise, truth


def peak_mb():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    main(**vars(parser.parse_args()))
