"""Detectors on the same scans by the same rule: what each finds, what it would find by chance, how long it takes.

    python -m kit related MANIFEST --network D WEIGHTS --unet RUN --scans 12

Whatever is inside, a detector is a callable from an image and its mask to a map, and goes through `kit.metrics.score`.
What was mapped and counted before is read back, so that a stopped comparison goes on where it was.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
from scipy.ndimage import find_objects

from kit.experiments.runs import detector_facts, own_maps, scan_facts
from kit.metrics import PredictionError, chance_recall, find_predictions, froc, froc_average, intervals, score
from kit.scans import load_map, load_row, replacing, search_region, to_own_grid, write_table

TABLES = ("sweeps", "froc", "rates", "lesions", "seconds")
CHANCE_DRAWS = 2  # how often a scan's lesions are moved
RATES = (1, 2, 4, 8, 16)  # false positives a scan at which recalls are given
LESIONS = ["scan_id", "patient_id", "component", "diameter_mm", "threshold", "found"]
SWEEP = ["method", "scan_id", "patient_id", "threshold", "tp", "fn", "fp", "slices", "placed", "hits"]


def compare_methods(detectors, table, folder, *, search="brain", draws=CHANCE_DRAWS, progress=True, **options):
    """Score several detectors on the same scans.

    Parameters
    ----------
    detectors : mapping of str to callable
        Name to a detector: from (image, mask, **options), at 1 mm, to a probability map.
    table : pandas.DataFrame
        Labelled rows of a manifest.
    folder : path
        Keeps what `kit.metrics.score` writes, in one subfolder a detector, and which detector and scan it is of.
    search : {"head", "brain"}
        Where all of them look.
    draws : int
        See `kit.metrics.chance_recall`.
    progress : bool
    options
        Go to every detector: device, dtype.

    Returns
    -------
    dict of str to pandas.DataFrame
        sweeps: a row for each method, scan and threshold: tp, fn, fp, slices; placed and hits, lesions moved to random
        places and those of them that the map finds there. froc: `kit.metrics.froc` of each method with its interval by
        patients, without rows in which nothing new is found. rates: its recall at 1, 2, 4, 8 and 16 false positives a
        scan, see `kit.metrics.froc_average`. lesions: whether each is found at some thresholds. seconds: of the
        processor, a row for each method and scan.

    Raises
    ------
    kit.experiments.RunError
        Before any work, if the folder has a scan's map by a detector of that name with other weights or numbers (see
        `kit.experiments.runs.detector_facts`), of another scan of that name, or with other options.
    """
    parts, regions = {name: [] for name in TABLES}, {}

    def region(scan, row):
        if row["scan_id"] not in regions:
            regions[row["scan_id"]] = search_region(scan, row, search=search)
        return regions[row["scan_id"]]

    made = {"search": search} | {name: value for name, value in options.items() if name != "device"}
    for row in table.to_dict("records"):
        of_scan = scan_facts(row)
        for name, detector in detectors.items():
            own_maps(Path(folder) / name / row["scan_id"], {**_origin(detector, row), **of_scan, **made})
    for name, detector in detectors.items():
        place = Path(folder) / name
        rows = [_scored(detector, row, place, region, draws, progress, options) for row in table.to_dict("records")]
        sweeps, points, fates, seconds = (pd.concat(some, ignore_index=True) for some in zip(*rows, strict=True))
        at_rates = froc_average(points, RATES).drop("average").rename_axis("fp_per_scan").reset_index()
        for file, part in zip(
            TABLES, (sweeps[SWEEP[1:]], _curve(points), at_rates, fates[LESIONS], seconds), strict=True
        ):
            parts[file].append(part.assign(method=name)[["method", *part]])
    return {name: pd.concat(some, ignore_index=True) for name, some in parts.items()}


def method_rows(sweeps, seconds, threshold=0.5):
    """The rows of Table 2.1: each method at one threshold, with intervals by patients, chance and time.

    Returns
    -------
    pandas.DataFrame
        Indexed by method: the columns of `kit.metrics.intervals`, slices, chance (the share of moved lesions that are
        found) and seconds, the median over scans.

    Examples
    --------
    >>> sweeps = pd.DataFrame({"method": "m", "scan_id": ["s", "t"], "patient_id": ["p", "q"], "threshold": 0.5,
    ...                        "tp": [2, 1], "fn": [0, 1], "fp": [3, 5], "slices": 10, "placed": 4, "hits": [1, 0]})
    >>> seconds = pd.DataFrame({"method": "m", "scan_id": ["s", "t"], "seconds": [2.0, 4.0]})
    >>> method_rows(sweeps, seconds)[["recall", "fp_per_slice", "chance", "seconds"]].values.tolist()
    [[0.75, 0.4, 0.125, 3.0]]
    """
    at = sweeps[sweeps.threshold == threshold]
    order = list(dict.fromkeys(sweeps.method))
    rows = intervals(at, by="method").set_index("method").loc[order]
    sums = at.groupby("method")[["slices", "placed", "hits"]].sum().loc[order]
    time = seconds.groupby("method").seconds.median().reindex(order)
    return rows.assign(slices=sums.slices, chance=sums.hits / sums.placed, seconds=time)


def published_related():
    """The thesis' Table 2.1, as printed: what the related methods reach, each on its own data.

    Figures that the thesis inferred itself are `inferred`. TP of template matching is the number of lesions: 174 of 186
    are 93.5 %. 68 of 85 lesions would be 80 %, not the 87.8 % printed for blob detection.

    >>> published_related().recall.tolist()
    [0.92, 0.935, 0.878]
    """
    rows = {
        "change (Chitphakdithai)": (np.nan, 323, 29, np.nan, 0.920, "TP, FN"),
        "template (Farjam)": (2753, 186, 12, 0.024, 0.935, ""),
        "blobs (Yu)": (21760, 68, 17, 0.003, 0.878, "slices, FP a slice"),
    }
    columns = ["slices", "tp", "fn", "fp_per_slice", "recall", "inferred"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("method")


def chance_curve(sweeps):
    """Recall, chance recall and false positives a scan of each method at each threshold, over all scans.

    >>> sweeps = pd.DataFrame({"method": "m", "scan_id": ["s", "t"], "threshold": 0.5, "tp": [2, 1], "fn": [0, 1],
    ...                        "fp": [3, 5], "placed": 4, "hits": [1, 0]})
    >>> chance_curve(sweeps)[["fp_per_scan", "recall", "chance"]].values.tolist()
    [[4.0, 0.75, 0.125]]
    """
    groups = sweeps.groupby(["method", "threshold"], sort=False)
    sums = groups[["tp", "fn", "fp", "placed", "hits"]].sum()
    found = pd.DataFrame({"fp_per_scan": sums.fp / groups.scan_id.nunique(), "recall": sums.tp / (sums.tp + sums.fn)})
    return found.assign(chance=sums.hits / sums.placed).reset_index()


@dataclass(frozen=True)
class GivenMaps:
    """A folder of maps as a detector, cut to the region that is searched: see `kit.metrics.find_predictions`."""

    folder: Path

    def for_scan(self, scan, row):
        """From (image, mask) to the scan's map within the mask; PredictionError where the folder has none."""
        probability = load_map(self.path(row), scan)
        return lambda image, mask, **options: np.where(mask, probability, 0).astype(np.float32)

    def path(self, row):
        """The file of a scan's map."""
        paths, problems = find_predictions(self.folder, pd.DataFrame([row]))
        if problems:
            raise PredictionError(self.folder, problems)
        return paths[row["scan_id"]]

    def seconds(self, row):
        """How long mapping took, where `kit.metrics.score` made the folder; otherwise NaN."""
        path = Path(self.folder) / row["scan_id"] / "scans.csv"
        return float(pd.read_csv(path).seconds.iloc[0]) if path.is_file() else float("nan")


