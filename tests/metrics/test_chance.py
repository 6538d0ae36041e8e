"""Recall by chance: lesions are moved whole to free places, and what a map finds of them is counted."""

import numpy as np
import pytest
from scipy import ndimage
from small_scans import make_scan, save

from kit.metrics import chance_recall, detect, partition_chance, partitions
from kit.metrics.chance import moved_lesions
from kit.scans import load_scan

SPACING_MM = (3.0, 1.0, 1.5)


def lesions(shape=(12, 50, 40)):
    truth = np.zeros(shape, bool)
    truth[4:7, 10:15, 8:14] = True
    truth[5, 12, 14] = True  # no box
    truth[2, 30, 30] = True
    return truth


def test_lesions_are_moved_whole_into_the_region_and_touch_no_other():
    truth, rng = lesions(), np.random.default_rng(0)
    region = np.zeros_like(truth)
    region[1:11, 2:48, 3:39] = True
    places = set()
    for _ in range(30):
        moved, placed = moved_lesions(truth, region, rng)
        parts, count = ndimage.label(moved | truth, np.ones((3, 3, 3)))
        assert (placed, count, moved.sum()) == (2, 4, truth.sum())
        assert not (moved & (truth | ~region)).any()
        box = ndimage.find_objects(parts)[np.bincount(parts[moved]).argmax() - 1]
        np.testing.assert_array_equal(moved[box], truth[4:7, 10:15, 8:15])
        places.add(tuple(side.start for side in box))
    assert len(places) > 20


def test_a_lesion_without_room_is_not_placed():
    truth = lesions()
    region = np.zeros_like(truth)
    region[8, 40, 3:9] = True  # room for the single voxel
    moved, placed = moved_lesions(truth, region, np.random.default_rng(0))
    assert (placed, moved.sum()) == (1, 1)
    assert chance_recall(np.ones(truth.shape), truth, np.zeros_like(truth)).placed.eq(0).all()


@pytest.mark.parametrize("margin_mm", [None, 4.0])
def test_hits_are_those_of_moving_and_detecting_by_hand(margin_mm):
    truth, rng = lesions(), np.random.default_rng(5)
    spots = np.random.default_rng(1).random(truth.shape) > 0.99
    probability = np.where(spots, np.random.default_rng(2).random(truth.shape), 0)  # findings a few voxels apart
    found = chance_recall(
        probability, truth, thresholds=(0.4, 0.8), spacing_mm=SPACING_MM, margin_mm=margin_mm, draws=6, seed=5
    )
    expected = {0.4: 0, 0.8: 0}
    for _ in range(6):
        moved, _ = moved_lesions(truth, np.ones_like(truth), rng)
        seen = np.zeros_like(probability)
        for box in ndimage.find_objects(ndimage.label(moved, np.ones((3, 3, 3)))[0]):
            margin = np.ceil((margin_mm or 1e3) / np.array(SPACING_MM)).astype(int)
            around = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margin, strict=True))
            seen[around] = probability[around]
        for threshold in expected:
            expected[threshold] += detect(seen, moved, threshold, spacing_mm=SPACING_MM).tp
    assert dict(zip(found.threshold, found.hits, strict=True)) == expected
    assert found.placed.eq(12).all()
    assert expected[0.4] > 0


def test_a_map_that_sees_its_lesions_alone_finds_none_by_chance():
    truth = lesions()
    truth[2] = False  # within 5 mm a small one counts as found
    assert chance_recall(0.9 * truth, truth, thresholds=[0.5], draws=10).hits.item() == 0


def test_a_region_on_another_grid_is_refused():
    with pytest.raises(ValueError, match="region has shape"):
        chance_recall(np.zeros((3, 4, 5)), np.zeros((3, 4, 5), bool), np.ones((3, 4, 4), bool))


@pytest.fixture
def boxed(tmp_path):
    """A scan with three lesions, its row, and its partitions' healthy boxes, numbered."""
    image, label = make_scan(4)
    scan = load_scan(save(image, tmp_path / "i.nii"), save(label.astype(np.uint8), tmp_path / "l.nii"))
    row, around = {"scan_id": "s"}, np.zeros(scan.label.shape, bool)
    for box in ndimage.find_objects(ndimage.label(scan.label, np.ones((3, 3, 3)))[0]):
        around[tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in box)] = True
    return scan, row, ndimage.label(partitions(scan, row, margin_mm=2, seed=3) & ~around)


def test_in_partitions_a_moved_lesion_is_found_where_its_healthy_box_is_lit(boxed):
    scan, row, (boxes, count) = boxed
    assert count == 3, "boxes that touch would be one"
    options = {"thresholds": [0.5], "margin_mm": 2, "seed": 3}
    for lit in range(count + 1):
        found = partition_chance(0.9 * ((boxes > 0) & (boxes <= lit)), scan, row, **options)
        assert found[["threshold", "placed", "hits"]].to_numpy().tolist() == [[0.5, 3, lit]]
    assert partition_chance(0.9 * scan.label, scan, row, **options).hits.item() == 0, "true lesions are not looked at"


def test_partition_chance_refuses_a_map_of_another_grid(boxed):
    with pytest.raises(ValueError, match="probability has shape"):
        partition_chance(np.zeros((3, 4, 5)), *boxed[:2])
