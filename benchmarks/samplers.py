"""How many patches a second come out of a prepared cohort, and how many a network learns from in the same minute.

    python benchmarks/samplers.py [--network D] [--threads 2] [--dtype float32] [--device cuda] [--batch 32]

Prints one CSV line a figure. The cohort is made up (two scans of 160 x 256 x 256), so that nothing has to be at hand.
The plain forward and backward rate, on patches that lie ready, is the ceiling for what training can reach.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import nibabel
import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from kit.experiments import environment, train
from kit.models import build
from kit.samplers import Places, Resident, draw, patches, prepare

SHAPE = (160, 256, 256)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
CHUNK = 256


def main(network="D", seconds=5.0, threads=2, dtype="float32", device="cpu", batch=32):
    torch.set_num_threads(threads)
    print("what,patches_per_second,hardware,threads,dtype,batch")
    told = environment()["hardware"]
    hardware = told["gpu"] if device == "cuda" else told["cpu_capability"]

    def tell(what, rate, threads=threads):
        print(f"{what},{rate:.0f},{hardware},{threads},{dtype},{batch}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        cohort = prepare(made_up(Path(folder)), Path(folder) / "cache", progress=False)
        module = build(network, seed=1).to(device)
        torch.set_num_threads(1)
        tell("gathered", gathered(cohort, module.patch_shape, seconds, rotated=False), threads=1)
        tell("gathered and rotated", gathered(cohort, module.patch_shape, seconds, rotated=True), threads=1)
        torch.set_num_threads(threads)
        tell("read from a resident cohort and rotated", resident(cohort, module.patch_shape, seconds, device))
        ceiling = learnt(module, seconds, dtype, device, batch)
        tell(f"forward and backward {network}", ceiling)
        budget = max(CHUNK, int((10 if device == "cuda" else 1) * ceiling * seconds))  # a GPU's replayed step is faster
        tell(f"trained {network}", trained(module, cohort, budget, dtype, device, batch))
        tell(f"forward and backward {network} again", learnt(module, seconds, dtype, device, batch))


def gathered(cohort, patch_shape, seconds, rotated):
    """Patches a second, `CHUNK` at a time."""
    rows = draw(cohort, seed=1)
    done, started = 0, perf_counter()
    while perf_counter() - started < seconds:
        some = rows.iloc[np.arange(done, done + CHUNK) % len(rows)]
        done += len(patches(cohort, some, patch_shape, some["angle"] if rotated else None))
    return done / (perf_counter() - started)


def resident(cohort, patch_shape, seconds, device):
    """Patches a second from a cohort that lies on the device, 2048 at a time."""
    scans, rows = Resident(cohort, device), draw(cohort, seed=1)
    places = Places.of(rows.iloc[np.arange(2048) % len(rows)], device)
    done, started = 0, perf_counter()
    while perf_counter() - started < seconds:
        scans.patches(places, patch_shape).sum().item()  # waits for the device
        done += 2048
    return done / (perf_counter() - started)


def learnt(network, seconds, dtype, device, batch_size):
    """Patches a second through forward and backward alone, always the same batch, as it is (no CUDA graph)."""
    network.to(memory_format=torch.channels_last).train()
    batch = torch.randn(batch_size, *network.patch_shape, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.arange(batch_size, device=device) % 2
    done, started = 0, perf_counter()
    while perf_counter() - started < seconds:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = functional.cross_entropy(network(batch).float(), label)
        network.zero_grad()
        loss.backward()
        done += batch_size
    loss.item()  # waits for the device
    return done / (perf_counter() - started)


def trained(network, cohort, budget, dtype, device, batch):
    """Patches a second through `kit.experiments.train`, with all that belongs to it but hardly any validation."""
    given = {"epochs": 1, "patches_per_epoch": budget, "validation_patches": 2, "learning_rate": 1e-6}
    given |= {"dtype": dtype, "device": device, "batch_size": batch, "progress": False}
    history = train(network, cohort, cohort, **given)
    return history.patches_worth.iloc[0] / history.seconds.iloc[0]


def made_up(folder):
    """Manifest rows of two scans: noise inside an ellipsoid, a bright ball as lesion."""
    grid = np.indices(SHAPE, dtype=np.float32)
    head = sum(((g / n - 0.5) / 0.4) ** 2 for g, n in zip(grid, SHAPE, strict=True)) < 1
    label = sum((g - n / 2) ** 2 for g, n in zip(grid, SHAPE, strict=True)) < 12**2
    rows = []
    for seed in (1, 2):
        image = (head * np.random.default_rng(seed).normal(300, 100, SHAPE).clip(50) + 300 * label).astype(np.float32)
        row = {"scan_id": f"s{seed}", "image": str(folder / f"{seed}.nii"), "label": str(folder / f"{seed}-seg.nii")}
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(image.T), AFFINE), row["image"])
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(label.T.astype(np.uint8)), AFFINE), row["label"])
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="D")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=32)
    main(**vars(parser.parse_args()))
