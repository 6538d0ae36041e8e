"""Makes a record: every experiment trained several times at a larger size than a notebook's, and evaluated."""

from kit.experiments.record.making import (
    ROOT,
    VARIANTS,
    experiment_of,
    gather,
    record_cohort,
    record_experiment,
    record_weights,
    weights_of,
)
from kit.experiments.record.slices import Slices, cut_slices, read_slices
