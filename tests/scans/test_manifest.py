"""A manifest is either wholly right or refused with every fault in it named."""

import hashlib
import pickle
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from kit.scans import ManifestError, read_manifest, select, write_manifest

HEADER = "scan_id,patient_id,session,image,label,split"


def voxels(seed):
    return np.random.default_rng(seed).random((3, 4, 5), dtype="f4")


@pytest.fixture
def cohort(tmp_path, write_image):
    """Three scans of two patients, with labels, and a function that writes a manifest of given lines beside them."""
    label = np.zeros((3, 4, 5), np.uint8)
    label[1, 2, 3] = 1
    for name in "abc":
        write_image(f"{name}.nii.gz", voxels(ord(name)))
        write_image(f"{name}_label.nii.gz", label)

    def write(*lines, header=HEADER, end="\n", encoding="utf-8"):
        (tmp_path / "cohort.csv").write_bytes(end.join([header, *lines, ""]).encode(encoding))
        return tmp_path / "cohort.csv"

    return write


A = "007,p1,1,a.nii.gz,a_label.nii.gz,train"
B = "b,p1,2,b.nii.gz,,train"
C = "c,p2,1,c.nii.gz,c_label.nii.gz,test"


def problems(path, **options):
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    for row, column, value, message in caught.value.problems:
        assert f"line {row}, {column} {value!r}: {message}" in str(caught.value)
    return caught.value.problems


def only(path, **options):
    found = problems(path, **options)
    assert len(found) == 1, found
    return found[0]


def test_a_right_manifest_becomes_a_table_with_absolute_paths(cohort, tmp_path):
    table = read_manifest(cohort(f"{A},x", f"{B},", f"{C},NA", header=f"{HEADER},site"))
    assert table["scan_id"].tolist() == ["007", "b", "c"]
    assert table["session"].tolist() == [1, 2, 1]
    assert table["session"].dtype.kind == "i"
    assert table["image"].tolist() == [str(tmp_path.resolve() / f"{name}.nii.gz") for name in "abc"]
    assert table["label"].tolist()[1] == ""
    assert table["site"].tolist() == ["x", "", "NA"]
    assert list(table) == [*HEADER.split(","), "site"]


@pytest.mark.parametrize(
    ("delimiter", "end", "encoding"),
    [(",", "\r\n", "utf-8-sig"), (";", "\r\n", "utf-8-sig"), ("\t", "\n", "utf-8"), (",", "\r", "utf-8")],
)
def test_tables_saved_by_spreadsheets_are_read(delimiter, end, encoding, cohort):
    lines = [delimiter.join(f'"{cell}"' for cell in line.split(",")) + delimiter * 2 for line in (A, B, C)]
    header = HEADER.replace(",", delimiter) + delimiter * 2
    path = cohort(*lines, delimiter * 7, header=header, end=end, encoding=encoding)
    assert read_manifest(path)["patient_id"].tolist() == ["p1", "p1", "p2"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_text_that_is_not_utf_8_is_refused(encoding, cohort):
    with pytest.raises(ManifestError, match="save it as 'CSV UTF-8'"):
        read_manifest(cohort(A.replace("007", "Jürgen"), encoding=encoding))


def test_blank_lines_are_skipped_and_counted(cohort):
    problem = only(cohort("", A, "", ",,,,,", "c,p2,1,c.nii.gz,,tset"))
    assert problem.row == 6
    assert problem[1:3] == ("split", "tset")
    assert "perhaps 'test' is meant" in problem.message


def test_a_cell_of_several_lines_does_not_shift_the_line_numbers(cohort):
    path = cohort(f'{A},"one\ntwo"', f"{B},", "c,p2,0,c.nii.gz,,test,", header=f"{HEADER},note")
    assert only(path)[:3] == (5, "session", "0")


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (",p2,1,c.nii.gz,,test", "scan_id", "", "is empty"),
        ("c,,1,c.nii.gz,,test", "patient_id", "", "is empty"),
        ("c,p2,1,,,test", "image", "", "is empty"),
        ("007,p2,1,c.nii.gz,,test", "scan_id", "007", "is on line 2 already"),
        ("c/d,p2,1,c.nii.gz,,test", "scan_id", "c/d", "no slashes"),
        ("c,p2,1.0,c.nii.gz,,test", "session", "1.0", "number a patient's sessions"),
        ("c,p2,2015-03-01,c.nii.gz,,test", "session", "2015-03-01", "in the order of their dates"),
        ("c,p2,0,c.nii.gz,,test", "session", "0", "1, 2, 3"),
        ("c,p2,,c.nii.gz,,test", "session", "", "1, 2, 3"),
        ("c,p2,1,c.nii.gz,,Train", "split", "Train", "perhaps 'train' is meant"),
        ("c,p1,3,c.nii.gz,,test", "split", "test", "patient 'p1' is in 'train' on line 2"),
        ("c,p2,1,d.nii.gz,,test", "image", "d.nii.gz", "no such file"),
        ("c,p2,1,c.nii,,test", "image", "c.nii", "perhaps 'c.nii.gz' is meant"),
        ("c,p2,1,scans\\c.nii.gz,,test", "image", "scans\\c.nii.gz", "write its folders with /"),
        ("c,p2,1,c.nii.gz,none.nii,test", "label", "none.nii", "no such file"),
        ("c,p2,1,/c.nii.gz,,test", "image", "/c.nii.gz", "is an absolute path"),
        ("c,p2,1,C:\\c.nii.gz,,test", "image", "C:\\c.nii.gz", "is an absolute path"),
        ("c,p2,1,../c.nii.gz,,test", "image", "../c.nii.gz", "leads out of"),
        ("c,p2,1,a.nii.gz,,test", "image", "a.nii.gz", "is the file of line 2"),
        ("c,p2,1,./x/../a.nii.gz,,test", "image", "./x/../a.nii.gz", "is the file of line 2"),
        ("c,p2,1,c.nii.gz,,test,more", "split", "more", "7 values where the header has 6"),
        ("c,p2,1,c.nii.gz", "image", "c.nii.gz", "4 values where the header has 6"),
    ],
)
def test_a_fault_of_the_table_is_named(line, column, value, message, cohort):
    for check_files in (True, False):
        problem = only(cohort(A, line), check_files=check_files)
        assert problem[:3] == (3, column, value)
        assert message in problem.message


