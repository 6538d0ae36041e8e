"""Lesions as connected components, and what is measured on one: volume, diameter, shape, centre, box."""

import cc3d
import numpy as np
import pandas as pd


def lesion_table(label, spacing_mm):
    """Measure every lesion of a label.

    Parameters
    ----------
    label : (slice, row, column) bool array, or numbers that are all 0 or 1
        True where there is lesion.
    spacing_mm : (slice, row, column) float
        Distance between neighbouring voxel centres.

    Returns
    -------
    pandas.DataFrame
        One row a 26-connected component, in the order of `components`:

        - ``component``: its number, from 1;
        - ``voxels``, ``volume_mm3``;
        - ``diameter_mm``: of the sphere of that volume;
        - ``size_mm``: cube root of the volume, the thesis' lesion size;
        - ``sigma_r``: shape complexity, without unit: 0 for a sphere's surface, larger for a rougher or longer one.
          With r the distance in mm of a hull voxel to the lesion's centre, it is sqrt(E[(r / E[r] - 1)^2]). A hull
          voxel has a face neighbour outside the lesion; the scan's edge counts as outside. The measure fails for
          tiny lesions, where the grid decides and not the shape: it is NaN for one voxel and 0 for two;
        - ``centre``: (slice, row, column) centre of mass in voxels, floats;
        - ``box``: ((first, stop), (first, stop), (first, stop)) in voxels, `stop` not included, as in `slice`.

        A label without lesion gives the same columns and no row.

    Raises
    ------
    ValueError
        If `label` is not three-dimensional or holds values other than 0 and 1, or `spacing_mm` is not three
        positive numbers.

    References
    ----------
    sigma_r: section 5.1.1 of the thesis.

    Examples
    --------
    >>> label = np.zeros((4, 9, 9), bool)
    >>> label[1:3, 2:5, 2:4] = True
    >>> lesion_table(label, (2.0, 1.0, 1.0))[["component", "voxels", "volume_mm3", "centre", "box"]].values.tolist()
    [[1, 12, 24.0, (1.5, 3.0, 2.5), ((1, 3), (2, 5), (2, 4))]]
    """
    return measure(components(label), spacing_mm)


def components(label):
    """Number the lesions of a label.

    Two voxels belong together when they share a face, an edge or a corner (26-connectivity). Numbers run from 1 in
    the order in which the lesions' first voxels are met, going through columns, then rows, then slices.

    Parameters
    ----------
    label : (slice, row, column) bool array, or numbers that are all 0 or 1

    Returns
    -------
    (slice, row, column) int32 array
        0 outside lesions.

    Raises
    ------
    ValueError
        If `label` is not three-dimensional or holds values other than 0 and 1.

    Examples
    --------
    >>> components(np.array([[[1, 0, 0, 1], [0, 1, 0, 0]]])).tolist()
    [[[1, 0, 0, 2], [0, 1, 0, 0]]]
    """
    mask = np.ascontiguousarray(as_mask(label))
    # as uint8: for bool arrays cc3d (4.1.1) sets too few labels aside and fails on thin scans
    return cc3d.connected_components(mask.view(np.uint8), connectivity=26, out_dtype=np.uint32).view(np.int32)


def measure(labels, spacing_mm):
    """Measure lesions that are numbered already: `lesion_table` for the array that `components` gives.

    Parameters
    ----------
    labels : (slice, row, column) int array
        0 outside, 1 to n without gaps inside.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    pandas.DataFrame
        As `lesion_table`.

    Examples
    --------
    >>> measure(np.array([[[1, 1, 0, 2]]]), (1.0, 1.0, 1.0)).voxels.tolist()
    [2, 1]
    """
    spacing = checked_spacing(spacing_mm)
    flat = np.flatnonzero(labels != 0)
    owner = labels.reshape(-1)[flat] - 1  # (voxel,), which lesion
    voxels = np.array(np.unravel_index(flat, labels.shape))  # (3, voxel)
    count = np.bincount(owner)  # (lesion,)
    centre = np.array([np.bincount(owner, position) for position in voxels]) / count  # (3, lesion)
    volume = (count * spacing.prod()).round(6)  # the order of the axes must not decide on which side of a limit it lies
    hull = _on_hull(labels, flat, voxels)
    return pd.DataFrame(
        {
            "component": np.arange(1, len(count) + 1),
            "voxels": count,
            "volume_mm3": volume,
            "diameter_mm": np.cbrt(volume * 6 / np.pi),
            "size_mm": np.cbrt(volume),
            "sigma_r": _sigma_r(voxels[:, hull], owner[hull], centre, spacing),
            "centre": _objects(map(tuple, centre.T.tolist())),
            "box": _objects(_boxes(voxels, owner, len(count))),
        }
    )


