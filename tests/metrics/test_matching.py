"""Every matching rule against a slow, obvious twin, on drawn cases, and against others' programs on their own data."""

import json
from itertools import pairwise, permutations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_maps import TOUCHING, block, has_ties, parts, picai_hits, random_pair

from kit.metrics import (
    RULES,
    THRESHOLDS,
    Contact,
    Predicted,
    Truth,
    detect,
    hysteresis,
    iou_rule,
    rule_of,
    sweep,
)
from kit.scans import measure

SPACING = (2.4, 0.9, 1.3)
each_rule = pytest.mark.parametrize("rule", RULES)


def counts(found):
    return found.tp, found.fn, found.fp


# slow, obvious twins: two lists of bool arrays -> (tp, fn, fp) ------------------------------------------------------


def overlap_by_looking(lesions, predicted, spacing):
    found = [any((lesion & one).any() for one in predicted) for lesion in lesions]
    hit = [any((lesion & one).any() for lesion in lesions) for one in predicted]
    return sum(found), len(found) - sum(found), len(hit) - sum(hit)


def iou_by_trying_all(lesions, predicted, spacing, at_least=0.1):
    """Try every way to give each lesion a component or none."""
    good = [[(a & b).sum() / (a | b).sum() >= at_least for b in predicted] for a in lesions]
    choices = [*range(len(predicted)), *[-1] * len(lesions)]
    ways = set(permutations(choices, len(lesions))) if lesions else {()}
    tp = max(sum(j >= 0 and good[i][j] for i, j in enumerate(way)) for way in ways)
    return tp, len(lesions) - tp, len(predicted) - tp


def brats_step_by_step(lesions, predicted, spacing):
    """The steps of the published program: dilate, number, combine, intersect, leave out what is tiny."""
    cross = ndimage.generate_binary_structure(3, 2)
    truth = np.any(lesions, axis=0) if lesions else None
    tp, fn, touched = 0, 0, set()
    for region in parts(ndimage.binary_dilation(truth, cross)) if lesions else []:
        lesion = truth & region
        mine = {i for i, one in enumerate(predicted) if (one & ndimage.binary_dilation(lesion, cross)).any()}
        touched |= mine
        if lesion.sum() * np.prod(spacing) > 2:
            tp, fn = tp + bool(mine), fn + (not mine)
    return tp, fn, len(predicted) - len(touched)


def centre_by_looking(lesions, predicted, spacing):
    centres = [np.argwhere(one).mean(0) for one in predicted]
    inside = [[_near(lesion, centre) for centre in centres] for lesion in lesions]
    found, hit = [any(row) for row in inside], [any(column) for column in zip(*inside, strict=True)]
    return sum(found), len(found) - sum(found), len(predicted) - sum(hit)


def _near(lesion, centre):
    """Whether a voxel of the lesion has the centre in it, its faces, edges and corners included."""
    return bool((np.abs(np.argwhere(lesion) - centre) <= 0.5 + 1e-6).all(axis=1).any())


TWINS = {
    "overlap": overlap_by_looking,
    "iou": iou_by_trying_all,
    "brats": brats_step_by_step,
    "centre": centre_by_looking,
}


@pytest.mark.parametrize("rule", TWINS)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 0.5, 0.8]), st.sampled_from([0, 6, 20]))
def test_a_rule_agrees_with_its_slow_twin(rule, seed, threshold, min_volume_mm3):
    probability, truth = random_pair(seed)
    predicted = parts(hysteresis(probability, threshold, min_volume_mm3=min_volume_mm3, spacing_mm=SPACING))
    assume(rule != "iou" or max(len(predicted), len(parts(truth))) < 6)
    found = detect(probability, truth, threshold, min_volume_mm3=min_volume_mm3, spacing_mm=SPACING, rule=rule)
    assert counts(found) == TWINS[rule](parts(truth), predicted, SPACING)


