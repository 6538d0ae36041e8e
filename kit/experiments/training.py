"""One readable training loop: draw, rotate, step; look at the validation scans; keep the best."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from tqdm.auto import tqdm

from kit.experiments.replay import Replayed
from kit.experiments.runs import refuse_other_parameters
from kit.models import ModelError, save_weights
from kit.samplers import SCHEMES, Places, Resident, draw, label_maps, patches

PRECISIONS = ("float32", "bfloat16")
PREPARED_BATCHES = 8  # patches are gathered and rotated for so many batches at once
RESIDENT_BATCHES = 64  # the same where the scans lie on the device: enough that launching the reads costs nothing


def train(
    network,
    cohort,
    validation,
    *,
    scheme="balanced",
    epochs=20,
    patches_per_epoch=None,
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
    """Train a network as the thesis does (section 5.2), and leave it with its best weights.

    Stochastic gradient descent on the cross entropy of `scheme`'s draws, rotated by up to 15 degrees. After each
    epoch the same balanced, unrotated patches of the validation scans are classified; when their loss has not
    improved for `patience` epochs the learning rate is divided by 10 and training goes on from the best weights; at
    most `drops` times, and then it ends.

    Parameters
    ----------
    network : kit.models.PatchNetwork
        From `kit.models.build`; changed in place.
    cohort, validation : kit.samplers.Cohort
        Validation scans are prepared with the training cohort's `statistics`.
    scheme : str
        A name in `kit.samplers.SCHEMES`; its class weights go into the loss, a batch's mean being a weighted one.
    epochs : int
        The most epochs; a run goes on where it ended when it is called again with more.
    patches_per_epoch, validation_patches : int, optional
        Budgets, see `kit.samplers.draw`. None: every lesion voxel.
    batch_size, learning_rate, momentum, weight_decay
        The thesis' values by default.
    largest_gradient : float
        A batch's gradient is shortened to this length. The thesis says nothing of it, but at its learning rate the
        first batches of some real scans otherwise end in a loss that is no number, or in dead units.
    patience, drops : int
        The thesis divides the learning rate 3 to 5 times and does not say how long it waited.
    dtype : {"float32", "bfloat16"}
        bfloat16 pays on hardware that has it, and is slower elsewhere.
    device : str
        "auto" takes a GPU where there is one. There the whole prepared cohort lies in its memory, a batch's step is
        recorded once an epoch as a CUDA graph and replayed; else the host waits for nothing before the epoch's end.
    resident : bool, optional
        Whether the cohort is copied to the device; None: on a GPU.
    seed : int
        On a CPU, the same seed, machine, versions and threads give the same history (but `seconds`) and weights to the
        last bit; on a GPU some sums are taken in any order.
        Torch's global random state is left as it was.
    run : kit.experiments.Run, optional
        Writes history.csv, weights.safetensors and a checkpoint after each epoch, and goes on from the last one.
    metadata : dict of str to str, optional
        Goes into each weights file, beside the patches visited: what a detector has to know of the training scans.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: epoch, patches_visited (so far), learning_rate, train_loss, train_accuracy,
        validation_loss, validation_accuracy, validation_recall, validation_precision, seconds.

    Raises
    ------
    ModelError
        If the loss is no longer a number, or for an unknown `dtype` or `scheme`.
    kit.experiments.RunError
        If the run's checkpoint comes from other settings.
    """
    _check_words(dtype, scheme)
    device = choose_device(device)
    settings = {
        "network": network.name, "scheme": scheme, "patches_per_epoch": patches_per_epoch,
        "validation_patches": validation_patches, "batch_size": batch_size, "learning_rate": learning_rate,
        "momentum": momentum, "weight_decay": weight_decay, "largest_gradient": largest_gradient,
        "patience": patience, "drops": drops, "dtype": dtype, "seed": seed,
        "training_scans": _fingerprint(cohort), "validation_scans": _fingerprint(validation),
    }  # fmt: skip
    network.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum, weight_decay=weight_decay)
    state, best = _resume(run, settings, network, optimizer)
    sources = _sources(cohort, validation, device, resident)
    examined = draw(validation, "balanced", seed, 0, limit=validation_patches)
    with tqdm(total=epochs, initial=state.epoch, desc="training", unit="epoch", disable=not progress) as bar:
        while state.epoch < epochs and state.drops_made <= drops:
            started, epoch = perf_counter(), state.epoch + 1
            rows = draw(cohort, scheme, seed, epoch, limit=patches_per_epoch, batch_size=batch_size)
            optimizer.param_groups[0]["lr"] = state.learning_rate
            learnt, seen = _epoch(network, optimizer, sources, (rows, examined), settings, epoch, device, progress)
            drops_before = state.drops_made
            if state.advance(len(rows), learnt | seen, patience, perf_counter() - started):
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


def evaluate(network, source, rows, *, dtype="float32", device="auto", batch_size=256):
    """Classify the voxels of a draw, unrotated, and score them one by one.

    `source` is a prepared cohort, or a `kit.samplers.Resident` one on the same device.

    Returns
    -------
    dict
        validation_loss (cross entropy, unweighted), validation_accuracy, validation_recall, validation_precision
        (NaN where nothing was called lesion), all float.
    """
    device = choose_device(device)
    network.to(device).eval()
    loss, counts = torch.zeros((), dtype=torch.float64, device=device), torch.zeros(4, dtype=torch.long, device=device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        read = _reader(source, rows.assign(angle=np.float32(0)), network.patch_shape, 1, device)
        for start in range(0, len(rows), batch_size):
            found, label = read(start, start + batch_size)
            logits = network(_channels_last(found)).float()
            loss += functional.cross_entropy(logits, label, reduction="sum")
            counts += torch.bincount(2 * label + logits.argmax(1), minlength=4)  # (is lesion, called lesion)
    (_, wrong), (missed, hits) = counts.view(2, 2).tolist()
    return {
        "validation_loss": loss.item() / len(rows),
        "validation_accuracy": 1 - (wrong + missed) / len(rows),
        "validation_recall": hits / (hits + missed) if hits + missed else float("nan"),
        "validation_precision": hits / (hits + wrong) if hits + wrong else float("nan"),
    }


def choose_device(device):
    """A torch.device from its name; "auto" is a GPU where there is one.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


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
        return {**(metadata or {}), "patches_visited": str(int(self.history[-1]["patches_visited"]))}

    def advance(self, visited, scores, patience, seconds):
        """Write down an epoch, decide on the learning rate, and tell whether this epoch is the best so far."""
        self.epoch += 1
        visited += self.history[-1]["patches_visited"] if self.history else 0
        row = {"epoch": self.epoch, "patches_visited": visited, "learning_rate": self.learning_rate}
        self.history.append({**row, **scores, "seconds": round(seconds, 3)})
        improved = self.best_loss is None or scores["validation_loss"] < self.best_loss
        if improved:
            self.best_loss, self.waited = scores["validation_loss"], 0
            return True
        self.waited += 1
        if self.waited >= patience:
            self.learning_rate, self.waited, self.drops_made = self.learning_rate / 10, 0, self.drops_made + 1
        return False


