"""A scan comes in the same way round whatever its file's axes, and a map goes back to where it was."""

import gzip
import itertools
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.scans import (
    Grid,
    ScanError,
    components,
    frame,
    load_map,
    load_mask,
    load_scan,
    load_truth,
    resample,
    same_grid,
    save_map,
)

AXIS_CODES = [
    "".join(codes)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*order)
]  # fmt: skip
HEADS = ("ASR", "IAR", "LAS", "LPI", "PIR", "RAS", "SPL")


def stored_as(codes, head, affine):
    """`head` and `affine` (both L-P-S) rearranged to another order of axes, as a file would hold them."""
    there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    return nib.apply_orientation(head, there), affine @ nib.orientations.inv_ornt_aff(there, head.shape)


def lps_affine(steps=(1, 1, 1), degrees=(0, 0, 0), origin=(10, -20, 30)):
    affine = np.eye(4)
    turns = nib.eulerangles.euler2mat(*np.radians(degrees))
    affine[:3, :3] = turns @ np.diag([-1, -1, 1]) @ np.diag(steps)
    affine[:3, 3] = origin
    return affine


def centre_of_mass_mm(weights, affine):
    index = np.stack(np.nonzero(weights))
    centre = (index * weights[tuple(index)]).sum(axis=1) / weights.sum()
    return nib.affines.apply_affine(affine, centre)


def blob(shape, centre, width):
    index = np.indices(shape).reshape(3, *shape)
    squares = sum(((i - c) / w) ** 2 for i, c, w in zip(index, centre, width, strict=True))
    return np.exp(-squares / 2).astype("f4")


@pytest.mark.parametrize("codes", AXIS_CODES)
def test_every_order_of_axes_loads_to_one_array_and_writes_back_to_its_own(codes, write_image, tmp_path):
    head = np.arange(3 * 4 * 5, dtype="f4").reshape(3, 4, 5)  # L, P, S
    stored, affine = stored_as(codes, head, lps_affine())
    scan = load_scan(write_image("scan.nii.gz", stored, affine))
    np.testing.assert_array_equal(scan.image, head.transpose(2, 1, 0))
    np.testing.assert_allclose(scan.affine[:, [2, 1, 0, 3]], lps_affine())
    save_map(scan.image, scan, tmp_path / "map.nii.gz")
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), stored)
    np.testing.assert_allclose(written.affine, affine)
    assert len(AXIS_CODES) == 48


