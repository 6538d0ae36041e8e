"""Splits by patient: training, validation and test get patients with like numbers and volumes of lesions.

Patients are put in order of their lesions, and neighbours in that order are dealt out by lot. So each split gets its
share of patients with one small lesion, and its share of those with twenty.
"""

from itertools import accumulate

import numpy as np
import pandas as pd

from kit.scans.files import in_threads, read_grid, read_label
from kit.scans.grid import spacing
from kit.scans.lesions import components
from kit.scans.manifests.leaks import persons
from kit.scans.manifests.text import ManifestError

COUNTS = (1, 2, 3, 5, 8, 13)  # where classes of lesion counts begin: none, 1, 2, 3 to 4, 5 to 7, 8 to 12, more


def split_patients(table, *, validation=0.15, test=0.2, seed=2015, burden=None) -> pd.DataFrame:
    """Deal the patients of a cohort out to training, validation and test.

    Parameters
    ----------
    table : pandas.DataFrame
        From `read_manifest(path, check_leaks=False)`; the splits in it are forgotten.
    validation, test : float
        Shares of the patients with a label, 0 or more and below 1 together; the others are for training.
    seed : int
        The same seed and table give the same splits.
    burden : pandas.DataFrame, optional
        From `lesion_burden(table)`, where it is known already; otherwise the labels are read.

    Returns
    -------
    pandas.DataFrame
        The same rows. All scans of a patient have one split, and so have rows of one patient under two names (see
        `find_leaks`). Patients without any label get none. Counts and volumes of lesions are those of a patient's
        first labelled session, and are alike between splits.

    Raises
    ------
    ManifestError
        Shares that leave no patient for a split that was asked for, or none for training.
    ScanError
        A label cannot be read.

    Examples
    --------
    >>> row = {"patient_id": "p", "scan_id": "a", "session": 1, "image": "", "label": "", "split": "test"}
    >>> split_patients(pd.DataFrame([row]), test=0, validation=0)["split"].tolist()
    ['']
    """
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    if not (0 <= validation < 1 and 0 <= test < 1 and shares["train"] > 1e-9):
        raise ManifestError(f"validation is {validation:g} and test {test:g}; give shares that leave some for training")
    person, patients = _in_order(table, burden)
    order = list(patients)
    dealt = dict(zip(order, _deal(len(order), list(shares.values()), seed), strict=True))
    empty = [name for number, name in enumerate(shares) if shares[name] and order and number not in dealt.values()]
    if empty:
        raise ManifestError(f"{len(order)} patients with a label are too few for a {empty[0]} share of "
                            f"{shares[empty[0]]:g}; give larger shares, or 0")  # fmt: skip
    names = list(shares)
    return table.assign(split=[names[dealt[one]] if one in dealt else "" for one in person])


def split_folds(table, folds, *, seed=2015, burden=None) -> list[pd.DataFrame]:
    """Deal the patients of a cohort out to folds for cross-validation.

    Parameters
    ----------
    table : pandas.DataFrame
        From `read_manifest(path, check_leaks=False)`. Patients whose split is test stay there.
    folds : int
        Two or more.
    seed : int
    burden : pandas.DataFrame, optional
        From `lesion_burden(table)`, where it is known already; otherwise the labels are read.

    Returns
    -------
    list of pandas.DataFrame
        The same rows, once a fold: in the k-th table the patients of the k-th fold are `validation` and the others
        `train`, each patient once in `validation` over all tables. Balanced as by `split_patients`.

    Raises
    ------
    ManifestError
        Fewer than two folds, or fewer patients than folds.

    Examples
    --------
    >>> row = {"patient_id": "p", "scan_id": "a", "session": 1, "image": "", "label": "", "split": ""}
    >>> split_folds(pd.DataFrame([row]), 2)
    Traceback (most recent call last):
    kit.scans.manifests.text.ManifestError: folds is 2; give 2 to 0, the number of labelled patients outside test
    """
    person, patients = _in_order(table, burden)
    tested = {one for one, split in zip(person, table["split"], strict=True) if split == "test"}
    order = [one for one in patients if one not in tested]
    if not 2 <= folds <= len(order):
        raise ManifestError(f"folds is {folds}; give 2 to {len(order)}, the number of labelled patients outside test")
    fold = dict(zip(order, _deal(len(order), [1 / folds] * folds, seed), strict=True))

    def word(one, number):
        if one in tested:
            return "test"
        return "" if one not in fold else "validation" if fold[one] == number else "train"

    return [table.assign(split=[word(one, number) for one in person]) for number in range(folds)]


def lesion_burden(table) -> pd.DataFrame:
    """Number and volume of the lesions of each labelled scan.

    Parameters
    ----------
    table : pandas.DataFrame
        From `read_manifest`; rows without a label are left out.

    Returns
    -------
    pandas.DataFrame
        `lesions` (26-connected components) and `volume_mm3`, with the index of `table`.

    Raises
    ------
    ScanError
        A label cannot be read.

    Examples
    --------
    >>> lesion_burden(pd.DataFrame([{"label": ""}])).columns.tolist()
    ['lesions', 'volume_mm3']
    """
    labelled = table[table["label"] != ""]
    found = list(in_threads(_burden, labelled.to_dict("records"), "measuring lesions"))
    return pd.DataFrame(found, columns=["lesions", "volume_mm3"], index=labelled.index)


def _burden(row):
    label = read_label(row["label"], lesion_codes=row.get("lesion_codes") or None)
    voxel_mm3 = float(np.prod(spacing(read_grid(row["label"]).affine)))
    return int(components(label).max(initial=0)), float(label.sum() * voxel_mm3)


def _in_order(table, burden):
    """Who each row's patient is, and the patients with a label in order of their lesions.

    Volumes rise through one class of counts and fall through the next, so that neighbours are alike at its ends too.
    """
    person = persons(table.to_dict("records"))
    known = table.assign(person=person).join(lesion_burden(table) if burden is None else burden, how="right")
    first = known.sort_values(["session", "scan_id"]).groupby("person", sort=True).first()
    grade = np.searchsorted(COUNTS, first["lesions"], side="right")
    volume = np.where(grade % 2, first["volume_mm3"], -first["volume_mm3"])
    return person, first.iloc[np.lexsort((first.index, volume, grade))].index.tolist()


def _deal(count, shares, seed):
    """Numbers of shares for `count` patients in their order: whole blocks get what is due, by lot within each.

    A block is as long as the smallest share needs for one patient. What is due grows with every block, and what a
    block's whole numbers leave over goes to the next, so that the totals are the shares' to the nearest patient.
    """
    rng = np.random.default_rng(seed)
    given = np.zeros(len(shares), int)
    block = int(np.ceil(1 / min(share for share in shares if share)))
    dealt = []
    for stop in accumulate([min(block, count - start) for start in range(0, count, block)]):
        due = np.array(shares) * stop - given
        cards = np.zeros(len(shares), int)
        for _ in range(stop - len(dealt)):
            cards[np.argmax(due - cards)] += 1
        given += cards
        dealt += rng.permutation(np.repeat(np.arange(len(shares)), cards)).tolist()
    return dealt
