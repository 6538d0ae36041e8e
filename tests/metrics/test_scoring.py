"""Anybody's maps are scored as our own, and what cannot be scored is refused by name before anything is written."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_scans import AFFINE, make_scan, save, write_cohort

from kit.__main__ import main
from kit.figures import write_report
from kit.metrics import (
    RULES,
    TABLES,
    PredictionError,
    detect,
    evaluate_cohort,
    find_predictions,
    score_folder,
    score_rules,
)
from kit.scans import load_scan


def bright(image, mask=None):
    """A detector one can predict: the probability is how bright a voxel is."""
    mask = np.ones(image.shape, bool) if mask is None else mask
    return np.where(mask, np.clip((image - 450) / 500, 0, 1), 0).astype(np.float32)


@pytest.fixture
def cohort(tmp_path):
    """A manifest's table of three scans, one of them without lesion, and a folder with a map of each."""
    table = pd.concat([write_cohort(tmp_path, (1, 2)), write_cohort(tmp_path, (3,), lesions=0)], ignore_index=True)
    table = table.assign(patient_id=["p", "p", "q"], session=[1, 2, 1], split="test")
    (tmp_path / "maps").mkdir()
    for row in table.to_dict("records"):
        save(bright(load_scan(row["image"]).image), tmp_path / "maps" / f"{row['scan_id']}.nii.gz")
    relative = table.assign(
        image=table.image.map(lambda p: p.split("/")[-1]), label=table.label.map(lambda p: p.split("/")[-1])
    )
    relative.to_csv(tmp_path / "manifest.csv", index=False)
    return table


def run(tmp_path, *options):
    out = tmp_path / "out"
    return main(
        ["score", str(tmp_path / "maps"), str(tmp_path / "manifest.csv"), "-o", str(out), "--split", "all", *options]
    ), out


def test_a_folder_is_scored_as_the_detector_that_made_it(cohort, tmp_path):
    theirs = score_folder(tmp_path / "maps", cohort, progress=False)
    ours = evaluate_cohort(
        bright, cohort, tmp_path / "run", where=lambda scan, row: np.ones(scan.image.shape, bool), progress=False
    )
    assert set(theirs) == set(TABLES)
    for name in ("sweep", "lesions", "predicted", "errors", "points", "lesion_sweep", "rules"):
        pd.testing.assert_frame_equal(theirs[name], getattr(ours, name), check_dtype=False, check_exact=False)


def test_what_evaluate_cohort_wrote_can_be_scored_again(cohort, tmp_path):
    ours = evaluate_cohort(bright, cohort, tmp_path / "run", progress=False)
    theirs = score_folder(tmp_path / "run", cohort, progress=False)
    pd.testing.assert_frame_equal(theirs["sweep"], ours.sweep, check_dtype=False)


def test_masks_count_as_maps(cohort, tmp_path):
    for row in cohort.to_dict("records"):
        mask = bright(load_scan(row["image"]).image) > 0.4
        save(mask.astype(np.uint8), tmp_path / "maps" / f"{row['scan_id']}.nii.gz")
    tables = score_folder(tmp_path / "maps", cohort, progress=False)
    sweep = tables["sweep"]
    assert sweep.groupby(["scan_id", "min_volume_mm3"])[["tp", "fp"]].nunique().eq(1).all(axis=None)  # whatever theta
    scan = load_scan(cohort.image[0], cohort.label[0])
    found = detect(bright(scan.image) > 0.4, scan.label)
    assert sweep.tp[0] == found.tp
    assert sweep.fp[0] == found.fp


def test_the_command_writes_tables_and_one_page_that_needs_no_network(cohort, tmp_path, capsys):
    code, out = run(tmp_path)
    assert code == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    names = {f"{'scans' if name == 'scan' else name}.csv" for name in TABLES} | {"report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page.replace("data:image", "")
    assert all(f"<b>{rule}</b>" in page for rule in RULES)
    assert "3 scans of 2 patients, 6 lesions; 1 scans have none" in page
    errors = pd.read_csv(out / "errors.csv")
    assert errors.x_mm.notna().all()


def test_first_sessions_are_scored_where_a_split_is_named(cohort, tmp_path):
    code, out = run(tmp_path, "--split", "test", "--rule", "overlap", "--threshold", "0.3", "--min-volume", "20")
    assert code == 0
    assert pd.read_csv(out / "scans.csv").scan_id.tolist() == ["s1", "s3"]
    assert set(pd.read_csv(out / "errors.csv").rule) == {"overlap"}
    assert pd.read_csv(out / "errors.csv").query("kind != 'FN'").threshold.eq(0.3).all()


def test_all_that_is_wrong_is_refused_at_once_with_names(cohort, tmp_path, capsys):
    maps = tmp_path / "maps"
    save(np.zeros((4, 5, 6), np.float32), maps / "s1.nii.gz")  # another grid
    save(np.full(make_scan(2)[0].shape, 3, np.uint8), maps / "s2.nii.gz")  # label values
    (maps / "s3.nii.gz").rename(maps / "s03.nii.gz")
    code, out = run(tmp_path)
    told = capsys.readouterr().err
    assert code == 2
    assert not out.exists()
    assert "3 problems, nothing was scored" in told
    assert "s1: " in told
    assert "grid" in told
    assert "s2: " in told
    assert "values from 3 to 3 are no probabilities" in told
    assert "s3: no s3.nii.gz (there is s03.nii.gz)" in told


def test_a_map_with_nan_and_a_damaged_one_are_refused(cohort, tmp_path):
    hole = bright(load_scan(cohort.image[0]).image)
    hole[3, 4, 5] = np.nan
    save(hole, tmp_path / "maps" / "s1.nii.gz")
    (tmp_path / "maps" / "s2.nii.gz").write_bytes(b"no image")
    with pytest.raises(PredictionError) as refused:
        score_folder(tmp_path / "maps", cohort, progress=False)
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["s1", "s2"]


def test_a_map_of_the_right_shape_in_another_place_is_refused(cohort, tmp_path):
    array = bright(load_scan(cohort.image[0]).image)
    moved = AFFINE.copy()
    moved[0, 3] = 7
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), moved), tmp_path / "maps" / "s1.nii.gz")
    with pytest.raises(PredictionError, match=r"s1: .*grid"):
        score_folder(tmp_path / "maps", cohort, progress=False)


