"""A patient's sessions laid over the first, kept on disk, and the lesions that a follow-up's label has lost.

The thesis leaves follow-ups out because lesions known from before were often not labelled again. The list says which.
"""

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from tqdm.auto import tqdm

from kit.scans.files import QUIET, ScanError
from kit.scans.head import brain_mask
from kit.scans.lesions import components, lesion_table
from kit.scans.registration import Registration, register, resampled, simpleitk
from kit.scans.volume import load_row

SHELL_MM = 3.0  # around a lesion: what its brightness is compared with
QUALITY = ("angle_deg", "similarity", "similarity_before", "mutual_information", "overlap")
PAIR = ("patient_id", "fixed", "moving", "session", *QUALITY, "record", "problem")
MISSING = ("patient_id", "earlier", "follow_up", "lesion", "volume_mm3", "centre", "brightness")


class Job(NamedTuple):
    """Two rows of a manifest, as mappings, and where and how they are registered."""

    fixed: dict
    moving: dict
    folder: Path
    spacing_mm: float
    seed: int


def register_sessions(table, folder, *, workers=1, spacing_mm=1.0, seed=2015) -> pd.DataFrame:
    """Lay every later session of each patient over the patient's first, within the brain.

    Parameters
    ----------
    table : pandas.DataFrame
        From `read_manifest`. Of several scans of one session the first is taken, a labelled one before others.
    folder : path
        Keeps one record a pair, named after scans and contents, as `Registration.save` writes it. What is there is
        not done again, so that a stopped run goes on where it was.
    workers : int
        Processes that register.
    spacing_mm : float
        Voxel size at which scans are compared.
    seed : int
        Of the voxels that are looked at.

    Returns
    -------
    pandas.DataFrame
        One row a later session: `patient_id`, `fixed` and `moving` (scan_id), `session` of the moving one, angle and
        quality as in `Registration`, `record` (the file's name), and `problem`, which says why a pair could not be
        registered (its quality is NaN then) and is tried again next time.

    Raises
    ------
    ScanError
        SimpleITK is missing.
    """
    simpleitk()
    Path(folder).mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(first, later, Path(folder), spacing_mm, seed)
        for first, *others in _sessions(table).values()
        for later in others
    ]
    done = tqdm(_each(_registered, jobs, workers), "registering", len(jobs), unit="pair", disable=len(jobs) < QUIET)
    return pd.DataFrame(list(done), columns=list(PAIR))


def missing_lesions(table, folder, *, reach_mm=2.0, workers=1, spacing_mm=1.0, seed=2015) -> pd.DataFrame:
    """List the lesions of earlier sessions that the label of a follow-up does not have.

    Parameters
    ----------
    table, folder, workers, spacing_mm, seed
        As for `register_sessions`, which is called first. Follow-ups that could not be registered are not in the list.
    reach_mm : float
        An earlier lesion is there when a labelled voxel of the follow-up lies within this distance.

    Returns
    -------
    pandas.DataFrame
        One row a lesion and follow-up: `patient_id`; `earlier` and `follow_up` (scan_id; the latest session that has
        the lesion); `lesion`, its number there as in `components` at `spacing_mm`; its `volume_mm3` there; `centre`,
        (slice, row, column) in voxels of the follow-up at `spacing_mm`; and `brightness` in the follow-up: the 90th
        percentile in the lesion over the median of a shell of 3 mm around it. Above 1 it may still be there, and the
        label has a gap; near 1 it may be gone.
    """
    pairs = register_sessions(table, folder, workers=workers, spacing_mm=spacing_mm, seed=seed)
    records = {row.moving: Path(folder, row.record) for row in pairs.itertuples() if not row.problem}
    found = []
    patients = [rows for rows in _sessions(table).values() if len(rows) > 1]
    for rows in tqdm(patients, "comparing sessions", unit="patient", disable=len(patients) < QUIET):
        motions = {row["scan_id"]: Registration.load(records[row["scan_id"]]).transform
                   for row in rows if row["scan_id"] in records}  # fmt: skip
        motions[rows[0]["scan_id"]] = np.eye(4)
        known = [row for row in rows if row["label"] and row["scan_id"] in motions]
        scans = [load_row(row, spacing_mm=spacing_mm) for row in known]
        for n in range(1, len(known)):
            found += _missing(known[: n + 1], scans[: n + 1], motions, reach_mm)
    return pd.DataFrame(found, columns=list(MISSING))


