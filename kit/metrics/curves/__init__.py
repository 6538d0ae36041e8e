"""Curves over a cohort: recall against false positives, recall over size, reliability."""

from kit.metrics.curves.calibration import expected_calibration_error, pool, reliability
from kit.metrics.curves.froc import (
    FP_PER_SCAN,
    auroc,
    average_precision,
    compare_froc,
    froc,
    froc_average,
)
from kit.metrics.curves.sizes import SIZE_CLASSES_MM, recall_by_size, recall_curve, wilson_interval
