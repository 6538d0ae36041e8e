"""How a scanner sees a head: point spread, coil sensitivity, noise and gain."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from kit.phantom.template import SHAPE, smooth_field

NOISE = (0.025, 0.05)  # s.d. of the Rician noise, white matter = 1


def acquire(image, rng):
    """Point spread, coil sensitivity with dark low slices (thesis, Fig. 7.1), Rician noise, receiver gain."""
    image = ndimage.gaussian_filter(image, rng.uniform(0.5, 0.75))
    image *= np.exp(rng.uniform(0.05, 0.13) * smooth_field(rng, SHAPE, 90))
    slices = np.arange(SHAPE[0], dtype=np.float32)
    image *= (1 - rng.uniform(0.35, 0.55) * np.exp(-((slices / rng.uniform(26, 40)) ** 2)))[:, None, None]
    sd = np.float32(rng.uniform(*NOISE))
    real = image + sd * rng.standard_normal(SHAPE, dtype=np.float32)
    imaginary = sd * rng.standard_normal(SHAPE, dtype=np.float32)
    return np.round(rng.uniform(300, 900) * np.hypot(real, imaginary)).astype(np.int16)
