"""One readable training loop: an epoch on patches or on segments; a look at the validation scans; a checkpoint."""

import hashlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from kit.experiments.runs import refuse_other_parameters
from kit.experiments.steps import (
    choose_device,
    evaluate,
    hard_negatives,
    learn_patches,
    learn_segments,
    require_finite,
    segment_layout,
)
from kit.models import ModelError, save_weights
from kit.samplers import Resident, augmentation_of, draw, scheme_of

PRECISIONS = ("float32", "bfloat16")
EXAMPLES = ("segments", "patches")
FALLS = (0.6, 0.8, 0.93)  # shares of a run on segments after which the learning rate is multiplied by FALL
FALL = 0.3
SIZES = ("voxels_learnt", "patches_worth")  # of a run, so far


def train(
    network,
    cohort,
    validation,
    *,
    examples="patches",
    scheme="balanced",
    augment="none",
    epochs=20,
    patches_per_epoch=None,
    steps_per_epoch=200,
    minutes=None,
    hard_scans=3,
    validation_patches=None,
    batch_size=32,
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=1e-5,
    largest_gradient=5.0,
    patience=2,
    drops=3,
    dtype="float32",
    device="auto",
    resident=None,
    seed=0,
    run=None,
    metadata=None,
    progress=True,
):
    """Train a network by stochastic gradient descent on the cross entropy, on single patches or on segments.

    "patches" is the thesis' way (section 5.2): draws of a scheme, rotated by up to 15 degrees, 32 a step. When the
    validation loss has not improved for `patience` epochs the learning rate is divided by 10 and training goes on from
    the best weights; at most `drops` times, and then it ends with the best weights.

    "segments" learns from a lattice of voxels in larger crops, several patients a step (`kit.samplers.segments`). The
    learning rate is multiplied by 0.3 after 60, 80 and 93 % of the epochs, and the last weights are kept. With a scheme
    of hard negatives, some training scans are mapped before each epoch but the first, and crops are drawn around what
    the network takes for lesions there.

    After each epoch the same balanced, unrotated patches of the validation scans are classified.

    Parameters
    ----------
    network : kit.models.PatchNetwork
        From `kit.models.build`; changed in place.
    cohort, validation : kit.samplers.Cohort
        Validation scans are prepared with the training cohort's `statistics`.
    examples : {"patches", "segments"}
    scheme : str
        A name in `kit.samplers.SCHEMES`; its class weights go into the loss, a batch's mean being a weighted one.
    augment : str
        A name in `kit.samplers.AUGMENTATIONS`: "none", the thesis' way, rotates only; "scanner" gives each crop or
        patch other contrast, sharpness and noise, and takes the skull off some. It wants scans normalised by the brain.
    epochs : int
        With "patches", the most epochs; a run goes on where it ended when it is called again with more. With
        "segments", their number, which the learning rate depends on.
    patches_per_epoch, validation_patches : int, optional
        Budgets, see `kit.samplers.draw`. None: every lesion voxel.
    steps_per_epoch : int
        Of "segments"; a step classifies 2048 voxels and learns from those that the scheme chooses.
    minutes : float, optional
        Of "segments": the whole run's, in place of `steps_per_epoch`. Such a run depends on the machine's speed, and
        cannot be repeated to the last bit.
    hard_scans : int
        Training scans that are mapped before an epoch, with a scheme of hard negatives.
    batch_size, learning_rate, momentum, weight_decay
        The thesis' values by default; `batch_size` is that of "patches".
    largest_gradient : float
        A batch's gradient is shortened to this length. The thesis says nothing of it, but at its learning rate the
        first batches of some real scans otherwise end in a loss that is no number, or in dead units.
    patience, drops : int
        Of "patches". The thesis divides the learning rate 3 to 5 times and does not say how long it waited.
    dtype : {"float32", "bfloat16"}
        bfloat16 pays on hardware that has it, and is slower elsewhere.
    device : str
        "auto" takes a GPU where there is one. With "patches" the whole prepared cohort lies in its memory there, and a
        batch's step is recorded once an epoch as a CUDA graph and replayed.
    resident : bool, optional
        Whether the cohort is copied to the device, for "patches"; None: on a GPU.
    seed : int
        On a CPU, the same seed, machine, versions and threads give the same history (but `seconds`) and weights to the
        last bit; on a GPU some sums are taken in any order.
        Torch's global random state is left as it was.
    run : kit.experiments.Run, optional
        Writes history.csv, weights.safetensors and a checkpoint after each epoch, and goes on from the last one.
    metadata : dict of str to str, optional
        Goes into each weights file, beside the run's size: what a detector has to know of the training scans.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: epoch, voxels_learnt and patches_worth (so far: voxels that entered the loss, and single
        patches that would cost the same arithmetic; the same number for "patches"), learning_rate, train_loss,
        train_accuracy, validation_loss, validation_accuracy, validation_recall, validation_precision, seconds.

    Raises
    ------
    ModelError
        If the loss is no longer a number, or for an unknown `dtype` or `examples`.
    kit.samplers.SamplerError
        For an unknown scheme, or one that single patches cannot follow; for an unknown augmentation, or scans that are
        not normalised by their brains.
    kit.experiments.RunError
        If the run's checkpoint comes from other settings.
    """
    _check_words(dtype=(dtype, PRECISIONS), examples=(examples, EXAMPLES))
    augmentation_of(augment, cohort)
    device = choose_device(device)
    settings = {
        "network": network.name, "examples": examples, "scheme": scheme, "validation_patches": validation_patches,
        "augment": augment, "learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay,
        "largest_gradient": largest_gradient, "dtype": dtype, "seed": seed,
        "training_scans": fingerprint(cohort), "validation_scans": fingerprint(validation),
    }  # fmt: skip
    if examples == "patches":
        settings |= {"patches_per_epoch": patches_per_epoch, "batch_size": batch_size}
        settings |= {"patience": patience, "drops": drops}
        learn = _Patches(cohort, settings, device, resident, progress)
    else:
        steps = {"steps_per_epoch": None if minutes else steps_per_epoch, "minutes": minutes}
        settings |= {"epochs": epochs, **steps, "hard_scans": hard_scans if scheme_of(scheme).hard else 0}
        learn = _Segments(cohort, settings, device, progress)
    network.to(device=device, memory_format=learn.layout)
    return _run_epochs(network, learn, validation, settings, epochs, run, metadata)


