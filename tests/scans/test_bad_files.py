"""Whatever a file holds, it loads right or is refused with the reason, in no more memory than a scan takes."""

import gzip
import itertools
import os
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import example as hypothesis_example
from hypothesis import strategies as st

from kit.scans import ManifestError, Scan, ScanError, load_scan, read_manifest, select

pytestmark = pytest.mark.filterwarnings(  # nibabel leaves files open where their header is damaged
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
HEADER = "scan_id,patient_id,session,image,label,split"
WORDS = [
    "scan_id",
    "image",
    "split",
    ",",
    ";",
    "\t",
    '"',
    "\r\n",
    "\n",
    "\r",
    " ",
    "\ufeff",
    "é",
    "漢",
    "../",
    "/",
    "a.nii",
]
WORDS += ["train", "test", "1", "0", "p1", "\0", "nan", "=1+1", "'", "\\", "phantom:7", "~", "x" * 300, "\u202e"]
bounded = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def quiet():
    """nibabel mends headers and says so on standard error."""
    level = nib.imageglobals.logger.level
    nib.imageglobals.logger.setLevel(60)
    yield
    nib.imageglobals.logger.setLevel(level)


def example(kind="nifti1", shape=(12, 10, 8)):
    """The bytes of a small anisotropic file."""
    image = {"nifti1": nib.Nifti1Image, "nifti2": nib.Nifti2Image, "mgh": nib.MGHImage}[kind](
        np.random.default_rng(0).integers(0, 900, shape).astype("i2"), np.diag([1, 1.2, 3, 1])
    )
    if kind != "mgh":
        image.set_qform(image.affine, 1)
    return image.to_bytes()


def outcome(path, label=None):
    """A scan, or the message that refuses the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an unknown orientation
        try:
            scan = load_scan(path, label, lesion_codes="5;7")
        except ScanError as error:
            return str(error)
    assert np.isfinite(scan.image).all()
    return scan


def with_fields(**fields):
    """The example with header fields changed."""
    header = nib.Nifti1Header(example()[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + example()[348:]


NAN, INF = np.nan, np.inf
HALF = {"srow_x": [0.5, 0, 0, 0], "srow_y": [0, 0.5, 0, 0], "srow_z": [0, 0, 0.5, 0]}  # mm
SIZES = {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}
DAMAGE = {
    "other magic": (with_fields(magic=b"n+9"), "refused"),
    "no magic": (with_fields(magic=b""), "refused"),
    "huge sizes": (with_fields(**SIZES), "refused"),
    "twice the size": (with_fields(dim=[3, 12, 10, 16, 1, 1, 1, 1]), "refused"),
    "no size": (with_fields(dim=[3, 12, 0, 8, 1, 1, 1, 1]), "refused"),
    "negative size": (with_fields(dim=[3, 12, -10, 8, 1, 1, 1, 1]), "refused"),
    "no dimension": (with_fields(dim=[0, 12, 10, 8, 1, 1, 1, 1]), "refused"),
    "nine dimensions": (with_fields(dim=[9, 12, 10, 8, 1, 1, 1, 1]), "refused"),
    "five dimensions": (with_fields(dim=[5, 3, 10, 8, 2, 2, 1, 1]), "refused"),
    "five dimensions, two of one": (with_fields(dim=[5, 12, 10, 8, 1, 1, 1, 1]), "loads"),
    "negative voxel size beside an sform": (with_fields(pixdim=[1, -1, -1.2, -3, 0, 0, 0, 0]), "loads"),
    "NaN voxel size": (with_fields(pixdim=[1, NAN, 1, 1, 0, 0, 0, 0], sform_code=0), "refused"),
    "no voxel size": (with_fields(pixdim=[1, 0, 0, 0, 0, 0, 0, 0], sform_code=0), "refused"),
    "NaN in the affine": (with_fields(srow_x=[NAN, 0, 0, 0]), "refused"),
    "infinite affine": (with_fields(srow_z=[0, 0, INF, 0]), "refused"),
    "infinite origin": (with_fields(srow_y=[0, 1.2, 0, INF]), "refused"),
    "NaN in the quaternion": (with_fields(sform_code=0, quatern_b=NAN), "refused"),
    "quaternion too long": (with_fields(sform_code=0, quatern_b=5, quatern_c=5), "refused"),
    "neither form": (with_fields(sform_code=0, qform_code=0), "loads"),
    "qform only": (with_fields(sform_code=0), "loads"),
    "a head of 6 m": (with_fields(dim=[3, 300, 800, 400, 1, 1, 1, 1], srow_x=[20, 0, 0, 0]), "refused"),
    "infinite slope, which is none": (with_fields(scl_slope=INF), "loads"),
    "NaN slope, which is none": (with_fields(scl_slope=NAN), "loads"),
    "unknown type": (with_fields(datatype=4097), "refused"),
    "colours": (with_fields(datatype=128, bitpix=24, dim=[3, 8, 10, 8, 1, 1, 1, 1]), "refused"),
    "complex": (with_fields(datatype=32, bitpix=64, dim=[3, 3, 10, 8, 1, 1, 1, 1]), "refused"),
    "voxels far behind": (with_fields(vox_offset=1e30), "refused"),
    "voxels at NaN": (with_fields(vox_offset=NAN), "refused"),
    "wrong size of the header": (with_fields(sizeof_hdr=7), "loads"),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["nii", "nii.gz"])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_header_is_refused_or_the_scan_is_right(name, packed, tmp_path):
    raw, wanted = DAMAGE[name]
    path = tmp_path / ("scan.nii.gz" if packed else "scan.nii")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    found = outcome(path)
    assert wanted == ("loads" if isinstance(found, Scan) else "refused"), found
    if isinstance(found, Scan):
        assert found.image.size >= 12 * 10 * 8
    else:
        assert found.startswith(f"{path}: ")
        assert "\n" not in found


def test_a_small_file_that_unpacks_to_much_or_says_it_is_huge_takes_little_memory(tmp_path):
    bomb = gzip.compress(example() + bytes(400 << 20), 9)
    huge = gzip.compress(with_fields(dim=[3, 1000, 1000, 300, 1, 1, 1, 1], **HALF))
    for name, raw, message in (
        ("bomb", bomb, "more is packed in it"),
        ("huge", huge, "its header asks for 600000352 bytes"),
    ):
        (tmp_path / f"{name}.nii.gz").write_bytes(raw)
        tracemalloc.start()
        assert message in outcome(tmp_path / f"{name}.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


def test_files_packed_in_several_pieces_are_read(tmp_path):
    raw = example()
    (tmp_path / "whole.nii").write_bytes(raw)
    pieces = gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) + gzip.compress(b"") + bytes(7)
    (tmp_path / "pieces.nii.gz").write_bytes(pieces)
    np.testing.assert_array_equal(load_scan(tmp_path / "pieces.nii.gz").image, load_scan(tmp_path / "whole.nii").image)


def test_links_that_lead_in_a_circle_or_nowhere_are_no_files(tmp_path):
    os.symlink(tmp_path / "b.nii", tmp_path / "a.nii")
    os.symlink(tmp_path / "a.nii", tmp_path / "b.nii")
    os.symlink(tmp_path / "gone.nii", tmp_path / "c.nii")
    for name in "abc":
        assert "no such file" in outcome(tmp_path / f"{name}.nii")


@pytest.mark.parametrize("value", ["a.nii", "x" * 300 + ".nii", "a.nii/b.nii"])
def test_a_manifests_path_that_cannot_be_followed_is_a_fault_of_its_row(value, tmp_path):
    os.symlink(tmp_path / "b.nii", tmp_path / "a.nii")
    os.symlink(tmp_path / "a.nii", tmp_path / "b.nii")
    (tmp_path / "cohort.csv").write_text(f"{HEADER}\ns,p,1,{value},,train\n")
    for options in ({"check_files": False}, {}):
        with pytest.raises(ManifestError, match="1 problem\n  line 2, image"):
            read_manifest(tmp_path / "cohort.csv", **options)


@bounded
@given(
    kind=st.sampled_from(["nifti1", "nifti2", "mgh"]),
    changes=st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=6),
    packed=st.booleans(),
)
@hypothesis_example(kind="nifti2", changes=[(407, 95)], packed=False)  # a voxel size of 1e150 mm
@hypothesis_example(kind="nifti2", changes=[(12, 64), (14, 64)], packed=False)  # voxels of 1e-300 to 1e300
def test_any_bytes_in_a_header_are_refused_or_load(kind, changes, packed, tmp_path):
    raw = bytearray(example(kind))
    for place, value in changes:
        raw[place] = value
    ending = {"mgh": "mgz" if packed else "mgh"}.get(kind, "nii.gz" if packed else "nii")
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(gzip.compress(bytes(raw), 1) if packed else bytes(raw))
    outcome(path)
    (tmp_path / "whole.nii").write_bytes(example())
    outcome(tmp_path / "whole.nii", label=path)
    outcome(path, label=path)


@bounded
@given(start=st.integers(0, 4000), stop=st.integers(0, 4000), bit=st.integers(0, 8 * 3000))
def test_a_packed_file_that_is_cut_or_has_a_bit_turned_is_refused(start, stop, bit, tmp_path):
    raw = gzip.compress(example(), mtime=0)
    cut = raw[: min(stop, len(raw) - 1)] if start % 2 else bytearray(raw)
    if not start % 2:
        place = bit // 8 % len(raw)
        if 3 <= place < 10:  # flags, time and system: not of the voxels, and not in the checksum
            place = 20
        cut[place] ^= 1 << bit % 8
    (tmp_path / "scan.nii.gz").write_bytes(cut)
    assert isinstance(outcome(tmp_path / "scan.nii.gz"), str)


@bounded
@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=40))
def test_any_text_is_a_manifest_or_refused(words, tmp_path):
    for text in ("".join(words), f"{HEADER}\n" + "".join(words), f"{HEADER}\n" + ",".join(words)):
        (tmp_path / "cohort.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            table = read_manifest(tmp_path / "cohort.csv", check_files=False)
        except ManifestError:
            continue
        assert len(table) > 0


@bounded
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(raw, tmp_path):
    (tmp_path / "cohort.csv").write_bytes(raw)
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "cohort.csv", check_files=False)


@pytest.mark.parametrize(
    ("mark", "delimiter", "quote", "end"),
    itertools.product(["", "\ufeff"], [",", ";", "\t"], ["", '"'], ["\n", "\r\n", "\r"]),
)
def test_a_table_is_the_same_however_a_spreadsheet_saves_it(mark, delimiter, quote, end, tmp_path):
    (tmp_path / "Zoë 漢.nii").write_bytes(example())
    rows = [HEADER.split(","), ["s-ü", "Zoë", "1", "Zoë 漢.nii", "", "train"]]
    lines = [delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    (tmp_path / "cohort.csv").write_bytes((mark + end.join(lines) + end).encode())
    table = read_manifest(tmp_path / "cohort.csv")
    assert table.iloc[0].tolist() == ["s-ü", "Zoë", 1, str(tmp_path.resolve() / "Zoë 漢.nii"), "", "train"]


def test_names_alike_are_looked_for_as_often_as_they_are_shown(tmp_path, monkeypatch):
    looked, listed = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: looked.append(folder) or listed(folder))
    lines = [f"s{number},p{number},1,gone{number}.nii,,train" for number in range(200)]
    (tmp_path / "cohort.csv").write_text("\n".join([HEADER, *lines]))
    with pytest.raises(ManifestError, match="200 problems"):
        read_manifest(tmp_path / "cohort.csv")
    assert len(looked) == 50


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read_and_their_faults_counted(tmp_path):
    (tmp_path / "scans").mkdir()
    line = "s{0},p{0},1,scans/s{0}.nii,scans/s{0}-seg.nii,{1},phantom:{0}"
    lines = [line.format(number, "train" if number % 2 else "test") for number in range(100_000)]
    lines[-1] = lines[-1].replace("train", "Train")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join([f"{HEADER},source", *lines[:-1]]))
    table = read_manifest(path, check_files=False)
    assert len(table) == 99_999
    assert len(select(table, "test")) == 50_000
    path.write_text("\n".join([f"{HEADER},source", *lines]))
    with pytest.raises(ManifestError, match="1 problem\n  line 100001, split 'Train'"):
        read_manifest(path, check_files=False)


def test_every_awkward_real_file_loads_or_is_refused_with_the_reason(shared_data):
    files = [path for path in sorted((shared_data / "awkward").rglob("*")) if path.is_file()]
    found = {str(path.relative_to(shared_data)): outcome(path) for path in files}
    assert len(files) > 25
    refused = {name: message for name, message in found.items() if isinstance(message, str)}
    assert len(refused) > 10
    assert len(found) - len(refused) > 10
