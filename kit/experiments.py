"""The thesis' experiments as data: which network, which samples, how long."""

from dataclasses import dataclass

from kit.manifest import select
from kit.models import build
from kit.runs import open_run
from kit.samplers import prepare
from kit.training import train

# One recipe in two sizes. `quick` runs in minutes on a CPU, `full` visits every lesion voxel in every epoch.
PROFILES = {
    "quick": {"epochs": 3, "patches_per_epoch": 4000, "validation_patches": 1000},
    "full": {"epochs": 20, "patches_per_epoch": None, "validation_patches": None},
}


@dataclass(frozen=True)
class Experiment:
    """A row of the thesis' tables 5.1 to 5.5: a network and how its samples are drawn (see `kit.samplers.SCHEMES`)."""

    network: str
    scheme: str
    changes: str  # against the experiment before


EXPERIMENTS = {
    "A": Experiment("A", "balanced", "one slice, five convolutions"),
    "B": Experiment("B", "balanced", "two convolutions more"),
    "C": Experiment("C", "balanced", "five slices instead of one"),
    "D": Experiment("D", "balanced", "one convolution more, twice as wide fully connected layers"),
    "G": Experiment("G", "ratio", "wider convolutions, ten negatives a positive"),
}


def run_experiment(name, table, folder, *, profile="quick", intensities="scan", seed=0, cache_dir=None, **options):
    """Train one experiment on a manifest's training scans, or go on with a run that was stopped.

    Parameters
    ----------
    name : str
        A key of `EXPERIMENTS`.
    table : pandas.DataFrame
        The training and validation scans of `kit.manifest.read_manifest`, follow-ups left out by `select`.
    folder : path
        The run's folder, see `kit.runs.open_run`.
    profile : str
        A key of `PROFILES`.
    intensities : {"scan", "cohort"}
        Normalisation, see `kit.samplers.prepare`. The thesis has "cohort"; the default here is "scan", because MR
        intensities have no unit and a network trained on one scanner's numbers is lost on another's.
    options
        Override the profile or go to `kit.training.train`: epochs, patches_per_epoch, device, dtype, progress.

    Returns
    -------
    network, statistics, history
        `statistics` as in `kit.evaluation.Detector`.
    """
    experiment = EXPERIMENTS[name]
    size = {**PROFILES[profile], **options}
    run = open_run(folder, {"experiment": name, "intensities": intensities, "seed": seed, **_decisive(size)})
    cache = cache_dir or run.folder.parent / "cache"
    cohort = prepare(select(table, "train"), cache, intensities=intensities)
    validation = prepare(select(table, "validation"), cache, intensities=intensities, statistics=cohort.statistics)
    network = build(experiment.network, seed=seed)
    told = {"experiment": name, **_as_metadata(cohort.statistics)}
    history = train(network, cohort, validation, scheme=experiment.scheme, seed=seed, run=run, metadata=told, **size)
    return network, cohort.statistics, history


def _as_metadata(statistics):
    return {} if statistics is None else {"mean": repr(statistics[0]), "sd": repr(statistics[1])}


def _decisive(size):
    return {name: value for name, value in size.items() if name not in ("device", "progress", "epochs")}