def test_all_faults_come_at_once_in_the_order_of_their_lines(cohort, tmp_path, write_image):
    write_image("nan.nii", np.full((3, 4, 5), np.nan))
    write_image("four.nii", np.zeros((3, 4, 5, 2)))
    codes = np.arange(60).reshape(3, 4, 5) % 3
    write_image("codes.nii", codes.astype(np.uint8))
    write_image("small.nii", np.zeros((3, 4, 4), np.uint8))
    (tmp_path / "short.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-20])
    path = cohort(
        "a,p1,1,nan.nii,codes.nii,train,small.nii,",
        "a,p1,1,four.nii,,test,,",
        "c,p2,x,short.nii.gz,none.nii,nowhere,,1;a",
        "d,p3,1,b.nii.gz,small.nii,,codes.nii,",
        header=f"{HEADER},mask,lesion_codes",
    )
    found = problems(path)
    assert [problem[:2] for problem in found] == sorted((problem[:2] for problem in found), key=lambda pair: pair[0])
    assert {problem[:2] for problem in found} == {
        *[(2, "image"), (2, "label"), (2, "mask")],
        *[(3, "scan_id"), (3, "split"), (3, "image")],
        *[(4, "session"), (4, "split"), (4, "image"), (4, "label"), (4, "lesion_codes")],
        (5, "label"),
    }
    text = "\n".join(problem.message for problem in found)
    for words in ("NaN or infinite", "not one 3-D volume", "undamaged", "another grid", "label values 1, 2 besides 0"):
        assert words in text
    assert str(tmp_path / "nan.nii") not in text  # the value names the file already


def test_long_lists_of_faults_are_counted(cohort):
    path = cohort(*(f"s{n},p{n},1,none{n}.nii,,train" for n in range(70)))
    with pytest.raises(ManifestError, match=r"70 problems(?s:.*)\.\.\. and 20 more$") as caught:
        read_manifest(path)
    assert len(caught.value.problems) == 70
    assert len(pickle.loads(pickle.dumps(caught.value)).problems) == 70


def test_missing_and_misspelt_columns_are_named_with_those_that_are_there(cohort):
    found = problems(cohort(A, header="scan_id,patient,session,Image,label,note,note"))
    assert [problem.column for problem in found] == ["patient_id", "image", "split", "note"]
    assert "perhaps 'patient' is meant" in found[0].message
    assert "perhaps 'Image' is meant" in found[1].message
    assert "there are scan_id, patient, session" in found[2].message
    assert "more than once" in found[3].message


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("\n \n", "is empty"), (HEADER, "no scan"), (f'{HEADER}\n"a', "values where the header has")],
)
def test_manifests_without_a_scan_are_refused(content, message, tmp_path):
    (tmp_path / "cohort.csv").write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "cohort.csv")


