"""What a scan looks like, in figures that a phantom and a patient's scan can be compared by.

Works on any T1-weighted scan, with or without skull, in any intensities. Intensities are brought to a scale on which
the scan's minimum (air) is 0 and its white matter 1, coil sensitivity evened out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm.auto import tqdm

from kit.scans import (
    checked_spacing,
    components,
    fit_template,
    foreground,
    load_row,
    measure,
    normalise,
    resample,
)

INSIDE_MM = 6.0  # below the surface of the fitted brain: an affine fit leaves skull above it
LESION_MM = 6.0  # around lesions nothing counts as healthy
MAP_MM, MAP_BLUR_MM = 2.0, 3.0  # grid of the tissue maps, and the blur that stands for gyri in other places
TISSUE = 0.35, 1.4  # of the brain's median: grey and white matter lie between
DARK, BRIGHT = 0.05, 1.5  # of the same: what the classes are fitted to; beyond are air and bone, fat and vessels
EVEN_MM, THIN_MM = 24.0, 3.0  # s.d. of the blur that finds coil sensitivity; distance of the voxels it is found from
BONE_MM, CLOSE_MM, COARSE_MM = 3.0, 10.0, 2.0  # the brain: without bridges of less than 2 * 3 mm; fissures closed
RUN_MM = 48.0  # length of the runs whose power spectrum is taken
SLOPE_BAND = (0.06, 0.4)  # cycles per mm
SMALL_MM, SMALL_BRIGHT, SMALL_MM3 = 7.0, 1.25, 5.0  # vessels: thinner, brighter, and larger than noise
RING_MM = (2.0, 5.0)  # around a lesion: the tissue that it stands out from
RAY_MM, RAY_STEP_MM, RAYS = (-5.0, 7.0), 0.2, 300  # along a lesion's normals, and the most of them
CORE_DEPTH = 0.6  # of the deepest voxel's depth


@dataclass(frozen=True, eq=False)
class Tissue:
    """A scan on the scale air 0, white matter 1, and what of it is healthy brain; arrays (slice, row, column).

    `image` float32; `brain` bool, at least 6 mm below the brain's surface; `healthy` bool, the brain without lesions
    and 6 mm around them; `white` bool, healthy voxels of white matter; `spacing_mm`. `facts` are scalars: see
    `measure_scan`.
    """

    image: np.ndarray
    brain: np.ndarray
    healthy: np.ndarray
    white: np.ndarray
    spacing_mm: tuple
    facts: dict


# ----------------------------------------------------------------------------------------------------------- a scan


def see_tissue(image, label=None, spacing_mm=(1.0, 1.0, 1.0)) -> Tissue:
    """Find white matter, grey matter and fluid of a scan and bring it to the scale air 0, white matter 1.

    Three Gaussian classes are fitted to the brain's intensities by expectation-maximisation, with the tissue maps of
    the MNI152 template (Fonov et al. 2011, NeuroImage 54:313) as priors, in turn with a smooth gain (Ashburner and
    Friston 2005, NeuroImage 26:839).

    Parameters
    ----------
    image : (slice, row, column) array
        T1-weighted, any intensities.
    label : (slice, row, column) bool array, optional
        Lesions; what lies within 6 mm of one is left out.
    spacing_mm : (slice, row, column) float
    """
    spacing = tuple(checked_spacing(spacing_mm).tolist())
    image = np.asarray(image, np.float32)
    similarity, priors, brain = _priors(image, spacing)
    healthy = brain if label is None or not label.any() else brain & (_distance(label, spacing) > LESION_MM)
    scale, (means, sds) = _even_scale(image - image.min(), healthy, priors, spacing)
    seen = (image - image.min()) / scale
    white = healthy & (priors[2] > 0.7) & (np.abs(seen - 1) < 2.5 * sds[2])
    gain = np.log(scale[healthy])
    facts = {
        "fit": similarity, "brain_ml": float(brain.sum() * np.prod(spacing) / 1000),
        "csf": means[0], "grey": means[1], "csf_sd": sds[0], "grey_sd": sds[1], "white_sd": sds[2],
        "bias": float(gain.std()),
    }  # fmt: skip
    facts["white_seen"] = float(np.median(normalise(image)[white])) if white.any() else np.nan
    return Tissue(seen, brain, healthy, white, spacing, facts)


def measure_scan(tissue) -> dict:
    """Measure what of a scan is no lesion.

    Parameters
    ----------
    tissue : Tissue
        From `see_tissue`. The unit of intensity is the distance between air (0) and white matter (1).

    Returns
    -------
    dict of float

        - ``fit``: how well the template's brain fits; below 0.6 take the rest with care. ``brain_ml``: what is seen;
        - ``csf``, ``grey`` (white is 1), and the classes' ``csf_sd``, ``grey_sd``, ``white_sd``; partial volume counts:
          thick slices mix fluid with cortex and bring `csf` nearer to 1;
        - ``bias``: s.d. of the logarithm of coil sensitivity over the brain;
        - ``white_seen``: white matter as a network gets it, after `kit.scans.normalise`;
        - ``noise``: s.d., from in-plane second differences in white matter (Immerkaer 1996, CVIU 64:300); smaller
          than the scanner's where a scan has been resampled;
        - ``slope``, ``slope_through``: of the power spectrum within a slice and through slices, log over log, from
          0.06 to 0.4 cycles per mm;
        - ``vessels``: bright structures thinner than 7 mm a litre of brain, ``vessel_share``: their volume, per mille;
        - ``above_white``: share of the brain brighter than 99 % of white matter.
    """
    inside = spectrum(tissue)
    count, share = _vessels(tissue)
    above = 1 + 2.326 * tissue.facts["white_sd"]
    return tissue.facts | {
        "noise": noise(tissue.image, tissue.white),
        "slope": _slope(inside, "in_plane"),
        "slope_through": _slope(inside, "through_plane"),
        "vessels": count,
        "vessel_share": share,
        "above_white": float((tissue.image[tissue.healthy] > above).mean()) if tissue.healthy.any() else np.nan,
    }


def noise(image, where):
    """The noise's s.d. in an image (slice, row, column), from in-plane second differences at `where` (bool).

    >>> image = np.random.default_rng(0).normal(0, 2, (4, 40, 40))
    >>> round(noise(image, np.ones(image.shape, bool)))
    2
    """
    kernel = np.array([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])[None]
    differences = ndimage.convolve(np.asarray(image, np.float32), kernel, mode="mirror")[where]
    return float(np.median(np.abs(differences)) / 0.6745 / 6) if differences.size else np.nan


def spectrum(tissue) -> pd.DataFrame:
    """The power spectrum along the axes of a scan, from runs of 48 mm in healthy brain.

    Returns
    -------
    pandas.DataFrame
        `frequency` (cycles per mm), `in_plane` (mean of rows and columns) and `through_plane`: power density in mm,
        white matter being 1. NaN where no run fits in.
    """
    curves = [_line_spectrum(tissue.image, tissue.healthy, axis, tissue.spacing_mm[axis]) for axis in range(3)]
    frequency = np.arange(1, 25) / RUN_MM
    through, rows, columns = (np.interp(frequency, f, p, right=np.nan) for f, p in curves)
    return pd.DataFrame({"frequency": frequency, "in_plane": (rows + columns) / 2, "through_plane": through})


# ---------------------------------------------------------------------------------------------------------- lesions


def measure_lesions(tissue, label) -> pd.DataFrame:
    """Measure every lesion of a scan; what a ring encloses within a slice belongs to the lesion.

    Parameters
    ----------
    tissue : Tissue
    label : (slice, row, column) bool array

    Returns
    -------
    pandas.DataFrame
        Rows of `kit.scans.lesion_table`, and on the scale air 0, white matter 1:

        - ``rim``: 90th percentile; ``core``: mean around its deepest voxel; ``around``: median 2 to 5 mm outside;
        - ``contrast``: `rim` less `around`; ``contrast_sd``: in units of white matter's spread;
        - ``edge_mm``: median distance from 90 to 10 % of the way from the rim to the tissue around, along normals.
    """
    labels = components(_filled(np.asarray(label, bool)))
    table = measure(labels, tissue.spacing_mm)
    looks = [_look(tissue, labels, lesion) for lesion in table.itertuples()]
    looks = pd.DataFrame(looks, columns=["rim", "core", "around", "edge_mm"], index=table.index, dtype=float)
    table = table.join(looks).assign(contrast=looks.rim - looks.around)
    return table.assign(contrast_sd=table.contrast / tissue.facts["white_sd"])


def compare_scans(table, *, progress=True):
    """Measure every scan of a manifest table, one in memory at a time (some ten seconds a scan).

    Returns
    -------
    scans, lesions, spectra : pandas.DataFrame
        Rows of `measure_scan`, `measure_lesions` and `spectrum`, each with its `scan_id`.
    """
    scans, lesions, spectra = [], [], []
    for row in tqdm(table.to_dict("records"), "measuring scans", disable=not progress):
        scan = load_row(row)
        tissue, name = see_tissue(scan.image, scan.label, scan.spacing_mm), {"scan_id": row["scan_id"]}
        scans.append(name | measure_scan(tissue))
        spectra.append(spectrum(tissue).assign(**name))
        label = np.zeros(scan.image.shape, bool) if scan.label is None else scan.label
        lesions.append(measure_lesions(tissue, label).assign(**name))
    lesions = [part for part in lesions if len(part)] or lesions[:1]
    return pd.DataFrame(scans), pd.concat(lesions, ignore_index=True), pd.concat(spectra, ignore_index=True)


# -------------------------------------------------------------------------------------------------- tissue classes


@cache
def _tissue_maps():
    """The template at 2 mm: fluid, grey and white matter (3, slice, row, column) in [0, 1]; depth in its brain (mm)."""
    from nilearn import datasets  # heavy, and only needed here

    loaders = datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template
    files = (load(resolution=2).get_fdata(dtype=np.float32) for load in loaders)  # axes right, front, up
    t1, grey, white = (volume.transpose(2, 1, 0)[:, ::-1, ::-1] for volume in files)
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    maps = np.stack([(brain - grey - white).clip(0), grey * brain, white * brain])
    inside = (ndimage.distance_transform_edt(brain) - ndimage.distance_transform_edt(~brain)) * MAP_MM
    return np.stack([ndimage.gaussian_filter(one, MAP_BLUR_MM / MAP_MM) for one in maps]), inside.astype(np.float32)


def _priors(image, spacing):
    """The template's fit, priors of fluid, grey and white (3, slice, row, column), and the inner brain (bool)."""
    head = foreground(image)
    similarity, to_template = fit_template(image, head, spacing)
    maps, inside = _tissue_maps()
    steps = np.maximum(spacing, MAP_MM)
    coarse = [max(round(n * s / step), 1) for n, s, step in zip(image.shape, spacing, steps, strict=True)]
    matrix, shift = to_template[:, :3] * steps / MAP_MM, to_template[:, 3] / MAP_MM
    shift = shift + (np.array(inside.shape) - 1) / 2 - matrix @ ((np.array(coarse) - 1) / 2)
    bring = [
        ndimage.affine_transform(one, matrix, shift, tuple(coarse), order=1, mode="nearest") for one in (*maps, inside)
    ]
    *priors, depth = (resample(one, tuple(steps), image.shape, spacing) for one in bring)
    size = np.cbrt(np.linalg.det(to_template[:, :3]))
    priors = np.stack(priors) + np.float32(0.03)
    depth = np.where(head, depth / size, -np.inf)
    return similarity, priors / priors.sum(0), (depth > INSIDE_MM) & _within_tissue(image - image.min(), depth, spacing)


