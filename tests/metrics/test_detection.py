"""Detection and its error table against slow, obvious twins and drawn scans."""

from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_maps import block, has_ties, random_pair

from kit.metrics import COLUMNS, MIN_VOLUMES_MM3, RULES, THRESHOLDS, detect, dice, error_table, hysteresis, sweep
from kit.scans import lesion_table

SPACING = (2.4, 0.9, 1.3)
TOUCHING = np.ones((3, 3, 3))


def hysteresis_by_components(probability, threshold, low=0.2):
    """Slow twin: look at every component of the low threshold by itself."""
    numbers, count = ndimage.label(probability >= np.float32(min(low, threshold)), structure=TOUCHING)
    kept = np.zeros(probability.shape, bool)
    for number in range(1, count + 1):
        if (probability[numbers == number] >= np.float32(threshold)).any():
            kept |= numbers == number
    return kept


def lesions_by_components(mask, spacing, min_volume_mm3=0):
    """Slow twin: voxels, volume and centre of every lesion that is large enough."""
    numbers, count = ndimage.label(mask, structure=TOUCHING)
    voxels = [np.argwhere(numbers == number) for number in range(1, count + 1)]
    return [v for v in voxels if len(v) * np.prod(spacing) >= min_volume_mm3]


def counts_by_loops(truth, predicted, spacing):
    """Slow twin of the rule: (tp, fn, fp) of two lists of voxel positions."""
    holder = {}  # predicted component -> distance of the lesion that has it
    for lesion in truth:
        distances = [np.linalg.norm((lesion.mean(0) - other.mean(0)) * spacing).round(9) for other in predicted]
        if not distances:
            continue
        nearest = int(np.argmin(distances))
        centre = predicted[nearest].mean(0)
        if len(lesion) * np.prod(spacing) < 50:
            accepted = distances[nearest] < 5
        else:
            accepted = all(lesion.min(0) <= centre) and all(centre <= lesion.max(0))
        if accepted:
            holder[nearest] = min(distances[nearest], holder.get(nearest, np.inf))
    return len(holder), len(truth) - len(holder), len(predicted) - len(holder)


def counts(found):
    return found.tp, found.fn, found.fp


# dice ---------------------------------------------------------------------------------------------------------------


def test_dice_of_drawn_labels():
    assert dice([[[1, 1, 1, 0]]], [[[0, 1, 1, 0]]]) == pytest.approx(4 / 5)
    assert dice([[[1, 0]]], [[[0, 1]]]) == 0
    assert dice([[[0, 0]]], [[[0, 0]]]) == 1


def test_dice_and_counts_of_a_published_toy_pair(shared_data):
    folder = shared_data / "metrics" / "lesion_metrics"
    truth, predicted = (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in ("truth", "pred"))
    assert dice(predicted, truth) == dice(truth, predicted) == pytest.approx(6 / 14)
    found = detect(predicted, truth)
    assert found.dice == pytest.approx(6 / 14)
    assert found.dice_healthy == pytest.approx(dice(predicted == 0, truth == 0))
    assert (found.predicted.overlap.sum(), found.predicted.voxels.sum(), found.truth.voxels.sum()) == (3, 4, 10)
    # three lesions; the predicted pair and one of the single voxels are theirs, the other voxel is nobody's
    assert counts(found) == (2, 1, 1)


# hysteresis ---------------------------------------------------------------------------------------------------------


def test_hysteresis_of_a_drawn_map():
    probability = np.array([[[0.2, 0.5, 0.19, 0.3], [0.0, 0.0, 0.0, 0.0], [0.2, 0.0, 0.0, 0.7]]])
    assert hysteresis(probability, 0.5).astype(int).tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]]


def test_hysteresis_reaches_over_corners():
    probability = np.zeros((2, 2, 2))
    probability[0, 0, 0], probability[1, 1, 1] = 0.9, 0.2
    assert hysteresis(probability, 0.9).sum() == 2


def test_a_threshold_below_low_stands_for_both():
    probability = np.array([[[0.15, 0.1, 0.15]]])
    assert hysteresis(probability, 0.15).tolist() == [[[True, False, True]]]
    assert hysteresis(probability, 0.1).all()
    assert not hysteresis(probability, 0.2).any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_voxel_at_exactly_a_threshold_is_in_whatever_the_precision(dtype):
    for threshold in (*THRESHOLDS, *np.array(THRESHOLDS)):
        probability = np.full((1, 1, 1), threshold, dtype)
        assert hysteresis(probability, threshold).all()
        assert not hysteresis(np.nextafter(probability, dtype(0)), threshold).any()


