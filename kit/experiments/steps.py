"""What an epoch does: learn from patches one by one, or from segments; and look at validation patches.

patches      32 single patches a step, as the thesis trains
segments     8 crops a step, whose lattices hold 2048 voxels: see `kit.samplers.segments`, `kit.models.fragments`
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from kit.models import Fragments, ModelError, lattice_step, probability_map
from kit.samplers import (
    COUNT,
    HEALTHY,
    SCHEMES,
    Places,
    Resident,
    choose,
    describe,
    draw_segments,
    label_maps,
    patches,
    read_segments,
    scheme_of,
)

PREPARED_BATCHES = 8  # patches are gathered and rotated for so many batches at once
RESIDENT_BATCHES = 64  # the same where the scans lie on the device: enough that starting the reads costs nothing
DRAWN_STEPS = 50  # crops are drawn for so many steps at once
WARM_UP = 3  # calls before a CUDA graph is recorded, in which libraries choose their kernels
HARD_SLICES = 4  # of a scan that is searched for hard negatives, one slice in so many is mapped
HARD_PLACES = 200  # the most that are kept of one scan
FAR_MM = 5.0  # from a lesion: what is nearer is its border, which crops around lesions show


def learn_patches(network, optimizer, source, rows, settings, device, progress):
    """One epoch over `rows`, patch by patch: train_loss and train_accuracy, as they were on the way, and its size.

    `source` is a prepared cohort, or a `kit.samplers.Resident` one with the settings' `augment`.
    """
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
        for found, label in _prepared(source, rows, network, settings, device):
            for batch, wanted in zip(*(t.split(settings["batch_size"]) for t in (found, label)), strict=True):
                step(_channels_last(batch), wanted)
            if device.type == "cpu":  # elsewhere a look at the loss would make the host wait
                require_finite(total[0], settings["learning_rate"])
            bar.update(len(label))
    require_finite(total[0], settings["learning_rate"])
    loss, accuracy = (total / len(rows)).tolist()
    outputs = (network.training_shape[-1] - network.patch_shape[-1] + 1) ** 2  # of a patch: 36 of the FCN's
    size = {"voxels_learnt": outputs * len(rows), "patches_worth": len(rows)}
    return {"train_loss": loss, "train_accuracy": accuracy, **size}


def learn_segments(network, optimizer, cohort, settings, epoch, device, progress, hard=None):
    """One epoch on segments: train_loss and train_accuracy, as they were on the way, voxels_learnt, patches_worth.

    It ends after the settings' `steps_per_epoch`, or when its share of `minutes` is over.
    """
    fragments = Fragments(network, lattice_step(network))
    scheme, rng = scheme_of(settings["scheme"]), np.random.default_rng([settings["seed"], epoch, 2])
    cost, learnt, worth = _Cost(network), 0, 0.0
    total = torch.zeros(2, dtype=torch.float64)  # loss, weight of what was right
    layout, ends, read = (
        segment_layout(settings, device),
        _ends(settings),
        _segments(cohort, network, fragments, settings, epoch, hard, device),
    )
    network.train()
    with tqdm(total=settings["steps_per_epoch"], unit="step", leave=False, disable=not progress) as bar:
        for steps, (rows, crops, lattice) in enumerate(read, 1):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=settings["dtype"] == "bfloat16"):
                classify = _classifier(fragments, crops.contiguous(memory_format=layout), device)
                ask = partial(_probability, network, classify)
                index, label, weight = choose(lattice, rows.twin.to_numpy(), scheme, rng, ask)
                logits = classify(index).float()
            label, weight = torch.from_numpy(label).to(device), torch.from_numpy(weight).to(device)
            loss = (functional.cross_entropy(logits, label, reduction="none") * weight).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings["largest_gradient"])
            optimizer.step()
            correct = (logits.detach().argmax(1) == label).float()
            total += torch.stack([loss.detach(), (correct * weight).sum()]).double().cpu()
            require_finite(total[0], settings["learning_rate"])
            learnt += len(index)
            worth += cost.of(len(rows), len(index), np.count_nonzero(lattice.kind == HEALTHY) if scheme.hard else 0)
            bar.update()
            if ends(steps):
                break
    loss, accuracy = (total / steps).tolist()
    return {"train_loss": loss, "train_accuracy": accuracy, "voxels_learnt": learnt, "patches_worth": round(worth)}


def segment_layout(settings, device):
    """How a network that learns from segments lies in memory.

    On a CPU in float32 the gradient of a convolution with large maps takes a fifth to a half less time when features do
    not lie innermost; elsewhere they do, as for patches.
    """
    plain = device.type == "cpu" and settings["dtype"] == "float32"
    return torch.contiguous_format if plain else torch.channels_last


def hard_negatives(network, cohort, seed, epoch, *, scans, dtype="float32", device="auto", progress=False):
    """Places that a network takes for lesions, found by mapping some training scans on a lattice.

    Of each scan one slice in four is mapped at every 4th row and column, which takes seconds; what is called lesion
    there with a probability of 0.5 or more, is healthy, and lies at least 5 mm from a lesion is kept, 200 at most.

    Parameters
    ----------
    network : kit.models.PatchNetwork
    cohort : kit.samplers.Cohort
    seed, epoch : int
        Decide which scans and slices are looked at.
    scans : int
        How many.

    Returns
    -------
    pandas.DataFrame
        `scan` (position in the cohort), `slice`, `row`, `column`, `probability`.
    """
    rng, found = np.random.default_rng([seed, epoch, 3]), []
    for index in rng.permutation(len(cohort))[:scans]:
        scan = cohort.scans[index]
        mask = np.zeros(scan.volume.shape, bool)
        mask.reshape(-1)[scan.healthy] = True
        mask[np.arange(len(mask)) % HARD_SLICES != rng.integers(HARD_SLICES)] = False
        options = {"step": 4, "dtype": dtype, "device": device, "progress": progress}
        probability = probability_map(network, cohort.image(index), mask, **options)
        places = np.argwhere(probability >= 0.5)
        rows = pd.DataFrame(places, columns=["slice", "row", "column"])
        rows["scan"] = pd.Categorical([scan.scan_id] * len(rows), [one.scan_id for one in cohort.scans])
        rows["probability"] = probability[tuple(places.T)]
        far = rows[describe(cohort, rows).distance_mm >= FAR_MM]
        found.append(far.iloc[rng.permutation(len(far))[:HARD_PLACES]].assign(scan=index))
    return pd.concat(found, ignore_index=True)


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


class Replayed:
    """A function of device tensors without a result, run as it is at first, then recorded and replayed.

    Each call does what the function would: the first `WARM_UP` are real, on a side stream as recording asks for; the
    recording itself computes nothing. A call with tensors of other shapes, such as an epoch's last batch, runs
    as it is. The function must do the same work on the same tensors each time and not wait for the device.

    Source: "Whole-network capture" in PyTorch's notes on CUDA graphs.
    """

    def __init__(self, function):
        self.function, self.warmed, self.graph, self.inputs = function, 0, None, None

    def __call__(self, *tensors):
        """Do the work for these tensors."""
        if self.inputs is None:
            self.inputs = [tensor.clone() for tensor in tensors]
        if [tensor.shape for tensor in tensors] != [held.shape for held in self.inputs]:
            self.function(*tensors)
        elif self.warmed < WARM_UP:
            self._beside(tensors)
        else:
            for held, tensor in zip(self.inputs, tensors, strict=True):
                held.copy_(tensor)
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.function(*self.inputs)
            self.graph.replay()

    def _beside(self, tensors):
        self.warmed += 1
        stream, now = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            self.function(*tensors)
        now.wait_stream(stream)


def _segments(cohort, network, fragments, settings, epoch, hard, device):
    """Step after step without end: its rows, crops and lattice, read while the step before is learnt from."""

    def read():
        for part in count():
            rows = draw_segments(
                cohort, settings["scheme"], settings["seed"], 1000 * epoch + part,
                steps=DRAWN_STEPS, step=fragments.step, hard=hard, augment=settings["augment"],
            )  # fmt: skip
            reading = {"device": device, "augment": settings["augment"]}
            for _, some in rows.groupby("batch"):
                yield some, *read_segments(cohort, some, network.patch_shape, fragments.step, **reading)

    reading = read()
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(next, reading)
        while True:
            ready, waiting = waiting, ahead.submit(next, reading)
            yield ready.result()


def _ends(settings):
    """A function that says after so many steps whether the epoch is over."""
    if settings["minutes"] is None:
        return lambda steps: steps >= settings["steps_per_epoch"]
    until = perf_counter() + 60 * settings["minutes"] / settings["epochs"]
    return lambda steps: perf_counter() >= until


def _classifier(fragments, crops, device):
    """From positions in a step's raveled lattice to logits; what the crops share is computed here, once."""
    maps, tail = fragments.maps(crops), fragments.tail()

    def classify(index):
        index = torch.from_numpy(index).to(device)
        crop, row, column = index // COUNT**2, index % COUNT**2 // COUNT, index % COUNT
        return fragments.logits(maps, crop, fragments.step * row, fragments.step * column, tail)

    return classify


