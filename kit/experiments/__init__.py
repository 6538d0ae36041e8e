"""The thesis' experiments: recipes, training, runs, records, and notebooks as programs."""

from kit.experiments.faults import FAULTS, LabelFaults, add_faults, with_faults
from kit.experiments.notebooks import (
    FOLDER,
    NotebookError,
    find_notebook,
    known_parameters,
    numbered_notebooks,
    parameters_from_text,
    run_all,
    run_notebook,
)
from kit.experiments.pages import WIDGET, clean, heading, index, minutes, to_html
from kit.experiments.published import COHORT, MINUTES_PER_SCAN, SCANS_PER_PATIENT, sampled, whole_scans, whole_scans_fcn
from kit.experiments.recipes import EXPERIMENTS, PROFILES, first_epoch, run_experiment, run_size
from kit.experiments.record import ROOT, gather, record_cohort, record_experiment
from kit.experiments.replay import Replayed
from kit.experiments.results import (
    SCORES,
    Record,
    at_threshold,
    beside,
    changes,
    evaluate_sampled,
    published_row,
    published_whole_scans,
    read_record,
    record_table,
    score,
    shown,
    step,
    whole_scan_table,
)
from kit.experiments.runs import Run, RunError, environment, open_run
from kit.experiments.training import evaluate, train
