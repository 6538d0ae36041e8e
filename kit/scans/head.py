"""The head in a scan: what of it is no air, where lesions are looked for, and the intensities that normalise it."""

import hashlib
import importlib.util
import warnings
from functools import cache
from itertools import product
from pathlib import Path

import cc3d
import nibabel
import numpy as np
from scipy import ndimage, optimize

from kit.scans.files import ScanError, kept
from kit.scans.grid import from_file_axes, resample
from kit.scans.lesions import checked_spacing
from kit.scans.volume import load_mask

AIR = 0.15  # of the way from the minimum to bright tissue: under it lies air; Rician noise of 4 % reaches there
FLAT_AIR = 0.97  # so many of the voxels under AIR at the very minimum: the background has no noise (skull-stripped)
TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"  # in nilearn's folder; skull-stripped
TEMPLATE_MM, FIT_MM = 2.0, 4.0  # voxel sizes at which the template is kept, and at which it is fitted to a scan
SHELL_MM = 7.0  # the fit looks so far beyond the brain: fluid and skull are dark there
EVEN_MM = 16.0  # s.d. of the blur that evens out coil sensitivity
MARGIN_MM = 8.0  # of synthetic brains nothing lies beyond it; of a real cerebellum the fit left 8 mm out
FAR_MM, STRIPPED = 12.0, 0.05  # of a skull-stripped brain, less than this share lies so far from the template's
SIMILAR = 0.5  # correlation with the template: whole heads reach 0.6 to 0.9
PIECE = 0.01  # of the largest piece's voxels: a smaller piece of the foreground is noise
DEEP_MM = 10.0  # so deep in the brain lie no skull and no meninges, even where the fit is some mm off
BRAIN_UNIT = 0.4  # of the way from air to brain is 1 after normalisation by the brain: air is -2.5
FITS_KEPT = 8  # fits of the latest scans: to search, to normalise and to map a scan ask for the same one


def search_region(scan, row, search="head") -> np.ndarray:
    """Where lesions are looked for in a scan, and healthy samples drawn: bool (slice, row, column).

    Parameters
    ----------
    scan : kit.scans.Scan
    row : mapping
        The scan's row of a manifest. If it has a `mask`, that file is the region.
    search : {"head", "brain"}
        What it is otherwise: `foreground`, or `brain_mask`.

    Raises
    ------
    ScanError
        `search` is another word, or the mask cannot be used.
    """
    if search not in SEARCHES:
        raise ScanError(f"search is {search!r}; choose one of {', '.join(SEARCHES)}")
    return load_mask(row["mask"], scan) if row.get("mask") else SEARCHES[search](scan.image, scan.spacing_mm)


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