def _run_epochs(network, learn, validation, settings, epochs, run, metadata):
    """Epoch after epoch from where the run stands: learn, look at the validation scans, decide, write a checkpoint."""
    seed, device, rate = settings["seed"], learn.device, settings["learning_rate"]
    optimizer = torch.optim.SGD(network.parameters(), rate, settings["momentum"], weight_decay=settings["weight_decay"])
    state, best = _resume(run, settings, network, optimizer)
    examined = draw(validation, "balanced", seed, 0, limit=settings["validation_patches"])
    source = Resident(validation, device) if learn.resident else validation
    with tqdm(total=epochs, initial=state.epoch, desc="training", unit="epoch", disable=not learn.progress) as bar:
        while state.epoch < epochs and state.drops_made <= settings.get("drops", 0):
            started, epoch = perf_counter(), state.epoch + 1
            state.learning_rate = learn.rate(state.learning_rate, epoch)
            optimizer.param_groups[0]["lr"] = state.learning_rate
            with _reproducible(seed, epoch, device):
                learnt = learn(network, optimizer, epoch)
            seen = evaluate(network, source, examined, dtype=settings["dtype"], device=device)
            require_finite(seen["validation_loss"], rate)
            drops_before = state.drops_made
            if state.advance(learnt | seen, learn.patience, perf_counter() - started):
                best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
            elif state.drops_made > drops_before:
                _go_back(network, optimizer, best)
            if run:
                _save(run, settings, network, optimizer, state, best, metadata)
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in seen.items()})
    network.load_state_dict(best)
    if run:
        save_weights(network, run.weights_path, state.describe(metadata))
    return pd.DataFrame(state.history)


class _Patches:
    """Epochs of single patches: `self(network, optimizer, epoch)` learns one and says how it went."""

    layout = torch.channels_last

    def __init__(self, cohort, settings, device, resident, progress):
        self.cohort, self.settings, self.device, self.progress = cohort, settings, device, progress
        self.patience = settings["patience"]
        self.resident = device.type == "cuda" if resident is None else resident
        self.source = Resident(cohort, device, settings["augment"]) if self.resident else cohort

    def rate(self, now, epoch):
        return now

    def __call__(self, network, optimizer, epoch):
        scheme, seed, limit = (self.settings[name] for name in ("scheme", "seed", "patches_per_epoch"))
        drawing = {"batch_size": self.settings["batch_size"], "augment": self.settings["augment"]}
        rows = draw(self.cohort, scheme, seed, epoch, limit=limit, **drawing)
        return learn_patches(network, optimizer, self.source, rows, self.settings, self.device, self.progress)


