"""Blob detection in the manner of Yu: a Laplacian of Gaussian over scales, then compactness and left-right symmetry.

A bright ball of radius r answers most strongly to the scale sigma = r / sqrt(3), so that the scale at which a place is
strongest says how large it is (Lindeberg, Feature detection with automatic scale selection, IJCV 30:79, 1998).
"""

from itertools import product

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.models.related.candidates import METHODS, PLACE, drop_inside, measure_candidates
from kit.models.related.symmetry import asymmetry, find_plane

SIGMAS_MM = (0.8, 1.2, 1.7, 2.4, 3.4, 4.8, 6.8)
LEAST = 0.25  # response of a candidate, in units of the normalised scan
ROUND = 0.35  # roundness of a candidate: below lie vessels, folds and edges
MOST = 1000  # candidates of a scan, the strongest
FINEST = 0.8  # voxels: a narrower Gaussian, sampled at the voxels, has no second derivative to speak of
COARSE_FROM_MM = 2.4  # scales from here on are computed on every second voxel


def laplacian_scale_space(image, sigmas_mm=SIGMAS_MM, spacing_mm=(1.0, 1.0, 1.0)):
    """The negative Laplacian of a blurred scan, times sigma squared: (scale, slice, row, column) float32.

    Each of the three second derivatives is three passes along the axes; they add up in mm, whatever the spacing. Along
    an axis of wide voxels the blur is 0.8 of them at least. Of scales from 2.4 mm on, every second voxel is computed
    and the others are interpolated.

    Examples
    --------
    >>> image = np.zeros((21, 21, 21)); image[10, 10, 10] = 1
    >>> np.unravel_index(laplacian_scale_space(image, [1.0])[0].argmax(), image.shape) == np.array([10, 10, 10])
    array([ True,  True,  True])
    """
    image, steps = np.asarray(image, np.float32), np.asarray(spacing_mm, float)
    found = np.empty((len(sigmas_mm), *image.shape), np.float32)
    for number, sigma in enumerate(sigmas_mm):
        fine = [1 if sigma < COARSE_FROM_MM or step > sigma / 2 or n < 8 else 2
                for step, n in zip(steps, image.shape, strict=True)]  # fmt: skip
        blurred = image
        if max(fine) > 1:
            blurred = ndimage.gaussian_filter(image, [0.8 if n > 1 else 0 for n in fine], truncate=3)
            blurred = blurred[tuple(slice(None, None, n) for n in fine)]
        own = steps * fine
        left = [
            np.sqrt(max(sigma**2 - (0.8 * step if n > 1 else 0) ** 2, 0.01))
            for step, n in zip(steps, fine, strict=True)
        ]
        found[number] = _enlarged(_laplacian(blurred, sigma, left, own), image.shape, fine)
    return found