@each_rule
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_sweep_of_every_rule_is_its_detection_threshold_by_threshold(rule, seed):
    probability, truth = random_pair(seed)
    thresholds, volumes = (0.1, 0.15, 0.4, 0.9), (0, 8)
    table = sweep(probability, truth, thresholds, volumes, spacing_mm=SPACING, rule=rule)
    for row in table.itertuples():
        options = {"min_volume_mm3": row.min_volume_mm3, "spacing_mm": SPACING, "rule": rule}
        found = detect(probability, truth, row.threshold, **options)
        assert counts(row) == counts(found)
        assert (row.dice, row.dice_healthy) == pytest.approx((found.dice, found.dice_healthy))
        assert row.lesion_dice == pytest.approx(found.truth.dice.mean(), nan_ok=True)


# drawn cases: (tp, fn, fp) under thesis, overlap, iou, brats, centre -------------------------------------------------

SHAPE = (5, 7, 24)
EMPTY = ()
DRAWN = {
    # name: (lesions, predictions, counts by rule)
    "a perfect prediction": (["1:4 2:5 4:8"], ["1:4 2:5 4:8"], [(1, 0, 0)] * 5),
    "both empty": (EMPTY, EMPTY, [(0, 0, 0)] * 5),
    "empty prediction": (["1:4 2:5 4:8"], EMPTY, [(0, 1, 0)] * 5),
    "empty truth": (EMPTY, ["1:4 2:5 4:8"], [(0, 0, 1)] * 5),
    "lesions that touch are one": (["1:3 2:4 4:6", "3:4 4:6 6:8"], ["1:3 2:4 4:6", "3:4 4:6 6:8"], [(1, 0, 0)] * 5),
    "at the scan's edge": (["0:2 0:2 0:3"], ["0:2 0:2 0:3"], [(1, 0, 0)] * 5),
    # centres of the lesions 4.5 and 11.5, of the prediction 8: in neither, and overlap of 2 of 8 and 2 of 8
    "one prediction over two lesions": (
        ["1:3 2:4 3:7", "1:3 2:4 10:14"],
        ["1:3 2:4 5:12"],
        [(1, 1, 0), (2, 0, 0), (1, 1, 0), (2, 0, 0), (0, 2, 1)],
    ),
    # one long lesion, two small predictions in it; one of them holds more than a tenth of the union
    "two predictions over one lesion": (
        ["1:4 2:5 4:14"],
        ["1:4 2:5 5:7", "1:4 2:5 10:13"],
        [(1, 0, 1), (1, 0, 0), (1, 0, 1), (1, 0, 0), (1, 0, 0)],
    ),
    # a rim one voxel beside the lesion: its centre is near, it shares no voxel, the dilation reaches it
    "a prediction beside the lesion": (
        ["2:3 2:4 4:8"],
        ["2:3 4:5 4:8"],
        [(1, 0, 0), (0, 1, 1), (0, 1, 1), (1, 0, 0), (0, 1, 1)],
    ),
    # a prediction many times larger than the lesion inside it, centred elsewhere
    "a prediction that floods the lesion": (
        ["1:4 2:5 4:7"],
        ["0:5 1:6 4:22"],
        [(0, 1, 1), (1, 0, 0), (0, 1, 1), (1, 0, 0), (0, 1, 1)],
    ),
    # two lesions a voxel apart: one for BraTS, found with either
    "two lesions with a gap of a voxel": (
        ["1:3 2:4 4:6", "1:3 2:4 7:9"],
        ["1:3 2:4 4:6"],
        [(1, 1, 0), (1, 1, 0), (1, 1, 0), (1, 0, 0), (1, 1, 0)],
    ),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("rule_number", range(5), ids=list(RULES))
def test_a_drawn_case_has_these_counts_under_each_rule(name, rule_number):
    lesions, predictions, expected = DRAWN[name]
    found = detect(block(SHAPE, *predictions), block(SHAPE, *lesions), rule=list(RULES)[rule_number])
    assert counts(found) == expected[rule_number]
    for rate, empty in ((found.recall, not found.tp + found.fn), (found.precision, not found.tp + found.fp)):
        assert np.isnan(rate) == empty


def test_a_tiny_lesion_does_not_count_for_brats_and_spares_what_lies_on_it():
    truth = block(SHAPE, "1:2 1:2 1:2", "1:4 2:5 8:12")
    predicted = block(SHAPE, "1:2 1:2 2:3", "1:2 1:2 20:21")
    assert counts(detect(predicted, truth, rule="brats")) == (0, 1, 1)
    assert counts(detect(predicted, truth, rule="brats", spacing_mm=(2, 1.01, 1))) == (1, 1, 1)  # 2.02 mm3
    assert counts(detect(predicted, truth, rule="brats", spacing_mm=(2, 1, 1))) == (0, 1, 1)  # exactly 2 is left out
    assert detect(truth, truth, rule="brats").dice == 1  # of all voxels, counted or not


def test_merged_lesions_have_the_lowest_number_and_the_volume_of_their_parts():
    truth = block(SHAPE, "1:3 2:4 4:6", "1:3 2:4 7:9", "1:3 2:4 14:16")
    found = detect(truth, truth, rule="brats")
    assert found.truth.component.tolist() == [1, 3]
    assert found.truth.volume_mm3.tolist() == [16, 8]
    assert found.truth.dice.tolist() == [1, 1]
    assert found.pairs == ((1, 1), (1, 2), (3, 3))


def test_per_lesion_dice_takes_all_components_that_are_a_lesions_own():
    truth = block(SHAPE, "1:2 2:4 4:12")  # 16 voxels
    predicted = block(SHAPE, "1:2 2:4 3:6", "1:2 2:4 9:11")  # 6 and 4, of which 4 and 4 are lesion
    assert detect(predicted, truth, rule="overlap").truth.dice.tolist() == [2 * 8 / (16 + 10)]
    assert detect(predicted, truth, rule="iou").truth.dice.tolist() == [2 * 4 / (16 + 4)]
    assert detect(block(SHAPE), truth, rule="overlap").truth.dice.tolist() == [0]


def test_iou_pairs_as_many_as_possible_and_then_the_best():
    # lesion A overlaps both, lesion B only the component that A would like best
    truth = block(SHAPE, "1:2 2:4 2:8", "1:2 2:4 9:13")
    predicted = block(SHAPE, "1:2 2:4 1:3", "1:2 2:4 4:11")
    found = detect(predicted, truth, rule="iou")
    assert found.pairs == ((1, 1), (2, 2))
    assert counts(detect(predicted, truth, rule=iou_rule(0.4))) == (1, 1, 1)


def test_rules_that_are_no_rules_are_refused():
    with pytest.raises(ValueError, match="rule is 'dice'"):
        detect(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), rule="dice")
    with pytest.raises(ValueError, match="at_least is 0"):
        iou_rule(0)
    assert rule_of(iou_rule(0.3)).name == "iou 0.3"


