"""The file of a scan, a label or a mask: read in one pass and refused, with the reason, where it cannot be used.

What comes out is `(slice, row, column)` (see `kit.scans.grid`), still at the file's own spacing.
"""

import hashlib
import math
import os
import shutil
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy
from tqdm.auto import tqdm

from kit.scans.grid import Grid, from_file_axes, same_grid, spacing

SPACING_MM = (0.05, 20.0)  # outside, a header is wrong (pixels, metres), and resampling would fill the memory
KEPT = "KIT_CACHE"  # environment variable: a folder for what takes seconds to find of a scan
READERS = 4  # scans in memory at once while files are read in threads
QUIET = 10  # fewer files than this are read without a progress bar
LARGEST_FIELD_MM3 = 4e8  # a cube of 0.74 m: what covers more is no head, and would fill the memory at 1 mm
SPARE_BYTES = 1 << 24  # what may follow the voxels in a file: more is damage, or packed to fill the memory
LARGEST_SHEAR = 0.01  # cosine between two axes: about half a degree off a right angle
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


class ScanError(ValueError):
    """A scan cannot be used as it is: the message names the file, what was found and what to do."""


@contextmanager
def replacing(path):
    """Give a path to write to that takes the place of `path` at the end: the file is there whole, or as it was before.

    The new file lies in the same folder with the same ending, is on the disk before it takes its place, and is removed
    where writing fails. The folder must exist.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/note.txt") as part:
    ...         _ = part.write_text("all of it")
    ...     [path.name for path in Path(folder).iterdir()]
    ['note.txt']
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path, error):
    """Give a folder to fill, and its name, that becomes `path` at the end: whole, or not at all.

    `path` is new or empty; otherwise `error` is raised with a message. Folders around it are made.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with new_folder(f"{folder}/a/b", ValueError) as (part, name):
    ...         _ = (part / "note.txt").write_text(name)
    ...     Path(folder, "a", "b", "note.txt").read_text()
    'b'
    """
    path = Path(path)
    path = path if path.name else path.resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise error(f"{path}: is there already and not an empty folder; name another one, or delete it")
    part = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")
    part.mkdir(parents=True)
    try:
        yield part, path.name
        if path.exists():
            path.rmdir()
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def kept(make, *facts):
    """Numbers that take long to find, from the folder that the environment variable KIT_CACHE names, or made anew.

    They are found again by `facts` and the versions of numpy and scipy, so that several processes share them, one after
    the other or at once. Without the variable nothing is read or written.

    Parameters
    ----------
    make : function
        Without arguments; returns a tuple of floats and arrays.
    facts : str, bytes, numbers or tuples of them
        All that the numbers depend on, the code that finds them among it.

    Returns
    -------
    tuple of float or numpy.ndarray

    Examples
    --------
    >>> kept(lambda: (1.5, np.array([2, 3])), "scan 7", 2.0)
    (1.5, array([2, 3]))
    """
    folder = os.environ.get(KEPT)
    if not folder:
        return make()
    name = hashlib.sha256(repr((facts, np.__version__, scipy.__version__)).encode()).hexdigest()[:24]
    path = Path(folder, f"{name}.npz")
    try:
        with path.open("rb") as file:
            arrays = np.load(file)
            return tuple(arrays[key] if arrays[key].ndim else arrays[key].item() for key in arrays.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # missing or damaged: made anew
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            np.savez(part, *found)
        return found


def write_table(table, path):
    """Write a table (pandas.DataFrame) as CSV, floats in full, whole or not at all."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def in_threads(function, items, doing):
    """Results of a function that reads files, in the order of `items`, a few at once, with a progress bar.

    >>> list(in_threads(abs, [1, -2], "reading"))
    [1, 2]
    """
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        results = pool.map(function, items)
        yield from tqdm(results, total=len(items), desc=doing, unit="scan", disable=len(items) < QUIET)


def read_grid(path) -> Grid:
    """The voxel grid of a file, from its header alone; ScanError where it is not one right-angled 3-D volume."""
    return _grid(_open(path), path)


def read_image(path) -> tuple[np.ndarray, Grid]:
    """An image as finite, varying float32 `(slice, row, column)`, and its grid; ScanError where it cannot be that.

    Warns where the header does not say which way the head lies.
    """
    file = _open(path)
    grid = _grid(file, path)
    _warn_of_unknown_orientation(file, path)
    voxels = _voxels(file, path)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is reported as such
        image = np.array(from_file_axes(voxels, grid.affine), dtype=np.float32, order="C")
        if not np.isfinite(image).all():
            bad = np.argwhere(~np.isfinite(voxels.astype(np.float32)))
            raise ScanError(
                f"{path}: {len(bad)} voxels are NaN or infinite, the first at index "
                f"{tuple(int(i) for i in bad[0])} of the file; replace them, by 0 where they are air"
            )
    if image.min() == image.max():
        raise ScanError(f"{path}: every voxel is {image.flat[0]:g}; an image must vary: export the scan again")
    return image, grid


