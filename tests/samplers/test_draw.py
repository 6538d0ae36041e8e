"""Draws are what the thesis says: proportions, border pairs, and nothing black or from another split."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_scans import cohort_of, make_scan, save

from kit.samplers import SCHEMES, SamplerError, Scheme, describe, draw, patches, prepare, shell
from kit.scans import components, foreground


def voxels(rows):
    return list(rows[["scan", "slice", "row", "column"]].itertuples(index=False, name=None))


def test_every_lesion_voxel_is_visited_exactly_once_an_epoch(cohort):
    rows = draw(cohort, "balanced", seed=3, epoch=5)
    wanted = {(f"s{seed}", *voxel) for seed in (1, 2, 3) for voxel in np.argwhere(make_scan(seed)[1]).tolist()}
    assert sorted(voxels(rows[rows.label])) == sorted(wanted)
    assert set(rows.why[rows.label]) == {"lesion"}


@pytest.mark.parametrize(("scheme", "times"), [("balanced", 1), ("ratio", 10)])
def test_healthy_voxels_come_in_the_schemes_proportion(cohort, scheme, times):
    rows = draw(cohort, scheme)
    assert (~rows.label).sum() == times * rows.label.sum()


def test_healthy_voxels_are_never_black_nor_lesion_and_lie_in_the_cohorts_own_scans(cohort):
    rows = draw(cohort, "ratio", seed=1)
    for seed in (1, 2, 3, 4):
        image, label = make_scan(seed)
        mine = rows[(rows.scan == f"s{seed}") & ~rows.label]
        index = tuple(mine[["slice", "row", "column"]].to_numpy().T)
        assert len(mine) > 100  # the scan without a label gives healthy voxels too
        assert foreground(image)[index].all()
        assert seed == 4 or not label[index].any()
    assert set(rows.scan) == {"s1", "s2", "s3", "s4"}


def test_no_patch_of_a_draw_is_black(cohort):
    rows = draw(cohort, "balanced", seed=1, limit=600)
    found = patches(cohort, rows, (1, 21, 21), rows.angle)
    assert found.flatten(1).std(dim=1).min() > 0.1


def test_healthy_voxels_are_drawn_uniformly_over_all_scans_together(cohort):
    counts = pd.concat([draw(cohort, "ratio", epoch=k) for k in range(5)]).query("~label").scan.value_counts()
    pool = pd.Series({scan.scan_id: len(scan.healthy) for scan in cohort.scans})
    expected = pool / pool.sum() * counts.sum()
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_healthy_voxels_are_drawn_anew_each_epoch(cohort):
    first, second = (voxels(draw(cohort, seed=1, epoch=k).query("~label")) for k in (1, 2))
    assert len(set(first) & set(second)) < 0.1 * len(first)


def test_the_same_seed_and_epoch_give_the_same_table_whatever_came_before(cohort):
    wanted = draw(cohort, seed=7, epoch=4)
    draw(cohort, seed=7, epoch=5)
    pd.testing.assert_frame_equal(draw(cohort, seed=7, epoch=4), wanted)
    assert not draw(cohort, seed=8, epoch=4).equals(wanted)


def test_positives_and_negatives_are_shuffled_together(cohort):
    label = draw(cohort).label.to_numpy()
    assert 0.4 < np.mean(label[1:] == label[:-1]) < 0.6


def test_a_limit_gives_a_random_subset_without_repetition_in_the_same_proportion(cohort):
    first, second = (draw(cohort, seed=1, epoch=k, limit=100) for k in (1, 2))
    assert len(first) == 100
    assert first.label.sum() == 50
    assert len(set(voxels(first[first.label]))) == 50
    assert set(voxels(first[first.label])) != set(voxels(second[second.label]))
    assert draw(cohort, "ratio", limit=100).label.sum() == 9
    assert len(draw(cohort, limit=10**9)) == len(draw(cohort))


def test_angles_are_uniform_between_minus_and_plus_15_degrees(cohort):
    angle = draw(cohort, "ratio").angle
    assert angle.between(-15, 15).all()
    assert angle.std() == pytest.approx(30 / 12**0.5, rel=0.05)
    assert abs(angle.mean()) < 0.5


def test_a_label_that_lies_in_the_air_is_no_sample(tmp_path):
    image, label = make_scan(1, shape=(24, 160, 160))
    stray = label.copy()
    stray[0, :4, :4] = True
    names = {"image": save(image, tmp_path / "a.nii"), "label": save(stray.astype(np.uint8), tmp_path / "b.nii")}
    cohort = prepare(pd.DataFrame([{"scan_id": "a", **names}]), tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cohort.scans[0].lesion, np.flatnonzero(label))


PAIRED = ["border-pairs", "eroded-border-pairs"]


def labels_of(cohort):
    return {scan: make_scan(seed)[1] for seed, scan in zip((1, 2, 3), ("s1", "s2", "s3"), strict=True)}


@pytest.mark.parametrize("scheme", PAIRED)
def test_with_pairs_every_lesion_voxel_of_the_scheme_comes_once_and_ten_healthy_ones_with_it(cohort, scheme):
    rows = draw(cohort, scheme, seed=2)
    cube = np.ones((3, 3, 3))
    shrunk = {
        scan: ndimage.binary_erosion(label, cube) if "eroded" in scheme else label
        for scan, label in labels_of(cohort).items()
    }
    wanted = {(scan, *voxel) for scan, label in shrunk.items() for voxel in np.argwhere(label).tolist()}
    assert sorted(voxels(rows[rows.label])) == sorted(wanted)
    assert (rows.why == "healthy").sum() == 10 * len(wanted)
    assert (rows.why == "beside the border").sum() == (rows.why == "lesion border").sum() > 0


@pytest.mark.parametrize(("scheme", "distance"), [("border-pairs", 1), ("eroded-border-pairs", 3)])
def test_pairs_join_a_border_voxel_and_a_healthy_one_at_the_distance_in_one_batch(cohort, scheme, distance):
    rows = draw(cohort, scheme, seed=3, batch_size=32)
    rows["batch"] = np.arange(len(rows)) // 32
    labels = labels_of(cohort)
    paired = rows[rows.pair >= 0]
    for _, pair in paired.groupby("pair"):
        one, other = pair.sort_values("label", ascending=False).itertuples()
        assert (one.label, other.label) == (True, False)
        assert one.batch == other.batch
        assert one.scan == other.scan
        apart = np.hypot(np.hypot(one.slice - other.slice, one.row - other.row), one.column - other.column)
        assert abs(apart - distance) <= 0.25
        label = labels[one.scan]
        assert not label[other.slice, other.row, other.column]
        inner = ndimage.binary_erosion(label, np.ones((3, 3, 3))) if distance == 3 else label
        at = (one.slice, one.row, one.column)
        assert inner[at]
        assert not ndimage.binary_erosion(inner)[at]


def test_every_border_voxel_with_a_healthy_neighbour_has_a_partner_and_no_inner_voxel_has_one(cohort):
    rows = draw(cohort, "border-pairs", seed=1)
    for scan, label in labels_of(cohort).items():
        paired = set(voxels(rows[(rows.scan == scan) & rows.label & (rows.pair >= 0)]))
        border = label & ~ndimage.binary_erosion(label)
        assert paired == {(scan, *voxel) for voxel in np.argwhere(border).tolist()}


def test_a_border_against_air_has_no_partner():
    label = np.zeros((1, 9, 9), bool)
    label[0, 4, 4] = True
    alone = cohort_of(label, label, healthy=np.eye(9)[None] * 0 + (np.arange(9) == 0))
    rows = draw(alone, "border-pairs")
    assert (rows.pair == -1).all()
    assert rows.why.tolist().count("lesion") == 1


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
@pytest.mark.parametrize("distance", [1, 3])
def test_a_shell_holds_all_offsets_of_that_distance_and_no_other(spacing_mm, distance):
    finest = min(spacing_mm)
    wanted = [
        (a, b, c)
        for a in range(-9, 10)
        for b in range(-9, 10)
        for c in range(-9, 10)
        if abs(np.linalg.norm(np.multiply((a, b, c), spacing_mm)) / finest - distance) <= 0.25
    ]
    assert sorted(map(tuple, shell(distance, spacing_mm).tolist())) == wanted


def test_partners_keep_the_physical_distance_under_anisotropic_spacing():
    label = np.zeros((9, 25, 25), bool)
    label[2:7, 8:17, 8:17] = True
    cohort = cohort_of(label, label, healthy=~label, spacing_mm=(2.0, 1.0, 1.0))
    rows = draw(cohort, "eroded-border-pairs", seed=1)
    pairs = rows[rows.pair >= 0].sort_values(["pair", "label"])[["slice", "row", "column"]].to_numpy().reshape(-1, 2, 3)
    apart = np.linalg.norm((pairs[:, 0] - pairs[:, 1]) * (2.0, 1.0, 1.0), axis=1)
    assert len(apart) > 50
    assert (abs(apart - 3) <= 0.25).all()


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.for_patches])
@pytest.mark.parametrize("batch_size", [2, 7, 32, 10**6])
def test_no_pair_is_torn_whatever_the_batch_size(cohort, scheme, batch_size):
    rows = draw(cohort, scheme, seed=5, limit=500, batch_size=batch_size)
    batch = np.arange(len(rows)) // batch_size
    assert (pd.Series(batch).groupby(rows.pair).nunique().drop(-1, errors="ignore") == 1).all()
    assert (rows.pair.value_counts().drop(-1, errors="ignore") == 2).all()
    assert rows.angle.std() > 5


def test_pairs_are_spread_over_the_batches(cohort):
    rows = draw(cohort, "border-pairs", seed=5)
    counts = (rows.pair >= 0).groupby(np.arange(len(rows)) // 32).sum()
    assert counts[:-1].max() - counts[:-1].min() <= 2


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.for_patches])
@pytest.mark.parametrize("limit", [64, 500])
def test_a_limit_is_kept_with_pairs_counted_in(cohort, scheme, limit):
    rows = draw(cohort, scheme, seed=1, limit=limit)
    cost = 1 + SCHEMES[scheme].negatives_per_positive
    assert limit - cost <= len(rows) <= limit
    assert (rows.why == "healthy").sum() == (cost - 1) * rows.label.sum()


def test_a_lesion_too_thin_for_the_erosion_is_not_shown():
    label = np.zeros((9, 30, 30), bool)
    label[4:6, 4:6, 4:6] = True
    label[2:7, 15:20, 15:20] = True
    cohort = cohort_of(label, label, healthy=~label)
    rows = describe(cohort, draw(cohort, "eroded-border-pairs"))
    assert set(rows.component[rows.label]) == {components(label)[4, 17, 17]}
    with pytest.raises(SamplerError, match=r"0 lesion \(after erosion\)"):
        draw(cohort_of(label[:, :10], label[:, :10], healthy=~label[:, :10]), "eroded-border-pairs")


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.5, 1.5)])
def test_a_draw_is_described_by_lesion_and_distance_to_the_border(spacing_mm):
    label = np.zeros((8, 20, 20), bool)
    label[2:7, 3:9, 4:12] = label[0:2, 15:18, 15:18] = True
    cohort = cohort_of(label, label, healthy=~label, spacing_mm=spacing_mm)
    rows = describe(cohort, draw(cohort, "border-pairs", seed=4))
    where, other = np.argwhere(label) * spacing_mm, np.argwhere(~np.pad(label, 1)) * spacing_mm - np.array(spacing_mm)
    names = components(label)
    for row in rows.itertuples():
        voxel = np.array([row.slice, row.row, row.column])
        assert row.component == names[tuple(voxel)]
        opposite = other if row.label else where
        assert row.distance_mm == pytest.approx(np.linalg.norm(opposite - voxel * spacing_mm, axis=1).min())


def test_distances_in_a_scan_without_lesions_are_infinite(cohort):
    rows = describe(cohort, draw(cohort, "ratio", seed=1))
    without = rows[rows.scan == "s4"]
    assert len(without) > 10
    assert np.isinf(without.distance_mm).all()
    assert (without.component == 0).all()
    assert np.isfinite(rows.distance_mm[rows.scan != "s4"]).all()


def test_what_cannot_be_drawn_is_refused_with_a_remedy(files, cohort, tmp_path):
    with pytest.raises(SamplerError, match=r"'pairs'.*; choose one of balanced, ratio, border-pairs"):
        draw(cohort, "pairs")
    with pytest.raises(SamplerError, match="0 lesion"):
        draw(prepare(files[3:], tmp_path, progress=False))


@pytest.mark.parametrize(("batch_size", "negatives"), [(1, 10), (3, 0)])
def test_pairs_that_no_batches_of_the_size_can_hold_are_refused(cohort, batch_size, negatives):
    with pytest.raises(SamplerError, match=f"batch_size is {batch_size}: .* give an even number"):
        draw(cohort, Scheme(negatives, (1.0, 1.0), pair_distance=1), limit=40, batch_size=batch_size)


def test_a_scheme_added_from_outside_is_drawn_by_its_name(cohort, monkeypatch):
    monkeypatch.setitem(SCHEMES, "three to one", Scheme(3, (0.5, 1.0)))
    rows = draw(cohort, "three to one", limit=80)
    assert (~rows.label).sum() == 3 * rows.label.sum()
