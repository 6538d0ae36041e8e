r"""Template matching in the manner of Ambrosini (2010) and Farjam (2012): shells of several sizes over the scan.

A template is a bright ball, or a bright shell around a dark core, with soft edges (thesis, Fig. 2.1):

    brightness      ___                   ___
                   /   \   width_n       /   \   width
                  /     \_______________/     \
    -------------/      |-- core_mm --|        \-------------
                        |---- radius_mm ----|

A second stage leaves out what is no lesion by size, shape and brightness: `kit.models.related.candidates`.
"""

from functools import cache

import numpy as np
import pandas as pd
from scipy import fft, ndimage
from scipy.special import erf

from kit.models.networks import ModelError
from kit.models.related.candidates import METHODS, PLACE, drop_inside, local_maxima, measure_candidates
from kit.scans import resample

RADII_MM = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
CORES = {5.0: (0.5,), 6.0: (0.5,), 8.0: (0.6,), 10.0: (0.7,)}  # of the radius: large lesions have dead middles
WIDTH_MM, WIDTH_CORE_MM = 0.7, 1.0  # s.d. of the blur at the two edges
MARGIN_MM = 2.0  # of healthy tissue that a template shows around a lesion
FINE = 5  # points a voxel's side over which a template is averaged
COARSE_FROM_MM = 4.0  # radii from here on are looked for at twice the voxel size
LEAST = 0.5  # correlation of a candidate
APART = 2  # voxels: a candidate is the highest so far around
FLAT = 1e-4  # local s.d. below which nothing correlates, in the image's unit


def shell_template(radius_mm, core_mm=0.0, *, width_mm=WIDTH_MM, width_core_mm=WIDTH_CORE_MM, spacing_mm=(1, 1, 1)):
    """Draw a ball, or a shell around a dark core, as a scan of such voxels would show it.

    Brightness at a distance r from the middle is 1 - N((r - R) / w) - (1 - N((r - r_n) / w_n)), N being the normal
    distribution; a voxel has the mean over its volume, so that thick slices show what they would.

    Parameters
    ----------
    radius_mm, core_mm : float
        The total radius R and that of the core r_n (0: none).
    width_mm, width_core_mm : float
        The widths w and w_n of the two edges, s.d. of the blur.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    float32 (slice, row, column) array
        Odd lengths, the lesion in the middle, 2 mm of tissue around.

    Examples
    --------
    >>> template = shell_template(2, spacing_mm=(3, 1, 1))
    >>> template.shape, round(float(template.max()), 1)
    ((5, 9, 9), 0.9)
    """
    if not 0 <= core_mm < radius_mm or min(width_mm, width_core_mm) <= 0:
        raise ModelError(f"radius_mm {radius_mm}, core_mm {core_mm}: give 0 <= core < radius, and widths above 0")
    half = [int(np.ceil((radius_mm + MARGIN_MM) / step - 1e-9)) for step in spacing_mm]
    within = (np.arange(FINE) + 0.5) / FINE - 0.5
    lines = [
        ((np.arange(-n, n + 1)[:, None] + within) * step).ravel() for n, step in zip(half, spacing_mm, strict=True)
    ]
    away = np.sqrt(lines[0][:, None, None] ** 2 + lines[1][:, None] ** 2 + lines[2] ** 2)
    bright = _inside(away, radius_mm, width_mm) - (_inside(away, core_mm, width_core_mm) if core_mm else 0)
    shape = [length for n in half for length in (2 * n + 1, FINE)]
    return bright.reshape(shape).mean((1, 3, 5)).astype(np.float32)


def correlate(image, template, *, workers=2):
    """Pearson correlation of a template with every box of its shape in a scan: float32, of the scan's shape.

    0 where the box is all alike or reaches beyond the scan. As `skimage.feature.match_template` with `pad_input`, in
    float32: the sums of products by one FFT, those over boxes by running sums.
    """
    return _Correlator(np.asarray(image, np.float32), workers)(np.asarray(template, np.float32))


def match_templates(image, mask=None, *, radii_mm=RADII_MM, spacing_mm=(1.0, 1.0, 1.0), workers=2):
    """The best correlation of any template at every voxel, and the radius of that template.

    Templates of 4 mm and more are matched at twice the voxel size, which changes their correlation by some hundredths
    and saves nine tenths of the time.

    Parameters
    ----------
    image : (slice, row, column) float array
    mask : (slice, row, column) bool array, optional
        What is outside the box around it is not computed.
    radii_mm : sequence of float
    spacing_mm : (slice, row, column) float
    workers : int
        Threads.

    Returns
    -------
    float32, float32 (slice, row, column) arrays
        Correlation (-1 to 1, 0 outside the mask's box) and radius_mm.
    """
    image = np.asarray(image, np.float32)
    box = _box(image.shape if mask is None else mask, max(radii_mm) + MARGIN_MM, spacing_mm)
    best, radius = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    part, at_best, at_radius = image[box], best[box], radius[box]
    for fine in (True, False):
        wanted = [r for r in radii_mm if (r < COARSE_FROM_MM) == fine]
        if wanted:
            found, sizes = _matched(part, tuple(wanted), tuple(spacing_mm), fine, workers)
            better = found > at_best
            at_best[better], at_radius[better] = found[better], sizes[better]
    return best, radius


