"""What is exported lies on the file's own grid, is laid out as other programs want it, and is there whole or not."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from kit.scans import (
    ExportError,
    components,
    export_nnunet,
    exports,
    list_lesions,
    load_row,
    read_manifest,
)
from kit.scans.files import replacing

OBLIQUE = np.array([[0.77, -0.12, 0.3, 40], [0.09, 0.76, 1.1, -35], [-0.05, -0.16, 5.1, 12], [0, 0, 0, 1]])
HEADER = "scan_id,patient_id,session,image,label,split,lesion_codes"


def right_angled(affine):
    """The affine with axes made orthogonal, their lengths kept."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    turn, _ = np.linalg.qr(affine[:3, :3])
    turn *= np.sign((turn * affine[:3, :3]).sum(axis=0))
    made = affine.copy()
    made[:3, :3] = turn * sizes
    return made


@pytest.fixture
def table(tmp_path, write_image):
    """Five oblique, anisotropic scans of 20 x 18 x 6 voxels: two to train on, one each of the other kinds."""
    affine, lines = right_angled(OBLIQUE), []
    label = np.zeros((20, 18, 6), np.uint8)
    label[3:6, 4:8, 2], label[12, 13, 4] = 3, 4
    for number, (split, labelled) in enumerate([("train", 1), ("train", 1), ("validation", 1), ("test", 1), ("", 0)]):
        image = np.random.default_rng(number).integers(0, 900, label.shape).astype(np.int16)
        write_image(f"s{number}.nii.gz", image, affine)
        write_image(f"s{number}-seg.nii.gz", label, affine)
        lines.append(f"s{number},p{number},1,s{number}.nii.gz,{f's{number}-seg.nii.gz' * labelled},{split},3")
    (tmp_path / "cohort.csv").write_text("\n".join([HEADER, *lines]))
    return read_manifest(tmp_path / "cohort.csv")


def test_an_nnunet_folder_has_its_names_channels_and_labels_on_the_scans_own_grids(table, tmp_path):
    folder = tmp_path / "raw" / "Dataset101_Metastases"
    done = export_nnunet(table, folder, progress=False)
    assert done.part.tolist() == ["Tr", "Tr", "Tr", "Ts", "in no split"]
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["channel_names"] == {"0": "T1Gd"}
    assert facts["labels"] == {"background": 0, "metastasis": 1}
    names = {
        sub: sorted(path.name for path in (folder / sub).iterdir()) for sub in ("imagesTr", "labelsTr", "imagesTs")
    }
    assert len(names["imagesTr"]) == facts["numTraining"] == 3
    assert facts["file_ending"] == ".nii.gz"
    assert [re.fullmatch(r"(.+)_0000\.nii\.gz", name)[1] for name in names["imagesTr"]] == ["s0", "s1", "s2"]
    assert names["labelsTr"] == ["s0.nii.gz", "s1.nii.gz", "s2.nii.gz"]
    assert names["imagesTs"] == ["s3_0000.nii.gz"]
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["s0", "s1"], "val": ["s2"]}]
    for number in range(3):
        image, label = (
            nib.load(folder / name) for name in (f"imagesTr/s{number}_0000.nii.gz", f"labelsTr/s{number}.nii.gz")
        )
        own = nib.load(tmp_path / f"s{number}.nii.gz")
        np.testing.assert_array_equal(image.get_fdata(), own.get_fdata())
        assert np.unique(label.get_fdata()).tolist() == [0, 1]
        assert np.argwhere(label.get_fdata())[0].tolist() == [3, 4, 2]
        for written in (image, label):
            assert written.shape == own.shape
            np.testing.assert_array_equal(written.affine, own.affine)


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("Dataset1_Mets", None, "such as Dataset101_Metastases"),
        ("Dataset101_Mets", "test", "no labelled scan is in split train or validation"),
        ("Dataset102_Mets", None, "is there already"),
    ],
)
def test_a_dataset_that_cannot_be_is_refused_before_anything_is_written(name, splits, message, table, tmp_path):
    (tmp_path / "Dataset102_Mets").mkdir()
    (tmp_path / "Dataset102_Mets" / "mine.txt").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=message):
        export_nnunet(table if splits is None else table.assign(split=splits), tmp_path / name, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_that_fails_half_way_leaves_nothing(table, tmp_path, monkeypatch):
    def full(array, scan, path):
        if "s2" in path.name:
            raise OSError(28, "No space left on device")
        with replacing(path) as part:
            part.write_bytes(b"x")

    monkeypatch.setattr(exports, "save_map", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space"):
        export_nnunet(table, tmp_path / "out" / "Dataset101_Mets", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_list_gives_centres_in_the_world_and_in_the_files_own_voxels(table, tmp_path):
    scan = load_row(table.iloc[0].to_dict() | {"lesion_codes": "3;4"}, spacing_mm=None)
    own = nib.load(tmp_path / "s0-seg.nii.gz")
    found = list_lesions(components(scan.label), scan.grid, scan.affine, scan.image / 1000)
    assert len(found) == 2
    codes, image = own.get_fdata(), nib.load(tmp_path / "s0.nii.gz").get_fdata()
    for row, code in zip(found.sort_values("voxels", ascending=False).to_dict("records"), (3, 4), strict=True):
        index = np.argwhere(codes == code).mean(axis=0)
        assert [row[name] for name in "ijk"] == pytest.approx(index, abs=1e-3)
        world = [row[name] for name in ("x_mm", "y_mm", "z_mm")]
        assert world == pytest.approx(nib.affines.apply_affine(own.affine, index), abs=1e-3)
        assert row["voxels"] == (codes == code).sum()
        voxel_mm3 = abs(np.linalg.det(own.affine[:3, :3]))
        assert row["volume_mm3"] == pytest.approx(row["voxels"] * voxel_mm3, rel=1e-4)
        assert row["max_probability"] == pytest.approx(image[codes == code].max() / 1000)
    assert list_lesions(np.zeros((6, 18, 20), int), scan.grid, scan.affine).empty
