"""A small 3-D U-Net, today's default choice beside the thesis' patch networks: outlines whole blocks at once."""

import copy
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import nn
from torch.nn import functional

from kit.models.dense import device_and_dtype
from kit.models.detector import VOXEL_MM, require_voxels
from kit.models.networks import ModelError
from kit.models.patch_network import read_weights, weights_metadata
from kit.scans import normalise

WIDTHS = (8, 24, 48, 96, 128)  # features at each resolution; half the rows, columns and slices from one to the next
GROUPS = 8  # of features that are normalised together


class UNet(nn.Module):
    """From (N, 1, slice, row, column) to the logits of lesion (N, 1, slice, row, column); 2.1 million parameters.

    Two 3x3x3 convolutions at each resolution downwards, one after each junction upwards, with group normalisation and
    leaky ReLU. Sides are multiples of 2 ** (len(widths) - 1). The finest resolution has few features: a convolution
    there costs eight times what it costs one below.

    References
    ----------
    O. Cicek et al., 3D U-Net: learning dense volumetric segmentation from sparse annotation, MICCAI 2016; F. Isensee
    et al., nnU-Net, Nature Methods 18:203, 2021.

    Examples
    --------
    >>> UNet((8, 16))(torch.zeros(1, 1, 4, 6, 8)).shape
    torch.Size([1, 1, 4, 6, 8])
    """

    name = "UNet"

    def __init__(self, widths=WIDTHS, seed=0):
        super().__init__()
        self.widths = tuple(widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList(
                nn.Sequential(_convolution(a, b), _convolution(b, b)) for a, b in pairwise((1, *widths))
            )
            self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in pairwise(widths))
            self.join = nn.ModuleList(_convolution(2 * width, width) for width in widths[:-1])
            self.head = nn.Conv3d(widths[0], 1, 1)
            nn.init.constant_(self.head.bias, -3.0)  # most voxels are healthy

    def forward(self, x):
        kept = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool3d(x, 2) if level else x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = self.join[level](torch.cat([kept[level], self.up[level](x)], 1))
        return self.head(x)  # (N, 1, slice, row, column)


@dataclass(frozen=True)
class UNetDetector:
    """A trained U-Net with the intensities it was trained on, called like `kit.models.Detector`."""

    network: UNet
    statistics: tuple | str = "brain"

    @classmethod
    def load(cls, path):
        """Read weights that `kit.experiments.train_unet` wrote; ModelError for a missing file or other weights."""
        about = weights_metadata(path)
        if about.get("network") != UNet.name:
            raise ModelError(f"{path}: holds weights of network {about.get('network')}, not of a U-Net")
        network = UNet(tuple(int(width) for width in about["widths"].split()))
        network.load_state_dict(read_weights(path))
        return cls(network, about["intensities"])

    def __call__(self, image, mask=None, *, spacing_mm=VOXEL_MM, **options):
        """Map a raw image, of 1 mm voxels, to a probability map, see `block_map`."""
        require_voxels(spacing_mm)
        return block_map(self.network, normalise(image, self.statistics), mask, **options)


def dice_and_cross_entropy(logits, label):
    """Return 1 - Dice, over all voxels of the batch, plus the mean cross entropy; two (N, 1, ...) tensors.

    >>> label = torch.tensor([[[0.0, 1.0]]])
    >>> round(dice_and_cross_entropy(40 * (label - 0.5), label).item(), 3)
    0.0
    """
    found = torch.sigmoid(logits)
    dice = (2 * (found * label).sum() + 1) / (found.sum() + label.sum() + 1)
    return 1 - dice + functional.binary_cross_entropy_with_logits(logits, label)


def block_map(network, image, mask=None, *, side=96, overlap=0.25, device="auto", dtype="float32", progress=False):
    """Probability of lesion in a scan, block by block; where blocks overlap, their middles count more.

    Parameters
    ----------
    network : UNet
        Or any module from (1, 1, side, side, side) to logits of that shape. Used as in evaluation and left as it is.
    image : (slice, row, column) float array
        A normalised scan.
    mask : (slice, row, column) bool array, optional
        Where lesions are looked for; the map is 0 elsewhere, and blocks without any of it are not computed.
    side : int
        Voxels along a block's side, a multiple of 16 for `UNet`.
    overlap : float
        The least share of a block's side that it has in common with the next.
    device, dtype, progress
        As in `kit.models.probability_map`; there is no progress bar.

    Returns
    -------
    float32 (slice, row, column) array

    Raises ValueError for an unknown dtype.
    """
    device, dtype = device_and_dtype(device, dtype)
    image = np.asarray(image, np.float32)
    mask = np.ones(image.shape, bool) if mask is None else np.asarray(mask, bool)
    total, weight = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    window = _window(side)
    network = copy.deepcopy(network).to(device).eval()
    for box in _blocks(mask, side, overlap):
        part = image[box]
        padding = [(0, side - length) for length in part.shape]
        block = torch.from_numpy(np.pad(part, padding, constant_values=image.min()))[None, None].to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = torch.sigmoid(network(block).float())[0, 0].cpu().numpy()  # (side, side, side)
        inner = tuple(slice(length) for length in part.shape)
        total[box] += (found * window)[inner]
        weight[box] += window[inner]
    return np.where(mask, total / np.maximum(weight, 1e-9), 0).astype(np.float32)


def _convolution(features_in, features_out):
    layers = nn.Conv3d(features_in, features_out, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, features_out)
    return nn.Sequential(*layers, nn.LeakyReLU(0.01, inplace=True))


def _window(side):
    """Weights of a block's voxels, (side, side, side): a Gaussian of an eighth of its side."""
    line = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2) + 1e-3
    return (line[:, None, None] * line[:, None] * line).astype(np.float32)


def _blocks(mask, side, overlap):
    """Boxes of at most `side` voxels a side that cover the mask and hold some of it."""
    for around in find_objects(mask.astype(np.uint8)):
        starts = [_starts(part.start, part.stop, length, side, overlap)
                  for part, length in zip(around, mask.shape, strict=True)]  # fmt: skip
        for corner in product(*starts):
            box = tuple(slice(at, at + side) for at in corner)
            if mask[box].any():
                yield box


def _starts(first, stop, length, side, overlap):
    """Where blocks begin along an axis of `length` voxels so that they cover those from `first` to `stop`."""
    last = max(min(stop, length) - side, 0)
    first = min(first, last)
    count = int(np.ceil((last - first) / (side * (1 - overlap)))) + 1
    return sorted({round(at) for at in np.linspace(first, last, count)})
