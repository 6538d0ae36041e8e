"""What a reader thinks of a detector's errors, and labels revised by it.

A network's "false" positive may be a lesion that the label misses, and a missed "lesion" a slip of the label: the
thesis found more than a dozen by looking. Verdicts are one CSV a run, a row an error, written after every mark:

    label fault on an FP   the predicted component becomes a lesion of the revised label
    label fault on an FN   the lesion is taken out of it, under the rule `brats` with all that is merged with it
    true error, unsure     change nothing
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from kit.metrics import pair
from kit.scans import components, load_map, load_row, save_map, write_manifest, write_table

VERDICTS = ("true error", "label fault", "unsure")
WHICH = ["scan_id", "patient_id", "kind", "component", "slice", "row", "column"]
FACTS = ["volume_mm3", "diameter_mm", "peak", "threshold"]
COLUMNS = [*WHICH, *FACTS, "verdict", "note", "marked"]
CHANGES = ["scan_id", "kind", "component", "change", "voxels"]
NEAR = 0.6  # voxels: a component whose centre is further from the one that was judged is another one
FILES = ("image", "label", "mask")


class VerdictError(ValueError):
    """Verdicts that cannot be kept or applied; the message names the row and the remedy."""


class VerdictBook:
    """Verdicts in a CSV file, which is replaced as a whole with every mark and read again after a restart.

    Examples
    --------
    >>> import tempfile
    >>> error = {"scan_id": "P03_1", "kind": "FP", "component": 7, "slice": 3.0, "row": 4.0, "column": 5.25}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     VerdictBook(f"{folder}/verdicts.csv").mark(error, "label fault", "ring around a core")
    ...     VerdictBook(f"{folder}/verdicts.csv").of(error)
    ('label fault', 'ring around a core')
    """

    def __init__(self, path):
        self.path = Path(path)
        self.table = read_verdicts(path) if self.path.exists() else pd.DataFrame(columns=COLUMNS)

    def of(self, error):
        """(verdict, note) of an error, ("", "") where there is none; `error` is a mapping with the table's columns."""
        row = self.table[self._keys() == _key(error)]
        return ("", "") if row.empty else (row.verdict.iloc[-1], row.note.iloc[-1])

    def mark(self, error, verdict, note=""):
        """Set an error's verdict and note, and write the file; an empty verdict without note takes it out."""
        if verdict not in ("", *VERDICTS):
            raise VerdictError(f"verdict is {verdict!r}; choose one of {', '.join(VERDICTS)}, or '' for none")
        others = self.table[self._keys() != _key(error)]
        row = {name: error.get(name, "") for name in WHICH + FACTS}
        row |= {"verdict": verdict, "note": note, "marked": datetime.now(UTC).isoformat(timespec="seconds")}
        new = pd.DataFrame([row] if verdict or note else [], columns=COLUMNS)
        self.table = pd.concat([part for part in (others, new) if len(part)] or [new], ignore_index=True)
        self._write()

    def _keys(self):
        return pd.Series([_key(row) for row in self.table.to_dict("records")], dtype=object)

    def _write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_table(self.table, self.path)


def read_verdicts(path):
    """Read a file of verdicts: one row an error, columns as `VerdictBook.table`; VerdictError if it is none."""
    text = dict.fromkeys(("scan_id", "patient_id", "kind", "verdict", "note", "marked"), str)
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values={name: [""] for name in FACTS})
    except (OSError, ValueError) as error:
        raise VerdictError(f"{path} cannot be read ({error}); name a file that the browser has written") from error
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise VerdictError(f"{path} lacks the columns {', '.join(missing)}; the error browser writes them all")
    return table


def saved_maps(table, folder):
    """Make a function from a scan's id to (Scan, probability map), for maps that `kit.metrics.score` has written.

    Both are on the scan's own grid, where maps are scored, so that components keep their numbers and places.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of a manifest.
    folder : path
        Has `<scan_id>/map.nii.gz`.
    """
    rows = table.set_index("scan_id", drop=False).to_dict("index")

    def load(scan_id):
        if scan_id not in rows:
            raise VerdictError(f"scan {scan_id!r} is not in the manifest table; there are {', '.join(rows)}")
        scan = load_row(rows[scan_id], spacing_mm=None)
        return scan, load_map(Path(folder) / scan_id / "map.nii.gz", scan)

    return load


