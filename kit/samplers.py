"""Which voxels an epoch visits, and the patches around them.

A cohort is prepared once: each scan becomes a memory-mapped float16 volume and two lists of voxels (lesion, healthy
and not black), so that memory does not grow with the number of scans. A draw is a table, one row a patch:

    every lesion voxel of every scan   +   healthy voxels of all scans pooled, new ones each epoch   ->   shuffled
"""

import hashlib
import json
import os
from dataclasses import dataclass
from math import ceil, hypot
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import maximum_filter
from torch.nn import functional
from tqdm.auto import tqdm

from kit.manifest import ManifestError
from kit.volume import foreground, intensity_statistics, load_mask, load_scan

PREPARATION = 1  # raise it when what is written to the cache changes: older files are then made anew
ROTATION_DEGREES = 15.0
LARGEST_PLANE = 51  # a lesion voxel with nothing but black in a plane of this width has no patch worth learning


@dataclass(frozen=True)
class Scheme:
    """How many healthy voxels go with a lesion voxel, and what each class weighs in the loss."""

    negatives_per_positive: int
    class_weights: tuple[float, float]  # healthy, lesion


SCHEMES = {
    "balanced": Scheme(negatives_per_positive=1, class_weights=(1.0, 1.0)),
    "ratio": Scheme(negatives_per_positive=10, class_weights=(0.1, 1.0)),
}


@dataclass(frozen=True)
class PreparedScan:
    """One scan in the cache: memory-mapped arrays, and the numbers that lead back to raw intensities.

    `volume` is float16 (slice, row, column), the scan in units of its own s.d. from its own mean; `lesion` and
    `healthy` are int32 positions in the flattened volume; `mean` and `sd` are over its `voxels` non-black voxels.
    """

    scan_id: str
    volume: np.ndarray
    lesion: np.ndarray
    healthy: np.ndarray
    mean: float
    sd: float
    voxels: int
    minimum: float


@dataclass(frozen=True)
class Cohort:
    """Prepared scans and the normalisation they share; `statistics` is (mean, sd), or None if each has its own."""

    scans: tuple[PreparedScan, ...]
    statistics: tuple[float, float] | None

    def __len__(self):
        return len(self.scans)

    @property
    def scale_and_offset(self):
        """Two float32 arrays (scan,): `volume * scale + offset` is the normalised scan."""
        if self.statistics is None:
            return np.ones(len(self), np.float32), np.zeros(len(self), np.float32)
        mean, sd = self.statistics
        scale = np.array([scan.sd / sd for scan in self.scans], np.float32)
        return scale, np.array([(scan.mean - mean) / sd for scan in self.scans], np.float32)

    def image(self, index):
        """The whole normalised scan, float32 (slice, row, column), as its patches see it."""
        scale, offset = self.scale_and_offset
        return self.scans[index].volume.astype(np.float32) * scale[index] + offset[index]


def prepare(table, cache_dir, *, intensities="cohort", statistics=None, progress=True):
    """Bring the scans of a manifest table into a cache of memory-mapped arrays and normalise them alike.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.manifest.read_manifest`, usually one split; an empty `label` means that no lesion is known.
        With a `mask`, healthy voxels are drawn inside it only.
    cache_dir : path
        Made if missing. A scan is found again by its files' path, size and time of change; what a killed
        preparation left is kept, and a damaged file is made anew.
    intensities : {"cohort", "scan"}
        "cohort" is the thesis' way: one mean and one s.d. over the non-black voxels of all training scans
        (section 5.2). "scan": each scan by its own.
    statistics : (mean, sd), optional
        With "cohort": use these, the training cohort's `statistics`, for validation and test scans.

    Returns
    -------
    Cohort
        Rounding to float16 moves an intensity by at most 1/2000 of its distance from its scan's mean.

    Raises
    ------
    ManifestError
        If the table is empty or `intensities` is not one of the two words.
    ScanError
        If a file cannot be used.
    """
    if intensities not in ("cohort", "scan"):
        raise ManifestError(f"intensities={intensities!r}: choose 'cohort' (one mean and s.d.) or 'scan'.")
    if len(table) == 0:
        raise ManifestError("No scans to prepare: the table has no rows. Check the split's name and the manifest.")
    rows = tqdm(table.to_dict("records"), desc="preparing scans", unit="scan", disable=not progress)
    scans = tuple(_prepared(row, Path(cache_dir)) for row in rows)
    if intensities == "scan":
        return Cohort(scans, None)
    return Cohort(scans, tuple(statistics) if statistics is not None else _pooled_statistics(scans))


