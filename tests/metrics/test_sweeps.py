"""Operating points and lesions of a sweep are those of detecting at each threshold by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_maps import block, random_pair

from kit.metrics import RULES, detect, operating_points, score_scan, sweep_lesions
from kit.metrics.sweeps import MOST_POINTS
from kit.scans import Scan, components

SPACING = (2.4, 0.9, 1.3)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 8]))
def test_an_operating_point_is_a_detection_and_between_two_nothing_changes(rule, seed, min_volume_mm3):
    probability, truth = random_pair(seed)
    options = {"min_volume_mm3": min_volume_mm3, "spacing_mm": SPACING, "rule": rule}
    points = operating_points(probability, truth, **options)
    assert points.threshold.is_monotonic_decreasing
    assert points.threshold[0] == 1
    for row in points.itertuples():
        found = detect(probability, truth, row.threshold, **options)
        assert (row.tp, row.fn, row.fp) == (found.tp, found.fn, found.fp)
    for theta in (0.2, 0.33, 0.5, 0.8):
        row = points[points.threshold >= np.float32(theta)].iloc[-1]  # the step that reaches down to theta
        found = detect(probability, truth, theta, **options)
        assert (row.tp, row.fn, row.fp) == (found.tp, found.fn, found.fp)


def test_a_map_of_very_many_peaks_keeps_a_thousand_and_the_lowest():
    probability = np.zeros((3, 101, 101), np.float32)
    probability[1, ::2, ::2] = np.random.default_rng(0).uniform(0.2, 1, (51, 51))
    points = operating_points(probability, block(probability.shape, "1:2 0:1 0:1"))
    assert len(points) == MOST_POINTS
    assert points.threshold.iloc[-1] == pytest.approx(probability[probability > 0].min())
    assert points.fp.iloc[-1] == 51 * 51 - 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(RULES)))
def test_the_lesions_of_a_sweep_are_those_of_each_detection(seed, rule):
    probability, truth = random_pair(seed)
    options = {"spacing_mm": SPACING, "rule": rule}
    table = sweep_lesions(probability, truth, (0.15, 0.5), (0, 8), **options)
    for (threshold, volume), rows in table.groupby(["threshold", "min_volume_mm3"]):
        lesions = detect(probability, truth, threshold, min_volume_mm3=volume, **options).truth
        for name in ("component", "size_mm", "found", "dice"):
            assert rows[name].tolist() == lesions[name].tolist()


def test_a_scan_without_lesion_gives_the_columns_and_no_row():
    table = sweep_lesions(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)))
    assert table.empty
    assert {"threshold", "min_volume_mm3", "component", "size_mm", "found", "dice"} <= set(table)


def test_all_tables_of_a_scan_label_the_truth_once_for_all_rules_and_the_map_once_a_lower_threshold(monkeypatch):
    calls = []
    monkeypatch.setattr("kit.metrics.pairing.components", lambda mask: calls.append(1) or components(mask))
    probability, truth = random_pair(3)
    scan = Scan(None, truth, SPACING, np.eye(4), None)
    score_scan(probability, scan, {"scan_id": "s", "patient_id": "p"})
    # truth, dilated truth, and the map from 0.1, 0.15 and 0.2
    assert len(calls) == 5
