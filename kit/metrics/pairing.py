"""One map and one truth, paired once: lesions, predicted components, and what lies between them.

`pair` checks its arrays; lesions and components are labelled when they are first asked for, and kept. Detection,
sweeps, operating points, error tables, outlines and the table of rules all read the same `Pairing`:

    probability, truth  ->  Pairing  ->  Contact (lesion x component)  ->  Matched (a threshold, a volume, a rule)
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import nan

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.metrics.matching import Links, effective_low, rule_of
from kit.scans import as_mask, checked_spacing, components, measure

BRATS_IGNORED_MM3 = 2.0  # BraTS-METS leaves out lesions up to this volume
BRATS_STRUCTURE = ndimage.generate_binary_structure(3, 2)  # one dilation over faces and edges, as in BraTS-METS
REMEMBERED = 50  # answers kept, the last ones: their number must not grow with that of the thresholds


def pair(probability, truth, spacing_mm=(1, 1, 1)):
    """Pair a probability map with the truth, so that every measure can be read off without labelling again.

    Parameters
    ----------
    probability : (slice, row, column) array in [0, 1]
        Or a bool mask.
    truth : (slice, row, column) bool array, or numbers that are all 0 or 1
    spacing_mm : (slice, row, column) float

    Returns
    -------
    Pairing

    Raises
    ------
    ValueError
        If the shapes differ, the map has NaN or values outside [0, 1], the truth is not binary, or the spacing is not
        three positive numbers.

    Examples
    --------
    >>> pairing = pair(np.array([[[0.9, 0.3, 0, 0.6]]]), np.array([[[0, 1, 0, 0]]]))
    >>> [pairing.match(threshold).counts for threshold in (0.5, 0.8)]
    [{'tp': 1, 'fn': 0, 'fp': 1}, {'tp': 1, 'fn': 0, 'fp': 0}]
    """
    spacing = checked_spacing(spacing_mm)
    probability, truth = checked_probability(probability), as_mask(truth, "truth")
    check_shapes(probability, truth, "probability", "truth")
    return Pairing(probability, truth, spacing)


@dataclass(frozen=True, eq=False)
class Pairing:
    """A checked map and truth on one grid, and what has been found out about them; made by `pair`."""

    probability: np.ndarray
    truth: np.ndarray
    spacing_mm: np.ndarray
    _known: dict = field(default_factory=dict, repr=False)
    _matched: dict = field(default_factory=dict, repr=False)

    def lesions(self, merge=False):
        """The `Truth`, with the lesions of BraTS-METS where `merge` asks for them."""
        if merge:
            return self._once("merged", lambda: merge_lesions(self.lesions(), self.spacing_mm))
        return self._once("lesions", lambda: read_truth(self.truth, self.spacing_mm))

    def predicted(self, low):
        """The map's components at a lower threshold, a `Predicted`."""
        return self._once(("predicted", low), lambda: _measured(*self._from(low), self.truth.shape, self.spacing_mm))

    def contact(self, low, merge=False):
        """What the lesions and the components at a lower threshold have in common, a `Contact`."""
        key = "contact", low, merge
        return self._once(key, lambda: Contact(self.lesions(merge), self.predicted(low), self.spacing_mm, self.truth))

    def match(self, threshold, *, low=0.2, min_volume_mm3=0, rule="thesis"):
        """Let a rule decide which components that hysteresis keeps belong to which lesions, a `Matched`.

        The parameters are those of `kit.metrics.detect`.
        """
        rule, low = rule_of(rule), effective_low(threshold, low)
        contact = self.contact(low, rule.merge)
        kept = np.flatnonzero(contact.predicted.keeps(threshold, min_volume_mm3))
        key = low, rule, kept.tobytes()
        if key not in self._matched:  # neighbouring thresholds and volumes often keep the same components
            if len(self._matched) == REMEMBERED:
                del self._matched[next(iter(self._matched))]
            self._matched[key] = Matched(self, contact, kept, rule.link(contact, kept))
        return self._matched[key]

    @cached_property
    def lesion_voxels(self):
        """All that is lesion, whether a rule counts it or not."""
        return int(np.count_nonzero(self.truth))

    def _from(self, low):
        """(flat position, (3,) place, value) of all voxels from `low` on; a new lowest reads the map again."""
        floor = self._known.get("floor")
        if floor is None or low < floor[0]:
            floor = low, *_voxels_from(self.probability, low)
            self._known["floor"] = floor
        _, flat, places, value = floor
        inside = value >= low
        return flat[inside], places[:, inside], value[inside]

    def _once(self, key, make):
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@dataclass(frozen=True, eq=False)
class Truth:
    """The lesions of one scan as a rule counts them.

    `table`: `kit.scans.measure`, one row a lesion; `labels`: (slice, row, column) int32, row number + 1 inside;
    `reach`: the same for dilated lesions where those were merged, -1 around lesions left out; otherwise None.
    """

    table: pd.DataFrame
    labels: np.ndarray
    reach: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Predicted:
    """The components of a map at one lower threshold: arrays with one entry a component, in the order of `components`.

    `voxels` int, `volume_mm3`, `centre` (component, 3) in voxels, `peak` (highest probability); `owner` (voxel,) is the
    component (from 0) of each voxel of `flat`, positions in the raveled map of shape `shape`.
    """

    voxels: np.ndarray
    volume_mm3: np.ndarray
    centre: np.ndarray
    peak: np.ndarray
    flat: np.ndarray
    owner: np.ndarray
    shape: tuple

    @property
    def labels(self):
        """(slice, row, column) int32, as `kit.scans.components`."""
        labels = np.zeros(self.shape, np.int32)
        labels.reshape(-1)[self.flat] = self.owner + 1
        return labels

    def keeps(self, threshold, min_volume_mm3=0):
        """Which components hysteresis keeps at `threshold`, less the small ones: (component,) bool."""
        # a Python float takes the map's own precision, so that 0.9 in a float32 map reaches 0.9
        return (self.peak >= float(threshold)) & (self.volume_mm3 >= min_volume_mm3)