def _within_tissue(image, depth, spacing):
    """Voxels within the one large piece of brain tissue: where the template fits badly, skull and scalp fall away."""
    thin = tuple(slice(None, None, max(round(COARSE_MM / s), 1)) for s in spacing)
    steps = [s * part.step for s, part in zip(spacing, thin, strict=True)]
    few, few_depth = image[thin], depth[thin]
    middle = np.median(few[few_depth > INSIDE_MM])
    tissue = (few_depth > -INSIDE_MM) & (few > TISSUE[0] * middle) & (few < TISSUE[1] * middle)
    pieces, count = ndimage.label(ndimage.distance_transform_edt(tissue, sampling=steps) > BONE_MM)
    if not count:
        return np.ones(image.shape, bool)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    wide = _filled(ndimage.distance_transform_edt(~largest, sampling=steps) <= CLOSE_MM)
    within = ndimage.distance_transform_edt(wide, sampling=steps) > CLOSE_MM
    for axis, part in enumerate(thin):
        within = within.repeat(part.step, axis).take(range(image.shape[axis]), axis)
    return within


def _even_scale(image, healthy, priors, spacing, rounds=12):
    """White matter's intensity everywhere (its level times coil sensitivity), and means and s.d. of the classes.

    All is found on `few` voxels, 3 mm apart; only the gain is brought back to all of them.
    """
    thin = tuple(slice(None, None, max(round(THIN_MM / s), 1)) for s in spacing)
    few, few_healthy, few_priors = image[thin], healthy[thin], priors[(slice(None), *thin)]
    middle = np.median(few[few_healthy])
    sample = few_healthy & (few > DARK * middle) & (few < BRIGHT * middle)
    sigma = [EVEN_MM / (s * part.step) for s, part in zip(spacing, thin, strict=True)]
    gain = np.ones(few.shape, np.float32)
    for _ in range(rounds):
        even = few / gain
        means, sds = _mixture(even[sample], few_priors[:, sample])
        weight = few_healthy * (few_priors[2] + 0.02) * np.exp(-0.5 * ((even - means[2]) / sds[2]) ** 2)
        step = np.log(np.maximum(even / means[2], 0.2)) * weight
        total, mass = (ndimage.gaussian_filter(one.astype(np.float32), sigma) for one in (step, weight))
        gain *= np.exp(total / np.maximum(mass, 1e-5))
    means, sds = _mixture((few / gain)[sample], few_priors[:, sample])
    for axis, part in enumerate(thin):
        gain = _interpolated(gain, np.arange(image.shape[axis]) / part.step, axis)
    return gain * np.float32(means[2]), (means / means[2], sds / means[2])


