"""Experiments as a table: which network, trained on which samples, for how long; adding one is adding a row."""

from dataclasses import dataclass

from kit.experiments.runs import check_choices, check_device, open_run
from kit.experiments.training import PRECISIONS, train
from kit.models import build
from kit.samplers import SCHEMES, prepare
from kit.scans import select

# One recipe in two sizes. `quick` runs in minutes on a CPU; `full` visits, for an experiment's own number of epochs,
# every lesion voxel and the healthy ones that its scheme adds. `patches` is the size of a run in one number.
PROFILES = {
    "quick": {"patches": 6000, "epochs": 3, "validation_patches": 1000},
    "full": {"patches": None, "epochs": None, "validation_patches": None},
}
INTENSITIES = ("scan", "cohort")


@dataclass(frozen=True)
class Experiment:
    """One row of `EXPERIMENTS`, which holds the thesis' (Tables 5.1 to 5.6) and yours.

    `network` is a key of `kit.models.NETWORKS`, `scheme` one of `kit.samplers.SCHEMES` (how samples are drawn and what
    the classes weigh in the loss), `against` the experiment that this one changes ("": none) and `changes` how, in
    words; `epochs` says how often a full run visits its samples.
    """

    network: str
    scheme: str
    against: str = ""
    changes: str = ""
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
        A key of `PROFILES`: "quick" or "full".
    intensities : {"scan", "cohort"}
        Normalisation, see `kit.samplers.prepare`. The thesis has "cohort"; the default here is "scan", because MR
        intensities have no unit and a network trained on one scanner's numbers is lost on another's.
    options
        Override the profile (patches: to visit in all epochs together; epochs; validation_patches) or go to
        `kit.experiments.train`: patches_per_epoch, device, dtype, progress.

    Returns
    -------
    network, statistics, history
        `statistics` as in `kit.models.Detector`, `history` as `kit.experiments.train` returns it.

    Raises
    ------
    kit.experiments.RunError
        Before any work, for an unknown experiment, profile, intensities, dtype, scheme or device; or if the folder
        holds a run with other parameters.
    kit.models.ModelError
        For a network that cannot be built.
    """
    dtype = options.get("dtype", "float32")
    check_common(profile, options.get("device", "auto"))
    words = {"intensities": (intensities, INTENSITIES), "dtype": (dtype, PRECISIONS)}
    check_choices(experiment=(name, EXPERIMENTS), **words)
    experiment = EXPERIMENTS[name]
    check_choices(scheme=(experiment.scheme, SCHEMES))
    network = build(experiment.network, seed=seed)
    size = dict(experiment.schedule) | run_size(experiment, profile, options)
    run = open_run(folder, {"experiment": name, "intensities": intensities, "seed": seed, **_decisive(size)})
    cache = cache_dir or run.folder.parent / "cache"
    reading = {"intensities": intensities, "progress": options.get("progress", True)}
    cohort = prepare(select(table, "train"), cache, **reading)
    validation = prepare(select(table, "validation"), cache, statistics=cohort.statistics, **reading)
    about = {"experiment": name, **_as_metadata(cohort.statistics)}
    history = train(network, cohort, validation, scheme=experiment.scheme, seed=seed, run=run, metadata=about, **size)
    return network, cohort.statistics, history


def check_common(profile, device):
    """Refuse a profile or a device that is not there, for a notebook that is stepped through: RunError."""
    check_choices(profile=(profile, PROFILES))
    check_device(device)


def run_size(experiment, profile, options=()):
    """The size of a run as `kit.experiments.train` takes it: epochs, patches_per_epoch and validation_patches.

    >>> run_size(EXPERIMENTS["A"], "quick")
    {'patches_per_epoch': 2000, 'epochs': 3, 'validation_patches': 1000}
    >>> run_size(EXPERIMENTS["FCN"], "full")
    {'patches_per_epoch': None, 'epochs': 250, 'validation_patches': None}
    """
    check_choices(profile=(profile, PROFILES))
    size = PROFILES[profile] | dict(options)
    patches = size.pop("patches")
    size["epochs"] = size["epochs"] or experiment.epochs
    return {"patches_per_epoch": patches and max(1, patches // size["epochs"])} | size


def _as_metadata(statistics):
    return {} if statistics is None else {"mean": repr(statistics[0]), "sd": repr(statistics[1])}


def _decisive(size):
    return {name: value for name, value in size.items() if name not in ("device", "progress", "epochs", "resident")}
