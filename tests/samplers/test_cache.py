"""The cache holds what the files say, is made anew where it is damaged, and tells a lesion's border from its inside."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_scans import SHAPE, make_scan, save, write_cohort

from kit.samplers import BORDER, ERODED, ERODED_BORDER, SamplerError, cache, depth_of, draw, entries, prepare
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
    beyond, asked, ends = np.arange(SHAPE[0], dtype=np.int8)[:, None, None] * np.ones(SHAPE, np.int8), [], []
    monkeypatch.setattr(entries, "brain_statistics", lambda *given: asked.append(given) or (250.0, 40.0))
    monkeypatch.setattr(entries, "beyond_brain", lambda *given: ends.append(given[1]) or beyond)
    plain = prepare(files[:1], tmp_path, intensities="scan", progress=False)
    for times in (1, 1):
        cohort = prepare(files[:1], tmp_path, intensities="brain", progress=False)
        wanted = normalise(make_scan(1)[0], (250.0, 40.0))
        np.testing.assert_allclose(cohort.image(0), wanted, atol=0.01, rtol=1e-3)
        assert (cohort.statistics, cohort.scans[0].brain, len(asked)) == ("brain", (250.0, 40.0), times)
    assert plain.scans[0].brain is plain.scans[0].beyond is cohort.scans[0].beyond is None
    assert not ends, "where a brain ends takes seconds, and only taking skulls off asks for it"
    options = {"intensities": "brain", "augment": "scanner", "progress": False}
    for _ in range(2):
        np.testing.assert_array_equal(prepare(files[:1], tmp_path, **options).scans[0].beyond, beyond)
    assert (len(asked), ends) == (1, [(250.0, 40.0)])
    for times, name in (((1, 2), "beyond.npy"), ((2, 2), "brain.json")):
        (path,) = tmp_path.glob(f"*/{name}")
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.warns(UserWarning, match="prepared scan s1 was damaged"):
            again = prepare(files[:1], tmp_path, **options)
        np.testing.assert_array_equal(again.scans[0].beyond, beyond)
        assert (len(asked), len(ends)) == times


def test_raw_intensities_up_to_65535_survive_float16(tmp_path):
    image, _ = make_scan(1)
    row = {"scan_id": "s", "image": save(image * (65535 / image.max()), tmp_path / "s.nii"), "label": ""}
    cohort = prepare(pd.DataFrame([row]), tmp_path / "cache", intensities="scan", progress=False)
    np.testing.assert_allclose(cohort.image(0), normalise(image), rtol=1 / 2000, atol=1e-6)


def test_a_prepared_scan_is_not_read_again(files, tmp_path, monkeypatch):
    wanted = prepare(files, tmp_path, progress=False)
    monkeypatch.setattr(entries, "load_row", None)
    found = prepare(files, tmp_path, progress=False)
    pd.testing.assert_frame_equal(draw(found, seed=1), draw(wanted, seed=1))


@pytest.mark.parametrize("name", ["volume.npy", "lesion.npy", "healthy.npy", "depth.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "a bit", "gone"])
def test_a_damaged_cache_file_is_named_and_made_anew_and_no_other_entry(files, tmp_path, name, damage, monkeypatch):
    first = prepare(files[:2], tmp_path, progress=False)
    wanted = [first.image(index).copy() for index in range(2)]
    (path,) = [path for path in tmp_path.glob(f"*/{name}") if path.parent == entry_of(files, 0, tmp_path)]
    whole = bytearray(path.read_bytes())
    if damage == "a bit":
        whole[len(whole) // 2] ^= 1
    path.write_bytes(whole[:-5] if damage == "cut" else whole)
    if damage == "gone":
        path.unlink()
    read, load_row = [], entries.load_row
    monkeypatch.setattr(entries, "load_row", lambda row: read.append(row["scan_id"]) or load_row(row))
    silent = (name, damage) == ("facts.json", "gone")  # as if it had been stopped before its end
    told = nullcontext() if silent else pytest.warns(UserWarning, match="s1 was damaged")
    with told:
        again = prepare(files[:2], tmp_path, progress=False)
    assert read == ["s1"]
    for index in range(2):
        np.testing.assert_array_equal(again.image(index), wanted[index])
    prepare(files[:2], tmp_path, progress=False)  # without a warning


def entry_of(files, index, folder):
    return entries.ensure(files.iloc[index].to_dict(), folder, "head", ("facts",))[0]


def test_a_scan_is_known_by_what_is_in_its_files_wherever_they_lie(tmp_path, monkeypatch):
    table = write_cohort(tmp_path, seeds=[1])
    wanted = prepare(table, tmp_path / "cache", progress=False)
    (tmp_path / "moved").mkdir()
    for name in ("image", "label"):
        table[name] = [shutil.move(path, tmp_path / "moved") for path in table[name]]
    monkeypatch.setattr(entries, "load_row", None)
    found = prepare(table, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(found.scans[0].volume, wanted.scans[0].volume)


def test_a_full_disk_costs_one_scan_and_says_so(files, tmp_path, monkeypatch):
    """The disk is full while the second scan's volume is written; nothing of it stays, and the others are kept."""
    load_row, save, reading = entries.load_row, np.save, []

    def full(path, array):
        if reading[-1] == "s2":
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, array)

    monkeypatch.setattr(entries, "load_row", lambda row: reading.append(row["scan_id"]) or load_row(row))
    monkeypatch.setattr(entries.np, "save", full)
    with pytest.raises(SamplerError, match=r"1 of 4 scans could not be prepared(.|\n)*s2: .*no space is left in"):
        prepare(files, tmp_path, progress=False)
    assert not list(tmp_path.rglob(".*"))
    monkeypatch.undo()
    monkeypatch.setattr(entries, "load_row", lambda row: reading.append(row["scan_id"]) or load_row(row))
    prepare(files, tmp_path, progress=False)
    assert reading == ["s1", "s2", "s3", "s4", "s2"]


