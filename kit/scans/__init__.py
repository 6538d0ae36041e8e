"""Scans, labels and manifests: read, checked, oriented, measured."""

from kit.scans.exports import ExportError, export_nnunet, list_lesions
from kit.scans.files import ScanError, new_folder, read_grid, read_label, read_map, replacing, write_table
from kit.scans.grid import SAME_SPACING, Grid, cut_box, frame, from_file_axes, resample, same_grid, spacing
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
from kit.scans.importers.collections import COLLECTIONS, import_collection
from kit.scans.importers.folder import Collection
from kit.scans.lesions import as_mask, checked_spacing, components, lesion_table, measure
from kit.scans.manifests.leaks import find_leaks, is_phantom
from kit.scans.manifests.splits import lesion_burden, split_folds, split_patients
from kit.scans.manifests.table import read_manifest, select, write_manifest
from kit.scans.manifests.text import ManifestError, nearest
from kit.scans.sessions.longitudinal import missing_lesions, register_sessions
from kit.scans.sessions.registration import Registration, register
from kit.scans.statistics import cohort_statistics, crop, lesion_crops, pool_slices, relative, spread, summarise_cohort
from kit.scans.volume import Scan, load_map, load_mask, load_row, load_scan, load_truth, save_map, to_own_grid
