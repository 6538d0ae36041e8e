"""What a viewer sends to the browser: a scan checked, brought to bytes, and compressed, once for each page.

    image          uint8      its window of intensities in 256 steps
    label          1 bit      eight voxels a byte, the first in the lowest bit
    probability    uint8      p * 255, rounded; one volume for each map

Every buffer is zlib-compressed: a map is mostly zeros, and the kernel may be far away.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kit.scans import as_mask, foreground, lesion_table

MOST_MAPS = 4
TAIL = 99.99  # percentile of the image at which the 256 steps end: one spark must not darken the rest
MARGIN = 4  # voxels of air around the head
FAST = 1  # zlib's level: twice as small in a tenth of a second, and more effort gains little


class ViewerError(ValueError):
    """Something that a viewer cannot show; the message names it, the value received and what to do."""


@dataclass(frozen=True, eq=False)
class Volumes:
    """A scan and what lies over it, checked: axes (slice, row, column) throughout.

    `image` is float32, `label` bool or None, `maps` name -> float32 in [0, 1]. `spacing_mm` is the voxel size, `affine`
    (4, 4) leads from a voxel to world mm, and `in_mm` says whether either was given. `places` are the rows that n and p
    jump to: slice, row, column, kind, text.
    """

    image: np.ndarray
    label: np.ndarray | None
    maps: dict
    spacing_mm: tuple
    affine: np.ndarray
    in_mm: bool
    places: pd.DataFrame = field(repr=False)

    @property
    def shape(self):
        """(slices, rows, columns)."""
        return self.image.shape

    def reading(self, cursor):
        """The exact values at a voxel: intensity, whether it is label, and each map's probability."""
        at = tuple(int(place) for place in cursor)
        label = None if self.label is None else bool(self.label[at])
        values = {"cursor": list(at), "intensity": float(self.image[at]), "label": label}
        return values | {"probability": {name: float(values[at]) for name, values in self.maps.items()}}


def checked_volumes(image, label=None, probability=None, *, spacing_mm=None, affine=None, places=None):
    """Check everything that is to be shown, before anything is sent.

    Parameters
    ----------
    image : (slice, row, column) array of finite numbers
    label : (slice, row, column) bool array, or numbers that are all 0 or 1, optional
    probability : (slice, row, column) array in [0, 1], or dict of name to such an array, optional
        At most four; a bool array is shown as 0 and 1.
    spacing_mm : (slice, row, column) float, optional
        By default what `affine` says, or 1 mm.
    affine : (4, 4) array, optional
        From a (slice, row, column) index to world mm, as `kit.scans.Scan.affine`. By default only `spacing_mm`.
    places : pandas.DataFrame, optional
        What n and p jump to: columns slice, row, column, and, if there, kind and text. By default the label's lesions.

    Returns
    -------
    Volumes

    Raises
    ------
    ViewerError
        For a wrong number of axes, shapes that differ, values out of range or not finite, or more than four maps.

    Examples
    --------
    >>> volumes = checked_volumes(np.zeros((2, 3, 4)), np.eye(4)[None, :3].repeat(2, 0), spacing_mm=(3, 1, 1))
    >>> volumes.places[["slice", "row", "column", "kind"]].values.tolist()
    [[0.5, 1.0, 1.0, 'lesion']]
    """
    image = _checked_image(image)
    maps = _checked_maps(probability, image.shape)
    if label is not None:
        label = _checked_label(label, image.shape)
    in_mm = not (spacing_mm is None and affine is None)
    spacing_mm, affine = _checked_geometry(spacing_mm, affine)
    places = _lesion_places(label, spacing_mm) if places is None else _checked_places(places, image.shape)
    return Volumes(image, label, maps, spacing_mm, affine, in_mm, places)


def packed(volumes):
    """A header (plain JSON) and the compressed buffers: image, label where there is one, and each map.

    Examples
    --------
    >>> header, buffers = packed(checked_volumes(np.arange(24.0).reshape(2, 3, 4), probability=np.ones((2, 3, 4))))
    >>> header["shape"], header["maps"], header["has_label"], len(buffers)
    ([2, 3, 4], ['probability'], False, 2)
    >>> np.frombuffer(zlib.decompress(buffers[1]), np.uint8).max()
    np.uint8(255)
    """
    low, high = intensity_range(volumes.image)
    parts = [_in_steps(volumes.image, low, high)]
    if volumes.label is not None:
        parts.append(np.packbits(volumes.label, bitorder="little"))
    parts += [_in_steps(values, 0, 1) for values in volumes.maps.values()]
    header = {
        "shape": list(volumes.shape),
        "spacing_mm": list(volumes.spacing_mm),
        "affine": volumes.affine.tolist(),
        "in_mm": volumes.in_mm,
        "intensity": [low, high],
        "has_label": volumes.label is not None,
        "maps": list(volumes.maps),
        "frame": head_box(volumes),
        "places": volumes.places.to_dict("records"),
    }
    return header, [zlib.compress(part, FAST) for part in parts]