def _probability(network, classify, index):
    """The network's present probability of lesion at some voxels, without dropout and without a gradient."""
    with torch.no_grad():
        network.head.eval()
        found = classify(index).float().softmax(1)[:, 1].cpu().numpy()
        network.head.train()
    return found


class _Cost:
    """How many single patches a step on segments costs, by its multiplications: forward and backward count three."""

    def __init__(self, network):
        network = copy.deepcopy(network).to("meta")
        fragments = Fragments(network, lattice_step(network))
        side, patch = fragments.side(COUNT), torch.empty(1, *network.patch_shape, device="meta")
        crop = torch.empty(1, network.patch_shape[0], side, side, device="meta")
        one = torch.zeros(1, dtype=torch.long, device="meta")
        self.patch = _flops(network, patch)
        self.crop = _flops(fragments.maps, crop)
        self.voxel = _flops(fragments.logits, fragments.maps(crop), one, one, one, fragments.tail())

    def of(self, crops, learnt, looked_at):
        """Patches' worth of a step with so many crops, voxels learnt, and voxels looked at for hard ones."""
        return (crops * self.crop + (learnt + looked_at / 3) * self.voxel) / self.patch


def _flops(function, *tensors):
    with FlopCounterMode(display=False) as counter:
        function(*tensors)
    return counter.get_total_flops()


def _prepared(source, rows, network, settings, device):
    """Rotated patches and labels for some batches at a time, the next ones being made while these are used."""
    side = network.training_shape[-1] - network.patch_shape[-1] + 1  # of a map of outputs: 1 for all but the FCN
    batch_size = settings["batch_size"]
    read = _reader(source, rows, network.training_shape, side, device, settings["augment"])
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


def _reader(source, rows, shape, side, device, augment="none"):
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
            found = patches(source, some, shape, angles if angles.any() else None, device, augment)
            maps = label_maps(source, some, side, angles, device)
        return found, maps[:, 0, 0] if side == 1 else maps

    return read


def _channels_last(batch):
    """Slices innermost in memory: a tenth faster on a CPU, and what tensor cores want."""
    return batch.contiguous(memory_format=torch.channels_last)


def require_finite(loss, rate):
    """Raise a ModelError where a loss is no number; `rate` is the learning rate that training began with."""
    if not np.isfinite(float(loss)):
        raise ModelError(
            f"Training has diverged: the loss is {float(loss)}. It began with learning_rate={rate}: try {rate / 10:g}; "
            "if it happens at once, look at the scans' intensities. A run keeps its last good epoch."
        )
