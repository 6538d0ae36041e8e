"""Rates of a cohort, their intervals, and comparisons of networks."""

from kit.metrics.rates.bootstrap import (
    CONFIDENCE,
    DRAWS,
    compare,
    correct,
    crossing_p,
    intervals,
    patient_weights,
    quantiles,
)
from kit.metrics.rates.sums import RATES, derive, ratio, summarise, with_and_without_lesions, with_interval
