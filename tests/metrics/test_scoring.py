"""Anybody's maps are scored as our own, and what cannot be scored is refused by name before anything is written."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_scans import AFFINE, make_scan, save, write_cohort

from kit.__main__ import main
from kit.figures import write_report
from kit.metrics import (
    RULES,
    Links,
    PredictionError,
    Rule,
    detect,
    find_predictions,
    iou_rule,
    partitions,
    rule_table,
    score,
    sweep,
)
from kit.metrics.scoring import TABLES
from kit.models import Detector, build, save_weights
from kit.scans import (
    components,
    foreground,
    lesion_table,
    load_map,
    load_row,
    load_scan,
    normalise,
    save_map,
    search_region,
)
from kit.viewer import apply_verdicts, saved_maps

ABOUT = {"predictions": "<b>", "manifest": "m", "threshold": 0.5, "low": 0.2, "rule": "thesis", "min_volume_mm3": 0}


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


@pytest.fixture(params=["anisotropic", "oblique", "built-in"])
def elsewhere(request, tmp_path):
    """A scan whose voxels are not those a detector sees: 3 mm slices, the same turned by 20 degrees; one of 1 mm."""
    image, label = make_scan(5)
    affine = AFFINE.copy()
    if request.param != "built-in":
        image, label = (np.ascontiguousarray(array[1::3]) for array in (image, label))
        affine = AFFINE @ np.diag([1.0, 1.0, 3.0, 1.0])
    if request.param == "oblique":
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]]
        affine = turn @ affine
    for name, array in (("image", image), ("label", label.astype(np.uint8))):
        nib.save(nib.Nifti1Image(array.T, affine), tmp_path / f"{name}.nii.gz")
    row = {
        "scan_id": "s",
        "patient_id": "p",
        "session": 1,
        "split": "test",
        "mask": "",
        "lesion_codes": "",
        "source": "",
    }
    return pd.DataFrame([row | {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}])


def assert_same(ours, theirs, but=()):
    for name in TABLES:
        columns = [column for column in getattr(ours, name) if column not in but]
        pd.testing.assert_frame_equal(getattr(ours, name)[columns], getattr(theirs, name)[columns], check_exact=True)


def never(image, mask=None):
    raise AssertionError("a scan was mapped again")


def test_fresh_resumed_scored_again_and_foreign_maps_have_the_same_tables_to_the_last_digit(elsewhere, tmp_path):
    quiet = {"progress": False}
    fresh = score(bright, elsewhere, **quiet)
    kept = score(bright, elsewhere, tmp_path / "run", **quiet)
    resumed = score(never, elsewhere, tmp_path / "run", **quiet)
    foreign = score(tmp_path / "run", elsewhere, **quiet)
    score(never, elsewhere, tmp_path / "run", rule="overlap", threshold=0.3, **quiet)
    again = score(never, elsewhere, tmp_path / "run", **quiet)
    for other in (kept, resumed, again, foreign):
        assert_same(fresh, other, but=["seconds"])
    assert resumed.scans.seconds.notna().all()
    assert fresh.lesions.found.any()


def test_another_rule_gives_what_it_gives_afresh(elsewhere, tmp_path):
    asked = {"rule": "iou", "threshold": 0.4, "low": 0.1, "min_volume_mm3": 9, "progress": False}
    score(bright, elsewhere, tmp_path / "run", progress=False)
    again = score(never, elsewhere, tmp_path / "run", **asked)
    assert_same(score(bright, elsewhere, **asked), again, but=["seconds"])


def test_a_score_belongs_to_the_grid_of_the_label(elsewhere, tmp_path):
    found = score(bright, elsewhere, tmp_path / "run", progress=False)
    own = load_row(elsewhere.iloc[0], spacing_mm=None)
    mapped = load_map(tmp_path / "run" / "s" / "map.nii.gz", own)
    expected = detect(mapped, own.label, spacing_mm=own.spacing_mm)
    ours = found.sweep[(found.sweep.threshold == 0.5) & (found.sweep.min_volume_mm3 == 0)].iloc[0]
    assert (ours.tp, ours.fn, ours.fp, ours.dice) == (expected.tp, expected.fn, expected.fp, expected.dice)
    assert found.scans.slices.item() == len(own.label)


def test_verdicts_find_the_component_they_judged(elsewhere, tmp_path):
    own = load_row(elsewhere.iloc[0], spacing_mm=None)
    spoilt = own.label & (components(own.label) != 1)  # a lesion that the label lacks, and a slip of the label
    spoilt[1, 3:7, 3:7] = True
    save_map(spoilt, own, tmp_path / "label.nii.gz")
    found = score(bright, elsewhere, tmp_path / "run", progress=False)
    faults = found.errors[found.errors.kind != "TP"].assign(verdict="label fault", note="")
    assert set(faults.kind) == {"FP", "FN"}
    apply_verdicts(elsewhere, faults, tmp_path / "revised", saved_maps(elsewhere, tmp_path / "run"))
    changes = pd.read_csv(tmp_path / "revised" / "changes.csv")
    assert changes.component.tolist() == faults.component.tolist()
    assert (changes.voxels > 0).all()


@pytest.mark.slow
def test_several_processes_give_the_tables_of_one(cohort, tmp_path):
    one = score(tmp_path / "maps", cohort, progress=False)
    assert_same(one, score(tmp_path / "maps", cohort, workers=2, progress=False))
    assert_same(
        score(bright, cohort, progress=False), score(bright, cohort, workers=2, progress=False), but=["seconds"]
    )


def test_a_changed_map_of_a_folder_is_scored_again(cohort, tmp_path):
    first = score(tmp_path / "maps", cohort, tmp_path / "tables", progress=False)
    assert not list((tmp_path / "tables").rglob("*.nii.gz"))
    save(np.zeros(make_scan(1)[0].shape, np.float32), tmp_path / "maps" / "s1.nii.gz")
    second = score(tmp_path / "maps", cohort, tmp_path / "tables", progress=False)
    assert second.sweep.tp.sum() < first.sweep.tp.sum()
    assert second.reliability["count"].iloc[0] > first.reliability["count"].iloc[0]


def test_a_cohort_without_scans_has_columns(cohort, tmp_path):
    found, full = (score(tmp_path / "maps", rows, progress=False) for rows in (cohort[:0], cohort))
    for name in TABLES:
        assert getattr(found, name).empty
        assert list(getattr(found, name)) == list(getattr(full, name))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "dice"}, "rule is 'dice'"),
        ({"rules": ["thesis", "dice"]}, "rule is 'dice'"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"low": 0}, "low is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"source": 7}, "source is 7"),
        ({"rule": Rule("mine", "never", lambda contact, kept: None), "workers": 2}, "rule 'mine' cannot be imported"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(given, message, cohort):
    with pytest.raises(ValueError, match=message):
        score(**{"source": never, "table": cohort, "progress": False, **given})


def test_scans_without_label_and_options_of_a_folder_are_refused(cohort, tmp_path):
    with pytest.raises(PredictionError, match="s2: has no label"):
        score(never, cohort.assign(label=[cohort.label[0], "", cohort.label[2]]))
    with pytest.raises(ValueError, match="takes no device"):
        score(tmp_path / "maps", cohort, device="cpu")


def anything(contact, kept):
    """A rule that finds every lesion with every component."""
    return Links(np.ones((contact.lesions, len(kept)), bool), np.zeros(len(kept), bool))


def test_a_rule_from_outside_goes_through_everything(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "anything", Rule("anything", "whatever is predicted", anything))
    scan = load_scan(cohort.image[0], cohort.label[0])
    probability = bright(scan.image)
    assert detect(probability, scan.label, rule="anything").fn == 0
    assert sweep(probability, scan.label, (0.5,), (0,), rule="anything").fn.item() == 0
    assert "anything" in rule_table(probability, scan.label).rule.tolist()
    code, out = run(tmp_path, "--rule", "anything")
    assert code == 0
    assert set(pd.read_csv(out / "errors.csv").rule) == {"anything"}
    assert pd.read_csv(out / "rules.csv").rule.unique().tolist() == list(RULES)
    page = (out / "report.html").read_text()
    assert "whatever is predicted" in page
    assert "The same maps under 6 rules" in page
    strict = score(tmp_path / "maps", cohort, rule=iou_rule(0.5), progress=False)
    assert "iou 0.5" in strict.rules.rule.tolist()


def test_masks_count_as_maps(cohort, tmp_path):
    for row in cohort.to_dict("records"):
        mask = bright(load_scan(row["image"]).image) > 0.4
        save(mask.astype(np.uint8), tmp_path / "maps" / f"{row['scan_id']}.nii.gz")
    table = score(tmp_path / "maps", cohort, progress=False).sweep
    assert table.groupby(["scan_id", "min_volume_mm3"])[["tp", "fp"]].nunique().eq(1).all(axis=None)  # whatever theta
    scan = load_scan(cohort.image[0], cohort.label[0])
    found = detect(bright(scan.image) > 0.4, scan.label)
    assert table.tp[0] == found.tp
    assert table.fp[0] == found.fp


def test_scans_with_lesions_are_told_from_those_without_where_all_lesions_are_certain(cohort, tmp_path):
    for row in cohort.to_dict("records"):
        shutil.copy(row["label"], tmp_path / "maps" / f"{row['scan_id']}.nii")
        (tmp_path / "maps" / f"{row['scan_id']}.nii.gz").unlink()
    tables = vars(score(tmp_path / "maps", cohort, progress=False))
    page = write_report(tmp_path / "report.html", tables, ABOUT).read_text()
    assert "By its highest finding: AUROC 1.00" in page


def test_maps_of_a_folder_are_scored_in_another_region_without_a_folder_of_tables(cohort, tmp_path):
    bright_alone = {"where": lambda scan, row: scan.image > 500}
    found, whole = (score(tmp_path / "maps", cohort, progress=False, **given) for given in (bright_alone, {}))
    assert (found.scans.voxels < whole.scans.voxels).all()
    pd.testing.assert_frame_equal(found.sweep, whole.sweep)
    assert len(list((tmp_path / "maps").iterdir())) == 3


def test_the_command_writes_tables_and_one_page_that_needs_no_network(cohort, tmp_path, capsys):
    code, out = run(tmp_path)
    assert code == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    names = {f"{name}.csv" for name in TABLES} | {"report.html"}
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
    message = capsys.readouterr().err
    assert code == 2
    assert not out.exists()
    assert "3 problems, nothing was scored" in message
    assert "s1: " in message
    assert "grid" in message
    assert "s2: " in message
    assert "values from 3 to 3 are no probabilities" in message
    assert "s3: no s3.nii.gz (there is s03.nii.gz)" in message


def test_a_map_with_nan_and_a_damaged_one_are_refused(cohort, tmp_path):
    hole = bright(load_scan(cohort.image[0]).image)
    hole[3, 4, 5] = np.nan
    save(hole, tmp_path / "maps" / "s1.nii.gz")
    (tmp_path / "maps" / "s2.nii.gz").write_bytes(b"no image")
    with pytest.raises(PredictionError) as refused:
        score(tmp_path / "maps", cohort, progress=False)
    assert [problem.split(":")[0] for problem in refused.value.problems] == ["s1", "s2"]


def test_a_map_of_the_right_shape_in_another_place_is_refused(cohort, tmp_path):
    array = bright(load_scan(cohort.image[0]).image)
    moved = AFFINE.copy()
    moved[0, 3] = 7
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), moved), tmp_path / "maps" / "s1.nii.gz")
    with pytest.raises(PredictionError, match=r"s1: .*grid"):
        score(tmp_path / "maps", cohort, progress=False)


def test_rules_are_compared_on_the_maps_that_are_there(cohort, tmp_path):
    (tmp_path / "maps" / "s2.nii.gz").unlink()
    there = cohort[cohort.scan_id.isin(find_predictions(tmp_path / "maps", cohort)[0])]
    rules = score(tmp_path / "maps", there, rules=["overlap", iou_rule(0.5)], progress=False).rules
    assert rules[["scan_id", "rule"]].values.tolist() == [[s, r] for s in ("s1", "s3") for r in ("overlap", "iou 0.5")]
    scan = load_scan(cohort.image[0], cohort.label[0])
    assert rules.tp[0] == detect(bright(scan.image), scan.label, rule="overlap").tp


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
    tables = vars(score(tmp_path / "maps", table, progress=False))
    page = write_report(tmp_path / "report.html", tables, ABOUT).read_text()
    assert "There is no lesion" in page
    assert "&lt;b&gt;" in page


def test_an_evaluation_by_another_rule_scores_the_maps_that_are_there(cohort, tmp_path):
    calls = []

    def counting(image, mask=None):
        calls.append(1)
        return bright(image, mask)

    first = score(counting, cohort, tmp_path / "run", progress=False)
    again = score(counting, cohort, tmp_path / "run", rule="overlap", progress=False)
    assert len(calls) == 3
    assert set(again.errors.rule) == {"overlap"}
    assert (again.scans.seconds == first.scans.seconds).all()
    (tmp_path / "run" / "s1" / "points.csv").unlink()
    score(counting, cohort, tmp_path / "run", rule="overlap", progress=False)
    assert len(calls) == 3
    assert json.loads(again.scans[["voxels"]].to_json()) == json.loads(first.scans[["voxels"]].to_json())


# a detector's cohort --------------------------------------------------------------------------------------------------


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
    found = score(Bright(), table, tmp_path / "out", progress=False)
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
    once = score(Bright(), table, tmp_path / "once", progress=False)
    score(Bright(), table[:2], tmp_path / "twice", progress=False)
    detector = Bright()
    again = score(detector, table, tmp_path / "twice", progress=False)
    assert detector.calls == 1
    assert again.sweep.equals(once.sweep)
    assert again.lesions.equals(once.lesions)


def test_the_map_lies_beside_the_tables_on_the_scans_own_grid(table, tmp_path):
    score(Bright(), table[:1], tmp_path / "out", progress=False)
    row = table.iloc[0]
    scan = load_scan(row.image)
    mapped = load_map(tmp_path / "out" / row.scan_id / "map.nii.gz", scan)
    np.testing.assert_array_equal(mapped, Bright()(scan.image, foreground(scan.image)))
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_lesion_outside_the_mask_is_missed_and_not_forgotten(table, tmp_path):
    scan = load_scan(table.image[0], table.label[0])
    mask = foreground(scan.image) & ~scan.label
    row = table[:1].assign(mask=save(mask.astype(np.uint8), tmp_path / "mask.nii"))
    found = score(Bright(), row, tmp_path / "out", progress=False)
    assert len(found.lesions) == len(lesion_table(scan.label, (1, 1, 1)))
    assert not found.lesions.found.any()


def test_a_scan_without_lesion_counts_its_false_positives(tmp_path):
    table = write_cohort(tmp_path, (1,), lesions=0).assign(patient_id="p")
    found = score(Bright(), table, tmp_path / "out", progress=False)
    assert found.lesions.empty
    assert found.lesions.found.dtype == bool
    assert found.sweep.fp.max() > 0


def test_scans_with_and_without_lesions_make_one_table(table, tmp_path):
    healthy = write_cohort(tmp_path, (9,), lesions=0).assign(patient_id="s")
    found = score(Bright(), pd.concat([healthy, table]), tmp_path / "out", progress=False)
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


def test_a_search_region_within_the_lesions_boxes_has_no_healthy_boxes(table, tmp_path):
    scan = load_scan(table.image[0], table.label[0])
    row = {"scan_id": "s", "mask": save(scan.label.astype(np.uint8), tmp_path / "mask.nii")}
    around = np.zeros(scan.label.shape, bool)
    for box in lesion_table(scan.label, scan.spacing_mm).box:
        around[tuple(slice(max(low - 2, 0), high + 2) for low, high in box)] = True
    mask = partitions(scan, row, margin_mm=2)
    np.testing.assert_array_equal(mask, around & (scan.image > scan.image.min()))


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
    for metadata, statistics in (({"mean": "300.0", "sd": "80.0"}, (300.0, 80.0)), ({}, "scan")):
        save_weights(network, tmp_path / "a.safetensors", metadata)
        detector = Detector.load("A", tmp_path / "a.safetensors")
        assert detector.statistics == statistics
        expected = Detector(network, statistics)(image, mask)
        np.testing.assert_array_equal(detector(image, mask), expected)
    assert normalise(image, (300.0, 80.0)).mean() != pytest.approx(normalise(image).mean())
