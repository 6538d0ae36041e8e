"""Bins hold what they should, scans add up, and a detector that tells the truth has no calibration error."""

import numpy as np
import pandas as pd
import pytest

from kit.metrics import expected_calibration_error, pool, reliability


def test_bins_are_those_of_looking_at_every_voxel():
    rng = np.random.default_rng(0)
    probability, truth, mask = rng.random((3, 4, 5)), rng.random((3, 4, 5)) < 0.3, rng.random((3, 4, 5)) < 0.7
    probability[0, 0, :3] = 0, 0.5, 1
    mask[0, 0, :3] = True
    table = reliability(probability, truth, mask, bins=4)
    for row in table.itertuples():
        inside = [
            (p, t) for p, t, m in zip(probability.flat, truth.flat, mask.flat, strict=True) if m and row.from_p <= p
        ]
        inside = [(p, t) for p, t in inside if p < row.to_p or (row.to_p == 1 and p == 1)]
        assert row[3] == len(inside)
        assert row.lesion == sum(t for _, t in inside)
        assert row.total_p == pytest.approx(sum(p for p, _ in inside))
    assert table["count"].sum() == mask.sum()


def test_scans_are_added_up_before_anything_is_divided():
    first, second = reliability([0.3] * 9, [True] * 9, bins=2), reliability([0.1], [False], bins=2)
    pooled = pool(pd.concat([first, second]))
    assert pooled.fraction[0] == 0.9
    assert pooled.mean_p[0] == pytest.approx(0.28)
    assert np.isnan(pooled.fraction[1])
    assert expected_calibration_error(pd.concat([first, second])) == pytest.approx(0.62)


def test_a_truthful_detector_has_hardly_any_error_and_a_boastful_one_has():
    rng = np.random.default_rng(1)
    probability = rng.random(100_000)
    truth = rng.random(100_000) < probability
    assert expected_calibration_error(reliability(probability, truth)) < 0.01
    boast = expected_calibration_error(reliability(np.sqrt(probability), truth))
    assert boast == pytest.approx(1 / 6, abs=0.01)  # E[sqrt(p) - p]


def test_float32_values_at_an_edge_and_the_order_of_voxels_change_nothing():
    probability = np.array([0.2, 0.5, 0.75, 1], np.float32)
    truth = np.array([True, False, True, True])
    table = reliability(probability, truth, bins=4)
    pd.testing.assert_frame_equal(table, reliability(probability[::-1], truth[::-1], bins=4))
    assert table["count"].tolist() == [1, 0, 1, 2]


def test_nothing_to_look_at_has_no_error():
    assert np.isnan(expected_calibration_error(reliability(np.zeros(3), np.zeros(3), np.zeros(3))))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0.1, 0.2], [True]), "shapes"),
        (([0.1], [True], [True, False]), "shapes"),
        (([1.2], [True]), r"outside \[0, 1\]"),
        (([np.nan], [True]), "NaN"),
    ],
)
def test_what_is_no_probability_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        reliability(*given)
    with pytest.raises(ValueError, match="bins is 0"):
        reliability([0.1], [True], bins=0)
