"""The thesis' experiments and yours: recipes, training, runs, records, results, and notebooks as programs."""

from importlib import import_module
from typing import TYPE_CHECKING

from kit.experiments.faults import FAULTS, LabelFaults, add_faults, with_faults
from kit.experiments.recipes import (
    EXPERIMENTS,
    PROFILES,
    Experiment,
    check_common,
    first_epoch,
    run_experiment,
    run_size,
)
from kit.experiments.record import (
    ROOT,
    VARIANTS,
    Slices,
    cut_slices,
    experiment_of,
    gather,
    read_slices,
    record_cohort,
    record_experiment,
    record_weights,
    weights_of,
)
from kit.experiments.related import compare_methods, fit_method, measure_change, record_related, train_unet
from kit.experiments.results import (
    COHORT,
    MINUTES_PER_SCAN,
    SCANS_PER_PATIENT,
    SCORES,
    Record,
    before_and_after,
    changes,
    compare_recorded,
    comparison_table,
    comparisons,
    evaluate_sampled,
    format_recall,
    format_scores,
    format_whole_scans,
    found_by,
    outline_changes,
    published_row,
    published_sampled,
    published_whole_scans,
    read_record,
    record_table,
    score_row,
    sweep_at,
    whole_scan_changes,
    whole_scan_table,
    with_chance,
)
from kit.experiments.runs import Run, RunError, check_device, environment, open_run, without_places
from kit.experiments.steps import evaluate, hard_negatives
from kit.experiments.training import EXAMPLES, train

if TYPE_CHECKING:
    from kit.experiments.notebooks import (  # isort: skip
        NOTEBOOK_FOLDER, WIDGET, NotebookError, Parameter, clean, find_notebook, known_parameters, minutes,
        numbered_notebooks, parameters_from_text, run_all, run_notebook,
    )  # fmt: skip
    from kit.experiments.pages import Heading, heading, main_figure, to_html, write_index


def __getattr__(name):
    """Notebooks as programs and as pages, when they are asked for: what they need takes as long to import as torch."""
    for module in ("notebooks", "pages"):
        if not name.startswith("_") and hasattr(found := import_module(f"{__name__}.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
