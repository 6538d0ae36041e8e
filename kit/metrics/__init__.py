"""How good a probability map is: matching, rates, curves, intervals."""

from kit.metrics.borders import border_profile, pool_profiles
from kit.metrics.calibration import expected_calibration_error, pool, reliability
from kit.metrics.comparisons import RATES, compare, compare_all, intervals, patient_weights, quantiles
from kit.metrics.curves import FP_PER_SCAN, auroc, average_precision, froc, froc_average
from kit.metrics.detection import MIN_VOLUMES_MM3, THRESHOLDS, Detection, detect, dice, hysteresis, match, sweep
from kit.metrics.errortable import COLUMNS, error_table
from kit.metrics.matching import RULES, Links, Rule, iou_rule, rule_of
from kit.metrics.outlines import PENALTY_MM, LesionWise, hd95, lesionwise
from kit.metrics.pairing import Encounter, Predicted, Truth
from kit.metrics.rates import (
    recall_by_size,
    recall_curve,
    summarise,
    wilson_interval,
    with_and_without_lesions,
    with_interval,
)
from kit.metrics.ruletable import rule_table
from kit.metrics.scoring import (
    TABLES,
    Evaluation,
    PredictionError,
    describe,
    evaluate_cohort,
    find_predictions,
    joined,
    named,
    partitions,
    read_table,
    score_folder,
    score_rules,
    score_scan,
    write_table,
)
from kit.metrics.sweeps import MOST_POINTS, operating_points, sweep_lesions
