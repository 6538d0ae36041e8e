"""A cohort prepared once for training: memory-mapped scans and the voxels that samples are drawn from.

Each scan becomes a float16 volume and lists of voxels (lesion, healthy and not black), so that memory does not grow
with the number of scans. Which voxels of a lesion lie on its border, or would survive an erosion, is found
once and kept with them, because every epoch asks for it. The brain, which takes seconds to find, is added when scans
are first normalised by it.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_erosion, maximum_filter
from tqdm.auto import tqdm

from kit.samplers.brain import beyond_brain
from kit.scans import (
    brain_statistics,
    components,
    foreground,
    intensity_statistics,
    load_row,
    replacing,
    search_region,
)

PREPARATION = 3  # raise it when what is written to the cache changes: older files are then made anew
LARGEST_PLANE = 51  # a lesion voxel with nothing but black in a plane of this width has no patch worth learning
INTENSITIES = ("brain", "scan", "cohort")
ARRAYS = ("volume", "lesion", "healthy", "component", "depth")
BORDER, ERODED, ERODED_BORDER = 1, 2, 4  # bits of `PreparedScan.depth`


class SamplerError(ValueError):
    """Samples cannot be drawn as asked for; the message says what was asked and what there is."""


@dataclass(frozen=True)
class PreparedScan:
    """One scan in the cache: memory-mapped arrays, and the numbers that lead back to raw intensities.

    `volume` is float16 (slice, row, column), the scan in units of its own s.d. from its own mean; `lesion` and
    `healthy` are ascending int32 positions in the flattened volume; `component` (int32, the lesion's number) and
    `depth` (uint8, see `depth_of`) go with `lesion`; `mean` and `sd` are over its `voxels` non-black voxels.

    Where scans were prepared with `intensities="brain"`, `brain` is `kit.scans.brain_statistics`, and `beyond` (int8
    (slice, row, column)) says how many mm a voxel lies outside the brain, below 0 inside it and around lesions.
    """

    scan_id: str
    volume: np.ndarray
    lesion: np.ndarray
    healthy: np.ndarray
    component: np.ndarray
    depth: np.ndarray
    mean: float
    sd: float
    voxels: int
    minimum: float
    spacing_mm: tuple = (1.0, 1.0, 1.0)
    brain: tuple[float, float] | None = None
    beyond: np.ndarray | None = None

    @property
    def label(self):
        """The label that the lesion voxels come from: bool (slice, row, column)."""
        label = np.zeros(self.volume.size, bool)
        label[self.lesion] = True
        return label.reshape(self.volume.shape)


@dataclass(frozen=True)
class Cohort:
    """Prepared scans, and how they are normalised: `statistics` is (mean, sd) of all, or "scan" or "brain": its own."""

    scans: tuple[PreparedScan, ...]
    statistics: tuple[float, float] | str

    def __len__(self):
        return len(self.scans)

    @property
    def scale_and_offset(self):
        """Two float32 arrays (scan,): `volume * scale + offset` is the normalised scan."""
        if self.statistics == "scan":
            return np.ones(len(self), np.float32), np.zeros(len(self), np.float32)
        wanted = [scan.brain if self.statistics == "brain" else self.statistics for scan in self.scans]
        both = [(scan.sd / sd, (scan.mean - mean) / sd) for scan, (mean, sd) in zip(self.scans, wanted, strict=True)]
        return tuple(np.array(both, np.float32).T.copy())

    def image(self, index):
        """The whole normalised scan, float32 (slice, row, column), as its patches see it."""
        scale, offset = self.scale_and_offset
        return self.scans[index].volume.astype(np.float32) * scale[index] + offset[index]


def prepare(table, cache_dir, *, intensities="cohort", statistics=None, search="head", progress=True):
    """Bring the scans of a manifest table into a cache of memory-mapped arrays and normalise them alike.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`, usually one split; an empty `label` means that no lesion is known.
        With a `mask`, healthy voxels are drawn inside it only.
    cache_dir : path
        Made if missing. A scan is found again by its files' path, size and time of change; what a killed
        preparation left is kept, and a damaged file is made anew.
    intensities : {"cohort", "scan", "brain"}
        "cohort" is the thesis' way: one mean and one s.d. over the non-black voxels of all training scans
        (section 5.2). "scan": each scan by its own. "brain": each scan by its brain alone, see
        `kit.scans.brain_statistics`, so that a brain has the same values with skull and without.
    statistics : (mean, sd), optional
        With "cohort": use these, the training cohort's `statistics`, for validation and test scans.
    search : {"head", "brain"}
        Where healthy voxels are drawn in scans without a `mask`, see `kit.scans.search_region`. It says nothing of
        how intensities are normalised.

    Returns
    -------
    Cohort
        Rounding to float16 moves an intensity by at most 1/2000 of its distance from its scan's mean.

    Raises
    ------
    SamplerError
        If the table is empty or `intensities` is not one of the three words.
    ScanError
        If a file cannot be used, or `search` is another word.
    """
    if intensities not in INTENSITIES:
        raise SamplerError(f"intensities is {intensities!r}; choose one of {', '.join(INTENSITIES)}")
    if len(table) == 0:
        raise SamplerError("no scans to prepare: the table has no rows; check the split's name and the manifest")
    rows = tqdm(table.to_dict("records"), desc="preparing scans", unit="scan", disable=not progress)
    scans = tuple(_prepared(row, Path(cache_dir), search, intensities == "brain") for row in rows)
    if intensities != "cohort":
        return Cohort(scans, intensities)
    return Cohort(scans, tuple(statistics) if statistics is not None else _pooled_statistics(scans))


def depth_of(label):
    """Say of every voxel of a label where in its lesion it lies: uint8, a sum of `BORDER`, `ERODED`, `ERODED_BORDER`.

    BORDER: a face neighbour lies outside the label. ERODED: the 3x3x3 cube around the voxel lies inside, so that it
    survives the thesis' erosion (section 5.3.4). ERODED_BORDER: it survives, and a face neighbour does not. Beyond the
    scan is outside.

    >>> depth_of(np.ones((5, 5, 5), bool))[2, 2].tolist()
    [1, 6, 2, 6, 1]
    """
    eroded = binary_erosion(label, np.ones((3, 3, 3)))
    border, eroded_border = (mask & ~binary_erosion(mask) for mask in (label, eroded))
    return BORDER * border.astype(np.uint8) + ERODED * eroded + ERODED_BORDER * eroded_border


def _pooled_statistics(scans):
    """Mean and s.d. over the non-black voxels of all scans, from each scan's own."""
    voxels, mean, sd = np.array([(scan.voxels, scan.mean, scan.sd) for scan in scans], float).T
    pooled = np.average(mean, weights=voxels)
    return float(pooled), float(np.sqrt(np.average(sd**2 + (mean - pooled) ** 2, weights=voxels)))


def _prepared(row, cache_dir, search, with_brain):
    folder = cache_dir / _key(row, search)
    try:
        scan = _open(folder, row["scan_id"])
    except (OSError, ValueError, KeyError):  # missing or damaged: made anew
        _make(row, folder, search)
        scan = _open(folder, row["scan_id"])
    if not with_brain:
        return scan
    try:
        return _open_brain(folder, scan)
    except (OSError, ValueError, KeyError):
        _make_brain(row, folder)
        return _open_brain(folder, scan)


def _key(row, search):
    """Name of a scan's folder in the cache: changes when one of its files, or the preparation, does."""
    facts = [PREPARATION, search, repr(row.get("lesion_codes") or None)]
    for column in ("image", "label", "mask"):
        if path := row.get(column):
            found = Path(path).stat() if Path(path).is_file() else None
            facts += [column, str(path), *((found.st_size, found.st_mtime_ns) if found else ("missing",))]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _make(row, folder, search):
    scan = load_row(row)
    head = foreground(scan.image)
    mean, sd = intensity_statistics(scan.image, head)
    volume = ((scan.image - mean) / sd).astype(np.float16)
    lesion = np.zeros_like(head) if scan.label is None else scan.label
    healthy = head & ~lesion
    if search != "head" or row.get("mask"):
        healthy &= search_region(scan, row, search)
    positions = np.flatnonzero(_not_black(lesion, head))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "volume.npy", volume)
    _write(folder / "lesion.npy", positions.astype(np.int32))
    _write(folder / "component.npy", components(lesion).ravel()[positions])
    _write(folder / "depth.npy", _depth_in_box(lesion).ravel()[positions])
    _write(folder / "healthy.npy", np.flatnonzero(healthy).astype(np.int32))
    facts = {"mean": mean, "sd": sd, "voxels": int(head.sum()), "minimum": float(volume.min())}
    facts["spacing_mm"] = list(map(float, scan.spacing_mm))
    with replacing(folder / "facts.json") as part:
        part.write_text(json.dumps(facts))


def _make_brain(row, folder):
    scan = load_row(row)
    brain, unit = brain_statistics(scan.image, scan.spacing_mm)
    beyond = beyond_brain(scan.image, (brain, unit), scan.spacing_mm, scan.label)
    _write(folder / "beyond.npy", beyond)
    with replacing(folder / "brain.json") as part:
        part.write_text(json.dumps([brain, unit]))


def _write(path, array):
    with replacing(path) as part:
        np.save(part, array)


def _depth_in_box(label):
    """`depth_of`, worked out only where there is lesion: ten million voxels of background cost seconds."""
    depth = np.zeros(label.shape, np.uint8)
    if label.any():
        box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(label))
        depth[box] = depth_of(label[box])
    return depth


def _not_black(lesion, head):
    """Lesion voxels whose patch holds some of the head: a misplaced label in the air is no sample."""
    if not (lesion & ~head).any():
        return lesion
    return lesion & maximum_filter(head, size=(1, LARGEST_PLANE, LARGEST_PLANE))


def _open(folder, scan_id):
    facts = json.loads((folder / "facts.json").read_text())
    arrays = {name: _map(folder / f"{name}.npy") for name in ARRAYS}
    return PreparedScan(scan_id=scan_id, **arrays, **facts | {"spacing_mm": tuple(facts["spacing_mm"])})


def _open_brain(folder, scan):
    brain = tuple(json.loads((folder / "brain.json").read_text()))
    return replace(scan, brain=brain, beyond=_map(folder / "beyond.npy"))


def _map(path):
    """Memory-map an .npy file; unlike `numpy.load` it keeps no file handle, of which thousands of scans run out."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    size = path.stat().st_size
    if size != start + dtype.itemsize * int(np.prod(shape)):
        raise ValueError(f"{path} is damaged: {size} bytes do not hold {shape} {dtype}.")
    array = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()[start:].view(dtype)
    array.flags.writeable = False
    return array.reshape(shape)