def test_a_missing_manifest_or_data_root_is_refused(cohort, tmp_path):
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "nowhere" / "none.csv"):
        with pytest.raises(ManifestError, match="no such file; give the path of a manifest"):
            read_manifest(path)
    with pytest.raises(ManifestError, match="correct data_root"):
        read_manifest(cohort(A), data_root=tmp_path / "nowhere")


def test_paths_start_from_the_data_root_and_stay_in_it(cohort, tmp_path):
    (tmp_path / "sub").mkdir()
    path = shutil.move(cohort(A, C), tmp_path / "sub" / "cohort.csv")
    assert read_manifest(path, data_root=tmp_path)["image"][0] == str(tmp_path.resolve() / "a.nii.gz")
    (tmp_path / "sub" / "link.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    path.write_text(f"{HEADER}\ns,p,1,link.nii.gz,,train\n")
    assert "leads out of" in only(path).message
    path.write_text(f"{HEADER}\ns,p,1,sub/link.nii.gz,,train\n")
    assert read_manifest(path, data_root=tmp_path)["image"][0] == str(tmp_path.resolve() / "a.nii.gz")


def test_the_same_voxels_under_another_name_are_found(cohort, tmp_path):
    again = nib.load(tmp_path / "a.nii.gz")
    nib.save(again, tmp_path / "again.nii")  # unpacked: other bytes, the same scan
    problem = only(cohort(A, "again,p2,1,again.nii,,test"))
    assert problem[:3] == (3, "image", "again.nii")
    assert "voxels of line 2" in problem.message
    read_manifest(cohort(A, "again,p2,1,again.nii,,test"), check_files=False)


def test_a_checksum_is_checked_when_given(cohort, tmp_path):
    right = hashlib.sha256((tmp_path / "a.nii.gz").read_bytes()).hexdigest()
    header = f"{HEADER},sha256"
    assert len(read_manifest(cohort(f"{A},{right.upper()}", f"{C},", header=header))) == 2
    problem = only(cohort(f"{A},{'0' * 64}", header=header))
    assert problem.column == "sha256"
    assert right in problem.message
    assert "64 hexadecimal digits" in only(cohort(f"{A},abc", header=header)).message


def test_codes_choose_lesions_and_masks_may_hold_any_value(cohort, write_image):
    write_image("codes.nii", (np.arange(60).reshape(3, 4, 5) % 4).astype(np.uint8))
    header = f"{HEADER},lesion_codes,mask"
    table = read_manifest(cohort("a,p,1,a.nii.gz,codes.nii,test,1;3,codes.nii", header=header))
    assert table.loc[0, "lesion_codes"] == "1;3"
    assert table.loc[0, "mask"].endswith("codes.nii")
    renamed = header.replace("mask", "healthy_mask")
    again = read_manifest(cohort("a,p,1,a.nii.gz,codes.nii,test,1;3,codes.nii", header=renamed))
    pd.testing.assert_frame_equal(again, table)
    both = only(cohort("a,p,1,a.nii.gz,codes.nii,test,1;3,codes.nii,codes.nii", header=f"{header},healthy_mask"))
    assert both.column == "healthy_mask"
    assert "another name of the column mask" in both.message
    semicolons = "a;p;1;a.nii.gz;codes.nii;test;1;3;codes.nii"
    assert "quotation marks" in only(cohort(semicolons, header=header.replace(",", ";"))).message


def test_files_of_the_phantom_need_not_exist_and_are_not_read(cohort, tmp_path):
    (tmp_path / "made.nii.gz").write_bytes(b"not an image")
    header = f"{HEADER},source"
    lines = ["x,p,1,later/x.nii.gz,later/x_label.nii.gz,train,phantom:7", "y,q,1,made.nii.gz,,train,phantom:8"]
    table = read_manifest(cohort(*lines, header=header))
    assert table.loc[0, "label"] == str(tmp_path.resolve() / "later" / "x_label.nii.gz")
    assert "no such file" in only(cohort("x,p,1,later/x.nii.gz,,train,elsewhere", header=header)).message
    assert "leads out of" in only(cohort("x,p,1,../x.nii.gz,,train,phantom:7", header=header)).message


def table_of(*rows):
    return pd.DataFrame(rows, columns=["scan_id", "patient_id", "session", "label", "split"])


def test_a_split_is_its_labelled_scans_without_follow_ups():
    table = table_of(
        ("a2", "a", 2, "x", "train"),
        ("a1", "a", 1, "x", "train"),
        ("b1", "b", 1, "", "train"),
        ("b2", "b", 2, "x", "train"),
        ("b3", "b", 3, "x", "train"),
        ("c1", "c", 1, "x", "test"),
        ("d1", "d", 1, "", "test"),
        ("e1", "e", 1, "x", ""),
    )
    assert select(table, "train")["scan_id"].tolist() == ["a1", "b2"]
    assert select(table, "train", follow_ups=True)["scan_id"].tolist() == ["a2", "a1", "b2", "b3"]
    assert select(table, "test").index.tolist() == [0]
    assert select(table, "")["scan_id"].tolist() == ["e1"]
    with pytest.raises(ManifestError, match=r"'valid' \(perhaps 'validation' is meant\).* in train \(4\), "):
        select(table, "valid")
    with pytest.raises(ManifestError, match="no split at all"):
        select(table[table["label"] == ""], "train")


def test_a_written_manifest_is_read_back_to_the_same_table(cohort, tmp_path):
    table = read_manifest(cohort(f"{A},1;3", f"{B},", f"{C},", header=f"{HEADER},lesion_codes"), check_files=False)
    write_manifest(table, tmp_path / "again.csv")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "again.csv", check_files=False), table)
    assert "a.nii.gz" in pd.read_csv(tmp_path / "again.csv").image.tolist()


