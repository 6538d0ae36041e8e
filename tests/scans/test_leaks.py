"""Leaks: what two splits share is found by names and by voxels, all at once, and nothing else is."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from kit.__main__ import main
from kit.scans import ManifestError, find_leaks, read_manifest

HEADER = "scan_id,patient_id,session,image,label,split"


@pytest.fixture
def cohort(tmp_path, write_image):
    """Four images of random voxels, and a function that writes a manifest of given lines beside them."""
    for name in "abcd":
        write_image(f"{name}.nii.gz", np.random.default_rng(ord(name)).random((3, 4, 5), dtype="f4"))

    def write(*lines, header=HEADER, name="cohort.csv"):
        (tmp_path / name).write_text("\n".join([header, *lines, ""]), encoding="utf-8")
        return tmp_path / name

    return write


def leaks(path, **options):
    table = find_leaks(read_manifest(path, check_leaks=False, **options))
    return table[["leak", "scan_id", "other_scan_id"]].values.tolist()


def test_a_patient_in_two_splits_is_found_with_the_same_session_and_as_a_follow_up(cohort):
    path = cohort("a,p,1,a.nii.gz,,train", "b,p,1,b.nii.gz,,validation", "c,p,2,c.nii.gz,,test", "d,q,1,d.nii.gz,,test")
    assert leaks(path) == [["patient 'p'", "a", "b"], ["follow-up of patient 'p'", "a", "c"]]


def test_sessions_within_one_split_and_rows_without_a_split_are_no_leak(cohort):
    assert leaks(cohort("a,p,1,a.nii.gz,,train", "b,p,2,b.nii.gz,,train", "c,p,3,c.nii.gz,,")) == []


def test_a_copy_packed_anew_is_the_same_image_under_its_other_name(cohort, tmp_path):
    raw = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw, compresslevel=1, mtime=7))
    assert (tmp_path / "a.nii.gz").read_bytes() != (tmp_path / "b.nii.gz").read_bytes()
    assert leaks(cohort("a,p,1,a.nii.gz,,train", "b,q,1,b.nii.gz,,test")) == [["the same voxels", "a", "b"]]


def test_a_copy_with_other_axes_type_and_header_is_the_same_image(cohort, tmp_path):
    image = nib.load(tmp_path / "a.nii.gz")
    turned = image.as_reoriented([[2, -1], [0, 1], [1, -1]])
    other = nib.Nifti2Image(turned.get_fdata().astype("f8"), turned.affine)
    other.header["descrip"] = b"another"
    nib.save(other, tmp_path / "b.nii")
    assert leaks(cohort("a,p,1,a.nii.gz,,train", "b,q,1,b.nii,,train")) == [["the same voxels", "a", "b"]]


def test_one_voxel_changed_is_another_image(cohort, tmp_path, write_image):
    voxels = np.random.default_rng(ord("a")).random((3, 4, 5), dtype="f4")
    voxels[1, 2, 3] = np.nextafter(voxels[1, 2, 3], 2)
    write_image("b.nii.gz", voxels)
    assert leaks(cohort("a,p,1,a.nii.gz,,train", "b,q,1,b.nii.gz,,test")) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("UCSF-100101A,UCSF-100101,1,a.nii.gz,,train", "BraTS-MET-1500-0,m,1,100101A_T1post.nii.gz,,test"),
        ("100101A,100101,1,a.nii.gz,,train", "met_100101B,somebody,1,b.nii.gz,,test"),
        ("BraTS-MET-00007-000,x,1,a.nii.gz,,train", "brats-met-00007-001,y,1,b.nii.gz,,validation"),
        ("100101A,x,1,a.nii.gz,,train", "m1,m,1,100101A/t1c.nii.gz,,test"),
    ],
)  # fmt: skip
def test_a_patient_that_another_collection_names_by_number_is_the_same(one, other, cohort, tmp_path, write_image):
    (tmp_path / "100101A").mkdir()
    for number, name in enumerate(("100101A_T1post.nii.gz", "100101A/t1c.nii.gz")):
        write_image(name, np.arange(60.0).reshape(3, 4, 5) + number)
    ((leak, scan, other_scan),) = leaks(cohort(one, other))
    assert leak.endswith("under another name")
    assert (scan, other_scan) == (one.split(",")[0], other.split(",")[0])


def test_numbers_that_only_look_alike_are_different_patients(cohort):
    assert leaks(cohort("a1001010A,p,1,a.nii.gz,,train", "b-200101A,q,1,b.nii.gz,,test")) == []


def test_reading_a_manifest_refuses_all_its_leaks_in_one_message(cohort, tmp_path):
    (tmp_path / "d.nii.gz").write_bytes((tmp_path / "c.nii.gz").read_bytes())
    path = cohort("100101A,p,1,a.nii.gz,,train", "100101B,q,1,b.nii.gz,,test", "c,r,1,c.nii.gz,,train",
                  "d,r,2,d.nii.gz,,test")  # fmt: skip
    with pytest.raises(ManifestError) as refused:
        read_manifest(path)
    assert [problem[:2] for problem in refused.value.problems] == [(3, "split"), (5, "split"), (5, "image")]
    assert "patient 'UCSF 100101', under another name, is in 'train' on line 2" in str(refused.value)
    assert "say in the column known_leak why not" in str(refused.value)
    with pytest.raises(ManifestError, match="2 problems"):
        read_manifest(path, check_files=False)


def test_a_reason_in_the_column_known_leak_lets_a_row_pass_and_no_other(cohort, tmp_path):
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    lines = ["a,p,1,a.nii.gz,,train,", "b,p,2,b.nii.gz,,test,checks the guard", "c,p,3,c.nii.gz,,test,"]
    path = cohort(*lines, header=f"{HEADER},known_leak")
    assert leaks(path) == [["follow-up of patient 'p'", "a", "c"]]
    assert len(read_manifest(cohort(*lines[:2], header=f"{HEADER},known_leak"))) == 2


def test_two_manifests_are_compared_with_each_other(cohort, tmp_path):
    (tmp_path / "c.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    tables = [
        read_manifest(cohort("a,p,1,a.nii.gz,,train", "b,q,1,b.nii.gz,,train", name="one.csv")),
        read_manifest(cohort("c,r,1,c.nii.gz,,test", "d,q,2,d.nii.gz,,test", name="two.csv"), check_files=False),
    ]
    both = find_leaks(*tables)
    assert both[["leak", "scan_id", "other_scan_id"]].values.tolist() == [
        ["follow-up of patient 'q'", "b", "d"],
        ["the same voxels", "a", "c"],
    ]


def test_images_that_were_read_with_the_manifest_are_not_read_again(cohort, tmp_path):
    table = read_manifest(cohort("a,p,1,a.nii.gz,,train", "b,q,1,b.nii.gz,,test"))
    (tmp_path / "a.nii.gz").unlink()
    assert find_leaks(table).empty
    assert find_leaks(table.iloc[::-1]).empty
    assert next(table.iterrows())[1].attrs["voxels"] is table.attrs["voxels"]  # no row has a copy of all digests


def test_the_command_check_reports_faults_and_leaks_of_all_manifests_at_once(cohort, tmp_path, capsys, write_image):
    write_image("e.nii.gz", np.full((3, 4, 5), np.nan))
    (tmp_path / "d.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    one = cohort("a,p,1,a.nii.gz,,train", "b,q,1,b.nii.gz,,train", name="one.csv")
    two = cohort("c,q,2,c.nii.gz,,test", "d,r,1,d.nii.gz,,test", name="two.csv")
    three = cohort("e,s,1,e.nii.gz,,train", "c,s,2,c.nii.gz,,test", name="three.csv")
    assert main(["check", str(one)]) == 0
    assert "2 scans of 2 patients, 0 labelled" in capsys.readouterr().out
    assert main(["check", str(one), str(two), str(three)]) == 2
    message = capsys.readouterr().err
    for part in ("three.csv: 2 problems", "NaN", "patient 's' is in 'train' on line 2", "follow-up of patient 'q'",
                 "the same voxels", "2 leaks between manifests"):  # fmt: skip
        assert part in message
