"""The patches around the voxels of a draw: from memory-mapped scans on the host, or from scans that lie on the device.

`patches` copies windows out of the cache, so that a cohort may be larger than memory. `Resident` holds a whole cohort
on a device and reads the turned patches from it directly: no window is copied and the host is not waited for.
"""

from math import ceil, hypot
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional


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
    >>> import pandas as pd
    >>> from kit.samplers.cache import Cohort, PreparedScan
    >>> volume, one = np.eye(3, dtype=np.float16)[None], np.array([1])
    >>> cohort = Cohort((PreparedScan("s1", volume, one - 1, one, one, one, 0, 1, 9, 0),), None)
    >>> rows = pd.DataFrame({"scan": pd.Categorical(["s1"]), "slice": 0, "row": 0, "column": 0})
    >>> patches(cohort, rows, (1, 3, 3))[0, 0]
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


def label_maps(cohort, rows, side, angles=None, device="cpu"):
    """The labels of the side x side voxels that a patch's map of outputs stands for, turned as the patch is.

    A turned output lies between voxels; it gets the label of the nearest.

    Parameters
    ----------
    rows, angles, device
        As in `patches`; the wanted voxel is at index `side // 2` of both axes.
    side : int

    Returns
    -------
    torch.Tensor
        int64 (N, row, column), 0 or 1; 0 beyond the scan.
    """
    step = np.arange(side) - side // 2
    turn = np.deg2rad(np.zeros(len(rows)) if angles is None else np.asarray(angles, float))[:, None, None]
    row = rows["row"].to_numpy()[:, None, None] + np.rint(step[:, None] * np.cos(turn) + step * np.sin(turn))
    column = rows["column"].to_numpy()[:, None, None] + np.rint(step * np.cos(turn) - step[:, None] * np.sin(turn))
    found = np.zeros(row.shape, np.int64)
    scan = rows["scan"].cat.codes.to_numpy()
    for index in np.unique(scan):
        prepared, mine = cohort.scans[index], scan == index
        _, height, width = prepared.volume.shape
        inside = (row[mine] >= 0) & (row[mine] < height) & (column[mine] >= 0) & (column[mine] < width)
        flat = (rows["slice"].to_numpy()[mine, None, None] * height + row[mine]) * width + column[mine]
        found[mine] = inside & contains(prepared.lesion, flat)
    return torch.from_numpy(found).to(device)  # (N, row, column)


def contains(ascending, values):
    """Say of each value whether it stands in an ascending array.

    >>> contains(np.array([2, 5]), np.array([[1, 2], [5, 9]])).tolist()
    [[False, True], [True, False]]
    """
    if len(ascending) == 0:
        return np.zeros(np.shape(values), bool)
    return ascending[np.searchsorted(ascending, values).clip(max=len(ascending) - 1)] == values


class Places(NamedTuple):
    """Where patches lie, as tensors on one device: (N,) int64 scan, (N, 3) int64 voxel, (N,) float32 degrees."""

    scan: torch.Tensor
    voxel: torch.Tensor
    angle: torch.Tensor

    @classmethod
    def of(cls, rows, device):
        """The rows of a draw as tensors on a device."""
        voxel = rows[["slice", "row", "column"]].to_numpy(np.int64)
        parts = rows["scan"].cat.codes.to_numpy(np.int64), voxel, rows["angle"].to_numpy(np.float32)
        return cls(*(torch.from_numpy(np.array(part)).to(device) for part in parts))

    def part(self, some):
        """Those of a slice."""
        return Places(*(part[some] for part in self))


class Resident:
    """A prepared cohort in a device's memory: 21 MB a scan of 160x256x256, and 10 MB for its label.

    Scans of any shapes lie end to end in one flat float16 tensor. A patch's value at row r and column c of its plane,
    counted from its centre and turned by an angle, is interpolated between the four voxels around

        row    + r cos + c sin
        column + c cos - r sin      of the scan, in each of the patch's slices.

    What `patches` and `label_maps` give for the same rows, to float32 rounding.
    """

    def __init__(self, cohort, device):
        """Copy the cohort there."""
        self.device, shapes = torch.device(device), [scan.volume.shape for scan in cohort.scans]
        sizes = [scan.volume.size for scan in cohort.scans]
        self.values = torch.empty(sum(sizes), dtype=torch.float16, device=device)
        self.lesion = torch.zeros(sum(sizes), dtype=torch.bool, device=device)
        starts = np.cumsum([0, *sizes])
        for scan, start, size in zip(cohort.scans, starts.tolist(), sizes, strict=False):
            self.values[start : start + size] = torch.from_numpy(np.array(scan.volume).ravel()).to(device)
            self.lesion[torch.from_numpy(scan.lesion.astype(np.int64) + start).to(device)] = True
        minimum = [scan.minimum for scan in cohort.scans]
        told = (starts[:-1], np.int64), (shapes, np.int64), (minimum, np.float32)
        self.start, self.shape, self.minimum = (torch.from_numpy(np.array(v, t)).to(device) for v, t in told)
        self.scale, self.offset = (torch.from_numpy(v).to(device) for v in cohort.scale_and_offset)

    def patches(self, places, patch_shape):
        """Turned, normalised patches: float32 (N, slice, row, column), channels last in memory."""
        depth, *plane = patch_shape
        row, column = self._turned(places, plane)  # (N, row, column) float
        low_row, low_column = row.floor(), column.floor()
        down, right = row - low_row, column - low_column
        total = 0
        for below in (0, 1):
            for beside in (0, 1):
                share = (down if below else 1 - down) * (right if beside else 1 - right)
                seen = self._look(places, low_row.long() + below, low_column.long() + beside, depth)
                total = total + seen * share[..., None]  # (N, row, column, slice)
        scale, offset = (v[places.scan][:, None, None, None] for v in (self.scale, self.offset))
        return (total * scale + offset).permute(0, 3, 1, 2)  # (N, slice, row, column)

    def label_maps(self, places, side):
        """Labels of a map of outputs around each place: int64 (N, row, column)."""
        row, column = (position.round().long() for position in self._turned(places, (side, side)))
        flat, inside = self._flat(places, row, column, places.voxel[:, 0, None, None])
        return (self.lesion[flat] & inside).long()

    def _turned(self, places, plane):
        turn = torch.deg2rad(places.angle)[:, None, None]
        row, column = (torch.arange(n, device=self.device) - n // 2 for n in plane)
        row, column = row[:, None].float(), column[None, :].float()
        centre_row, centre_column = places.voxel[:, 1, None, None], places.voxel[:, 2, None, None]
        return centre_row + (row * turn.cos() + column * turn.sin()), centre_column + (
            column * turn.cos() - row * turn.sin()
        )

    def _look(self, places, row, column, depth):
        """The voxels at (N, row, column) positions in `depth` slices around: (N, row, column, slice); air outside."""
        slices = places.voxel[:, 0, None] + torch.arange(depth, device=self.device) - depth // 2  # (N, slice)
        flat, inside = self._flat(places, row[..., None], column[..., None], slices[:, None, None])
        return torch.where(inside, self.values[flat].float(), self.minimum[places.scan][:, None, None, None])

    def _flat(self, places, row, column, slices):
        """Index into the flat tensor (the scan's first voxel where outside), and what lies inside the scan."""
        spread = (-1,) + (1,) * (row.ndim - 1)
        start = self.start[places.scan].view(spread)
        depth, height, width = (self.shape[places.scan, axis].view(spread) for axis in range(3))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (slices >= 0) & (slices < depth)
        return start + torch.where(inside, (slices * height + row) * width + column, 0), inside


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