def test_the_nose_is_up_and_the_right_ear_on_the_left_of_the_picture(write_image):
    head = np.zeros((5, 7, 3), "f4")  # R, A, S as most files are stored
    head[2, 6, 1], head[4, 3, 1], head[2, 3, 2] = 1, 2, 3  # nose, right ear, top
    image = load_scan(write_image("ras.nii", head, np.eye(4))).image
    assert np.argwhere(image == 1).tolist() == [[1, 0, 2]]
    assert np.argwhere(image == 2).tolist() == [[1, 3, 0]]
    assert np.argwhere(image == 3).tolist() == [[2, 3, 2]]


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASR", "PIR"])
@pytest.mark.parametrize("steps", [(1, 1, 1), (0.78, 0.78, 6.5), (0.94, 1.5, 0.48), (2.4, 2.3, 2.2)])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (6.5, -9, 4), (20, 15, -30)])
def test_a_blob_stays_where_it_is_in_the_world_both_ways(codes, steps, degrees, write_image, tmp_path):
    shape = tuple(int(60 / step) for step in steps)
    centre, width = [0.53 * n for n in shape], [max(6 / step, 1) for step in steps]
    stored, affine = stored_as(codes, blob(shape, centre, width), lps_affine(steps, degrees))
    scan = load_scan(write_image("scan.nii.gz", stored, affine))
    assert max(scan.spacing_mm) < 1.02
    where = centre_of_mass_mm(stored, affine)
    np.testing.assert_allclose(centre_of_mass_mm(scan.image, scan.affine), where, atol=0.05)
    save_map(scan.image, scan, tmp_path / "map.nii.gz")
    written = nib.load(tmp_path / "map.nii.gz")
    assert written.shape == stored.shape
    np.testing.assert_allclose(centre_of_mass_mm(written.get_fdata(), written.affine), where, atol=0.05)
    np.testing.assert_allclose(nib.affines.voxel_sizes(scan.affine), scan.spacing_mm, rtol=1e-6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    steps=st.tuples(*[st.floats(0.3, 7)] * 3),
    codes=st.sampled_from(AXIS_CODES),
    seed=st.integers(0, 9),
)
def test_resampling_keeps_the_field_of_view_and_the_range_of_values(shape, steps, codes, seed, tmp_path):
    head = np.random.default_rng(seed).random(shape, dtype="f4")
    stored, affine = stored_as(codes, head, lps_affine(steps))
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "scan.nii")
    scan = load_scan(tmp_path / "scan.nii")
    field = np.multiply(shape, steps)[::-1]
    covered = np.multiply(scan.image.shape, scan.spacing_mm)
    assert np.all(covered >= field - 0.01)
    assert np.all(covered < field + 1)
    middle = nib.affines.apply_affine(scan.affine, (np.array(scan.image.shape) - 1) / 2)
    np.testing.assert_allclose(middle, nib.affines.apply_affine(affine, (np.array(stored.shape) - 1) / 2), atol=1e-4)
    assert scan.image.min() >= head.min() - 1e-6
    assert scan.image.max() <= head.max() + 1e-6


