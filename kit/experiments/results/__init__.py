"""Results of experiments side by side: measured here, recorded at a larger size, and published in the thesis."""

from kit.experiments.results.published import (
    COHORT,
    MINUTES_PER_SCAN,
    SCANS_PER_PATIENT,
    SCORES,
    published_row,
    published_sampled,
    published_whole_scans,
)
from kit.experiments.results.recorded import (
    Record,
    changes,
    compare_recorded,
    comparisons,
    format_recall,
    found_by,
    outline_changes,
    read_record,
    record_table,
    whole_scan_changes,
    whole_scan_table,
)
from kit.experiments.results.sampled import (
    before_and_after,
    comparison_table,
    evaluate_sampled,
    format_scores,
    format_whole_scans,
    score_row,
    sweep_at,
    with_chance,
)
