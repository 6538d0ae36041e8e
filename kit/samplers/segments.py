"""Segments: crops that each hold a lattice of voxels, so that a step learns from hundreds of them in several patients.

    a step        8 crops, each drawn around a voxel, moved off its middle and turned
    a crop        16 x 16 voxels of a lattice, for A to H every 4th in row and column; its phase is random
    the loss      the voxels that a scheme chooses among these 2048

Crops are drawn by a word that says around what:

    lesion        every lesion as often as any other, so that small ones count as much as large ones
    voxel         every lesion voxel as often as any other, as in the thesis
    tissue        every healthy voxel as often as any other
    hard          places that a network took for lesions (see `kit.experiments.hard_negatives`)

A pair of a border scheme needs two voxels 1 or 3 apart, which no lattice of 4 holds. A crop around a lesion then has a
twin: the same crop moved by the pair's distance in a random direction, so that each of its voxels is the partner of the
voxel at the same place of the lattice.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from kit.samplers.augment import TAKEN_OFF, augmentation_of, with_looks
from kit.samplers.draw import ROTATION_DEGREES, scheme_of, shell, voxels_of
from kit.samplers.entries import BORDER, ERODED, ERODED_BORDER
from kit.samplers.patches import patches, placed

CROPS, COUNT = 8, 16  # crops of a step; voxels of the lattice along a crop's side
AROUND = ("lesion", "voxel", "tissue", "hard")
LEAST_NEGATIVES = 128  # of a step, whatever the scheme's proportion: their layers are computed anyway
OFF_MIDDLE = 3  # a crop's middle lies up to a third of the lattice's width from the voxel it was drawn for
NOTHING, HEALTHY, LESION = range(3)  # of a lattice's voxels: black or outside the search region, healthy, lesion


class Lattice(NamedTuple):
    """What the voxels of some crops are: arrays (crop, row, column).

    `kind` (uint8) is NOTHING, HEALTHY or LESION; `depth` (uint8) where in its lesion a voxel lies, as
    `PreparedScan.depth`; `size` (int64) how many voxels its lesion has, 0 outside lesions.
    """

    kind: np.ndarray
    depth: np.ndarray
    size: np.ndarray


def draw_segments(cohort, scheme="balanced", seed=0, epoch=0, *, steps, step, hard=None, count=COUNT, augment="none"):
    """The crops of some steps as a table, one row a crop, in the order in which they are learnt from.

    Half of a step's crops lie around lesions, drawn by lesion and by voxel in turn, half around tissue; with `hard`,
    half of the latter around hard negatives. With a border scheme every crop around a lesion is followed by its twin.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
    scheme : str or Scheme
        A name in `kit.samplers.SCHEMES`.
    seed, epoch : int
        The same two give the same table.
    steps : int
    step : int
        Voxels from one voxel of the lattice to the next, see `kit.models.lattice_step`.
    hard : pandas.DataFrame, optional
        Hard negatives: scan (position in the cohort), slice, row, column.
    count : int
        Voxels of the lattice along a crop's side.
    augment : str or Augmentation
        A name in `kit.samplers.AUGMENTATIONS`; but for "none" rows have the columns of `kit.samplers.with_looks` too.

    Returns
    -------
    pandas.DataFrame
        `batch` (the step), `scan` (categories are the cohort's scan ids), `slice`, `row`, `column` (the crop's middle),
        `around` (one of `AROUND`), `twin` (bool) and `angle`, the rotation in degrees.

    Raises
    ------
    SamplerError
        For an unknown scheme or augmentation, or a cohort without lesion or healthy voxels to draw from.
    """
    scheme, rng = scheme_of(scheme), np.random.default_rng([seed, epoch, 1])
    voxels_of(cohort, scheme)  # refuses a cohort that lacks one kind
    words = np.tile(_words(hard is not None and len(hard) > 0), steps)
    scan, voxel = np.empty(len(words), int), np.empty((len(words), 3), int)
    for word in np.unique(words):
        mine = np.flatnonzero(words == word)
        scan[mine], voxel[mine] = _places(cohort, word, len(mine), hard, rng)
    reach = step * count // OFF_MIDDLE
    voxel[:, 1:] += rng.integers(-reach, reach + 1, (len(words), 2))
    table = pd.DataFrame(voxel, columns=["slice", "row", "column"]).assign(scan=scan, around=words, twin=False)
    table["batch"] = np.repeat(np.arange(steps), CROPS)
    table["angle"] = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, len(table)).astype(np.float32)
    table = with_looks(table, augment, [seed, epoch, 4])
    if scheme.pair_distance:
        table = _with_twins(table, cohort, scheme, rng)
    names = [one.scan_id for one in cohort.scans]
    return table.assign(scan=pd.Categorical.from_codes(table.scan, names), around=pd.Categorical(table.around, AROUND))


def read_segments(cohort, rows, patch_shape, step, *, count=COUNT, device="cpu", augment="none"):
    """Crops and what their lattices' voxels are.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
    rows : pandas.DataFrame
        Rows of `draw_segments`.
    patch_shape : (slices, rows, columns)
        Of the network's patches: the first voxel of the lattice has its patch in the crop's first corner.
    step, count, augment
        As in `draw_segments`.

    Returns
    -------
    torch.Tensor, Lattice
        float32 (crop, slice, row, column), rotated without invented corners (see `kit.samplers.patches`); a turned
        voxel lies between voxels of the scan and is what the nearest of them is. What an augmentation takes off with
        the skull is NOTHING.
    """
    depth, patch, _ = patch_shape
    side = patch + step * (count - 1)
    angles = rows["angle"].to_numpy()
    crops = patches(cohort, rows, (depth, side, side), angles, device, augment)
    lattice = _lattice(cohort, rows, patch, side, step, count)
    if augmentation_of(augment) is not None:
        line = slice(patch // 2, patch // 2 + step * count, step)
        lattice.kind[(crops[:, depth // 2, line, line] == TAKEN_OFF).cpu().numpy()] = NOTHING
    return crops, lattice


def choose(lattice, twin, scheme, rng, probability=None):
    """The voxels of a step that enter the loss, and what each weighs.

    All lesion voxels (with an eroding scheme, those that survive it) and the scheme's number of healthy ones, at least
    128. Whatever their numbers, all lesion voxels together weigh as much against all healthy ones as the scheme's
    proportion and class weights say, which for the thesis' schemes is one to one.

    Parameters
    ----------
    lattice : Lattice
    twin : (crop,) bool array
        Which crops are twins of the one before.
    scheme : kit.samplers.Scheme
        With `hard`, that share of the healthy voxels is drawn in proportion to their probability, the rest evenly.
        With `by_size`, a lesion voxel weighs inversely as its lesion's volume (thesis, section 7.1).
    rng : numpy.random.Generator
    probability : callable, optional
        From (voxel,) positions to the network's present probability of lesion there; asked only where `hard` is.

    Returns
    -------
    index : (voxel,) int64 array
        Positions in the raveled lattice, lesion voxels first.
    label : (voxel,) int64 array
        1 in lesions.
    weight : (voxel,) float32 array
        Adds up to 1.
    """
    kind, depth, size = (part.reshape(-1) for part in lattice)
    positives = np.flatnonzero((kind == LESION) & ((depth & ERODED) > 0 if scheme.eroded else True))
    partners = _partners(lattice, twin, scheme) if scheme.pair_distance else np.zeros(0, int)
    healthy = np.setdiff1d(np.flatnonzero(kind == HEALTHY), partners)
    wanted = min(len(healthy), max(LEAST_NEGATIVES, scheme.negatives_per_positive * len(positives)))
    negatives = np.concatenate([partners, _negatives(healthy, wanted, scheme.hard, rng, probability)])
    worth = 1 / size[positives] if scheme.by_size else np.ones(len(positives))
    lesion_share = scheme.lesion_share if len(positives) else 0.0
    weight = [
        lesion_share * worth / max(worth.sum(), 1e-12),
        np.full(len(negatives), (1 - lesion_share) / max(len(negatives), 1)),
    ]
    label = np.repeat([1, 0], [len(positives), len(negatives)])
    return np.concatenate([positives, negatives]), label, np.concatenate(weight).astype(np.float32)


def _words(with_hard):
    """Around what the crops of one step lie."""
    return np.array(["lesion", "voxel"] * (CROPS // 4) + ["tissue", "hard" if with_hard else "tissue"] * (CROPS // 4))


def _places(cohort, word, count, hard, rng):
    """(count,) scans and (count, 3) voxels to draw crops around."""
    if word == "hard":
        some = hard.iloc[rng.integers(len(hard), size=count)]
        return some["scan"].to_numpy(), some[["slice", "row", "column"]].to_numpy()
    if word == "lesion":
        return _by_lesion(cohort, count, rng)
    voxels = [scan.healthy if word == "tissue" else scan.lesion for scan in cohort.scans]
    ends = np.cumsum([0, *map(len, voxels)])
    pick = rng.integers(ends[-1], size=count)
    scan = np.searchsorted(ends, pick, side="right") - 1
    return scan, _unraveled(cohort, scan, [voxels[s][p - ends[s]] for s, p in zip(scan, pick, strict=True)])


def _by_lesion(cohort, count, rng):
    lesions = [(k, number) for k, scan in enumerate(cohort.scans) for number in np.unique(scan.component)]
    picked = [lesions[at] for at in rng.integers(len(lesions), size=count)]
    flat = [rng.choice(cohort.scans[k].lesion[cohort.scans[k].component == number]) for k, number in picked]
    scan = np.array([k for k, _ in picked])
    return scan, _unraveled(cohort, scan, flat)


def _unraveled(cohort, scan, flat):
    shapes = (cohort.scans[k].volume.shape for k in scan)
    return np.array([np.unravel_index(at, shape) for at, shape in zip(flat, shapes, strict=True)])


def _with_twins(table, cohort, scheme, rng):
    """Every crop around a lesion followed by its twin, moved by the pair's distance in a random direction."""
    asking = table[table.around.isin(["lesion", "voxel"])]
    moved = asking.assign(twin=True)
    for index in np.unique(asking.scan):
        mine = asking.index[asking.scan == index]
        offsets = shell(scheme.pair_distance, cohort.scans[index].spacing_mm)
        moved.loc[mine, ["slice", "row", "column"]] += offsets[rng.integers(len(offsets), size=len(mine))]
    return pd.concat([table, moved]).sort_index(kind="stable").reset_index(drop=True)


