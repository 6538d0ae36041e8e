"""Leaks: what training and evaluation may not share, found by names and by voxels, all of it at once.

A row whose column `known_leak` gives a reason is left out: that is how a user names an exception.
"""

import hashlib
import re
from collections import defaultdict
from typing import NamedTuple

import pandas as pd

from kit.scans.files import in_threads, read_image

KNOWN = "known_leak"
FOLLOW_UP = "follow-up of "
COLUMNS = ("leak", "scan_id", "patient_id", "split", "other_scan_id", "other_patient_id", "other_split")
# Names that collections give to people, and that their copies in other collections keep.
PERSONS = {
    "BraTS-MET": re.compile(r"BraTS-MET-(\d{5})(?!\d)", re.IGNORECASE),
    "UCSF": re.compile(r"(?<![0-9A-Za-z])(100\d{3})[A-Z](?![0-9A-Za-z])"),  # the letter is the exam
}


class Leak(NamedTuple):
    """Two rows, by their numbers from 0, and what they share."""

    first: int
    other: int
    what: str


class Digests(dict):
    """Digests of images by their paths. Tables made from one another share them: pandas copies `attrs` row by row."""

    def __deepcopy__(self, memo):
        return self


def find_leaks(*tables, voxels=True) -> pd.DataFrame:
    """Find what scans of different splits share, and scans that come twice.

    Parameters
    ----------
    *tables : pandas.DataFrame
        One or several, from `read_manifest(path, check_leaks=False)`; several count as one.
    voxels : bool
        Read the images too, so that a copy is found under another name, packed anew or stored in another order of
        axes. Images that `read_manifest` has read just before are not read again.

    Returns
    -------
    pandas.DataFrame
        One row a leak: `leak` says what is shared; `scan_id`, `patient_id`, `split` of the one scan, and the same with
        `other_` of the other. Found are patients in two splits, with the same session or a follow-up; one patient
        under two names, by the numbers that BraTS-METS and UCSF-BMSR give and others keep; and equal voxels, in
        whichever split. Rows with a reason in the column `known_leak` are left out.

    Raises
    ------
    ScanError
        An image cannot be read.

    Examples
    --------
    >>> row = {"scan_id": "a", "patient_id": "p", "session": 1, "image": "", "split": "train"}
    >>> table = pd.DataFrame([row, row | {"scan_id": "b", "session": 2, "split": "test"}])
    >>> find_leaks(table, voxels=False)[["leak", "scan_id", "other_scan_id"]].values.tolist()
    [["follow-up of patient 'p'", 'a', 'b']]
    """
    rows = [row for table in tables for row in table.to_dict("records")]
    known = {path: digest for table in tables for path, digest in table.attrs.get("voxels", {}).items()}
    leaks = list(across_splits(rows))
    leaks += same_voxels(rows, _digests(rows, known)) if voxels else []
    return pd.DataFrame([_described(rows, leak) for leak in leaks], columns=list(COLUMNS))


def persons(rows) -> list[str]:
    """Who each row's patient is: rows get one name where patient_id or a collection's number is the same.

    >>> names = [("p", "100101A"), ("q", "100101B"), ("r", "1")]
    >>> persons([{"patient_id": patient, "scan_id": scan} for patient, scan in names])
    ['p', 'p', 'r']
    """
    names = [(f"={row['patient_id']}", *_numbers(row)) for row in rows]
    parent = {}

    def root(name):
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for first, *others in names:
        for other in others:
            parent[root(other)] = root(first)
    first_of = {}
    return [first_of.setdefault(root(name[0]), row["patient_id"]) for name, row in zip(names, rows, strict=True)]


def across_splits(rows):
    """Leaks by names: for every person, the first row of each further split against the first row of all."""
    firsts = defaultdict(dict)
    for number, (row, person) in enumerate(zip(rows, persons(rows), strict=True)):
        if row["patient_id"] and row["split"] in ("train", "validation", "test") and not row.get(KNOWN):
            firsts[person].setdefault(row["split"], number)
    for numbers in firsts.values():
        first, *others = numbers.values()
        yield from (Leak(first, other, _shared_name(rows[first], rows[other])) for other in others)


def same_voxels(rows, digests):
    """Leaks by voxels: every row whose image is that of an earlier row; `digests` by the images' paths."""
    first_with = {}
    for number, row in enumerate(rows):
        digest = digests.get(row.get("image"))
        if digest is None or row.get(KNOWN):
            continue
        first = first_with.setdefault(digest, number)
        if rows[first]["image"] != row["image"]:
            yield Leak(first, number, "the same voxels")


def voxel_digest(image) -> str:
    """A digest of an image's shape and float32 voxels: two files with the same one show the same.

    >>> import numpy as np
    >>> voxel_digest(np.zeros((1, 2, 3), "f4")) == voxel_digest(np.zeros((3, 2, 1), "f4"))
    False
    """
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(image)
    return digest.hexdigest()


def is_phantom(row) -> bool:
    """Whether the scan of a manifest's row (a mapping) is made by the kit, not brought: `source` is `phantom:<seed>`.

    >>> is_phantom({"source": "phantom:7"}), is_phantom({"source": ""})
    (True, False)
    """
    return str(row.get("source", "")).startswith("phantom:")


def _digests(rows, known):
    """Digests of all images that were brought, by their paths; those already known are not read."""
    paths = list(dict.fromkeys(row["image"] for row in rows if row["image"] and not is_phantom(row)))
    new = [path for path in paths if path not in known]
    return known | dict(zip(new, in_threads(_digest_of_file, new, "comparing scans"), strict=True))


def _digest_of_file(path):
    return voxel_digest(read_image(path)[0])


def _numbers(row):
    """The numbers of persons, by collections that give them, in a row's names and those of its image and its folder."""
    text = " ".join((row["patient_id"], row["scan_id"], *re.split(r"[/\\]", row.get("image") or "")[-2:]))
    return [f"{name} {number}" for name, form in PERSONS.items() for number in sorted(set(form.findall(text)))]


def _shared_name(row, other):
    """What two rows of one person share, in words."""
    if row["patient_id"] == other["patient_id"]:
        return f"{'' if str(row['session']) == str(other['session']) else FOLLOW_UP}patient {row['patient_id']!r}"
    both = sorted(set(_numbers(row)) & set(_numbers(other)))
    return f"patient {both[0] if both else row['patient_id']!r}, under another name,"


def _described(rows, leak):
    row, other = rows[leak.first], rows[leak.other]
    names = ("scan_id", "patient_id", "split")
    ends = {name: row[name] for name in names} | {f"other_{name}": other[name] for name in names}
    return {"leak": leak.what.strip(",")} | ends
