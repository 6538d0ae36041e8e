"""Slices of test scans with the map of every recorded network, to be looked at without the maps (Fig. A.1-A.3, 7.2)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.experiments.recipes import place_of
from kit.experiments.runs import RunError
from kit.scans import components, load_map, load_row, replacing, search_region, to_own_grid, write_table

FOUND_AT = 8  # false positives a scan of each network
LIT = 0.5  # probability of what counts as a false positive
CLEAR_MM = 5  # from any lesion
MISSES, PLACES = 5, 3  # at most so many lesions that none finds are shown, and places off lesions
WINDOW = (1, 99.7)  # percentiles of the head that are black and white
STEPS = 255  # of the numbers that images and probabilities are kept as


@dataclass(frozen=True, eq=False)
class Slices:
    """What `read_slices` returns.

    `table` has a row a slice: scan_id, slice, row and column (of the lesion's centre, or of the place), what (why it is
    shown), spacing_row_mm, spacing_column_mm. `images` (0 to 1) and `labels` are (n, row, column), `maps` has such an
    array of probabilities for each experiment.
    """

    table: pd.DataFrame
    images: np.ndarray
    labels: np.ndarray
    maps: dict


def cut_slices(runs, table, out, *, labels="clean", seed=2015, scans=None, names=None):
    """Choose slices by what the recorded networks found, and write them with all maps: slices.csv and slices.npz.

    Shown are, each from another patient where there are enough: the largest lesion that all networks find, the smallest
    such lesion, the one of these whose outlines differ most, the lesion on which networks disagree most, the largest
    lesions that none finds, and the places in the brain, off lesions, that most networks light. Where `out` has slices
    with networks that `runs` lacks, those slices and their maps are kept, and the maps of `runs` are added or put in
    their place.

    Parameters
    ----------
    runs : path
        The working folder of `record_experiment`.
    table : pandas.DataFrame
        The record's cohort.
    out : path
    labels, seed
        Of the trainings that are shown.
    scans : int, optional
        As given to `record_experiment`.
    names : sequence of str, optional
        Experiments that choose the slices and whose maps are written; by default all but variants (names with a plus).
    """
    done = _finished(runs, labels, seed, names)
    test = table[table.split == "test"].head(scans or len(table)).set_index("scan_id", drop=False)
    if (Path(out) / "slices.npz").is_file() and read_slices(out).maps.keys() - done.keys():
        _add(read_slices(out), test, done, Path(out))
        return
    fates = pd.concat([pd.read_csv(folder / "lesions.csv").assign(experiment=name) for name, folder in done.items()])
    fates = fates[(fates.fp_per_scan == FOUND_AT) & fates.scan_id.isin(test.scan_id)]
    chosen = _lesions_to_show(fates, len(done))
    chosen += _lit_places(done, test, {scan for scan, *_ in chosen})
    parts = [_cut(test.loc[scan].to_dict(), at, done) for scan, at, _ in chosen]
    rows = [{"scan_id": scan, "slice": place[0], "row": place[1], "column": place[2], "what": what,
             "spacing_row_mm": step[0], "spacing_column_mm": step[1]}
            for (scan, _, what), (place, step, *_) in zip(chosen, parts, strict=True)]  # fmt: skip
    images, marks, maps = (_stack([part[k] for part in parts]) for k in (2, 3, 4))
    Path(out).mkdir(parents=True, exist_ok=True)
    _write(Path(out), list(done), images, marks, maps)
    write_table(pd.DataFrame(rows), Path(out) / "slices.csv")


def read_slices(folder):
    """Read what `cut_slices` wrote: `Slices`; RunError where it is missing."""
    folder = Path(folder)
    if not (folder / "slices.npz").is_file():
        raise RunError(f"{folder}: slices.npz is missing; `python -m kit record` writes it")
    with np.load(folder / "slices.npz") as file:
        maps = {str(name): file["maps"][:, at] / np.float32(STEPS) for at, name in enumerate(file["experiments"])}
        return Slices(pd.read_csv(folder / "slices.csv"), file["images"] / np.float32(STEPS), file["labels"] > 0, maps)


def _write(out, names, images, marks, maps):
    with replacing(out / "slices.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, experiments=np.array(names), images=images, labels=marks, maps=maps)


def _add(old, test, done, out):
    """Write slices that were chosen before with the maps of further networks."""
    rows = old.table.to_dict("records")
    parts = [_cut(test.loc[row["scan_id"]].to_dict(), (int(row["slice"]),), done) for row in rows]
    images, marks, maps = (_stack([part[k] for part in parts]) for k in (2, 3, 4))
    every = {name: np.round(STEPS * old.maps[name]).astype(np.uint8) for name in old.maps}
    every |= {name: maps[:, at] for at, name in enumerate(done)}
    _write(out, list(every), images, marks, np.stack(list(every.values()), axis=1))


def _finished(runs, labels, seed, names):
    """Experiment to folder of the finished trainings of a seed, in the experiments' order."""
    folders = {path.parent.name: path.parent for path in sorted(Path(runs).glob("*/borders.csv"))}
    end = f"-{labels}-{seed}"
    done = {name.removesuffix(end): folder for name, folder in folders.items() if name.endswith(end)}
    wanted = [name for name in done if "+" not in name] if names is None else names
    if not wanted or set(wanted) - set(done):
        which = ", ".join(sorted(set(wanted) - set(done))) or "any experiment"
        raise RunError(f"{runs}: no finished training of {which} with {labels} labels and seed {seed}")
    return {name: done[name] for name in sorted(wanted, key=place_of)}


