"""Lesions meet predicted components: one scan's truth and one map, labelled once, and what lies between the two.

Matching rules (`kit.metrics.matching`) ask an `Encounter`; whatever a rule does not ask for is never computed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.scans import as_mask, components, measure

BRATS_IGNORED_MM3 = 2.0  # BraTS-METS leaves out lesions up to this volume
BRATS_STRUCTURE = ndimage.generate_binary_structure(3, 2)  # one dilation over faces and edges, as in BraTS-METS


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

    `owner` (voxel,) is the component (from 0) of each voxel of `flat`, positions in the raveled map.
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


@dataclass(frozen=True, eq=False)
class Encounter:
    """Lesions and predicted components of one scan, and what lies between them: arrays (lesion, predicted)."""

    truth: Truth
    predicted: Predicted
    spacing_mm: tuple
    mask: np.ndarray | None = None  # all that is lesion, counted or not

    @cached_property
    def overlap(self):
        """(predicted,) voxels that are lesion."""
        inside = self._at(self.mask)
        return np.bincount(self.predicted.owner[inside], minlength=len(self.predicted.voxels))

    @cached_property
    def shared(self):
        """Voxels in common, int."""
        return self._count(self.truth.labels)

    @cached_property
    def reached(self):
        """Whether a predicted component has voxels in the dilated lesion."""
        return self._count(np.maximum(self.truth.reach, 0)) > 0

    @cached_property
    def near_ignored(self):
        """(predicted,) whether a component has voxels in the dilation of a lesion that is left out."""
        return (
            np.bincount(self.predicted.owner[self._at(self.truth.reach) < 0], minlength=len(self.predicted.voxels)) > 0
        )

    @cached_property
    def distance_mm(self):
        """Between centres of mass, rounded, so that a tie stays one whatever the order of the sums."""
        return np.linalg.norm(self._offset * np.asarray(self.spacing_mm), axis=-1).round(9)

    @cached_property
    def in_box(self):
        """Whether a component's centre lies in the lesion's box, which reaches to its outermost voxels' centres."""
        box, centre = self._boxes[:, None], self.predicted.centre  # (lesion, 1, 3, 2), (predicted, 3)
        return ((box[..., 0] <= centre) & (centre <= box[..., 1] - 1)).all(axis=-1)

    @cached_property
    def centre_inside(self):
        """Whether the voxel nearest to a component's centre is lesion; of two equally near ones either will do."""
        centre, inside = self.predicted.centre, np.zeros((self.lesions, len(self.predicted.voxels)), bool)
        ends = np.ceil(centre - 0.5 - 1e-6).astype(int), np.floor(centre + 0.5 + 1e-6).astype(int)
        for corner in np.ndindex(2, 2, 2):
            place = np.clip([ends[end][:, axis] for axis, end in enumerate(corner)], 0, self._last)
            lesion = self.truth.labels[tuple(place)]
            held = np.flatnonzero(lesion)
            inside[lesion[held] - 1, held] = True
        return inside

    @property
    def lesions(self):
        """How many lesions count."""
        return len(self.truth.table)

    def lesion_dice(self, links, chosen):
        """(lesion,) Dice of each lesion and all chosen components that are its own; 0 where it has none."""
        both = (self.shared[:, chosen] * links.pairs).sum(axis=1)
        own = links.pairs @ self.predicted.voxels[chosen]
        return 2 * both / (self.truth.table.voxels.to_numpy() + own)

    @property
    def _boxes(self):
        return np.array(self.truth.table.box.tolist()).reshape(-1, 3, 2)

    @property
    def _offset(self):
        return np.array(self.truth.table.centre.tolist()).reshape(-1, 1, 3) - self.predicted.centre

    @property
    def _last(self):
        return np.array(self.truth.labels.shape)[:, None] - 1

    def _at(self, labels):
        return labels.reshape(-1)[self.predicted.flat]

    def _count(self, labels):
        size, lesion = len(self.predicted.voxels), self._at(labels)
        inside = lesion > 0
        place = (lesion[inside] - 1).astype(np.int64) * size + self.predicted.owner[inside]
        return np.bincount(place, minlength=self.lesions * size).reshape(self.lesions, size)


