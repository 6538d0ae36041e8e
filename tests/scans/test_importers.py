"""Importers: the names that each collection gives its files come to patients, sessions, images and labels."""

import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small_scans import make_scan
from small_scans import save as save_small

from kit.__main__ import main
from kit.samplers import prepare
from kit.scans import COLLECTIONS, ManifestError, import_collection, load_scan, read_manifest, select, write_manifest


@pytest.fixture
def tree(tmp_path):
    """`tree(*paths)`: empty files below a folder `data`, which is returned."""

    def make(*paths):
        for path in paths:
            place = tmp_path / "data" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        return tmp_path / "data"

    return make


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(voxels), np.diag([-1.0, -1.0, 2.0, 1.0]))
    image.set_sform(image.affine, code=1)
    nib.save(image, path)


def rows(found):
    """Scan, patient, session, and the files from the folder on; every file is there."""
    table = found.table
    files = [[path and str(found.folder.__class__(path).relative_to(found.folder)) for path in table[column]]
             for column in ("image", "label")]  # fmt: skip
    assert all((found.folder / path).is_file() for column in files for path in column if path)
    assert set(table["source"]) == {found.name}
    return list(zip(table["scan_id"], table["patient_id"], table["session"], *files, strict=True))


def mets(name, *kinds, folder="MICCAI-LH-BraTS2025-MET-Challenge-Training"):
    return [f"{folder}/{name}/{name}-{kind}.nii.gz" for kind in kinds]


def test_brats_mets_numbers_the_sessions_of_a_patient_and_leaves_oedema_and_cavity_out(tree):
    folder = "MICCAI-LH-BraTS2025-MET-Challenge-Training"
    found = import_collection("brats-mets", tree(
        *mets("BraTS-MET-00002-001", "t1c", "seg", "t1n", "t2f", "t2w"),
        *mets("BraTS-MET-00002-000", "t1c", "seg"),
        *mets("BraTS-MET-00010-000", "t1c"),
        *mets("BraTS-MET-00011-000", "seg"),
        f"{folder}/BraTS-MET-00010-000/.DS_Store", "notes.md",
    ))  # fmt: skip
    assert rows(found) == [
        ("BraTS-MET-00002-000", "BraTS-MET-00002", 1, *mets("BraTS-MET-00002-000", "t1c", "seg")),
        ("BraTS-MET-00002-001", "BraTS-MET-00002", 2, *mets("BraTS-MET-00002-001", "t1c", "seg")),
        ("BraTS-MET-00010-000", "BraTS-MET-00010", 1, *mets("BraTS-MET-00010-000", "t1c"), ""),
    ]
    assert found.table["lesion_codes"].tolist() == ["1;3", "1;3", ""]
    assert found.unknown == [f"{folder}/BraTS-MET-00010-000/.DS_Store", "notes.md"]
    assert found.summary()[0] == "brats-mets: 3 scans, 3 sessions, 2 patients, 2 labelled"
    assert f"segmentations without an image: 1 ({mets('BraTS-MET-00011-000', 'seg')[0]})" in found.notes
    assert f"images without a segmentation: 1 ({mets('BraTS-MET-00010-000', 't1c')[0]})" in found.notes
    assert found.summary()[-1] == f"files not recognised: 2 ({folder}/BraTS-MET-00010-000/.DS_Store, notes.md)"


def test_corrected_labels_of_brats_mets_win_over_those_beside_the_image(tree):
    corrected = "Task1/MICCAI-LH-BraTS2025-MET-Challenge-corrected-labels/BraTS-MET-00002-000-seg.nii.gz"
    found = import_collection("brats-mets", tree(*mets("BraTS-MET-00002-000", "t1c", "seg"), corrected))
    assert [row[4] for row in rows(found)] == [corrected]
    assert "other files of the collection, not needed: 1" in found.notes


def test_a_scan_in_two_folders_is_taken_once_and_the_other_named(tree):
    name = "BraTS-MET-00001-000"
    found = import_collection("brats-mets", tree(*mets(name, "t1c", folder="a"), *mets(name, "t1c", folder="b")))
    assert [row[3] for row in rows(found)] == mets(name, "t1c", folder="a")
    assert any(
        note.startswith("files that come again") and mets(name, "t1c", folder="b")[0] in note for note in found.notes
    )


