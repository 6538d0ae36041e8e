"""A cohort's tables are those of its scans, a stopped evaluation goes on, and partitions hold what Table 5.5 asks."""

import numpy as np
import pandas as pd
import pytest
from small_scans import make_scan, save, write_cohort

from kit.metrics import detect, evaluate_cohort, partitions
from kit.models import Detector, build, save_weights
from kit.scans import foreground, lesion_table, load_map, load_scan, normalise, search_region


class Bright:
    """A detector one can predict: the probability is how bright a voxel is. Counts what it is asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image, mask=None):
        self.calls += 1
        return np.where(mask, np.clip((image - 450) / 500, 0, 1), 0).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    return write_cohort(tmp_path, (1, 2, 3)).assign(patient_id=["p", "q", "r"])


def test_tables_agree_with_detecting_scan_by_scan(table, tmp_path):
    found = evaluate_cohort(Bright(), table, tmp_path / "out", progress=False)
    for row in table.to_dict("records"):
        scan = load_scan(row["image"], row["label"])
        expected = detect(Bright()(scan.image, foreground(scan.image)), scan.label, 0.5)
        ours = found.sweep.query("scan_id == @row['scan_id'] and threshold == 0.5 and min_volume_mm3 == 0").iloc[0]
        assert (ours.tp, ours.fn, ours.fp) == (expected.tp, expected.fn, expected.fp)
        assert ours.dice == expected.dice
        lesions = found.lesions[found.lesions.scan_id == row["scan_id"]]
        assert lesions.found.tolist() == expected.truth.found.tolist()
        assert len(found.predicted[found.predicted.scan_id == row["scan_id"]]) == len(expected.predicted)
    assert found.lesions.found.any()
    assert found.scans.patient_id.tolist() == ["p", "q", "r"]


def test_a_stopped_evaluation_goes_on_where_it_ended_with_the_same_tables(table, tmp_path):
    once = evaluate_cohort(Bright(), table, tmp_path / "once", progress=False)
    evaluate_cohort(Bright(), table[:2], tmp_path / "twice", progress=False)
    detector = Bright()
    again = evaluate_cohort(detector, table, tmp_path / "twice", progress=False)
    assert detector.calls == 1
    assert again.sweep.equals(once.sweep)
    assert again.lesions.equals(once.lesions)


def test_the_map_lies_beside_the_tables_on_the_scans_own_grid(table, tmp_path):
    evaluate_cohort(Bright(), table[:1], tmp_path / "out", progress=False)
    row = table.iloc[0]
    scan = load_scan(row.image)
    mapped = load_map(tmp_path / "out" / row.scan_id / "map.nii.gz", scan)
    np.testing.assert_array_equal(mapped, Bright()(scan.image, foreground(scan.image)))
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_lesion_outside_the_mask_is_missed_and_not_forgotten(table, tmp_path):
    scan = load_scan(table.image[0], table.label[0])
    mask = foreground(scan.image) & ~scan.label
    row = table[:1].assign(mask=save(mask.astype(np.uint8), tmp_path / "mask.nii"))
    found = evaluate_cohort(Bright(), row, tmp_path / "out", progress=False)
    assert len(found.lesions) == len(lesion_table(scan.label, (1, 1, 1)))
    assert not found.lesions.found.any()


def test_a_scan_without_lesion_counts_its_false_positives(tmp_path):
    table = write_cohort(tmp_path, (1,), lesions=0).assign(patient_id="p")
    found = evaluate_cohort(Bright(), table, tmp_path / "out", progress=False)
    assert found.lesions.empty
    assert found.lesions.found.dtype == bool
    assert found.sweep.fp.max() > 0


def test_scans_with_and_without_lesions_make_one_table(table, tmp_path):
    healthy = write_cohort(tmp_path, (9,), lesions=0).assign(patient_id="s")
    found = evaluate_cohort(Bright(), pd.concat([healthy, table]), tmp_path / "out", progress=False)
    assert found.lesions.found.dtype == found.predicted.hit.dtype == bool
    assert len(found.lesions[~found.lesions.found]) + found.lesions.found.sum() == len(found.lesions)


def test_partitions_hold_every_lesion_with_its_margin_and_as_much_healthy_tissue(table):
    row = table.iloc[0].to_dict()
    scan = load_scan(row["image"], row["label"])
    mask = partitions(scan, row, margin_mm=2)
    assert mask[scan.label].all()
    around = np.zeros_like(mask)
    for box in lesion_table(scan.label, scan.spacing_mm).box:
        around[tuple(slice(max(low - 2, 0), high + 2) for low, high in box)] = True
    assert (mask & around).sum() == (around & (scan.image > scan.image.min())).sum()
    healthy = mask & ~around
    assert 0.5 < healthy.sum() / (mask & around).sum() <= 1
    np.testing.assert_array_equal(partitions(scan, row, margin_mm=2), mask)
    assert (partitions(scan, row, margin_mm=2, seed=1) != mask).any()


def test_a_scan_without_lesion_has_no_partitions(tmp_path):
    image, label = make_scan(4, lesions=0)
    scan = load_scan(save(image, tmp_path / "i.nii"), save(label.astype(np.uint8), tmp_path / "l.nii"))
    assert not partitions(scan, {"scan_id": "s"}).any()


def test_the_search_region_is_the_head_unless_the_row_has_a_mask(table, tmp_path):
    scan = load_scan(table.image[0])
    np.testing.assert_array_equal(search_region(scan, {"mask": ""}), foreground(scan.image))
    mask = np.zeros(scan.image.shape, np.uint8)
    mask[3:5] = 1
    row = {"mask": save(mask, tmp_path / "mask.nii")}
    np.testing.assert_array_equal(search_region(scan, row), mask > 0)


def test_a_loaded_detector_normalises_as_its_training_did(tmp_path):
    image = make_scan(1)[0]
    mask = np.zeros(image.shape, bool)
    mask[12, 48, 40:60] = True
    network = build("A", seed=0)
    for told, statistics in (({"mean": "300.0", "sd": "80.0"}, (300.0, 80.0)), ({}, None)):
        save_weights(network, tmp_path / "a.safetensors", told)
        detector = Detector.load("A", tmp_path / "a.safetensors")
        assert detector.statistics == statistics
        expected = Detector(network, statistics)(image, mask)
        np.testing.assert_array_equal(detector(image, mask), expected)
    assert normalise(image, 300.0, 80.0).mean() != pytest.approx(normalise(image).mean())
