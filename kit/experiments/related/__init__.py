"""The related methods and the U-Net as experiments: trained and fitted on training and validation scans."""

from kit.experiments.related.fitting import candidates_of, fit_candidates, fit_method
from kit.experiments.related.unet_training import train_unet