def test_spacing_within_two_percent_of_a_millimetre_is_left_alone(write_image, tmp_path):
    image = np.random.default_rng(0).random((5, 6, 7), dtype="f4")
    path = write_image("scan.nii", image, lps_affine((0.985, 1.0, 1.019), (5, 0, 3)))
    scan = load_scan(path)
    np.testing.assert_array_equal(scan.image, image.transpose(2, 1, 0))
    np.testing.assert_allclose(scan.spacing_mm, (1.019, 1, 0.985), rtol=1e-6)
    save_map(scan.image, scan, tmp_path / "map.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "map.nii").get_fdata(), image)


def test_spacing_none_keeps_the_scans_own_and_other_spacings_are_made(write_image):
    path = write_image("scan.nii", np.arange(240.0).reshape(6, 5, 8), lps_affine((1, 2, 3)))
    assert load_scan(path, spacing_mm=None).image.shape == (8, 5, 6)
    assert load_scan(path, spacing_mm=2).image.shape == (12, 5, 3)
    with pytest.raises(ScanError, match="spacing_mm is 0"):
        load_scan(path, spacing_mm=0)


def test_resampling_agrees_with_interpolation_done_by_hand():
    line = np.array([0.0, 4.0, 8.0], "f4").reshape(1, 1, 3)
    finer = resample(line, (1, 1, 2), (1, 1, 6), (1, 1, 1))
    np.testing.assert_allclose(finer.ravel(), [0, 1, 3, 5, 7, 8])
    coarser = resample(np.array([1, 3, 5, 7], "f4").reshape(1, 1, 4), (1, 1, 1), (1, 1, 2), (1, 1, 2))
    np.testing.assert_allclose(coarser.ravel(), [2, 6])


def test_labels_keep_their_volume_and_the_smallest_lesions(write_image):
    steps = (0.5, 0.5, 3.0)
    label = np.zeros((60, 64, 12), np.uint8)
    label[10:30, 10:30, 2:6] = 1  # 10 x 10 x 12 mm
    dots = [(40, 41, 2), (45, 50, 5), (50, 41, 7), (55, 57, 9)]
    for dot in dots:
        label[dot] = 1
    image = write_image("image.nii", np.random.default_rng(0).random(label.shape), lps_affine(steps))
    scan = load_scan(image, write_image("label.nii", label, lps_affine(steps)))
    pieces = nib.affines.apply_affine(lps_affine(steps), dots)
    found = nib.affines.apply_affine(scan.affine, np.argwhere(scan.label))
    assert all(np.linalg.norm(found - piece, axis=1).min() < 1.8 for piece in pieces)
    assert scan.label[:, :18, :18].sum() == pytest.approx(1200, rel=0.01)


@pytest.mark.parametrize("shape", [(9, 1, 1), (9, 7, 1)])
def test_labels_of_thin_scans_are_resampled(shape, write_image):
    label = np.zeros(shape, np.uint8)
    label[::2, ::2] = 1  # pieces that do not touch, as many as there can be
    image = write_image("image.nii", np.random.default_rng(0).random(shape), np.diag([2.0, 2, 1, 1]))
    scan = load_scan(image, write_image("label.nii", label, np.diag([2.0, 2, 1, 1])))
    assert components(scan.label).max() == label.sum()


def test_labels_and_masks_lie_on_the_image_whatever_their_own_axes(write_image):
    label = np.zeros((5, 6, 7), np.int16)
    label[1, 2, 3] = 4
    stored, affine = stored_as("ASR", label, lps_affine())
    image = write_image("image.nii", np.random.default_rng(0).random(label.shape), lps_affine())
    path = write_image("label.nii", stored, affine)
    scan = load_scan(image, path)
    assert scan.label.dtype == bool
    assert np.argwhere(scan.label).tolist() == [[3, 2, 1]]
    np.testing.assert_array_equal(load_mask(path, scan), scan.label)
    truth = load_truth({"image": image, "label": path})  # which has no image
    np.testing.assert_array_equal(load_mask(path, truth), truth.label)


def test_a_saved_map_keeps_codes_units_and_two_different_forms(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6), dtype="f4"), None)
    image.set_sform(lps_affine((1, 1, 1), (3, 2, 1)), code=4)
    image.set_qform(lps_affine((1, 1, 1), (0, 0, 9)), code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a name"
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = load_scan(tmp_path / "scan.nii.gz")
    save_map(scan.image > 0.5, scan, tmp_path / "map.nii.gz")
    written = nib.load(tmp_path / "map.nii.gz")
    for form in ("sform", "qform"):
        was, is_now = (
            getattr(image.header, f"get_{form}")(coded=True),
            getattr(written.header, f"get_{form}")(coded=True),
        )
        np.testing.assert_allclose(is_now[0], was[0], atol=1e-6)
        assert is_now[1] == was[1]
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.header["descrip"] == b""
    assert written.get_data_dtype() == np.uint8
    save_map(scan.image.astype(float), scan, tmp_path / "map.nii")
    assert nib.load(tmp_path / "map.nii").get_data_dtype() == np.float32


def test_a_trailing_axis_of_one_is_accepted_and_written_back(write_image, tmp_path):
    scan = load_scan(write_image("scan.nii", np.arange(60.0).reshape(3, 4, 5, 1)))
    assert scan.image.shape == (5, 4, 3)
    save_map(scan.image, scan, tmp_path / "map.nii")
    assert nib.load(tmp_path / "map.nii").shape == (3, 4, 5, 1)


def test_other_formats_byte_orders_and_scaled_integers_are_read(tmp_path):
    voxels, affine = np.arange(60, dtype=np.int16).reshape(3, 4, 5), lps_affine()
    big = nib.Nifti1Image(voxels.astype(">i2"), affine, nib.Nifti1Header(endianness=">"))
    scaled = nib.Nifti1Image(voxels, affine)
    scaled.header.set_slope_inter(0.5, -3)
    images = {
        "big.nii": big,
        "two.nii.gz": nib.Nifti2Image(voxels, affine),
        "pair.img": nib.Nifti1Pair(voxels, affine),
        "surfer.mgz": nib.MGHImage(voxels, affine),
    }
    for name, image in images.items():
        nib.save(image, tmp_path / name)
        scan = load_scan(tmp_path / name)
        np.testing.assert_array_equal(scan.image, voxels.transpose(2, 1, 0), err_msg=name)
        save_map(scan.image, scan, tmp_path / "map.nii.gz")
        np.testing.assert_array_equal(nib.load(tmp_path / "map.nii.gz").get_fdata(), voxels, err_msg=name)
        np.testing.assert_allclose(nib.load(tmp_path / "map.nii.gz").affine, affine, atol=1e-5)
    nib.save(scaled, tmp_path / "scaled.nii")
    raw = bytearray((tmp_path / "scaled.nii").read_bytes())
    raw[112:120] = np.array([6.48, -3], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "scaled.nii").write_bytes(raw)
    stored = np.asarray(nib.load(tmp_path / "scaled.nii").dataobj.get_unscaled())
    np.testing.assert_allclose(load_scan(tmp_path / "scaled.nii").image, stored.T * 6.48 - 3, rtol=1e-5)


def test_the_same_map_gives_the_same_bytes_and_failure_leaves_nothing(write_image, tmp_path, monkeypatch):
    scan = load_scan(write_image("scan.nii", np.arange(60.0).reshape(3, 4, 5)))
    out = tmp_path / "out"
    out.mkdir()
    save_map(scan.image, scan, out / "a.nii.gz")
    first = (out / "a.nii.gz").read_bytes()
    time.sleep(1.1)  # gzip knows seconds
    save_map(scan.image, scan, out / "a.nii.gz")
    assert (out / "a.nii.gz").read_bytes() == first

    def half_written(image, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nib, "save", half_written)
    with pytest.raises(OSError, match="No space"):
        save_map(scan.image, scan, out / "a.nii.gz")
    assert [path.name for path in out.iterdir()] == ["a.nii.gz"]
    assert (out / "a.nii.gz").read_bytes() == first


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (np.zeros((5, 4, 4), "f4"), "map.nii", r"shape \(5, 4, 4\), the scan \(5, 4, 3\)"),
        (np.zeros((5, 4, 3), int), "map.nii", "int64; give bool"),
        (np.zeros((5, 4, 3), bool), "map.mha", r"end in \.nii"),
        (np.zeros((5, 4, 3), bool), "nowhere/map.nii", "no folder"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(array, name, message, write_image, tmp_path):
    scan = load_scan(write_image("scan.nii", np.arange(60.0).reshape(3, 4, 5)))
    with pytest.raises(ScanError, match=message):
        save_map(array, scan, tmp_path / name)


def test_grids_are_the_same_within_a_tenth_of_a_voxel():
    affine, near, far = lps_affine((1, 1, 3)), lps_affine((1, 1, 3)), lps_affine((1, 1, 3))
    near[0, 3] += 0.05
    far[0, 3] += 0.5
    shape = (9, 8, 7)
    assert same_grid(Grid(shape, affine), Grid(shape, near))
    assert not same_grid(Grid(shape, affine), Grid(shape, far))
    assert not same_grid(Grid(shape, affine), Grid((9, 8, 6), affine))
    assert frame(Grid(shape, affine))[0] == (7, 8, 9)


VOXELS = np.arange(60, dtype="f4").reshape(3, 4, 5)
SHEARED = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def with_value(value):
    voxels = VOXELS.copy()
    voxels[1, 2, 3] = value
    return voxels


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.ones((3, 4, 5, 2)), None, r"shape \(3, 4, 5, 2\), not one 3-D volume; extract"),
        (np.ones((3, 4)), None, "not one 3-D volume"),
        (VOXELS.astype("c8"), None, "complex64, not real numbers; export the magnitude"),
        (np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), None, r"colours \(R, G, B\); export"),
        (with_value(np.nan), None, r"1 voxels are NaN or infinite, the first at index \(1, 2, 3\)"),
        (with_value(-np.inf), None, "NaN or infinite"),
        (VOXELS.astype("f8") + 1e300, None, "60 voxels are NaN or infinite"),
        (np.full((3, 4, 5), 7.0), None, "every voxel is 7; an image must vary"),
        (VOXELS, SHEARED, "sheared or fall together .* is 0.196"),
        (VOXELS, np.diag([1, 1, 0, 1]), "voxel size is 1, 1, 0 mm"),
        (VOXELS, np.diag([1, 1, 300, 1]), "voxel size is 1, 1, 300 mm"),
        (VOXELS, np.diag([1, np.nan, 1, 1]), "voxel size"),
    ],
)
def test_an_image_that_is_no_scan_is_refused_with_the_reason(array, affine, message, tmp_path):
    image = nib.Nifti1Image(array, None)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = (np.eye(4) if affine is None else affine)[
        :3
    ]
    nib.save(image, tmp_path / "scan.nii.gz")
    with pytest.raises(ScanError, match=message) as caught:
        load_scan(tmp_path / "scan.nii.gz")
    assert str(caught.value).startswith(str(tmp_path / "scan.nii.gz"))