def brain_mask(image, spacing_mm=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Voxels of the brain and of what lies up to 8 mm around it: bool (slice, row, column), in a few seconds.

    The brain of the MNI152 template (Fonov et al. 2011, NeuroImage 54:313; carried by nilearn) is brought onto the scan
    by an affine map and widened by a margin, so that no lesion at its surface is lost: fluid, meninges and the inner
    part of the skull stay in; most of scalp, face and neck do not. Of a brain that is skull-stripped already the
    whole `foreground` is kept.

    Parameters
    ----------
    image : (slice, row, column) array
        T1-weighted, with or without contrast agent, in any intensities; axes as `load_scan` brings them.
    spacing_mm : (slice, row, column) float

    Warns
    -----
    UserWarning
        No brain is found, because the image shows a part of it only or its voxel sizes are wrong: the mask is the
        whole `foreground` then.
    """
    image, spacing_mm = np.asarray(image), checked_spacing(spacing_mm)
    head = foreground(image)
    beyond, found = _look_for_brain(image, head, spacing_mm)
    if found == "none":
        _warn("all of the head is searched", stacklevel=3)
    return head & (beyond <= MARGIN_MM) if found == "inside" else head


SEARCHES = {"head": lambda image, spacing_mm: foreground(image), "brain": brain_mask}


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


def brain_statistics(image, spacing_mm=(1.0, 1.0, 1.0)) -> tuple[float, float]:
    """Intensity of the brain, and how much of it is one unit: the same with skull and without, to a few per cent.

    The first is the median of tissue at least 10 mm deep in the brain; fluid, which is less than half as bright as the
    rest, is left out, so that wide ventricles do not count, and lesions and vessels are too few to. The second is 0.4
    of its distance from air, so that a scan is normalised to ratios of signals: air -2.5, brain 0, and what is half as
    bright again as the brain 1.25. The spread of the brain's own intensities is no such unit, because scanners
    differ twofold in the contrast of grey and white matter.

    Parameters
    ----------
    image : (slice, row, column) array
        In any intensities, which may be negative (z-scored scans). Air is the 1st percentile of all but `foreground`.
    spacing_mm : (slice, row, column) float

    Warns
    -----
    UserWarning
        No brain is found (see `brain_mask`): instead of 10 mm deep in the brain, tissue is looked for at least half as
        far from the air as the innermost voxel.

    Raises
    ------
    ScanError
        Where the image holds no head, or the brain is no brighter than air.
    """
    image, spacing_mm = np.asarray(image), checked_spacing(spacing_mm)
    head = foreground(image)
    if not head.any():
        raise ScanError("no voxel is brighter than air; give a scan of a head")
    beyond, found = _look_for_brain(image, head, spacing_mm)
    if found == "none":
        _warn("intensities are normalised by the innermost part of the head", stacklevel=3)
    deep = image[head & (beyond <= -DEEP_MM) if found == "inside" else _inner(head, spacing_mm, found)]
    air = float(np.percentile(image[~head], 1)) if not head.all() else float(image.min())
    middle = np.median(deep) if deep.size else air
    brain = float(np.median(deep[deep > (air + middle) / 2])) if middle > air else air
    if brain <= air:
        raise ScanError(f"the brain's intensity {brain:g} is not above that of air, {air:g}; give a T1-weighted head")
    return brain, BRAIN_UNIT * (brain - air)


STATISTICS = {"scan": lambda image, spacing_mm: intensity_statistics(image), "brain": brain_statistics}


def normalise(image, statistics="scan", spacing_mm=(1.0, 1.0, 1.0)) -> np.ndarray:
    """`(image - mean) / sd`, float32 (slice, row, column).

    Parameters
    ----------
    image : (slice, row, column) array
    statistics : {"scan", "brain"} or (mean, sd)
        The scan's own `intensity_statistics` or `brain_statistics`, or a training cohort's.
    spacing_mm : (slice, row, column) float
        By which "brain" finds the brain.

    Raises
    ------
    ScanError
        For another word, or where `mean` and `sd` are not finite, or `sd` is not above 0.

    Examples
    --------
    >>> normalise(np.array([[[1.0, 3.0]]]), (1, 2))
    array([[[0., 1.]]], dtype=float32)
    """
    if isinstance(statistics, str):
        if statistics not in STATISTICS:
            raise ScanError(f"statistics is {statistics!r}; choose one of {', '.join(STATISTICS)}, or give (mean, sd)")
        statistics = STATISTICS[statistics](image, spacing_mm)
    mean, sd = statistics
    if not (np.isfinite(mean) and np.isfinite(sd) and sd > 0):
        raise ScanError(f"mean is {mean} and sd is {sd}; both must be finite and sd above 0")
    return ((np.asarray(image, np.float32) - np.float32(mean)) / np.float32(sd)).astype(np.float32, copy=False)


def _warn(what, stacklevel):
    warnings.warn(
        f"no brain is found (correlation with the template below {SIMILAR}): {what}; look whether the scan shows a "
        "whole head in right voxel sizes, or give a mask",
        stacklevel=stacklevel,
    )


def _look_for_brain(image, head, spacing_mm):
    """How far (mm) voxels lie from the fitted template's brain, and whether the brain is "inside" the head, is all of
    it ("stripped"), or "none" is found."""
    if not head.any():
        return np.zeros(head.shape, np.float32), "stripped"
    similarity, to_template = fit_template(image, head, spacing_mm)
    beyond = _beyond_template(to_template, image.shape, spacing_mm)
    if np.count_nonzero(head & (beyond > FAR_MM)) < STRIPPED * np.count_nonzero(head):
        return beyond, "stripped"
    return beyond, "inside" if similarity >= SIMILAR else "none"


def _inner(head, spacing_mm, found):
    """Voxels well inside a brain without skull, or the innermost of a head; what lies beyond the scan is no air."""
    steps = np.maximum(spacing_mm, TEMPLATE_MM)
    coarse = [max(round(n * s / step), 1) for n, s, step in zip(head.shape, spacing_mm, steps, strict=True)]
    solid = resample(head.astype(np.float32), spacing_mm, coarse, steps) > 0.5
    depth = ndimage.distance_transform_edt(solid, steps).astype(np.float32)
    least = min(DEEP_MM, depth.max() / 2) if found == "stripped" else depth.max() / 2
    return head & (resample(depth, steps, head.shape, spacing_mm) >= least)


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


# ------------------------------------------------------------------------------------- fitting the template's brain
#
# Places are in mm from the centre of their array. Nine parameters p lead from the template to the scan:
# shifts (10 mm), angles (0.2 rad), and logarithms of scales (0.1), three each, along (slice, row, column).


@cache
def _template():
    """The template's brain: places (N, 3) in mm in and around it, their intensities (N,), and how far from it (mm) each
    voxel of a padded volume lies, negative inside."""
    folder = Path(importlib.util.find_spec("nilearn").submodule_search_locations[0])
    file = nibabel.load(folder / TEMPLATE)
    t1 = from_file_axes(np.asarray(file.dataobj, np.float32), file.affine)
    steps = (TEMPLATE_MM,) * 3
    t1 = resample(t1, (1, 1, 1), [round(n / TEMPLATE_MM) for n in t1.shape], steps)
    pad = round(30 / TEMPLATE_MM)
    brain = np.pad(ndimage.binary_fill_holes(t1 > 0.05 * t1.max()), pad)
    brain[pad // 2 : pad] = brain[pad]  # the template ends in the brain stem, a scan's goes on
    beyond = ndimage.distance_transform_edt(~brain) - ndimage.distance_transform_edt(brain)
    beyond = (TEMPLATE_MM * beyond).astype(np.float32)
    places = 2 * np.argwhere(beyond[::2, ::2, ::2] <= SHELL_MM)
    blurred = np.pad(ndimage.gaussian_filter(t1, 1), pad) / t1.max()
    return (places - _centre(beyond.shape)) * TEMPLATE_MM, blurred[tuple(places.T)], beyond


_FITS = {}  # of the latest scans, by their content


def fit_template(image, head, spacing_mm):
    """Bring the MNI152 brain onto a scan by an affine map. It takes seconds and is remembered (`kit.scans.files.kept`).

    Parameters
    ----------
    image : (slice, row, column) array
        T1-weighted, in any intensities.
    head : (slice, row, column) bool array
        Its `foreground`.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    similarity : float
        Correlation of the fitted brain with the scan; whole heads reach 0.6 to 0.9.
    to_template : (3, 4) array
        From the scan to the template, both in mm from the middle of their array, axes (slice, row, column).
    """
    key = image.shape, tuple(spacing_mm), hashlib.sha1(np.ascontiguousarray(image, np.float32)).digest()
    if key not in _FITS:
        while len(_FITS) >= FITS_KEPT:
            del _FITS[next(iter(_FITS))]
        _FITS[key] = kept(lambda: _fit_template(image, head, spacing_mm), *key, Path(__file__).read_bytes())
    return _FITS[key]


def _fit_template(image, head, spacing_mm):
    """`fit_template`, anew."""
    places, intensities, _ = _template()
    low, solid = _evened(image, head, spacing_mm)
    origin = _start(solid)

    def cost(p, some):
        matrix, shift = _affine(p)
        at = (places[some] @ matrix.T + shift + origin) / FIT_MM + _centre(low.shape)
        seen = ((at >= 0) & (at <= np.array(low.shape) - 1)).all(1)
        if seen.mean() < 0.4:
            return 2.0
        at, wanted = at[seen].T, intensities[some][seen]
        found = ndimage.map_coordinates(low, at, order=1, mode="nearest")
        in_air = 1 - solid[tuple(np.rint(at[:, wanted > 0.25]).astype(int))].mean()
        return -_correlation(found, wanted) + 0.3 * (1 - seen.mean()) + 0.5 * in_air + _unlikely(p)

    few, many = slice(None, None, 7), slice(None, None, 3)
    starts = sorted(_starts(), key=lambda p: cost(p, few))[:12:4]
    fits = [_minimised(cost, p, few, 4) for p in starts]
    best = _minimised(cost, min(fits, key=lambda fit: fit.fun).x, many, 3)
    matrix, shift = _affine(best.x)
    inverse = np.linalg.inv(matrix)
    return -best.fun, np.column_stack([inverse, -inverse @ (shift + origin)])


def _evened(image, head, spacing_mm):
    """A scan at 4 mm, bright tissue near 1 everywhere and at most 1, and which of its voxels are head."""
    shape = [max(round(n * s / FIT_MM), 1) for n, s in zip(image.shape, spacing_mm, strict=True)]
    low, solid = (
        resample(array.astype(np.float32), spacing_mm, shape, (FIT_MM,) * 3) for array in (image - image.min(), head)
    )
    solid = (solid > 0.5).astype(np.float32)
    low = np.minimum(low, 2 * np.median(low[solid > 0])) if solid.any() else low
    blurred = [ndimage.gaussian_filter(array, EVEN_MM / FIT_MM) for array in (low * solid, solid)]
    around = blurred[0] / np.maximum(blurred[1], 1e-3)
    return np.minimum(low / np.maximum(around, 0.05 * max(around.max(), 1e-9)), 1), solid


def _start(solid):
    """A place in the middle of the brain: 80 mm below the top of the head."""
    heights = np.flatnonzero(np.count_nonzero(solid, axis=(1, 2)) > 20)
    top = heights[-1] if heights.size else len(solid) - 1
    below = max(top - round(140 / FIT_MM), 0)
    rows, columns = np.nonzero(solid[below : top + 1].any(0))
    middle = np.array([top - 82 / FIT_MM, rows.mean(), columns.mean()]) if rows.size else _centre(solid.shape)
    return (middle - _centre(solid.shape)) * FIT_MM


def _starts():
    """Parameters to start from: heights, rows, nods and sizes."""
    for up, back, nod, size in product(range(-2, 5), (-1, 0, 1), (-1.5, -0.75, 0, 0.75, 1.5), (-1.5, -1, -0.4)):
        yield np.array([up, back, 0, 0, 0, nod, size, size, size], float)


def _minimised(cost, start, some, rounds):
    return optimize.minimize(cost, start, (some,), "Powell", options={"xtol": 0.03, "ftol": 1e-3, "maxiter": rounds})


def _unlikely(p):
    """A penalty on large turns, on sizes and proportions unlike those of heads, and on being off the middle."""
    shifts, angles, sizes = p[:3], p[3:6], p[6:]
    turned, off = 0.01 * (angles**2).sum(), 0.005 * (shifts[1:] ** 2).sum()
    return turned + off + 0.06 * (sizes.mean() + 0.7) ** 2 + 0.15 * sizes.var()


def _affine(p):
    """The (3, 3) matrix and the shift (3,), mm, of nine parameters."""
    turns = nibabel.eulerangles.euler2mat(*(0.2 * p[[5, 4, 3]]))
    return turns * np.exp(0.1 * p[6:]), 10 * p[:3]


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12)  # whatever the number of threads


def _centre(shape):
    return (np.array(shape) - 1) / 2


def _beyond_template(to_template, shape, spacing_mm):
    """How far (mm) each voxel of a scan lies from the template's brain, negative inside: float32, from a 2 mm grid."""
    beyond = _template()[2]
    steps = np.maximum(spacing_mm, TEMPLATE_MM)
    coarse = [max(round(n * s / step), 1) for n, s, step in zip(shape, spacing_mm, steps, strict=True)]
    matrix, shift = to_template[:, :3] * steps / TEMPLATE_MM, to_template[:, 3] / TEMPLATE_MM
    shift = shift + _centre(beyond.shape) - matrix @ _centre(coarse)
    found = ndimage.affine_transform(beyond, matrix, shift, tuple(coarse), order=1, mode="nearest")
    size = np.cbrt(np.linalg.det(to_template[:, :3]))  # distances grow with the head
    return resample(found / np.float32(size), steps, shape, spacing_mm)