def test_the_letter_of_ucsf_bmsr_is_the_exam_of_the_patient(tree):
    names = "100101A", "100101B", "100204A"
    train = [f"UCSF_BrainMetastases_v1.3/UCSF_BrainMetastases_TRAIN/{name}/{name}" for name in names]
    others = [f"{train[0]}_{kind}.nii.gz" for kind in ("T1pre", "FLAIR", "T2Synth", "subtraction", "BraTS-seg")]
    found = import_collection("ucsf-bmsr", tree(
        *(f"{name}_{kind}.nii.gz" for name in train for kind in ("T1post", "seg")), *others, "TableS1.xlsx", "x.bin",
    ))  # fmt: skip
    assert rows(found) == [
        ("UCSF-100101A", "UCSF-100101", 1, f"{train[0]}_T1post.nii.gz", f"{train[0]}_seg.nii.gz"),
        ("UCSF-100101B", "UCSF-100101", 2, f"{train[1]}_T1post.nii.gz", f"{train[1]}_seg.nii.gz"),
        ("UCSF-100204A", "UCSF-100204", 1, f"{train[2]}_T1post.nii.gz", f"{train[2]}_seg.nii.gz"),
    ]
    assert "lesion_codes" not in found.table
    assert found.unknown == ["x.bin"]


def test_brainmetshare_takes_the_gradient_echo_and_the_spin_echo_where_that_is_missing(tree):
    found = import_collection("brainmetshare", tree(
        *(f"train_NifTI/Mets_005/{kind}.nii.gz" for kind in ("bravo", "t1_gd", "t1_pre", "flair", "seg")),
        "train_NifTI/Mets_010/t1_gd.nii.gz", "train_NifTI/Mets_010/seg.nii.gz", "test_NifTI/Mets_106/bravo.nii.gz",
    ))  # fmt: skip
    assert rows(found) == [
        ("Mets_005", "Mets_005", 1, "train_NifTI/Mets_005/bravo.nii.gz", "train_NifTI/Mets_005/seg.nii.gz"),
        ("Mets_010", "Mets_010", 1, "train_NifTI/Mets_010/t1_gd.nii.gz", "train_NifTI/Mets_010/seg.nii.gz"),
        ("Mets_106", "Mets_106", 1, "test_NifTI/Mets_106/bravo.nii.gz", ""),
    ]
    assert found.unknown == []


def draw_slices(folder, patient, images, labels):
    for kind, stack in (("0", images), ("seg", labels), ("1", images), ("3", images)):
        for number, voxels in enumerate(stack):
            place = folder / "mets_stanford_releaseMask_train" / patient / kind / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(voxels).save(place)


def test_slice_folders_of_brainmetshare_become_volumes_slice_by_slice(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 5, 4), dtype=np.uint8)  # 12: slice 10 comes after slice 2
    labels = np.where(rng.random((12, 5, 4)) < 0.1, np.uint8(255), np.uint8(0))
    draw_slices(tmp_path, "Mets_007", images, labels)
    for _ in range(2):  # the second time the stacks are there
        found = import_collection("brainmetshare", tmp_path)
        assert rows(found) == [
            ("Mets_007", "Mets_007", 1, *(f"from_slices/Mets_007/{name}.nii.gz" for name in ("bravo", "seg")))
        ]
        assert found.unknown == []
        assert any("with voxels of 1 x 0.94 x 0.94 mm" in note for note in found.notes)
    scan = load_scan(*found.table.loc[0, ["image", "label"]], spacing_mm=None)
    np.testing.assert_array_equal(scan.image, images)
    np.testing.assert_array_equal(scan.label, labels > 0)
    assert scan.spacing_mm == pytest.approx((1, 0.94, 0.94))