def damaged(name, path):
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # the checksum
    plain = gzip.decompress(whole)
    return {
        "empty.nii.gz": b"",
        "text.nii": b"no image" * 100,
        "short.nii.gz": whole[: len(whole) // 2],
        "stump.nii.gz": whole[:30],
        "no-end.nii.gz": whole[:-4],
        "checksum.nii.gz": bytes(flipped),
        "short.nii": plain[:-100],
        "plain.nii.gz": plain,
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.nii.gz", "not a readable image"),
        ("text.nii", "not a readable image"),
        ("short.nii.gz", "truncated or damaged"),
        ("stump.nii.gz", "not a readable image|truncated"),
        ("no-end.nii.gz", "truncated or damaged"),
        ("checksum.nii.gz", "truncated or damaged"),
        ("short.nii", "truncated or damaged"),
        ("plain.nii.gz", "not a readable image"),
    ],
)
def test_a_damaged_file_is_refused(name, message, write_image, tmp_path):
    path = write_image("whole.nii.gz", np.random.default_rng(0).random((12, 12, 12)))
    (tmp_path / name).write_bytes(damaged(name, path))
    with pytest.raises(ScanError, match=message):
        load_scan(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.nii", tmp_path, str(tmp_path / "none.nii.gz")):
        with pytest.raises(ScanError, match="no such file; correct the path"):
            load_scan(path)


def test_a_header_without_orientation_is_read_with_a_warning(tmp_path):
    image = nib.Nifti1Image(VOXELS, None)
    nib.save(image, tmp_path / "scan.nii")
    with pytest.warns(UserWarning, match="orientation .* is a guess"):
        scan = load_scan(tmp_path / "scan.nii")
    save_map(scan.image, scan, tmp_path / "map.nii")
    assert int(nib.load(tmp_path / "map.nii").header["sform_code"]) == 0


@pytest.mark.parametrize(
    ("codes", "expected"),
    [("1", 1), ("1;3", 2), (" 3 ; 1 ", 2), ([1, 3], 2), (np.array([4]), 1), (3, 1), ("9", 0), ((1, 3, 4), 3)],
)
def test_lesion_codes_say_which_values_are_lesion(codes, expected, write_image):
    label = np.zeros((3, 4, 5), "f4")
    label[0, 0, 0], label[1, 1, 1], label[2, 2, 2] = 1, 3, 4
    image, label = write_image("image.nii", VOXELS), write_image("label.nii", label)
    load_scan(image, label, lesion_codes=codes)
    assert load_scan(image, label, lesion_codes=codes).label.sum() == expected


@pytest.mark.parametrize("codes", ["one", "1,3", "1.5", "0", "-1", "1;", ";", [1.5], [], [0], True])
def test_codes_that_are_no_codes_are_refused(codes, write_image):
    path = write_image("image.nii", VOXELS)
    with pytest.raises(ScanError, match=r"lesion_codes is .*; give whole numbers above 0"):
        load_scan(path, write_image("label.nii", np.zeros((3, 4, 5))), lesion_codes=codes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "label values 1, 2 besides 0; say which"),
        ([-1], "label values -1 besides 0"),
        ([0.5], "label values 0.5 are not whole numbers"),
        ([np.nan], "label values nan are not whole numbers"),
        (range(1, 20), r"1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. besides 0"),
    ],
)
def test_a_label_that_is_not_binary_needs_codes(values, message, write_image):
    label = np.zeros((3, 4, 5))
    label.ravel()[: len(values)] = values
    with pytest.raises(ScanError, match=message):
        load_scan(write_image("image.nii", VOXELS), write_image("label.nii", label))


