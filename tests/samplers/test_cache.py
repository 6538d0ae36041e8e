"""The cache holds what the files say, is made anew where it is damaged, and tells a lesion's border from its inside."""

import multiprocessing

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_scans import SHAPE, make_scan, save, write_cohort

from kit.samplers import BORDER, ERODED, ERODED_BORDER, SamplerError, depth_of, draw, prepare
from kit.samplers import cache as prepared
from kit.scans import SEARCHES, ScanError, components, foreground, normalise


def test_statistics_are_those_of_all_non_black_voxels_of_the_training_scans(cohort):
    values = np.concatenate([image[foreground(image)] for image, _ in map(make_scan, (1, 2, 3, 4))])
    assert cohort.statistics == pytest.approx((values.mean(dtype=float), values.std(dtype=float)), rel=1e-5)


def test_validation_scans_are_normalised_with_the_training_statistics(files, tmp_path):
    cohort = prepare(files[:1], tmp_path, statistics=(250.0, 50.0), progress=False)
    wanted = normalise(make_scan(1)[0], (250.0, 50.0))
    np.testing.assert_allclose(cohort.image(0), wanted, atol=0.01, rtol=1e-3)


def test_scan_intensities_give_every_scan_mean_0_and_sd_1(files, tmp_path):
    cohort = prepare(files[:2], tmp_path, intensities="scan", progress=False)
    for index, seed in enumerate((1, 2)):
        values = cohort.image(index)[foreground(make_scan(seed)[0])]
        assert (values.mean(), values.std()) == pytest.approx((0, 1), abs=1e-3)


def test_brain_intensities_are_found_once_and_made_anew_where_they_are_damaged(files, tmp_path, monkeypatch):
    beyond, asked = np.arange(SHAPE[0], dtype=np.int8)[:, None, None] * np.ones(SHAPE, np.int8), []

    def found(*given):
        asked.append(given)
        return 250.0, 40.0

    monkeypatch.setattr(prepared, "brain_statistics", found)
    monkeypatch.setattr(prepared, "beyond_brain", lambda *given: beyond)
    plain = prepare(files[:1], tmp_path, intensities="scan", progress=False)
    for times in (1, 1):
        cohort = prepare(files[:1], tmp_path, intensities="brain", progress=False)
        wanted = normalise(make_scan(1)[0], (250.0, 40.0))
        np.testing.assert_allclose(cohort.image(0), wanted, atol=0.01, rtol=1e-3)
        np.testing.assert_array_equal(cohort.scans[0].beyond, beyond)
        assert (cohort.statistics, cohort.scans[0].brain, len(asked)) == ("brain", (250.0, 40.0), times)
    assert plain.scans[0].brain is plain.scans[0].beyond is None
    for times, name in ((2, "beyond.npy"), (3, "brain.json")):
        (path,) = tmp_path.glob(f"*/{name}")
        path.write_bytes(path.read_bytes()[:-5])
        again = prepare(files[:1], tmp_path, intensities="brain", progress=False)
        np.testing.assert_array_equal(again.scans[0].beyond, beyond)
        assert len(asked) == times


def test_raw_intensities_up_to_65535_survive_float16(tmp_path):
    image, _ = make_scan(1)
    row = {"scan_id": "s", "image": save(image * (65535 / image.max()), tmp_path / "s.nii"), "label": ""}
    cohort = prepare(pd.DataFrame([row]), tmp_path / "cache", intensities="scan", progress=False)
    np.testing.assert_allclose(cohort.image(0), normalise(image), rtol=1 / 2000, atol=1e-6)


def test_a_prepared_scan_is_not_read_again(files, tmp_path, monkeypatch):
    wanted = prepare(files, tmp_path, progress=False)
    monkeypatch.setattr(prepared, "load_row", None)
    found = prepare(files, tmp_path, progress=False)
    pd.testing.assert_frame_equal(draw(found, seed=1), draw(wanted, seed=1))


@pytest.mark.parametrize("name", ["volume.npy", "lesion.npy", "healthy.npy", "facts.json"])
def test_a_damaged_or_missing_cache_file_is_made_anew(files, tmp_path, name):
    wanted = prepare(files[:1], tmp_path, progress=False).image(0)
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-5])
    np.testing.assert_array_equal(prepare(files[:1], tmp_path, progress=False).image(0), wanted)
    path.unlink()
    np.testing.assert_array_equal(prepare(files[:1], tmp_path, progress=False).image(0), wanted)


