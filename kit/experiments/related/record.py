"""Makes the tables of results/related: methods fitted, detectors compared, change measured, from one command.

    python -m kit related MANIFEST --network D WEIGHTS --unet RUN --follow-ups data_manifest.csv

What was computed lies in the working folder and is read when the same command is given again.
"""

import subprocess
from datetime import date
from pathlib import Path

import pandas as pd

from kit.experiments.record import ROOT
from kit.experiments.related.comparison import GivenMaps, compare_methods, write_comparison
from kit.experiments.related.fitting import FITTED_ON, candidates, claims, fit_candidates
from kit.experiments.related.follow_ups import measure_change
from kit.experiments.runs import RunError, environment
from kit.models import METHODS, Detector, UNetDetector, weights_metadata
from kit.scans import Registration, components, load_truth, select, write_table


def record_related(
    table, work, out, *, networks=None, maps=None, unet=None, follow_ups=None, scans=12, fit_scans=16, **options
):
    """Fit, compare and measure; write the tables.

    Parameters
    ----------
    table : pandas.DataFrame
        A cohort with training, validation and test scans.
    work, out : path
        Working folder, and the folder of the tables.
    networks : mapping of str to path, optional
        Names of `kit.models.NETWORKS` to weights.
    maps : mapping of str to path, optional
        Of those names, folders with their maps of the whole heads, which are read in place of making them.
    unet : path, optional
        The folder of a run of `kit.experiments.train_unet`: its network at each part of its time that has weights.
    follow_ups : pandas.DataFrame, optional
        Rows of a manifest with second sessions.
    scans, fit_scans : int
        The first test scans, and the first of each split to fit on.
    options
        device, progress: see `kit.experiments.compare_methods`.
    """
    work, out, test = Path(work), Path(out), select(table, "test").head(scans)
    out.mkdir(parents=True, exist_ok=True)
    detectors, claimed, progress = {}, [], options.get("progress", True)
    rows = table[table.split.isin(FITTED_ON) & (table.label != "")].groupby("split", sort=False).head(fit_scans)
    lesions = sum(int(components(load_truth(row).label).max()) for row in test.to_dict("records"))
    for method in sorted(METHODS, reverse=True):
        found, tested = (candidates(method, some, work / "candidates", progress=progress) for some in (rows, test))
        detectors[method] = fit_candidates(method, found, scans=len(rows))
        detectors[method].save(out / f"{method}.json")
        claimed.append(claims(method, (found, len(rows)), (tested, len(test)), lesions))
    trained = {name: Detector.load(name, path) for name, path in (networks or {}).items()}
    trained |= {name: GivenMaps(Path(path)) for name, path in (maps or {}).items()}
    detectors |= unet_detectors(unet) if unet else {}
    tables = compare_methods(detectors | trained, test, work / "maps", **options)
    write_table(pd.concat(claimed).round(5), out / "claims.csv")
    write_comparison(tables, out)
    write_table(_about(detectors | trained, networks or {}, unet), out / "methods.csv")
    if follow_ups is not None:
        _write_change(measure_change(follow_ups, work / "change", progress=progress), work / "change", out)


def _write_change(measured, kept, out):
    """Lesions and scans of `measure_change`, and each registration, which notebook 12 reads."""
    for name, part in zip(("change_lesions", "change_scans"), measured, strict=True):
        write_table(part.round(4), out / f"{name}.csv")
    for scan_id in measured[1].scan_id:
        Registration.load(kept / scan_id / "registration.json").save(out / f"{scan_id}.json")


def unet_detectors(folder):
    """The networks that a run of `kit.experiments.train_unet` left on its way, by name: the last one is U-Net.

    Raises
    ------
    kit.experiments.RunError
        Where the folder has none.
    """
    paths = sorted(Path(folder).glob("weights_*.safetensors"), key=_minutes)
    if not paths:
        raise RunError(f"{folder}: no weights of a U-Net; train it by kit.experiments.train_unet")
    names = [*(f"U-Net, {_minutes(path):.2g} min" for path in paths[:-1]), "U-Net"]
    return {name: UNetDetector.load(path) for name, path in zip(names, paths, strict=True)}


def _minutes(path):
    return float(weights_metadata(path)["minutes"])


def _about(detectors, networks, unet):
    """A row a method: how many minutes it was trained, and by which version on what hardware it was measured."""
    minutes = {
        name: pd.read_csv(Path(path).parent / "history.csv").seconds.sum() / 60 for name, path in networks.items()
    }
    if unet:
        paths = sorted(Path(unet).glob("weights_*.safetensors"), key=_minutes)
        minutes |= dict(zip(unet_detectors(unet), map(_minutes, paths), strict=True))
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    hardware = environment()["hardware"]
    about = {"commit": commit, "date": date.today().isoformat(), "hardware": f"CPU, {hardware['cpu_capability']}"}
    return pd.DataFrame([{"method": name, "minutes": round(minutes.get(name, 0), 1), **about} for name in detectors])
