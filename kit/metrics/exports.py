"""Probability maps, masks and findings of a cohort, as files on the grids of its scans and as one list."""

import os

import pandas as pd
from tqdm.auto import tqdm

from kit.metrics.detection import hysteresis
from kit.metrics.pairing import checked_probability
from kit.metrics.scoring import PredictionError, find_predictions
from kit.scans import (
    ExportError,
    Scan,
    components,
    frame,
    list_lesions,
    load_row,
    load_truth,
    new_folder,
    read_grid,
    read_map,
    save_map,
    search_region,
    spacing,
    to_own_grid,
    write_table,
)

NAMES = ["scan_id", "patient_id", "session", "kind"]


def export_maps(
    source, table, folder, *, threshold=0.5, low=0.2, min_volume_mm3=0, search="head", progress=True, **options
):
    """Write probability map, mask and list of findings of every scan, on the grid of the scan's own file.

    Parameters
    ----------
    source : callable or path
        A detector, such as `kit.models.Detector`, or a folder of maps, as in `kit.metrics.score`; the folder of an
        earlier `score` is one. A long cohort is better mapped by `score`, which goes on where it was stopped.
    table : pandas.DataFrame
        Rows of a manifest; labels are not needed.
    folder : path
        New or empty: it appears whole, with `<scan_id>_probability.nii.gz` (float32), `<scan_id>_mask.nii.gz` (uint8)
        and `findings.csv`, or not at all.
    threshold, low, min_volume_mm3
        Of the mask, see `kit.metrics.hysteresis`.
    search : {"head", "brain"}
        Where a detector looks in scans without a `mask`, see `kit.scans.search_region`.
    options
        Go to the detector.

    Returns
    -------
    pandas.DataFrame
        As `findings.csv`: see `export_lesions`.

    Raises
    ------
    PredictionError, kit.scans.ExportError
        Before anything is written, for maps that are missing or a folder that holds files.
    ScanError
        For a file that cannot be used.
    """
    paths, found = _paths(source, table), []
    settings = {"threshold": threshold, "low": low, "min_volume_mm3": min_volume_mm3}
    with new_folder(folder, ExportError) as (part, _):
        for row in tqdm(table.to_dict("records"), desc="exporting", unit="scan", disable=not progress):
            if paths:
                scan = _own(read_grid(row["image"]))
                probability = read_map(paths[row["scan_id"]], scan.grid)
            else:
                scan, probability = _mapped(source, row, search, options)
            findings, mask = _findings(row, scan, probability, settings)
            save_map(probability, scan, part / f"{row['scan_id']}_probability.nii.gz")
            save_map(mask, scan, part / f"{row['scan_id']}_mask.nii.gz")
            found.append(findings)
        write_table(_joined(found), part / "findings.csv")
    return _joined(found)


def export_lesions(table, source=None, *, threshold=0.5, low=0.2, min_volume_mm3=0, progress=True):
    """List the lesions of a cohort's labels, and with maps the findings too.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of a manifest; a scan without label has no lesions here.
    source : path, optional
        A folder of maps, see `kit.metrics.find_predictions`.
    threshold, low, min_volume_mm3
        Of findings, see `kit.metrics.hysteresis`.

    Returns
    -------
    pandas.DataFrame
        One row a lesion or finding: `scan_id`, `patient_id`, `session`, `kind` ("lesion" or "finding"), and the columns
        of `kit.scans.list_lesions`. A lesion's `max_probability` is the highest of the map in it.

    Raises
    ------
    PredictionError
        For maps that are missing.
    ScanError
        For a file that cannot be used.
    """
    paths, found = _paths(source, table) if source is not None else {}, []
    settings = {"threshold": threshold, "low": low, "min_volume_mm3": min_volume_mm3}
    for row in tqdm(table.to_dict("records"), desc="listing lesions", unit="scan", disable=not progress):
        scan = load_truth(row) if row["label"] else _own(read_grid(row["image"]))
        path = paths.get(row["scan_id"])
        probability = None if path is None else read_map(path, scan.grid)
        if scan.label is not None:
            lesions = list_lesions(components(scan.label), scan.grid, scan.affine, probability)
            found.append(_named(lesions, row, "lesion"))
        if probability is not None:
            found.append(_findings(row, scan, probability, settings)[0])
    return _joined(found)


def _paths(source, table):
    """The map of every scan, where `source` is a folder; PredictionError where some are missing."""
    if not isinstance(source, str | os.PathLike):
        return {}
    paths, problems = find_predictions(source, table)
    if problems:
        raise PredictionError(source, problems)
    return paths


def _own(grid):
    """A scan of a file's grid, without its voxels."""
    affine = frame(grid)[1]
    return Scan(None, None, spacing(affine), affine, grid)


def _mapped(detector, row, search, options):
    """A scan's own grid and a detector's map on it."""
    scan = load_row(row)
    probability = checked_probability(detector(scan.image, search_region(scan, row, search), **options))
    return _own(scan.grid), to_own_grid(probability, scan)


def _findings(row, scan, probability, settings):
    """The list of a scan's findings, and their mask."""
    mask = hysteresis(probability, **settings, spacing_mm=scan.spacing_mm)
    return _named(list_lesions(components(mask), scan.grid, scan.affine, probability), row, "finding"), mask


def _named(table, row, kind):
    names = {name: row.get(name, "") for name in NAMES[:-1]} | {"kind": kind}
    return table.assign(**names)[[*NAMES, *table]]


def _joined(tables):
    rows = [table for table in tables if len(table)]
    return pd.concat(rows, ignore_index=True) if rows else (tables[0] if tables else pd.DataFrame(columns=NAMES))