def test_hysteresis_leaves_out_small_components():
    probability = block((1, 3, 9), "0:1 1:2 0:2", "0:1 1:2 5:8").astype(float)
    assert hysteresis(probability, 0.5, min_volume_mm3=9, spacing_mm=(2, 1.5, 1)).sum() == 3
    assert hysteresis(probability, 0.5, min_volume_mm3=6, spacing_mm=(2, 1.5, 1)).sum() == 5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(THRESHOLDS), st.sampled_from([0.1, 0.2, 0.4]))
def test_hysteresis_agrees_with_looking_at_every_component(seed, threshold, low):
    probability, _ = random_pair(seed)
    expected = hysteresis_by_components(probability, threshold, low)
    np.testing.assert_array_equal(hysteresis(probability, threshold, low), expected)


# the matching rule --------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_finds_everything():
    _, truth = random_pair(1)
    found = detect(truth, truth, spacing_mm=SPACING)
    assert (found.recall, found.precision, found.dice, found.dice_healthy) == (1, 1, 1, 1)
    assert found.pairs == tuple((number, number) for number in found.truth.component)
    assert found.missed.empty
    assert found.false_positives.empty


def test_one_prediction_over_two_lesions_belongs_to_the_nearer():
    truth = block((3, 5, 20), "1:2 2:3 4:6", "1:2 2:3 9:11")
    predicted = block((3, 5, 20), "1:2 2:3 5:10")
    found = detect(predicted, truth)
    assert (counts(found), found.pairs) == ((1, 1, 0), ((1, 1),))  # centres 4.5 and 9.5 against 7: a tie, see below
    found = detect(block((3, 5, 20), "1:2 2:3 6:11"), truth)
    assert (counts(found), found.pairs) == ((1, 1, 0), ((2, 1),))
    assert found.missed.component.tolist() == [1]


def test_two_predictions_over_one_lesion_are_a_hit_and_a_false_positive():
    truth = block((3, 5, 20), "1:2 2:3 4:12")
    found = detect(block((3, 5, 20), "1:2 2:3 4:7", "1:2 2:3 8:10"), truth)
    assert (counts(found), found.pairs) == ((1, 0, 1), ((1, 2),))
    assert found.false_positives[["component", "voxels", "overlap", "peak"]].values.tolist() == [[1, 3, 3, 1]]


def test_in_a_tie_the_lower_number_wins_on_both_sides():
    point = block((1, 1, 11), "0:1 0:1 5:6")
    either_side = block((1, 1, 11), "0:1 0:1 3:4", "0:1 0:1 7:8")
    assert detect(either_side, point).pairs == ((1, 1),)
    assert detect(point, either_side).pairs == ((1, 1),)


def test_a_lesion_proposes_to_its_nearest_component_only():
    # both lesions are nearest to component 1; the second would be accepted with component 2, but is missed
    truth = block((1, 1, 20), "0:1 0:1 5:6", "0:1 0:1 8:9")
    found = detect(block((1, 1, 20), "0:1 0:1 6:7", "0:1 0:1 11:12"), truth)
    assert (counts(found), found.pairs) == ((1, 1, 1), ((1, 1),))


def test_lesions_that_touch_are_one_lesion():
    truth = block((2, 6, 6), "0:1 0:2 0:2", "1:2 2:4 2:4")
    assert counts(detect(truth, truth)) == (1, 0, 0)


@pytest.mark.parametrize(("columns", "found"), [(4, True), (5, False)])
def test_a_small_lesion_is_found_nearer_than_5_mm_only(columns, found):
    truth, predicted = block((1, 1, 9), "0:1 0:1 1:2"), np.zeros((1, 1, 9))
    predicted[0, 0, 1 + columns] = 1
    assert detect(predicted, truth).tp == found