def test_rules_are_compared_on_the_maps_that_are_there(cohort, tmp_path):
    (tmp_path / "maps" / "s2.nii.gz").unlink()
    rules = score_rules(tmp_path / "maps", cohort, progress=False)
    assert rules.scan_id.unique().tolist() == ["s1", "s3"]
    assert rules.rule.tolist() == list(RULES) * 2
    scan = load_scan(cohort.image[0], cohort.label[0])
    assert rules.tp[1] == detect(bright(scan.image), scan.label, rule="overlap").tp
    assert score_rules(tmp_path / "nowhere", cohort, progress=False).empty


def test_two_maps_of_one_scan_are_refused(cohort, tmp_path):
    (tmp_path / "maps" / "s1").mkdir()
    (tmp_path / "maps" / "s1" / "map.nii.gz").write_bytes((tmp_path / "maps" / "s1.nii.gz").read_bytes())
    paths, problems = find_predictions(tmp_path / "maps", cohort)
    assert set(paths) == {"s2", "s3"}
    assert problems == ["s1: has s1.nii.gz and s1/map.nii.gz; keep one of them"]
    assert find_predictions(tmp_path / "nowhere", cohort)[1] == [f"{tmp_path / 'nowhere'}: no such folder"]


def test_a_bad_manifest_and_a_full_folder_are_refused(cohort, tmp_path, capsys):
    assert main(["score", str(tmp_path / "maps"), str(tmp_path / "none.csv"), "-o", str(tmp_path / "out")]) == 2
    code, out = run(tmp_path, "--split", "train")
    assert code == 2
    assert "no labelled scan" in capsys.readouterr().err
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    assert run(tmp_path)[0] == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, "--threshold", "1.5")
    assert refused.value.code == 2


def test_nothing_half_written_stays_when_the_report_fails(cohort, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr("kit.__main__.write_report", broken)
    with pytest.raises(RuntimeError):
        run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"maps", "manifest.csv"}
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_cohorts_without_lesions_or_findings_have_a_page_too(tmp_path):
    table = write_cohort(tmp_path, (1, 2), lesions=0).assign(patient_id=["p", "q"])
    (tmp_path / "maps").mkdir()
    for row in table.to_dict("records"):
        save(np.zeros(make_scan(1)[0].shape, np.float32), tmp_path / "maps" / f"{row['scan_id']}.nii.gz")
    tables = score_folder(tmp_path / "maps", table, progress=False)
    about = {"predictions": "<b>", "manifest": "m", "threshold": 0.5, "low": 0.2, "rule": "thesis", "min_volume_mm3": 0}
    page = write_report(tmp_path / "report.html", tables, about).read_text()
    assert "There is no lesion" in page
    assert "&lt;b&gt;" in page


def test_an_evaluation_by_another_rule_scores_the_maps_that_are_there(cohort, tmp_path):
    calls = []

    def counting(image, mask=None):
        calls.append(1)
        return bright(image, mask)

    first = evaluate_cohort(counting, cohort, tmp_path / "run", progress=False)
    again = evaluate_cohort(counting, cohort, tmp_path / "run", rule="overlap", progress=False)
    assert len(calls) == 3
    assert set(again.errors.rule) == {"overlap"}
    assert (again.scans.seconds == first.scans.seconds).all()
    (tmp_path / "run" / "s1" / "points.csv").unlink()
    evaluate_cohort(counting, cohort, tmp_path / "run", rule="overlap", progress=False)
    assert len(calls) == 3
    assert json.loads(again.scans[["voxels"]].to_json()) == json.loads(first.scans[["voxels"]].to_json())