def test_slices_of_different_sizes_are_named_and_not_stacked(tmp_path):
    draw_slices(tmp_path, "Mets_007", np.ones((3, 5, 4), np.uint8), np.ones((3, 5, 4), np.uint8))
    draw_slices(tmp_path, "Mets_008", [np.ones((5, 4), np.uint8), np.ones((5, 5), np.uint8)], [])
    found = import_collection("brainmetshare", tmp_path)
    assert [row[0] for row in rows(found)] == ["Mets_007"]
    assert (
        "folders of slices that differ in size, not stacked: 1 (mets_stanford_releaseMask_train/Mets_008/0)"
        in found.notes
    )


def test_pretreat_mets_has_the_names_and_values_of_brats(tree):
    base = "PKG - Pretreat-MetsToBrain-Masks/Pretreat-MetsToBrain-Masks/BraTS-MET-00105-000/BraTS-MET-00105-000"
    found = import_collection("pretreat-mets", tree(*(f"{base}-{kind}.nii.gz" for kind in ("t1c", "t1n", "seg"))))
    assert rows(found) == [("BraTS-MET-00105-000", "BraTS-MET-00105", 1, f"{base}-t1c.nii.gz", f"{base}-seg.nii.gz")]
    assert found.table["lesion_codes"].tolist() == ["1;3"]
    base = base.replace("-000", "")
    (row,) = rows(import_collection("pretreat-mets", tree(f"x/{base}-t1c.nii.gz").joinpath("x")))
    assert row[:3] == ("BraTS-MET-00105", "BraTS-MET-00105", 1)


def test_nyumets_orders_studies_by_their_days_and_takes_the_planning_scan(tmp_path):
    def place(patient, study):
        return tmp_path / "imaging" / "patientId" / patient / "studyId" / study

    label = np.zeros((4, 5, 6), np.uint8)
    save(place("10000001", "3000000002") / "RTSTRUCT_segmentation.nii.gz", label)
    label[1, 1, 1], label[2, 2, 2] = 1, 4
    save(place("10000001", "3000000001") / "RTSTRUCT_segmentation.nii.gz", label)
    for study, names in (
        ("3000000001", ("RTSTRUCT_MRI", "CT1", "T1")),
        ("3000000002", ("CT1", "FLAIR")),
        ("3000000000", ("CT1",)),
    ):
        for name in names:
            save(place("10000001", study) / f"{name}.nii.gz", np.random.default_rng(0).random((4, 5, 6), "f4"))
    (tmp_path / "image_metadata.csv").write_text(
        "PatientID,StudyID,RelativeTimepoint\n10000001,3000000001,120\n10000001,3000000002,-3\n"
    )
    found = import_collection("nyumets", tmp_path)
    assert [row[:3] for row in rows(found)] == [
        ("NYU-10000001-3000000002", "NYU-10000001", 1),
        ("NYU-10000001-3000000001", "NYU-10000001", 2),
        ("NYU-10000001-3000000000", "NYU-10000001", 3),
    ]
    assert [row[3].rpartition("/")[2] for row in rows(found)] == ["CT1.nii.gz", "RTSTRUCT_MRI.nii.gz", "CT1.nii.gz"]
    assert found.table["lesion_codes"].tolist() == ["", "1;4", ""]
    assert any("without a day" in note and "(NYU-10000001-3000000000)" in note for note in found.notes)
    assert found.unknown == []


@pytest.mark.parametrize("own_folder", [True, False])
def test_brain_mets_lung_takes_the_core_and_leaves_the_whole_with_its_oedema(own_folder, tree):
    kinds = ("t1ce_img", "flair_img", "core_seg", "whole_seg")
    names = [f"radiology/{f'{case}/' if own_folder else ''}{case}_scan" for case in ("YG_1", "YG_2")]
    found = import_collection(
        "brain-mets-lung", tree(*(f"{name}_{kind}.nii.gz" for name in names for kind in kinds), "a.svs")
    )
    assert [row[3:] for row in rows(found)] == [
        (f"{name}_t1ce_img.nii.gz", f"{name}_core_seg.nii.gz") for name in names
    ]
    people = ["LUNG-YG_1", "LUNG-YG_2"] if own_folder else ["LUNG-YG_1_scan", "LUNG-YG_2_scan"]
    assert found.table["patient_id"].tolist() == people
    assert found.unknown == []


