"""Scans, labels and manifests: read, checked, oriented, measured."""

from kit.scans.files import ScanError, read_grid, read_label, read_map, replacing, write_table
from kit.scans.grid import Grid, frame, resample, same_grid
from kit.scans.lesions import as_mask, checked_spacing, components, lesion_table, measure
from kit.scans.manifest import fingerprint, read_manifest, select
from kit.scans.manifest_text import ManifestError, nearest
from kit.scans.statistics import cohort_statistics, crop, lesion_crops, pool_slices, relative, spread, summarise_cohort
from kit.scans.volume import (
    Scan,
    foreground,
    intensity_statistics,
    load_map,
    load_mask,
    load_row,
    load_scan,
    load_truth,
    normalise,
    save_map,
    search_region,
    to_own_grid,
)
