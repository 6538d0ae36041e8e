"""One scan's entry in the cache of prepared scans: a folder, named after what is in the scan's files.

    <key>/
      volume.npy lesion.npy healthy.npy component.npy depth.npy      arrays of `PreparedScan`
      facts.json      its numbers, and a checksum of each array: written last, so that an entry without it is not whole
      brain.json      the same of the brain, once scans are normalised by it
      beyond.npy beyond.json      where it ends, once an augmentation takes skulls off
    contents/<name>      digest of a file, found by path, size and time of change, so that it is read once

Each file is written whole or not at all. An entry is read to its last byte before it is used.
"""

import errno
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_erosion, maximum_filter

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

PREPARATION = 4  # raise it when what is written to the cache changes: older entries are then left aside
LARGEST_PLANE = 51  # a lesion voxel with nothing but black in a plane of this width has no patch worth learning
PARTS = {  # of an entry, each made when it is first asked for: its arrays, beside facts of the same name
    "facts": ("volume", "lesion", "healthy", "component", "depth"),
    "brain": (),
    "beyond": ("beyond",),
}
BORDER, ERODED, ERODED_BORDER = 1, 2, 4  # bits of `PreparedScan.depth`
CHUNK = 1 << 20  # bytes read at a time where all of a file is


class SamplerError(ValueError):
    """Samples cannot be drawn as asked for; the message says what was asked and what there is."""


@dataclass(frozen=True)
class PreparedScan:
    """One scan in the cache: memory-mapped arrays, and the numbers that lead back to raw intensities.

    `volume` is float16 (slice, row, column), the scan in units of its own s.d. from its own mean; `lesion` and
    `healthy` are ascending int32 positions in the flattened volume; `component` (int32, the lesion's number) and
    `depth` (uint8, see `depth_of`) go with `lesion`; `mean` and `sd` are over its `voxels` non-black voxels.

    Where scans were prepared with `intensities="brain"`, `brain` is `kit.scans.brain_statistics`; where they were
    prepared for an augmentation, `beyond` (int8 (slice, row, column)) says how many mm a voxel lies outside the brain,
    below 0 inside it and around lesions.
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


def whole_entry(row, cache_dir, search, parts):
    """The folder of a scan's entry where these of `PARTS` are there and undamaged, or None; nothing is made."""
    folder = cache_dir / _key(row, cache_dir, search)
    whole = all((folder / f"{name}.json").exists() and not _damage(folder, name) for name in parts)
    return folder if whole else None


def ensure(row, cache_dir, search, parts):
    """See to it that these of `PARTS` of a manifest row's scan are in the cache: made where missing or damaged.

    Returns
    -------
    folder : Path
        The entry's.
    note : str
        What was found damaged and made anew; "" otherwise.

    Raises
    ------
    ScanError, OSError
        Where the scan cannot be read, or the entry not be written. Other entries are not touched.
    """
    folder, notes = cache_dir / _key(row, cache_dir, search), []
    make = {"facts": _make, "brain": _make_brain, "beyond": _make_beyond}
    try:
        for name in parts:
            if not (folder / f"{name}.json").exists():
                make[name](row, folder, search)
            elif damage := _damage(folder, name):
                notes.append(f"the prepared scan {row['scan_id']} was damaged ({damage}) and is made anew")
                make[name](row, folder, search)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"no space is left in {cache_dir}; free some, or give another folder") from error
        raise
    return folder, "; ".join(notes)


def open_entry(folder, scan_id, parts):
    """A `PreparedScan` from an entry that `ensure` has seen to: arrays are mapped, not read."""
    facts = _read_facts(folder, "facts")[0]
    arrays = {name: _map(folder / f"{name}.npy") for part in parts for name in PARTS[part]}
    brain = tuple(_read_facts(folder, "brain")[0]["brain"]) if "brain" in parts else None
    return PreparedScan(scan_id, **arrays, **facts | {"spacing_mm": tuple(facts["spacing_mm"])}, brain=brain)


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


def _key(row, cache_dir, search):
    """Name of a scan's entry: changes when what is in one of its files, or the preparation, does."""
    facts = [PREPARATION, search, repr(row.get("lesion_codes") or None)]
    for column in ("image", "label", "mask"):
        if path := row.get(column):
            facts += [column, _content(Path(path), cache_dir) if Path(path).is_file() else str(path)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _content(path, cache_dir):
    """Digest of what is in a file, which is read once as long as its size and time of change stay."""
    found = path.stat()
    facts = json.dumps([str(path.resolve()), found.st_size, found.st_mtime_ns])
    note = cache_dir / "contents" / hashlib.sha256(facts.encode()).hexdigest()[:24]
    if note.is_file() and len(text := note.read_text(errors="replace")) == 64:
        return text
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    with replacing(note) as part:
        part.write_text(digest)
    return digest


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
    arrays = {
        "volume": volume,
        "lesion": positions.astype(np.int32),
        "healthy": np.flatnonzero(healthy).astype(np.int32),
        "component": components(lesion).ravel()[positions],
        "depth": _depth_in_box(lesion).ravel()[positions],
    }
    facts = {"mean": mean, "sd": sd, "voxels": int(head.sum()), "minimum": float(volume.min())}
    _write(folder, "facts", facts | {"spacing_mm": list(map(float, scan.spacing_mm))}, arrays)


def _make_brain(row, folder, search):
    scan = load_row(row)
    _write(folder, "brain", {"brain": list(brain_statistics(scan.image, scan.spacing_mm))}, {})


def _make_beyond(row, folder, search):
    scan, statistics = load_row(row), tuple(_read_facts(folder, "brain")[0]["brain"])
    _write(folder, "beyond", {}, {"beyond": beyond_brain(scan.image, statistics, scan.spacing_mm, scan.label)})


def _write(folder, name, facts, arrays):
    """Arrays first, then the facts with their checksums: `<name>.json` says that the others are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for array, values in arrays.items():
        with replacing(folder / f"{array}.npy") as part:
            np.save(part, values)
    content = json.dumps([facts, {array: _checksum(folder / f"{array}.npy") for array in arrays}])
    with replacing(folder / f"{name}.json") as part:
        part.write_text(json.dumps({"crc32": zlib.crc32(content.encode()), "content": content}))


def _read_facts(folder, name):
    """Facts, and checksums of arrays, of `<name>.json`; ValueError or KeyError where it is damaged."""
    read = json.loads((folder / f"{name}.json").read_text())
    if zlib.crc32(read["content"].encode()) != read["crc32"]:
        raise ValueError(f"{name}.json has another checksum")
    return json.loads(read["content"])


def _damage(folder, name):
    """What is wrong with a part of an entry, or None."""
    try:
        checksums = _read_facts(folder, name)[1]
        for array in PARTS[name]:
            if _checksum(folder / f"{array}.npy") != checksums[array]:
                return f"{array}.npy has another checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{name}.json or one of its arrays cannot be read: {type(error).__name__}"
    return None


def _checksum(path):
    """CRC-32 of a file, read a little at a time."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


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