def test_openbtai_pairs_image_and_mask_by_name_and_takes_all_values_as_lesion(tmp_path):
    label = np.zeros((4, 5, 6), np.uint8)
    label[1, 1, 1], label[2, 2, 2] = 1, 2
    for name in ("img_19000101", "img_19000412", "img_19001005"):
        save(tmp_path / "040032" / f"{name}.nii", np.random.default_rng(0).random((4, 5, 6), "f4"))
    save(tmp_path / "040032" / "msk_19000101.nii", label)
    save(tmp_path / "040032" / "msk_19001005.nii", label // 2)
    found = import_collection("openbtai", tmp_path)
    assert rows(found) == [
        ("MOLAB-040032-19000101", "MOLAB-040032", 1, "040032/img_19000101.nii", "040032/msk_19000101.nii"),
        ("MOLAB-040032-19000412", "MOLAB-040032", 2, "040032/img_19000412.nii", ""),
        ("MOLAB-040032-19001005", "MOLAB-040032", 3, "040032/img_19001005.nii", "040032/msk_19001005.nii"),
    ]
    assert found.table["lesion_codes"].tolist() == ["1;2", "", ""]


def proteas(folder, patient, visit, values, *, spelling="tumor_segmentation"):
    """A scan whose oedema is dark and whose enhancing tumour is bright; `values` are necrosis, oedema, tumour."""
    label = np.zeros((6, 6, 6), np.uint8)
    image = np.random.default_rng(0).normal(100, 5, (6, 6, 6)).astype("f4")
    for value, place, bright in zip(values, (1, 2, 4), (60, 70, 200), strict=True):
        label[place] = value
        image[place] = image[place] if not value else bright
    save(folder / patient / "BraTS" / visit / "t1c.nii.gz", image)
    save(folder / patient / spelling / f"{patient}_tumor_mask_{visit}.nii.gz", label)


def test_proteas_finds_out_by_brightness_which_value_is_oedema(tmp_path):
    proteas(tmp_path, "P01", "baseline", (1, 2, 3), spelling="tumor segmentation")
    proteas(tmp_path, "P01", "fu1", (1, 2, 3), spelling="tumor segmentation")
    proteas(tmp_path, "P02", "baseline", (1, 3, 2))
    proteas(tmp_path, "P03", "baseline", (0, 0, 3))
    for name in ("P01/P01_brain_mask.nii.gz", "P01/P01_CT.nii.gz", "P01/BraTS/fu1/fla.nii.gz", "P01/DICOM/T1C_1/a.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = import_collection("proteas", tmp_path)
    assert found.table["lesion_codes"].tolist() == ["1;3", "1;3", "1;2", "1;3"]
    assert [row[:3] for row in rows(found)] == [
        ("PROTEAS-P01-baseline", "PROTEAS-P01", 1),
        ("PROTEAS-P01-fu1", "PROTEAS-P01", 2),
        ("PROTEAS-P02-baseline", "PROTEAS-P02", 1),
        ("PROTEAS-P03-baseline", "PROTEAS-P03", 1),
    ]
    assert [row[4] for row in rows(found)][1:3] == [
        "P01/tumor segmentation/P01_tumor_mask_fu1.nii.gz",
        "P02/tumor_segmentation/P02_tumor_mask_baseline.nii.gz",
    ]
    assert found.unknown == []
    assert any("labels with 3 for enhancing tumour, by its brightness: 2 " in note for note in found.notes)


def test_both_courses_of_a_proteas_patient_are_one_patient(tmp_path):
    for patient, visit in (("P04b", "baseline"), ("P04a", "baseline"), ("P04a", "fu10"), ("P04a", "fu2")):
        proteas(tmp_path, patient, visit, (1, 2, 3))
    assert [row[:3] for row in rows(import_collection("proteas", tmp_path))] == [
        ("PROTEAS-P04-a-baseline", "PROTEAS-P04", 1),
        ("PROTEAS-P04-a-fu2", "PROTEAS-P04", 2),
        ("PROTEAS-P04-a-fu10", "PROTEAS-P04", 3),
        ("PROTEAS-P04-b-baseline", "PROTEAS-P04", 4),
    ]


def test_proteas_refuses_to_guess_where_no_label_tells_oedema_from_tumour(tmp_path):
    proteas(tmp_path, "P03", "baseline", (1, 0, 3))
    with pytest.raises(ManifestError, match="none says which of them is oedema"):
        import_collection("proteas", tmp_path)


def test_pairs_follow_their_patterns_in_any_script(tree):
    folder = tree(
        "Jürgen/1/t1gd.nii.gz",
        "Jürgen/1/seg.nii.gz",
        "Jürgen/2/t1gd.nii.gz",
        "患者/10/t1gd.nii.gz",
        "患者/9/t1gd.nii.gz",
    )
    found = import_collection("pairs", folder, image="{patient}/{session}/t1gd.nii.gz",
                              label="{patient}/{session}/seg.nii.gz", lesion_codes="2")  # fmt: skip
    assert rows(found) == [
        ("Jürgen-1", "Jürgen", 1, "Jürgen/1/t1gd.nii.gz", "Jürgen/1/seg.nii.gz"),
        ("Jürgen-2", "Jürgen", 2, "Jürgen/2/t1gd.nii.gz", ""),
        ("患者-9", "患者", 1, "患者/9/t1gd.nii.gz", ""),
        ("患者-10", "患者", 2, "患者/10/t1gd.nii.gz", ""),
    ]
    assert found.table["lesion_codes"].tolist() == ["2", "", "", ""]


def test_a_field_that_comes_twice_in_a_pattern_must_say_the_same_and_a_star_is_any_text(tree):
    folder = tree("anna/anna_x1_T1.nii", "anna/otto_x1_T1.nii", "otto/otto_(2)_T1.nii")
    found = import_collection("pairs", folder, image="{patient}/{patient}_*_T1.nii")
    assert [row[3] for row in rows(found)] == ["anna/anna_x1_T1.nii", "otto/otto_(2)_T1.nii"]
    assert found.unknown == ["anna/otto_x1_T1.nii"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the pattern of its images"),
        ({"image": "t1.nii"}, "name the patient in it"),
        ({"image": "{patient}_{scan}.nii"}, "of {scan} nothing is known"),
        ({"image": "{patient}_{session}_a.nii", "label": "{patient}_b.nii"}, "in both or none"),
        ({"pattern": "x"}, "pairs has no option pattern; it has image, label, lesion_codes"),
    ],
)
def test_patterns_that_cannot_be_used_are_refused(options, message, tree):
    with pytest.raises(ManifestError, match=re.escape(message)):
        import_collection("pairs", tree("a.nii"), **options)


def test_bids_takes_contrast_enhanced_t1_and_lesion_masks_from_derivatives(tree):
    raw = ["sub-01/ses-10/anat/sub-01_ses-10_acq-3d_ce-gadolinium_T1w.nii.gz",
           "sub-01/ses-2/anat/sub-01_ses-2_ce-Gd_run-1_T1w.nii.gz",
           "sub-müller/anat/sub-müller_ce-gadolinium_T1w.nii.gz"]  # fmt: skip
    masks = ["derivatives/manual/sub-01/ses-10/anat/sub-01_ses-10_space-orig_label-lesion_mask.nii.gz",
             "derivatives/manual/sub-müller/anat/sub-müller_dseg.nii.gz"]  # fmt: skip
    found = import_collection("bids", tree(
        *raw, *masks, "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_ce-Gd_run-1_T1w.json",
        "derivatives/hdbet/sub-01/ses-2/anat/sub-01_ses-2_desc-brain_mask.nii.gz", "dataset_description.json", "README",
        "derivatives/hdbet/sub-01/ses-2/anat/sub-01_ses-2_ce-Gd_run-1_desc-stripped_T1w.nii.gz",
        "participants.tsv", "a.log",
    ))  # fmt: skip
    assert rows(found) == [
        ("sub-01_ses-2", "sub-01", 1, raw[1], ""),
        ("sub-01_ses-10", "sub-01", 2, raw[0], masks[0]),
        ("sub-müller", "sub-müller", 1, raw[2], masks[1]),
    ]
    assert found.unknown == ["a.log"]
    assert "images below derivatives, not used: 1" in found.notes


def test_a_name_that_is_no_collection_is_refused_with_the_nearest():
    with pytest.raises(ManifestError, match=r"'brats-met' \(perhaps 'brats-mets' is meant\): brats-mets, ucsf-bmsr"):
        import_collection("brats-met", ".")


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_folder_without_a_scan_of_the_collection_is_refused_with_what_was_looked_for(name, tree):
    options = {"image": "{patient}.nii"} if name == "pairs" else {}
    with pytest.raises(ManifestError) as refused:
        import_collection(name, tree("somewhere/else.txt"), **options)
    assert "other files: 1 (somewhere/else.txt)" in str(refused.value)
    assert COLLECTIONS[name].layout in str(refused.value)
    with pytest.raises(ManifestError, match="no such folder"):
        import_collection(name, "nowhere", **options)


def test_links_to_folders_and_links_that_lead_nowhere_are_named(tree, tmp_path):
    folder = tree(*mets("BraTS-MET-00001-000", "t1c"))
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "BraTS-MET-00002-000-t1c.nii.gz").symlink_to(tmp_path / "not-fetched")
    found = import_collection("brats-mets", folder)
    assert len(found.table) == 1
    assert found.notes[:2] == ["links to folders, not followed: 1 (again)",
                               "links that lead to no file: 1 (BraTS-MET-00002-000-t1c.nii.gz)"]  # fmt: skip


