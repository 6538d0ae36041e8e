"""Other scanners and preparations, drawn anew for every crop and patch: no scanner's grey values are learnt.

In the order in which they come about in a scanner and after it:

    place       mirrored left to right, voxels larger or smaller          (columns of a draw: its labels move along)
    sharpness   slices that were thick and interpolated, in-plane blur
    signal      bias, receiver noise
    contrast    a power of the signal, its distance from the brain's stretched and shifted
    skull       taken off along a border that errs by some mm

Signal is relative: 0 in air, 1 in the brain, see `kit.scans.brain_statistics`. Everything is drawn from numbers that
stand in the rows of a draw, so that the same rows give the same crops.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from kit.samplers.entries import SamplerError
from kit.scans import BRAIN_UNIT, nearest

TAPS = 2  # of a blur's kernel to either side: two s.d. of the widest
BIAS_MM = 60.0  # from a crop's middle to where its bias reaches the drawn strength
TAKEN_OFF = -1 / BRAIN_UNIT  # of what is taken off with the skull, after normalisation: air
BRIGHTEST = 6.0  # a power would blow up what is brighter: vessels and fat


@dataclass(frozen=True)
class Augmentation:
    """Shares of the crops that an effect changes, and the ranges that its strength is drawn from, uniformly.

    Where a range is one number, it reaches from its negative to it.
    """

    mirrored: float = 0.5
    zoom: float = 0.1  # in-plane voxel size, relative
    thick: float = 0.25
    thick_mm: tuple = (2.0, 6.0)
    blurred: float = 0.35
    blur_mm: tuple = (0.4, 1.0)  # s.d.
    bias: float = 0.15  # slope, and half as much curvature, BIAS_MM away
    noisy: float = 0.5
    noise: tuple = (0.01, 0.07)  # s.d. in relative signal; of every second one neighbouring voxels correlate
    power: float = 0.3  # its logarithm
    contrast: float = 0.25  # its logarithm
    offset: float = 0.08  # in relative signal
    stripped: float = 0.4
    strip_mm: tuple = (-1.0, 4.0)  # the border, from the brain's surface


AUGMENTATIONS = {"none": None, "scanner": Augmentation()}


class Looks(NamedTuple):
    """What was drawn for N crops: float32 (N,) each, bias (N, axis, slope and curvature); a seed for the noise."""

    thick_mm: np.ndarray  # 1: as they are
    phase: np.ndarray  # where the thick slices begin, in 0..1 of one
    blur_mm: np.ndarray  # 0: none
    bias: np.ndarray
    noise: np.ndarray
    grain_mm: np.ndarray  # s.d. of the blur of the noise, 0: white
    power: np.ndarray
    contrast: np.ndarray
    offset: np.ndarray
    strip_mm: np.ndarray  # infinite: the skull stays
    seed: int


def augmentation_of(augment, cohort=None):
    """The `Augmentation` of a name in `AUGMENTATIONS` (None for "none"), or itself.

    SamplerError for another name, or where a cohort is given that was not prepared for it.
    """
    if not isinstance(augment, Augmentation) and augment not in AUGMENTATIONS:
        raise SamplerError(
            f"augment is {augment!r}{nearest(augment, AUGMENTATIONS)}; choose one of {', '.join(AUGMENTATIONS)}"
        )
    found = augment if isinstance(augment, Augmentation) else AUGMENTATIONS[augment]
    if found is not None and not (cohort is None or _is_prepared(cohort)):
        raise SamplerError(
            f"augment is {augment!r}, which changes a scan in units of its brain's signal and takes its skull off: "
            "prepare scans with intensities='brain' and the same augment, or choose augment='none'"
        )
    return found


def _is_prepared(cohort):
    return cohort.statistics == "brain" and all(scan.beyond is not None for scan in cohort.scans)


def with_looks(table, augment, seed):
    """Add to the rows of a draw how each is placed, and the number that the rest is drawn from.

    Columns `mirror` (1 or -1), `zoom` (voxels of the scan from one voxel of the crop to the next) and `look` (int).
    With "none" the table is returned as it is.
    """
    augmentation = augmentation_of(augment)
    if augmentation is None:
        return table
    rng, count = np.random.default_rng(seed), len(table)
    mirror = np.where(rng.random(count) < augmentation.mirrored, -1, 1)
    zoom = 1 + rng.uniform(-augmentation.zoom, augmentation.zoom, count)
    look = rng.integers(2**32, size=count)
    return table.assign(mirror=mirror.astype(np.float32), zoom=zoom.astype(np.float32), look=look)


def draw_looks(augmentation, seeds):
    """What `Looks` crops get, one a seed: of the same seeds in the same order the same.

    >>> one, other = (draw_looks(AUGMENTATIONS["scanner"], [3, 1, 4]) for _ in range(2))
    >>> (one.power == other.power).all(), one.bias.shape
    (np.True_, (3, 3, 2))
    """
    rng, count = np.random.default_rng(np.asarray(seeds)), len(seeds)

    def some(share, bounds, otherwise):
        """Of a share of the crops a number within bounds."""
        return np.where(rng.random(count) < share, rng.uniform(*bounds, count), otherwise).astype(np.float32)

    def around(reach, shape=count):
        return rng.uniform(-reach, reach, shape).astype(np.float32)

    return Looks(
        thick_mm=some(augmentation.thick, augmentation.thick_mm, 1),
        phase=rng.random(count).astype(np.float32),
        blur_mm=some(augmentation.blurred, augmentation.blur_mm, 0),
        bias=around(augmentation.bias, (count, 3, 2)) * np.float32([1, 0.5]),
        noise=some(augmentation.noisy, augmentation.noise, 0),
        grain_mm=some(0.5, (0.5, 1.0), 0),
        power=np.exp(around(augmentation.power)),
        contrast=np.exp(around(augmentation.contrast)),
        offset=around(augmentation.offset),
        strip_mm=some(augmentation.stripped, augmentation.strip_mm, np.inf),
        seed=int(rng.integers(2**31)),
    )


def vary(crops, looks, beyond):
    """Give crops their looks.

    Parameters
    ----------
    crops : (N, slice, row, column) float32 tensor
        Normalised by the brain. Their values are lost.
    looks : Looks
    beyond : callable
        From an array of numbers of crops to how far (mm) their voxels lie outside the brain, as a tensor, see
        `kit.samplers.brain.beyond_brain`; asked of those whose skull is taken off.

    Returns
    -------
    torch.Tensor
        As `crops`. What is taken off is `TAKEN_OFF`; a crop whose middle lies outside the brain keeps its skull, for
        nothing would be left to see.
    """
    signal = crops.mul_(BRAIN_UNIT).add_(1)
    signal = _some(
        signal, looks.thick_mm > 1, lambda part, some: _thicken(part, looks.thick_mm[some], looks.phase[some])
    )
    signal = _some(signal, looks.blur_mm > 0, lambda part, some: _blur(part, looks.blur_mm[some]))
    signal = _bias(signal, looks.bias)
    signal = _some(signal, looks.noise > 0, lambda part, some: _noise(part, looks, some))
    signal = signal.clamp_(0, BRIGHTEST).pow_(_column(looks.power, signal))
    contrast, offset = _column(looks.contrast, signal), _column(looks.offset, signal)
    signal = signal.sub_(1).mul_(contrast).add_(offset).div_(BRAIN_UNIT)
    stripped = np.isfinite(looks.strip_mm)
    return _some(signal, stripped, lambda part, some: _strip(part, beyond(some), looks.strip_mm[some]))


def _strip(crops, beyond, strip_mm):
    """Set to air what lies further outside the brain than each crop's border, if its middle does not."""
    border = _column(strip_mm, crops)
    middle = tuple(n // 2 for n in crops.shape[1:])
    border = torch.where(beyond[(slice(None), *middle)].view(-1, 1, 1, 1) <= border, border, torch.inf)
    return crops.masked_fill_(beyond > border, TAKEN_OFF)


def _some(signal, which, change):
    """Change some of the crops: `change(part, some)` gets them and their numbers."""
    some = np.flatnonzero(which)
    if len(some):
        at = torch.from_numpy(some).to(signal.device)
        signal[at] = change(signal[at], some)
    return signal


def _column(values, signal):
    """One number a crop, to be multiplied with its voxels."""
    return torch.from_numpy(np.asarray(values, np.float32)).to(signal.device).view(-1, 1, 1, 1)


def _thicken(signal, thick_mm, phase):
    """Slices as interpolated from thick ones, means over their thickness; the crop's last slices go on for ever."""
    depth = signal.shape[1]
    weights = torch.from_numpy(_thick_weights(depth, thick_mm, phase)).to(signal.device)  # (N, slice, of slices)
    found = torch.zeros_like(signal)
    for k in range(depth):
        for j in range(depth):
            found[:, k].addcmul_(signal[:, j], weights[:, k, j, None, None])
    return found


def _thick_weights(depth, thick_mm, phase):
    """What each slice takes of each: float32 (N, slice, slice), rows add up to 1.

    >>> _thick_weights(3, np.float32([3]), np.float32([0]))[0].astype(float)  # a thick slice covers them
    array([[0.56, 0.22, 0.22],
           [0.33, 0.33, 0.33],
           [0.22, 0.22, 0.56]])
    """
    reach = 2 * int(np.ceil(thick_mm.max())) + depth
    fine, kept = np.arange(-reach, depth + reach), np.arange(depth)
    thick = thick_mm[:, None].astype(float)
    centres = depth // 2 + thick * (np.arange(-reach, reach + 1) + phase[:, None])  # (N, thick slice)
    near = np.clip(1 - abs(kept[:, None] - centres[:, None]) / thick[:, None], 0, None)  # (N, slice, thick slice)
    ends = (
        np.minimum(fine + 0.5, centres[..., None] + thick[..., None] / 2),
        np.maximum(fine - 0.5, centres[..., None] - thick[..., None] / 2),
    )
    mean = np.clip(ends[0] - ends[1], 0, None) / thick[..., None]  # (N, thick slice, fine slice)
    fold = (fine.clip(0, depth - 1)[:, None] == kept).astype(float)  # (fine slice, slice)
    weights = np.einsum("nkt,ntf,fj->nkj", near, mean, fold)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def _blur(signal, sd):
    """In-plane Gaussian of the s.d. of each crop, in voxels; the borders go on for ever."""
    taps = [_column(tap, signal) for tap in _gaussian(sd)[TAPS:]]  # from the middle outwards
    for axis in (-2, -1):
        size = signal.shape[axis]
        at = torch.arange(-TAPS, size + TAPS, device=signal.device).clamp_(0, size - 1)
        padded = signal.index_select(axis, at)
        signal = signal * taps[0]
        for k, tap in enumerate(taps[1:], 1):
            signal.addcmul_(padded.narrow(axis, TAPS - k, size) + padded.narrow(axis, TAPS + k, size), tap)
    return signal


def _gaussian(sd):
    """Taps of each crop's kernel: (tap, N), adding up to 1; sd 0 is the crop itself."""
    at = np.arange(-TAPS, TAPS + 1)[:, None]
    taps = np.exp(-0.5 * (at / np.maximum(sd, 1e-3)) ** 2)
    return taps / taps.sum(0)


def _bias(signal, bias):
    """Multiply by a smooth field whose logarithm is, along each axis, a slope and a curvature."""
    for axis in (1, 2, 3):
        size = signal.shape[axis]
        way = (np.arange(size) - size // 2) / BIAS_MM  # (voxel,)
        slope, curvature = bias[:, axis - 1, :, None].swapaxes(0, 1)  # (N, 1) each
        field = torch.from_numpy(np.exp(slope * way + curvature * way**2).astype(np.float32)).to(signal.device)
        signal = signal.mul_(field.view([size if a == axis else -1 if a == 0 else 1 for a in range(4)]))
    return signal


def _noise(signal, looks, some):
    """Add noise, and take the magnitude, as a scanner does: air stays positive."""
    made = torch.Generator(signal.device).manual_seed(looks.seed)
    noise = torch.randn(signal.shape, generator=made, device=signal.device)
    grain, sd = looks.grain_mm[some], looks.noise[some]
    noise = _some(noise, grain > 0, lambda part, rough: _blur(part, grain[rough]))
    return signal.add_(noise.mul_(_column(sd / (_gaussian(grain) ** 2).sum(0), signal))).abs_()
