"""Fitting the methods of two stages: criteria and probabilities, from training and validation scans only."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize
from scipy.special import expit
from tqdm.auto import tqdm

from kit.experiments.runs import RunError, digest, scan_facts
from kit.models import CandidateDetector, propose
from kit.scans import brain_mask, components, load_row, write_table

FITTED_ON = ("train", "validation")
CRITERIA = {  # what a second stage looks at: column and side
    "template": (("anisotropy", "most"), ("contrast", "least"), ("volume_mm3", "least"), ("contrast", "most")),
    "blobs": (("compactness", "least"), ("asymmetry", "least"), ("roundness", "least"), ("volume_mm3", "least")),
}
RANKED_BY = {"template": ("score",), "blobs": ("score", "roundness", "compactness", "asymmetry")}
RATES = (1, 2, 4, 8, 16)  # false candidates a scan at which recall is averaged
QUANTILES = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1)  # of the lesions' candidates: limits that are tried
ROUNDS = 2
HOLD = 1e-3  # ridge on standardised weights: few lesions must not make them infinite


def fit_method(method, table, *, scans=None, cache_dir=None, progress=True):
    """Fit a method's second stage on the training and validation scans of a manifest.

    Parameters
    ----------
    method : str
        A key of `kit.models.METHODS`.
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`; rows of other splits are not opened.
    scans : int, optional
        The most scans of each split, the first ones.
    cache_dir : path, optional
        Keeps the candidates of each scan.
    progress : bool

    Returns
    -------
    CandidateDetector, pandas.DataFrame
        And the candidates that it was fitted on, see `candidates_of`.

    Raises
    ------
    kit.experiments.RunError
        Where there is no labelled training or validation scan, or no candidate on a lesion.
    """
    rows = table[table.split.isin(FITTED_ON) & (table.label != "")]
    if scans is not None:
        rows = rows.groupby("split", sort=False).head(scans)
    if not len(rows):
        raise RunError("there is no labelled training or validation scan to fit on; look at the manifest's split")
    found = candidates(method, rows, cache_dir, progress=progress)
    return fit_candidates(method, found, scans=len(rows)), found


def candidates(method, table, cache_dir=None, *, progress=True):
    """`candidates_of` every row of a table, one below the other; read from the cache where it has those of the scan."""
    parts = []
    for row in tqdm(table.to_dict("records"), desc=method, disable=not progress):
        about = scan_facts(row) | {name: row[name] for name in ("patient_id", "split")}
        path = cache_dir and Path(cache_dir) / method / f"{row['scan_id']}-{digest(about)}.csv"
        if path and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_table(candidates_of(method, row), path)
        parts.append(pd.read_csv(path) if path else candidates_of(method, row))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def candidates_of(method, row):
    """The candidates of one scan inside its brain mask, and the lesion that each touches (0: none).

    Returns
    -------
    pandas.DataFrame
        scan_id, patient_id, split, lesion, and the columns of `kit.models.propose`.
    """
    scan = load_row(row)
    found, regions = propose(method, scan.image, brain_mask(scan.image, scan.spacing_mm), spacing_mm=scan.spacing_mm)
    names = components(scan.label)
    found.insert(0, "lesion", [int(names[tuple(region.T)].max()) for region in regions])
    for place, name in enumerate(("scan_id", "patient_id", "split")):
        found.insert(place, name, row[name])
    return found


def fit_candidates(method, found, *, scans):
    """Choose criteria and weights that find most lesions with few false candidates.

    Weights first (logistic, all lesions' candidates together as heavy as all others). Then each criterion in turn takes
    the limit, among quantiles of the lesions' candidates or none, with the highest recall of those candidates' lesions
    averaged over 1, 2, 4, 8 and 16 false candidates a scan; twice. Then weights again, of what is left.

    Parameters
    ----------
    method : str
    found : pandas.DataFrame
        Rows of `candidates_of`.
    scans : int
        How many they come from, those without candidates among them.

    Returns
    -------
    CandidateDetector
    """
    if not (len(found) and found.lesion.any()):
        raise RunError(f"{method}: no candidate lies on a lesion, so that nothing can be fitted; give more scans")
    weights, offset = _weights(found, RANKED_BY[method])
    limits = dict.fromkeys(CRITERIA[method])
    for _, key in product(range(ROUNDS), CRITERIA[method]):
        values = [None, *np.quantile(found[key[0]][found.lesion > 0], QUANTILES)]
        detectors = [CandidateDetector(method, _criteria(limits | {key: value}), weights, offset) for value in values]
        limits[key] = values[
            int(np.argmax([recall_at(one.probability(found), found, scans).mean() for one in detectors]))
        ]
    kept = found[CandidateDetector(method, _criteria(limits)).probability(found) > 0]
    return CandidateDetector(method, _criteria(limits), *_weights(kept, RANKED_BY[method]))


def recall_at(probability, found, scans, rates=RATES, lesions=None):
    """Recall of lesions at some numbers of false candidates a scan: (rate,) array.

    Parameters
    ----------
    probability : (candidate,) array
        0 for those that were rejected.
    found : pandas.DataFrame
        Rows of `candidates_of`.
    scans : int
    rates : sequence of float
    lesions : int, optional
        How many there are; by default those that have a candidate.

    Examples
    --------
    >>> found = pd.DataFrame({"scan_id": ["a", "a", "a"], "lesion": [1, 0, 2]})
    >>> recall_at(np.array([0.9, 0.8, 0.7]), found, 1, (0, 1)).tolist()
    [0.5, 1.0]
    """
    order = np.argsort(-probability, kind="stable")
    ranked = found.iloc[order[probability[order] > 0]]
    lesions = lesions or found[found.lesion > 0].groupby(["scan_id", "lesion"]).ngroups
    first = (ranked.lesion > 0) & ~ranked.duplicated(["scan_id", "lesion"])
    hits, false = np.cumsum(first.to_numpy()), np.cumsum((ranked.lesion == 0).to_numpy())
    return np.array([hits[false <= rate * scans].max(initial=0) for rate in rates]) / max(lesions, 1)


def threshold_for(probability, found, scans, rate):
    """The lowest threshold with at most `rate` false candidates a scan.

    >>> threshold_for(np.array([0.9, 0.5, 0.4]), pd.DataFrame({"lesion": [0, 3, 0]}), 1, 1)
    0.5
    """
    false = np.sort(probability[(found.lesion == 0).to_numpy()])[::-1]
    most = int(rate * scans)
    above = false[most] if len(false) > most else 0
    return float(probability[probability > above].min(initial=1))


def claims(method, fitting, test, lesions, rates=(1, 4, 16)):
    """What a method reaches on test scans, fitted elsewhere, and what it would claim if it were fitted on them.

    Either way criteria, weights and the threshold for a wanted number of false candidates are fitted together, on one
    set of scans; what they give is counted on the test scans. Limits are chosen one after the other, so that a fit on
    the test scans need not be the best one there.

    Parameters
    ----------
    method : str
    fitting, test : (pandas.DataFrame, int)
        Rows of `candidates_of`, and the number of scans.
    lesions : int
        In the test scans.
    rates : sequence of float
        Wanted false candidates a scan.

    Returns
    -------
    pandas.DataFrame
        method, fitted_on, wanted_fp, threshold, recall, fp_per_scan.
    """
    rows, (tested, scans) = [], test
    for name, (found, count) in {"training and validation": fitting, "test": test}.items():
        detector = fit_candidates(method, found, scans=count)
        for rate in rates:
            threshold = threshold_for(detector.probability(found), found, count, rate)
            kept = tested[detector.probability(tested) >= threshold]
            hits, false = kept[kept.lesion > 0].groupby(["scan_id", "lesion"]).ngroups, (kept.lesion == 0).sum()
            row = {"method": method, "fitted_on": name, "wanted_fp": rate, "threshold": threshold}
            rows.append({**row, "recall": hits / lesions, "fp_per_scan": false / scans})
    return pd.DataFrame(rows)


def _criteria(limits):
    return tuple((*key, float(value)) for key, value in limits.items() if value is not None)


def _weights(found, columns):
    """(column, weight) pairs and an offset: logistic regression on standardised columns, classes of equal weight."""
    x, lesion = found[list(columns)].to_numpy(float), found.lesion.to_numpy() > 0
    middle, spread = x.mean(0), np.maximum(x.std(0), 1e-9)
    z = np.column_stack([(x - middle) / spread, np.ones(len(x))])
    worth = np.where(lesion, 0.5 / max(lesion.sum(), 1), 0.5 / max((~lesion).sum(), 1))

    def loss(values):
        logit = z @ values
        wrong = worth * (expit(logit) - lesion)
        held = HOLD * np.append(values[:-1], 0)
        return worth @ (np.logaddexp(0, logit) - lesion * logit) + held @ values / 2, z.T @ wrong + held

    values = optimize.minimize(loss, np.zeros(z.shape[1]), jac=True, method="BFGS").x
    slopes = np.maximum(values[:-1], 0) / spread  # a score that speaks against lesions here is chance
    return tuple(zip(columns, slopes.tolist(), strict=True)), float(values[-1] - slopes @ middle)