def _sources(cohort, validation, device, resident):
    """Where patches are read from: the prepared cohorts, or copies of them on the device."""
    if resident or (resident is None and device.type == "cuda"):
        return Resident(cohort, device), Resident(validation, device)
    return cohort, validation


def _epoch(network, optimizer, sources, draws, settings, epoch, device, progress):
    """Learn from one draw of the training scans, then look at the validation scans: two dicts of scores."""
    with _reproducible(settings["seed"], epoch, device):
        learnt = _learn(network, optimizer, sources[0], draws[0], settings, device, progress)
    seen = evaluate(network, sources[1], draws[1], dtype=settings["dtype"], device=device)
    _require_finite(seen["validation_loss"], settings)
    return learnt, seen


def _learn(network, optimizer, source, rows, settings, device, progress):
    """One epoch over `rows`: train_loss and train_accuracy, as they were on the way."""
    weight = torch.tensor(SCHEMES[settings["scheme"]].class_weights, device=device)
    total = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct
    network.train()

    def step(batch, wanted):
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings["dtype"] == "bfloat16"):
            logits = network(batch).float()
            loss = functional.cross_entropy(logits, wanted, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings["largest_gradient"])
        optimizer.step()
        correct = (logits.detach().argmax(1) == wanted).double().mean()
        total.add_(torch.stack([loss.detach().double(), correct]) * len(wanted))

    if device.type == "cuda" and isinstance(source, Resident):  # else a thread works beside it, which recording forbids
        step = Replayed(step)
    with tqdm(total=len(rows), unit="patch", leave=False, disable=not progress) as bar:
        for found, label in _prepared(source, rows, network, settings["batch_size"], device):
            for batch, wanted in zip(*(t.split(settings["batch_size"]) for t in (found, label)), strict=True):
                step(_channels_last(batch), wanted)
            if device.type == "cpu":  # elsewhere a look at the loss would make the host wait
                _require_finite(total[0], settings)
            bar.update(len(label))
    _require_finite(total[0], settings)
    loss, accuracy = (total / len(rows)).tolist()
    return {"train_loss": loss, "train_accuracy": accuracy}