@pytest.mark.parametrize(("spacing", "found"), [((2.4, 9, 9), True), ((2.5, 9, 9), False)])
def test_the_5_mm_are_physical(spacing, found):
    truth, predicted = block((4, 1, 1), "0:1 0:1 0:1"), block((4, 1, 1), "2:3 0:1 0:1")
    assert truth.sum() * np.prod(spacing) > 50
    assert detect(predicted, truth, spacing_mm=(spacing[0], 1, 1)).tp == found


@pytest.mark.parametrize(("spacing", "columns"), [((1, 1, 1), 5), ((2, 1, 0.5), 5), ((5, 0.5, 0.4), 5)])
def test_from_exactly_50_mm3_on_the_box_decides(spacing, columns):
    truth = block((2, 5, 12), f"0:2 0:5 0:{columns}")
    beside = block((2, 5, 12), f"0:1 2:3 {columns}:{columns + 1}").astype(float)  # near, but outside the box
    assert lesion_table(truth, spacing).volume_mm3.item() == 50
    assert detect(beside, truth, spacing_mm=spacing).tp == 0
    truth[0, 0, 0] = False
    assert detect(beside, truth, spacing_mm=spacing).tp == 1


@pytest.mark.parametrize(("row", "found"), [(3, True), (7, True), (2, False), (8, False)])
def test_a_box_includes_the_centres_of_its_outermost_voxels(row, found):
    truth, predicted = block((5, 12, 12), "1:4 3:8 3:8"), np.zeros((5, 12, 12))
    predicted[1, row, 7] = 1
    assert detect(predicted, truth, spacing_mm=SPACING).tp == found


def test_a_lesion_at_the_scan_edge_is_matched_like_any_other():
    truth = block((4, 8, 8), "3:4 0:4 4:8", "0:1 7:8 0:1")
    predicted = block((4, 8, 8), "3:4 0:2 5:8", "0:1 7:8 0:1")
    assert counts(detect(predicted, truth, spacing_mm=(4, 1, 1))) == (2, 0, 0)


def test_small_components_are_removed_before_matching():
    # the nearer component is below the limit; without it the lesion goes to the other
    truth = block((1, 3, 20), "0:1 0:3 4:10")
    predicted = block((1, 3, 20), "0:1 1:2 6:7", "0:1 0:3 9:12")
    volume = {"min_volume_mm3": 5.0, "spacing_mm": (1, 2.0, 1)}
    assert detect(predicted, truth, spacing_mm=(1, 2.0, 1)).pairs == ((1, 2),)
    found = detect(predicted, truth, **volume)
    assert (counts(found), found.pairs, found.predicted.component.tolist()) == ((1, 0, 0), ((1, 1),), [1])
    assert found.dice == dice(hysteresis(predicted, 0.5, **volume), truth)


def test_nothing_to_find_and_nothing_found():
    empty, lesion = np.zeros((3, 4, 5)), block((3, 4, 5), "1:2 1:2 1:2")
    both, nothing_found, nothing_to_find = detect(empty, empty), detect(empty, lesion), detect(lesion, empty)
    assert (counts(both), counts(nothing_found), counts(nothing_to_find)) == ((0, 0, 0), (0, 1, 0), (0, 0, 1))
    assert np.isnan([both.recall, both.precision, nothing_found.precision, nothing_to_find.recall]).all()
    assert (both.dice, nothing_found.dice, nothing_to_find.dice) == (1, 0, 0)
    assert both.pairs == ()
    assert list(both.truth.columns) == list(nothing_found.truth.columns)
    assert list(both.predicted.columns) == list(nothing_to_find.predicted.columns)


def test_recall_may_rise_with_the_threshold():
    # a faint component beside a long lesion is nearest to its centre and outside its box; when the threshold
    # removes it, a bright one farther off but in the box takes its place
    truth = block((5, 12, 20), "1:4 4:7 2:18")
    probability = np.zeros(truth.shape)
    probability[2, 8, 9], probability[2, 5, 16] = 0.5, 0.9
    assert [detect(probability, truth, threshold).recall for threshold in (0.4, 0.6, 0.95)] == [0, 1, 0]