# properties ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rules_agree_on_isolated_perfect_blobs(seed):
    rng = np.random.default_rng(seed)
    truth = np.zeros((20, 24, 28), bool)
    for corner in np.ndindex(2, 3, 3):  # boxes of up to 5 voxels a side in cells of 8, so at least 3 apart
        if rng.random() < 0.5:
            low = np.array(corner) * 8
            size = rng.integers(2, 6, 3)
            truth[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    probability = np.where(truth, rng.uniform(0.5, 1), 0.1 * rng.random(truth.shape))
    lesions = len(parts(truth))
    for rule in RULES:
        found = detect(probability, truth, spacing_mm=SPACING, rule=rule)
        assert counts(found) == (lesions, 0, 0)
        assert (found.truth.dice == 1).all()


@each_rule
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(3)), st.lists(st.sampled_from(range(3)), unique=True))
def test_turning_and_flipping_the_scan_changes_no_rule(rule, seed, order, flips):
    probability, truth = random_pair(seed)
    found = detect(probability, truth, spacing_mm=SPACING, rule=rule)
    assume(rule != "thesis" or not has_ties(found, SPACING))
    turned = [np.flip(array.transpose(order), flips) for array in (probability, truth)]
    again = detect(*turned, spacing_mm=[SPACING[axis] for axis in order], rule=rule)
    assert (counts(again), again.dice) == (counts(found), found.dice)


