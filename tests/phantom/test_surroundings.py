"""Tissue gives way to a lesion as an incompressible medium would, and oedema runs along white matter."""

import heapq
from itertools import product

import numpy as np
import pytest

from kit.phantom import Lesion, Tissue, draw_head, draw_lesions, estimate_tissue, implant, likely_places
from kit.phantom.surroundings import around, darken, displace, way_through_white_mm
from kit.scans import lesion_table, load_scan

CENTRE, SPACING_MM = (20.0, 30.0, 40.0), (2.0, 1.0, 0.75)


def tissue_of(white, depth_mm=None):
    empty = np.zeros(white.shape, np.float32)
    depth_mm = np.full(white.shape, 30, np.float32) if depth_mm is None else depth_mm
    return Tissue(white, 1 - white, empty, np.ones(white.shape, np.uint8), depth_mm)


def distances_mm(shape):
    axes = [(a - c) * s for a, c, s in zip(np.ogrid[tuple(map(slice, shape))], CENTRE, SPACING_MM, strict=True)]
    return np.sqrt(sum(a**2 for a in axes)).astype(np.float32)


def test_a_ball_moves_tissue_as_far_as_its_volume_demands():
    came_from = distances_mm((41, 61, 81))
    lesion = Lesion(CENTRE, 6.0, contrast=1.0, push=0.5)
    displace(came_from, tissue_of(np.ones(came_from.shape, np.float32)), [lesion], SPACING_MM)
    distance = distances_mm(came_from.shape)
    shell = (distance > 7) & (distance < 11)
    assert came_from[shell] == pytest.approx(np.cbrt(distance[shell] ** 3 - 0.5 * 6**3), abs=0.05)
    assert came_from[distance > 27.5] == pytest.approx(distance[distance > 27.5])


def test_the_skull_does_not_move():
    depth = np.broadcast_to(np.arange(81.0, dtype=np.float32) - 36, (41, 61, 81))
    before = distances_mm(depth.shape)
    after = before.copy()
    lesion = Lesion(CENTRE, 6.0, contrast=1.0, push=0.9)
    displace(after, tissue_of(np.ones(depth.shape, np.float32), depth), [lesion], SPACING_MM)
    assert np.array_equal(after[..., :35], before[..., :35])
    assert abs(after - before)[..., 48:].max() > 0.8


def test_white_matter_moves_with_the_image():
    image = (distances_mm((41, 61, 81)) < 12).astype(np.float32)
    lesion = Lesion(CENTRE, 6.0, contrast=1.0, push=0.9)
    white = displace(image, tissue_of(image.copy()), [lesion], SPACING_MM)
    assert white.sum() > 1.05 * (distances_mm(image.shape) < 12).sum()
    assert abs(white - image).mean() < 0.01


def test_oedema_darkens_connected_white_matter_and_spares_grey():
    white = np.zeros((41, 61, 81), np.float32)
    white[16:25, 26:35, 36:75] = 1  # the lesion's gyrus
    white[16:25, 5:19, 30:75] = 1  # another one, as near, beyond grey matter
    image = 0.75 + 0.25 * white
    before = image.copy()
    lesion = Lesion(CENTRE, 4.0, contrast=1.0, oedema_mm=14.0, oedema=0.2, seed=1)
    darken(image, white, tissue_of(white), [lesion], SPACING_MM, white_matter=1.0)
    loss = before - image
    assert (loss[white == 0] == 0).all()
    assert loss[20, 30, 46:52] == pytest.approx(0.2, abs=0.02)
    assert loss[20, 30, 74] < 0.02
    assert loss[20, 12, 40] < 0.02


def test_ways_through_white_matter_are_those_of_a_slow_search():
    rng = np.random.default_rng(0)
    white = (rng.uniform(size=(10, 10, 10)) < 0.6).astype(np.float32)
    lesion = Lesion((4.0, 4.0, 4.0), 3.0, contrast=1.0, oedema_mm=60.0)
    _, offset = around(lesion.centre, white.shape, (2.0, 2.0, 2.0), 40)
    way = way_through_white_mm(lesion, offset, white, np.full(white.shape, 9.0), (2.0, 2.0, 2.0))
    assert way == pytest.approx(slow_way(lesion, white), rel=1e-4)