def draw(cohort, scheme="balanced", seed=0, epoch=0, limit=None):
    """The patches of one epoch as a table, in the order in which they are visited.

    Every lesion voxel once, and `negatives_per_positive` times as many healthy non-black voxels, drawn uniformly
    from all scans together and anew for each epoch (thesis, 5.2 and 5.3.4). The same seed and epoch
    give the same table, whatever was drawn before.

    Parameters
    ----------
    scheme : {"balanced", "ratio"} or Scheme
    seed, epoch : int
    limit : int, optional
        The most patches to visit. An epoch is then a random subset of the lesion voxels, without repetition and new
        each epoch, with healthy voxels in the scheme's proportion: a whole epoch is beyond a quick run on a CPU.

    Returns
    -------
    pandas.DataFrame
        `scan` (categories are the cohort's scan ids, in its order), `slice`, `row`, `column`, `label` (True: lesion),
        `why` ("lesion" or "healthy") and `angle`, the rotation in degrees.

    Examples
    --------
    >>> scan = PreparedScan("s1", np.eye(3, dtype=np.float16)[None], np.array([0, 4]), np.arange(5, 9), 0, 1, 9, 0)
    >>> rows = draw(Cohort((scan,), None), seed=7)
    >>> rows[["scan", "slice", "row", "column"]][rows.label].sort_values("row").values.tolist()
    [['s1', 0, 0, 0], ['s1', 0, 1, 1]]
    """
    scheme = _scheme(scheme)
    rng = np.random.default_rng([seed, epoch])
    lesion, healthy = [scan.lesion for scan in cohort.scans], [scan.healthy for scan in cohort.scans]
    total, pool = sum(map(len, lesion)), sum(map(len, healthy))
    if total == 0 or pool == 0:
        raise ManifestError(f"The cohort has {total} lesion and {pool} healthy voxels: both are needed to draw from.")
    count = total if limit is None else min(total, max(1, limit // (1 + scheme.negatives_per_positive)))
    positives = np.sort(rng.choice(total, count, replace=False))
    negatives = np.sort(rng.integers(0, pool, count * scheme.negatives_per_positive))
    table = pd.concat([_rows(cohort, lesion, positives, "lesion"), _rows(cohort, healthy, negatives, "healthy")])
    table = table.iloc[rng.permutation(len(table))].reset_index(drop=True)
    return table.assign(angle=rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, len(table)).astype(np.float32))


def patches(cohort, rows, patch_shape, angles=None, device="cpu"):
    """The normalised patches around the voxels of a draw, rotated in the plane of their slices if asked.

    The wanted voxel is the centre, at index `size // 2`, and keeps its value exactly. A patch that is to be rotated
    is read sqrt(2) times larger and cropped afterwards, so that no corner has to be invented; where it reaches
    beyond the scan it sees the scan's minimum (air).

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of `draw`.
    patch_shape : (slices, rows, columns)
    angles : array of float, optional
        Degrees, one a patch, in the sense of `scipy.ndimage.rotate`; bilinear. None: plain slices of the scan.
    device : str or torch.device
        Where the rotation is done and the patches end up.

    Returns
    -------
    torch.Tensor
        float32 (N, slice, row, column).

    Examples
    --------
    >>> scan = PreparedScan("s1", np.eye(3, dtype=np.float16)[None], np.array([0]), np.arange(1, 9), 0, 1, 9, 0)
    >>> cohort = Cohort((scan,), None)
    >>> patches(cohort, draw(cohort, seed=7).query("label"), (1, 3, 3))[0, 0]
    tensor([[0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    depth, *plane = patch_shape
    reach = ceil(hypot(*plane) / 2)
    index = rows["scan"].cat.codes.to_numpy()
    centres = rows[["slice", "row", "column"]].to_numpy()
    window = (depth, *plane) if angles is None else (depth, 2 * reach + 1, 2 * reach + 1)
    found = torch.from_numpy(_gather(cohort.scans, index, centres, window)).to(device).float()
    if angles is not None:
        found = _rotate(found, torch.from_numpy(np.array(angles, np.float32)).to(device), plane)
    scale, offset = (torch.from_numpy(v[index]).to(device)[:, None, None, None] for v in cohort.scale_and_offset)
    return found.mul_(scale).add_(offset)  # (N, slice, row, column)


def _scheme(scheme):
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        raise ManifestError(f"Unknown sampling scheme {scheme!r}: choose one of {', '.join(SCHEMES)}.")
    return SCHEMES[scheme]


def _rows(cohort, positions, picks, why):
    """Rows for the voxels that stand at the ascending `picks` of all scans' positions, end to end."""
    ends = np.cumsum([0, *map(len, positions)])
    edges = np.searchsorted(picks, ends)
    found = []
    for index, scan in enumerate(cohort.scans):
        mine = picks[edges[index] : edges[index + 1]] - ends[index]
        found.append(np.stack(np.unravel_index(positions[index][mine], scan.volume.shape), axis=1))
    voxels = np.concatenate(found).astype(np.int32)
    names = [scan.scan_id for scan in cohort.scans]
    columns = {
        "scan": pd.Categorical.from_codes(np.repeat(np.arange(len(names)), np.diff(edges)), names),
        "slice": voxels[:, 0],
        "row": voxels[:, 1],
        "column": voxels[:, 2],
        "label": np.full(len(voxels), why == "lesion"),
        "why": pd.Categorical([why] * len(voxels), ["lesion", "healthy"]),
    }
    return pd.DataFrame(columns)


def _gather(scans, index, centres, window):
    """Windows of the float16 volumes, (N, slice, row, column); copying slices beats one big index of voxels."""
    found = np.empty((len(index), *window), np.float16)
    starts = centres - np.array(window) // 2
    stops = starts + window
    for patch, which, start, stop in zip(found, index.tolist(), starts.tolist(), stops.tolist(), strict=True):
        volume = scans[which].volume
        inside = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))
        seen = volume[inside]
        if seen.shape != patch.shape:
            patch[:] = scans[which].minimum
            patch = patch[tuple(slice(max(-a, 0), max(-a, 0) + n) for a, n in zip(start, seen.shape, strict=True))]
        patch[:] = seen
    return found


