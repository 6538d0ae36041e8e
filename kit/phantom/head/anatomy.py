"""A synthetic contrast-enhanced head without lesions, drawn around the MNI152 template.

Intensities are relative: white matter is 1.0, air 0. What never changes is drawn once in template space; a head is that
drawing warped, with its own vessels, membranes, thicknesses and intensities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kit.phantom.head.deformation import draw_warp, full
from kit.phantom.head.envelope import draw_envelope
from kit.phantom.head.template import BOX, BOX_SHAPE, REGIONS, SHAPE, pull_points, smooth_field, stacked, template
from kit.phantom.head.vessels import draw_vessels


@dataclass(frozen=True)
class Head:
    """One warped head. All arrays are (slice, row, column) of `SHAPE`; intensities relative to white matter = 1."""

    image: np.ndarray  # float32, noise-free, bias-free
    brain: np.ndarray  # bool
    white: np.ndarray  # float32 fractions of a voxel in [0, 1], 0 outside the cranial cavity
    grey: np.ndarray
    csf: np.ndarray
    region: np.ndarray  # uint8: the numbers of REGIONS, 0 elsewhere
    depth_mm: np.ndarray  # float32, below the inner table of the skull; negative outside of the cavity
    vessel: np.ndarray  # float32, contrast that vessels add


def draw_head(rng):
    """Draw one head without lesions: brain, fluid, membranes, vessels, skull, scalp and face.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    Head
    """
    maps = template()
    atrophy = float(rng.beta(0.7, 1.6))
    warp = draw_warp(maps, rng, atrophy)
    texture = 0.012 * full(_field(rng, 2)) + 0.02 * full(_field(rng, 10))
    image = draw_envelope(maps, warp, texture, rng)
    here = np.flatnonzero(warp.coarse["outside"] < 1)  # the brain is drawn at these voxels alone
    take = lambda volume: volume.ravel()[here]  # noqa: E731
    field = lambda scale: take(full(_field(rng, scale)))  # noqa: E731
    coarse = {name: take(volume) for name, volume in warp.coarse.items()}
    cavity = np.clip(0.5 - coarse["outside"], 0, 1)
    position = full(warp.brain).reshape(3, -1)[:, here]
    region = pull_points(maps.region, position, "nearest")[0].astype(np.uint8)
    white, grey, sheet = pull_points(maps.maps, position) * cavity
    vessel, blood = pull_points(stacked(draw_vessels(maps, rng)), position) * cavity
    _open_sulci(white, grey, cavity, rng.normal(0, 0.25) + 0.8 * atrophy)
    brain = _brain(white, grey, cavity, region, take(texture), coarse, atrophy, field, rng)
    _enhance(brain, sheet, coarse, region, white + grey, field, rng)
    brain += vessel + blood * (1 - brain)  # `vessel` adds to white matter
    image.ravel()[here] = np.maximum(brain + (1 - cavity) * (take(image) - brain), 0)
    parts = (cavity * (region > 0) > 0.5, white, grey, np.maximum(cavity - white - grey, 0), region)
    *parts, vessel = (_in_the_scan(_spread(part, here)) for part in (*parts, vessel))
    return Head(_in_the_scan(image), *parts, _in_the_scan(-warp.coarse["outside"], beyond=-60), vessel)


def _spread(values, here):
    whole = np.zeros(BOX_SHAPE, values.dtype)
    whole.ravel()[here] = values
    return whole


def _in_the_scan(part, beyond=0):
    whole = np.full(SHAPE, beyond, part.dtype)
    whole[BOX] = part
    return whole


def _field(rng, scale):
    """A smooth field at every second voxel; `scale` counts those."""
    return smooth_field(rng, tuple(n // 2 for n in BOX_SHAPE), scale)


def _open_sulci(white, grey, cavity, gain):
    """Fluid takes a part more (`gain` > 0) or less of the voxels that it has a part of; tissue gives way, in place."""
    tissue = np.maximum(white + grey, 1e-3)
    fluid = np.clip(cavity - tissue, 0, 1)
    left = np.clip(cavity - fluid * (1 + gain * (1 - fluid)), 0, 1) / tissue
    np.minimum(left, 1 / tissue, out=left)
    white *= left
    grey *= left


def _brain(white, grey, cavity, region, texture, coarse, atrophy, field, rng):
    """Intensities of tissue and fluid, drawn per patient and wider than one scanner gives them."""
    cortex = rng.uniform(0.62, 0.95)
    nuclei = cortex + (0.98 - cortex) * rng.uniform(0.3, 0.8)
    fluid = rng.uniform(0.12, 0.6) * cortex
    of_grey = np.array([cortex, cortex, cortex * rng.uniform(0.95, 1.08), 0.92, nuclei, cortex], np.float32)
    of_white = np.array([1, 1, rng.uniform(0.92, 1.02), rng.uniform(0.88, 0.99), 1, 1], np.float32)
    bright = of_white[region] + texture
    pale = rng.uniform(0, 0.25) * atrophy  # white matter that has lost myelin around the ventricles of the old
    bright -= pale * np.exp(np.minimum(-coarse["ventricle"], 0) / 5)
    bright -= 0.3 * atrophy * np.clip(field(4) - 1.6, 0, 1)
    return fluid * cavity + white * (bright - fluid) + grey * (of_grey[region] + texture - fluid)


def _enhance(image, sheet, coarse, region, tissue, field, rng):
    """Dura, falx, tentorium and choroid plexus take up contrast agent, in place."""
    patchy = field(5)
    dura = np.clip(rng.uniform(0.5, 1.2) + 0.25 * patchy, 0.3, 1.8)
    thick = rng.uniform(0.4, 1.0) * (1 + 0.3 * patchy)
    cover = np.clip(coarse["outside"] + thick + 0.5, 0, 1)
    np.maximum(cover, sheet * np.clip(1 + 0.3 * patchy, 0, 1), out=cover)
    image += cover * (dura - image) * (1 - tissue)
    curly = field(2)
    plexus = np.clip(coarse["plexus"] + rng.normal(-0.8, 0.6) + 1.8 * curly + 0.5, 0, 1)
    plexus *= (region == REGIONS["ventricles"]) * (1 - tissue)
    image += plexus * (rng.uniform(0.85, 1.4) * (1 + 0.15 * curly) - image)
