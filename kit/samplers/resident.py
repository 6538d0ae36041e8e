"""A whole prepared cohort on a device, and turned patches read from it: no window is copied, the host does not wait."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from kit.samplers.augment import augmentation_of, draw_looks, vary
from kit.samplers.patches import FAR, placed, turned


class Places(NamedTuple):
    """Where patches lie, as tensors on one device: (N,) int64 scan, (N, 3) int64 voxel, (N,) float32 degrees.

    `mirror` and `zoom` (N,) float32, see `kit.samplers.with_looks`; `look` (N,) int64 is 0 without augmentation.
    """

    scan: torch.Tensor
    voxel: torch.Tensor
    angle: torch.Tensor
    mirror: torch.Tensor
    zoom: torch.Tensor
    look: torch.Tensor  # on the host, where looks are drawn

    @classmethod
    def of(cls, rows, device):
        """The rows of `kit.samplers.draw` as tensors on a device."""
        voxel = rows[["slice", "row", "column"]].to_numpy(np.int64)
        parts = rows["scan"].cat.codes.to_numpy(np.int64), voxel, rows["angle"].to_numpy(np.float32), *placed(rows)
        look = np.array(rows.get("look", np.zeros(len(rows), np.int64)))
        return cls(*(torch.from_numpy(np.array(part)).to(device) for part in parts), torch.from_numpy(look))

    def part(self, some):
        """Some of the places: a slice, or a tensor of indices or bools."""
        return Places(*(part[some.to(part.device) if torch.is_tensor(some) else some] for part in self))


class Resident:
    """A prepared cohort in a device's memory: 21 MB a scan of 160x256x256, and 10 MB for its label.

    Scans of any shapes lie end to end in one flat float16 tensor. A patch's value is interpolated between the four
    voxels around its place in the scan (see `turned`), in each of the patch's slices: what `patches` and
    `label_maps` give for the same rows, to float32 rounding.

    Parameters
    ----------
    cohort : Cohort
    device : str or torch.device
    augment : str or Augmentation
        As in `patches`; but for "none" it takes another 10 MB a scan.
    """

    def __init__(self, cohort, device, augment="none"):
        self.augmentation = augmentation_of(augment, cohort)
        self.device, shapes = torch.device(device), [scan.volume.shape for scan in cohort.scans]
        sizes = [scan.volume.size for scan in cohort.scans]
        self.values = torch.empty(sum(sizes), dtype=torch.float16, device=device)
        self.lesion = torch.zeros(sum(sizes), dtype=torch.bool, device=device)
        self.beyond = None if self.augmentation is None else torch.empty(sum(sizes), dtype=torch.int8, device=device)
        starts = np.cumsum([0, *sizes])
        for scan, start, size in zip(cohort.scans, starts.tolist(), sizes, strict=False):
            self.values[start : start + size] = torch.from_numpy(np.array(scan.volume).ravel()).to(device)
            self.lesion[torch.from_numpy(scan.lesion.astype(np.int64) + start).to(device)] = True
            if self.beyond is not None:
                self.beyond[start : start + size] = torch.from_numpy(np.array(scan.beyond).ravel()).to(device)
        minimum = [scan.minimum for scan in cohort.scans]
        facts = (starts[:-1], np.int64), (shapes, np.int64), (minimum, np.float32)
        self.start, self.shape, self.minimum = (torch.from_numpy(np.array(v, t)).to(device) for v, t in facts)
        self.scale, self.offset = (torch.from_numpy(v).to(device) for v in cohort.scale_and_offset)

    def patches(self, places, patch_shape):
        """Turned, normalised patches around `places` (N): float32 (N, slice, row, column), channels last in memory."""
        found = self._read(places, patch_shape, self.values, self.minimum)
        scale, offset = (v[places.scan][:, None, None, None] for v in (self.scale, self.offset))
        found = (found * scale + offset).permute(0, 3, 1, 2)  # (N, slice, row, column)
        if self.augmentation is None:
            return found
        return vary(found, draw_looks(self.augmentation, places.look), partial(self._beyond, places, patch_shape))

    def label_maps(self, places, side):
        """Labels of the side x side voxels that a patch's map of outputs stands for: int64 (N, row, column), 0 or 1."""
        row, column = (position.round().long() for position in self._turned(places, (side, side)))
        flat, inside = self._flat(places, row, column, places.voxel[:, 0, None, None])
        return (self.lesion[flat] & inside).long()

    def _turned(self, places, plane):
        """Row and column in the scan of each voxel of the turned planes: two (N, row, column) float tensors."""
        offsets = turned(places.angle, places.mirror, places.zoom, plane)
        return [places.voxel[:, axis, None, None] + offset for axis, offset in zip((1, 2), offsets, strict=True)]

    def _beyond(self, places, patch_shape, some):
        """How far outside the brain the voxels of some patches lie: (some, slice, row, column) in mm."""
        some = places.part(torch.from_numpy(some))
        return self._read(some, patch_shape, self.beyond, torch.full_like(self.minimum, FAR)).permute(0, 3, 1, 2)

    def _read(self, places, patch_shape, values, outside):
        """Values between the four voxels around each place in each slice: (N, row, column, slice)."""
        depth, *plane = patch_shape
        row, column = self._turned(places, plane)  # (N, row, column) float
        low_row, low_column = row.floor(), column.floor()
        down, right = row - low_row, column - low_column
        total = 0
        for below in (0, 1):
            for right_of in (0, 1):
                share = (down if below else 1 - down) * (right if right_of else 1 - right)
                seen = self._look(places, low_row.long() + below, low_column.long() + right_of, depth, values, outside)
                total = total + seen * share[..., None]  # (N, row, column, slice)
        return total

    def _look(self, places, row, column, depth, values, outside):
        """The voxels at (N, row, column) positions in `depth` slices around: (N, row, column, slice)."""
        slices = places.voxel[:, 0, None] + torch.arange(depth, device=self.device) - depth // 2  # (N, slice)
        flat, inside = self._flat(places, row[..., None], column[..., None], slices[:, None, None])
        return torch.where(inside, values[flat].float(), outside[places.scan][:, None, None, None])

    def _flat(self, places, row, column, slices):
        """Index into the flat tensor (the scan's first voxel where outside), and what lies inside the scan."""
        spread = (-1,) + (1,) * (row.ndim - 1)
        start = self.start[places.scan].view(spread)
        depth, height, width = (self.shape[places.scan, axis].view(spread) for axis in range(3))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (slices >= 0) & (slices < depth)
        return start + torch.where(inside, (slices * height + row) * width + column, 0), inside
