"""Crops and their lattices: what is drawn, what its voxels are, and which of them enter the loss."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_scans import SHAPE, cohort_of, write_cohort

from kit.samplers import (
    COUNT,
    CROPS,
    HEALTHY,
    SCHEMES,
    Lattice,
    SamplerError,
    Scheme,
    choose,
    draw_segments,
    prepare,
    read_segments,
    shell,
)

NOTHING, LESION = 0, 2
PATCH = (5, 51, 51)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    return prepare(write_cohort(folder, (1, 2, 3)), folder / "cache", intensities="scan", progress=False)


def plain(rows):
    """The same crops, not turned."""
    return rows.assign(angle=np.float32(0))


def kinds_of(scan):
    """What every voxel of a scan is, the obvious way."""
    kinds = np.zeros(scan.volume.shape, np.uint8)
    kinds.reshape(-1)[scan.healthy] = HEALTHY
    kinds.reshape(-1)[scan.lesion] = LESION
    return kinds


@pytest.mark.parametrize(("lesions", "healthy"), [(0, 1), (1, 0)])
def test_a_cohort_without_lesion_or_healthy_voxels_is_refused_by_name(lesions, healthy):
    voxels = np.zeros((2, 3, 20, 20), bool)
    voxels[0, 1, 5, 5], voxels[1, 1, 9, 9] = lesions, healthy
    made = cohort_of(np.random.default_rng(0).normal(size=(3, 20, 20)), voxels[0], voxels[1])
    with pytest.raises(SamplerError, match=f"the cohort has {lesions} lesion and {healthy} healthy voxels"):
        draw_segments(made, steps=1, step=4)


@pytest.mark.parametrize("step", [1, 4])
def test_a_lattice_holds_what_the_scan_has_at_every_step_th_voxel_around_the_crops_middle(cohort, step):
    rows = plain(draw_segments(cohort, steps=3, step=step))
    crops, lattice = read_segments(cohort, rows, PATCH, step)
    side = 51 + step * (COUNT - 1)
    assert crops.shape == (3 * CROPS, 5, side, side)
    for at, row in enumerate(rows.itertuples()):
        index = rows.scan.cat.codes[at]
        scan, image = cohort.scans[index], cohort.image(index)
        wide = [(0, 0), (200, 200), (200, 200)]
        kinds, padded = np.pad(kinds_of(scan), wide), np.pad(image, wide, constant_values=image.min())
        top, left = 200 + row.row - side // 2 + 25, 200 + row.column - side // 2 + 25
        own = np.ix_(top + step * np.arange(COUNT), left + step * np.arange(COUNT))
        np.testing.assert_array_equal(lattice.kind[at], kinds[row.slice][own])
        # the voxel that is classified is the middle of its patch
        middles = crops[at, 2, 25 : side - 25 : step, 25 : side - 25 : step].numpy()
        np.testing.assert_allclose(middles, padded[row.slice][own], atol=1e-3)  # interpolated, if at 0 degrees


def test_turned_lattices_take_the_nearest_voxel_of_the_turned_place(cohort):
    rows = draw_segments(cohort, steps=2, step=4)
    _, lattice = read_segments(cohort, rows, PATCH, 4)
    for at, row in enumerate(rows.itertuples()):
        kinds = kinds_of(cohort.scans[rows.scan.cat.codes[at]])
        turn = np.deg2rad(float(row.angle))
        for i, j in ((0, 0), (3, 11), (15, 7)):
            down, right = (25 + 4 * k - (51 + 4 * 15) // 2 for k in (i, j))
            r = round(row.row + down * np.cos(turn) + right * np.sin(turn))
            c = round(row.column + right * np.cos(turn) - down * np.sin(turn))
            inside = 0 <= r < SHAPE[1] and 0 <= c < SHAPE[2]
            assert lattice.kind[at, i, j] == (kinds[row.slice, r, c] if inside else NOTHING)


def test_half_of_the_crops_lie_around_lesions_and_with_hard_places_a_quarter_around_those(cohort):
    rows = draw_segments(cohort, steps=50, step=4)
    assert Counter(rows.around) == {"lesion": 100, "voxel": 100, "tissue": 200}
    assert (rows.groupby("batch").size() == CROPS).all()
    hard = rows.assign(scan=1).head(1)[["scan", "slice", "row", "column"]]
    rows = draw_segments(cohort, steps=50, step=4, hard=hard)
    assert Counter(rows.around) == {"lesion": 100, "voxel": 100, "tissue": 100, "hard": 100}
    drawn = rows[rows.around == "hard"]
    assert set(drawn.scan) == {cohort.scans[1].scan_id}
    assert set(drawn.slice) == set(hard.slice)
    assert (drawn.row - hard.row.iloc[0]).abs().max() <= 21


def test_small_lesions_are_drawn_as_often_as_large_ones_by_lesion_and_less_by_voxel(cohort):
    scan = cohort.scans[0]
    tiny = scan.component == scan.component[0]
    kept = ~tiny | (np.cumsum(tiny) <= 3)  # one of its lesions cut down to 3 voxels
    cut = {name: getattr(scan, name)[kept] for name in ("lesion", "component", "depth")}
    small = set(cut["lesion"][cut["component"] == scan.component[0]].tolist())
    rows = draw_segments(replace(cohort, scans=(replace(scan, **cut),)), steps=500, step=1, count=1)
    flat = np.ravel_multi_index(rows[["slice", "row", "column"]].to_numpy().T, SHAPE)
    share = rows.assign(small=[at in small for at in flat]).groupby("around", observed=True).small.mean()
    assert share["lesion"] == pytest.approx(1 / len(np.unique(cut["component"])), abs=0.06)
    assert share["voxel"] < 0.05


def test_the_same_seed_and_epoch_give_the_same_crops(cohort):
    first, again, other = (draw_segments(cohort, seed=3, epoch=e, steps=2, step=4) for e in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


@pytest.mark.parametrize(("scheme", "distance"), [("border-pairs", 1), ("eroded-border-pairs", 3)])
def test_a_crop_around_a_lesion_has_a_twin_at_the_pairs_distance(cohort, scheme, distance):
    rows = draw_segments(cohort, scheme, steps=20, step=4)
    twins = np.flatnonzero(rows.twin)
    assert len(twins) == 20 * CROPS // 2
    assert set(rows.around.iloc[twins]) == {"lesion", "voxel"}
    place = rows[["slice", "row", "column"]].to_numpy()
    apart = {tuple(offset) for offset in place[twins] - place[twins - 1]}
    assert apart <= set(map(tuple, shell(distance).tolist()))
    assert len(apart) > 3
    assert (rows.angle.to_numpy()[twins] == rows.angle.to_numpy()[twins - 1]).all()
    assert (rows.batch.to_numpy()[twins] == rows.batch.to_numpy()[twins - 1]).all()


@pytest.mark.parametrize("scheme", ["border-pairs", "eroded-border-pairs"])
def test_every_voxel_on_a_border_whose_partner_is_healthy_is_joined_by_it(cohort, scheme):
    rows = draw_segments(cohort, scheme, steps=40, step=4)
    _, lattice = read_segments(cohort, rows, PATCH, 4)
    index, label, _ = choose(lattice, rows.twin.to_numpy(), SCHEMES[scheme], np.random.default_rng(0))
    bit = 4 if scheme.startswith("eroded") else 1
    pairs = [
        ((at, i, j), (at + 1, i, j))
        for at, i, j in zip(*np.nonzero((lattice.depth & bit) > 0), strict=True)
        if at + 1 < len(rows) and rows.twin[at + 1] and lattice.kind[at + 1, i, j] == HEALTHY
    ]
    assert len(pairs) > 10
    flat = [np.ravel_multi_index(partner, lattice.kind.shape) for _, partner in pairs]
    assert set(flat) <= set(index[label == 0])
    assert len(set(index)) == len(index)


def a_lattice(lesions=5, healthy=600):
    kind = np.zeros((8, COUNT, COUNT), np.uint8)
    kind.reshape(-1)[:lesions] = LESION
    kind.reshape(-1)[1000 : 1000 + healthy] = HEALTHY
    size = np.zeros(kind.shape, np.int64)
    size.reshape(-1)[:lesions] = 10
    return Lattice(kind, np.zeros_like(kind), size), np.zeros(8, bool)


@pytest.mark.parametrize(("name", "expected"), [("balanced", 128), ("ratio", 500), ("hard-negatives", 150)])
def test_a_scheme_says_how_many_healthy_voxels_are_learnt_and_both_classes_weigh_the_same(name, expected):
    given = a_lattice(50)
    ask = lambda index: np.full(len(index), 0.5)  # noqa: E731
    index, label, weight = choose(*given, SCHEMES[name], np.random.default_rng(0), ask)
    assert Counter(label.tolist()) == {1: 50, 0: expected}
    assert (given[0].kind.reshape(-1)[index[label == 1]] == LESION).all()
    assert (given[0].kind.reshape(-1)[index[label == 0]] == HEALTHY).all()
    assert weight.sum() == pytest.approx(1)
    assert weight[label == 1].sum() == pytest.approx(0.5)


def test_black_voxels_are_never_learnt():
    lattice, twin = a_lattice(5, 20)
    index, _, _ = choose(lattice, twin, SCHEMES["ratio"], np.random.default_rng(0))
    assert len(index) == 25


def test_hard_negatives_are_chosen_by_their_probability():
    lattice, twin = a_lattice(50)
    hot = set(range(1000, 1040))
    ask = lambda index: np.isin(index, list(hot)).astype(np.float32)  # noqa: E731
    index, label, _ = choose(lattice, twin, SCHEMES["hard-negatives"], np.random.default_rng(0), ask)
    assert hot < set(index[label == 0])
    plain, *_ = choose(lattice, twin, Scheme(3, (1 / 3, 1)), np.random.default_rng(0))
    assert len(hot & set(plain)) < 25


@pytest.mark.parametrize("name", ["by-size", "hard-by-size"])
def test_by_size_a_voxel_weighs_inversely_as_its_lesion(name):
    lattice, twin = a_lattice(4)
    lattice.size.reshape(-1)[:4] = [1, 100, 100, 50]
    scheme = SCHEMES[name]
    _, label, weight = choose(lattice, twin, scheme, np.random.default_rng(0), lambda index: np.ones(len(index)))
    shares = weight[label == 1] / weight[label == 1].sum()
    np.testing.assert_allclose(shares, np.array([100, 1, 1, 2]) / 104, rtol=1e-5)


def test_a_step_without_lesion_learns_from_healthy_voxels_alone():
    lattice, twin = a_lattice(0)
    _, label, weight = choose(lattice, twin, SCHEMES["balanced"], np.random.default_rng(0))
    assert (label == 0).all()
    assert weight.sum() == pytest.approx(1)


def test_an_unknown_scheme_is_refused(cohort):
    with pytest.raises(SamplerError, match="border-pair"):
        draw_segments(cohort, "border-pair", steps=1, step=4)