@dataclass(frozen=True, eq=False)
class Contact:
    """What lesions and predicted components have in common before a rule decides: arrays (lesion, component).

    Rules (`kit.metrics.matching`) read it; what no rule asks for is never computed. `mask` is all that is lesion,
    (slice, row, column) bool.
    """

    truth: Truth
    predicted: Predicted
    spacing_mm: np.ndarray
    mask: np.ndarray | None = None

    @property
    def lesions(self):
        """How many lesions count."""
        return len(self.truth.table)

    @cached_property
    def lesion_volume_mm3(self):
        """(lesion,) float, mm3."""
        return self.truth.table.volume_mm3.to_numpy()

    @cached_property
    def lesion_voxels(self):
        """(lesion,) int."""
        return self.truth.table.voxels.to_numpy()

    @cached_property
    def component_table(self):
        """`kit.scans.measure` of the components."""
        return measure(self.predicted.labels, self.spacing_mm)

    @cached_property
    def overlap(self):
        """(component,) int: its voxels that are lesion, whether the lesion counts or not."""
        inside = self._at(self.mask)
        return np.bincount(self.predicted.owner[inside], minlength=len(self.predicted.voxels))

    @cached_property
    def shared(self):
        """Voxels in common, int."""
        return self._count(self.truth.labels)

    @cached_property
    def reached(self):
        """Whether a component has voxels in the dilated lesion, bool."""
        return self._count(self.truth.reach) > 0

    @cached_property
    def near_ignored(self):
        """(component,) bool: whether it has voxels in the dilation of a lesion that is left out."""
        ignored = self.predicted.owner[self._at(self.truth.reach) < 0]
        return np.bincount(ignored, minlength=len(self.predicted.voxels)) > 0

    @cached_property
    def distance_mm(self):
        """Between centres of mass, mm, rounded, so that a tie stays one whatever the order of the sums."""
        offset = np.array(self.truth.table.centre.tolist()).reshape(-1, 1, 3) - self.predicted.centre
        return np.linalg.norm(offset * np.asarray(self.spacing_mm), axis=-1).round(9)

    @cached_property
    def in_box(self):
        """Whether a component's centre lies in the lesion's box, which reaches to its outermost voxels' centres."""
        box = np.array(self.truth.table.box.tolist()).reshape(-1, 1, 3, 2)
        return ((box[..., 0] <= self.predicted.centre) & (self.predicted.centre <= box[..., 1] - 1)).all(axis=-1)

    @cached_property
    def centre_inside(self):
        """Whether the voxel nearest to a component's centre is lesion; of two equally near ones either will do."""
        centre, inside = self.predicted.centre, np.zeros((self.lesions, len(self.predicted.voxels)), bool)
        last = np.array(self.truth.labels.shape)[:, None] - 1
        ends = np.ceil(centre - 0.5 - 1e-6).astype(int), np.floor(centre + 0.5 + 1e-6).astype(int)
        for corner in np.ndindex(2, 2, 2):
            place = np.clip([ends[end][:, axis] for axis, end in enumerate(corner)], 0, last)
            lesion = self.truth.labels[tuple(place)]
            held = np.flatnonzero(lesion)
            inside[lesion[held] - 1, held] = True
        return inside

    def lesion_dice(self, links, kept):
        """(lesion,) Dice of each lesion and all kept components that are its own; 0 where it has none."""
        both = (self.shared.take(kept, axis=1) * links.pairs).sum(axis=1)
        own = links.pairs @ self.predicted.voxels[kept]
        return 2 * both / (self.lesion_voxels + own)

    def _at(self, labels):
        return labels.reshape(-1)[self.predicted.flat]

    def _count(self, labels):
        size, lesion = len(self.predicted.voxels), self._at(labels)
        inside = lesion > 0
        place = (lesion[inside] - 1).astype(np.int64) * size + self.predicted.owner[inside]
        return np.bincount(place, minlength=self.lesions * size).reshape(self.lesions, size)


