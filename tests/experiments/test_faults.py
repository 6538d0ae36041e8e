"""Faults do what their names say, as often as they are asked to, and leave the clean label alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_scans import write_cohort

from kit.experiments import FAULTS, LabelFaults, RunError, add_faults, with_faults
from kit.scans import load_scan


def many_lesions():
    label = np.zeros((40, 60, 60), bool)
    for z in range(3, 36, 8):
        for y in range(3, 56, 8):
            for x in range(3, 56, 8):
                label[z : z + 4, y : y + 4, x : x + 4] = True
    return label


@pytest.fixture(scope="module")
def label():
    return many_lesions()


def test_clean_labels_stay_as_they_are(label):
    faulty, done = add_faults(label, FAULTS["clean"], np.random.default_rng(0))
    np.testing.assert_array_equal(faulty, label)
    assert set(done.fault) == {"none"}


def test_an_over_segmented_lesion_grows_by_a_voxel_over_its_faces(label):
    faulty, _ = add_faults(label, FAULTS["over-segmented"], np.random.default_rng(0))
    np.testing.assert_array_equal(faulty, ndimage.binary_dilation(label))


def test_a_shifted_label_is_the_label_a_voxel_further(label):
    faulty, done = add_faults(label, FAULTS["shifted"], np.random.default_rng(3))
    shifts = [np.roll(label, step, axis) for axis in range(3) for step in (-1, 1)]
    assert sum(np.array_equal(faulty, moved) for moved in shifts) == 1
    assert set(done.fault) == {"shifted"}


def test_what_is_shifted_out_of_the_scan_does_not_come_in_on_the_other_side():
    label = np.ones((3, 3, 3), bool)
    for seed in range(20):
        faulty, _ = add_faults(label, FAULTS["shifted"], np.random.default_rng(seed))
        assert faulty.sum() == 18


def test_a_missing_slice_leaves_a_gap_inside_every_lesion(label):
    faulty, done = add_faults(label, FAULTS["missing slices"], np.random.default_rng(0))
    assert (faulty <= label).all()
    assert (done.voxels_after == done.voxels - 16).all()
    assert (faulty.any((1, 2)) == label.any((1, 2))).all()
    assert ndimage.label(faulty)[1] == 2 * len(done)


def test_faults_strike_as_often_as_their_rates_say(label):
    rates = LabelFaults(over_segmented=0.4, shifted=0, missing_slice=0, missing=0.2)
    _, done = add_faults(label, rates, np.random.default_rng(1))
    assert len(done) == 5 * 7 * 7
    assert (done.fault == "missing").mean() == pytest.approx(0.2, abs=0.08)
    assert (done.fault == "over-segmented").mean() == pytest.approx(0.4 * 0.8, abs=0.1)
    assert (done.voxels_after[done.fault == "missing"] == 0).all()


def test_faulty_copies_are_written_once_and_named_by_the_table(tmp_path):
    table = write_cohort(tmp_path, seeds=[1, 2, 3])
    table.loc[2, "label"] = ""
    before = [Path(path).read_bytes() for path in table.label[:2]]
    faulty = with_faults(table, tmp_path / "copies", seed=4, progress=False)
    done = pd.read_csv(tmp_path / "copies" / "faults.csv")
    assert faulty.label[2] == ""
    for row, clean, old in zip(faulty.itertuples(), table.label[:2], before, strict=False):
        assert Path(clean).read_bytes() == old
        found = load_scan(row.image, row.label).label
        wanted, _ = add_faults(
            load_scan(row.image, clean).label, LabelFaults(), np.random.default_rng([4, *row.scan_id.encode()])
        )
        np.testing.assert_array_equal(found, wanted)
        assert done[done.scan_id == row.scan_id].voxels_after.sum() > 0
    stamps = [p.stat().st_mtime_ns for p in (tmp_path / "copies").glob("*.gz")]
    again = with_faults(table, tmp_path / "copies", seed=4, progress=False)
    assert again.equals(faulty)
    assert [p.stat().st_mtime_ns for p in (tmp_path / "copies").glob("*.gz")] == stamps
    with pytest.raises(RunError, match=r"faults is 'fauly' \(perhaps 'faulty' is meant\)"):
        with_faults(table, tmp_path / "others", "fauly", progress=False)
    with pytest.raises(RunError, match="seed is 5"):
        with_faults(table, tmp_path / "copies", seed=5, progress=False)
