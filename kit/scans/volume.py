"""One scan: read, oriented, resampled to 1 mm; and masks and maps brought onto its grid and back to its file's.

Arrays are `(slice, row, column)`, slices from the neck upwards, rows from front to back, columns from the patient's
right to left; `kit.scans.grid` has the geometry, `kit.scans.files` what is refused.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from kit.scans.files import SPACING_MM, ScanError, read_grid, read_image, read_label, read_map, read_mask, replacing
from kit.scans.grid import Grid, frame, resample, resampled_frame, spacing, to_file_axes


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan in memory, axes `(slice, row, column)`.

    `image` is float32 (raw intensities), `label` bool or None, `spacing_mm` the voxel size along (slice, row,
    column); `affine` maps a (slice, row, column) index to RAS+ world mm; `grid` is the file's own voxel grid.
    """

    image: np.ndarray
    label: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    grid: Grid


def load_scan(image_path, label_path=None, *, lesion_codes=None, spacing_mm=1.0) -> Scan:
    """Read a scan, and its label where there is one, as `(slice, row, column)` arrays at `spacing_mm`.

    Parameters
    ----------
    image_path, label_path
        Any 3-D image that nibabel reads; the label lies on the image's grid. An empty path means no label.
    lesion_codes : str or iterable of int, optional
        Label values that are lesion (`"1;3"`); None asks for a label of zeros and one positive value.
    spacing_mm : float or None
        Wanted voxel size. An axis within 2 % of it is left as it is, and None leaves all of them. Images are
        interpolated linearly and averaged over coarser voxels; labels take the nearest voxel, and a lesion that
        falls between the new voxels keeps the one nearest to its centre.

    Raises
    ------
    ScanError
        The file is missing, damaged, not one 3-D volume of real finite numbers, constant, has no right-angled axes,
        or the label is on another grid or not made of whole-number codes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/scan.nii.gz"
    ...     nib.save(nib.Nifti1Image(np.arange(120, dtype="f4").reshape(4, 5, 6), np.diag([1, 1, 3, 1])), path)
    ...     scan = load_scan(path)
    >>> scan.image.shape, [float(step) for step in scan.spacing_mm]
    ((18, 5, 4), [1.0, 1.0, 1.0])
    """
    image, grid = read_image(image_path)
    label = read_label(label_path, grid, lesion_codes=lesion_codes) if label_path else None
    shape, steps, affine = _wanted_frame(grid, spacing_mm)
    own_steps = spacing(frame(grid)[1])
    image = resample(image, own_steps, shape, steps)
    label = None if label is None else resample(label, own_steps, shape, steps)
    return Scan(image, label, steps, affine, grid)


def load_row(row, *, spacing_mm=1.0) -> Scan:
    """Load the scan, and its label where there is one, of a manifest's row (a mapping).

    `spacing_mm` and errors as for `load_scan`.
    """
    codes = row.get("lesion_codes") or None
    return load_scan(row["image"], row["label"] or None, lesion_codes=codes, spacing_mm=spacing_mm)


def load_truth(row) -> Scan:
    """Read the label of a manifest's row on the scan's own grid, without the image: a `Scan` whose `image` is None."""
    grid = read_grid(row["image"])
    label = read_label(row["label"], grid, lesion_codes=row.get("lesion_codes") or None)
    affine = frame(grid)[1]
    return Scan(None, label, spacing(affine), affine, grid)


def load_mask(path, scan) -> np.ndarray:
    """Read a mask file onto a scan's grid: bool `(slice, row, column)`, True where a voxel is not 0.

    The file lies on the grid of the scan's own file; ScanError where it does not, or cannot be read.
    """
    return _onto(read_mask(path, scan.grid), scan)


def load_map(path, scan) -> np.ndarray:
    """Read a probability map onto a scan's grid: float32 `(slice, row, column)` in [0, 1].

    The file lies on the grid of the scan's own file; ScanError where it does not, cannot be read, or holds values
    outside [0, 1].
    """
    return _onto(read_map(path, scan.grid), scan)


def to_own_grid(array, scan) -> np.ndarray:
    """Bring a `(slice, row, column)` array from a scan's grid to its file's own: bool, or float32, as `save_map` does.

    Where the scan was read at its own spacing, every voxel stays what it was.
    """
    array = np.asarray(array)
    array = array if array.dtype == bool else array.astype(np.float32, copy=False)
    shape, affine = frame(scan.grid)
    return resample(array, scan.spacing_mm, shape, spacing(affine))


def save_map(array, scan, path) -> None:
    """Write a `(slice, row, column)` array as NIfTI on the scan's own grid, so that it lies over the scan in a viewer.

    Parameters
    ----------
    array
        On `scan.image`'s grid: a map of floats is stored as float32, a bool array as uint8.
    scan : Scan
        The scan that `array` belongs to; shape, affine, sform and qform of its file are kept. Without an image it
        stands for its file's own grid.
    path
        Ends in `.nii` or `.nii.gz`. The file appears whole or not at all.

    Raises
    ------
    ScanError
        `array` has another shape or is neither bool nor float; `path` has another ending or no folder.

    Examples
    --------
    >>> import tempfile
    >>> grid = Grid((2, 3, 4), np.diag([1.0, 1, 1, 1]))
    >>> scan = Scan(np.zeros((4, 3, 2), "f4"), None, (1, 1, 1), frame(grid)[1], grid)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_map(np.ones((4, 3, 2), bool), scan, f"{folder}/map.nii.gz")
    ...     nib.load(f"{folder}/map.nii.gz").shape
    (2, 3, 4)
    """
    array, path = np.asarray(array), Path(path)
    _require_map(array, scan, path)
    stored = to_file_axes(to_own_grid(array, scan), scan.grid)
    _write_whole(stored.astype(np.uint8) if array.dtype == bool else stored, scan.grid, path)


def _onto(array, scan):
    """An array on the grid of a scan's file, brought onto the scan's grid in memory."""
    return resample(array, spacing(frame(scan.grid)[1]), _shape(scan), scan.spacing_mm)


def _shape(scan):
    """The shape of a scan's arrays; without an image it stands for its file's own grid."""
    return frame(scan.grid)[0] if scan.image is None else scan.image.shape


def _wanted_frame(grid, spacing_mm):
    if spacing_mm is not None and not SPACING_MM[0] <= spacing_mm <= SPACING_MM[1]:
        raise ScanError(f"spacing_mm is {spacing_mm!r}; give a voxel size in mm, or None for the scan's own")
    return resampled_frame(grid, spacing_mm)


def _require_map(array, scan, path):
    if array.shape != _shape(scan):
        raise ScanError(f"{path}: the map has shape {array.shape}, the scan {_shape(scan)}; give one of its shape")
    if array.dtype != bool and array.dtype.kind != "f":
        raise ScanError(f"{path}: the map is {array.dtype}; give bool (a label) or float (a probability)")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ScanError(f"{path}: a map is written as NIfTI; let the name end in .nii or .nii.gz")
    if not path.parent.is_dir():
        raise ScanError(f"{path}: there is no folder {path.parent}; make it first")


def _write_whole(array, grid, path):
    """Write an array in the file's own axes, with the geometry of the scan's file."""
    if grid.header is None:
        image = nib.Nifti1Image(array, grid.affine)
        image.set_sform(grid.affine, code="scanner")
        image.set_qform(grid.affine, code="scanner")
    else:
        header = grid.header.copy()
        header.set_data_dtype(array.dtype)
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(array, None, header)  # no affine: the header's sform and qform are both written as they are
    with replacing(path) as part:
        nib.save(image, part)
