"""Scans, labels and manifests: read, checked, oriented, measured."""

from kit.scans.files import ScanError, read_grid, read_label, read_map, replacing, write_table
from kit.scans.grid import Grid, cut_box, frame, from_file_axes, resample, same_grid
from kit.scans.head import (
    BRAIN_UNIT,
    SEARCHES,
    STATISTICS,
    brain_mask,
    brain_statistics,
    fit_template,
    foreground,
    intensity_statistics,
    normalise,
    search_region,
)
from kit.scans.lesions import as_mask, checked_spacing, components, lesion_table, measure
from kit.scans.manifests.table import is_phantom, read_manifest, select, write_manifest
from kit.scans.manifests.text import ManifestError, nearest
from kit.scans.registration import Registration, register
from kit.scans.statistics import cohort_statistics, crop, lesion_crops, pool_slices, relative, spread, summarise_cohort
from kit.scans.volume import Scan, load_map, load_mask, load_row, load_scan, load_truth, save_map, to_own_grid
