"""Scans, labels and lesions in the forms that other programs take: a dataset folder of nnU-Net, a list of lesions.

    Dataset101_Metastases/
      dataset.json                 channels, labels, how many scans
      imagesTr/<scan_id>_0000.nii.gz   labelsTr/<scan_id>.nii.gz     splits train and validation
      imagesTs/<scan_id>_0000.nii.gz                                 split test
      splits_final.json            which of imagesTr are for validation, where there are such

Files lie on the grid of the scan's own file. Of a header only the geometry is written.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from scipy.ndimage import maximum
from tqdm.auto import tqdm

from kit.scans.files import new_folder
from kit.scans.lesions import measure
from kit.scans.volume import load_row, save_map

NNUNET_NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9]+")
CHANNEL, LABELS = "T1Gd", {"background": 0, "metastasis": 1}
LEARNT = {"train": "train", "val": "validation"}  # nnU-Net's words for splits
WORLD, VOXEL = ["x_mm", "y_mm", "z_mm"], ["i", "j", "k"]


class ExportError(ValueError):
    """Something cannot be exported as asked; the message gives the value received and what to do."""


def export_nnunet(table, folder, *, progress=True):
    """Write scans and labels of a manifest as a dataset folder of nnU-Net (version 2).

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`. Labelled scans of train and validation become training cases, scans of test
        become test images; the others are left out.
    folder : path
        New or empty, named as nnU-Net wants it: `Dataset`, three digits, `_`, a word. It appears whole or not at all.
    progress : bool

    Returns
    -------
    pandas.DataFrame
        One row a scan: `scan_id`, and `part`: "Tr", "Ts", or why it is left out.

    Raises
    ------
    ExportError
        Before anything is read, for another name of the folder, one that holds files, or no training scan.
    ScanError
        For a file that cannot be used.

    References
    ----------
    nnU-Net, documentation/dataset_format.md.
    """
    done = table[["scan_id"]].assign(part=[_part(row) for row in table.to_dict("records")])
    cases = table.assign(part=done.part)[done.part.isin(["Tr", "Ts"])]
    training = cases[cases.part == "Tr"]
    if training.empty:
        raise ExportError(f"{folder}: no labelled scan is in split train or validation; give some a split and a label")
    if not NNUNET_NAME.fullmatch(Path(folder).name):
        raise ExportError(f"{folder}: nnU-Net wants a folder's name such as Dataset101_Metastases")
    with new_folder(folder, ExportError) as (part, name):
        for sub in ("imagesTr", "labelsTr", "imagesTs"):
            (part / sub).mkdir()
        for row in tqdm(cases.to_dict("records"), desc="exporting", unit="scan", disable=not progress):
            _write_case(row, part)
        facts = {"channel_names": {"0": CHANNEL}, "labels": LABELS, "file_ending": ".nii.gz"}
        _write_json(part / "dataset.json", facts | {"numTraining": len(training), "name": name})
        fold = {word: training.scan_id[training.split == split].tolist() for word, split in LEARNT.items()}
        if all(fold.values()):
            _write_json(part / "splits_final.json", [fold])
    return done


def list_lesions(labels, grid, affine, probability=None):
    """A list of lesions or findings as other programs read it.

    Parameters
    ----------
    labels : (slice, row, column) int array
        Numbered from 1 as by `kit.scans.components`, on the grid of the scan's file.
    grid : kit.scans.Grid
        Of the scan's file.
    affine : (4, 4) array
        From (slice, row, column) to world mm, such as `Scan.affine`.
    probability : (slice, row, column) float array, optional

    Returns
    -------
    pandas.DataFrame
        One row a component: `number`; its centre of mass in the world (`x_mm`, `y_mm`, `z_mm`: to the right, to the
        front, upwards) and in voxels of the file, in its own order of axes and from 0 (`i`, `j`, `k`); `voxels`,
        `volume_mm3`, `diameter_mm` (of a sphere of that volume); `max_probability`, NaN without a map.

    Examples
    --------
    >>> labels = np.zeros((1, 1, 4), int)
    >>> labels[0, 0, 1:3] = 1
    >>> from kit.scans import Grid, frame
    >>> grid = Grid((4, 1, 1), np.diag([2.0, 1, 1, 1]))
    >>> list_lesions(labels, grid, frame(grid)[1])[["number", "x_mm", "i", "volume_mm3"]].values.tolist()
    [[1.0, 3.0, 1.5, 4.0]]
    """
    found = measure(labels, np.linalg.norm(affine[:3, :3], axis=0))
    centre = apply_affine(affine, np.array(found.centre.tolist()).reshape(-1, 3))
    index = apply_affine(np.linalg.inv(grid.affine), centre)
    numbers = found.component.to_numpy()
    peaks = np.nan if probability is None else np.array(maximum(probability, labels, numbers), float)
    places = pd.DataFrame(np.hstack([centre, index]).round(4) + 0.0, columns=[*WORLD, *VOXEL])
    sizes = found[["voxels", "volume_mm3", "diameter_mm"]].round(4)
    return pd.concat([found[["component"]].set_axis(["number"], axis=1), places, sizes], axis=1).assign(
        max_probability=peaks
    )


def _part(row):
    """Which part of a dataset a scan goes to, or why to none."""
    if row["split"] == "test":
        return "Ts"
    if row["split"] not in LEARNT.values():
        return "in no split"
    return "Tr" if row["label"] else "has no label"


def _write_case(row, folder):
    scan = load_row(row, spacing_mm=None)
    grid = replace(scan.grid, shape=scan.grid.shape[:3])  # three axes, whatever axis of one the file adds
    scan = replace(scan, grid=grid)
    save_map(scan.image, scan, folder / f"images{row['part']}" / f"{row['scan_id']}_0000.nii.gz")
    if row["part"] == "Tr":
        save_map(scan.label, scan, folder / "labelsTr" / f"{row['scan_id']}.nii.gz")


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