def slow_way(lesion, white):
    """Dijkstra over neighbours along an axis or a diagonal of the cube, 2 mm voxels."""
    cost = 1 / np.clip(white, 0.25, 1)
    away = np.linalg.norm(2.0 * (np.indices(white.shape).T - lesion.centre).T, axis=0)
    way = np.where(away < lesion.radius_mm, 0, np.inf)
    queue = [(0.0, tuple(v)) for v in np.argwhere(way == 0).tolist()]
    steps = [s for s in product((-1, 0, 1), repeat=3) if np.abs(s).sum() in (1, 3)]
    heapq.heapify(queue)
    while queue:
        so_far, voxel = heapq.heappop(queue)
        for step in steps:
            there = tuple(np.add(voxel, step).tolist())
            if all(0 <= t < n for t, n in zip(there, white.shape, strict=True)):
                further = so_far + np.linalg.norm(step) * (cost[voxel] + cost[there])
                if further < way[there]:
                    way[there] = further
                    heapq.heappush(queue, (further, there))
    return way


@pytest.mark.slow
def test_tissue_of_a_drawn_scan_in_thick_slices_is_found_and_takes_lesions():
    head = draw_head(np.random.default_rng(4))
    image = 400 * head.image[::3, ::2, ::2] + np.random.default_rng(5).normal(0, 12, (54, 128, 128))
    spacing_mm = (3.0, 2.0, 2.0)
    tissue = estimate_tissue(image, white_matter=400, spacing_mm=spacing_mm)
    sure = head.white[::3, ::2, ::2] > 0.95
    assert tissue.white[sure].mean() > 0.8
    outside = head.depth_mm[::3, ::2, ::2] < -6
    assert (tissue.depth_mm[outside] < 0).mean() > 0.99
    assert_takes_lesions(image, tissue, 400, spacing_mm)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["head-t1", "brain-t1gd"])
def test_a_real_healthy_scan_takes_lesions(shared_data, name):
    scan = load_scan(shared_data / "healthy" / f"{name}.nii.gz")
    bright = scan.image[scan.image > 0.4 * np.percentile(scan.image, 99)]
    white_matter = np.percentile(bright, 75)
    tissue = estimate_tissue(scan.image, white_matter=white_matter, spacing_mm=scan.spacing_mm)
    litres = tissue.depth_mm.clip(0, 1).sum() * np.prod(scan.spacing_mm) / 1e6
    assert 1.1 < litres < 2.0
    assert_takes_lesions(scan.image, tissue, white_matter, scan.spacing_mm)


def assert_takes_lesions(image, tissue, white_matter, spacing_mm):
    rng = np.random.default_rng(2)
    lesions = draw_lesions([4, 7, 11], likely_places(tissue), rng, spacing_mm=spacing_mm, keep_out=tissue.region != 1)
    implanted, label = implant(image, lesions, white_matter=white_matter, spacing_mm=spacing_mm, tissue=tissue)
    found = lesion_table(label, spacing_mm).volume_mm3.sort_values().to_numpy()
    drawn = 4 / 3 * np.pi * np.array([4, 7, 11]) ** 3
    assert (
        abs(found - drawn) <= np.maximum(0.15 * drawn, 5 * np.prod(spacing_mm))
    ).all()  # five voxels, where those are large
    assert (tissue.depth_mm[label] > -1).all()
    far = tissue.depth_mm < -4
    assert np.array_equal(implanted[far], image.astype(np.float32)[far])
    around_it = (tissue.white > 0.9) & ~label & (implanted < image - 0.05 * white_matter)
    assert around_it.sum() * np.prod(spacing_mm) > 1000  # oedema