def apply_verdicts(table, verdicts, folder, load, *, low=0.2):
    """Write revised labels for the scans that have label faults, and return the manifest table that names them.

    Original labels are never touched, and every voxel of a label that no verdict names stays as it was.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`.
    verdicts : pandas.DataFrame or path
        Of `VerdictBook.table`, or its file.
    folder : path
        Made if missing; receives `<scan_id>_label.nii.gz`, `changes.csv` (what was added and removed) and
        `manifest.csv`, whose paths start from the returned table's ``attrs["data_root"]``.
    load : callable
        From a scan's id to (Scan, probability map) on the scan's own grid, such as `saved_maps`; the maps that the
        verdicts were made on.
    low : float
        The lower threshold that the errors were found with.

    Returns
    -------
    pandas.DataFrame
        `table` with new `label` paths; where a label is revised, `lesion_codes` and `source` are empty.

    Raises
    ------
    VerdictError
        If a scan is not in the table, or a component is not where it was when it was judged.
    """
    verdicts = verdicts if isinstance(verdicts, pd.DataFrame) else read_verdicts(verdicts)
    faults = verdicts[verdicts.verdict == "label fault"]
    unknown = sorted(set(faults.scan_id) - set(table.scan_id))
    if unknown:
        raise VerdictError(f"verdicts name scans that the table lacks: {', '.join(unknown)}; give the run's own table")
    folder, changes = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    revised = table.copy()
    for scan_id, rows in faults.groupby("scan_id", sort=False):
        (at,) = revised.index[revised.scan_id == scan_id]
        path = folder / f"{scan_id}_label.nii.gz"
        changes += _revise(table.loc[at].to_dict(), rows, load, low, path)
        revised.loc[at, "label"] = str(path.resolve())
        for name in {"lesion_codes", "source"} & set(revised.columns):  # true of the original label only
            revised.loc[at, name] = ""
    write_table(pd.DataFrame(changes, columns=CHANGES), folder / "changes.csv")
    revised.attrs["data_root"] = _common_root(revised)
    write_manifest(revised, folder / "manifest.csv", data_root=revised.attrs["data_root"])
    return revised


def _revise(row, faults, load, low, path):
    """Write one scan's revised label; returns what was changed, a dict an error."""
    scan, probability = load(row["scan_id"])
    own = load_row(row, spacing_mm=None)
    if probability.shape != own.image.shape:
        raise VerdictError(
            f"{row['scan_id']}: the map has shape {probability.shape}, the scan's own grid {own.image.shape}; "
            "load both with spacing_mm=None, as kit.viewer.saved_maps does"
        )
    label = np.zeros(own.image.shape, bool) if own.label is None else own.label.copy()
    numbered, changes = components(label), []
    for error in faults.to_dict("records"):
        mask = _judged(error, scan, probability, low)
        if error["kind"] == "FN":
            hit = np.unique(numbered[mask & label])
            mask = np.isin(numbered, hit[hit > 0])
        before = np.count_nonzero(label)
        label = label & ~mask if error["kind"] == "FN" else label | mask
        change = "removed" if error["kind"] == "FN" else "added"
        which = {name: error[name] for name in ("scan_id", "kind", "component")}
        changes.append(which | {"change": change, "voxels": abs(np.count_nonzero(label) - before)})
    save_map(label, own, path)
    return changes


def _judged(error, scan, probability, low):
    """The component that was judged, as a mask on the scan's own grid."""
    number, centre = int(error["component"]), [error[name] for name in ("slice", "row", "column")]
    if error["kind"] == "FN":
        label = np.zeros(scan.image.shape, bool) if scan.label is None else scan.label
        found = pair(probability, label, scan.spacing_mm)
        truths = found.lesions(), found.lesions(merge=True)  # the verdict does not say by which rule; its centre does
        masks = [np.isin(truth.labels, 1 + np.flatnonzero(truth.table.component == number)) for truth in truths]
    else:
        threshold = error["threshold"]
        masks = [components(probability >= float(min(low, threshold) if threshold == threshold else low)) == number]
    away = [np.linalg.norm(np.argwhere(mask).mean(0) - centre) if mask.any() else np.inf for mask in masks]
    if min(away) > NEAR:
        raise VerdictError(
            f"{error['scan_id']}: no {error['kind']} component {error['component']} at {centre}; the verdict was made "
            "on another map, label or lower threshold. Apply it with those, or judge anew."
        )
    return masks[int(np.argmin(away))]


def _common_root(table):
    """The deepest folder that holds all files of a manifest table."""
    return os.path.commonpath(
        [os.path.dirname(path) for name in FILES if name in table for path in table[name] if path]
    )


def _key(error):
    """Text that names an error by its scan, kind and place, the same at every threshold."""
    at = "_".join(f"{float(error[name]):.2f}" for name in ("slice", "row", "column"))
    return f"{error['scan_id']}_{error['kind']}_{at}"
