"""Which voxels an epoch visits, by the thesis' sampling schemes.

A draw is a table, one row a patch, in the order in which patches are visited:

    every lesion voxel of every scan   +   healthy voxels of all scans pooled, new ones each epoch
                                       +   with border pairs: a healthy neighbour for each lesion voxel on a border

`describe` adds to each row its lesion and its distance to the border.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from kit.samplers.augment import with_looks
from kit.samplers.entries import BORDER, ERODED, ERODED_BORDER, SamplerError
from kit.samplers.patches import contains
from kit.scans import nearest

ROTATION_DEGREES = 15.0
WHY = ("lesion", "lesion border", "beside the border", "healthy")
SHELL = 0.25  # a pair's distance is kept to a quarter of the finest spacing


@dataclass(frozen=True)
class Scheme:
    """How lesion voxels and healthy ones are brought together.

    `negatives_per_positive` healthy voxels are drawn for each lesion voxel; `class_weights` are those of (healthy,
    lesion) in the loss. With `pair_distance`, each lesion voxel on a border is joined in its batch by one more healthy
    voxel so far from it, in units of the finest spacing (1 mm in prepared scans). With `eroded`, lesions are
    shrunk by a 3x3x3 cube first, so that neither of the two comes from the border itself, where labels err.

    Two words are for training on segments alone (`kit.samplers.choose`): `hard` is the share of the healthy voxels that
    is chosen by the network's present probability of lesion there; with `by_size`, a lesion voxel weighs inversely as
    the volume of its lesion, as the thesis suggests (section 7.1).
    """

    negatives_per_positive: int
    class_weights: tuple[float, float]
    pair_distance: int | None = None
    eroded: bool = False
    hard: float = 0.0
    by_size: bool = False

    @property
    def for_patches(self):
        """Whether draws of single patches can follow it."""
        return not (self.hard or self.by_size)

    @property
    def lesion_share(self):
        """What all lesion voxels weigh in the loss, of lesion and healthy ones together: the prior that is learnt."""
        healthy, lesion = self.class_weights
        return lesion / (lesion + healthy * self.negatives_per_positive)


SCHEMES = {  # a row added here, from anywhere, is a scheme like the others
    "balanced": Scheme(1, (1.0, 1.0)),
    "ratio": Scheme(10, (0.1, 1.0)),
    "border-pairs": Scheme(10, (0.1, 1.0), pair_distance=1),
    "eroded-border-pairs": Scheme(10, (0.1, 1.0), pair_distance=3, eroded=True),
    "hard-negatives": Scheme(3, (1 / 3, 1.0), hard=0.5),
    "by-size": Scheme(3, (1 / 3, 1.0), by_size=True),
    "hard-by-size": Scheme(3, (1 / 3, 1.0), hard=0.5, by_size=True),
}


def draw(cohort, scheme="balanced", seed=0, epoch=0, limit=None, batch_size=32, augment="none"):
    """The patches of one epoch as a table, in the order in which they are visited.

    Every lesion voxel once, and `negatives_per_positive` times as many healthy non-black voxels, drawn uniformly
    from all scans together and anew for each epoch (thesis, 5.2 and 5.3.4). With border pairs (Fig. 5.6) every lesion
    voxel on a border is followed by a healthy voxel at the pair's distance, picked at random among those there are;
    both stay in one batch. The same seed and epoch give the same table, whatever was drawn before.

    A lesion of which erosion leaves nothing (about 3 mm and less) is not drawn, as in the thesis.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
    scheme : str or Scheme
        A name in `SCHEMES`.
    seed, epoch : int
    limit : int, optional
        The most patches to visit. An epoch is then a random subset of the lesion voxels, without repetition and new
        each epoch, with healthy voxels in the scheme's proportion: a whole epoch is beyond a quick run on a CPU.
    batch_size : int
        Rows k * batch_size and those after it are one batch.
    augment : str or Augmentation
        A name in `kit.samplers.AUGMENTATIONS`; but for "none" rows have the columns of `kit.samplers.with_looks` too.

    Returns
    -------
    pandas.DataFrame
        `scan` (categories are the cohort's scan ids, in its order), `slice`, `row`, `column`, `label` (True: lesion),
        `why` (one of `WHY`), `pair` (int, the same in the two rows of a pair; -1: in none) and `angle`, the rotation
        in degrees.

    Raises
    ------
    SamplerError
        For an unknown scheme or augmentation, a cohort without lesion or healthy voxels to draw from, or more pairs
        than batches of that size hold.

    Examples
    --------
    >>> from kit.samplers import Cohort, PreparedScan
    >>> volume, lesion, one = np.eye(3, dtype=np.float16)[None], np.array([0, 4]), np.ones(2, int)
    >>> scan = PreparedScan("s1", volume, lesion, np.arange(5, 9), one, one, 0, 1, 9, 0)
    >>> rows = draw(Cohort((scan,), "scan"), seed=7)
    >>> rows[["scan", "slice", "row", "column"]][rows.label].sort_values("row").values.tolist()
    [['s1', 0, 0, 0], ['s1', 0, 1, 1]]
    """
    scheme = _of_patches(scheme_of(scheme))
    rng = np.random.default_rng([seed, epoch])
    lesion, border, healthy = voxels_of(cohort, scheme)
    total, pool = sum(map(len, lesion)), sum(map(len, healthy))
    order = rng.permutation(total)
    cost = 1 + scheme.negatives_per_positive + np.concatenate(border)[order]
    count = total if limit is None else max(1, int(np.searchsorted(np.cumsum(cost), limit, "right")))
    positives = _rows(cohort, lesion, np.sort(order[:count]), "lesion")
    partners = _partners(cohort, positives, lesion, border, np.sort(order[:count]), scheme, rng)
    negatives = np.sort(rng.integers(0, pool, count * scheme.negatives_per_positive))
    table = pd.concat([positives, _rows(cohort, healthy, negatives, "healthy"), partners], ignore_index=True)
    table = table.iloc[_in_batches(table["pair"].to_numpy(), batch_size, rng)].reset_index(drop=True)
    table = table.assign(angle=rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, len(table)).astype(np.float32))
    return with_looks(table, augment, [seed, epoch, 4])


def describe(cohort, rows):
    """Add to each row of a draw its lesion and its distance from the border.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
    rows : pandas.DataFrame
        Rows of `draw`.

    Returns
    -------
    pandas.DataFrame
        The rows with `component`, the number of the scan's lesion that the voxel lies in (0: in none), and
        `distance_mm`, from a lesion voxel's centre to that of the nearest voxel outside lesions, from any other to
        that of the nearest lesion voxel (infinite in a scan without lesions).
    """
    component, distance = np.zeros(len(rows), np.int64), np.full(len(rows), np.inf)
    index, voxel = rows["scan"].cat.codes.to_numpy(), rows[["slice", "row", "column"]].to_numpy(np.int64)
    for which in np.unique(index):
        scan, mine = cohort.scans[which], np.flatnonzero(index == which)
        flat = np.ravel_multi_index(tuple(voxel[mine].T), scan.volume.shape)
        inside = contains(scan.lesion, flat)
        if len(scan.lesion) == 0:
            continue
        component[mine[inside]] = scan.component[np.searchsorted(scan.lesion, flat[inside])]
        distance[mine[inside]] = _depth_mm(scan, voxel[mine[inside]])
        distance[mine[~inside]] = _away_mm(scan, voxel[mine[~inside]])
    return rows.assign(component=component, distance_mm=distance)


def _of_patches(scheme):
    """The scheme, refused where single patches cannot follow it."""
    if not scheme.for_patches:
        raise SamplerError(
            "a draw of single patches knows neither what the network says of a voxel (hard) nor weighs it (by_size); "
            "train on segments (examples='segments'), or choose another scheme"
        )
    return scheme


def scheme_of(scheme):
    """A `Scheme` from its name in `SCHEMES`, or itself; SamplerError for an unknown name."""
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        raise SamplerError(f"scheme is {scheme!r}{nearest(scheme, SCHEMES)}; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme]


def voxels_of(cohort, scheme):
    """Each scan's lesion voxels under a scheme, which of them ask for a partner, and its healthy voxels.

    SamplerError where all scans together have none of one kind.
    """
    lesion, border = zip(*(_positives(scan, scheme) for scan in cohort.scans), strict=True)
    healthy = [scan.healthy for scan in cohort.scans]
    total, pool = sum(map(len, lesion)), sum(map(len, healthy))
    if total == 0 or pool == 0:
        eroded = " (after erosion)" if scheme.eroded else ""
        raise SamplerError(
            f"the cohort has {total} lesion{eroded} and {pool} healthy voxels; both are needed to draw from"
        )
    return lesion, border, healthy


def _positives(scan, scheme):
    """A scan's lesion voxels under a scheme, and which of them ask for a partner."""
    kept = (scan.depth & ERODED) > 0 if scheme.eroded else slice(None)
    border = (scan.depth & (ERODED_BORDER if scheme.eroded else BORDER)) > 0
    lesion = scan.lesion[kept]
    return lesion, border[kept] if scheme.pair_distance else np.zeros(len(lesion), bool)


def _rows(cohort, positions, picks, why):
    """Rows for the voxels that stand at the ascending `picks` of all scans' positions, end to end."""
    ends = np.cumsum([0, *map(len, positions)])
    edges = np.searchsorted(picks, ends)
    flat = [where[picks[edges[k] : edges[k + 1]] - ends[k]] for k, where in enumerate(positions)]
    return _table(cohort, np.repeat(np.arange(len(cohort)), np.diff(edges)), np.concatenate(flat), why)


def _table(cohort, scan, flat, why, pair=-1):
    """Rows for positions in flattened volumes; `scan` is ascending."""
    voxels = np.zeros((len(flat), 3), np.int32)
    for index in np.unique(scan):
        mine = scan == index
        voxels[mine] = np.stack(np.unravel_index(flat[mine], cohort.scans[index].volume.shape), axis=1)
    columns = {
        "scan": pd.Categorical.from_codes(scan, [one.scan_id for one in cohort.scans]),
        **{name: voxels[:, axis] for axis, name in enumerate(("slice", "row", "column"))},
        "label": np.full(len(voxels), why == "lesion"),
        "why": pd.Categorical([why] * len(voxels), WHY),
        "pair": np.full(len(voxels), pair) if np.isscalar(pair) else pair,
    }
    return pd.DataFrame(columns)


def _partners(cohort, positives, lesion, border, picks, scheme, rng):
    """A healthy voxel beside each border voxel among `positives`, whose `pair` and `why` are filled in."""
    asking = np.flatnonzero(np.concatenate(border)[picks])
    scan = positives["scan"].cat.codes.to_numpy()[asking].astype(np.int64)
    voxel = positives[["slice", "row", "column"]].to_numpy(np.int64)[asking]
    flat = np.full(len(asking), -1)
    for index in np.unique(scan):
        mine = scan == index
        flat[mine] = _neighbours(cohort.scans[index], voxel[mine], scheme.pair_distance, rng)
    there = flat >= 0  # a border against air, or beyond the mask, has no partner
    pair = np.arange(there.sum())
    at = asking[there]
    positives.loc[at, "pair"] = pair
    positives.loc[at, "why"] = "lesion border"
    return _table(cohort, scan[there], flat[there], "beside the border", pair)


def _neighbours(scan, voxel, distance, rng):
    """For each voxel a healthy one at the wanted distance, at random: positions in the flattened volume, or -1."""
    offsets = shell(distance, scan.spacing_mm)  # (offset, 3)
    found = np.full(len(voxel), -1)
    for part in np.array_split(np.arange(len(voxel)), len(voxel) // 50_000 + 1):
        near = voxel[part, None] + offsets  # (voxel, offset, 3)
        inside = ((near >= 0) & (near < scan.volume.shape)).all(-1)
        flat = np.ravel_multi_index(tuple(np.moveaxis(near, -1, 0)), scan.volume.shape, mode="clip")
        allowed = inside & contains(scan.healthy, flat)
        at = np.where(allowed, rng.random(allowed.shape), -1).argmax(1)
        found[part] = np.where(allowed.any(1), flat[np.arange(len(part)), at], -1)
    return found


def shell(distance, spacing_mm=(1, 1, 1)):
    """The offsets, in voxels, at a distance from a voxel: (offset, 3) int64.

    `distance` counts in the finest spacing, and offsets within a quarter of that spacing belong to it: at 1 mm the 6
    face neighbours for 1, and 66 voxels of a sphere for 3.

    >>> len(shell(1)), len(shell(3)), shell(1, (3.0, 1.0, 1.0)).tolist()
    (6, 66, [[0, -1, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0]])
    """
    spacing = np.asarray(spacing_mm, float)
    reach = np.ceil((distance + 1) * spacing.min() / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    away = np.linalg.norm(offsets * spacing, axis=1) / spacing.min()
    return offsets[abs(away - distance) <= SHELL]


def _in_batches(pair, batch_size, rng):
    """A random order in which both rows of a pair stand in the same batch; pairs are spread evenly over batches.

    `pair` is (row,), -1 outside pairs. Returns (row,) indices.
    """
    alone, paired = np.flatnonzero(pair < 0), np.flatnonzero(pair >= 0)
    couples = paired[np.argsort(pair[paired], kind="stable")].reshape(-1, 2)
    couples = couples[rng.permutation(len(couples))]
    batch = np.arange(len(pair)) // batch_size
    room = np.bincount(batch) // 2
    if len(couples) > room.sum():
        raise SamplerError(
            f"batch_size is {batch_size}: {len(couples)} pairs among {len(pair)} patches do not fit into such batches, "
            "both of a pair in one; give an even number"
        )
    count = _spread(len(couples), room, rng)
    place = np.arange(len(pair)) - batch * batch_size  # within its batch
    for_pairs = place < 2 * count[batch]
    order = np.empty(len(pair), np.int64)
    order[for_pairs], order[~for_pairs] = couples.ravel(), rng.permutation(alone)
    return order[np.lexsort((rng.random(len(pair)), batch))]


def _spread(count, room, rng):
    """Deal `count` things out evenly to places that have `room` for so many each, the remainder at random."""
    dealt = np.zeros(len(room), np.int64)
    while left := count - dealt.sum():
        open_places = np.flatnonzero(dealt < room)
        each = max(1, left // len(open_places))
        takers = open_places if left >= len(open_places) else rng.permutation(open_places)[:left]
        dealt[takers] += np.minimum(each, room[takers] - dealt[takers])
    return dealt


def _depth_mm(scan, voxel):
    """From lesion voxels (N, 3) to the nearest voxel outside lesions; beyond the scan is outside."""
    if len(voxel) == 0:
        return np.zeros(0)
    places = np.stack(np.unravel_index(scan.lesion, scan.volume.shape), 1)
    low = places.min(0)
    box = np.zeros(places.max(0) - low + 3, bool)
    box[tuple((places - low + 1).T)] = True
    return distance_transform_edt(box, sampling=scan.spacing_mm)[tuple((voxel - low + 1).T)]


def _away_mm(scan, voxel):
    """From voxels (N, 3) outside lesions to the nearest lesion voxel."""
    spacing = np.asarray(scan.spacing_mm)
    border = scan.lesion[(scan.depth & BORDER) > 0]
    tree = cKDTree(np.stack(np.unravel_index(border, scan.volume.shape), 1) * spacing)
    return tree.query(voxel * spacing)[0]