def template_candidates(image, mask, spacing_mm=(1.0, 1.0, 1.0)):
    """Places where a template correlates by 0.5 or more, with their regions: see `measure_candidates`.

    `image` is normalised by its brain; score is the correlation.
    """
    best, radius = match_templates(image, mask, spacing_mm=spacing_mm)
    places = local_maxima(best, LEAST, mask, APART)
    at = tuple(places.T)
    table = pd.DataFrame(places, columns=PLACE).assign(radius_mm=radius[at], score=best[at])
    return measure_candidates(image, drop_inside(table, spacing_mm), spacing_mm)


METHODS["template"] = template_candidates


def _inside(away, radius, width):
    return 0.5 * (1 - erf((away - radius) / (np.sqrt(2) * width)))


@cache
def _templates(radii_mm, spacing_mm):
    """(template, radius) pairs, balls and shells."""
    pairs = [(radius, core * radius) for radius in radii_mm for core in (0.0, *CORES.get(radius, ()))]
    return tuple((shell_template(radius, core, spacing_mm=spacing_mm), radius) for radius, core in pairs)


def _box(mask, margin_mm, spacing_mm):
    """The box around a mask with a margin; all of a scan whose shape is given, or whose mask is empty."""
    if isinstance(mask, tuple) or not mask.any():
        return (slice(None),) * 3
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    margin = [int(np.ceil(margin_mm / step)) for step in spacing_mm]
    return tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(found, margin, strict=True))


def _matched(image, radii_mm, spacing_mm, fine, workers):
    """Best correlation and radius of some templates, on the image's own voxels or on twice as large ones."""
    steps = spacing_mm if fine else tuple(step if step >= 2 else 2 * step for step in spacing_mm)
    shape = tuple(round(n * a / b) for n, a, b in zip(image.shape, spacing_mm, steps, strict=True))
    own = image if fine else resample(image, spacing_mm, shape, steps)
    correlator = _Correlator(own, workers)
    best, radius = np.zeros(own.shape, np.float32), np.zeros(own.shape, np.float32)
    for template, size in _templates(radii_mm, steps):
        if all(a <= b for a, b in zip(template.shape, own.shape, strict=True)):
            found = correlator(template)
            better = found > best
            best[better], radius[better] = found[better], size
    if fine:
        return best, radius
    nearest = [np.clip(((np.arange(n) + 0.5) * a / b).astype(int), 0, m - 1)
               for n, m, a, b in zip(image.shape, shape, spacing_mm, steps, strict=True)]  # fmt: skip
    return resample(best, steps, image.shape, spacing_mm), radius[np.ix_(*nearest)]


class _Correlator:
    """An image ready for many templates: its transform, and the running sums of it and its square."""

    def __init__(self, image, workers):
        self.mean = float(image.mean())
        self.image, self.workers = image - self.mean, workers
        self.size = [fft.next_fast_len(n, real=True) for n in image.shape]
        self.transform = fft.rfftn(self.image, self.size, workers=workers)
        self.square = self.image**2
        self.sums = {}

    def __call__(self, template):
        shape = template.shape
        centred = (template - template.mean()).astype(np.float32)
        kernel = fft.rfftn(centred[::-1, ::-1, ::-1], self.size, workers=self.workers)
        product = fft.irfftn(self.transform * kernel, self.size, workers=self.workers)
        product = np.roll(product, [-(n // 2) for n in shape], (0, 1, 2))[tuple(map(slice, self.image.shape))]
        spread = self._spread(shape)
        found = np.divide(product, spread * np.sqrt((centred**2).sum()), out=np.zeros_like(product), where=spread > 0)
        return np.clip(found, -1, 1)

    def _spread(self, shape):
        """Root of the sum of squares about the mean in each box; 0 where it is flat or reaches beyond the scan."""
        if shape not in self.sums:
            count = float(np.prod(shape))
            mean, square = (ndimage.uniform_filter(part, shape, mode="constant") for part in (self.image, self.square))
            variance = square - mean**2
            variance[variance < FLAT**2] = 0
            for axis, length in enumerate(shape):
                for edge in (slice(length // 2), slice(variance.shape[axis] - length // 2, None)):
                    variance[(slice(None),) * axis + (edge,)] = 0
            self.sums = {shape: np.sqrt(variance * count)}  # of one shape only: they are as large as the scan
        return self.sums[shape]
