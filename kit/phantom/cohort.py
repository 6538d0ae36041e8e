"""Synthetic scans with known truth: heads from `kit.phantom.head`, lesions after the thesis, an acquisition.

A phantom scan is made from its manifest row alone: `source` names the patient's seed, `lesion_radii_mm` the lesions,
`growth` the factor on each radius at this session (0: not there yet), `spacing_mm` the voxel size along slice, row and
column ("5;0.9;0.9"; 1 mm by default). Made on first use, checked by a fingerprint.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from kit.phantom.acquisition import acquire, averaged
from kit.phantom.head.anatomy import draw_head
from kit.phantom.head.template import REGIONS
from kit.phantom.lesions import PhantomError, draw_lesions, implant, likely_places
from kit.phantom.lookalikes import with_lookalikes
from kit.scans import is_phantom, lesion_table, replacing

# Lesions per scan: the quantiles of this list, mean 2.7 (thesis, ch. 1).
LESIONS_PER_SCAN = (0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8)
# Radii in mm: log-normal, mean 4.7 (thesis: 5; the cut at 15 mm costs 0.3); 38 % of the lesions below 30^3 mm3 are
# smaller than 5^3 mm3 (thesis, ch. 5).
RADIUS_MEDIAN_MM, RADIUS_LOG_SD, RADIUS_RANGE_MM = 3.9, 0.72, (1.0, 15.0)
DEEP_MM = 15.0  # fluid below it is in ventricles, cisterns and large fissures, which lesions do not fill
NARROW = ("brain stem", "deep grey")  # no place for large lesions
SPLITS = (  # of each 12 patients, from those with the most lesions down
    *("train", "test", "train", "train", "validation", "train"),
    *("test", "train", "train", "validation", "test", "train"),
)


# ---------------------------------------------------------------------------------------------------------- cohorts


def plan_cohort(patients=24, seed=2015, folder="data/phantom", follow_ups=3):
    """Plan a cohort: a manifest table, one row a scan, without making a file.

    Lesion counts and radii are the quantiles of the thesis' distributions, dealt out at random, so that even a small
    cohort has them. Of 12 patients, 7 go to training, 2 to validation, 3 to test; counts are spread evenly over them.

    Parameters
    ----------
    patients : int
    seed : int
        Patient n has the seed 1000 * `seed` + n.
    folder : str
        Where the files will lie, relative to the manifest.
    follow_ups : int
        Patients with a second session, on which lesions have grown, shrunk, or are new.

    Returns
    -------
    pandas.DataFrame
        The manifest's columns, and `lesion_radii_mm`, `growth`.

    >>> plan_cohort().query("session == 1").split.value_counts().to_dict()
    {'train': 14, 'test': 6, 'validation': 4}
    """
    rng = np.random.default_rng(seed)
    counts = sorted((LESIONS_PER_SCAN[int(24 * (p + 0.5) / patients)] for p in range(patients)), reverse=True)
    radii = _radius_quantiles(sum(counts))
    rng.shuffle(radii)
    per_patient = np.split(radii, np.cumsum(counts)[:-1])
    order = rng.permutation(patients)  # so that P01 is not the patient with the most lesions
    followed = set(rng.permutation([p for p in range(patients) if counts[p]])[:follow_ups].tolist())
    rows = []
    for number, p in enumerate(order, start=1):
        for session in (1, 2) if p in followed else (1,):
            grown = rng.uniform(0.7, 1.3, counts[p]) if session == 2 else np.ones(counts[p])
            if p in followed and counts[p] > 1:
                grown[-1] = session - 1  # the last lesion is new at the follow-up
            rows.append(_manifest_row(number, session, SPLITS[p % 12], per_patient[p], grown, seed, folder))
    return pd.DataFrame(rows)


def _radius_quantiles(n):
    law = stats.lognorm(RADIUS_LOG_SD, scale=RADIUS_MEDIAN_MM)
    low, high = law.cdf(RADIUS_RANGE_MM)
    return law.ppf(low + (high - low) * (np.arange(n) + 0.5) / n)


def _manifest_row(number, session, split, radii, growth, seed, folder):
    name = f"P{number:02d}_{session}"
    return {
        "scan_id": name, "patient_id": f"P{number:02d}", "session": session,
        "image": f"{folder}/{name}_t1gd.nii.gz", "label": f"{folder}/{name}_label.nii.gz", "split": split,
        "source": f"phantom:{seed * 1000 + number}",
        "lesion_radii_mm": ";".join(f"{r:.2f}" for r in radii), "growth": ";".join(f"{g:.2f}" for g in growth),
    }  # fmt: skip


def make_missing(table, *, workers=None, progress=True):
    """Make the files of the phantom rows of a manifest that do not exist yet, in parallel.

    Parameters
    ----------
    table : pandas.DataFrame
        As read by `kit.scans.read_manifest`: absolute paths.
    workers : int, optional
        Processes; default one a core.

    Returns
    -------
    pandas.DataFrame
        The same table, so that a notebook can write ``table = make_missing(read_manifest(path))``.

    Raises
    ------
    PhantomError
        A scan that was made does not have the row's fingerprint: another version of the kit made the manifest.
    """
    rows = [row for row in table.to_dict("records") if is_phantom(row) and not _is_made(row)]
    if rows:
        workers = workers or min(len(rows), os.cpu_count() or 1)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            jobs = [pool.submit(make_scan, row) for row in rows]
            for job in tqdm(as_completed(jobs), "making phantom scans", len(jobs), disable=not progress):
                job.result()
    return table


def make_scan(row):
    """Make one phantom scan's two files, image and label, from its manifest row (a mapping).

    Returns
    -------
    str
        The scan's `fingerprint`.

    Raises
    ------
    PhantomError
        The row has another fingerprint; nothing is written.
    """
    seed = int(row["source"].split(":")[1])
    radii, growth = (_numbers(row.get(column, "")) for column in ("lesion_radii_mm", "growth"))
    spacing_mm = tuple(_numbers(row.get("spacing_mm", ""))) or (1.0, 1.0, 1.0)
    image, label = draw_scan(seed, radii, growth or None, int(row["session"]), spacing_mm)
    found = fingerprint(image, label)
    wanted = row.get("fingerprint", "")
    if isinstance(wanted, str) and wanted and not same_fingerprint(found, wanted):
        raise PhantomError(
            f"{row['image']}: the scan made from {row['source']} has the fingerprint {found!r}, the manifest says "
            f"{wanted!r}; take the manifest that came with this version of the kit, or clear its fingerprint column"
        )
    _write(label.astype(np.uint8), row["label"], spacing_mm)
    _write(image, row["image"], spacing_mm)  # last: an image that exists has its label
    return found


def _numbers(text):
    return [float(t) for t in str(text).split(";") if t.strip()]  # read_manifest gives "" for an empty field


def _is_made(row):
    return Path(row["image"]).exists() and Path(row["label"]).exists()


def _write(array, path, spacing_mm):
    # (slice, row, column) runs to superior, posterior, left; the file's axes are left, posterior, superior
    steps = np.array(spacing_mm, float)[::-1] * (-1, -1, 1)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = (
        np.array([128.0, 130.5, -75.5]) + steps / 2
    )  # the outer corner of the first voxel stays in its place
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.set_data_dtype(array.dtype)
    with replacing(path) as part:
        image.to_filename(part)


# ------------------------------------------------------------------------------------------------------ fingerprint


def fingerprint(image, label):
    """Describe a scan so that the same scan made elsewhere can be recognised: lesion voxels and octant means.

    `image` and `label` are (slice, row, column), the label bool; the result is a str.

    >>> label = np.zeros((4, 4, 4), bool); label[0, 0, :3] = True
    >>> fingerprint(np.full((4, 4, 4), 20), label)
    'lesions 3 | means 20 20 20 20 20 20 20 20'
    """
    sizes = sorted(lesion_table(label, (1, 1, 1)).voxels, reverse=True)
    halves = [(slice(0, n // 2), slice(n // 2, n)) for n in image.shape]
    means = [image[a, b, c].mean() for a in halves[0] for b in halves[1] for c in halves[2]]
    return f"lesions {' '.join(map(str, sizes))} | means {' '.join(f'{m:.0f}' for m in means)}"


def same_fingerprint(one, other):
    """Whether two fingerprints agree: lesions to 2 % or 2 voxels, means to 1 %: float arithmetic differs by machine."""
    one, other = ([[float(n) for n in re.findall(r"[\d.]+", part)] for part in f.split("|")] for f in (one, other))
    if [len(part) for part in one] != [len(part) for part in other]:
        return False
    return np.allclose(one[0], other[0], rtol=0.02, atol=2) and np.allclose(one[1], other[1], rtol=0.01, atol=1)


# ------------------------------------------------------------------------------------------------------------ scans


def draw_scan(seed, radii_mm, growth=None, session=1, spacing_mm=(1, 1, 1)):
    """Draw one phantom scan.

    Parameters
    ----------
    seed : int
        The patient: anatomy, and place, shape and contrast of every lesion.
    radii_mm : sequence of float
        One lesion each.
    growth : sequence of float, optional
        One factor a lesion, 0 for one that is not there yet; by default 1.
    session : int
        Noise, bias and receiver gain differ from session to session, the head's position does not.
    spacing_mm : (slice, row, column) float
        Voxel size of the scan: thick slices along any axis, such as (5, 0.9, 0.9) or (1, 1, 4).

    Returns
    -------
    image : (slice, row, column) int16 array
        (160, 256, 256) at 1 mm.
    label : bool array of the same shape

    Raises
    ------
    PhantomError
        The head has no room for the lesions.
    """
    head = draw_head(np.random.default_rng([seed, 0]))
    lesions = draw_lesions(
        radii_mm, likely_places(head), np.random.default_rng([seed, 1]),
        keep_out=~head.brain | (head.csf > 0.5) & (head.depth_mm > DEEP_MM),
        only_small=np.isin(head.region, [REGIONS[name] for name in NARROW]),
    )  # fmt: skip
    factors = np.ones(len(lesions)) if growth is None else growth
    grown = [replace(le, radius_mm=le.radius_mm * g) for le, g in zip(lesions, factors, strict=True) if g > 0]
    head = with_lookalikes(head, np.random.default_rng([seed, 3]), away_from=lesions)
    image, label = implant(head.image, grown, white_matter=1.0, tissue=head)
    blood = head.vessel
    del head  # a quarter of a gigabyte, before the next that needs as much
    image = acquire(image, np.random.default_rng([seed, 2, session]), spacing_mm=spacing_mm, blood=blood)
    return image, averaged(label.astype(np.float32), spacing_mm) >= 0.5