class _Segments:
    """Epochs on segments, as `_Patches`; the last weights count as the best ones."""

    patience, resident = None, False

    def __init__(self, cohort, settings, device, progress):
        self.cohort, self.settings, self.device, self.progress = cohort, settings, device, progress
        self.layout = segment_layout(settings, device)

    def rate(self, now, epoch):
        done = (epoch - 1) / self.settings["epochs"]
        return self.settings["learning_rate"] * FALL ** sum(done >= share for share in FALLS)

    def __call__(self, network, optimizer, epoch):
        hard, scans = None, self.settings["hard_scans"]
        if scans and epoch > 1:  # before the first, everything looks like a lesion
            options = {"scans": scans, "dtype": self.settings["dtype"], "device": self.device}
            hard = hard_negatives(network, self.cohort, self.settings["seed"], epoch, **options)
        found = learn_segments(network, optimizer, self.cohort, self.settings, epoch, self.device, self.progress, hard)
        return found


@dataclass
class _State:
    """Where training stands: all that a checkpoint keeps beside the tensors."""

    learning_rate: float
    epoch: int = 0
    best_loss: float | None = None
    waited: int = 0
    drops_made: int = 0
    history: list = field(default_factory=list)

    def describe(self, metadata):
        """Metadata of a weights file written now."""
        size = {name: str(int(self.history[-1][name])) for name in SIZES}
        return {**(metadata or {}), **size}

    def advance(self, scores, patience, seconds):
        """Write down an epoch, decide on the learning rate, and say whether its weights are the best so far.

        Without `patience` they always are.
        """
        self.epoch += 1
        before = self.history[-1] if self.history else dict.fromkeys(SIZES, 0)
        size = {name: scores[name] + before[name] for name in SIZES}
        row = {"epoch": self.epoch, **size, "learning_rate": self.learning_rate}
        self.history.append(
            {**row, **{k: v for k, v in scores.items() if k not in SIZES}, "seconds": round(seconds, 3)}
        )
        if patience is None or self.best_loss is None or scores["validation_loss"] < self.best_loss:
            self.best_loss, self.waited = scores["validation_loss"], 0
            return True
        self.waited += 1
        if self.waited >= patience:
            self.learning_rate, self.waited, self.drops_made = self.learning_rate / 10, 0, self.drops_made + 1
        return False


def _go_back(network, optimizer, best):
    """A smaller learning rate starts from the best weights, not from those that had ceased to improve, and at rest."""
    network.load_state_dict(best)
    for parameter in network.parameters():
        optimizer.state[parameter]["momentum_buffer"].zero_()


@contextmanager
def _reproducible(seed, epoch, device):
    """Dropout that depends on seed and epoch alone, so that a resumed run meets the same; the global state returns."""
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def _check_words(**words):
    for name, (value, choices) in words.items():
        if value not in choices:
            raise ModelError(f"{name}={value!r}: choose one of {', '.join(choices)}.")


def fingerprint(cohort):
    """Short name of the scans, their voxels and their normalisation: a run is not resumed on others."""
    facts = [(scan.scan_id, scan.voxels, len(scan.lesion), len(scan.healthy), scan.mean) for scan in cohort.scans]
    return hashlib.sha256(repr((facts, cohort.statistics)).encode()).hexdigest()[:16]


def _save(run, settings, network, optimizer, state, best, metadata):
    """Write tables and weights first and the checkpoint last: an epoch counts once that stands."""
    run.save_table("history", pd.DataFrame(state.history))
    if state.best_loss == state.history[-1]["validation_loss"]:
        save_weights(network, run.weights_path, state.describe(metadata))
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for name, parameter in network.named_parameters():
        tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    run.save_checkpoint(tensors, {"settings": settings, "progress": asdict(state)})


def _resume(run, settings, network, optimizer):
    """The state and best weights of the run's last epoch, put into network and optimizer; or a fresh start."""
    found = run.load_checkpoint() if run else None
    if found is None:
        return _State(settings["learning_rate"]), network.state_dict()
    tensors, content = found
    refuse_other_parameters(content["settings"], settings, run.folder)
    part = {"network": {}, "best": {}, "momentum": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        part[kind][rest] = tensor
    network.load_state_dict(part["network"])
    for name, parameter in network.named_parameters():
        buffer = torch.empty_like(parameter).copy_(part["momentum"][name])  # laid out in memory as the parameter is
        optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
    return _State(**content["progress"]), part["best"]
