"""Training the U-Net on blocks around lesions and tissue, for a given time."""

from dataclasses import asdict, dataclass, field
from itertools import count, islice
from time import perf_counter, process_time

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from kit.experiments.runs import open_run, refuse_other_parameters
from kit.experiments.steps import choose_device, require_finite
from kit.experiments.training import fingerprint
from kit.models import WIDTHS, UNet, UNetDetector, dice_and_cross_entropy, save_weights
from kit.samplers import draw_segments, prepare
from kit.scans import cut_box, select

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the time after which weights are written
CHECKPOINTS = 64  # in the whole time
STEPS_DRAWN = 25  # places are drawn for so many steps of the sampler's eight crops at once
REACH = 16  # a block's middle lies up to so many voxels from what it was drawn around


def train_unet(
    table,
    folder,
    *,
    minutes,
    cache_dir=None,
    side=64,
    pairs=1,
    widths=WIDTHS,
    learning_rate=1e-3,
    weight_decay=1e-4,
    intensities="brain",
    device="auto",
    seed=0,
    progress=True,
):
    """Train a U-Net for some minutes; weights after 1/16 to all of the time lie in the folder.

    Half of the blocks lie around lesions, drawn by lesion and by voxel in turn, half around tissue, as the crops of
    `kit.samplers.draw_segments`; every second one is mirrored. AdamW, whose rate falls to 0 over the time as
    (1 - share) ** 0.9.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`; the training scans are used.
    folder : path
        The run's folder, see `kit.experiments.open_run`: history.csv, weights.safetensors and
        weights_<percent>.safetensors. A training that was stopped goes on from its last checkpoint, of which 64 are
        written.
    minutes : float
        Of the processor on a CPU, so that a machine that does other work beside it gives the same network; by the
        clock on a GPU.
    cache_dir : path, optional
        Of prepared scans.
    side : int
        Voxels along a block's side.
    pairs : int
        Of a block around a lesion and one around tissue, in a step.
    widths : sequence of int
        Features at each resolution, see `kit.models.UNet`.
    learning_rate, weight_decay : float
    intensities : {"brain", "scan"}
        See `kit.samplers.prepare`.
    device : str
    seed : int
    progress : bool

    Returns
    -------
    UNet, pandas.DataFrame
        The network, and one row for each weights file: share, minutes, steps, train_loss (since the last row). Read
        back where the folder has them already.

    Raises
    ------
    kit.models.ModelError
        If the loss is no longer a number.
    kit.experiments.RunError
        If the folder holds a run with other parameters, or its checkpoint comes from other scans.
    """
    device = choose_device(device)
    given = {"network": UNet.name, "minutes": minutes, "side": side, "pairs": pairs, "seed": seed}
    given |= {"widths": widths, "learning_rate": learning_rate}
    given |= {"weight_decay": weight_decay, "intensities": intensities}
    run = open_run(folder, given)
    if (run.folder / "history.csv").is_file() and run.load_table("history").share.iloc[-1] == 1:
        return UNetDetector.load(run.weights_path).network, run.load_table("history")
    cohort = prepare(select(table, "train"), cache_dir or run.folder.parent / "cache", intensities=intensities,
                     progress=progress)  # fmt: skip
    network = UNet(widths, seed).to(device=device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=weight_decay)
    scans = fingerprint(cohort)
    state = _resume(run, network, optimizer, scans)
    blocks = _blocks(cohort, side, pairs, seed, state.steps)
    with tqdm(total=round(60 * minutes), unit="s", desc="training a U-Net", disable=not progress) as bar:
        for before in _steps(network, optimizer, state, blocks, 60 * minutes, learning_rate, device):
            _write(run, network, state, minutes, seed)
            if int(before * CHECKPOINTS) < int(state.share * CHECKPOINTS):
                run.save_checkpoint(*_checkpoint(network, optimizer, state, scans))
            bar.update(round(60 * minutes * state.share) - bar.n)
    return network, pd.DataFrame(state.history)