def as_mask(label, name="label"):
    """Return a label as a three-dimensional bool array, or say why it is none.

    Parameters
    ----------
    label : (slice, row, column) bool array, or numbers that are all 0 or 1
    name : str
        What the message calls the array.

    Returns
    -------
    (slice, row, column) bool array

    Raises
    ------
    ValueError
        If the array is not three-dimensional or holds values other than 0 and 1.

    Examples
    --------
    >>> as_mask([[[0, 3]]])
    Traceback (most recent call last):
    ...
    ValueError: label holds 3 where only 0 and 1 are expected: pass e.g. label > 0, or np.isin(label, lesion_codes)
    """
    label = np.asarray(label)
    if label.ndim != 3:
        raise ValueError(f"{name} has shape {label.shape}: pass one scan with axes (slice, row, column)")
    if label.dtype == bool:
        return label
    other = (label != 0) & (label != 1)
    if other.any():
        raise ValueError(
            f"{name} holds {label[other][0]} where only 0 and 1 are expected: "
            f"pass e.g. {name} > 0, or np.isin({name}, lesion_codes)"
        )
    return label != 0


def checked_spacing(spacing_mm):
    """Return a spacing, (slice, row, column) in mm, as a (3,) float array; ValueError unless all three are positive.

    >>> checked_spacing((3, 1, 1)).tolist()
    [3.0, 1.0, 1.0]
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm is {spacing_mm!r}: pass three positive numbers, (slice, row, column) in mm")
    return spacing


def _on_hull(labels, flat, voxels):
    """Say for each lesion voxel whether one of its six face neighbours lies outside its lesion."""
    values = labels.reshape(-1)
    inner = np.ones(flat.shape, bool)
    step = np.cumprod((1, *labels.shape[:0:-1]))[::-1]  # from a voxel to its neighbour, in the flat array
    for axis, length in enumerate(labels.shape):
        for towards, edge in ((-step[axis], 0), (step[axis], length - 1)):
            # a clipped or wrapped neighbour only comes up at the scan's edge, which is outside anyway
            inner &= (voxels[axis] != edge) & (values.take(flat + towards, mode="clip") == values[flat])
    return ~inner


def _sigma_r(hull, owner, centre, spacing):
    """Return sigma_r of each lesion from its (3, voxel) hull voxels."""
    radius = np.linalg.norm((hull - centre[:, owner]) * spacing[:, None], axis=0)  # (voxel,) mm
    count = np.bincount(owner)
    mean = np.bincount(owner, radius) / count
    mean[mean == 0] = np.nan  # one voxel has no radius
    return np.sqrt(np.bincount(owner, (radius / mean[owner] - 1) ** 2) / count)


def _boxes(voxels, owner, count):
    """Return each lesion's box as ((first, stop), (first, stop), (first, stop))."""
    first = np.full((3, count), np.iinfo(np.int64).max)
    stop = np.zeros((3, count), np.int64)
    for axis, position in enumerate(voxels):
        np.minimum.at(first[axis], owner, position)
        np.maximum.at(stop[axis], owner, position + 1)
    return (tuple(map(tuple, box)) for box in np.stack([first, stop], axis=-1).transpose(1, 0, 2).tolist())


def _objects(items):
    """Return a column of tuples, of object dtype even when it is empty."""
    return pd.Series(list(items), dtype=object)
