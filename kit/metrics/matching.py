"""When does a predicted component count as having found a lesion? Five published answers, each behind one word.

False-positive rates of different papers cannot be pooled, because everyone matches differently. A rule gets all lesions
and all predicted components of one scan (a `kit.metrics.Encounter`) and says which belong together (`Links`):

                                  predicted component
                          0        1        2        3
              lesion 0    .        x        x        .          found: a row with an x
              lesion 1    .        .        .        .          hit: a column with an x
              spared      .        .        .        x          false positive: neither hit nor spared, here 0

For every rule alike: a lesion is a true positive when it is found and a false negative otherwise; a scan without
lesions has no recall (NaN), one without predictions no precision (NaN), and their Dice is 1 where both are empty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import linear_sum_assignment

SMALL_LESION_MM3 = 50.0  # thesis: below it a lesion is matched by distance, from it on by its box
NEAR_MM = 5.0
LEAST_IOU = 0.1  # as in PI-CAI and nnDetection; 3-D lesions of a few voxels hardly ever reach 0.5


@dataclass(frozen=True, eq=False)
class Links:
    """What belongs together: `pairs` (lesion, predicted) bool; `spared` (predicted,) bool, neither hit nor false."""

    pairs: np.ndarray
    spared: np.ndarray

    @property
    def found(self):
        """(lesion,) bool."""
        return self.pairs.any(axis=1)

    @property
    def hit(self):
        """(predicted,) bool; what is not hit is a false positive."""
        return self.pairs.any(axis=0) | self.spared


@dataclass(frozen=True)
class Rule:
    """A way to match: its word, one sentence about it, and the function from (encounter, chosen columns) to `Links`.

    `merge` asks for the lesions of BraTS-METS: those that a dilation joins are one, tiny ones are left out.
    """

    name: str
    told: str
    link: Callable
    merge: bool = False


def thesis(encounter, chosen):
    """Each lesion proposes to the component with the nearest centre; see `kit.metrics.match`."""
    links = _nothing(encounter, chosen)
    if not links.pairs.size:
        return links
    nearest = encounter.distance_mm[:, chosen].argmin(axis=1)  # (lesion,)
    lesion = np.arange(encounter.lesions)
    distance, in_box = encounter.distance_mm[lesion, chosen[nearest]], encounter.in_box[lesion, chosen[nearest]]
    small = encounter.truth.table.volume_mm3.to_numpy() < SMALL_LESION_MM3
    accepted = np.flatnonzero(np.where(small, distance < NEAR_MM, in_box))
    keeper = {}
    for i in accepted[np.argsort(distance[accepted], kind="stable")]:  # the nearest comes first and keeps it
        keeper.setdefault(nearest[i], i)
    links.pairs[list(keeper.values()), list(keeper)] = True
    return links


def overlap(encounter, chosen):
    """One voxel in common is enough, on both sides and for as many as it holds for."""
    return Links(encounter.shared[:, chosen] > 0, np.zeros(len(chosen), bool))


def iou(encounter, chosen, *, at_least=LEAST_IOU, spare=False):
    """One-to-one: as many pairs as possible of those whose intersection over union reaches a threshold.

    Among the largest sets of pairs the one with the highest sum of IoU is taken. With `spare`, a component that
    reaches the threshold with a lesion but lost it to another is no false positive (PI-CAI counts so).
    """
    links = _nothing(encounter, chosen)
    both = encounter.shared[:, chosen]
    whole = encounter.truth.table.voxels.to_numpy()[:, None] + encounter.predicted.voxels[chosen] - both
    share = both / whole
    good = share >= at_least - 1e-12
    worth = np.where(good, min(good.shape) + 1 + share, 0)  # one more pair is worth more than any sum of IoU
    columns = np.flatnonzero(good.any(axis=0))
    lesion, place = linear_sum_assignment(worth[:, columns], maximize=True)
    kept = good[lesion, columns[place]]
    links.pairs[lesion[kept], columns[place[kept]]] = True
    return Links(links.pairs, good.any(axis=0) & ~links.pairs.any(axis=0) if spare else links.spared)


def brats(encounter, chosen):
    """Every component that reaches into a lesion's dilation is its own; those at lesions left out are spared."""
    return Links(encounter.reached[:, chosen], encounter.near_ignored[chosen])


def centre(encounter, chosen):
    """A component belongs to the lesion that its centre of mass lies in; a second one in it is no false positive."""
    return Links(encounter.centre_inside[:, chosen], np.zeros(len(chosen), bool))


def iou_rule(at_least=LEAST_IOU, *, spare=False):
    """The rule `iou` at another threshold, to be passed instead of its word.

    Examples
    --------
    >>> iou_rule(0.5).name
    'iou 0.5'
    """
    if not 0 < at_least <= 1:
        raise ValueError(f"at_least is {at_least}: pass an IoU above 0 and at most 1")
    told = f"one-to-one, intersection over union of at least {at_least:g}"
    return Rule(f"iou {at_least:g}", told, partial(iou, at_least=at_least, spare=spare))


RULES = {
    rule.name: rule
    for rule in (
        Rule("thesis", "the component with the nearest centre, if within 5 mm or inside the lesion's box", thesis),
        Rule("overlap", "any voxel in common", overlap),
        Rule("iou", f"one-to-one, intersection over union of at least {LEAST_IOU:g}", iou),
        Rule("brats", "any voxel in the dilated lesion; lesions that the dilation joins are one", brats, merge=True),
        Rule("centre", "the component's centre of mass inside the lesion", centre),
    )
}


def rule_of(word):
    """The rule behind a word; a `Rule` stands for itself.

    Examples
    --------
    >>> rule_of("nearest")
    Traceback (most recent call last):
    ...
    ValueError: rule is 'nearest': pass thesis, overlap, iou, brats or centre, or a kit.metrics.Rule
    """
    if isinstance(word, Rule):
        return word
    if word not in RULES:
        *others, last = RULES
        raise ValueError(f"rule is {word!r}: pass {', '.join(others)} or {last}, or a kit.metrics.Rule")
    return RULES[word]


def _nothing(encounter, chosen):
    return Links(np.zeros((encounter.lesions, len(chosen)), bool), np.zeros(len(chosen), bool))
