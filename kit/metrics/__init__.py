"""How good a probability map is: matching, rates, curves, intervals."""

from kit.metrics.chance import PARTITION_MARGIN_MM, chance_recall, partition_chance, partitions
from kit.metrics.curves import (
    FP_PER_SCAN,
    auroc,
    average_precision,
    compare_froc,
    expected_calibration_error,
    froc,
    froc_average,
    pool,
    recall_by_size,
    recall_curve,
    reliability,
    wilson_interval,
)
from kit.metrics.detection import COLUMNS, Detection, detect, dice, error_table, hysteresis
from kit.metrics.exports import export_lesions, export_maps
from kit.metrics.matching import RULES, Links, Rule, iou_rule, rule_of
from kit.metrics.outlines import PENALTY_MM, LesionWise, border_profile, hd95, lesionwise, pool_profiles
from kit.metrics.pairing import Contact, Pairing, Predicted, Truth, pair
from kit.metrics.rates import (
    RATES,
    compare,
    correct,
    crossing_p,
    intervals,
    patient_weights,
    quantiles,
    summarise,
    with_and_without_lesions,
    with_interval,
)
from kit.metrics.scoring import (
    PredictionError,
    Scores,
    find_predictions,
    read_table,
    score,
)
from kit.metrics.sweeps import (
    MIN_VOLUMES_MM3,
    THRESHOLDS,
    operating_points,
    rule_table,
    score_scan,
    sweep,
    sweep_lesions,
    sweep_lesions_of,
)