def _go_back(network, optimizer, best):
    """A smaller learning rate starts from the best weights, not from those that had ceased to improve, and at rest."""
    network.load_state_dict(best)
    for parameter in network.parameters():
        optimizer.state[parameter]["momentum_buffer"].zero_()


def _require_finite(loss, settings):
    rate = settings["learning_rate"]
    if not np.isfinite(float(loss)):
        raise ModelError(
            f"Training has diverged: the loss is {float(loss)}. It began with learning_rate={rate}: try {rate / 10:g}; "
            "if it happens at once, look at the scans' intensities. A run keeps its last good epoch."
        )


def _prepared(source, rows, network, batch_size, device):
    """Rotated patches and labels for some batches at a time, the next ones being made while these are used."""
    side = network.training_shape[-1] - network.patch_shape[-1] + 1  # of a map of outputs: 1 for all but the FCN
    read = _reader(source, rows, network.training_shape, side, device)
    if isinstance(source, Resident):  # a device works ahead of its host by itself
        size = batch_size * RESIDENT_BATCHES
        yield from (read(start, start + size) for start in range(0, len(rows), size))
        return
    size = batch_size * PREPARED_BATCHES
    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for start in range(0, len(rows), size):
            ready, waiting = waiting, ahead.submit(read, start, start + size)
            if ready:
                yield ready.result()
        yield waiting.result()


def _reader(source, rows, shape, side, device):
    """From (start, stop) to those rows' patches (N, slice, row, column) and labels.

    Labels are (N,), or (N, side, side) for a map of outputs. All of a draw goes to the device at once.
    """
    places = Places.of(rows, device) if isinstance(source, Resident) else None

    def read(start, stop):
        if places:
            some = places.part(slice(start, stop))
            found, maps = source.patches(some, shape), source.label_maps(some, side)
        else:
            some = rows.iloc[start:stop]
            angles = some["angle"].to_numpy()
            found = patches(source, some, shape, angles if angles.any() else None, device)
            maps = label_maps(source, some, side, angles, device)
        return found, maps[:, 0, 0] if side == 1 else maps

    return read


def _channels_last(batch):
    """Slices innermost in memory: a tenth faster on a CPU, and what tensor cores want."""
    return batch.contiguous(memory_format=torch.channels_last)


@contextmanager
def _reproducible(seed, epoch, device):
    """Dropout that depends on seed and epoch alone, so that a resumed run meets the same; the global state returns."""
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def _check_words(dtype, scheme):
    for name, value, choices in (("dtype", dtype, PRECISIONS), ("scheme", scheme, SCHEMES)):
        if value not in choices:
            raise ModelError(f"{name}={value!r}: choose one of {', '.join(choices)}.")


def _fingerprint(cohort):
    """Short name of the scans, their voxels and their normalisation: a run is not resumed on others."""
    told = [(scan.scan_id, scan.voxels, len(scan.lesion), len(scan.healthy), scan.mean) for scan in cohort.scans]
    return hashlib.sha256(repr((told, cohort.statistics)).encode()).hexdigest()[:16]


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