@dataclass(frozen=True, eq=False)
class Matched:
    """One answer to what was found: which components are predicted (`kept`, int), and which lesions they belong to."""

    pairing: Pairing
    contact: Contact
    kept: np.ndarray
    links: Links

    @property
    def counts(self):
        """Tp, fn and fp, a dict of int."""
        return self.links.counts

    @cached_property
    def lesion_dice(self):
        """(lesion,) float: see `Contact.lesion_dice`."""
        return self.contact.lesion_dice(self.links, self.kept)

    @cached_property
    def summary(self):
        """The row of a sweep: tp, fn, fp, dice, dice_healthy, slices, lesion_dice (their mean, NaN without lesions)."""
        size, truth = self.pairing.truth.size, self.pairing.lesion_voxels
        both, predicted = self.contact.overlap[self.kept].sum(), self.contact.predicted.voxels[self.kept].sum()
        healthy = dice_of(size - predicted - truth + both, size - predicted, size - truth)
        own = float(self.lesion_dice.mean()) if self.contact.lesions else nan
        voxelwise = {"dice": dice_of(both, predicted, truth), "dice_healthy": healthy}
        return {**self.counts, **voxelwise, "slices": len(self.pairing.truth), "lesion_dice": own}


def dice_of(both, a, b):
    """Dice of two labels of `a` and `b` voxels that have `both` in common; 1 where both are empty."""
    return float(2 * both / (a + b)) if a + b else 1.0


def read_truth(truth, spacing_mm):
    """Number and measure the lesions of a (slice, row, column) bool array, as `kit.scans.components` does."""
    labels = np.zeros(truth.shape, np.int32)
    flat = np.flatnonzero(truth)
    labels.reshape(-1)[flat] = _numbered(np.array(np.unravel_index(flat, truth.shape)))
    return Truth(measure(labels, spacing_mm), labels)