@pytest.mark.slow
def test_several_processes_give_the_same_cohort_and_name_what_fails(files, tmp_path):
    wanted = prepare(files, tmp_path / "one", progress=False)
    found = prepare(files, tmp_path / "two", workers=2, progress=False)
    assert found.statistics == wanted.statistics
    assert [scan.scan_id for scan in found.scans] == files.scan_id.tolist()
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("*/*.*")}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) == 4 * 6
    assert one == two
    broken = pd.concat([files[:1], files[1:2].assign(image=str(tmp_path / "gone.nii"))])
    with pytest.raises(SamplerError, match=r"1 of 2 scans could not be prepared(.|\n)*s2: .*gone\.nii: no such file"):
        prepare(broken, tmp_path / "two", workers=2, progress=False)


def killed_by(row, cache_dir, search, parts):
    """In place of `ensure` in other processes: scan s2 kills its process each time, s3 the first time."""
    mark = cache_dir / row["scan_id"]
    cache_dir.mkdir(exist_ok=True)
    while row["scan_id"] == "s2" and not (cache_dir / "s3").exists():
        time.sleep(0.01)  # or s3 might be lost with the pool before its first time
    if row["scan_id"] == "s2" or (row["scan_id"] == "s3" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return entries.ensure(row, cache_dir, search, parts)


def test_a_killed_process_costs_its_scan_at_most_and_says_so(files, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ensure", killed_by)
    monkeypatch.setattr(cache, "get_context", lambda kind: multiprocessing.get_context("fork"))
    with pytest.raises(
        SamplerError, match=r"1 of 4 scans could not be prepared(.|\n)*s2: its process was killed, twice"
    ):
        prepare(files, tmp_path / "cache", workers=2, progress=False)
    monkeypatch.setattr(entries, "load_row", None)
    monkeypatch.undo()
    assert (tmp_path / "cache" / "s3").exists()
    assert len(list((tmp_path / "cache").glob("*/facts.json"))) == 3


def test_a_killed_preparation_goes_on_where_it_stopped(files, tmp_path, monkeypatch):
    read = []

    def load(row):
        read.append(row["image"])
        if len(read) == 3:
            raise KeyboardInterrupt
        return load_row(row)

    load_row = entries.load_row
    monkeypatch.setattr(entries, "load_row", load)
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
    with pytest.raises(SamplerError, match="workers is 0"):
        prepare(files, tmp_path, workers=0)
    with pytest.raises(SamplerError, match=r"augment is 'scaner' \(perhaps 'scanner' is meant\)"):
        prepare(files, tmp_path, augment="scaner")
    with pytest.raises(SamplerError, match=r"1 of 1 scans(.|\n)*gone\.nii"):
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
