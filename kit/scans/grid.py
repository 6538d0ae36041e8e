"""The voxel grid of a scan's file: its axes brought to (slice, row, column), other spacings around the same centre.

Whatever order a file stores its voxels in, arrays in this package are `(slice, row, column)`:

    slice    from the neck upwards                imshow(image[k])      nose
    row      from front to back                                     R  [    ]  L
    column   from the patient's right to left                           back

Axes are permuted and flipped, never rotated: an oblique scan keeps its oblique affine. A resampled grid shares its
centre with the file's own grid, so the way back is the same rule with both ends exchanged.
"""

from dataclasses import dataclass, field
from itertools import product

import nibabel as nib
import numpy as np

from kit.scans.lesions import components

CANONICAL = nib.orientations.axcodes2ornt(("S", "P", "L"))  # where slice, row and column point to as they grow
SAME_SPACING = 0.02  # relative: closer than this, a spacing counts as the wanted one and its voxels stay untouched
SAME_GRID = 0.1  # in voxels: how far the corners of two grids that count as the same may lie apart


@dataclass(frozen=True, eq=False)
class Grid:
    """A file's own voxel grid, which a map must share to lie over the scan in a viewer.

    `shape` and `affine` (voxel index to RAS+ world, mm) are in the file's own axis order; `header` holds the NIfTI
    geometry to write back (codes, quaternion, units) and nothing else of the file's header.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    header: nib.Nifti1Header | None = field(default=None, repr=False)


def frame(grid):
    """Shape, and affine of the (slice, row, column) index, of a file's grid once its axes are in order.

    Examples
    --------
    >>> shape, affine = frame(Grid((2, 3, 4), np.diag([1.0, 2, 5, 1])))
    >>> shape, spacing(affine)
    ((4, 3, 2), (5.0, 2.0, 1.0))
    """
    flips = _to_canonical(grid.affine)
    shape = np.empty(3, int)
    shape[flips[:, 0].astype(int)] = grid.shape[:3]
    return tuple(int(n) for n in shape), grid.affine @ nib.orientations.inv_ornt_aff(flips, grid.shape[:3])


def spacing(affine):
    """Voxel size along each axis of an affine, mm."""
    return tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))


def same_grid(a, b):
    """Whether two files' voxels lie in the same places, corner by corner, be they stored in another axis order."""
    (shape, to_world), (other_shape, other_to_world) = frame(a), frame(b)
    if shape != other_shape:
        return False
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))]).T
    with np.errstate(all="ignore"):  # origins of damaged headers; NaN is not within the limit
        apart = np.linalg.norm((to_world @ corners - other_to_world @ corners)[:3], axis=0)
    return bool(apart.max() <= SAME_GRID * min(spacing(to_world)))


def from_file_axes(voxels, affine):
    """A view of a file's voxels along (slice, row, column)."""
    return nib.apply_orientation(voxels, _to_canonical(affine))


def to_file_axes(array, grid):
    """A view of a (slice, row, column) array along the file's own axes, in the file's own shape."""
    flips = nib.orientations.ornt_transform(CANONICAL, nib.io_orientation(grid.affine))
    return nib.apply_orientation(array, flips).reshape(grid.shape)


def resampled_frame(grid, spacing_mm):
    """Shape, spacing and affine of (slice, row, column) voxels of `spacing_mm` that cover all of `grid`.

    An axis whose spacing (mm) is within 2 % of `spacing_mm` stays as it is; None leaves all three.
    """
    shape, affine = frame(grid)
    steps = spacing(affine)
    off = [spacing_mm is not None and abs(step / spacing_mm - 1) > SAME_SPACING for step in steps]
    new_steps = tuple(float(spacing_mm) if o else step for step, o in zip(steps, off, strict=True))
    lengths = np.multiply(shape, steps) / new_steps
    new_shape = tuple(int(np.ceil(m - 1e-3)) if o else n for m, n, o in zip(lengths, shape, off, strict=True))
    new_shape = tuple(max(n, 1) for n in new_shape)
    to_own = np.diag([*np.divide(new_steps, steps), 1])
    to_own[:3, 3] = (np.array(shape) - 1) / 2 - to_own[:3, :3] @ (np.array(new_shape) - 1) / 2
    return new_shape, new_steps, affine @ to_own


