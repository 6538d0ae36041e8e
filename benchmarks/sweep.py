"""What one labelling for all thresholds saves, and what a sweep over a cohort keeps in memory.

    python benchmarks/sweep.py [--scans 50] [--repeats 3]

Prints CSV lines. The map and the truth are made up (160 x 256 x 256): smooth noise inside an ellipsoid with
some 1,700 components, and 20 lesions. The plain way is what one writes with scipy: for every threshold, label what
reaches the lower threshold, keep components that reach the upper one, measure them, match them, and compute both Dice
coefficients. Both ways have to give the same counts and the same Dice for all 20 thresholds.
"""

import argparse
import resource
from time import perf_counter

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.experiments import environment
from kit.metrics import THRESHOLDS, dice, match, sweep
from kit.scans import lesion_table

SHAPE = (160, 256, 256)
TOUCHING = np.ones((3, 3, 3))
SPACING = (1.0, 1.0, 1.0)


def main(scans=50, repeats=3):
    print("what,value,unit,cpu")
    cpu = environment()["hardware"]["cpu_capability"]

    def tell(what, value, unit):
        print(f"{what},{value},{unit},{cpu}", flush=True)

    probability, truth = made_up(0)
    ours, fast = best(lambda: sweep(probability, truth, THRESHOLDS, (0,)), repeats)
    counts, slow = best(lambda: relabelled(probability, truth, THRESHOLDS), 1)
    same = ours[["tp", "fn", "fp"]].values.tolist() == [list(row[:3]) for row in counts]
    close = np.allclose(ours[["dice", "dice_healthy"]], [row[3:] for row in counts])
    tell("same counts and Dice", same and close, "")
    tell("sweep of 20 thresholds", round(1000 * fast, 1), "ms")
    tell("relabelling at each with scipy", round(1000 * slow), "ms")
    tell("ratio", round(slow / fast, 1), "")
    before = peak_mb()
    started = perf_counter()
    for seed in range(scans):
        sweep(*made_up(seed))
    tell(f"{scans} scans, all thresholds and minimum volumes", round(perf_counter() - started, 1), "s with making them")
    tell("largest memory before", before, "MB")
    tell("largest memory after", peak_mb(), "MB")


def best(work, repeats):
    """A result, and the shortest time it took in seconds."""
    times = []
    for _ in range(repeats):
        started = perf_counter()
        result = work()
        times.append(perf_counter() - started)
    return result, min(times)


def relabelled(probability, truth, thresholds):
    """The plain way: (tp, fn, fp, dice, dice_healthy) of every threshold."""
    rows = []
    for threshold in thresholds:
        lesions, kept = lesion_table(truth, SPACING), hysteresis(probability, threshold, min(threshold, 0.2))
        numbers, count = ndimage.label(kept, structure=TOUCHING)
        voxels = np.nonzero(numbers)
        owner = numbers[voxels]
        size = np.bincount(owner, minlength=count + 1)[1:]
        centre = np.transpose([np.bincount(owner, place, count + 1)[1:] for place in voxels]) / size[:, None]
        predicted = pd.DataFrame({"component": range(1, count + 1), "voxels": size, "volume_mm3": 1.0 * size})
        tp = len(match(lesions, predicted.assign(centre=list(centre)), SPACING))
        rows.append((tp, len(lesions) - tp, count - tp, dice(kept, truth), dice(~kept, ~truth)))
    return rows


def hysteresis(probability, threshold, low):
    numbers, count = ndimage.label(probability >= np.float32(low), structure=TOUCHING)
    reaches = np.zeros(count + 1, bool)
    reaches[numbers[probability >= np.float32(threshold)]] = True
    reaches[0] = False
    return reaches[numbers]


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
    parser.add_argument("--scans", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    main(**vars(parser.parse_args()))