def _steps(network, optimizer, state, blocks, seconds, learning_rate, device):
    """Take steps until the time is over; after each, the share of the time that had passed before it."""
    clock = process_time if device.type == "cpu" else perf_counter
    begun = clock() - state.seconds
    while state.share < 1:
        state.seconds = clock() - begun
        before, state.share = state.share, min(state.seconds / seconds, 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate * max(1 - state.share, 0.01) ** 0.9
        state.losses.append(_learn(network, optimizer, *(part.to(device) for part in next(blocks))))
        require_finite(state.losses[-1], learning_rate)
        state.steps += 1
        yield before


@dataclass
class _State:
    """Where a training stands: what its checkpoint keeps beside the tensors."""

    share: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    losses: list = field(default_factory=list)  # since the last row of the history
    history: list = field(default_factory=list)


def _write(run, network, state, minutes, seed):
    """Where a share of the time is over, the weights, and then the history: it says which weights there are."""
    due = [share for share in SHARES[len(state.history) :] if share <= state.share]
    for share in due:
        loss = float(np.mean(state.losses or [0]))
        state.history.append({"share": share, "minutes": share * minutes, "steps": state.steps, "train_loss": loss})
        state.losses = []
        about = {"widths": " ".join(map(str, network.widths)), "intensities": run.parameters["intensities"]}
        about |= {"seed": str(seed), "minutes": f"{share * minutes:g}"}
        for name in (f"weights_{round(100 * share)}", "weights"):
            save_weights(network, run.folder / f"{name}.safetensors", about)
    if due:
        run.save_table("history", pd.DataFrame(state.history))


def _checkpoint(network, optimizer, state, scans):
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"moments.{number}.{name}": value for name, value in moments.items()}
    return tensors, {"progress": asdict(state), "settings": {"training_scans": scans}}


def _resume(run, network, optimizer, scans):
    """The state of the last checkpoint, put into network and optimizer; or a fresh start."""
    found = run.load_checkpoint()
    if found is None:
        return _State()
    tensors, content = found
    refuse_other_parameters(content["settings"], {"training_scans": scans}, run.folder)
    part, moments = {}, {}
    for name, value in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "network":
            part[rest] = value
        else:
            number, rest = rest.split(".")
            moments.setdefault(int(number), {})[rest] = value
    network.load_state_dict(part)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return _State(**content["progress"])


def _learn(network, optimizer, image, label):
    """One step; its loss."""
    network.train()
    optimizer.zero_grad()
    loss = dice_and_cross_entropy(network(image), label)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return loss.item()


def _blocks(cohort, side, pairs, seed, first):
    """From step `first` on without end: images and labels, float32 (2 * pairs, 1, side, side, side)."""
    scale, offset = cohort.scale_and_offset
    for step, (scans, places) in islice(enumerate(_places(cohort, pairs, seed)), first, None):
        rng = np.random.default_rng([seed, 5, step])
        blocks = [
            _block(cohort.scans[index], place, side, scale[index], offset[index], rng)
            for index, place in zip(scans, places, strict=True)
        ]
        yield tuple(torch.from_numpy(np.stack(part)[:, None]) for part in zip(*blocks, strict=True))


def _places(cohort, pairs, seed):
    """Step after step without end: numbers of scans (2 * pairs,) and voxels in them (2 * pairs, 3)."""
    for epoch in count():
        rows = draw_segments(cohort, "balanced", seed, epoch, steps=STEPS_DRAWN, step=1, count=3 * REACH)
        around = rows.around.isin(["lesion", "voxel"]).to_numpy()
        scans, places = rows.scan.cat.codes.to_numpy(), rows[["slice", "row", "column"]].to_numpy(int)
        order = np.stack([np.flatnonzero(around), np.flatnonzero(~around)], 1)  # (pair, 2)
        for some in order[: len(order) // pairs * pairs].reshape(-1, 2 * pairs):
            yield scans[some], places[some]


def _block(scan, place, side, scale, offset, rng):
    """A block of a prepared scan and its label, float32 (side, side, side), half of them mirrored."""
    first = place - side // 2 + [rng.integers(-REACH, REACH + 1), 0, 0]
    shape, mirror = (side,) * 3, slice(None, None, -1 if rng.random() < 0.5 else 1)
    image = cut_box(scan.volume, first, shape, np.float16(scan.minimum)).astype(np.float32) * scale + offset
    label = cut_box(scan.label, first, shape, False).astype(np.float32)
    return np.ascontiguousarray(image[..., mirror]), np.ascontiguousarray(label[..., mirror])