def test_labels_of_floats_are_rounded_before_anything_is_counted(write_image):
    label = np.zeros((3, 4, 5), "f4")
    label[0, 0, 0], label[1, 1, 1], label[2, 2, 2] = 1, 0.9995, 1e-4
    scan = load_scan(write_image("image.nii", VOXELS), write_image("label.nii", label))
    assert scan.label.sum() == 2


def test_a_mask_with_nan_is_refused_with_their_number(write_image):
    mask = np.ones((3, 4, 5), "f4")
    mask[0, :2, 0], mask[1, 1, 1] = np.nan, np.inf
    with pytest.raises(ScanError, match=r"mask\.nii: 3 voxels are NaN or infinite; replace them"):
        load_mask(write_image("mask.nii", mask), load_scan(write_image("image.nii", VOXELS)))


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_label_of_one_value_or_without_a_lesion_is_legal(value, write_image):
    label = np.zeros((3, 4, 5), np.uint8)
    label[0, 1, 2] = value
    scan = load_scan(write_image("image.nii", VOXELS), write_image("label.nii", label))
    assert scan.label.sum() == (value > 0)
    assert load_scan(write_image("image.nii", VOXELS), "").label is None


def test_a_label_on_another_grid_is_refused(write_image):
    image = write_image("image.nii", VOXELS, lps_affine())
    shifted = write_image("shifted.nii", np.zeros((3, 4, 5)), lps_affine(origin=(11, -20, 30)))
    smaller = write_image("smaller.nii", np.zeros((3, 4, 4)), lps_affine())
    for path in (shifted, smaller):
        with pytest.raises(ScanError, match=r"another grid than its image: 3 x 4 x . voxels of 1, 1, 1 mm from"):
            load_scan(image, path)
        with pytest.raises(ScanError, match="another grid"):
            load_mask(path, load_scan(image))


