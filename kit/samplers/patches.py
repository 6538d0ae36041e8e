"""The patches around the voxels of a draw, and their labels, out of memory-mapped scans.

Windows are copied out of the cache, so that a cohort may be larger than memory; `kit.samplers.resident` reads the same
patches from scans that lie on a device.
"""

from math import ceil, hypot

import numpy as np
import torch
from torch.nn import functional

from kit.samplers.augment import augmentation_of, draw_looks, vary
from kit.scans import cut_box

FAR = 127  # mm outside the brain: what lies beyond a scan


def patches(cohort, rows, patch_shape, angles=None, device="cpu", augment="none"):
    """The normalised patches around the voxels of a draw, rotated in the plane of their slices if asked.

    The wanted voxel is the centre, at index `size // 2`, and keeps its value exactly. A patch that is to be rotated
    is read sqrt(2) times larger and cropped afterwards, so that no corner has to be invented; where it reaches
    beyond the scan it sees the scan's minimum (air).

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of `draw`. Where they have `mirror` and `zoom` (see `augment`), patches are placed so.
    patch_shape : (slices, rows, columns)
    angles : array of float, optional
        Degrees, one a patch, in the sense of `scipy.ndimage.rotate`; bilinear. None: plain slices of the scan.
    device : str or torch.device
        Where the rotation is done and the patches end up.
    augment : str or Augmentation
        A name in `kit.samplers.AUGMENTATIONS`, with which the rows were drawn.

    Returns
    -------
    torch.Tensor
        float32 (N, slice, row, column).

    Raises
    ------
    SamplerError
        For an unknown `augment`, or where it is asked for and the cohort was not prepared for it.

    Examples
    --------
    >>> import pandas as pd
    >>> from kit.samplers import Cohort, PreparedScan
    >>> volume, one = np.eye(3, dtype=np.float16)[None], np.array([1])
    >>> cohort = Cohort((PreparedScan("s1", volume, one - 1, one, one, one, 0, 1, 9, 0),), "scan")
    >>> rows = pd.DataFrame({"scan": pd.Categorical(["s1"]), "slice": 0, "row": 0, "column": 0})
    >>> patches(cohort, rows, (1, 3, 3))[0, 0]
    tensor([[0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    depth, *plane = patch_shape
    augmentation = augmentation_of(augment, cohort)
    mirror, zoom = placed(rows)
    reach = ceil(hypot(*plane) / 2 * zoom.max(initial=1))
    index = rows["scan"].cat.codes.to_numpy()
    centres = rows[["slice", "row", "column"]].to_numpy()
    window = (depth, *plane) if angles is None else (depth, 2 * reach + 1, 2 * reach + 1)

    def read(name, some, outside):
        """The windows of an array of the scans, turned: (some, slice, *plane)."""
        windows = _gather(
            [(getattr(scan, name), outside(scan)) for scan in cohort.scans], index[some], centres[some], window
        )
        found = torch.from_numpy(windows).to(device).float()
        if angles is None:
            return found
        turn = (torch.from_numpy(np.array(v, np.float32)[some]).to(device) for v in (angles, mirror, zoom))
        return _rotate(found, turned(*turn, plane))

    found = read("volume", slice(None), lambda scan: scan.minimum)
    scale, offset = (torch.from_numpy(v[index]).to(device)[:, None, None, None] for v in cohort.scale_and_offset)
    found = found.mul_(scale).add_(offset)  # (N, slice, row, column)
    if augmentation is None:
        return found
    return vary(found, draw_looks(augmentation, rows["look"]), lambda some: read("beyond", some, lambda scan: FAR))


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
    angles = torch.from_numpy(np.zeros(len(rows)) if angles is None else np.array(angles, float))
    offsets = turned(angles, *(torch.from_numpy(v.astype(float)) for v in placed(rows)), (side, side))
    row, column = (
        rows[name].to_numpy()[:, None, None] + offset.round().long().numpy()
        for name, offset in zip(("row", "column"), offsets, strict=True)
    )
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


def placed(rows):
    """How rows of a draw are mirrored (1 or -1) and zoomed (voxels of the scan a voxel): two float32 arrays."""
    as_it_is = np.ones(len(rows), np.float32)
    return tuple(np.asarray(rows.get(name, as_it_is), np.float32) for name in ("mirror", "zoom"))


def turned(angles, mirror, zoom, plane):
    """Where the voxels of turned planes lie in the scan, counted from their centres.

        row    =  r cos + c sin
        column =  c cos - r sin      for row r and column c of the plane; 0, 0 is the voxel at index size // 2

    with r in units of `zoom` and c in units of `zoom`, its direction being `mirror`.

    Parameters
    ----------
    angles : (N,) float tensor
        Degrees, in the sense of `scipy.ndimage.rotate`.
    mirror, zoom : (N,) float tensors
        See `placed`.
    plane : (rows, columns)

    Returns
    -------
    row, column : (N, row, column) tensors
        Voxels, on the device and of the dtype of `angles`.

    Examples
    --------
    >>> row, column = turned(torch.tensor([90.0]), torch.ones(1), torch.ones(1), (1, 3))
    >>> row.round().tolist(), column.round().abs().tolist()
    ([[[-1.0, 0.0, 1.0]]], [[[0.0, 0.0, 0.0]]])
    """
    turn, mirror, zoom = (v[:, None, None] for v in (torch.deg2rad(angles), mirror, zoom))
    r, c = (torch.arange(n, device=angles.device, dtype=angles.dtype) - n // 2 for n in plane)
    r, c = r[:, None] * zoom, c[None, :] * (zoom * mirror)
    return r * turn.cos() + c * turn.sin(), c * turn.cos() - r * turn.sin()


def _gather(arrays, index, centres, window):
    """Windows of (array, value outside) of each scan, (N, slice, row, column); to copy slices beats one big index."""
    found = np.empty((len(index), *window), arrays[0][0].dtype)
    starts = (centres - np.array(window) // 2).tolist()
    for patch, which, start in zip(found, index.tolist(), starts, strict=True):
        patch[:] = cut_box(arrays[which][0], start, window, arrays[which][1])
    return found


def _rotate(found, place):
    """Read each (slice, R, R) window at (N, row, column) places, counted from its centre."""
    row, column = place
    grid = torch.stack([column, row], dim=-1) / (found.shape[-1] // 2)  # (N, row, column, 2), 0 is the centre exactly
    return functional.grid_sample(found, grid, mode="bilinear", padding_mode="border", align_corners=True)