def _lesions_to_show(fates, networks):
    """(scan, component, words) of lesions, each of another scan where that is possible."""
    lesions = fates.groupby(["scan_id", "component"]).agg(
        mm=("diameter_mm", "first"), found=("found", "sum"), worst=("dice", "min"), best=("dice", "max")
    )
    lesions = lesions.assign(off=(lesions.found - networks / 2).abs(), apart=lesions.best - lesions.worst)
    by_all = lesions[lesions.found == networks].sort_values("mm", ascending=False)
    kinds = (
        (by_all, 1),
        (by_all[::-1], 1),
        (by_all.sort_values("apart", ascending=False), 1),
        (lesions[lesions.off < networks / 2].sort_values(["off", "mm"], ascending=[True, False]), 1),
        (lesions[lesions.found == 0].sort_values("mm", ascending=False), MISSES),
    )
    chosen = []
    for kind, count in kinds:
        seen = {scan for scan, *_ in chosen}
        others = [at for at in kind.index if at not in {(scan, lesion) for scan, lesion, _ in chosen}]
        fresh = [at for at in others if at[0] not in seen]
        for at in (fresh if count == 1 and fresh else others)[:count]:
            one = kind.loc[at]
            words = f"{one.mm:.1f} mm, found by {int(one.found)} of {networks}"
            chosen.append((*at, words + (f", Dice {one.worst:.2f} to {one.best:.2f}" if one.found == networks else "")))
    return chosen


def _lit_places(done, test, seen):
    """(scan, (slice, row, column), words) of places in the brain that most networks light, each of another scan."""
    places = []
    for row in test.to_dict("records"):
        scan = load_row(row, spacing_mm=None)
        away = ndimage.distance_transform_edt(~scan.label, scan.spacing_mm) > CLEAR_MM
        away &= to_own_grid(search_region(load_row(row), row, "brain"), scan)
        lit = sum((_map(folder, row, scan) > LIT).astype(np.uint8) for folder in done.values()) * away
        at = np.unravel_index(ndimage.uniform_filter(lit.astype(np.float32), 3).argmax(), lit.shape)
        places.append((int(lit[at]), row["scan_id"] not in seen, row["scan_id"], tuple(map(int, at))))
    best = sorted(places, reverse=True)[:PLACES]
    return [(scan, at, f"no lesion, lit by {number} of {len(done)}") for number, _, scan, at in best if number]


def _cut(row, at, done):
    """Place, spacing in the slice, image, label, and maps (experiment, row, column), the last three as uint8."""
    scan = load_row(row, spacing_mm=None)
    at = at if isinstance(at, tuple) else _middle(components(scan.label) == at)
    place = at[0]
    low, high = np.percentile(scan.image[scan.image > scan.image.min()], WINDOW)
    image = np.clip((scan.image[place] - low) / (high - low), 0, 1)
    maps = np.stack([_map(folder, row, scan)[place] for folder in done.values()])
    whole = [np.round(STEPS * part).astype(np.uint8) for part in (image, maps)]
    return at, tuple(map(float, scan.spacing_mm[1:])), whole[0], scan.label[place].astype(np.uint8), whole[1]


def _middle(lesion):
    """The slice that shows most of a lesion, and its centre there."""
    at = int(lesion.sum(axis=(1, 2)).argmax())
    return at, *(round(one) for one in ndimage.center_of_mass(lesion[at]))


def _map(folder, row, scan):
    visited = int(pd.read_csv(folder / "runs.csv").patches_worth.iloc[0])
    return load_map(folder / f"whole_{visited}" / row["scan_id"] / "map.nii.gz", scan)


def _stack(parts):
    """Arrays of one kind, padded to the largest."""
    shape = np.max([part.shape for part in parts], axis=0)
    widths = [[(0, int(wide - own)) for wide, own in zip(shape, part.shape, strict=True)] for part in parts]
    return np.stack([np.pad(part, width) for part, width in zip(parts, widths, strict=True)])
