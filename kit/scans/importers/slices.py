"""Folders of slices, as older releases have them, stacked into NIfTI files."""

from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from kit.scans.files import QUIET, replacing
from kit.scans.importers.folder import natural

STACKED = "from_slices"
FILE_AXES = np.diag([-1.0, -1.0, 1.0, 1.0])  # columns to the left, rows to the back, slices upwards


def stack_slices(tree, pattern, names, spacing_mm):
    """Make one NIfTI file of each folder of slices, below `from_slices` in the tree's folder.

    Parameters
    ----------
    tree : Tree
        Loses the slices, and gains the files made of them.
    pattern : str
        Of a slice's path; its groups are `patient` and the kind, which is the folder that the slice lies in.
    names : dict of str
        Kinds that are stacked, and their files' names; what is named `seg` becomes 0 and 1.
    spacing_mm : (slice, row, column) float
        Picture files do not say it.

    Files that are there already are kept. A folder whose slices differ in size is noted, and not stacked.
    """
    stacks, uneven = defaultdict(list), []
    for found in tree.take(pattern):
        stacks[found.patient, found.session].append(found.path)
    wanted = {key: sorted(paths, key=natural) for key, paths in stacks.items() if key[1] in names}
    for (patient, kind), paths in tqdm(wanted.items(), "stacking slices", unit="file", disable=len(wanted) < QUIET):
        out = Path(STACKED, patient, f"{names[kind]}.nii.gz")
        if not (tree.folder / out).exists():
            slices = [_grey(tree.folder / path) for path in paths]
            if len({one.shape for one in slices}) > 1:
                uneven.append(Path(paths[0]).parent.as_posix())
                continue
            _write(np.stack(slices), tree.folder / out, spacing_mm, names[kind] == "seg")
        tree.left = sorted({*tree.left, out.as_posix()}, key=natural)
    tree.note("folders of slices that differ in size, not stacked", uneven)
    if wanted:
        steps = " x ".join(f"{step:g}" for step in spacing_mm)
        made = f"slices of {len(wanted) - len(uneven)} folders are stacked in {STACKED}"
        tree.notes.append(
            f"{made}, with voxels of {steps} mm, the first slice lowest; {len(stacks) - len(wanted)} not needed"
        )


def _grey(path):
    with Image.open(path) as image:
        return np.asarray(image if image.mode in ("L", "I", "I;16", "F", "1") else image.convert("L"))


def _write(voxels, path, spacing_mm, is_label):
    """A (slice, row, column) array as a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = FILE_AXES @ np.diag([*spacing_mm[::-1], 1.0])
    image = nib.Nifti1Image((voxels > 0).astype(np.uint8).T if is_label else voxels.astype(np.float32).T, affine)
    with replacing(path) as part:
        nib.save(image, part)