def read_truth(truth, spacing_mm, *, merge=False):
    """Number and measure the lesions of a (slice, row, column) bool array.

    Parameters
    ----------
    merge : bool
        As BraTS-METS counts them: lesions whose dilations touch are one, lesions of 2 mm3 and less are left out.

    Returns
    -------
    Truth
        Components keep the numbers of `kit.scans.components`; a merged lesion has the lowest of its parts.
    """
    labels = np.zeros(truth.shape, np.int32)
    flat = np.flatnonzero(truth)
    labels.reshape(-1)[flat] = _numbered(np.array(np.unravel_index(flat, truth.shape)))
    if not merge or not flat.size:
        return Truth(measure(labels, spacing_mm), labels, np.zeros_like(labels) if merge else None)
    reach = components(_dilated(truth))
    lowest = np.full(reach.max() + 1, labels.max() + 1)  # (group,), of the components in a group
    np.minimum.at(lowest, reach[truth], labels[truth])
    order = np.argsort(lowest[1:])
    number = np.zeros(len(lowest), np.int32)
    number[1 + order] = np.arange(1, len(lowest))  # groups in the order of their lowest component
    table = measure(np.where(truth, number[reach], 0), spacing_mm).assign(component=lowest[1:][order])
    counts = table.volume_mm3.to_numpy() > BRATS_IGNORED_MM3
    number[1 + order] = np.where(counts, np.cumsum(counts), -1)
    reach = number[reach]
    return Truth(table[counts].reset_index(drop=True), np.where(truth, np.maximum(reach, 0), 0), reach)


def read_maps(probability, lows, spacing_mm):
    """Label a (slice, row, column) map at each lower threshold, once for all upper ones.

    Returns
    -------
    dict
        Lower threshold to `Predicted`; a voxel at exactly the threshold is in.
    """
    flat = np.flatnonzero(probability >= min(lows, default=1))
    places = np.array(np.unravel_index(flat, probability.shape))  # (3, voxel)
    value = probability.reshape(-1)[flat]
    found = {}
    for low in lows:
        inside = value >= low
        found[low] = _measured(flat[inside], places[:, inside], value[inside], probability.shape, spacing_mm)
    return found


def _measured(flat, places, value, shape, spacing_mm):
    owner = _numbered(places) - 1  # (voxel,)
    count = np.bincount(owner)
    centre = [np.bincount(owner, place) / count for place in places]
    peak = np.zeros(len(count), value.dtype)
    np.maximum.at(peak, owner, value)
    volume = (count * np.prod(np.asarray(spacing_mm, float))).round(6)  # as in `kit.scans.measure`
    return Predicted(count, volume, np.array(centre).T.reshape(-1, 3), peak, flat, owner, shape)


def effective_low(threshold, low):
    """The lower threshold of hysteresis; ValueError where one is out of range."""
    for name, value in (("threshold", threshold), ("low", low)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}: pass a probability above 0 and at most 1")
    return float(min(threshold, low))


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


def checked_pair(probability, truth):
    """A map and a bool truth on one grid, or ValueError."""
    probability, truth = checked_probability(probability), as_mask(truth, "truth")
    check_shapes(probability, truth, "probability", "truth")
    return probability, truth


def check_shapes(a, b, first, second):
    """Raise ValueError where two arrays are not of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{first} has shape {a.shape} and {second} {b.shape}: both must lie on the same grid")


def _numbered(places):
    """The component of each of some voxels (3, voxel), labelled in the box around all of them."""
    if not places.size:
        return np.zeros(0, np.int32)
    low = places.min(axis=1)
    box = np.zeros(places.max(axis=1) + 1 - low, bool)
    own = tuple(places - low[:, None])
    box[own] = True
    return components(box)[own]


def _dilated(truth):
    """`truth` with one BraTS dilation, looked at only around the lesions."""
    box = tuple(slice(max(axis.min() - 1, 0), axis.max() + 2) for axis in np.nonzero(truth))
    dilated = np.zeros(truth.shape, bool)
    dilated[box] = ndimage.binary_dilation(truth[box], BRATS_STRUCTURE)
    return dilated
