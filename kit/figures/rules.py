"""Small drawn scans on which matching rules disagree, to be looked at and counted by hand."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from kit.metrics import RULES, detect

SHAPE = (5, 9, 22)
MIDDLE = 2  # the slice to be drawn


class Case(NamedTuple):
    """Boxes of lesions and of predictions, each one string of (slice, row, column) slices, and why rules disagree."""

    lesions: tuple
    predicted: tuple
    told: str


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


def arrays(case):
    """A case as (probability, truth): (slice, row, column) float32 and bool."""
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
        found = {rule: detect(*arrays(case), rule=rule) for rule in rules}
        rows[name] = {rule: f"{one.tp} of {one.tp + one.fn}, {one.fp} FP" for rule, one in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")
