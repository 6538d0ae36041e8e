"""Experiments as a table: which network, trained on which samples, for how long; adding one is adding a row."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kit.experiments.runs import RunError, check_choices, check_device, open_run
from kit.experiments.steps import choose_device
from kit.experiments.training import EXAMPLES, PRECISIONS, train
from kit.models import Detector, best_dtype, build, weights_metadata
from kit.samplers import AUGMENTATIONS, INTENSITIES, SCHEMES, describe, draw, prepare, scheme_of
from kit.scans import SEARCHES, select

# Two sizes of either way to train. `quick` takes a minute or two on a CPU: on segments more steps where it computes in
# bfloat16, which is that much faster there. `full` classifies on segments as many voxels
# as the thesis showed patches, 41 million (2048 a step); patch by patch it visits, for an experiment's own number of
# epochs, every lesion voxel and the healthy ones that its scheme adds. `budget` is a run's size in one number: steps on
# segments, patches to visit in all on patches.
PROFILES = {
    "quick": {
        "segments": {"budget": {"float32": 100, "bfloat16": 160}, "epochs": 4, "validation_patches": 600},
        "patches": {"budget": 6000, "epochs": 3, "validation_patches": 1000},
    },
    "full": {
        "segments": {"budget": 20_000, "epochs": 40, "validation_patches": 4000},
        "patches": {"budget": None, "epochs": None, "validation_patches": None},
    },
}

FINE_TUNING_RATE = 0.001  # a tenth of the rate for fresh weights: see LOG.md, 2026-11-25


@dataclass(frozen=True)
class Experiment:
    """One row of `EXPERIMENTS`, which holds the thesis' (Tables 5.1 to 5.6) and yours.

    `network` is a key of `kit.models.NETWORKS`, `scheme` one of `kit.samplers.SCHEMES` (how samples are drawn and what
    the classes weigh in the loss), `against` the experiment that this one changes ("": none) and `changes` how, in
    words. `epochs` and `patch_schedule` are for training on single patches: how often a full run visits its samples,
    and how its learning rate falls.
    """

    network: str
    scheme: str
    against: str = ""
    changes: str = ""
    epochs: int = 20
    patch_schedule: tuple = (("patience", 2), ("drops", 3))


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


def run_experiment(
    name,
    table,
    folder,
    *,
    profile="quick",
    examples="segments",
    scheme="",
    augment="none",
    intensities="brain",
    search="head",
    weights="",
    seed=0,
    cache_dir=None,
    workers=1,
    **options,
):
    """Train one experiment on a manifest's training scans, or go on with a run that was stopped.

    With `weights` it starts from a trained network (fine-tuning), and learns at a tenth of the learning rate.

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
    examples : {"segments", "patches"}
        What the network learns from: see `kit.experiments.train`. "patches" is the thesis' way.
    scheme : str
        A name in `kit.samplers.SCHEMES` in place of the experiment's own, such as "hard-negatives"; "": its own.
    augment : str
        A name in `kit.samplers.AUGMENTATIONS`; the thesis has "none".
    intensities : {"brain", "scan", "cohort"}
        Normalisation, see `kit.samplers.prepare`. The thesis has "cohort"; the default here is "brain", because MR
        intensities have no unit and a network trained on one scanner's numbers is lost on another's, and because
        scans come with skull and without.
    search : {"head", "brain"}
        Where healthy voxels are drawn, see `kit.scans.search_region`.
    weights : path
        Of the same network, from `weights/` or an earlier run; "": fresh ones of `seed`. Scans are normalised as they
        were for that network.
    cache_dir : path, optional
        Of prepared scans; None: beside the run's folder, for other runs to share.
    workers : int
        How many processes prepare scans, see `kit.samplers.prepare`.
    options
        dtype, "auto" by default: bfloat16 where the device computes in it, else float32.
        Others override the profile (budget: steps on segments, or patches to visit in all, 0 being the profile's own;
        epochs; validation_patches), or go to `kit.experiments.train`: minutes, hard_scans, device, progress.

    Returns
    -------
    network, statistics, history
        `statistics` as in `kit.models.Detector`, `history` as `kit.experiments.train` returns it.

    Raises
    ------
    kit.experiments.RunError
        Before any work, for an unknown experiment, profile, intensities, dtype, scheme, augmentation or device; or if
        the folder holds a run with other parameters; for `weights` that want other intensities.
    kit.models.ModelError
        For a network that cannot be built, or `weights` that cannot be read or are another network's.
    """
    check_common(profile, options.get("device", "auto"))
    if options.get("dtype", "auto") == "auto":
        options["dtype"] = best_dtype(choose_device(options.get("device", "auto")))
    scheme = scheme or getattr(EXPERIMENTS.get(name), "scheme", "")
    words = {"examples": examples, "scheme": scheme, "augment": augment, "intensities": intensities, "search": search}
    _check_words(name, dtype=options["dtype"], **words)
    experiment = EXPERIMENTS[name]
    network, own, start, known = _start(experiment.network, weights, intensities, seed)
    size = run_size(experiment, profile, own | options, examples=examples)
    run = open_run(folder, {"experiment": name, **words, **start, "seed": seed, **_decisive(size, examples)})
    cache, progress = cache_dir or run.folder.parent / "cache", options.get("progress", True)
    reading = {"intensities": intensities, "search": search, "workers": workers, "progress": progress}
    cohort = prepare(select(table, "train"), cache, augment=augment, **known, **reading)
    validation = prepare(select(table, "validation"), cache, statistics=cohort.statistics, **reading)
    about = {"experiment": name, **words, **start, **_priors(cohort, scheme), **_as_metadata(cohort.statistics)}
    given = {"examples": examples, "scheme": scheme, "augment": augment, "seed": seed, "run": run, "metadata": about}
    history = train(network, cohort, validation, **given, **size)
    return network, cohort.statistics, history


def _check_words(name, **words):
    """Refuse an unknown experiment, and every word that is not among its choices, all at once."""
    choices = {"examples": EXAMPLES, "scheme": SCHEMES, "augment": AUGMENTATIONS, "intensities": INTENSITIES}
    choices |= {"search": SEARCHES, "dtype": PRECISIONS}
    if name not in EXPERIMENTS:
        del words["scheme"]  # the experiment's own is not known
    check_choices(experiment=(name, EXPERIMENTS), **{word: (value, choices[word]) for word, value in words.items()})


def _start(network, weights, intensities, seed):
    """A network to begin with, options that go with it, what is written down of it, and how scans are normalised."""
    if not weights:
        return build(network, seed=seed), {}, {}, {}
    detector = Detector.load(network, weights)
    learnt = weights_metadata(weights).get("intensities", "scan")
    if learnt != intensities:
        raise RunError(f"{weights}: learnt from scans normalised by {learnt!r}; give intensities={learnt!r}")
    start = hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    known = {} if isinstance(detector.statistics, str) else {"statistics": detector.statistics}
    return detector.network, {"learning_rate": FINE_TUNING_RATE}, {"start": start}, known


def check_common(profile, device):
    """Refuse a profile or a device that is not there, for a notebook that is stepped through: RunError."""
    check_choices(profile=(profile, PROFILES))
    check_device(device)


def place_of(name):
    """Where a run's name belongs among others: in the order of `EXPERIMENTS`, variants after their own; others last.

    >>> sorted(["mine", "D+by-size", "FCN", "D"], key=place_of)
    ['D', 'D+by-size', 'FCN', 'mine']
    """
    base, _, variant = name.partition("+")
    return list(EXPERIMENTS).index(base) if base in EXPERIMENTS else len(EXPERIMENTS), variant != ""


def run_size(experiment, profile, options=(), *, examples="segments"):
    """The size of a run as `kit.experiments.train` takes it: epochs, steps or patches an epoch, validation_patches.

    >>> run_size(EXPERIMENTS["A"], "quick")
    {'steps_per_epoch': 25, 'epochs': 4, 'validation_patches': 600}
    >>> run_size(EXPERIMENTS["FCN"], "full", examples="patches")
    {'patches_per_epoch': None, 'patience': 2, 'drops': 3, 'epochs': 250, 'validation_patches': None}
    """
    check_choices(profile=(profile, PROFILES), examples=(examples, EXAMPLES))
    own, given = PROFILES[profile][examples], dict(options)
    budget = given.get("budget") or own["budget"]
    size = own | given | {"budget": budget[given.get("dtype", "float32")] if isinstance(budget, dict) else budget}
    budget, size["epochs"] = size.pop("budget"), size["epochs"] or experiment.epochs
    each = {
        f"{'steps' if examples == 'segments' else 'patches'}_per_epoch": budget and max(1, budget // size["epochs"])
    }
    return each | (dict(experiment.patch_schedule) if examples == "patches" else {}) | size


def _priors(cohort, scheme):
    """Shares of lesion: in the loss, and in the training scans' search regions; for `kit.models.prior_shift`.

    With hard negatives the loss sees no known share of all voxels, and there is nothing to be said.
    """
    if scheme_of(scheme).hard:
        return {}
    lesion, healthy = (sum(len(getattr(scan, kind)) for scan in cohort.scans) for kind in ("lesion", "healthy"))
    return {"lesion_share": repr(scheme_of(scheme).lesion_share), "prior": repr(lesion / (lesion + healthy))}


def _as_metadata(statistics):
    return {} if isinstance(statistics, str) else {"mean": repr(statistics[0]), "sd": repr(statistics[1])}


def _decisive(size, examples):
    """What decides the outcome; a run on patches may go on for more epochs, one on segments has its schedule."""
    free = {"device", "progress", "resident"} | ({"epochs"} if examples == "patches" else set())
    return {name: value for name, value in size.items() if name not in free}


def first_epoch(name, table, folder, *, intensities="brain", seed=0, limit=2000):
    """Draw what an experiment is shown first when it learns patch by patch, described.

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
    check_choices(experiment=(name, EXPERIMENTS))
    cohort = prepare(select(table, "train"), Path(folder).parent / "cache", intensities=intensities)
    return cohort, describe(cohort, draw(cohort, EXPERIMENTS[name].scheme, seed, epoch=1, limit=limit))
