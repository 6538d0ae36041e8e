"""Splits by patient: nobody stands in two, shares are kept, and lesions are alike in all."""

import numpy as np
import pandas as pd
import pytest

from kit.__main__ import main
from kit.scans import ManifestError, ScanError, lesion_burden, read_manifest, split_folds, split_patients

PARTS = ["train", "validation", "test"]


@pytest.fixture(scope="module")
def drawn():
    """A shuffled table of 200 patients with one to three sessions, and lesions drawn for each, no file behind them."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {"scan_id": f"{patient}_{session}", "patient_id": f"p{patient}", "session": session, "image": "i", "label": "l",
         "split": ""}
        for patient in range(200)
        for session in range(1, rng.integers(2, 5))
    ).sample(frac=1, random_state=0, ignore_index=True)  # fmt: skip
    lesions = rng.poisson(rng.gamma(1.2, 2.2, len(table)))
    return table, pd.DataFrame({"lesions": lesions, "volume_mm3": (lesions > 0) * rng.lognormal(6, 1.5, len(table))})


def unlike(table, burden):
    """By how much the splits' mean lesion counts, and mean log volumes, of patients' first sessions differ at most."""
    first = table[table["session"] == 1].join(burden)
    means = first.assign(log=np.log1p(first["volume_mm3"])).groupby("split")[["lesions", "log"]].mean()
    assert set(means.index) == set(PARTS)
    return (means.max() - means.min()).to_numpy()


def patients_of(table):
    """Patients of each split, each counted once."""
    return table.drop_duplicates(["patient_id", "split"])["split"].value_counts().to_dict()


@pytest.mark.parametrize(("validation", "test"), [(0.15, 0.2), (0.1, 0.1), (0.25, 0), (1 / 3, 1 / 3), (0.07, 0.31)])
def test_shares_are_kept_to_the_patient_and_no_patient_stands_in_two_splits(validation, test, drawn):
    table, burden = drawn
    dealt = split_patients(table, validation=validation, test=test, burden=burden)
    assert (dealt.groupby("patient_id")["split"].nunique() == 1).all()
    counts = patients_of(dealt)
    for name, share in zip(PARTS, (1 - validation - test, validation, test), strict=True):
        assert abs(counts.get(name, 0) - 200 * share) <= 1, counts
    assert dealt.drop(columns="split").equals(table.drop(columns="split"))


def test_counts_and_volumes_are_more_alike_between_splits_than_by_lot(drawn):
    table, burden = drawn
    patients = table["patient_id"].unique()
    by_lot, dealt = [], []
    for seed in range(40):
        words = np.random.default_rng(seed).permutation(np.repeat(PARTS, [130, 30, 40]))
        by_lot.append(
            unlike(table.assign(split=table["patient_id"].map(dict(zip(patients, words, strict=True)))), burden)
        )
        dealt.append(unlike(split_patients(table, seed=seed, burden=burden), burden))
    assert (np.mean(dealt, axis=0) < 0.5 * np.mean(by_lot, axis=0)).all()


def test_the_same_seed_gives_the_same_split_whatever_the_order_of_rows_and_another_seed_another(drawn):
    table, burden = drawn
    first = split_patients(table, seed=4, burden=burden)
    assert first.equals(split_patients(table, seed=4, burden=burden))
    assert first.sort_index().equals(split_patients(table.iloc[::-1], seed=4, burden=burden).sort_index())
    assert not first.equals(split_patients(table, seed=5, burden=burden))


def test_folds_have_each_patient_once_in_validation_and_leave_the_test_patients(drawn):
    table, burden = drawn
    table = split_patients(table, test=0.2, validation=0, burden=burden)
    folds = split_folds(table, 5, burden=burden)
    held_out = [set(fold.loc[fold["split"] == "validation", "patient_id"]) for fold in folds]
    assert [len(one) for one in held_out] == [32] * 5
    assert len(set.union(*held_out)) == 160
    for fold in folds:
        assert (fold.groupby("patient_id")["split"].nunique() == 1).all()
        assert (fold["split"] == "test").equals(table["split"] == "test")
        assert unlike(fold, burden)[0] < 2


def test_patients_without_any_label_get_no_split_and_take_no_share(drawn):
    table, burden = drawn
    bare = table["patient_id"].isin([f"p{n}" for n in range(50)])
    table = table.assign(label=np.where(bare, "", "l"))
    dealt = split_patients(table, burden=burden[~bare])
    assert (dealt.loc[bare, "split"] == "").all()
    assert patients_of(dealt[~bare]) == {"train": 97, "validation": 23, "test": 30}
    assert {tuple(sorted(set(fold.loc[bare, "split"]))) for fold in split_folds(table, 3, burden=burden[~bare])} == {
        ("",)
    }


def test_one_patient_under_two_names_is_dealt_as_one(drawn):
    table, burden = drawn
    table = table.assign(scan_id=table["scan_id"].where(table["session"] > 1, table["scan_id"] + "_x"))
    for patient, name in (("p1", "UCSF_100101A"), ("p2", "met-100101B")):
        table.loc[table.index[table["patient_id"] == patient][0], "scan_id"] = name
    for seed in range(20):
        dealt = split_patients(table, seed=seed, burden=burden)
        assert dealt.loc[dealt["patient_id"].isin(["p1", "p2"]), "split"].nunique() == 1


def test_lesions_are_counted_and_measured_in_mm_from_the_labels(tmp_path, write_image):
    label = np.zeros((5, 6, 7), np.uint8)
    label[0, 0, :2], label[4, 5, 6], label[2, 2, 2] = 1, 3, 2
    path = str(write_image("label.nii", label, np.diag([0.5, 2, 3, 1])))
    rows = [{"label": path, "lesion_codes": "1;3"}, {"label": "", "lesion_codes": ""}]
    table = pd.DataFrame(rows, index=[7, 9])
    assert lesion_burden(table).reset_index().values.tolist() == [[7, 2, 9.0]]
    with pytest.raises(ScanError, match="lesion_codes"):
        lesion_burden(table.assign(lesion_codes=""))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "leave some for training"),
        ({"validation": -0.1}, "leave some for training"),
        ({"validation": 0.001}, "too few for a validation share of 0.001"),
    ],
)
def test_shares_that_cannot_be_dealt_are_refused(shares, message, drawn):
    table, burden = drawn
    with pytest.raises(ManifestError, match=message):
        split_patients(table, burden=burden, **shares)
    with pytest.raises(ManifestError, match="folds is 201; give 2 to 200"):
        split_folds(table, 201, burden=burden)


@pytest.fixture
def manifest(tmp_path, write_image):
    """Twelve patients with one scan each, four of them in two splits, in a folder with a manifest."""
    lines = ["scan_id,patient_id,session,image,label,split,site"]
    for number in range(12):
        label = np.zeros((4, 5, 6), np.uint8)
        label.flat[: number + 1] = number > 1
        write_image(f"{number}.nii", np.random.default_rng(number).random((4, 5, 6), "f4"))
        write_image(f"{number}-seg.nii", label)
        lines.append(f"s{number},p{number // 3},{number % 3 + 1},{number}.nii,{number}-seg.nii,{PARTS[number % 3]},é")
    (tmp_path / "all.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return tmp_path / "all.csv"


def test_the_command_split_writes_a_manifest_without_the_leaks_of_the_old_one(manifest, capsys):
    with pytest.raises(ManifestError):
        read_manifest(manifest)
    assert main(["split", str(manifest), "--test", "0.25", "--validation", "0.25"]) == 0
    printed = capsys.readouterr()
    manifest.with_name("new.csv").write_text(printed.out, encoding="utf-8")
    table = read_manifest(manifest.with_name("new.csv"))
    assert patients_of(table) == {"train": 2, "validation": 1, "test": 1}
    assert set(table["site"]) == {"é"}
    assert "train: 6 scans of 2 patients, 6 labelled; " in printed.err
    assert main(["split", str(manifest), "--folds", "2", "--fold", "3"]) == 2
    assert "fold is 3; there are 2" in capsys.readouterr().err


def test_the_folds_of_the_command_hold_out_every_patient_once(manifest, capsys):
    text = (
        manifest.read_text(encoding="utf-8").replace(",validation,", ",,").replace(",test,", ",,").replace("train", "")
    )
    manifest.write_text(text, encoding="utf-8")
    held_out = []
    for fold in ("1", "2"):
        assert main(["split", str(manifest), "--folds", "2", "--fold", fold]) == 0
        manifest.with_name("new.csv").write_text(capsys.readouterr().out, encoding="utf-8")
        table = read_manifest(manifest.with_name("new.csv"))
        held_out += table.loc[table["split"] == "validation", "patient_id"].unique().tolist()
    assert sorted(held_out) == ["p0", "p1", "p2", "p3"]
