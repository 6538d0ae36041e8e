"""Exported maps and masks lie over their scans, and the list has one row a lesion and one a finding."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from kit.__main__ import main
from kit.metrics import PredictionError, export_lesions, export_maps
from kit.scans import ExportError, load_scan, read_manifest

HEADER = "scan_id,patient_id,session,image,label,split"
AFFINE = np.array([[0.0, 0, 3, 5], [-0.8, 0, 0, 9], [0, 0.8, 0, -4], [0, 0, 0, 1]])  # slices lie sagittal, 3 mm apart
SHAPE = (16, 14, 8)


@pytest.fixture
def table(tmp_path, write_image):
    """Two scans: one with two lesions, one without a label."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 3:6, 1:3], label[10, 10, 6] = 1, 1
    for name in "ab":
        write_image(f"{name}.nii.gz", np.random.default_rng(ord(name)).random(SHAPE), AFFINE)
    write_image("a-seg.nii.gz", label, AFFINE)
    lines = [HEADER, "a,p,1,a.nii.gz,a-seg.nii.gz,test", "b,q,1,b.nii.gz,,test"]
    (tmp_path / "cohort.csv").write_text("\n".join(lines))
    return read_manifest(tmp_path / "cohort.csv")


@pytest.fixture
def maps(table, tmp_path):
    """A folder of maps: in each scan one finding of 0.9 that overlaps the large lesion, and a faint place."""
    (tmp_path / "maps").mkdir()
    for row in table.itertuples():
        probability = np.zeros(SHAPE, "f4")
        probability[3:7, 3:6, 1:3], probability[4, 4, 2], probability[12, 2, 2] = 0.4, 0.9, 0.3
        nib.save(nib.Nifti1Image(probability, AFFINE), tmp_path / "maps" / f"{row.scan_id}.nii.gz")
    return tmp_path / "maps"


def test_maps_and_masks_are_written_on_the_files_own_grid(table, maps, tmp_path):
    found = export_maps(maps, table, tmp_path / "out", progress=False)
    for name in "ab":
        given = nib.load(maps / f"{name}.nii.gz")
        probability, mask = (nib.load(tmp_path / "out" / f"{name}_{what}.nii.gz") for what in ("probability", "mask"))
        np.testing.assert_array_equal(probability.get_fdata(), given.get_fdata())
        np.testing.assert_array_equal(mask.get_fdata(), given.get_fdata() >= 0.35)
        assert (probability.get_data_dtype(), mask.get_data_dtype()) == (np.float32, np.uint8)
        for written in (probability, mask):
            np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert found.scan_id.tolist() == ["a", "b"]
    assert found.kind.unique().tolist() == ["finding"]
    assert found.max_probability.tolist() == pytest.approx([0.9, 0.9])
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out" / "findings.csv"), found, check_dtype=False, check_exact=False
    )


def test_a_detectors_map_at_1_mm_comes_onto_the_files_own_grid(table, tmp_path):
    shape = load_scan(table.image[0]).image.shape
    assert sorted(shape) == [12, 13, 24]  # 14 x 0.8 mm, 16 x 0.8 mm, 8 x 3 mm

    def detector(image, mask, *, brightness):
        assert image.shape == mask.shape == shape
        return np.full(shape, brightness, "f4")

    export_maps(detector, table[:1], tmp_path / "out", progress=False, brightness=0.7)
    written = nib.load(tmp_path / "out" / "a_probability.nii.gz")
    assert written.shape == SHAPE
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert written.get_fdata().max() == pytest.approx(0.7)


def test_the_list_has_one_row_a_lesion_and_one_a_finding(table, maps):
    found = export_lesions(table, maps, progress=False)
    assert found[["scan_id", "kind", "number"]].values.tolist() == [
        ["a", "lesion", 1],
        ["a", "lesion", 2],
        ["a", "finding", 1],
        ["b", "finding", 1],
    ]
    lesions = found[found.kind == "lesion"].sort_values("voxels")
    assert lesions.max_probability.tolist() == pytest.approx([0, 0.9])
    assert lesions[["i", "j", "k"]].iloc[0].tolist() == [10, 10, 6]
    assert lesions[["x_mm", "y_mm", "z_mm"]].iloc[0].tolist() == pytest.approx((AFFINE @ [10, 10, 6, 1])[:3])
    assert lesions.volume_mm3.tolist() == pytest.approx([1.92, 18 * 1.92])
    alone = export_lesions(table, progress=False)
    assert alone.kind.tolist() == ["lesion", "lesion"]
    assert alone.max_probability.isna().all()
    assert export_lesions(table[1:], progress=False).empty


def test_missing_maps_and_folders_with_files_are_refused_before_anything_is_written(table, maps, tmp_path):
    with pytest.raises(ExportError, match="is there already and not an empty folder"):
        export_maps(maps, table, maps, progress=False)
    (maps / "b.nii.gz").unlink()
    with pytest.raises(PredictionError, match=r"b: no b\.nii\.gz"):
        export_maps(maps, table, tmp_path / "out", progress=False)
    with pytest.raises(PredictionError, match=r"b: no b\.nii\.gz"):
        export_lesions(table, maps, progress=False)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_each_form_and_refuses_what_is_there(table, maps, tmp_path, capsys):
    manifest, given = str(tmp_path / "cohort.csv"), ["--predictions", str(maps)]
    assert main(["export", "maps", manifest, str(tmp_path / "out"), *given]) == 0
    assert (
        main(["export", "lesions", manifest, str(tmp_path / "lists" / "all.csv"), *given, "--threshold", "0.95"]) == 0
    )
    assert pd.read_csv(tmp_path / "lists" / "all.csv").kind.tolist() == ["lesion", "lesion"]
    text = (tmp_path / "cohort.csv").read_text()
    (tmp_path / "cohort.csv").write_text(text.replace("a-seg.nii.gz,test", "a-seg.nii.gz,train"))
    assert main(["export", "nnunet", manifest, str(tmp_path / "Dataset101_Mets")]) == 0
    assert (tmp_path / "Dataset101_Mets" / "labelsTr" / "a.nii.gz").is_file()
    for what, out, more, message in (
        ("maps", "out", given, "is there already"),
        ("lesions", "lists/all.csv", given, "is there already"),
        ("maps", "new", [], "give one of the two"),
        ("nnunet", "Mets", [], "such as Dataset101_Metastases"),
    ):
        assert main(["export", what, manifest, str(tmp_path / out), *more]) == 2
        assert message in capsys.readouterr().err
