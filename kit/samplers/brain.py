"""Where the brain ends in a scan with skull, so that samplers can take the skull off as a skull-stripper would."""

import numpy as np
from scipy.ndimage import binary_dilation, binary_fill_holes, distance_transform_edt

from kit.scans import BRAIN_UNIT, brain_mask, components, foreground, resample

COARSE_MM = 2.0  # voxels on which the surface is found
TISSUE = 0.45  # of the way from air to brain: what is brighter is neither fluid nor skull
BRIDGE_MM, GAP_MM = 4.0, 6.0  # half the width of what is cut (dura, veins) and of what is closed (sulci)
SAFE = 2  # voxels around a lesion that count as deep in the brain: a label never stands on nothing


def beyond_brain(image, statistics, spacing_mm=(1.0, 1.0, 1.0), label=None):
    """How far voxels lie outside the brain, in mm: int8 (slice, row, column), negative inside and around lesions.

    The brain is the largest piece of bright tissue in `kit.scans.brain_mask` that holds together without thin
    bridges, sulci closed. Its surface errs by some mm, as that of any skull-stripper. Where there is no skull to take
    off, because the brain has none or is not found, all of the head is inside.

    Parameters
    ----------
    image : (slice, row, column) array
    statistics : (brain, unit)
        Of `kit.scans.brain_statistics`.
    spacing_mm : (slice, row, column) float
    label : bool array of the image's shape, optional
        Lesion.
    """
    brain, unit = statistics
    head, region = foreground(image), brain_mask(image, spacing_mm)
    bright = image > brain - (1 - TISSUE) * unit / BRAIN_UNIT
    shape = [max(round(n * s / COARSE_MM), 1) for n, s in zip(image.shape, spacing_mm, strict=True)]
    steps = (COARSE_MM,) * 3
    region_, bright_ = (resample(m.astype(np.float32), spacing_mm, shape, steps) > 0.5 for m in (region, bright))
    solid = region_ if np.array_equal(head, region) else _brain_piece(bright_ & region_)
    beyond = resample(_mm(~solid) - _mm(solid), steps, image.shape, spacing_mm)
    beyond = beyond.round().clip(-100, 100).astype(np.int8)
    if label is not None:
        beyond[binary_dilation(label, iterations=SAFE)] = -100
    return beyond


def _brain_piece(tissue):
    """The largest piece of tissue without thin bridges, its gaps closed and holes filled."""
    pieces = components(_mm(np.pad(tissue, 1))[1:-1, 1:-1, 1:-1] > BRIDGE_MM)
    sizes = np.bincount(pieces.ravel(), minlength=2)
    core = pieces == 1 + np.argmax(sizes[1:])
    around = round(GAP_MM / COARSE_MM) + 1
    brain = np.pad(_mm(~core) <= BRIDGE_MM + COARSE_MM / 2, around)
    closed = _mm(_mm(~brain) <= GAP_MM) > GAP_MM
    inside = (slice(around, -around),) * 3
    return binary_fill_holes(closed[inside])


def _mm(mask):
    """How deep in a mask on coarse voxels each of them lies."""
    return distance_transform_edt(mask, (COARSE_MM,) * 3).astype(np.float32)
