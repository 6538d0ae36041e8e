"""What the importers share: the files of a folder, which of them a layout knows, and the table they come to."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

NIFTI = r"\.nii(?:\.gz)?"
COLUMNS = ("scan_id", "patient_id", "session", "image", "label", "split", "lesion_codes")
SHOWN = 20  # names that a note lists before it only counts


@dataclass(frozen=True, eq=False)
class Collection:
    """What an importer made of a folder.

    `table` has one row a scan, as `read_manifest` returns it, ready for `write_manifest(..., data_root=folder)`; its
    column `source` is the collection's name, its splits are empty. `unknown` are the files that the layout does not
    know, relative to `folder`; `notes` say what was missing, came twice or was decided.
    """

    name: str
    folder: Path
    table: pd.DataFrame
    unknown: list
    notes: list

    def summary(self) -> list[str]:
        """The counts, the notes and the files that were not recognised, a line each."""
        patients, labelled = self.table["patient_id"].nunique(), (self.table["label"] != "").sum()
        sessions = len(self.table[["patient_id", "session"]].drop_duplicates())
        counts = f"{self.name}: {len(self.table)} scans, {sessions} sessions, {patients} patients, {labelled} labelled"
        return [counts, *self.notes, named("files not recognised", self.unknown) or "files not recognised: 0"]


class Found(NamedTuple):
    """A file by its path from the folder, and what its name says."""

    path: str
    patient: str
    session: str


class Tree:
    """The files below a folder; each is taken by one pattern, and what none takes stays in `left`.

    Hidden files, links to folders and links that lead nowhere are never taken.
    """

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.left, self.hidden, self.notes = [], [], []
        links, broken = [], []
        for place, folders, files in os.walk(self.folder):
            start = Path(place).relative_to(self.folder)
            links += [(start / name).as_posix() for name in folders if Path(place, name).is_symlink()]
            for name in files:
                path = (start / name).as_posix()
                there = self.hidden if re.search(r"(?:^|/)\.", path) else self.left
                (there if Path(place, name).exists() else broken).append(path)
        self.left.sort(key=natural)
        self.note("links to folders, not followed", links)
        self.note("links that lead to no file", broken)

    def take(self, pattern) -> list[Found]:
        """Files whose path ends in what `pattern` describes, from the start of a folder's or the file's name on.

        Its group `patient` is the patient; the other groups that match something, joined, are the session.
        """
        ending = re.compile(rf"(?:^|/){pattern}$")
        matches = {path: match for path in self.left if (match := ending.search(path))}
        self.left = [path for path in self.left if path not in matches]
        return [_found(path, match.groupdict()) for path, match in matches.items()]

    def note(self, what, names):
        """Note how many there are of something, and which; nothing where there is none."""
        self.notes += [named(what, names)] if names else []


def gather(tree, image, *, label=(), others=(), person="{patient}", scan="{patient}", order=None, codes=""):
    """The scans of a folder as a table with the columns of a manifest, files absolute.

    Parameters
    ----------
    tree : Tree
    image, label : tuples of patterns
        The better ones first: a scan has one image, and at most one label. Files belong together that agree in the
        groups `patient` and `session`.
    others : tuple of patterns
        Files that the collection has and a manifest does not need; they are taken last.
    person, scan : str
        How `patient_id` and `scan_id` are made of `{patient}` and `{session}`.
    order : function of (patient, session), optional
        What sessions are sorted by; by default their names, with numbers in them as numbers.
    codes : str
        The column `lesion_codes` of scans with a label.

    Returns
    -------
    pandas.DataFrame
    """
    unused = []
    images, labels = (_best(tree, patterns, unused) for patterns in (image, label))
    unused += [found.path for pattern in others for found in tree.take(pattern)]
    tree.notes += [f"other files of the collection, not needed: {len(unused)}"] if unused else []
    tree.note("segmentations without an image", [path for key, path in labels.items() if key not in images])
    tree.note("images without a segmentation", [path for key, path in images.items() if key not in labels])
    order = order or (lambda patient, session: natural(session))
    rows, sessions = [], Counter()
    for patient, session in sorted(images, key=lambda key: (natural(key[0]), order(*key))):
        names = {"patient": patient, "session": session}
        patient_id = person.format(**names)
        sessions[patient_id] += 1
        files = [
            str(tree.folder / path) if path else ""
            for path in (images[patient, session], labels.get((patient, session)))
        ]
        rows.append(
            (
                scan.format(**names).removesuffix("_ses-").strip("-_"),
                patient_id,
                sessions[patient_id],
                *files,
                "",
                codes if files[1] else "",
            )
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def natural(text):
    """What names are sorted by: numbers in them count as numbers, so that fu10 comes after fu2.

    >>> sorted(["fu10", "fu2", "baseline"], key=natural)
    ['baseline', 'fu2', 'fu10']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)]


def named(what, names):
    """How many there are of something, and the first of them; empty where there is none.

    >>> named("files not recognised", ["a.txt", "b.txt"])
    'files not recognised: 2 (a.txt, b.txt)'
    """
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {len(names)} ({', '.join(names[:SHOWN])}{more})" if names else ""


def _found(path, groups):
    patient = groups.pop("patient", None) or ""
    return Found(path, patient, "-".join(part.strip("_-") for part in groups.values() if part and part.strip("_-")))


def _best(tree, patterns, unused):
    """The file of each scan that the earliest pattern knows; files of later patterns are added to `unused`."""
    best, repeated = {}, []
    for pattern in patterns:
        before = set(best)
        for found in tree.take(pattern):
            key = (found.patient, found.session)
            if key in before:
                unused.append(found.path)
            elif best.setdefault(key, found.path) != found.path:
                repeated.append(found.path)
    tree.note("files that come again in another folder, where the first of the name is taken", repeated)
    return best
