"""When does a predicted component count as having found a lesion? Five published answers, each behind one word.

False-positive rates of different papers cannot be pooled, because everyone matches differently. A rule reads what the
lesions and the components of one scan have in common (`kit.metrics.Contact`) and says which belong together (`Links`):

                                  component
                          0        1        2        3
              lesion 0    .        x        x        .          found: a row with an x
              lesion 1    .        .        .        .          hit: a column with an x
              spared      .        .        .        x          false positive: neither hit nor spared, here 0

For every rule alike: a lesion is a true positive when it is found and a false negative otherwise; a scan without
lesions has no recall (NaN), one without predictions no precision (NaN), and their Dice is 1 where both are empty.

A new rule is a function from (contact, kept) to `Links` and an entry in `RULES`, or a `Rule` passed instead of a word.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.optimize import linear_sum_assignment

SMALL_LESION_MM3 = 50.0  # thesis: below it a lesion is matched by distance, from it on by its box
NEAR_MM = 5.0
LEAST_IOU = 0.1  # as in PI-CAI and nnDetection; 3-D lesions of a few voxels hardly ever reach 0.5


@dataclass(frozen=True, eq=False)
class Links:
    """What belongs together: `pairs` (lesion, component) bool; `spared` (component,) bool, neither hit nor false."""

    pairs: np.ndarray
    spared: np.ndarray

    @cached_property
    def found(self):
        """(lesion,) bool."""
        return self.pairs.any(axis=1)

    @cached_property
    def hit(self):
        """(component,) bool; what is not hit is a false positive."""
        return self.pairs.any(axis=0) | self.spared

    @property
    def counts(self):
        """Tp and fn, lesions found and missed, and fp: a dict of int."""
        return count(self.found, self.hit)


@dataclass(frozen=True)
class Rule:
    """A way to match: its word, a phrase that says when a lesion is found, and the function that decides.

    `link(contact, kept)` gets a `kit.metrics.Contact` and the numbers (int, from 0) of the components that are
    predicted, and returns `Links` with pairs of shape (lesion, kept) and spared of shape (kept,). `merge` asks for the
    lesions of BraTS-METS: those that a dilation joins are one, tiny ones are left out.
    """

    name: str
    meaning: str
    link: Callable
    merge: bool = False


def count(found, hit):
    """Count tp, fn and fp from (lesion,) bool and (component,) bool: the one place where hits and errors are counted.

    Examples
    --------
    >>> count(np.array([True, False]), np.array([True, False, False]))
    {'tp': 1, 'fn': 1, 'fp': 2}
    """
    return {"tp": int(found.sum()), "fn": int((~found).sum()), "fp": int((~hit).sum())}


def thesis(contact, kept):
    """Each lesion proposes to the component whose centre of mass is nearest, and to no other.

    A lesion below 50 mm3 is accepted when that is nearer than 5 mm; a larger one when the component's centre lies in
    the lesion's box, which reaches from centre to centre of its outermost voxels. Where several accepted lesions name
    one component, the nearest keeps it and the others are missed. In a tie, the lower component number wins. A
    component that appears can therefore take a lesion away from the one that held it: recall may rise with the
    threshold.

    Parameters
    ----------
    contact : kit.metrics.Contact
    kept : (kept,) int array
        Numbers of the predicted components, from 0.

    Returns
    -------
    Links
        One-to-one pairs (lesion, kept); nothing is spared.

    References
    ----------
    Section 5.1.2 of the thesis; which pair keeps a component, and that limits are physical, it leaves open.
    """
    links = _nothing(contact, kept)
    if not links.pairs.size:
        return links
    nearest = contact.distance_mm.take(kept, axis=1).argmin(axis=1)  # (lesion,)
    lesion = np.arange(contact.lesions)
    distance, in_box = contact.distance_mm[lesion, kept[nearest]], contact.in_box[lesion, kept[nearest]]
    accepted = np.flatnonzero(np.where(contact.lesion_volume_mm3 < SMALL_LESION_MM3, distance < NEAR_MM, in_box))
    keeper = {}
    for i in accepted[np.argsort(distance[accepted], kind="stable")]:  # the nearest comes first and keeps it
        keeper.setdefault(nearest[i], i)
    links.pairs[list(keeper.values()), list(keeper)] = True
    return links


def overlap(contact, kept):
    """One voxel in common is enough, on both sides and for as many as it holds for.

    Parameters and result as `thesis`; pairs are many-to-many. Counted so in lesion-metrics
    (github.com/jcreinhold/lesion-metrics).
    """
    return Links(contact.shared.take(kept, axis=1) > 0, np.zeros(len(kept), bool))


def iou(contact, kept, *, at_least=LEAST_IOU, spare=False):
    """One-to-one: as many pairs as possible of those whose intersection over union reaches a threshold.

    Among the largest sets of pairs the one with the highest sum of IoU is taken. Parameters and result as `thesis`;
    `at_least` is the IoU asked for, above 0 and at most 1. With `spare`, a component that reaches it with a lesion but
    lost that lesion to another is no false positive, as in PI-CAI (A. Saha et al., Lancet Oncology 25 (2024) 879-887;
    github.com/DIAGNijmegen/picai_eval).
    """
    links = _nothing(contact, kept)
    both = contact.shared.take(kept, axis=1)
    whole = contact.lesion_voxels[:, None] + contact.predicted.voxels[kept] - both
    share = both / whole
    good = share >= at_least - 1e-12
    worth = np.where(good, min(good.shape) + 1 + share, 0)  # one more pair is worth more than any sum of IoU
    columns = np.flatnonzero(good.any(axis=0))
    lesion, place = linear_sum_assignment(worth[:, columns], maximize=True)
    paired = good[lesion, columns[place]]
    links.pairs[lesion[paired], columns[place[paired]]] = True
    return Links(links.pairs, good.any(axis=0) & ~links.pairs.any(axis=0) if spare else links.spared)


def brats(contact, kept):
    """Every component that reaches into a lesion's dilation is its own; those at lesions left out are spared.

    Parameters and result as `thesis`, with the merged lesions of BraTS-METS; pairs are many-to-many. A. W. Moawad et
    al., The Brain Tumor Segmentation (BraTS-METS) Challenge 2023, arXiv:2306.00838.
    """
    return Links(contact.reached.take(kept, axis=1), contact.near_ignored[kept])


def centre(contact, kept):
    """A component belongs to the lesion that its centre of mass lies in; a second one in it is no false positive.

    Parameters and result as `thesis`; a lesion may have several components, a component at most one lesion (two
    where its centre lies between their voxels). The hit criterion of LUNA16 (A. A. A. Setio et al., Medical Image
    Analysis 42 (2017) 1-13), with the lesion itself in place of its sphere.
    """
    return Links(contact.centre_inside.take(kept, axis=1), np.zeros(len(kept), bool))


def iou_rule(at_least=LEAST_IOU, *, spare=False):
    """The rule `iou` at another threshold, to be passed instead of its word; see `iou` for both parameters.

    Examples
    --------
    >>> iou_rule(0.5).name
    'iou 0.5'
    """
    if not 0 < at_least <= 1:
        raise ValueError(f"at_least is {at_least}: pass an IoU above 0 and at most 1")
    meaning = f"one-to-one, intersection over union of at least {at_least:g}"
    name = f"iou {at_least:g}{' spared' if spare else ''}"
    return Rule(name, meaning, partial(iou, at_least=at_least, spare=spare))


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


def checked_options(thresholds, low, rule):
    """The `Rule` behind a word; ValueError where it, a threshold or the lower one cannot be used."""
    for threshold in np.atleast_1d(thresholds):
        effective_low(threshold, low)
    return rule_of(rule)


def effective_low(threshold, low):
    """The lower threshold of hysteresis; ValueError where one is out of range."""
    for name, value in (("threshold", threshold), ("low", low)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}: pass a probability above 0 and at most 1")
    return float(min(threshold, low))


def _nothing(contact, kept):
    return Links(np.zeros((contact.lesions, len(kept)), bool), np.zeros(len(kept), bool))