def read_label(path, grid=None, *, lesion_codes=None) -> np.ndarray:
    """A label as bool `(slice, row, column)`, True where a voxel holds a lesion code; it may have no lesion.

    `lesion_codes` is a str such as `"1;3"`, an int or ints; None (or `""`) asks for zeros and one positive value.
    ScanError where the label is on another grid than `grid` (None: any), or holds something else.
    """
    codes = _codes(lesion_codes, path)
    voxels, affine = _on_grid(path, grid)
    found = _label_values(voxels, path)
    if codes is None and (len(found) > 1 or (found < 0).any()):
        raise ScanError(
            f"{path}: holds the label values {_numbers(found)} besides 0; say which of them are lesion by "
            "lesion_codes, such as '1' or '1;3'"
        )
    whole = np.round(voxels)
    lesion = whole != 0 if codes is None else np.isin(whole, codes)
    return np.array(from_file_axes(lesion, affine), order="C")


def read_codes(path, grid=None) -> np.ndarray:
    """A label's values as int `(slice, row, column)`; ScanError on another grid than `grid`, or for other numbers."""
    voxels, affine = _on_grid(path, grid)
    _label_values(voxels, path)
    return np.array(np.round(from_file_axes(voxels, affine)), dtype=np.int32, order="C")


def read_mask(path, grid=None) -> np.ndarray:
    """A mask as bool `(slice, row, column)`, True where a voxel is not 0.

    ScanError on another grid than `grid`, or for voxels that are NaN or infinite.
    """
    voxels, affine = _on_grid(path, grid)
    if bad := np.count_nonzero(~np.isfinite(voxels)):
        raise ScanError(
            f"{path}: {bad} voxels are NaN or infinite; replace them, by 0 where nothing is to be looked for"
        )
    return np.array(from_file_axes(voxels != 0, affine), order="C")


def read_map(path, grid=None) -> np.ndarray:
    """A probability map as float32 `(slice, row, column)`; ScanError as for labels, and for values outside [0, 1]."""
    voxels, affine = _on_grid(path, grid)
    if not (voxels.min() >= 0 and voxels.max() <= 1):  # NaN fails both
        raise ScanError(
            f"{path}: values from {voxels.min():g} to {voxels.max():g} are no probabilities; give a map within [0, 1]"
        )
    return np.array(from_file_axes(voxels, affine), dtype=np.float32, order="C")


def _open(path):
    """The image behind a path, its data not read yet."""
    if not Path(path).is_file():
        raise ScanError(f"{path}: no such file; correct the path or bring the file there")
    try:
        with np.errstate(all="ignore"):  # numbers of a damaged header overflow, and are refused by what comes of them
            image = nib.load(path)
    except Exception as error:  # readers of damaged headers raise errors of many kinds
        raise ScanError(
            f"{path}: not a readable image ({_reason(error, path)}); give a whole, undamaged NIfTI file"
        ) from error
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise ScanError(f"{path}: holds {type(image).__name__}, not voxels; convert it to a 3-D NIfTI volume")
    return image


def _grid(image, path):
    """The file's grid, refused where no permutation of axes can bring it to (slice, row, column)."""
    _require_one_volume(image.shape, image.get_data_dtype(), path)
    _require_voxel_size(image, path)
    with np.errstate(all="ignore"):
        affine = np.asarray(image.affine, float)
        sizes = spacing(affine)
    if not (np.isfinite(affine).all() and SPACING_MM[0] <= min(sizes) and max(sizes) <= SPACING_MM[1]):
        raise ScanError(
            f"{path}: voxel size is {_numbers(sizes)} mm, outside {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm; "
            "correct sform or qform in its header, in mm"
        )
    field = np.multiply(image.shape[:3], sizes)
    if field.prod() > LARGEST_FIELD_MM3:
        raise ScanError(
            f"{path}: covers {' x '.join(f'{side:.0f}' for side in field)} mm, more than any head; correct the voxel "
            f"size ({_numbers(sizes)} mm) in its header"
        )
    axes = affine[:3, :3] / sizes
    shear = np.abs(axes.T @ axes - np.eye(3)).max()
    if shear > LARGEST_SHEAR:
        raise ScanError(
            f"{path}: axes are sheared or fall together (the largest cosine between two of them is {shear:.3f}, "
            f"allowed {LARGEST_SHEAR}); resample it to a right-angled grid first"
        )
    return Grid(tuple(int(n) for n in image.shape), affine, _geometry(image.header))


def _require_one_volume(shape, dtype, path):
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or 0 in shape:
        raise ScanError(f"{path}: has shape {shape}, not one 3-D volume; extract the volume that is the T1-Gd scan")
    if dtype.names:
        raise ScanError(f"{path}: voxels are colours ({', '.join(dtype.names)}); export the scan in grey values")
    if dtype.kind not in "iufb":
        raise ScanError(f"{path}: voxels are {dtype}, not real numbers; export the magnitude image")