class _Clocked:
    """A detector, and the seconds of the processor that it took."""

    def __init__(self, detector):
        self.detector, self.took = detector, None

    def for_scan(self, scan, row):
        mine = self.detector.for_scan(scan, row) if hasattr(self.detector, "for_scan") else self.detector

        def clocked(image, mask, **options):
            began = process_time()
            found = mine(image, mask, **options)
            own = getattr(self.detector, "seconds", None)
            self.took = own(row) if own else round(process_time() - began, 1)
            return found

        return clocked


def _origin(detector, row):
    """Where a scan's map comes from: a detector, or a file."""
    if isinstance(detector, GivenMaps):
        return {"map": detector.path(row).resolve()}
    return {"detector": detector_facts(detector)}


def _scored(detector, row, place, region, draws, progress, options):
    """One scan: its sweep with chance, its operating points, the fates of its lesions, its seconds."""
    clock = _Clocked(detector)
    found = score(clock, pd.DataFrame([row]), place, where=region, progress=progress, **options)
    extra = place / row["scan_id"] / "chance.json"
    if clock.took is not None or not extra.is_file():
        facts = {"seconds": clock.took, "chance": _chance(place, row, region, draws).to_dict("list")}
        with replacing(extra) as part:
            part.write_text(json.dumps(facts))
    facts = json.loads(extra.read_text())
    sweep = found.sweep[found.sweep.min_volume_mm3 == 0]
    seconds = pd.DataFrame([{"scan_id": row["scan_id"], "seconds": facts["seconds"]}])
    fates = found.lesion_sweep[found.lesion_sweep.min_volume_mm3 == 0]
    return sweep.merge(pd.DataFrame(facts["chance"]), on="threshold"), found.points, fates, seconds


def _chance(place, row, region, draws):
    """`kit.metrics.chance_recall` of a map that was written, in the box around the search region."""
    scan, own = load_row(row), load_row(row, spacing_mm=None)
    searched = to_own_grid(region(scan, row), scan)
    probability = load_map(place / row["scan_id"] / "map.nii.gz", own)
    box = find_objects(searched.astype(np.uint8))[0]
    return chance_recall(probability[box], own.label[box], searched[box], spacing_mm=own.spacing_mm, draws=draws)


def _curve(points):
    curve = froc(points, draws=1000)
    kept = (curve.tp.diff().fillna(1) != 0) | (curve.tp.shift(-1) != curve.tp)  # both ends of each step
    return curve[kept][["threshold", "tp", "fn", "fp", "recall", "fp_per_scan", "recall_low", "recall_high"]]


def write_comparison(tables, out):
    """Write the tables of `compare_methods` as CSV files, rounded."""
    Path(out).mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        write_table(tables[name].round(5), Path(out) / f"{name}.csv")