def resample(array, steps, new_shape, new_steps):
    """Bring a (slice, row, column) array with voxel sizes `steps` (mm) onto another grid around the same centre.

    The new grid has the shape `new_shape` and voxel sizes `new_steps` (mm). Floats are interpolated linearly and
    averaged over coarser voxels, bools take the nearest voxel; axes that do not change are not touched, so that
    without a change every voxel stays what it was.
    """
    axes = [
        axis
        for axis in range(3)
        if array.shape[axis] != new_shape[axis] or not np.isclose(steps[axis], new_steps[axis], rtol=1e-6, atol=0)
    ]
    if array.dtype == bool:
        return _resample_nearest(array, steps, new_shape, new_steps) if axes else array
    ends = (array.min(), array.max()) if axes else None
    for axis in axes:
        weights = _weights(array.shape[axis], steps[axis], new_shape[axis], new_steps[axis])
        array = np.moveaxis(np.tensordot(weights, array, (1, axis)), 0, axis)
    # a mean of probabilities is one, whatever rounding says
    return np.ascontiguousarray(np.clip(array, *ends) if axes else array)


def cut_box(array, first, shape, fill):
    """The box of a (slice, row, column) array that has a shape and begins at a voxel, which may lie outside.

    A view where the box lies inside the array; otherwise a copy with `fill` beyond the array.

    Examples
    --------
    >>> cut_box(np.array([[[1, 2, 3]]]), (0, 0, 1), (1, 1, 4), fill=0).tolist()
    [[[2, 3, 0, 0]]]
    """
    part = array[tuple(slice(max(a, 0), max(a + n, 0)) for a, n in zip(first, shape, strict=True))]
    if part.shape == tuple(shape):
        return part
    box = np.full(shape, fill, array.dtype)
    start = [max(-a, 0) for a in first]
    box[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    return box


def _to_canonical(affine):
    return nib.orientations.ornt_transform(nib.io_orientation(affine), CANONICAL)


def _centres(n, step):
    return (np.arange(n) - (n - 1) / 2) * step


def _weights(n, step, new_n, new_step):
    r"""One row of weights for each new voxel of an axis, float32 (new_n, n).

    New voxels finer than the old are interpolated linearly; coarser ones are the mean of what they cover, so that
    nothing falls between them. At equal spacing both are the same rule.

        finer    /\     reaches one old step       coarser    /--\     reaches half of both steps
    """
    apart = np.abs(_centres(new_n, new_step)[:, None] - _centres(n, step))
    weights = np.clip((step + max(step, new_step)) / 2 - apart, 0, step)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _nearest(n, step, new_n, new_step):
    """For each new voxel of an axis, the old voxel that its centre lies in."""
    return np.clip(np.floor(_centres(new_n, new_step) / step + n / 2), 0, n - 1).astype(int)


def _resample_nearest(label, steps, new_shape, new_steps):
    """Nearest voxel, which keeps volumes on average; a component that no new voxel hits keeps one voxel."""
    if not label.any():
        return np.zeros(new_shape, bool)
    ends = list(zip(label.shape, steps, new_shape, new_steps, strict=True))
    pieces = components(label)
    new_pieces = pieces[np.ix_(*(_nearest(*end) for end in ends))]
    new_label = new_pieces > 0
    for piece in np.setdiff1d(np.arange(1, pieces.max() + 1), new_pieces):
        centre = np.argwhere(pieces == piece).mean(axis=0)
        nearest = [
            np.abs(_centres(new_n, new_step) - (at - (n - 1) / 2) * step).argmin()
            for at, (n, step, new_n, new_step) in zip(centre, ends, strict=True)
        ]
        new_label[tuple(nearest)] = True
    return new_label
