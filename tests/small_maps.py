"""Small made-up maps, truths and tables of findings that several tests share."""

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from kit.metrics import detect, iou_rule


def random_pair(seed, shape=(5, 12, 11)):
    """A map of small blobs of all heights, and a truth that agrees with it now and then."""
    rng = np.random.default_rng(seed)
    seeds = np.where(rng.random(shape) < 0.04, rng.random(shape), 0)
    probability = ndimage.grey_dilation(seeds, size=(1, 2, 3)) * rng.uniform(0.4, 1, shape)
    truth = (probability > rng.uniform(0.3, 0.9)) | (rng.random(shape) < 0.004)
    return probability.astype(np.float32), ndimage.binary_dilation(truth, structure=rng.random((3, 3, 3)) < 0.4)


def block(shape, *boxes):
    """A label drawn from boxes, each one string of slices, e.g. "1:3 4:6 2:8"."""
    label = np.zeros(shape, bool)
    for box in boxes:
        label[tuple(slice(*map(int, side.split(":"))) for side in box.split())] = True
    return label


def has_ties(found, spacing):
    """Whether a lesion has two components equally near, or a component two lesions."""
    if found.truth.empty or found.predicted.empty:
        return False
    offset = np.array(found.truth.centre.tolist())[:, None] - np.array(found.predicted.centre.tolist())
    distance = np.linalg.norm(offset * spacing, axis=-1).round(9)
    return any(len(set(line)) < len(line) for line in (*distance.tolist(), *distance.T.tolist()))


TOUCHING = np.ones((3, 3, 3))


def parts(mask):
    """Every 26-connected component as a bool array of the scan's shape."""
    numbers, count = ndimage.label(mask, structure=TOUCHING)
    return [numbers == number for number in range(1, count + 1)]


def picai_pair(folder, name):
    """A map with its confidences 0, 1, 2 brought to 0, 0.5, 1, and its label."""
    read = (
        np.asarray(nib.load(folder / "test-maps" / f"{name}_{kind}.nii.gz").dataobj)
        for kind in ("detection_map", "label")
    )
    probability, label = read
    return probability.astype(np.float32) / 2, label > 0


def picai_hits(folder, name):
    """Every lesion, and every candidate that is a false positive, as picai_eval lists them."""
    found = detect(*picai_pair(folder, name), 0.5, low=0.5, rule=iou_rule(0.1, spare=True))
    peak = found.predicted.set_index("component").peak * 2
    confidence = {lesion: peak[component] for lesion, component in found.pairs}
    dice = found.truth.set_index("component").dice
    lesions = [(1, float(confidence.get(n, 0)), round(dice[n] / (2 - dice[n]), 6)) for n in found.truth.component]
    return sorted(lesions + [(0, float(value) * 2, 0.0) for value in found.false_positives.peak])


def cohort(patients, seed=0, thresholds=(0.5,), skill=0.6):
    """Made-up sweep rows: one to three scans a patient, some without lesion."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for scan in range(rng.integers(1, 4)):
            lesions = rng.integers(0, 5)
            for threshold in thresholds:
                tp = rng.binomial(lesions, skill)
                counts = {"tp": tp, "fn": lesions - tp, "fp": rng.poisson(4), "dice": rng.random()}
                counts |= {"dice_healthy": 1 - rng.random() / 100, "slices": 160, "min_volume_mm3": 0}
                counts["lesion_dice"] = rng.random() if lesions else np.nan
                rows.append({"scan_id": f"{patient}-{scan}", "patient_id": patient, "threshold": threshold, **counts})
    return pd.DataFrame(rows)


def points_of(rows):
    """Operating points from "scan: threshold tp fn fp, ..." lines."""
    table = []
    for line in rows:
        scan, drawn = line.split(": ")
        for point in drawn.split(", "):
            threshold, tp, fn, fp = map(float, point.split())
            table.append({"scan_id": scan, "patient_id": scan[0], "threshold": threshold, "tp": tp, "fn": fn, "fp": fp})
    return pd.DataFrame(table)


DRAWN = ["a1: 0.9 1 1 0, 0.6 2 0 3", "b1: 0.8 0 2 1, 0.7 1 1 1, 0.5 1 1 5", "c1: 0.95 0 0 1, 0.3 0 0 9"]
