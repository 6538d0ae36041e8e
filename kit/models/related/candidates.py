"""Candidates: places that a method proposes, the bright regions around them, and the map painted with their scores."""

import json
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.special import expit

from kit.models.networks import ModelError
from kit.scans import brain_mask, brain_statistics, replacing

PLACE = ["slice", "row", "column"]
CANDIDATES = [*PLACE, "radius_mm", "score", "volume_mm3", "anisotropy", "compactness", "contrast"]
HALF = 0.5  # of the way from the surroundings to the brightest voxel of a candidate: what is brighter is its region
REACH = 1.6  # radii of a candidate in which its region lies; the surroundings are the shell from there to the next
SURROUNDINGS_MM = 3.0  # thickness of the shell that a candidate is compared with


@dataclass(frozen=True)
class CandidateDetector:
    """A method of two stages as a detector: it proposes candidates, criteria reject some, the rest are painted.

    `method` is a key of `kit.models.METHODS`. `criteria` are (column, "least" or "most", value) triples. A candidate
    that meets them all has the probability 1 / (1 + exp(-(offset + sum of weight * column))), `weights` being (column,
    weight) pairs: fitted with as much weight on all lesions as on all false candidates, which is also what the
    networks' probabilities are about (Platt 1999).
    """

    method: str
    criteria: tuple = ()
    weights: tuple = (("score", 1.0),)
    offset: float = 0.0

    def __call__(self, image, mask=None, *, spacing_mm=(1.0, 1.0, 1.0), **options):
        """Map a raw image, of 1 mm voxels, to a probability map: float32 (slice, row, column), 0 outside `mask`.

        Other options are those of networks (device, dtype), which nothing here depends on.
        """
        mask = brain_mask(image, spacing_mm) if mask is None else np.asarray(mask, bool)
        table, regions = propose(self.method, image, mask, spacing_mm=spacing_mm)
        return np.where(mask, paint(mask.shape, regions, self.probability(table)), 0).astype(np.float32)

    def probability(self, table):
        """The probability of every candidate of a table with the columns `CANDIDATES`; 0 for the rejected ones."""
        kept = np.ones(len(table), bool)
        for column, side, value in self.criteria:
            kept &= (table[column] >= value if side == "least" else table[column] <= value).to_numpy()
        logit = self.offset + sum(weight * table[column].to_numpy(float) for column, weight in self.weights)
        return np.where(kept, expit(logit), 0)

    def save(self, path):
        """Write the fitted numbers as JSON, whole or not at all."""
        with replacing(path) as part:
            part.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; ModelError where the file is no such record."""
        try:
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**facts | {name: tuple(map(tuple, facts[name])) for name in ("criteria", "weights")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path}: no fitted detector ({error}); fit it again, see kit.experiments.fit_method"
            ) from error


METHODS = {}  # word to function of (normalised image, mask, spacing_mm): `template_candidates`, `blob_candidates`


def propose(method, image, mask, *, spacing_mm=(1.0, 1.0, 1.0)):
    """Candidates of a method in a raw scan, normalised by its brain: a table and each one's voxels.

    Parameters
    ----------
    method : str
        A key of `METHODS`.
    image : (slice, row, column) array
    mask : (slice, row, column) bool array
        Where candidates lie.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    pandas.DataFrame, list of (voxel, 3) int arrays
        Columns `CANDIDATES` and the method's own.

    Raises
    ------
    ModelError
        For an unknown method.
    """
    if method not in METHODS:
        raise ModelError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    middle, unit = brain_statistics(image, spacing_mm)
    return METHODS[method](((np.asarray(image) - middle) / unit).astype(np.float32), mask, spacing_mm)


def measure_candidates(image, places, spacing_mm=(1.0, 1.0, 1.0)):
    """Find the bright region around each place and measure it.

    The region is what is connected to the place's brightest voxel, lies within 1.6 radii, and is brighter than half of
    the way from the median of a shell around to that voxel.

    Parameters
    ----------
    image : (slice, row, column) float array
    places : pandas.DataFrame
        slice, row, column (voxels), radius_mm, score.
    spacing_mm : (slice, row, column) float

    Returns
    -------
    pandas.DataFrame, list of (voxel, 3) int arrays
        The places with volume_mm3; anisotropy, the fractional anisotropy of the region's inertia tensor (0: as wide
        in all directions; 1: a line); compactness, 36 pi V^2 / A^3 (1: a ball), clipped to 1; contrast, the
        brightest voxel over its surroundings, in the image's unit. And the voxels of each region.
    """
    rows, regions = [], []
    for place in places.itertuples(index=False):
        at, radius = np.array([place.slice, place.row, place.column], int), place.radius_mm
        region, contrast = _region(image, at, radius, np.asarray(spacing_mm, float))
        regions.append(region)
        rows.append({**_shape(region, spacing_mm), "contrast": contrast})
    table = pd.DataFrame(rows, columns=["volume_mm3", "anisotropy", "compactness", "contrast"], dtype=float)
    return pd.concat([places.reset_index(drop=True), table], axis=1), regions


def paint(shape, regions, probability):
    """A map of regions, each with its probability; where they overlap, the higher one: float32 (slice, row, column).

    >>> paint((1, 1, 3), [np.array([[0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 2]])], [0.5, 0.25]).tolist()
    [[[0.5, 0.0, 0.25]]]
    """
    found = np.zeros(shape, np.float32)
    for voxels, value in zip(regions, probability, strict=True):
        at = tuple(np.asarray(voxels).T)
        found[at] = np.maximum(found[at], value)
    return found


def local_maxima(score, least, mask, apart):
    """Voxels that are the highest within `apart` voxels a side and at least `least`: (place, 3), the highest first."""
    top = (score >= least) & mask
    top &= score == ndimage.maximum_filter(score, 2 * apart + 1, mode="nearest")
    places = np.argwhere(top)
    return places[np.argsort(-score[tuple(places.T)], kind="stable")]


def drop_inside(places, spacing_mm):
    """Leave out the places whose middle lies within the radius of a stronger one; the strongest come first."""
    at = places[PLACE].to_numpy(float) * spacing_mm
    radius, kept = places.radius_mm.to_numpy(float), []
    for number, here in enumerate(at):
        if not kept or (np.linalg.norm(at[kept] - here, axis=1) > np.maximum(radius[kept], 1)).all():
            kept.append(number)
    return places.iloc[kept].reset_index(drop=True)


def _region(image, at, radius, spacing):
    """A candidate's voxels (voxel, 3), and its contrast."""
    outer = REACH * radius + SURROUNDINGS_MM
    reach = np.ceil(outer / spacing).astype(int)
    first = np.maximum(at - reach, 0)
    box = image[tuple(slice(a, b) for a, b in zip(first, at + reach + 1, strict=True))]
    away = np.sqrt(sum(
        ((line - middle) * step) ** 2
        for line, middle, step in zip(np.ogrid[tuple(map(slice, box.shape))], at - first, spacing, strict=True)
    ))  # fmt: skip
    inside, core = away <= REACH * radius, away <= max(radius, spacing.max())
    around = box[(away > REACH * radius) & (away <= outer)]
    low = float(np.median(around)) if around.size else float(box.min())
    top = np.unravel_index(np.argmax(np.where(core, box, -np.inf)), box.shape)
    bright = inside & (box >= low + HALF * (box[top] - low))
    names = cc3d.connected_components(bright, connectivity=6)
    region = names == names[top] if names[top] else np.zeros(box.shape, bool)
    region[top] = True
    return np.argwhere(ndimage.binary_fill_holes(region)) + first, float(box[top] - low)


def _shape(region, spacing_mm):
    spacing = np.asarray(spacing_mm, float)
    volume = len(region) * spacing.prod()
    spread = np.cov(region.T * spacing[:, None], bias=True) if len(region) > 1 else np.zeros((3, 3))
    moments = np.linalg.eigvalsh(spread + np.diag(spacing**2 / 12))  # a voxel is no point
    mean = moments.mean()
    anisotropy = np.sqrt(1.5 * ((moments - mean) ** 2).sum() / (moments**2).sum())
    return {"volume_mm3": volume, "anisotropy": anisotropy, "compactness": _compactness(region, spacing, volume)}


def _compactness(region, spacing, volume):
    """36 pi V^2 / A^3; faces of voxels overstate the area of a ball by about a half, which is taken off."""
    low = region.min(0)
    mask = np.zeros(region.max(0) - low + 3, bool)
    mask[tuple((region - low + 1).T)] = True
    faces = [np.count_nonzero(np.diff(mask, axis=axis)) * spacing.prod() / spacing[axis] for axis in range(3)]
    return float(min(36 * np.pi * volume**2 / (sum(faces) / 1.5) ** 3, 1.0))