@pytest.mark.parametrize("rule", [word for word in RULES if word != "thesis"])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_recall_never_rises_with_theta(rule, seed):
    # from `low` on; below, raising theta breaks components up. The thesis' rule is the exception: test_detection has
    # a scan whose recall rises, because its nearest component disappears
    probability, truth = random_pair(seed)
    thresholds = [threshold for threshold in THRESHOLDS if threshold >= 0.2]
    table = sweep(probability, truth, thresholds, (0,), spacing_mm=SPACING, rule=rule)
    assert all(easier >= harder for easier, harder in pairwise(table.tp))


@pytest.mark.parametrize("rule", ["overlap", "brats"])
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_recall_of_rules_that_ask_for_contact_never_rises_below_low_either(rule, seed):
    probability, truth = random_pair(seed)
    table = sweep(probability, truth, THRESHOLDS, (0,), spacing_mm=SPACING, rule=rule)
    assert all(easier >= harder for easier, harder in pairwise(table.tp))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whoever_asks_for_more_finds_no_more(seed):
    probability, truth = random_pair(seed)
    tp = [detect(probability, truth, rule=rule).tp for rule in ("overlap", "iou", iou_rule(0.3), iou_rule(0.6))]
    assert tp == sorted(tp, reverse=True)


# third parties, on their own data -----------------------------------------------------------------------------------


def test_hits_are_those_of_picai_eval(shared_data):
    """Ten maps, labels and the expected (is lesion, confidence, IoU) of every lesion and candidate.

    Origin: github.com/DIAGNijmegen/picai_eval 1.4, tests/output-expected/metrics-full-expected.json.
    """
    folder = shared_data / "metrics" / "picai_eval"
    expected = json.loads((folder / "output-expected" / "metrics-full-expected.json").read_text())["lesion_results"]
    assert {name: picai_hits(folder, name) for name in expected} == {
        name: sorted((is_lesion, confidence, round(iou, 6)) for is_lesion, confidence, iou in rows)
        for name, rows in expected.items()
    }


def test_semantic_figures_are_those_of_panoptica(shared_data):
    """Instances are the components of each value; an instance may match one of another value. IoU from 0.5.

    Origin: github.com/BrainLesion/panoptica, its example `semantic` of a spine: 87 reference and 89 predicted
    instances, tp 73, fp 16, fn 14, rq .8295454545454546, sq .7940127477906024, sq_dsc .8802182546605446.
    """
    folder = shared_data / "metrics" / "panoptica" / "spine_seg" / "semantic"
    truth, predicted = (numbered(np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)) for name in ("ref", "pred"))
    voxels = np.bincount(predicted[predicted > 0] - 1)
    flat = np.flatnonzero(predicted)
    instances = Predicted(voxels, None, None, None, flat, predicted.reshape(-1)[flat] - 1, predicted.shape)
    contact = Contact(Truth(measure(truth, (1, 1, 1)), truth), instances, (1, 1, 1))
    links = iou_rule(0.5).link(contact, np.arange(len(voxels)))
    tp, fn, fp = links.counts.values()
    dice = contact.lesion_dice(links, np.arange(len(voxels)))[links.found]
    assert (tp, fn, fp) == (73, 14, 16)
    assert tp / (tp + (fn + fp) / 2) == pytest.approx(0.8295454545454546)
    assert dice.mean() == pytest.approx(0.8802182546605446)
    assert (dice / (2 - dice)).mean() == pytest.approx(0.7940127477906024)


def numbered(values):
    """Number the components of every value by itself, through all of them."""
    labels, last = np.zeros(values.shape, np.int32), 0
    for value in np.unique(values)[1:]:
        numbers, count = ndimage.label(values == value, structure=TOUCHING)
        labels[numbers > 0] = numbers[numbers > 0] + last
        last += count
    return labels


def test_toy_values_are_those_of_lesion_metrics(shared_data):
    """Origin: github.com/jcreinhold/lesion-metrics, its test pair: Dice 6/14, Jaccard 3/11, precision 3/4."""
    folder = shared_data / "metrics" / "lesion_metrics"
    truth, predicted = (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in ("truth", "pred"))
    found = detect(predicted, truth, rule="overlap")
    assert found.dice == pytest.approx(6 / 14)
    assert found.dice / (2 - found.dice) == pytest.approx(3 / 11)
    assert found.predicted.overlap.sum() / found.predicted.voxels.sum() == 3 / 4