def _require_voxel_size(image, path):
    """Refuse a NIfTI file whose geometry hangs on voxel sizes of 0, in whose place the reader puts 1 mm."""
    header = image.header
    if isinstance(header, nib.Nifti1Header) and header["sform_code"] == 0:
        with nib.openers.ImageOpener(image.file_map.get("header", image.file_map["image"]).filename) as file:
            sizes = type(header)(file.read(header.sizeof_hdr), header.endianness, check=False)["pixdim"][1:4]
        if not (np.abs(sizes) > 0).all():
            raise ScanError(f"{path}: voxel size is {_numbers(sizes)} mm in its header; correct pixdim, in mm")


def _geometry(header):
    """A header with the file's geometry and nothing else of it: free text may name the patient."""
    if not isinstance(header, nib.Nifti1Header):
        return None
    kept = nib.Nifti2Header() if isinstance(header, nib.Nifti2Header) else nib.Nifti1Header()
    for name in GEOMETRY:
        kept[name] = header[name]
    return kept


def _warn_of_unknown_orientation(image, path):
    header = image.header
    if isinstance(header, nib.Nifti1Header) and header["sform_code"] == 0 and header["qform_code"] == 0:
        axes = "".join(nib.aff2axcodes(image.affine))
        warnings.warn(
            f"{path}: sform and qform codes are 0, so the orientation ({axes}) is a guess; look whether the nose is "
            "up and the neck at slice 0, and correct the header where not",
            stacklevel=3,
        )


def _voxels(image, path):
    """The file's numbers, 3-D, in the file's own order and type."""
    try:
        if Path(path).suffix in (".gz", ".mgz") and hasattr(type(image), "from_bytes"):
            image = type(image).from_bytes(_unpacked(path, image))
        with np.errstate(all="ignore"):  # of a scale factor beyond what the type can hold
            voxels = np.asanyarray(image.dataobj)
    except Exception as error:  # zlib, gzip, mmap and nibabel each have their own
        raise ScanError(
            f"{path}: voxels cannot be read ({_reason(error, path)}); the file is truncated or damaged: copy it again"
        ) from error
    return voxels.reshape(voxels.shape[:3])


def _unpacked(path, image):
    """What is packed in a file, at once: faster than a stream, checksums verified, and no more than its header says."""
    wanted = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    rest, parts, room = Path(path).read_bytes(), [], wanted + SPARE_BYTES
    while rest:
        packed = zlib.decompressobj(wbits=31)  # of gzip
        parts.append(packed.decompress(rest, room + 1))
        room -= len(parts[-1])
        if room < 0 or not packed.eof:
            raise ValueError("more is packed in it than its header says" if room < 0 else "it ends too early")
        rest = packed.unused_data.lstrip(b"\0")
    if sum(map(len, parts)) < wanted:
        raise ValueError(f"its header asks for {wanted} bytes, and {sum(map(len, parts))} are packed in it")
    return b"".join(parts)


def _on_grid(path, grid):
    """A label's or mask's voxels and affine, refused where its corners lie elsewhere than those of `grid`."""
    image = _open(path)
    own = _grid(image, path)
    if grid is not None and not same_grid(own, grid):
        raise ScanError(
            f"{path}: is on another grid than its image: {_describe(own)} against the image's {_describe(grid)}; "
            "resample it onto the image (nearest neighbour), or name the label that belongs to this image"
        )
    return _voxels(image, path), own.affine


def _label_values(voxels, path):
    """The values other than 0 that a label holds, as ints: numbers within 0.001 of whole ones count as these."""
    found = np.unique(voxels[voxels != 0])
    whole = np.isfinite(found).all() and np.allclose(found, np.round(found), rtol=0, atol=1e-3)
    if not (whole and np.abs(found).max(initial=0) < 1 << 31):
        raise ScanError(
            f"{path}: label values {_numbers(found)} are not whole numbers below 2^31; save it as integer codes"
        )
    values = np.unique(np.round(found)).astype(int)
    return values[values != 0]


def _codes(lesion_codes, path):
    """Lesion codes as a sorted list of positive ints, or None where none are given."""
    if lesion_codes is None or (isinstance(lesion_codes, str) and not lesion_codes.strip()):
        return None
    if isinstance(lesion_codes, str):
        codes = [code.strip() for code in lesion_codes.split(";")]
    else:
        codes = [str(code) for code in (lesion_codes if isinstance(lesion_codes, Iterable) else [lesion_codes])]
    if not codes or not all(code.isdecimal() and int(code) > 0 for code in codes):
        raise ScanError(f"{path}: lesion_codes is {lesion_codes!r}; give whole numbers above 0, such as '1;3'")
    return sorted({int(code) for code in codes})


def _describe(grid):
    sizes, origin = _numbers(spacing(grid.affine)), _numbers(grid.affine[:3, 3])
    return f"{' x '.join(map(str, grid.shape))} voxels of {sizes} mm from ({origin})"


def _numbers(values):
    shown = ", ".join(f"{value:g}" for value in values[:9])
    return f"{shown}, ..." if len(values) > 9 else shown


def _reason(error, path):
    """What a reader said, on one line and without the path, which the message names already."""
    return " ".join(str(error).replace(str(path), "the file").split()) or type(error).__name__
