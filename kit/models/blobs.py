"""Bright blobs and tubes of a scan, and among them the places where a healthy head looks like a lesion.

The eigenvalues of the Hessian of a blurred scan tell them apart: a bright tube (a vessel, a sinus) curves downwards in
two directions, a blob (a lesion; a vessel that bends or ends) in three (Frangi et al., Multiscale vessel enhancement
filtering, MICCAI 1998).
"""

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from kit.scans import foreground

COLUMNS = ["kind", "slice", "row", "column", "strength", "scale", "steepness"]
FLAT = 0.25  # of the strongest curvature: along a tube there is less
ROUND = 0.5  # of the strongest curvature: across a tube, and all ways in a blob, there is more
OFF_RIDGE = 0.7  # voxels: the middle of a tube or blob lies so near
AROUND = 12  # voxels around a region's box, so that the blur sees no edge there


def find_blobs(image, region=None, *, sigma=1.0, brightness=0.0, apart=8):
    """Find bright blobs and tubes of about one size.

    Parameters
    ----------
    image : (slice, row, column) float array
        Cubic voxels; any unit of intensity.
    region : (slice, row, column) bool array, optional
        Where the middle of a blob or tube may lie; anywhere by default.
    sigma : float
        The scale: s.d. of the blur in voxels, about the radius of what is looked for.
    brightness : float
        Places that are not above it after the blur are left out; the fewer there are, the faster.
    apart : float
        Voxels between two places; the stronger one stays.

    Returns
    -------
    pandas.DataFrame
        One row a place, the strongest first: kind ("blob" or "tube"), slice, row, column, strength (the strongest
        curvature, in intensity per voxel^2), scale (`sigma`), steepness (in 0..1, how straight it runs through the
        slices: 1 for a tube that stands upright).

    Examples
    --------
    >>> image = np.zeros((30, 40, 40), "f4")
    >>> image[15, 20, 20], image[:, 8, 30] = 5, 1
    >>> find_blobs(image)[["kind", "row", "column"]].values.tolist()[:2]
    [['blob', 20, 20], ['tube', 8, 30]]
    """
    region = np.ones(image.shape, bool) if region is None else region
    box = ndimage.find_objects(region.view(np.uint8))
    if not box:
        return pd.DataFrame(columns=COLUMNS)
    gradient, hessian, places = _derivatives(image, region, box[0], sigma, brightness)
    values, vectors = np.linalg.eigh(hessian)  # (place, 3) ascending: the strongest downward curvature first
    off = np.abs(np.einsum("pi,pij->pj", gradient, vectors)) / np.maximum(np.abs(values), 1e-9)
    middle = (values < ROUND * values[:, :1]) & (off < OFF_RIDGE)  # on the ridge in this direction
    tube = middle[:, :2].all(1) & (np.abs(values[:, 2]) < FLAT * np.abs(values[:, 0]))
    blob = middle.all(1)
    at = _strongest(np.where(tube | blob, -values[:, 0], 0), places, apart)
    place = places[at] + [side.start for side in box[0]]
    found = pd.DataFrame(place, columns=["slice", "row", "column"]).assign(
        kind=np.where(blob[at], "blob", "tube"),
        strength=-values[at, 0],
        scale=float(sigma),
        steepness=np.abs(vectors[at, 0, 2]),
    )
    return found[COLUMNS]


def look_alikes(image, label=None, *, sigma=1.0, brightness=1.4, depth=10, count=20, apart=8):
    """Find the places of a scan that look most like a bright tube or blob and are no lesion.

    Looked for in the upper half of the head, away from its surface and from lesions: what is bright in the face and
    the scalp would otherwise fill the table.

    Parameters
    ----------
    image : (slice, row, column) float array
        In relative intensity (see `kit.scans.relative`), 1 mm voxels.
    label : (slice, row, column) bool array, optional
    sigma, brightness, apart
        As for `find_blobs`.
    depth : int
        Voxels between a place and the head's surface, and between it and a lesion.
    count : int
        The most places of a kind.

    Returns
    -------
    pandas.DataFrame
        Rows of `find_blobs`, tubes and then blobs, the strongest first, with brightness: relative intensity there.

    Examples
    --------
    >>> head = np.zeros((40, 40, 40), "f4")
    >>> head[2:38, 2:38, 2:38] = 1
    >>> head[:, 19:22, 19:22] = 3  # a vessel straight through the slices
    >>> look_alikes(head, depth=6)[["kind", "row", "column", "steepness"]].values[0].tolist()
    ['tube', 20, 20, 1.0]
    """
    found = find_blobs(image, _region(image, label, depth), sigma=sigma, brightness=brightness, apart=apart)
    at = tuple(found[["slice", "row", "column"]].to_numpy(int).T)
    found = found.assign(brightness=image[at]).groupby("kind").head(count)
    return found.sort_values("kind", ascending=False, kind="stable", ignore_index=True)


def _region(image, label, depth):
    """The upper half of the head, `depth` voxels away from its surface and from lesions."""
    head = foreground(image)
    allowed = ndimage.minimum_filter(head.view(np.uint8), 2 * depth + 1, mode="constant") > 0
    heights = np.flatnonzero(head.any((1, 2)))
    allowed[: int(heights.mean()) if heights.size else 0] = False
    if label is not None and label.any():
        allowed &= ndimage.maximum_filter(label.view(np.uint8), 2 * depth + 1) == 0
    return allowed


def _derivatives(image, region, box, sigma, brightness):
    """Gradient (place, 3) and Hessian (place, 3, 3) at a region's bright places, and where in the box they lie."""
    around = tuple(
        slice(max(side.start - AROUND, 0), side.stop + AROUND) for side in box
    )  # so that no edge is blurred in
    inner = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, box, strict=True))

    def blurred(*axes):  # differentiated along each of `axes`
        order = np.bincount(axes, minlength=3) if axes else 0
        return ndimage.gaussian_filter(image[around], sigma, order=order, truncate=3)[inner]

    places = np.argwhere(region[box] & (blurred() > brightness))
    gradient, hessian = np.empty((len(places), 3)), np.empty((len(places), 3, 3))
    for one in range(3):
        gradient[:, one] = blurred(one)[tuple(places.T)]
        for other in range(one, 3):
            hessian[:, one, other] = hessian[:, other, one] = blurred(one, other)[tuple(places.T)]
    return gradient, hessian, places


def _strongest(strength, places, apart):
    """Indices of the places with any strength, the strongest first, none within `apart` voxels of a stronger one."""
    order = np.argsort(-strength, kind="stable")[: np.count_nonzero(strength)]
    tree, still_free = cKDTree(places), np.ones(len(places), bool)
    kept = []
    for at in order.tolist():
        if still_free[at]:
            kept.append(at)
            still_free[tree.query_ball_point(places[at], apart)] = False
    return kept
