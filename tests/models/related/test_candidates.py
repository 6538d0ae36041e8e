"""Candidates are measured as they are drawn, painted where they lie, and criteria decide which of them count."""

import numpy as np
import pandas as pd
import pytest
from small_scans import drawn_balls, drawn_head

from kit.models import METHODS, CandidateDetector, ModelError, propose
from kit.models.related import paint
from kit.models.related.candidates import drop_inside, measure_candidates


def one_place(at, radius_mm):
    return pd.DataFrame(
        [dict(zip(("slice", "row", "column", "radius_mm", "score"), (*at, radius_mm, 1.0), strict=True))]
    )


def test_a_drawn_block_is_its_own_region_with_its_volume_and_contrast():
    image = np.full((11, 25, 25), 2.0, np.float32)
    image[4:7, 10:16, 10:16] = 7.0
    table, (region,) = measure_candidates(image, one_place((5, 12, 12), 4.0), (2.0, 1.0, 1.0))
    assert sorted(map(tuple, region)) == sorted(map(tuple, np.argwhere(image > 5)))
    assert table.volume_mm3[0] == 3 * 6 * 6 * 2
    assert table.contrast[0] == 5
    assert table.anisotropy[0] < 0.01  # 6 mm a side


def test_a_line_of_voxels_is_anisotropic_in_mm_not_in_voxels():
    image = np.zeros((15, 25, 25), np.float32)
    image[7, 12, 8:17] = 1  # 9 mm along, 4 x 1 mm across
    image[7, 4, 4] = 1
    spacing_mm = (4.0, 1.0, 1.0)
    table, _ = measure_candidates(image, pd.concat([one_place((7, 12, 12), 5), one_place((7, 4, 4), 2)]), spacing_mm)
    moments = np.array([4**2 / 12, 1 / 12, 81 / 12])  # of a brick
    away = moments - moments.mean()
    assert table.anisotropy[0] == pytest.approx(np.sqrt(1.5 * (away**2).sum() / (moments**2).sum()))
    assert table.anisotropy[1] > 0.8  # one voxel of a thick slice is a pillar


def test_a_ball_is_compact_and_a_plate_is_not():
    image = drawn_balls([(12, 12, 12, 4.0)], (1.0, 1.0, 1.0), shape=(25, 25, 60), noise=0)
    image[12, 8:17, 40:49] = 1  # one voxel thick
    table, _ = measure_candidates(image, pd.concat([one_place((12, 12, 12), 4), one_place((12, 12, 44), 4)]))
    assert table.compactness[0] > 0.9
    assert table.compactness[1] < 0.4


def test_a_hollow_ring_is_filled_and_a_neighbour_that_does_not_touch_is_left_out():
    image = drawn_balls([(12, 12, 12, 5.0)], (1.0, 1.0, 1.0), shape=(25, 25, 40), noise=0)
    image -= drawn_balls([(12, 12, 12, 2.5)], (1.0, 1.0, 1.0), shape=(25, 25, 40), noise=0)
    image[12, 12, 20:23] = 1
    _, (region,) = measure_candidates(image, one_place((12, 12, 12), 6.0), (1.0, 1.0, 1.0))
    assert [12, 12, 12] in region.tolist()
    assert region[:, 2].max() < 19


def test_of_two_places_within_a_radius_the_first_stays_in_mm():
    places = pd.DataFrame({"slice": [5, 6, 5], "row": [5, 5, 5], "column": [5, 5, 8], "radius_mm": 3.5, "score": 1.0})
    assert drop_inside(places, (4.0, 1.0, 1.0))["slice"].tolist() == [5, 6]  # 4 mm and 3 mm away
    assert drop_inside(places, (1.0, 2.0, 2.0))["column"].tolist() == [5, 8]


def test_criteria_reject_on_their_side_and_weights_rank_what_is_left():
    found = pd.DataFrame({"score": [0.0, 1.0, 2.0], "anisotropy": [0.2, 0.9, 0.5], "volume_mm3": [10.0, 10.0, 3.0]})
    detector = CandidateDetector(
        "template", (("anisotropy", "most", 0.6), ("volume_mm3", "least", 5.0)), (("score", 2.0),)
    )
    assert detector.probability(found).tolist() == [0.5, 0, 0]
    np.testing.assert_allclose(
        CandidateDetector("template", offset=-1.0).probability(found), 1 / (1 + np.exp([1, 0, -1]))
    )


def test_the_higher_probability_wins_where_regions_overlap():
    both = [np.array([[0, 0, 0], [0, 0, 1]]), np.array([[0, 0, 1]])]
    for order in (both, both[::-1]):
        painted = paint((1, 1, 3), order, [len(region) / 4 for region in order])
        assert painted.tolist() == [[[0.5, 0.5, 0]]]


@pytest.fixture(scope="module")
def head_with_lesion():
    spacing_mm = (2.0, 2.0, 2.0)
    image, brain, _ = drawn_head(spacing_mm)
    lesion, around = (drawn_balls([(130, 110, 60, r)], spacing_mm, shape=image.shape, noise=0) > 0.5 for r in (5, 25))
    return image + lesion, brain & around, lesion, spacing_mm


@pytest.mark.parametrize("method", METHODS)
def test_a_lesion_in_a_head_is_painted_and_nothing_outside_the_mask(head_with_lesion, method):
    image, mask, lesion, spacing_mm = head_with_lesion
    found = CandidateDetector(method)(image, mask, spacing_mm=spacing_mm, device="cpu")
    assert found.dtype == np.float32
    assert found[lesion].mean() > 0.5
    assert not found[~mask].any()
    assert 0 <= found.min() <= found.max() <= 1


def test_a_fitted_detector_comes_back_from_its_file_and_another_file_is_refused(tmp_path):
    detector = CandidateDetector("blobs", (("compactness", "least", 0.25),), (("score", 1.5), ("asymmetry", 0.5)), -2.0)
    detector.save(tmp_path / "fitted.json")
    assert CandidateDetector.load(tmp_path / "fitted.json") == detector
    (tmp_path / "other.json").write_text('{"method": "blobs"}')
    with pytest.raises(ModelError, match="fit it again"):
        CandidateDetector.load(tmp_path / "other.json")


def test_an_unknown_method_is_refused_with_those_that_there_are():
    with pytest.raises(ModelError, match="'blob'; choose one of"):
        propose("blob", np.zeros((4, 4, 4)), np.ones((4, 4, 4), bool))