def scale_maxima(responses, mask, sigmas_mm=SIGMAS_MM, *, least=LEAST, apart=1):
    """Places stronger than all around them in space and in the neighbouring scales.

    Parameters
    ----------
    responses : (scale, slice, row, column) float array
        From `laplacian_scale_space`.
    mask : (slice, row, column) bool array
    least : float
        The weakest response.
    apart : int
        Voxels.

    Returns
    -------
    pandas.DataFrame
        slice, row, column, sigma_mm, radius_mm (sqrt(3) sigma), score (the response); the strongest first.
    """
    best = responses.max(0)
    top = (best >= least) & mask & (best == ndimage.maximum_filter(best, 2 * apart + 1, mode="nearest"))
    places = np.argwhere(top)
    scale = responses[(slice(None), *places.T)].argmax(0)
    table = pd.DataFrame(places, columns=PLACE).assign(sigma_mm=np.asarray(sigmas_mm)[scale], score=best[top])
    table.insert(3, "radius_mm", np.sqrt(3) * table.sigma_mm)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def roundness(responses, places, sigmas_mm=SIGMAS_MM, spacing_mm=(1.0, 1.0, 1.0)):
    """How alike a response falls off in all directions around its places: (place,) float, 1 for a ball.

    The smallest curvature of the response over the largest, which is near 0 on a tube or a sheet: there it hardly falls
    along. In two dimensions this is how Lowe (Distinctive image features from scale-invariant keypoints, IJCV 60:91,
    2004) leaves out edges. Curvatures are differences over one sigma, or one voxel where it is wider.
    """
    scale = np.searchsorted(sigmas_mm, places.sigma_mm.to_numpy())
    at, steps = places[PLACE].to_numpy(int), np.asarray(spacing_mm, float)
    apart = np.maximum(np.round(np.asarray(sigmas_mm)[scale][:, None] / steps), 1).astype(int)  # (place, axis)
    last = np.array(responses.shape[1:]) - 1

    def response(*moves):
        there = np.clip(at + sum(moves) * apart, 0, last)
        return responses[(scale, *there.T)]

    axes, hessian = np.eye(3, dtype=int), np.empty((len(at), 3, 3))
    for a, b in product(range(3), repeat=2):
        wide = (apart[:, a] * steps[a]) * (apart[:, b] * steps[b])
        if a == b:
            hessian[:, a, a] = (response(axes[a]) - 2 * response(0 * axes[a]) + response(-axes[a])) / wide
        else:
            corners = response(axes[a], axes[b]) + response(-axes[a], -axes[b])
            hessian[:, a, b] = (corners - response(axes[a], -axes[b]) - response(-axes[a], axes[b])) / (4 * wide)
    curvature = -np.linalg.eigvalsh(hessian)  # (place, 3), the smallest last
    return np.clip(curvature[:, -1] / np.maximum(curvature[:, 0], 1e-9), 0, 1)


def blob_candidates(image, mask, spacing_mm=(1.0, 1.0, 1.0)):
    """The strongest places of the scale space, with their regions and their asymmetry: see `measure_candidates`.

    `image` is normalised by its brain; score is the response, roundness how alike it falls off all around. asymmetry is
    how much brighter the place is than its mirror image across the mid-sagittal plane, in the image's unit: vessels and
    plexus come in pairs, lesions do not.
    """
    box = _box(mask)
    responses = laplacian_scale_space(image[box], spacing_mm=spacing_mm)
    found = scale_maxima(responses, mask[box])
    found["roundness"] = roundness(responses, found, spacing_mm=spacing_mm)
    found = found[found.roundness >= ROUND].reset_index(drop=True)
    found[PLACE] += [side.start for side in box]
    found = drop_inside(found.head(MOST), spacing_mm)
    table, regions = measure_candidates(image, found, spacing_mm)
    plane = find_plane(image, mask, spacing_mm)
    return table.assign(asymmetry=asymmetry(image, found, plane, spacing_mm)), regions


METHODS["blobs"] = blob_candidates


def _box(mask, margin=8):
    """The box around a mask, with room for the blur."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    whole = [slice(0, n) for n in mask.shape]
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in (found[0] if found else whole))


def _laplacian(image, sigma, left, steps):
    """-sigma^2 times the sum of second derivatives in mm, blurred by what is `left` of sigma along each axis (mm)."""
    blur = np.maximum(np.divide(left, steps), FINEST)
    total = np.zeros(image.shape, np.float32)
    for axis, step in enumerate(steps):
        order = [2 if other == axis else 0 for other in range(3)]
        total -= ndimage.gaussian_filter(image, blur, order, truncate=3.5) / step**2
    return sigma**2 * total


def _enlarged(array, shape, fine):
    """Every second voxel's values, interpolated linearly between: of the given shape."""
    for axis, (length, every) in enumerate(zip(shape, fine, strict=True)):
        if every > 1:
            at = np.arange(length) / every
            below = np.minimum(at.astype(int), array.shape[axis] - 1)
            above = np.minimum(below + 1, array.shape[axis] - 1)
            share = (at - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            array = np.take(array, below, axis) * (1 - share) + np.take(array, above, axis) * share
    return array