# properties ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(THRESHOLDS), st.sampled_from([0, 6, 20]))
def test_detect_agrees_with_the_rule_in_plain_loops(seed, threshold, min_volume_mm3):
    probability, truth = random_pair(seed)
    options = {"min_volume_mm3": min_volume_mm3, "spacing_mm": SPACING}
    predicted = lesions_by_components(hysteresis_by_components(probability, threshold), SPACING, min_volume_mm3)
    found = detect(probability, truth, threshold, **options)
    assert counts(found) == counts_by_loops(lesions_by_components(truth, SPACING), predicted, SPACING)
    segmented = hysteresis(probability, threshold, **options)
    assert found.dice == pytest.approx(dice(segmented, truth))
    assert found.dice_healthy == pytest.approx(dice(~segmented, ~truth))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(3)), st.lists(st.sampled_from(range(3)), unique=True))
def test_turning_and_flipping_the_scan_changes_nothing(seed, order, flips):
    probability, truth = random_pair(seed)
    found = detect(probability, truth, spacing_mm=SPACING)
    assume(not has_ties(found, SPACING))
    turned = [np.flip(array.transpose(order), flips) for array in (probability, truth)]
    again = detect(*turned, spacing_mm=[SPACING[axis] for axis in order])
    assert (counts(again), again.dice) == (counts(found), found.dice)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_predicted_never_grows_with_the_threshold_from_low_upwards(seed):
    probability, truth = random_pair(seed)
    found = [detect(probability, truth, threshold) for threshold in THRESHOLDS if threshold >= 0.2]
    for easier, harder in pairwise(found):
        assert set(harder.predicted.component) <= set(easier.predicted.component)
        assert harder.tp + harder.fn == easier.tp + easier.fn
        assert harder.tp <= min(len(harder.truth), len(harder.predicted))


# sweep --------------------------------------------------------------------------------------------------------------


def test_the_sweeps_are_those_of_the_thesis():
    expected = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert list(THRESHOLDS) == [*expected, 0.99, 0.999]
    assert list(MIN_VOLUMES_MM3) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 150, 200, 500]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.33]))
def test_the_sweep_agrees_with_relabelling_at_every_threshold(seed, low):
    probability, truth = random_pair(seed)
    volumes = (0, 6, 20)
    table = sweep(probability, truth, THRESHOLDS, volumes, low=low, spacing_mm=SPACING)
    assert len(table) == len(THRESHOLDS) * len(volumes)
    lesions, rows = lesions_by_components(truth, SPACING), table.itertuples()
    for threshold in THRESHOLDS:
        segmented = hysteresis_by_components(probability, threshold, low)
        for volume in volumes:
            row, predicted = next(rows), lesions_by_components(segmented, SPACING, volume)
            assert (row.threshold, row.min_volume_mm3, row.slices) == (threshold, volume, 5)
            assert counts(row) == counts_by_loops(lesions, predicted, SPACING)
            kept = np.zeros(truth.shape, bool)
            kept[tuple(np.concatenate([np.empty((0, 3), int), *predicted]).T)] = True
            assert (row.dice, row.dice_healthy) == pytest.approx((dice(kept, truth), dice(~kept, ~truth)))


def test_the_sweep_of_an_empty_map_misses_everything():
    table = sweep(np.zeros((3, 4, 5)), block((3, 4, 5), "1:2 1:2 1:2"))
    assert table[["tp", "fn", "fp", "dice"]].drop_duplicates().values.tolist() == [[0, 1, 0, 0]]