def _mixture(values, priors, rounds=20):
    """Means and s.d. of three Gaussian classes with a prior for each value: (3,), (3,)."""
    weights = priors**4
    means = (weights * values).sum(1) / weights.sum(1)
    means[0] = np.percentile(values, 3)
    sds = np.full(3, np.subtract(*np.percentile(values, [98, 2])) / 6)
    for _ in range(rounds):
        share = priors / sds[:, None] * np.exp(-0.5 * ((values - means[:, None]) / sds[:, None]) ** 2) + 1e-12
        share /= share.sum(0)
        total = share.sum(1)
        means = (share * values).sum(1) / total
        sds = np.sqrt((share * (values - means[:, None]) ** 2).sum(1) / total) + 1e-6 * abs(means[2])
    return means, sds


def _interpolated(array, at, axis):
    """Values between the places of one axis, linearly."""
    low = np.minimum(at.astype(int), array.shape[axis] - 1)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    return array.take(low, axis) * (1 - share) + array.take(high, axis) * share


# --------------------------------------------------------------------------------------------------------- measures


def _line_spectrum(image, where, axis, spacing):
    """Frequencies (cycles per mm) and mean power of the runs along an axis that lie in `where`."""
    length = max(round(RUN_MM / spacing), 4)
    lines, inside = np.moveaxis(image, axis, 0), np.moveaxis(where, axis, 0)
    window = np.hanning(length + 2)[1:-1]
    power, runs = np.zeros(length // 2 + 1), 0
    for start in range(0, len(lines) - length + 1, max(length // 2, 1)):
        whole = inside[start : start + length].all(0)
        run = lines[start : start + length][:, whole]  # (length, runs)
        power += (np.abs(np.fft.rfft((run - run.mean(0)) * window[:, None], axis=0)) ** 2).sum(1) if run.size else 0
        runs += run.shape[1]
    return np.fft.rfftfreq(length, spacing), power * spacing / (window**2).sum() / (runs or np.nan)


def _slope(curve, column):
    band = curve[curve.frequency.between(*SLOPE_BAND) & curve[column].notna()]
    return float(np.polyfit(np.log(band.frequency), np.log(band[column]), 1)[0]) if len(band) > 2 else np.nan


def _vessels(tissue):
    """Bright thin structures: number a litre of brain, and volume in per mille of it."""
    size = [2 * round(SMALL_MM / s / 2) + 1 for s in tissue.spacing_mm]
    opened = ndimage.grey_opening(tissue.image, size)
    thin = tissue.healthy & (tissue.image > SMALL_BRIGHT) & (opened < (1 + SMALL_BRIGHT) / 2)
    volumes = measure(components(thin), tissue.spacing_mm).volume_mm3
    volumes, brain = volumes[volumes >= SMALL_MM3], max(tissue.healthy.sum() * np.prod(tissue.spacing_mm), 1)
    return float(len(volumes) / brain * 1e6), float(volumes.sum() / brain * 1000)


def _filled(label):
    return np.stack([ndimage.binary_fill_holes(plane) for plane in label])


def _distance(label, spacing):
    """Distance (mm) from the nearest voxel of a label."""
    return ndimage.distance_transform_edt(~label, sampling=spacing)


def _look(tissue, labels, lesion):
    """Rim, core, tissue around and edge width of one lesion."""
    pad = np.ceil((RAY_MM[1] + 1) / np.array(tissue.spacing_mm)).astype(int)
    box = tuple(slice(max(a - p, 0), b + p) for (a, b), p in zip(lesion.box, pad, strict=True))
    inside, image = labels[box] == lesion.component, tissue.image[box]
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=tissue.spacing_mm)[1:-1, 1:-1, 1:-1]
    outside = _distance(labels[box] > 0, tissue.spacing_mm)
    ring = (outside >= RING_MM[0]) & (outside <= RING_MM[1])
    around = float(np.median(image[ring])) if ring.any() else np.nan
    core = float(image[depth >= CORE_DEPTH * depth.max()].mean())
    edge = _edge_mm(image, inside, around, tissue.spacing_mm)
    return float(np.percentile(image[inside], 90)), core, around, edge


def _edge_mm(image, inside, around, spacing):
    """Median distance between 90 and 10 % of the step from a lesion's rim to the tissue around, along its normals."""
    spacing = np.array(spacing)
    soft = ndimage.gaussian_filter(inside.astype(np.float32), 1 / spacing)
    slopes = np.stack(np.gradient(soft, *spacing))  # (3, slice, row, column), inwards
    hull = np.argwhere(inside & ~ndimage.binary_erosion(inside))
    hull = hull[:: max(len(hull) // RAYS, 1)]
    normals = -slopes[(slice(None), *hull.T)]
    normals /= np.maximum(np.linalg.norm(normals, axis=0), 1e-9)  # (3, ray)
    steps = np.arange(RAY_MM[0], RAY_MM[1] + RAY_STEP_MM, RAY_STEP_MM)
    places = hull.T[:, :, None] + normals[:, :, None] * steps / spacing[:, None, None]
    profiles = ndimage.map_coordinates(image, places, order=3, mode="nearest")  # (ray, step)
    widths = [_fall_mm(profile, around) for profile in profiles]
    widths = [width for width in widths if width is not None]
    return float(np.median(widths)) if widths else np.nan


def _fall_mm(profile, around):
    """Distance from 90 to 10 % of the way from a ray's peak near the surface down to `around`; None without a fall."""
    near = int((2 - RAY_MM[0]) / RAY_STEP_MM)
    peak = int(np.argmax(profile[:near]))
    share = (profile[peak:] - around) / (profile[peak] - around) if profile[peak] > around else np.ones(1)
    if not (share < 0.1).any():
        return None
    first = [int(np.argmax(share < level)) for level in (0.9, 0.1)]
    high, low = (
        k - (level - share[k]) / max(share[k - 1] - share[k], 1e-9) for k, level in zip(first, (0.9, 0.1), strict=True)
    )
    return (low - high) * RAY_STEP_MM