def test_a_killed_preparation_goes_on_where_it_stopped(files, tmp_path, monkeypatch):
    read = []

    def load(row):
        read.append(row["image"])
        if len(read) == 3:
            raise KeyboardInterrupt
        return load_row(row)

    load_row = prepared.load_row
    monkeypatch.setattr(prepared, "load_row", load)
    with pytest.raises(KeyboardInterrupt):
        prepare(files, tmp_path, progress=False)
    prepare(files, tmp_path, progress=False)
    assert read == [*files.image[:3], *files.image[2:]]
    assert not list(tmp_path.rglob(".*"))


def test_a_changed_file_is_prepared_again(tmp_path):
    table = write_cohort(tmp_path, seeds=[1])
    prepare(table, tmp_path / "cache", progress=False)
    save(make_scan(2)[1].astype(np.uint8), tmp_path / "s1-seg.nii")
    cohort = prepare(table, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cohort.scans[0].lesion, np.flatnonzero(make_scan(2)[1]))


def test_with_a_mask_healthy_voxels_come_from_inside_it_only(tmp_path):
    table = write_cohort(tmp_path, seeds=[1])
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :, 48:] = 3
    table["mask"] = save(mask, tmp_path / "mask.nii")
    rows = draw(prepare(table, tmp_path / "cache", progress=False))
    assert rows.column[~rows.label].min() >= 48


def test_healthy_voxels_are_drawn_from_the_region_searched_and_intensities_normalised_by_the_head(
    tmp_path, monkeypatch
):
    table = write_cohort(tmp_path, seeds=[1])
    region = np.zeros(SHAPE, bool)
    region[:, :, 48:] = True
    monkeypatch.setitem(SEARCHES, "brain", lambda image, spacing_mm: region)
    head, brain = (prepare(table, tmp_path / "cache", search=word, progress=False) for word in ("head", "brain"))
    assert head.statistics == brain.statistics
    np.testing.assert_array_equal(brain.scans[0].lesion, head.scans[0].lesion)
    inside = region.ravel()[head.scans[0].healthy]
    np.testing.assert_array_equal(brain.scans[0].healthy, head.scans[0].healthy[inside])
    with pytest.raises(ScanError, match="search is 'skull'"):
        prepare(table, tmp_path / "cache", search="skull", progress=False)


def test_lesion_codes_choose_what_is_lesion(tmp_path):
    table = write_cohort(tmp_path, seeds=[1])
    codes = make_scan(1)[1] * np.uint8(2)
    codes[:, 40:60] *= 2
    table["label"], table["lesion_codes"] = save(codes, tmp_path / "codes.nii"), "4"
    cohort = prepare(table, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cohort.scans[0].lesion, np.flatnonzero(codes == 4))


def test_what_cannot_be_prepared_is_refused_with_a_remedy(files, tmp_path):
    with pytest.raises(SamplerError, match="has no rows"):
        prepare(files[:0], tmp_path)
    with pytest.raises(SamplerError, match="intensities is 'raw'; choose one of brain, scan, cohort"):
        prepare(files, tmp_path, intensities="raw")
    with pytest.raises(ScanError, match=r"gone\.nii"):
        prepare(files[:1].assign(image=str(tmp_path / "gone.nii")), tmp_path, progress=False)


def test_border_and_erosion_agree_with_looking_at_every_neighbour():
    label = ndimage.gaussian_filter(np.random.default_rng(0).random((9, 14, 14)), 1.2) > 0.5
    label[3:8, 4:10, 4:11] = True
    cube = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    faces = [step for step in cube if sum(map(abs, step)) == 1]

    def survives(mask, steps):
        padded = np.pad(mask, 1)
        return np.array([all(padded[tuple(np.add(v, s) + 1)] for s in steps) for v in np.ndindex(mask.shape)])

    eroded = survives(label, cube).reshape(label.shape) & label
    depth = depth_of(label)
    np.testing.assert_array_equal((depth & BORDER) > 0, label & ~survives(label, faces).reshape(label.shape))
    np.testing.assert_array_equal((depth & ERODED) > 0, eroded)
    np.testing.assert_array_equal((depth & ERODED_BORDER) > 0, eroded & ~survives(eroded, faces).reshape(label.shape))
    assert eroded.any()


def test_a_prepared_lesion_knows_its_components_and_its_border(files, cohort):
    for scan, seed in zip(cohort.scans, (1, 2, 3), strict=False):
        label = make_scan(seed)[1]
        np.testing.assert_array_equal(scan.component, components(label)[label])
        np.testing.assert_array_equal(scan.depth, depth_of(label)[label])
        assert scan.spacing_mm == (1.0, 1.0, 1.0)


def prepare_once(files, folder):
    prepare(files, folder, progress=False)


def test_processes_that_prepare_one_cache_at_once_do_not_disturb_each_other(files, tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        workers = [context.Process(target=prepare_once, args=(files, tmp_path / str(attempt))) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
