"""One scan: read, validate, orient, resample, normalise, and write a map back onto the scan's own grid.

Arrays are `(slice, row, column)`, slices from the neck upwards, rows from front to back, columns from the patient's
right to left; `kit.scans.grid` has the geometry, `kit.scans.files` what is refused.
"""

from dataclasses import dataclass
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np

from kit.scans.files import SPACING_MM, ScanError, read_grid, read_image, read_label, read_map, read_mask, replacing
from kit.scans.grid import Grid, frame, resample, resampled_frame, spacing, to_file_axes

AIR = 0.15  # of the way from the minimum to bright tissue: under it lies air; Rician noise of 4 % reaches there
FLAT_AIR = 0.97  # so many of the voxels under AIR at the very minimum: the background has no noise (skull-stripped)
PIECE = 0.01  # of the largest piece's voxels: a smaller piece of the foreground is noise


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
    """Load the scan, and its label where there is one, of a manifest's row (a mapping); otherwise as `load_scan`."""
    codes = row.get("lesion_codes") or None
    return load_scan(row["image"], row["label"] or None, lesion_codes=codes, spacing_mm=spacing_mm)


def load_truth(row) -> Scan:
    """Read the label of a manifest's row on the scan's own grid, without the image: a `Scan` whose `image` is None."""
    grid = read_grid(row["image"])
    label = read_label(row["label"], grid, lesion_codes=row.get("lesion_codes") or None)
    affine = frame(grid)[1]
    return Scan(None, label, spacing(affine), affine, grid)


def search_region(scan, row) -> np.ndarray:
    """Where lesions are looked for, bool (slice, row, column): the row's `mask` if it has one, otherwise the head."""
    return load_mask(row["mask"], scan) if row.get("mask") else foreground(scan.image)


def load_mask(path, scan) -> np.ndarray:
    """Read a mask (any voxel that is not 0) onto a scan's `(slice, row, column)` grid, as bool; ScanError as above."""
    mask = read_mask(path, scan.grid)
    return resample(mask, spacing(frame(scan.grid)[1]), scan.image.shape, scan.spacing_mm)


def load_map(path, scan) -> np.ndarray:
    """Read a probability map onto a scan's `(slice, row, column)` grid, as float32 in [0, 1]; ScanError as above."""
    probability = read_map(path, scan.grid)
    return resample(probability, spacing(frame(scan.grid)[1]), scan.image.shape, scan.spacing_mm)


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
        The scan that `array` belongs to; shape, affine, sform and qform of its file are kept.
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


def foreground(image) -> np.ndarray:
    """Voxels of the head, or of a skull-stripped brain, with black air left out: bool `(slice, row, column)`.

    Air is what lies near the minimum, whatever that is (a z-scored scan has a negative one); dark places inside the
    head, slice by slice, belong to it. Where the air has no noise, every voxel above the minimum counts.

    Examples
    --------
    >>> image = np.full((3, 5, 5), -1.0)
    >>> image[:, 1:4, 1:4] = 2
    >>> image[:, 2, 2] = -1
    >>> foreground(image)[1].sum()
    np.int64(9)
    """
    image = np.asarray(image)
    low = image.min()
    sample = image[::2, ::2, ::2] if image.size > 1e6 else image
    above = sample[sample > low]
    if not above.size:
        return np.zeros(image.shape, bool)
    threshold = low + AIR * (np.percentile(above, 95) - low)
    flat = (sample == low).sum() >= FLAT_AIR * (sample <= threshold).sum()
    return _fill_slices(_large_pieces(image > (low if flat else threshold)))


def intensity_statistics(image, mask=None) -> tuple[float, float]:
    """Mean and standard deviation of the intensities inside `mask` (default: `foreground(image)`).

    Raises ScanError where the mask is empty or its voxels are all alike.

    Examples
    --------
    >>> intensity_statistics(np.array([[[0.0, 2.0, 4.0]]]), np.array([[[False, True, True]]]))
    (3.0, 1.0)
    """
    values = np.asarray(image)[foreground(image) if mask is None else np.asarray(mask, bool)]
    if values.size == 0 or values.min() == values.max():
        raise ScanError(f"intensities of {values.size} foreground voxels do not vary; give a scan, or another mask")
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def normalise(image, mean=None, sd=None) -> np.ndarray:
    """`(image - mean) / sd` as float32; without `mean` and `sd`, with the scan's own `intensity_statistics`.

    Examples
    --------
    >>> normalise(np.array([[[1.0, 3.0]]]), mean=1, sd=2)
    array([[[0., 1.]]], dtype=float32)
    """
    if (mean is None) != (sd is None):
        raise ScanError(f"mean is {mean} and sd is {sd}; give both (a training cohort's) or neither (the scan's own)")
    if mean is None:
        mean, sd = intensity_statistics(image)
    if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
        raise ScanError(f"mean is {mean} and sd is {sd}; both must be finite and sd above 0")
    return ((np.asarray(image, np.float32) - np.float32(mean)) / np.float32(sd)).astype(np.float32, copy=False)


def _wanted_frame(grid, spacing_mm):
    if spacing_mm is not None and not SPACING_MM[0] <= spacing_mm <= SPACING_MM[1]:
        raise ScanError(f"spacing_mm is {spacing_mm!r}; give a voxel size in mm, or None for the scan's own")
    return resampled_frame(grid, spacing_mm)


def _require_map(array, scan, path):
    if array.shape != scan.image.shape:
        raise ScanError(f"{path}: the map has shape {array.shape}, the scan {scan.image.shape}; give one of its shape")
    if array.dtype != bool and array.dtype.kind != "f":
        raise ScanError(f"{path}: the map is {array.dtype}; give bool (a label) or float (a probability)")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ScanError(f"{path}: a map is written as NIfTI; let the name end in .nii or .nii.gz")
    if not path.parent.is_dir():
        raise ScanError(f"{path}: there is no folder {path.parent}; make it first")


def _write_whole(array, grid, path):
    """Write beside the path and move there, so that no reader ever meets half a file."""
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


def _large_pieces(mask):
    """`mask` without pieces of less than 1 % of its largest one."""
    pieces = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= max(PIECE * sizes.max(), 1))[pieces]


def _fill_slices(mask):
    """`mask` with what it surrounds in a slice."""
    filled = mask.copy()
    for plane in filled:
        outside = cc3d.connected_components(~plane, connectivity=4)
        border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
        is_outside = np.zeros(int(outside.max()) + 1, bool)
        is_outside[border] = True
        is_outside[0] = False
        plane[:] = ~is_outside[outside]
    return filled