def _rotate(found, angles, plane):
    """Turn each (slice, R, R) window about its centre and keep the `plane` in the middle."""
    reach = found.shape[-1] // 2
    turn = torch.deg2rad(angles)[:, None, None]
    row, column = (torch.arange(n, device=found.device) - n // 2 for n in plane)
    row, column = row[:, None].float(), column[None, :].float()
    from_row = row * turn.cos() + column * turn.sin()
    from_column = column * turn.cos() - row * turn.sin()
    grid = torch.stack([from_column, from_row], dim=-1) / reach  # (N, row, column, 2), 0 is the centre exactly
    return functional.grid_sample(found, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _pooled_statistics(scans):
    """Mean and s.d. over the non-black voxels of all scans, from each scan's own."""
    voxels, mean, sd = np.array([(scan.voxels, scan.mean, scan.sd) for scan in scans], float).T
    pooled = np.average(mean, weights=voxels)
    return float(pooled), float(np.sqrt(np.average(sd**2 + (mean - pooled) ** 2, weights=voxels)))


def _prepared(row, cache_dir):
    folder = cache_dir / _key(row)
    try:
        return _open(folder, row["scan_id"])
    except (OSError, ValueError, KeyError):  # missing or damaged: made anew
        _make(row, folder)
        return _open(folder, row["scan_id"])


def _key(row):
    """Name of a scan's folder in the cache: changes when one of its files, or the preparation, does."""
    told = [PREPARATION, repr(_given(row, "lesion_codes"))]
    for column in ("image", "label", "mask"):
        if path := _given(row, column):
            found = Path(path).stat() if Path(path).is_file() else None
            told += [column, str(path), *((found.st_size, found.st_mtime_ns) if found else ("missing",))]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]


def _given(row, column):
    """A row's value, or None where the column is absent or the cell empty."""
    value = row.get(column)
    return None if value is None or value == "" or value != value else value


def _make(row, folder):
    scan = load_scan(row["image"], _given(row, "label"), lesion_codes=_given(row, "lesion_codes"))
    head = foreground(scan.image)
    mean, sd = intensity_statistics(scan.image, head)
    volume = ((scan.image - mean) / sd).astype(np.float16)
    lesion = np.zeros_like(head) if scan.label is None else scan.label
    healthy = head & ~lesion
    if mask := _given(row, "mask"):
        healthy &= load_mask(mask, scan)
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob("*.part"):  # left by a killed preparation
        part.unlink(missing_ok=True)
    _write(folder / "volume.npy", volume)
    _write(folder / "lesion.npy", np.flatnonzero(_not_black(lesion, head)).astype(np.int32))
    _write(folder / "healthy.npy", np.flatnonzero(healthy).astype(np.int32))
    facts = {"mean": mean, "sd": sd, "voxels": int(head.sum()), "minimum": float(volume.min())}
    _write(folder / "facts.json", facts)


def _not_black(lesion, head):
    """Lesion voxels whose patch holds some of the head: a misplaced label in the air is no sample."""
    if not (lesion & ~head).any():
        return lesion
    return lesion & maximum_filter(head, size=(1, LARGEST_PLANE, LARGEST_PLANE))


def _write(path, content):
    """Write an array or facts so that the file is either whole or not there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        if isinstance(content, dict):
            file.write(json.dumps(content).encode())
        else:
            np.save(file, content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _open(folder, scan_id):
    facts = json.loads((folder / "facts.json").read_text())
    arrays = {name: _map(folder / f"{name}.npy") for name in ("volume", "lesion", "healthy")}
    return PreparedScan(scan_id=scan_id, **arrays, **facts)


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