def intensity_range(image):
    """The intensities that the 256 steps of the sent image reach from and to."""
    sample = image[tuple(slice(None, None, 2 if size > 64 else 1) for size in image.shape)]
    low, high = float(image.min()), float(np.percentile(sample, TAIL))
    return low, high if high > low else max(float(image.max()), low + 1)


def head_box(volumes):
    """The box [[first, stop], ...] of head and label: what is shown at zoom 1, so that little is spent on air."""
    coarse = tuple(slice(None, None, 2 if size > 64 else 1) for size in volumes.shape)
    seen = foreground(volumes.image[coarse])
    if volumes.label is not None:
        seen |= volumes.label[coarse]
    box = []
    for axis, (size, step) in enumerate(zip(volumes.shape, coarse, strict=True)):
        found = np.flatnonzero(seen.any(axis=tuple({0, 1, 2} - {axis}))) * (step.step or 1)
        ends = (found[0] - MARGIN, found[-1] + MARGIN + 2) if found.size else (0, size)
        box.append([int(max(ends[0], 0)), int(min(ends[1], size))])
    return box


def _in_steps(values, low, high):
    scaled = (values - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def _checked_image(image):
    image = _volume(image, "image").astype(np.float32)
    if not np.isfinite(image).all():
        raise ViewerError(f"image holds {np.sum(~np.isfinite(image))} voxels that are not finite; load it anew")
    return image


def _checked_label(label, shape):
    _same_shape(_volume(label, "label"), shape, "label")
    try:
        return as_mask(label)
    except ValueError as error:
        raise ViewerError(str(error)) from error


def _checked_maps(probability, shape):
    maps = probability if isinstance(probability, dict) else {"probability": probability}
    maps = {str(name): values for name, values in maps.items() if values is not None}
    if len(maps) > MOST_MAPS:
        raise ViewerError(f"{len(maps)} maps are given ({', '.join(maps)}); side by side there is room for {MOST_MAPS}")
    return {name: _checked_map(values, shape, name) for name, values in maps.items()}


def _checked_map(values, shape, name):
    values = _same_shape(_volume(values, name), shape, name).astype(np.float32)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also where there is NaN
        raise ViewerError(f"{name} reaches from {low} to {high}; pass probabilities in [0, 1], not logits or percent")
    return values


def _volume(values, name):
    values = np.asarray(values)
    if values.ndim != 3 or 0 in values.shape:
        raise ViewerError(f"{name} has shape {values.shape}; pass one scan with axes (slice, row, column)")
    if values.dtype.kind not in "biuf":
        raise ViewerError(f"{name} is of type {values.dtype}; pass real numbers")
    return values


def _same_shape(values, shape, name):
    if values.shape != shape:
        raise ViewerError(f"{name} has shape {values.shape} and image {shape}; both must lie on the same grid")
    return values


def _checked_geometry(spacing_mm, affine):
    if affine is None:
        steps = np.ones(3) if spacing_mm is None else np.asarray(spacing_mm, float)
        if steps.shape != (3,) or not (np.isfinite(steps).all() and (steps > 0).all()):
            raise ViewerError(f"spacing_mm is {spacing_mm}; pass three positive numbers (slice, row, column), in mm")
        return tuple(steps.tolist()), np.diag([*steps, 1.0])
    affine = np.asarray(affine, float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ViewerError(f"affine is {affine.tolist()}; pass a (4, 4) matrix from a voxel to mm, as Scan.affine")
    steps = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    if spacing_mm is not None and not np.allclose(spacing_mm, steps, rtol=0.02):
        raise ViewerError(f"spacing_mm is {spacing_mm}, but affine has {steps} mm; pass the two of one scan")
    return steps, affine


def _lesion_places(label, spacing_mm):
    table = lesion_table(np.zeros((1, 1, 1), bool) if label is None else label, spacing_mm)
    places = pd.DataFrame(table.centre.tolist(), columns=["slice", "row", "column"], dtype=float)
    texts = [f"lesion {row.component}, {row.diameter_mm:.1f} mm" for row in table.itertuples()]
    return _in_order(places.assign(kind="lesion", text=texts))


def _checked_places(places, shape):
    missing = [name for name in ("slice", "row", "column") if name not in places]
    if missing:
        raise ViewerError(f"places has the columns {', '.join(places)}; it needs slice, row and column")
    at = places[["slice", "row", "column"]].to_numpy(float)
    outside = ~((at >= -0.5) & (at <= np.array(shape) - 0.5)).all(axis=1)  # also where there is NaN
    if outside.any():
        raise ViewerError(f"places has {at[outside][0].tolist()}, which is outside the scan of shape {shape}")
    kind = places["kind"].astype(str).tolist() if "kind" in places else "place"
    text = places["text"].astype(str).tolist() if "text" in places else kind
    return _in_order(pd.DataFrame(at, columns=["slice", "row", "column"]).assign(kind=kind, text=text))


def _in_order(places):
    return places.sort_values(["slice", "row", "column"], kind="stable").reset_index(drop=True)
