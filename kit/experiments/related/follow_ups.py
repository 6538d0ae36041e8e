"""Follow-ups: which lesions are new or have grown since the session before, and which of them a map of change finds."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from kit.experiments.runs import RunError
from kit.metrics import score
from kit.models import FollowUps
from kit.scans import Registration, components, load_row, register, search_region

GROWN, SMALLER = 1.1, 0.9  # times its volume before
LARGER_MM3 = 40  # the thesis' smallest size filter
ANGLE_DEG, SHIFT_MM = 6.0, 8.0


def turned(scan, row, *, angle_deg=ANGLE_DEG, shift_mm=SHIFT_MM, seed=2015):
    """A scan as it would be with the head turned and shifted in the scanner, by an amount that is the same each time.

    Sessions of the synthetic cohort lie in one position; with this there is something to register. Axis and direction
    come from the seed and the row's `scan_id`; the image is interpolated linearly, once.
    """
    motion = known_motion(scan, row, angle_deg=angle_deg, shift_mm=shift_mm, seed=seed)
    nan = float("nan")
    return Registration(motion, nan, nan, nan, nan).resample(scan, scan)


def known_motion(scan, row, *, angle_deg=ANGLE_DEG, shift_mm=SHIFT_MM, seed=2015):
    """The motion of `turned` about the middle of the scan, 4x4, in world mm."""
    rng = np.random.default_rng([seed, *row["scan_id"].encode()])
    axis, direction = (part / np.linalg.norm(part) for part in rng.normal(0, 1, (2, 3)))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(angle_deg * axis, degrees=True).as_matrix()
    middle = (scan.affine @ np.append((np.array(scan.image.shape) - 1) / 2, 1))[:3]
    motion[:3, 3] = middle - motion[:3, :3] @ middle + shift_mm * direction
    return motion


def lesion_changes(later, earlier):
    """What became of each lesion: bool (slice, row, column) labels of two sessions on one grid.

    Returns
    -------
    pandas.DataFrame
        component, voxels, voxels_before (of the earlier lesions that it overlaps) and change: new, grown (by a tenth
        or more), smaller (likewise) or same.

    Examples
    --------
    >>> earlier, later = np.zeros((2, 1, 1, 12), bool)
    >>> earlier[..., 0:2] = later[..., 0:4] = later[..., 8:10] = True
    >>> lesion_changes(later, earlier).values.tolist()
    [[1, 4, 2, 'grown'], [2, 2, 0, 'new']]
    """
    now, before = components(later), components(earlier)
    sizes, rows = np.bincount(before.ravel()), []
    for component in range(1, int(now.max()) + 1):
        inside = now == component
        old = np.unique(before[inside])
        voxels, earlier_voxels = int(inside.sum()), int(sizes[old[old > 0]].sum())
        rows.append((component, voxels, earlier_voxels, _change(voxels, earlier_voxels)))
    return pd.DataFrame(rows, columns=["component", "voxels", "voxels_before", "change"])


def measure_change(table, folder, *, moved=turned, search="brain", threshold=0.5, progress=True, **options):
    """Map the change of every follow-up of a table, and look which lesions it finds.

    Parameters
    ----------
    table : pandas.DataFrame
        Labelled rows of a manifest; those whose patient was scanned before are follow-ups.
    folder : path
        Keeps maps and tables, see `kit.metrics.score`.
    moved : callable
        From an earlier scan and its row to what is registered, see `kit.models.FollowUps`.
    search, threshold, progress, options
        As in `kit.metrics.score`; options go to `kit.models.ChangeDetector`.

    Returns
    -------
    lesions, scans : pandas.DataFrame
        A row a lesion: scan_id, patient_id, the columns of `lesion_changes`, volume_mm3 and found. A row a follow-up:
        scan_id, patient_id, slices, fp (findings on no lesion), fp_larger (those of 40 mm3 and more), similarity before
        and after the registration, and the largest error_mm of it in the head where the motion is known.

    Raises
    ------
    kit.experiments.RunError
        Without any follow-up.
    """
    labelled = table[table.label != ""]
    first = labelled.groupby("patient_id").session.transform("min")
    rows = labelled[labelled.session > first].to_dict("records")
    if not rows:
        raise RunError("no patient has a second labelled session; change needs two, see the manifest's column session")
    follow_ups = FollowUps(labelled, moved, options)
    parts = [_measured(follow_ups, row, Path(folder), search, threshold, progress) for row in rows]
    return tuple(pd.concat(some, ignore_index=True) for some in zip(*parts, strict=True))


def _measured(follow_ups, row, folder, search, threshold, progress):
    """Lesions and scan of one follow-up; a registration that is there is read back."""
    scan = load_row(row)
    detector, mask = follow_ups.for_scan(scan, row), search_region(scan, row, search=search)
    kept = folder / row["scan_id"] / "registration.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        register(scan, detector.earlier, mask=mask).save(kept)
    registration = Registration.load(kept)
    mapped = partial(detector, registration=registration)
    found = score(mapped, pd.DataFrame([row]), folder, search=search, threshold=threshold, progress=progress)
    before = registration.resample(detector.earlier, scan).label
    lesions = lesion_changes(scan.label, before).merge(
        found.lesions[["component", "volume_mm3", "found"]], on="component"
    )
    names = {"scan_id": row["scan_id"], "patient_id": row["patient_id"]}
    false = found.predicted[~found.predicted.hit]
    about = names | {"slices": int(found.scans.slices.iloc[0]), "fp": len(false)}
    about |= {"fp_larger": int((false.volume_mm3 >= LARGER_MM3).sum())}
    about |= {"similarity_before": registration.similarity_before, "similarity": registration.similarity}
    about |= {"error_mm": _error(follow_ups, scan, row, registration, mask)}
    return lesions.assign(**names)[[*names, *lesions]], pd.DataFrame([about])


def _error(follow_ups, scan, row, registration, mask):
    """How far (mm) the motion that was found misplaces any voxel of the mask; NaN where the motion is not known."""
    if follow_ups.moved is not turned:
        return float("nan")
    before = follow_ups.earlier_row(row)
    truth = np.linalg.inv(known_motion(load_row(before), before))
    places = scan.affine @ np.append(np.argwhere(mask)[::500], np.ones((len(np.argwhere(mask)[::500]), 1)), axis=1).T
    return float(np.linalg.norm(((registration.transform - truth) @ places)[:3], axis=0).max())


def _change(voxels, before):
    if before == 0:
        return "new"
    factor = voxels / before
    return "grown" if factor >= GROWN else "smaller" if factor <= SMALLER else "same"