# what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [detect, sweep])
@pytest.mark.parametrize(
    ("probability", "truth", "message"),
    [
        (np.zeros((2, 3, 4)), np.zeros((4, 3, 2)), r"shape \(2, 3, 4\) and truth \(4, 3, 2\)"),
        (np.zeros((3, 4)), np.zeros((3, 4)), r"probability has shape \(3, 4\)"),
        (np.full((1, 1, 1), 1.5), np.zeros((1, 1, 1)), r"from 0.* to 1\.5"),
        (np.full((1, 1, 1), -2.0), np.zeros((1, 1, 1)), r"from -2.* to 0"),
        (np.full((1, 1, 2), 90), np.zeros((1, 1, 2)), "logits or percent"),
        (np.full((1, 1, 2), np.nan), np.zeros((1, 1, 2)), "NaN in 2 voxels"),
        (np.zeros((1, 1, 1)), np.full((1, 1, 1), 2), "truth holds 2"),
    ],
)
def test_input_that_is_no_map_and_truth_is_refused(compare, probability, truth, message):
    with pytest.raises(ValueError, match=message):
        compare(probability, truth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": 1.2}, r"threshold is 1\.2"),
        ({"threshold": np.nan}, "threshold is nan"),
        ({"low": -0.1}, r"low is -0\.1"),
        ({"spacing_mm": (1, 0, 1)}, "three positive numbers"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        detect(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), **options)


def test_dice_of_two_grids_is_refused():
    with pytest.raises(ValueError, match=r"a has shape \(1, 1, 2\) and b \(1, 2, 1\)"):
        dice(np.zeros((1, 1, 2)), np.zeros((1, 2, 1)))


# the error table ----------------------------------------------------------------------------------------------------


AFFINE = np.array([[0, 0, -1.3, 50], [0, -0.9, 0, 40], [2.4, 0, 0, -30], [0, 0, 0, 1]])


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.6]), st.sampled_from([0, 8]))
def test_the_rows_are_those_of_the_detection(rule, seed, threshold, min_volume_mm3):
    probability, truth = random_pair(seed)
    options = {"min_volume_mm3": min_volume_mm3, "spacing_mm": SPACING, "rule": rule}
    table = error_table(probability, truth, threshold=threshold, scan_id="s", patient_id="p", **options)
    found = detect(probability, truth, threshold, **options)
    assert list(table.columns) == list(COLUMNS)
    assert (table.kind.eq("TP").sum(), table.kind.eq("FN").sum(), table.kind.eq("FP").sum()) == (
        found.tp,
        found.fn,
        found.fp,
    )
    assert table.component[table.kind == "FP"].tolist() == found.false_positives.component.tolist()
    assert table.component[table.kind == "FN"].tolist() == found.missed.component.tolist()
    assert not table.peak.isna().any()
    assert (table.rule == rule).all()
    assert (table.threshold == threshold).all()
    assert (table.nearest_mm.isna() == (table[["nearest_lesion", "nearest_predicted"]].max(axis=1) == -1)).all()


def test_a_drawn_scan_row_by_row():
    truth = block((5, 12, 20), "1:3 2:4 3:6", "4:5 10:11 18:20")
    probability = np.where(block((5, 12, 20), "1:3 2:4 3:5"), 0.75, 0.0)
    probability[4, 10, 18], probability[0, 11, 2:4] = 0.125, (0.5, 0.25)
    table = error_table(probability, truth, spacing_mm=SPACING, affine=AFFINE, scan_id="P1_1", patient_id="P1")
    rows = table.set_index("kind")
    assert rows.index.tolist() == ["TP", "FN", "FP"]
    assert rows[["slice", "row", "column"]].values.tolist() == [[1.5, 2.5, 4], [4, 10, 18.5], [0, 11, 2.5]]
    assert rows.peak.tolist() == [0.75, 0.125, 0.5]
    assert rows.volume_mm3.tolist() == pytest.approx([12 * 2.808, 2 * 2.808, 2 * 2.808])
    assert rows.nearest_predicted.tolist() == [2, 2, -1]  # 22.9 and 21.5 mm from the missed one
    assert rows.nearest_lesion.tolist() == [-1, -1, 1]
    assert rows.nearest_mm["TP"] == pytest.approx(0.5 * 1.3)
    world = rows.loc["FN", ["x_mm", "y_mm", "z_mm"]].astype(float).tolist()
    assert world == pytest.approx([50 - 18.5 * 1.3, 40 - 9, 4 * 2.4 - 30])


def test_without_an_affine_there_are_no_world_positions():
    table = error_table(np.zeros((1, 2, 3)), block((1, 2, 3), "0:1 0:1 0:1"), spacing_mm=SPACING)
    assert table[["x_mm", "y_mm", "z_mm"]].isna().all(axis=None)


def test_scans_without_anything_give_the_same_columns():
    empty = np.zeros((2, 3, 4))
    table = error_table(empty, empty, spacing_mm=(1, 1, 1))
    assert (list(table.columns), len(table)) == (list(COLUMNS), 0)
    full = error_table(empty + 0.7, empty, spacing_mm=(1, 1, 1))
    assert full.dtypes.equals(table.dtypes) or (full.dtypes == table.dtypes)[["component", "peak", "nearest_mm"]].all()
    assert full[["kind", "component", "nearest_lesion"]].values.tolist() == [["FP", 1, -1]]
