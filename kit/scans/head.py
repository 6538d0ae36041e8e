"""The head in a scan: what of it is no air, where lesions are looked for, and the intensities that normalise it."""

import cc3d
import numpy as np

from kit.scans.files import ScanError
from kit.scans.volume import load_mask

AIR = 0.15  # of the way from the minimum to bright tissue: under it lies air; Rician noise of 4 % reaches there
FLAT_AIR = 0.97  # so many of the voxels under AIR at the very minimum: the background has no noise (skull-stripped)
PIECE = 0.01  # of the largest piece's voxels: a smaller piece of the foreground is noise


def search_region(scan, row) -> np.ndarray:
    """Where lesions are looked for, bool (slice, row, column): the row's `mask` if it has one, otherwise the head."""
    return load_mask(row["mask"], scan) if row.get("mask") else foreground(scan.image)


def foreground(image) -> np.ndarray:
    """Voxels of the head, or of a skull-stripped brain, with black air left out: bool `(slice, row, column)`.

    Air is what lies near the minimum, which may be negative (z-scored scans); what the head surrounds within a slice
    belongs to it. Where the air has no noise, every voxel above the minimum counts. `image` is (slice, row, column),
    in any intensities.

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

    Both arrays are (slice, row, column), the mask bool. ScanError where the mask is empty or its voxels are all alike.

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
    """`(image - mean) / sd`, float32 (slice, row, column); by default with the scan's own `intensity_statistics`.

    ScanError where only one of `mean` and `sd` is given, or they are not finite, or `sd` is not above 0.

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
