"""What a cohort looks like: a pass over its scans that leaves three tables, and the crops that galleries show.

Intensities are relative, because MR intensities have no unit: 0 is the scan's minimum (air), 1 the median of its head.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm.auto import tqdm

from kit.scans.grid import cut_box
from kit.scans.head import foreground
from kit.scans.lesions import components, measure
from kit.scans.volume import load_row

RIM_PERCENTILE = 90
CORE_DEPTH = 0.6  # of the deepest voxel's depth: what lies deeper is the core, 0.4 of the radius in a sphere


@dataclass(frozen=True)
class CohortStatistics:
    """Tables over a cohort, every row with its `scan_id`, `patient_id`, `split` and `follow_up`.

    `scans`: one row a scan, with slices, rows, columns, voxels, head_voxels, labelled, lesions and lesion_voxels
    (NaN without a label). `lesions`: one row a lesion, as `kit.scans.lesion_table`, with its `rim` (90th
    percentile) and `core` (mean around its deepest voxel) in relative intensity. `slices`: one row a slice, with
    mean and sd of relative intensity over its head `voxels`.
    """

    scans: pd.DataFrame
    lesions: pd.DataFrame
    slices: pd.DataFrame


def cohort_statistics(table, *, progress=True) -> CohortStatistics:
    """Measure every scan of a manifest table, one in memory at a time.

    Parameters
    ----------
    table : pandas.DataFrame
        From `kit.scans.read_manifest`. Scans without a label give no lesions, but slices.

    Returns
    -------
    CohortStatistics
        A scan is a follow-up when its patient has an earlier session in the table (among scans that are labelled
        alike), as in `kit.scans.select`.

    Raises
    ------
    kit.scans.ScanError
        A file is missing or damaged.
    """
    tables = [], [], []
    rows = table.assign(follow_up=_follow_ups(table)).to_dict("records")
    for row in tqdm(rows, "measuring scans", disable=not progress):
        names = {name: row[name] for name in ("scan_id", "patient_id", "split", "follow_up")}
        for parts, found in zip(tables, _measure_scan(load_row(row)), strict=True):
            parts.append(found.assign(**names))
    return CohortStatistics(*map(_concatenated, tables))


def relative(image, head=None):
    """Scale an image (slice, row, column) so that 0 is its minimum and 1 the median of its head; float32.

    `head` is a bool array of the same shape, by default `kit.scans.foreground(image)`.

    Examples
    --------
    >>> relative(np.array([[[-1.0, 1.0, 3.0]]]), np.array([[[False, True, False]]])).tolist()
    [[[0.0, 1.0, 2.0]]]
    """
    head = foreground(image) if head is None else head
    low = image.min()
    middle = np.median(image[head]) if head.any() else low
    return ((image - low) / (middle - low if middle > low else 1)).astype(np.float32)


def summarise_cohort(scans, lesions):
    """Give the figures by which the thesis describes its data, for rows of `CohortStatistics.scans` and `.lesions`.

    Returns
    -------
    dict
        Keys as in `kit.experiments.COHORT`, and `head_voxels_per_positive`; NaN where there is nothing to divide by.

    Examples
    --------
    >>> scans = pd.DataFrame({"patient_id": ["a", "b"], "labelled": True, "lesions": [1, 0], "lesion_voxels": [8, 0],
    ...                       "voxels": 100, "head_voxels": 50})
    >>> lesions = pd.DataFrame({"diameter_mm": [2.5], "size_mm": [2.0]})
    >>> summary = summarise_cohort(scans, lesions)
    >>> summary["lesions_per_scan"], summary["negatives_per_positive"]
    (0.5, 24.0)
    """
    labelled = scans[scans.labelled]
    below_30 = lesions.size_mm[lesions.size_mm < 30]
    positive = labelled.lesion_voxels.sum()
    return {
        "scans": len(scans),
        "patients": scans.patient_id.nunique(),
        "lesions": len(lesions),
        "lesions_per_scan": _ratio(len(lesions), len(labelled)),
        "mean_radius_mm": lesions.diameter_mm.mean() / 2,
        "smaller_than_5mm_cubed_of_those_below_30mm_cubed": _ratio((below_30 < 5).sum(), len(below_30)),
        "negatives_per_positive": _ratio(labelled.voxels.sum() - positive, positive),
        "head_voxels_per_positive": _ratio(labelled.head_voxels.sum() - positive, positive),
    }


def pool_slices(slices):
    """Pool the rows of `CohortStatistics.slices` over scans: mean and s.d. of all head voxels at a slice's height.

    The index of the table is the slice, from the lowest one with head voxels.

    Examples
    --------
    >>> rows = pd.DataFrame({"slice": [0, 0], "voxels": [1, 3], "mean": [1.0, 5.0], "sd": [0.0, 0.0]})
    >>> pool_slices(rows)[["scans", "mean", "sd"]].round(3).values.tolist()
    [[2.0, 4.0, 1.732]]
    """
    sums = slices.assign(
        total=slices.voxels * slices["mean"], square=slices.voxels * (slices.sd**2 + slices["mean"] ** 2)
    )
    pooled = sums[sums.voxels > 0].groupby("slice")[["voxels", "total", "square"]].sum()
    mean = pooled.total / pooled.voxels
    sd = np.sqrt((pooled.square / pooled.voxels - mean**2).clip(lower=0))
    scans = slices[slices.voxels > 0].groupby("slice").size()
    return pd.DataFrame({"scans": scans, "mean": mean, "sd": sd})


def spread(lesions, count, by="voxels"):
    """At most `count` rows of a table, evenly spread from its smallest to its largest in the column `by`.

    Examples
    --------
    >>> spread(pd.DataFrame({"voxels": [9, 5, 7, 1, 3]}), 3).voxels.tolist()
    [1, 5, 9]
    """
    ordered = lesions.sort_values(by, kind="stable")
    return ordered.iloc[np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)]


def crop(array, centre, half):
    """Cut a box around a centre; beyond the array lies the array's minimum (air, no label, no probability).

    Parameters
    ----------
    array : (slice, row, column)
    centre : (slice, row, column) float
        Rounded to the nearest voxel, which becomes the middle of the box.
    half : int or (slice, row, column) int
        The box has 2 * half + 1 voxels; 0 along the slices gives one axial slice.

    Examples
    --------
    >>> crop(np.arange(4).reshape(1, 1, 4), (0, 0, 3), (0, 0, 2)).tolist()
    [[[1, 2, 3, 0, 0]]]
    """
    centre, half = np.round(centre).astype(int), np.broadcast_to(half, 3)
    return np.array(cut_box(array, (centre - half).tolist(), (2 * half + 1).tolist(), array.min()))


def lesion_crops(table, lesions, *, half=24):
    """Load the scans of some lesions, each once, and cut a box around every lesion.

    Parameters
    ----------
    table : pandas.DataFrame
        The manifest table that the lesions were measured on.
    lesions : pandas.DataFrame
        Rows of `CohortStatistics.lesions`.
    half : int or (slice, row, column) int
        See `crop`.

    Returns
    -------
    list of (image, label)
        In the order of `lesions`: relative intensity, float32, and this lesion alone, bool.
    """
    rows = table.set_index("scan_id").to_dict("index")
    crops = {}
    for scan_id, group in lesions.groupby("scan_id"):
        scan = load_row(rows[scan_id])
        image, labels = relative(scan.image), components(scan.label)
        for lesion in group.itertuples():
            crops[lesion.Index] = (
                crop(image, lesion.centre, half),
                crop(labels == lesion.component, lesion.centre, half),
            )
    return [crops[index] for index in lesions.index]


def _follow_ups(table):
    labelled = table["label"] != ""
    return table["session"] > table.groupby([table["patient_id"], labelled])["session"].transform("min")


def _concatenated(parts):
    filled = [part for part in parts if len(part)] or parts[:1]  # an empty table has no types to pass on
    return pd.concat(filled, ignore_index=True).astype({"follow_up": bool})


def _measure_scan(scan):
    """The rows of one scan for the three tables."""
    head = foreground(scan.image)
    image = relative(scan.image, head)
    labels = np.zeros((1, 1, 1), int) if scan.label is None else components(scan.label)
    lesions = _measure_lesions(image, labels, scan.spacing_mm)
    facts = dict(zip(("slices", "rows", "columns"), image.shape, strict=True))
    facts |= {"voxels": image.size, "head_voxels": int(head.sum()), "labelled": scan.label is not None}
    counts = {"lesions": len(lesions), "lesion_voxels": int(lesions.voxels.sum())}
    facts |= counts if scan.label is not None else dict.fromkeys(counts, np.nan)
    return pd.DataFrame([facts]), lesions, _measure_slices(image, head)


def _measure_lesions(image, labels, spacing_mm):
    table = measure(labels, spacing_mm)
    looks = [_rim_and_core(image, labels, lesion, spacing_mm) for lesion in table.itertuples()]
    return table.assign(rim=[rim for rim, _ in looks], core=[core for _, core in looks])


def _rim_and_core(image, labels, lesion, spacing_mm):
    box = tuple(slice(*ends) for ends in lesion.box)
    inside = labels[box] == lesion.component
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    values = image[box]
    core = values[depth >= CORE_DEPTH * depth.max()].mean()
    return float(np.percentile(values[inside], RIM_PERCENTILE)), float(core)


def _measure_slices(image, head):
    voxels = head.reshape(len(head), -1).sum(1)
    values = image[head].astype(np.float64)  # slice after slice
    owner = np.repeat(np.arange(len(image)), voxels)
    filled = np.maximum(voxels, 1)
    mean = np.bincount(owner, values, len(image)) / filled
    sd = np.sqrt(np.maximum(np.bincount(owner, values**2, len(image)) / filled - mean**2, 0))
    return pd.DataFrame({"slice": np.arange(len(image)), "voxels": voxels, "mean": mean, "sd": sd})


def _ratio(part, whole):
    return float(part / whole) if whole else np.nan
