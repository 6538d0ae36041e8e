"""The related methods and the U-Net as experiments: fitted and trained, compared on the same scans, recorded."""

from kit.experiments.related.comparison import GivenMaps, chance_curve, compare_methods, method_rows, published_related
from kit.experiments.related.fitting import candidates_of, claims, fit_candidates, fit_method, recall_at
from kit.experiments.related.follow_ups import lesion_changes, measure_change, turned
from kit.experiments.related.record import record_related, unet_detectors
from kit.experiments.related.unet_training import train_unet