def _partners(lattice, twin, scheme):
    """Positions of the healthy voxels that stand where the crop before has a voxel on a lesion's border."""
    border = (lattice.depth & (ERODED_BORDER if scheme.eroded else BORDER)) > 0
    asked = np.zeros_like(border)
    asked[1:] = border[:-1] & twin[1:, None, None]
    return np.flatnonzero(asked & (lattice.kind == HEALTHY))


def _negatives(healthy, wanted, hard, rng, probability):
    """`wanted` healthy voxels: the share `hard` of them by their probability, the others evenly."""
    by_chance = rng.permutation(healthy)[: wanted - int(wanted * hard)]
    if not hard or wanted == len(healthy):
        return by_chance if wanted < len(healthy) else healthy
    left = np.setdiff1d(healthy, by_chance)
    p = probability(left).astype(float) + 1e-3
    return np.concatenate([by_chance, rng.choice(left, min(int(wanted * hard), len(left)), False, p / p.sum())])


def _lattice(cohort, rows, patch, side, step, count):
    line = patch // 2 + step * np.arange(count) - side // 2  # from the crop's middle to the lattice's lines
    turn = np.deg2rad(rows["angle"].to_numpy(float))[:, None, None]
    mirror, zoom = (v.astype(float)[:, None, None] for v in placed(rows))
    down, right = zoom * line[:, None], zoom * mirror * line
    row = rows["row"].to_numpy()[:, None, None] + np.rint(down * np.cos(turn) + right * np.sin(turn))
    column = rows["column"].to_numpy()[:, None, None] + np.rint(right * np.cos(turn) - down * np.sin(turn))
    kind, depth = (np.zeros((len(rows), count, count), np.uint8) for _ in range(2))
    size = np.zeros(kind.shape, np.int64)
    which, slices = rows["scan"].cat.codes.to_numpy(), rows["slice"].to_numpy()
    for at, (index, k) in enumerate(zip(which, slices, strict=True)):
        scan = cohort.scans[index]
        slices_, height, width = scan.volume.shape
        inside = (row[at] >= 0) & (row[at] < height) & (column[at] >= 0) & (column[at] < width) & (0 <= k < slices_)
        flat = ((k * height + row[at]) * width + column[at]).astype(np.int64)
        lesion, place = _found(scan.lesion, flat, inside)
        healthy, _ = _found(scan.healthy, flat, inside)
        kind[at] = np.where(lesion, LESION, np.where(healthy, HEALTHY, NOTHING))
        depth[at][lesion] = scan.depth[place[lesion]]
        size[at][lesion] = np.bincount(scan.component)[scan.component[place[lesion]]]
    return Lattice(kind, depth, size)


def _found(ascending, values, inside):
    """Which values stand in an ascending array, and where."""
    if not len(ascending):
        return np.zeros(values.shape, bool), np.zeros(values.shape, int)
    place = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return inside & (ascending[place] == values), place