def merge_lesions(lesions, spacing_mm):
    """The `Truth` as BraTS-METS counts it: lesions whose dilations touch are one, those of 2 mm3 and less are left out.

    A merged lesion has the lowest number of its parts.
    """
    labels = lesions.labels
    if not len(lesions.table):
        return Truth(lesions.table, labels, labels)
    ends = np.array(lesions.table.box.tolist())  # (lesion, 3, 2)
    ends = zip(ends[..., 0].min(axis=0), ends[..., 1].max(axis=0), strict=True)
    box = tuple(slice(max(low - 1, 0), stop + 1) for low, stop in ends)
    own, lesion = labels[box], labels[box] > 0  # there is nothing outside, dilated or not
    reach = components(ndimage.binary_dilation(lesion, BRATS_STRUCTURE))
    lowest = np.full(reach.max() + 1, own.max() + 1)  # (group,), of the components in a group
    np.minimum.at(lowest, reach[lesion], own[lesion])
    order = np.argsort(lowest[1:])
    number = np.zeros(len(lowest), np.int32)
    number[1 + order] = np.arange(1, len(lowest))  # groups in the order of their lowest component
    merged, around = np.zeros(labels.shape, np.int32), np.zeros(labels.shape, np.int32)
    merged[box] = np.where(lesion, number[reach], 0)
    table = measure(merged, spacing_mm).assign(component=lowest[1:][order])
    counts = table.volume_mm3.to_numpy() > BRATS_IGNORED_MM3
    number[1 + order] = np.where(counts, np.cumsum(counts), -1)
    around[box] = number[reach]
    merged[box] = np.where(lesion, np.maximum(around[box], 0), 0)
    return Truth(table[counts].reset_index(drop=True), merged, around)


def read_map(probability, low, spacing_mm):
    """Label a checked (slice, row, column) map at a lower threshold, a `Predicted`; a voxel at exactly `low` is in."""
    return _measured(*_voxels_from(probability, low), probability.shape, spacing_mm)


def checked_probability(probability):
    """A map as a three-dimensional float array in [0, 1]; ValueError, with what was found, where it is none."""
    probability = np.asarray(probability)
    if probability.ndim != 3:
        raise ValueError(f"probability has shape {probability.shape}: pass one scan with axes (slice, row, column)")
    if not np.issubdtype(probability.dtype, np.floating):
        probability = probability.astype(np.float32)
    low, high = probability.min(initial=0), probability.max(initial=0)
    if np.isnan(low):
        raise ValueError(
            f"probability holds NaN in {np.isnan(probability).sum()} voxels: the network's output is broken"
        )
    if low < 0 or high > 1:
        raise ValueError(f"probability reaches from {low} to {high}: pass values in [0, 1], not logits or percent")
    return probability


def check_shapes(a, b, first, second):
    """Raise ValueError where two arrays are not of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{first} has shape {a.shape} and {second} {b.shape}: both must lie on the same grid")


def _voxels_from(probability, low):
    flat = np.flatnonzero(probability >= low)
    return flat, np.array(np.unravel_index(flat, probability.shape)), probability.reshape(-1)[flat]


def _measured(flat, places, value, shape, spacing):
    owner = _numbered(places) - 1  # (voxel,)
    count = np.bincount(owner)
    centre = [np.bincount(owner, place) / count for place in places]
    peak = np.zeros(len(count), value.dtype)
    np.maximum.at(peak, owner, value)
    volume = (count * np.prod(spacing)).round(6)  # as in `kit.scans.measure`
    return Predicted(count, volume, np.array(centre).T.reshape(-1, 3), peak, flat, owner, shape)


def _numbered(places):
    """The component of each of some voxels (3, voxel), labelled in the box around all of them."""
    if not places.size:
        return np.zeros(0, np.int32)
    low = places.min(axis=1)
    box = np.zeros(places.max(axis=1) + 1 - low, bool)
    own = np.ravel_multi_index(places - low[:, None], box.shape)
    box.reshape(-1)[own] = True
    return components(box).reshape(-1)[own]
