"""Training the U-Net on blocks around lesions and tissue, for a given time."""

from time import perf_counter, process_time

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from kit.experiments.runs import RunError, open_run
from kit.experiments.steps import choose_device, require_finite
from kit.models import WIDTHS, UNet, UNetDetector, dice_and_cross_entropy, save_weights
from kit.samplers import draw_segments, prepare
from kit.scans import cut_box, select

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the time after which weights are written
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
        weights_<percent>.safetensors.
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
        If the folder holds a run with other parameters, or one that was stopped: it cannot go on, because the rate
        falls with the time that is left.
    """
    device = choose_device(device)
    given = {"network": UNet.name, "minutes": minutes, "side": side, "pairs": pairs, "seed": seed}
    given |= {
        "widths": widths,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "intensities": intensities,
    }
    run = open_run(folder, given)
    if (run.folder / "history.csv").is_file():
        return _read_back(run)
    cohort = prepare(select(table, "train"), cache_dir or run.folder.parent / "cache", intensities=intensities,
                     progress=progress)  # fmt: skip
    network = UNet(widths, seed).to(device=device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=weight_decay)
    about = {"widths": " ".join(map(str, network.widths)), "intensities": intensities, "seed": str(seed)}
    clock = process_time if device.type == "cpu" else perf_counter
    started, losses, history, steps = clock(), [], [], 0
    with tqdm(total=round(60 * minutes), unit="s", desc="training a U-Net", disable=not progress) as bar:
        for image, label in _blocks(cohort, side, pairs, seed):
            share = min((clock() - started) / (60 * minutes), 1.0)
            optimizer.param_groups[0]["lr"] = learning_rate * max(1 - share, 0.01) ** 0.9
            losses.append(_learn(network, optimizer, image.to(device), label.to(device)))
            require_finite(losses[-1], learning_rate)
            bar.update(round(60 * minutes * share) - bar.n)
            steps += 1
            while len(history) < len(SHARES) and share >= SHARES[len(history)]:
                size = {"minutes": SHARES[len(history)] * minutes, "steps": steps}
                history.append({"share": SHARES[len(history)], **size, "train_loss": float(np.mean(losses or [0]))})
                _write(run, network, history, about)
                losses = []
            if share >= 1:
                return network, pd.DataFrame(history)


def _write(run, network, history, about):
    """The history so far, and the weights after the last share of the time."""
    run.save_table("history", pd.DataFrame(history))
    about = about | {"minutes": f"{history[-1]['minutes']:g}"}
    for name in (f"weights_{round(100 * history[-1]['share'])}", "weights"):
        save_weights(network, run.folder / f"{name}.safetensors", about)


def _read_back(run):
    history = run.load_table("history")
    if history.share.iloc[-1] < 1:
        done = f"{100 * history.share.iloc[-1]:g} % of its time"
        raise RunError(f"{run.folder}: a training that was stopped after {done}; delete it, or choose another folder")
    return UNetDetector.load(run.folder / "weights.safetensors").network, history


def _learn(network, optimizer, image, label):
    """One step; its loss."""
    network.train()
    optimizer.zero_grad()
    loss = dice_and_cross_entropy(network(image), label)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return loss.item()


def _blocks(cohort, side, pairs, seed):
    """Step after step without end: images and labels, float32 (2 * pairs, 1, side, side, side)."""
    rng, epoch = np.random.default_rng([seed, 5]), 0
    scale, offset = cohort.scale_and_offset
    while True:
        rows = draw_segments(cohort, "balanced", seed, epoch, steps=STEPS_DRAWN, step=1, count=3 * REACH)
        around = rows.around.isin(["lesion", "voxel"]).to_numpy()
        scans, places = rows.scan.cat.codes.to_numpy(), rows[["slice", "row", "column"]].to_numpy(int)
        order = np.stack([np.flatnonzero(around), np.flatnonzero(~around)], 1)  # (pair, 2)
        for some in order[: len(order) // pairs * pairs].reshape(-1, 2 * pairs):
            blocks = [
                _block(cohort.scans[index], place, side, scale[index], offset[index], rng)
                for index, place in zip(scans[some], places[some], strict=True)
            ]
            yield tuple(torch.from_numpy(np.stack(part)[:, None]) for part in zip(*blocks, strict=True))
        epoch += 1


def _block(scan, place, side, scale, offset, rng):
    """A block of a prepared scan and its label, float32 (side, side, side), half of them mirrored."""
    first = place - side // 2 + [rng.integers(-REACH, REACH + 1), 0, 0]
    shape, mirror = (side,) * 3, slice(None, None, -1 if rng.random() < 0.5 else 1)
    image = cut_box(scan.volume, first, shape, np.float16(scan.minimum)).astype(np.float32) * scale + offset
    label = cut_box(scan.label, first, shape, False).astype(np.float32)
    return np.ascontiguousarray(image[..., mirror]), np.ascontiguousarray(label[..., mirror])