def _sessions(table):
    """The rows of each patient in the order of their sessions, one a session."""
    order = table.assign(bare=table["label"] == "").sort_values(["patient_id", "session", "bare", "scan_id"])
    rows = order.drop_duplicates(["patient_id", "session"]).drop(columns="bare").to_dict("records")
    patients = {}
    for row in rows:
        patients.setdefault(row["patient_id"], []).append(row)
    return patients


def _each(function, jobs, workers):
    if workers == 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, jobs)


def _registered(job):
    """One row of the table of pairs; the record is read where it is there, and made where not."""
    names = job.moving["patient_id"], job.fixed["scan_id"], job.moving["scan_id"], job.moving["session"]
    try:
        path = job.folder / f"{job.fixed['scan_id']}--{job.moving['scan_id']}-{_content(job)}.json"
        found = Registration.load(path) if path.is_file() else _made(job, path)
    except (ScanError, OSError) as error:
        return (*names, *[np.nan] * len(QUALITY), "", str(error))
    return (*names, *[getattr(found, name) for name in QUALITY], path.name, "")


def _made(job, path):
    fixed, moving = (load_row(row | {"label": ""}, spacing_mm=job.spacing_mm) for row in (job.fixed, job.moving))
    found = register(fixed, moving, mask=brain_mask(fixed.image, fixed.spacing_mm), seed=job.seed)
    found.save(path)
    return found


def _content(job):
    """A digest of all that a registration depends on."""
    digest = hashlib.sha256(repr((job.spacing_mm, job.seed)).encode())
    for row in (job.fixed, job.moving):
        with Path(row["image"]).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _missing(rows, scans, motions, reach_mm):
    """Lesions of all but the last session that the last one's label lacks, each by the latest session that has it."""
    follow_up, name = scans[-1], rows[-1]["scan_id"]
    to_first = np.linalg.inv(motions[name])
    near = _within(follow_up.label, follow_up.spacing_mm, reach_mm)
    for row, scan in zip(rows[-2::-1], scans[-2::-1], strict=True):
        labels = components(scan.label)
        there = resampled(labels.astype(np.uint16), scan.affine, follow_up, motions[row["scan_id"]] @ to_first, 0)
        seen = near.copy()
        for lesion in lesion_table(scan.label, scan.spacing_mm).itertuples():
            carried = there == lesion.component
            if not carried.any() or (seen & carried).any():
                near |= carried
                continue
            near |= _within(carried, follow_up.spacing_mm, reach_mm)
            centre = tuple(round(float(place), 1) for place in np.argwhere(carried).mean(axis=0))
            yield (row["patient_id"], row["scan_id"], name, lesion.component, lesion.volume_mm3, centre,
                   _brightness(follow_up, carried))  # fmt: skip


def _within(mask, spacing_mm, reach_mm):
    """Voxels no farther than `reach_mm` from a mask; measured in the box where they can be."""
    near = np.zeros(mask.shape, bool)
    places = np.argwhere(mask)
    if len(places):
        margin = np.ceil(reach_mm / np.array(spacing_mm)).astype(int)
        first, stop = np.maximum(places.min(axis=0) - margin, 0), places.max(axis=0) + 1 + margin
        box = tuple(slice(*ends) for ends in zip(first, stop, strict=True))
        near[box] = distance_transform_edt(~mask[box], sampling=spacing_mm) <= reach_mm
    return near


def _brightness(scan, lesion):
    shell = _within(lesion, scan.spacing_mm, SHELL_MM) & ~lesion
    around = float(np.median(scan.image[shell])) if shell.any() else np.nan
    return float(np.percentile(scan.image[lesion], 90)) / around if around else np.nan