def test_the_command_writes_a_manifest_that_reads_back_and_its_notes_to_standard_error(tmp_path, capsys):
    rng = np.random.default_rng(0)
    base = tmp_path / "BraTS-MET-00001-000" / "BraTS-MET-00001-000"
    save(base.with_name(f"{base.name}-t1c.nii.gz"), rng.random((4, 5, 6), "f4"))
    save(base.with_name(f"{base.name}-seg.nii.gz"), rng.integers(0, 5, (4, 5, 6), np.uint8))
    assert main(["import", "brats-mets", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    (tmp_path / "manifest.csv").write_text(printed.out, encoding="utf-8")
    table = read_manifest(tmp_path / "manifest.csv")
    assert load_scan(*table.loc[0, ["image", "label"]], lesion_codes=table.loc[0, "lesion_codes"]).label.any()
    assert "brats-mets: 1 scans, 1 sessions, 1 patients, 1 labelled" in printed.err
    assert str(tmp_path) not in printed.out
    found = import_collection("brats-mets", tmp_path)
    assert found.unknown == []  # the manifest is known
    write_manifest(found.table, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "manifest.csv").read_bytes()
    assert main(["import", "brats", str(tmp_path)]) == 2
    assert "perhaps 'brats-mets' is meant" in capsys.readouterr().err


def test_an_imported_collection_is_split_checked_and_prepared_for_training(tmp_path, capsys):
    for number, (scan, session) in enumerate(((1, 0), (1, 1), (2, 0), (3, 0), (4, 0))):
        place = tmp_path / f"BraTS-MET-0000{scan}-00{session}"
        place.mkdir()
        image, label = make_scan(number, lesions=scan)
        save_small(image, place / f"{place.name}-t1c.nii.gz")
        save_small(label.astype(np.uint8) * 3, place / f"{place.name}-seg.nii.gz")
    for command in (["import", "brats-mets", str(tmp_path)], ["split", str(tmp_path / "manifest.csv"), "--test", "0.25",
                    "--validation", "0.25"]):  # fmt: skip
        assert main(command) == 0
        (tmp_path / "manifest.csv").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["check", str(tmp_path / "manifest.csv")]) == 0
    table = read_manifest(tmp_path / "manifest.csv")
    assert table["split"].value_counts().to_dict().keys() == {"train", "validation", "test"}
    cohort = prepare(select(table, "train"), tmp_path / "cache", intensities="scan", progress=False)
    assert len(cohort.scans) == 2
    assert all(len(scan.lesion) for scan in cohort.scans)
