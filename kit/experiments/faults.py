"""Faults put into clean labels: those that the thesis names in its own labels (chapters 1, 5 and 7).

Here every fault is known, so that its effect on training can be measured against the clean label.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, find_objects
from tqdm.auto import tqdm

from kit.experiments.runs import check_choices, open_run
from kit.scans import components, load_row, save_map, write_table

COLUMNS = ["scan_id", "component", "voxels", "fault", "voxels_after"]


@dataclass(frozen=True)
class LabelFaults:
    """How often each fault strikes: its probability in a lesion, or for `shifted` in a scan.

    `over_segmented`: the lesion grows by a voxel over its faces. `shifted`: the whole label moves by a voxel along one
    axis. `missing_slice`: one of the lesion's inner axial slices is empty. `missing`: the lesion is not labelled.
    """

    over_segmented: float = 0.5
    shifted: float = 0.25
    missing_slice: float = 0.25
    missing: float = 0.1


FAULTS = {
    "clean": LabelFaults(0, 0, 0, 0),
    "faulty": LabelFaults(),
    "over-segmented": LabelFaults(1, 0, 0, 0),
    "shifted": LabelFaults(0, 1, 0, 0),
    "missing slices": LabelFaults(0, 0, 1, 0),
    "missing lesions": LabelFaults(0, 0, 0, 0.3),
}


def with_faults(table, folder, faults="faulty", *, seed=0, progress=True):
    """Write faulty copies of a manifest's labels and return the table that names them.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`; rows without a label stay as they are. The originals are not touched.
    folder : path
        Where the copies go, with `faults.csv`, a row for each lesion with what was done to it. Copies that are there
        already with their table are not made again.
    faults : str or LabelFaults
        A name in `FAULTS`, or rates of your own.
    seed : int
        A scan's faults depend on this and its `scan_id` alone. A scan of other spacing than 1 mm gets its label
        resampled to 1 mm and back, which moves its border too.

    Returns
    -------
    pandas.DataFrame
        The rows of `table`, with `label` naming the copies and `lesion_codes` emptied.

    Raises
    ------
    kit.experiments.RunError
        For an unknown name, or if the folder holds copies made by other rates or another seed, or of other scans.
    """
    if isinstance(faults, str):
        check_choices(faults=(faults, FAULTS))
        faults = FAULTS[faults]
    folder = Path(folder)
    open_run(folder, {"faults": asdict(faults), "seed": seed, "scans": sorted(table.scan_id)})
    labelled = table[table.label != ""]
    paths = {name: folder / f"{name}_label.nii.gz" for name in labelled.scan_id}
    if not ((folder / "faults.csv").exists() and all(path.exists() for path in paths.values())):
        made = []
        for row in tqdm(labelled.to_dict("records"), "faulty labels", disable=not progress):
            scan = load_row(row)
            label, done = add_faults(scan.label, faults, np.random.default_rng([seed, *row["scan_id"].encode()]))
            save_map(label, scan, paths[row["scan_id"]])
            made.append(done.assign(scan_id=row["scan_id"]))
        write_table(pd.concat(made)[COLUMNS], folder / "faults.csv")
    labels = [str(paths.get(name, "")) for name in table.scan_id]
    return table.assign(label=labels, lesion_codes="").astype({"label": object})


def add_faults(label, faults, rng):
    """Put faults into one label.

    Parameters
    ----------
    label : (slice, row, column) bool array
        Left as it is.
    faults : LabelFaults
    rng : numpy.random.Generator

    Returns
    -------
    faulty : (slice, row, column) bool array
    done : pandas.DataFrame
        One row a lesion: component, voxels, fault (its faults joined by ``+``; ``none``), voxels_after.

    Examples
    --------
    >>> label = np.zeros((7, 7, 7), bool)
    >>> label[2:5, 2:5, 2:5] = True
    >>> faulty, done = add_faults(label, LabelFaults(1, 0, 0, 0), np.random.default_rng(0))
    >>> done.values.tolist(), int(faulty.sum())
    ([[1, 27, 'over-segmented', 81]], 81)
    """
    names = components(label)
    faulty, rows = np.zeros_like(label), []
    chance = rng.random((names.max(), 3)) < (faults.over_segmented, faults.missing_slice, faults.missing)
    for number, (box, (grown, gap, missing)) in enumerate(zip(find_objects(names), chance, strict=True), start=1):
        box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        lesion = names[box] == number
        voxels, done = int(lesion.sum()), []
        if missing:
            lesion, done = np.zeros_like(lesion), ["missing"]
        elif grown:
            lesion, done = binary_dilation(lesion), ["over-segmented"]
        heights = np.flatnonzero(lesion.any((1, 2)))
        if gap and len(heights) >= 3:
            lesion[rng.choice(heights[1:-1])] = False
            done.append("missing slice")
        faulty[box] |= lesion
        rows.append((number, voxels, done, int(lesion.sum())))
    if rng.random() < faults.shifted:
        faulty = _shifted(faulty, axis=rng.integers(3), step=rng.choice((-1, 1)))
        for row in rows:
            row[2].append("shifted")
    rows = [(number, voxels, "+".join(done) or "none", after) for number, voxels, done, after in rows]
    return faulty, pd.DataFrame(rows, columns=COLUMNS[1:])


def _shifted(label, axis, step):
    """The label moved by a voxel; what leaves the scan is lost."""
    moved = np.roll(label, step, axis)
    edge = [slice(None)] * 3
    edge[axis] = 0 if step > 0 else -1
    moved[tuple(edge)] = False
    return moved
