"""Verdicts are kept whatever happens, and become revised labels without touching the originals."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from kit.metrics import error_table
from kit.scans import lesion_table, load_scan, read_manifest, save_map
from kit.viewer import VerdictBook, VerdictError, apply_verdicts, read_verdicts, saved_maps

ERROR = {"scan_id": "s1", "patient_id": "p1", "kind": "FP", "component": 2, "slice": 1.0, "row": 2.25, "column": 3.5}


def test_a_verdict_is_on_disk_at_once_and_survives_a_restart(tmp_path):
    VerdictBook(tmp_path / "run" / "verdicts.csv").mark(ERROR, "label fault", 'a "core", dark\nand a rim')
    again = VerdictBook(tmp_path / "run" / "verdicts.csv")
    assert again.of(ERROR) == ("label fault", 'a "core", dark\nand a rim')
    assert again.of(ERROR | {"kind": "FN"}) == ("", "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["verdicts.csv"]  # no half-written file is left


def test_a_second_verdict_replaces_the_first_and_an_empty_one_takes_it_back(tmp_path):
    book = VerdictBook(tmp_path / "v.csv")
    book.mark(ERROR, "unsure")
    book.mark(ERROR | {"threshold": 0.9}, "true error")  # the same component, seen from another threshold
    assert book.table.verdict.tolist() == ["true error"]
    book.mark(ERROR, "")
    assert VerdictBook(tmp_path / "v.csv").table.empty


def test_a_scan_id_of_digits_stays_text(tmp_path):
    VerdictBook(tmp_path / "v.csv").mark(ERROR | {"scan_id": "0012"}, "unsure")
    assert read_verdicts(tmp_path / "v.csv").scan_id.tolist() == ["0012"]


def test_an_unknown_verdict_and_a_foreign_file_are_refused(tmp_path):
    with pytest.raises(VerdictError, match="choose one of true error, label fault, unsure"):
        VerdictBook(tmp_path / "v.csv").mark(ERROR, "wrong")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(VerdictError, match="lacks the columns scan_id"):
        VerdictBook(tmp_path / "other.csv")


@pytest.fixture
def run(tmp_path):
    """A scan with 2 mm slices and two lesions, a map that has one of them and a third: (table, load, errors)."""
    affine = np.array([[0, 0, -1.0, 9], [0, -1, 0, 9], [2, 0, 0, 0], [0, 0, 0, 1]])  # of (slice, row, column)
    stored = affine[:, [2, 1, 0, 3]]
    image = np.random.default_rng(0).random((8, 20, 22)).astype(np.float32) + 1
    label = np.zeros(image.shape, np.uint8)
    label[2:4, 3:6, 3:6] = 1
    label[5, 12:15, 4:7] = 1
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array.T, stored), tmp_path / f"{name}.nii.gz")
    row = {"scan_id": "s1", "patient_id": "p1", "session": 1, "image": "image.nii.gz", "label": "label.nii.gz"}
    pd.DataFrame([row | {"split": "test", "lesion_codes": "1"}]).to_csv(tmp_path / "m.csv", index=False)
    table = read_manifest(tmp_path / "m.csv")
    scan = load_scan(table.image[0], table.label[0])
    probability = np.zeros(scan.image.shape, np.float32)
    probability[4:8, 3:6, 3:6] = 0.9  # the first lesion, on slices of 1 mm
    probability[4:8, 12:15, 12:15] = 0.7
    (tmp_path / "maps" / "s1").mkdir(parents=True)
    save_map(probability, scan, tmp_path / "maps" / "s1" / "map.nii.gz")
    load = saved_maps(table, tmp_path / "maps")
    scan, probability = load("s1")
    found = {"FN": lesion_table(scan.label, scan.spacing_mm), "FP": lesion_table(probability >= 0.2, scan.spacing_mm)}
    rows = [
        {"scan_id": "s1", "patient_id": "p1", "kind": kind, "component": lesion.component, "threshold": 0.5}
        | dict(zip(("slice", "row", "column"), lesion.centre, strict=True))
        for kind, lesions in found.items()
        for lesion in lesions.itertuples()
    ]
    return table, load, pd.DataFrame(rows)


def own_label(table):
    return np.asarray(nib.load(table.label[0]).dataobj).T


def judged(errors, kind, row, verdict="label fault"):
    return errors[(errors.kind == kind) & (errors.row.round() == row)].assign(verdict=verdict, note="")


def test_label_faults_add_what_was_predicted_and_remove_what_was_labelled(run, tmp_path):
    table, load, errors = run
    original = Path(table.label[0]).read_bytes()
    verdicts = pd.concat([judged(errors, "FP", 13), judged(errors, "FN", 13)])
    revised = apply_verdicts(table, verdicts, tmp_path / "revised", load)
    before, after = own_label(table), own_label(revised)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after[:, :, :8][:, :10], before[:, :, :8][:, :10])  # the other lesion, voxel by voxel
    assert not after[:, 10:, :10].any()
    assert np.count_nonzero(after[:, 12:15, 12:15]) == np.count_nonzero(after[:, :, 10:]) == 2 * 9
    assert Path(table.label[0]).read_bytes() == original
    changes = pd.read_csv(tmp_path / "revised" / "changes.csv")
    assert changes.change.tolist() == ["added", "removed"]
    assert changes.voxels.tolist() == [18, 9]


@pytest.mark.parametrize(("rule", "removed"), [("brats", 2 * 9), ("thesis", 9)])
def test_a_label_fault_on_a_lesion_takes_out_what_its_rule_counts_as_one(rule, removed, run, tmp_path):
    table, load, _ = run
    label = own_label(table).copy()
    label[5, 12:15, 8:11] = 1  # a dilation joins it to the lesion in the columns 4 to 6
    stored = nib.load(table.label[0])
    nib.save(nib.Nifti1Image(label.T.astype(np.uint8), stored.affine), table.label[0])
    scan, probability = load("s1")
    errors = error_table(probability, scan.label, spacing_mm=scan.spacing_mm, rule=rule, scan_id="s1", patient_id="p1")
    missed = errors[errors.kind == "FN"].iloc[:1].assign(verdict="label fault", note="")
    revised = apply_verdicts(table, missed, tmp_path / "revised", load)
    assert np.count_nonzero(label) - np.count_nonzero(own_label(revised)) == removed


def test_the_revised_manifest_can_be_read_back(run, tmp_path):
    table, load, errors = run
    revised = apply_verdicts(table, judged(errors, "FP", 13), tmp_path / "revised", load)
    assert revised.lesion_codes.tolist() == [""]
    assert table.lesion_codes.tolist() == ["1"]
    again = read_manifest(tmp_path / "revised" / "manifest.csv", data_root=revised.attrs["data_root"])
    pd.testing.assert_frame_equal(again, revised)


def test_true_errors_and_unsure_ones_change_nothing(run, tmp_path):
    table, load, errors = run
    revised = apply_verdicts(table, judged(errors, "FP", 13, "unsure"), tmp_path / "revised", load)
    pd.testing.assert_frame_equal(revised, table)


def test_a_verdict_on_another_map_is_refused(run, tmp_path):
    table, load, errors = run
    moved = judged(errors, "FP", 13).assign(row=lambda rows: rows.row + 1)
    with pytest.raises(VerdictError, match="s1: no FP component"):
        apply_verdicts(table, moved, tmp_path / "revised", load)
    with pytest.raises(VerdictError, match="scans that the table lacks: s9"):
        apply_verdicts(table, judged(errors, "FP", 13).assign(scan_id="s9"), tmp_path / "revised", load)
