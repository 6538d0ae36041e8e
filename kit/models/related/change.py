r"""Change between two sessions of a patient, voxel by voxel, in the manner of Chitphakdithai.

The earlier session x lies over the later one y (rigid registration) and has its intensities (a line through the joint
histogram). Let d = y - x. Each voxel has a label l: unchanged (0), growth (1: brighter) or necrosis (2: darker).

    likelihood   d | 0 ~ N(0, s0^2)     d | 1 ~ N(+m, s1^2)     d | 2 ~ N(-m, s1^2)
    prior        p(l) = exp(log share(l) + beta * number of the 6 neighbours with label l) / Z      (Potts)
    posterior    q(l) ~ share(l) * exp(beta * sum over neighbours of q_neighbour(l)) * p(d | l)     (mean field)

    EM           s0^2, m, s1^2 and the shares are estimated from q and q from them, in turn

The published densities are not public. From the paper come the three labels, Gaussian likelihoods of the difference and
a label prior that is smoothed. Ours are: the estimate of s0 from the median absolute difference, the symmetric means of
growth and necrosis, the neighbours' weight beta, mean field in place of the paper's inference, the line that matches
intensities, and that the difference is blurred a little before, because registration errs by half a voxel at edges.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.models.networks import ModelError
from kit.scans import Scan, brain_mask, brain_statistics, load_row, register

CHANGES = ("unchanged", "growth", "necrosis")
SHARES = (0.98, 0.01, 0.01)
BETA = 0.6
BLUR_MM = 0.8
ROUNDS, SWEEPS = 4, 3  # of EM, and of mean field within each
EDGE = 0.35  # what a voxel's s0 grows by for each unit of intensity its neighbours differ by: half a voxel of error
LEAST_MEAN, LEAST_SD = (
    4.0,
    1.5,
)  # of growth and necrosis, in units of s0: what is smaller is no change that one could see


@dataclass(frozen=True)
class ChangeDetector:
    """The posterior probability of growth as a probability map of new and growing lesions.

    `earlier` is the earlier session, a `kit.scans.Scan`, or None: what has no session before it cannot be mapped.
    `scan` is the later one, whose affine says where its voxels lie. `beta` and `blur_mm` go to `change_posterior`.
    What is darker now than `brightness`, in units of the brain's, is no lesion.
    """

    scan: Scan | None = None
    earlier: Scan | None = None
    beta: float = BETA
    blur_mm: float = BLUR_MM
    brightness: float = 0.0

    def __call__(self, image, mask=None, *, spacing_mm=None, registration=None, **options):
        """Map what has grown since the earlier session.

        Parameters
        ----------
        image : (slice, row, column) array
            The later session, as `scan.image`.
        mask : (slice, row, column) bool array, optional
            Where lesions are looked for, by default `kit.scans.brain_mask`.
        spacing_mm : (slice, row, column) float, optional
            By default that of `scan`.
        registration : kit.scans.Registration, optional
            Found before; by default the two are registered here, which needs SimpleITK.
        options
            Of networks (device, dtype); nothing here depends on them.

        Returns
        -------
        float32 (slice, row, column) array

        Raises
        ------
        ModelError
            Without two sessions.
        """
        if self.scan is None or self.earlier is None:
            raise ModelError("change needs two sessions: give scan, the later one, and earlier, the one before")
        spacing_mm = spacing_mm or self.scan.spacing_mm
        mask = brain_mask(image, spacing_mm) if mask is None else np.asarray(mask, bool)
        registration = registration or register(self.scan, self.earlier, mask=mask)
        before = registration.resample(self.earlier, self.scan).image
        growth = change_posterior(image, before, mask, beta=self.beta, blur_mm=self.blur_mm, spacing_mm=spacing_mm)[1]
        middle, unit = brain_statistics(image, spacing_mm)
        return np.where(image > middle + self.brightness * unit, growth, 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FollowUps:
    """`ChangeDetector` for `kit.metrics.score`: of each scan it looks up the session before in a manifest's table.

    `moved`, from a scan and its row to a scan, is applied to the earlier session: sessions of the synthetic cohort lie
    in one position, where there is nothing to register. `options` go to `ChangeDetector`.
    """

    table: pd.DataFrame
    moved: Callable = lambda scan, row: scan
    options: dict = field(default_factory=dict)

    def for_scan(self, scan, row):
        """The detector of one scan: from (image, mask) to a map."""
        before = self.earlier_row(row)
        return ChangeDetector(scan, self.moved(load_row(before), before), **self.options)

    def earlier_row(self, row):
        """The row of the last session before: a dict; ModelError where there is none."""
        mine = self.table[(self.table.patient_id == row["patient_id"]) & (self.table.session < row["session"])]
        if not len(mine):
            raise ModelError(f"{row['scan_id']} has no earlier session; take rows whose patient was scanned before")
        return mine.sort_values("session").iloc[-1].to_dict()


def match_intensities(moving, fixed, mask):
    """Bring the intensities of one session to those of another: the line through what most voxels have in common.

    Least squares over the voxels in the mask, three times, each without the fifth of them that the line before fits
    worst: what has changed shall not bend it.

    Parameters
    ----------
    moving, fixed : (slice, row, column) arrays
    mask : (slice, row, column) bool array

    Returns
    -------
    float32 (slice, row, column) array
        `moving` on the scale of `fixed`.
    """
    x, y = (np.asarray(part)[mask].astype(float) for part in (moving, fixed))
    if len(x) < 2 or x.std() == 0:
        return np.asarray(moving, np.float32)
    kept = np.ones(len(x), bool)
    for _ in range(3):
        slope, offset = np.polyfit(x[kept], y[kept], 1)
        off = np.abs(y - slope * x - offset)
        kept = off <= np.quantile(off, 0.8)
    return (slope * np.asarray(moving) + offset).astype(np.float32)


def change_posterior(later, earlier, mask, *, beta=BETA, blur_mm=BLUR_MM, spacing_mm=(1.0, 1.0, 1.0)):
    """Posterior probability of unchanged, growth and necrosis: (3, slice, row, column) float32; see the module.

    Parameters
    ----------
    later, earlier : (slice, row, column) arrays
        Two sessions on one grid; intensities are matched here.
    mask : (slice, row, column) bool array
        Where they are compared; outside, unchanged is 1.
    beta : float
        What each neighbour's label counts in the prior.
    blur_mm : float
    spacing_mm : (slice, row, column) float

    Returns
    -------
    float32 array
        In the order of `CHANGES`; adds up to 1 at every voxel.
    """
    q = np.zeros((3, *mask.shape), np.float32)
    q[0] = 1
    if not mask.any():
        return q
    blur = blur_mm / np.asarray(spacing_mm, float)
    one, other = (ndimage.gaussian_filter(np.asarray(part, np.float32), blur) for part in (later, earlier))
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    one, other, mask = one[box], other[box], mask[box]
    difference = one - match_intensities(other, one, mask)
    noise = 1.4826 * float(np.median(np.abs(difference[mask]))) + 1e-6 * float(np.ptp(one)) + 1e-12
    edges = np.sqrt(sum(np.gradient(one, axis=axis) ** 2 for axis in range(3)))
    d = difference / np.sqrt(noise**2 + (EDGE * edges) ** 2)  # in units of what is to be expected there
    q[(slice(None), *box)] = _expectation_maximisation(d, mask, beta)
    return q


def _expectation_maximisation(d, mask, beta):
    """q(l) from normalised differences, see the module; 1 for unchanged outside the mask."""
    mean, sds, shares = 2 * LEAST_MEAN, np.array([1.0, 3.0]), np.array(SHARES)
    inside = mask.astype(np.float32)
    q = np.stack([np.ones(d.shape), np.zeros(d.shape), np.zeros(d.shape)]).astype(np.float32)
    for _ in range(ROUNDS):
        logs = [_log_density(d, centre, sd) for centre, sd in zip((0, mean, -mean), sds[[0, 1, 1]], strict=True)]
        for label, share in enumerate(shares):
            logs[label] += np.log(share)
        for _ in range(SWEEPS):
            total = np.stack([log + beta * _neighbours(part) for log, part in zip(logs, q, strict=True)])
            total -= total.max(0)
            np.exp(total, out=total)
            total /= total.sum(0)
            q = np.where(mask, total, np.array([1, 0, 0], np.float32)[:, None, None, None]).astype(np.float32)
        weight = q * inside
        sums = weight.sum((1, 2, 3), dtype=float)
        shares = np.clip(sums / sums.sum(), 1e-4, None)
        shares /= shares.sum()
        changed = sums[1] + sums[2]
        if changed > 1:
            mean = max(float((weight[1] * d - weight[2] * d).sum() / changed), LEAST_MEAN)
            spread = float((weight[1] * (d - mean) ** 2 + weight[2] * (d + mean) ** 2).sum() / changed)
            sds[1] = max(np.sqrt(spread), LEAST_SD)
        sds[0] = max(np.sqrt(float((weight[0] * d**2).sum() / max(sums[0], 1))), 0.5)
    return q


def _log_density(d, mean, sd):
    return -0.5 * ((d - mean) / sd) ** 2 - np.log(sd)


def _neighbours(part):
    """The sum over the 6 face neighbours; beyond the scan lies the voxel itself."""
    padded = np.pad(part, 1, mode="edge")
    inner = [slice(1, -1)] * 3
    total = np.zeros_like(part)
    for axis in range(3):
        for side in (slice(None, -2), slice(2, None)):
            total += padded[tuple(side if a == axis else s for a, s in enumerate(inner))]
    return total