def test_seven_real_files_of_one_head_load_to_one_array_and_take_their_maps_back(shared_data, tmp_path):
    folder = shared_data / "awkward" / "niivue" / "nifti_space"
    first = load_scan(folder / "RAS.nii.gz")
    mark = (70, 80, 60)  # slice, row, column of a blob, off every centre
    marked = blob(first.image.shape, mark, (4, 4, 4))
    world = nib.affines.apply_affine(first.affine, mark)
    for name in HEADS:
        scan = load_scan(folder / f"{name}.nii.gz")
        np.testing.assert_array_equal(scan.image, first.image, err_msg=name)
        np.testing.assert_allclose(scan.affine, first.affine, atol=1e-3, err_msg=name)
        save_map(marked, scan, tmp_path / f"{name}.nii.gz")
        written, own = nib.load(tmp_path / f"{name}.nii.gz"), nib.load(folder / f"{name}.nii.gz")
        assert written.shape == own.shape
        np.testing.assert_array_equal(written.affine, own.affine)
        assert [int(written.header[code]) for code in ("sform_code", "qform_code")] == [1, 0]
        np.testing.assert_allclose(centre_of_mass_mm(written.get_fdata(), own.affine), world, atol=0.05, err_msg=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("awkward/nibabel/example4d.nii.gz", r"\(128, 96, 24, 2\), not one 3-D volume"),
        ("awkward/nibabel/example_nifti2.nii.gz", "not one 3-D volume"),
        ("awkward/nibabel/functional.nii", "not one 3-D volume"),
        ("awkward/nibabel/test.mgz", "not one 3-D volume"),
        ("awkward/nibabel/nifti1.hdr", "cannot be read"),
        ("awkward/nibabel/nifti2.hdr", "cannot be read"),
        ("awkward/nibabel/analyze.hdr", "cannot be read"),
        ("awkward/nibabel/row_major.dconn.nii", "Cifti2Image, not voxels"),
        ("awkward/nibabel/README.rst", "not a readable image"),
        ("awkward/niivue/complex_image.nii.gz", "complex64, not real numbers"),
        ("awkward/niivue/ct_perfusion.nii.gz", "voxels are colours"),
        ("awkward/niivue/shear.nii.gz", "sheared"),
    ],
)
def test_awkward_real_files_are_refused_with_the_reason(name, message, shared_data):
    with pytest.raises(ScanError, match=message):
        load_scan(shared_data / name)


