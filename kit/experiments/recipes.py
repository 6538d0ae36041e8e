"""The thesis' experiments as data: which network, which samples, how long."""

from dataclasses import dataclass
from pathlib import Path

from kit.experiments.runs import open_run
from kit.experiments.training import train
from kit.models import build
from kit.samplers import describe, draw, prepare
from kit.scans import select

# One recipe in two sizes. `quick` runs in minutes on a CPU; `full` visits, for an experiment's own number of epochs,
# every lesion voxel and the healthy ones that its scheme adds. `patches` is the size of a run in one number.
PROFILES = {
    "quick": {"patches": 6000, "epochs": 3, "validation_patches": 1000},
    "full": {"patches": None, "epochs": None, "validation_patches": None},
}


@dataclass(frozen=True)
class Experiment:
    """A row of the thesis' tables 5.1 to 5.6.

    `scheme` is how its samples are drawn and what the classes weigh (`kit.samplers.SCHEMES`), `epochs` how often the
    thesis visited them, `against` the experiment that it changes and `changes` how; `before` is the thesis' finding.
    """

    network: str
    scheme: str
    against: str
    changes: str
    epochs: int = 20
    schedule: tuple = (("learning_rate", 0.01), ("patience", 2), ("drops", 3))


EXPERIMENTS = {
    "A": Experiment("A", "balanced", "", "one slice, five convolutions"),
    "B": Experiment("B", "balanced", "A", "two convolutions more"),
    "C": Experiment("C", "balanced", "B", "five slices instead of one"),
    "D": Experiment("D", "balanced", "C", "one convolution more, twice as wide fully connected layers"),
    "E": Experiment("E", "balanced", "D", "a second path over the 5x5x5 voxels in the middle"),
    "F": Experiment("F", "balanced", "D", "a second path with a sparse kernel over 91x91 voxels"),
    "G": Experiment("G", "ratio", "D", "wider convolutions; ten negatives a positive, weighted by a tenth"),
    "G-Pairs": Experiment("G", "border-pairs", "G", "each border voxel with a healthy neighbour in its batch"),
    "G-Eroded-Pairs": Experiment("G", "eroded-border-pairs", "G-Pairs", "lesions eroded, pairs three voxels apart"),
    "H-Eroded-Pairs": Experiment("H", "eroded-border-pairs", "G-Eroded-Pairs", "one convolution more"),
    "FCN": Experiment("FCN", "balanced", "D", "no pooling, 17 voxels of field, a map of outputs a patch", epochs=250),
}


def run_experiment(name, table, folder, *, profile="quick", intensities="scan", seed=0, cache_dir=None, **options):
    """Train one experiment on a manifest's training scans, or go on with a run that was stopped.

    Parameters
    ----------
    name : str
        A key of `EXPERIMENTS`.
    table : pandas.DataFrame
        The training and validation scans of `kit.scans.read_manifest`, follow-ups left out by `select`.
    folder : path
        The run's folder, see `kit.experiments.open_run`.
    profile : str
        A key of `PROFILES`.
    intensities : {"scan", "cohort"}
        Normalisation, see `kit.samplers.prepare`. The thesis has "cohort"; the default here is "scan", because MR
        intensities have no unit and a network trained on one scanner's numbers is lost on another's.
    options
        Override the profile (patches: to visit in all epochs together; epochs; validation_patches) or go to
        `kit.experiments.train`: patches_per_epoch, device, dtype, progress.

    Returns
    -------
    network, statistics, history
        `statistics` as in `kit.experiments.Detector`.
    """
    experiment = EXPERIMENTS[name]
    size = dict(experiment.schedule) | run_size(experiment, profile, options)
    run = open_run(folder, {"experiment": name, "intensities": intensities, "seed": seed, **_decisive(size)})
    cache = cache_dir or run.folder.parent / "cache"
    cohort = prepare(select(table, "train"), cache, intensities=intensities)
    validation = prepare(select(table, "validation"), cache, intensities=intensities, statistics=cohort.statistics)
    network = build(experiment.network, seed=seed)
    told = {"experiment": name, **_as_metadata(cohort.statistics)}
    history = train(network, cohort, validation, scheme=experiment.scheme, seed=seed, run=run, metadata=told, **size)
    return network, cohort.statistics, history


def run_size(experiment, profile, options=()):
    """What `kit.experiments.train` is told of a run's size: epochs, patches_per_epoch and validation_patches.

    >>> run_size(EXPERIMENTS["A"], "quick")
    {'patches_per_epoch': 2000, 'epochs': 3, 'validation_patches': 1000}
    >>> run_size(EXPERIMENTS["FCN"], "full")
    {'patches_per_epoch': None, 'epochs': 250, 'validation_patches': None}
    """
    size = PROFILES[profile] | dict(options)
    patches = size.pop("patches")
    size["epochs"] = size["epochs"] or experiment.epochs
    return {"patches_per_epoch": patches and max(1, patches // size["epochs"])} | size


def _as_metadata(statistics):
    return {} if statistics is None else {"mean": repr(statistics[0]), "sd": repr(statistics[1])}


def _decisive(size):
    return {name: value for name, value in size.items() if name not in ("device", "progress", "epochs", "resident")}


def first_epoch(name, table, folder, *, intensities="scan", seed=0, limit=2000):
    """Draw what an experiment is shown first, described: as `run_experiment` would with the same arguments.

    Parameters
    ----------
    name, table, folder, intensities, seed
        See `run_experiment`, with which the prepared scans are shared.
    limit : int
        The most samples.

    Returns
    -------
    cohort : kit.samplers.Cohort
        The training scans.
    rows : pandas.DataFrame
        From `kit.samplers.describe`, one row a sample; distances in mm.
    """
    cohort = prepare(select(table, "train"), Path(folder).parent / "cache", intensities=intensities)
    return cohort, describe(cohort, draw(cohort, EXPERIMENTS[name].scheme, seed, epoch=1, limit=limit))