def test_a_plan_with_relative_paths_is_written_as_it_is_and_read_as_absolute_ones(tmp_path):
    row = {"scan_id": "a", "patient_id": "a", "session": 1, "image": "scans/a.nii.gz", "label": "", "split": "test"}
    write_manifest(pd.DataFrame([row | {"source": "phantom:7"}]), tmp_path / "plan.csv")
    assert read_manifest(tmp_path / "plan.csv").image[0] == str(tmp_path.resolve() / "scans" / "a.nii.gz")


def test_a_manifest_away_from_its_files_names_the_root_they_are_in(cohort, tmp_path):
    table = read_manifest(cohort(A, C))
    (tmp_path / "other").mkdir()
    with pytest.raises(ManifestError, match="name a data_root that holds all files"):
        write_manifest(table, tmp_path / "other" / "moved.csv")
    assert not list((tmp_path / "other").iterdir())
    write_manifest(table, tmp_path / "other" / "moved.csv", data_root=tmp_path)
    again = read_manifest(tmp_path / "other" / "moved.csv", data_root=tmp_path)
    pd.testing.assert_frame_equal(again, table)


def test_real_scans_are_read_and_their_faults_named(shared_data, tmp_path):
    rows = [
        "met,p1,1,scans/met-00110/t1c.nii.gz,scans/met-00110/label.nii.gz,test,1,",
        "glioma,p2,1,scans/glioma-0003/t1c.nii.gz,scans/glioma-0003/label.nii.gz,test,4,scans/glioma-0003/brain.nii.gz",
        "thick,p3,1,scans/tumour-b1/t1c.nii.gz,scans/tumour-b1/label.nii.gz,test,,",
    ]
    faulty = [
        "ms,p4,1,scans/ms-12/study1_T1W.nii.gz,scans/ms-12/gt.nii.gz,test,,",
        "codes,p5,1,scans/glioma-0005/t1c.nii.gz,scans/glioma-0005/label.nii.gz,test,,",
        "complex,p6,1,awkward/niivue/complex_image.nii.gz,,test,,",
        "four,p7,1,awkward/nibabel/example4d.nii.gz,,test,,",
    ]
    path = tmp_path / "real.csv"
    header = f"{HEADER},lesion_codes,mask"
    path.write_text("\n".join([header, *rows]))
    assert len(select(read_manifest(path, data_root=shared_data), "test")) == 3
    path.write_text("\n".join([header, *rows, *faulty]))
    found = problems(path, data_root=shared_data)
    assert [problem[:2] for problem in found] == [(5, "label"), (6, "label"), (7, "image"), (8, "image")]
