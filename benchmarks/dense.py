"""How fast a whole scan is: patch by patch against the dense form, in one run on one machine.

    python benchmarks/dense.py                         # D and A over brain-sized masks, as a table
    python benchmarks/dense.py --csv benchmarks/dense.csv --networks A B C D E F G H FCN --voxels 1.6e6

Patch by patch is timed on a sample of voxels and extrapolated to the mask (columns marked so). The plain float32
matrix product (2048x1024 @ 1024x1024) is timed before and after each map, because it is what bounds the dense form
and because it shows how busy the machine was: compare rates within a row, not times between rows or machines.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kit.models import build, layers, probability_map

SHAPE = (160, 256, 256)


def main():
    """Measure every network over every mask, print the table and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["D", "A"])
    parser.add_argument("--voxels", nargs="+", type=float, default=[1.6e6, 4e6], help="sizes of the ellipsoid masks")
    parser.add_argument("--sample", type=int, default=512, help="voxels classified patch by patch")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    rows = []
    for name in arguments.networks:
        for voxels in arguments.voxels:
            mask = ellipsoid(voxels)
            rows.append(measure(name, image, mask, arguments.sample, arguments.dtype, arguments.device))
    table = pd.DataFrame(rows)
    print(f"{processor(arguments.device)}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if arguments.csv:
        table.assign(
            processor=processor(arguments.device), threads=torch.get_num_threads(), torch=torch.__version__
        ).to_csv(arguments.csv, index=False, float_format="%.4g")


def measure(name, image, mask, sample, dtype, device):
    """One row of the table: seconds, arithmetic and rates of one network over one mask."""
    network = build(name, seed=0).eval().to(device)
    probability_map(network, image[:5], mask[80:81].repeat(5, 0), device=device, dtype=dtype)  # warm up
    before = matrix_rate(device)
    start = time.perf_counter()
    probability_map(network, image, mask, device=device, dtype=dtype, progress=True)
    dense = time.perf_counter() - start
    after = matrix_rate(device)
    patchwise = seconds_per_patch(network, image, mask, sample, device) * mask.sum()
    return {
        "network": name,
        "dtype": dtype,
        "voxels": int(mask.sum()),
        "dense_s": dense,
        "dense_voxels_per_s": mask.sum() / dense,
        "mflop_per_voxel": flop_per_voxel(name) / 1e6,
        "dense_gflop_per_s": flop_per_voxel(name) * mask.sum() / dense / 1e9,
        "matmul_gflop_per_s": (before + after) / 2,
        "patchwise_s_extrapolated": patchwise,
        "ratio_extrapolated": patchwise / dense,
    }


def ellipsoid(voxels):
    """A centred ellipsoid of about so many voxels, of a head's proportions: (slice, row, column) bool."""
    radii = np.array([0.4, 0.47, 0.38]) * SHAPE
    radii *= (voxels / (4 / 3 * np.pi * radii.prod())) ** (1 / 3)
    axes = [((np.arange(size) - size / 2 + 0.5) / radius) ** 2 for size, radius in zip(SHAPE, radii, strict=True)]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2] < 1


def flop_per_voxel(name):
    """Arithmetic of the dense form per voxel: shared layers once, those of the voxel's own map at every position."""
    total, shared, path = 0, True, "main"
    for layer in layers(name):
        shared = not layer.padding and (shared or layer.path != path)  # each path begins with layers that are shared
        path = layer.path
        if layer.kind == "FC":
            total += 2 * layer.features_in * layer.kernel**2 * layer.features_out
        elif layer.kind == "conv":
            taps = layer.kernel**2 if shared else layer.map_in**2 * layer.map_out**2
            total += 2 * taps * layer.features_in * layer.features_out
    return total


def seconds_per_patch(network, image, mask, sample, device, batch=32):
    """Time of a patch through the network, cutting included, over random voxels of the mask.

    Channels last and batches of 32 were the fastest ways found on a CPU, so that the comparison is a fair one.
    """
    network = network.to(memory_format=torch.channels_last)
    half = [side // 2 for side in network.patch_shape]
    padded = np.pad(image, [(side, side) for side in half], constant_values=image.min())
    windows = np.lib.stride_tricks.sliding_window_view(padded, network.patch_shape)
    chosen = np.random.default_rng(1).permutation(np.argwhere(mask))[: sample + batch]
    with torch.inference_mode():
        for first in range(0, len(chosen), batch):
            if first == batch:  # the first batch only warms up
                start = time.perf_counter()
            patches = torch.from_numpy(windows[tuple(chosen[first : first + batch].T)]).to(device)
            network(patches.contiguous(memory_format=torch.channels_last)).softmax(1).cpu()
        return (time.perf_counter() - start) / (len(chosen) - batch)


def matrix_rate(device, repeats=30):
    """Median GFLOP/s of a plain float32 matrix product, 2048x1024 @ 1024x1024."""
    left, right = torch.rand(2048, 1024, device=device), torch.rand(1024, 1024, device=device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * 2048 * 1024 * 1024 / np.median(seconds) / 1e9


def processor(device):
    """The processor's own name, as far as the system tells."""
    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    names = (
        [line for line in information.read_text().splitlines() if "model name" in line] if information.exists() else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
