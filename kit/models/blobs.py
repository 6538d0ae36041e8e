"""Where a healthy head looks like a lesion: bright tubes (vessels, sinuses) and bright blobs (where they bend or end).

The eigenvalues of the Hessian of a blurred scan tell them apart: a bright tube curves downwards in two directions, a
blob in three (Frangi et al., Multiscale vessel enhancement filtering, MICCAI 1998).
"""

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from kit.scans import foreground

COLUMNS = ["kind", "slice", "row", "column", "strength", "brightness", "steepness"]
FLAT = 0.25  # of the strongest curvature: along a tube there is less
ROUND = 0.5  # of the strongest curvature: across a tube, and all ways in a blob, there is more
OFF_RIDGE = 0.7  # voxels: the middle of a tube or blob lies so near


def look_alikes(image, label=None, *, sigma=1.0, brightness=1.4, depth=10, count=20, apart=8):
    """Find the places of a scan that look most like a bright tube or blob and are no lesion.

    Looked for in the upper half of the head, away from its surface and from lesions: what is bright in the face and
    the scalp would otherwise fill the table.

    Parameters
    ----------
    image : (slice, row, column) float array
        In relative intensity (see `kit.scans.relative`), 1 mm voxels.
    label : (slice, row, column) bool array, optional
    sigma : float
        Blur in voxels, about the radius of what is looked for.
    brightness : float
        Places below it, after the blur, are left out.
    depth : int
        Voxels between a place and the head's surface, and between it and a lesion.
    count, apart : int
        The most places of a kind, and the voxels between two of them.

    Returns
    -------
    pandas.DataFrame
        One row a place, tubes and then blobs, the strongest first: kind, slice, row, column, strength (relative
        intensity per voxel^2), brightness (relative intensity there), steepness (in 0..1, how straight it runs
        through the slices: 1 for a tube that stands upright).

    Examples
    --------
    >>> head = np.zeros((40, 40, 40), "f4")
    >>> head[2:38, 2:38, 2:38] = 1
    >>> head[:, 19:22, 19:22] = 3  # a vessel straight through the slices
    >>> look_alikes(head, depth=6)[["kind", "row", "column", "steepness"]].values[0].tolist()
    ['tube', 20, 20, 1.0]
    """
    region = _region(image, label, depth)
    box = ndimage.find_objects(region.view(np.uint8))
    if not box:
        return pd.DataFrame(columns=COLUMNS)
    gradient, hessian, places = _derivatives(image, region, box[0], sigma, brightness)
    values, vectors = np.linalg.eigh(hessian)  # (place, 3) ascending: the strongest downward curvature first
    off = np.abs(np.einsum("pi,pij->pj", gradient, vectors)) / np.maximum(np.abs(values), 1e-9)
    middle = (values < ROUND * values[:, :1]) & (off < OFF_RIDGE)  # on the ridge in this direction
    tube = middle[:, :2].all(1) & (np.abs(values[:, 2]) < FLAT * np.abs(values[:, 0]))
    places += [side.start for side in box[0]]
    blob = middle.all(1)
    chosen = _strongest(np.where(tube | blob, -values[:, 0], 0), places, apart)
    rows = [
        ("blob" if blob[at] else "tube", *places[at].tolist(), -values[at, 0], image[tuple(places[at])], abs(steep))
        for at, steep in zip(chosen, vectors[chosen, 0, 2], strict=True)
    ]
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.groupby("kind").head(count).sort_values("kind", ascending=False, kind="stable", ignore_index=True)


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
    around = tuple(slice(max(side.start - 12, 0), side.stop + 12) for side in box)  # so that no edge is blurred in
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
    chosen = []
    for at in order.tolist():
        if still_free[at]:
            chosen.append(at)
            still_free[tree.query_ball_point(places[at], apart)] = False
    return chosen