@pytest.mark.parametrize(
    "name",
    ["nibabel/standard.nii.gz", "nibabel/anatomical.nii", "nibabel/someones_anatomy.nii.gz", "niivue/ras.img",
     "nibabel/reoriented_anat_moved.nii", "nibabel/someones_epi.nii.gz", "niivue/low_res.nii.gz", "fmri_pitch.nii.gz"],
)  # fmt: skip
def test_awkward_real_files_that_are_scans_come_back_onto_their_own_grid(name, shared_data, tmp_path):
    scan = load_scan(shared_data / "awkward" / name)
    assert scan.image.dtype == np.float32
    save_map(scan.image, scan, tmp_path / "map.nii.gz")
    written, own = nib.load(tmp_path / "map.nii.gz"), nib.load(shared_data / "awkward" / name)
    assert written.shape == own.shape
    np.testing.assert_array_equal(written.affine, own.affine)
    similar = np.corrcoef(written.get_fdata().ravel(), own.get_fdata().ravel())[0, 1]
    assert similar > 0.9


def test_real_labels_are_read_by_code_and_refused_without_or_on_another_grid(shared_data):
    scans = shared_data / "scans"
    glioma = scans / "glioma-0003"
    with pytest.raises(ScanError, match="label values 1, 2, 3, 4 besides 0"):
        load_scan(glioma / "t1c.nii.gz", glioma / "label.nii.gz")
    assert load_scan(glioma / "t1c.nii.gz", glioma / "label.nii.gz", lesion_codes="4").label.sum() > 1000
    with pytest.raises(ScanError, match="another grid than its image: 334 x 352 x 60 voxels"):
        load_scan(scans / "ms-12" / "study1_T1W.nii.gz", scans / "ms-12" / "gt.nii.gz")
    thick = load_scan(scans / "tumour-b1" / "t1c.nii.gz", scans / "tumour-b1" / "label.nii.gz")
    own = nib.load(scans / "tumour-b1" / "label.nii.gz")
    volume = (np.asarray(own.dataobj) > 0).sum() * np.prod(nib.affines.voxel_sizes(own.affine))
    assert thick.label.sum() == pytest.approx(volume, rel=0.02)


def test_a_map_that_was_saved_is_read_back_and_other_numbers_are_refused(write_image, tmp_path):
    path = write_image("scan.nii.gz", np.arange(120, dtype="f4").reshape(4, 5, 6), np.diag([-1.0, 1, 1, 1]))
    scan = load_scan(path)
    probability = (scan.image / 200).astype(np.float32)
    save_map(probability, scan, tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(load_map(tmp_path / "map.nii.gz", scan), probability)
    with pytest.raises(ScanError, match=r"values from 0 to 119 are no probabilities"):
        load_map(path, scan)
