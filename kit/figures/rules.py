"""Matching rules (notebook 16): small drawn scans on which they disagree, and the same maps under each of them."""

from textwrap import fill
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from kit.figures.style import BLUE, GREY, RED, SKY, labelled
from kit.metrics import RULES, detect
from kit.scans import components

SHAPE = (5, 9, 22)
MIDDLE = 2  # the slice that is drawn
RATES = {"recall": "recall (%)", "precision": "precision (%)", "fp_per_scan": "false positives a scan"}


class Case(NamedTuple):
    """Boxes of lesions and of predictions, each one string of (slice, row, column) slices, and why rules disagree."""

    lesions: tuple
    predicted: tuple
    reason: str


CASES = {
    "one finding over two lesions": Case(
        ("1:4 2:5 4:8", "1:4 2:5 11:15"), ("1:4 2:5 6:14",),
        "touching both is two hits, one object counts once, its centre lies in neither",
    ),
    "two findings in one lesion": Case(
        ("1:4 2:7 3:18",), ("1:4 3:6 4:8", "1:4 3:6 12:17"),
        "a second piece is a false positive where pairs are one to one",
    ),
    "beside the lesion": Case(
        ("1:4 2:5 8:11",), ("1:4 5:7 8:11",),
        "no voxel in common, but within 5 mm, and within reach of a dilation",
    ),
    "flooded": Case(
        ("1:4 5:8 3:7",), ("0:5 1:8 2:20",),
        "the lesion lies in the finding, whose centre and size are those of something else",
    ),
    "two lesions a voxel apart": Case(
        ("1:4 2:6 4:8", "1:4 2:6 9:13"), ("1:4 2:6 3:8",),
        "BraTS counts them as one lesion, found with either",
    ),
    "a speck in a large lesion": Case(
        ("0:5 1:8 3:18",), ("2:3 4:5 9:11",),
        "inside, so a hit, unless a tenth of the union is asked for",
    ),
}  # fmt: skip


def case_arrays(case):
    """A case as (probability, truth): (slice, row, column) float32, 0 or 1, and bool.

    Examples
    --------
    >>> [int(array.sum()) for array in case_arrays(CASES["beside the lesion"])]
    [18, 27]
    """
    truth, predicted = (np.zeros(SHAPE, bool) for _ in range(2))
    for array, boxes in ((truth, case.lesions), (predicted, case.predicted)):
        for box in boxes:
            array[tuple(slice(*map(int, side.split(":"))) for side in box.split())] = True
    return predicted.astype(np.float32), truth


def count_cases(cases=CASES, rules=RULES):
    """Count hits and errors of every case under every rule, at 1 mm voxels.

    Returns
    -------
    pandas.DataFrame
        One row a case, one column a rule; cells such as "1 of 2, 0 FP".

    Examples
    --------
    >>> count_cases().loc["beside the lesion"].tolist()
    ['1 of 1, 0 FP', '0 of 1, 1 FP', '0 of 1, 1 FP', '1 of 1, 0 FP', '0 of 1, 1 FP']
    """
    rows = {}
    for name, case in cases.items():
        found = {rule: detect(*case_arrays(case), rule=rule) for rule in rules}
        rows[name] = {rule: f"{one.tp} of {one.tp + one.fn}, {one.fp} FP" for rule, one in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def rule_case(ax, case, name=""):
    """Draw the middle slice of a case: lesions filled, predictions outlined, centres of mass as crosses."""
    predicted, truth = (components(array > 0.5)[MIDDLE] for array in case_arrays(case))
    filled = {"facecolor": SKY, "edgecolor": "white", "linewidth": 0.5}
    ax.add_collection(PatchCollection(_squares(truth), **filled))
    ax.add_collection(PatchCollection(_squares(predicted, 0.28), facecolor="none", edgecolor=RED, linewidth=1.4))
    for numbers, colour, marker in ((truth, BLUE, "P"), (predicted, RED, "X")):
        for number in range(1, numbers.max() + 1):
            row, column = np.argwhere(numbers == number).mean(axis=0)
            ax.plot(column, row, marker, color=colour, markersize=8, markeredgecolor="white")
    rows, columns = truth.shape
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.set_title(fill(f"{name}: {case.reason}", 58), fontsize=9)
    return ax


def rule_bars(axes, table):
    """Draw the same maps under every rule: a rate on each axes, with its interval.

    Parameters
    ----------
    axes : three Axes
        For recall, precision and false positives a scan.
    table : pandas.DataFrame
        From `kit.metrics.intervals` with ``by="rule"``; rates in [0, 1].
    """
    at = np.arange(len(table))
    for ax, (rate, title) in zip(axes, RATES.items(), strict=True):
        scale = 100 if title.endswith("(%)") else 1
        value, low, high = (scale * table[rate + end].to_numpy(float) for end in ("", "_low", "_high"))
        ax.hlines(at, low, high, color=GREY, linewidth=2)
        ax.plot(value, at, "o", color=BLUE, markersize=7)
        ax.set_yticks(at, table.rule)
        ax.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 102 if rate == "recall" else None))
        ax.grid(axis="x", alpha=0.3)
        labelled(ax, "", title, "")
    return axes


def _squares(numbers, inset=0.0):
    """Squares over the voxels of a slice that are not 0, smaller by an inset on every side."""
    side = 1 - 2 * inset
    return [Rectangle((column - 0.5 + inset, row - 0.5 + inset), side, side) for row, column in np.argwhere(numbers)]
