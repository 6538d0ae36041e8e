"""A patch network over a whole scan: the same function as patch by patch, with the work shared between voxels.

Neighbouring patches overlap almost wholly, so each layer is computed once per slice instead of once per patch:

- An unpadded convolution does not know where a patch ends: it runs over the whole slice.
- Pooling with stride 2 keeps every second line of *its patch*, and which lines these are differs from voxel to voxel.
  Max-pooling fragments (Masci et al. 2013) keep all four choices, one beside the other on the batch axis:

      a b c d e f        a c e    b d f        The patches of one voxel in four lie wholly within one
      g h i j k l   ->   m o q    n p r        fragment, undilated; a voxel's row and column, modulo the
      m n o p q r        g i k    h j l        stride, say in which.
      s t u v w x        s u w    t v x

- From the first zero-padded convolution on, what the patch's border does is part of the function. The maps are tiny
  by then (2x2), so they are gathered for the voxels of the mask, and each layer is one matrix product for all of them.
"""

import copy
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from kit.models import ModelError, PatchNetwork

CHUNK = 2048  # voxels in one matrix product: enough to be efficient, few enough to stay in the cache
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def probability_map(network, image, mask=None, *, device="auto", dtype="float32", progress=False):
    """Probability of lesion at every voxel of a scan, exactly as the network gives it patch by patch.

    Parameters
    ----------
    network : kit.models.PatchNetwork
        Used as in evaluation (no dropout) and left as it is.
    image : array_like, (slice, row, column)
        A normalised scan. A patch that reaches beyond it sees its minimum there (air), as training patches do.
    mask : array_like of bool, (slice, row, column), optional
        Where to compute; the map is 0 elsewhere. Default: everywhere.
    device : str or torch.device
        ``"auto"`` takes CUDA where there is one, else the CPU.
    dtype : str
        ``"float32"``: each value equals ``softmax(network(patch))[1]`` to 1e-5 (TF32 is off meanwhile).
        ``"bfloat16"``: faster on hardware made for it, but differs by up to about 1e-2.
    progress : bool
        Show a progress bar over slices.

    Returns
    -------
    numpy.ndarray of float32, (slice, row, column)
        In [0, 1].

    Raises
    ------
    ValueError
        For an image that is not three-dimensional, real and finite, a mask of another shape, or an unknown dtype.
    kit.models.ModelError
        For a network that is no patch network, or whose weights are not finite.

    References
    ----------
    Masci et al., "A fast learning algorithm for image segmentation with max-pooling convolutional networks", 2013.

    Examples
    --------
    >>> from kit.models import build
    >>> probability_map(build("A", seed=0), np.zeros((2, 9, 7))).shape
    (2, 9, 7)
    """
    image, mask = _checked(image, mask)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    result = np.zeros(image.shape, np.float32)
    with torch.inference_mode(), _full_float32():
        dense = _Dense(network, device, DTYPES[dtype])
        padded = dense.pad(image)
        for k in tqdm(np.flatnonzero(mask.any((1, 2))), unit="slice", disable=not progress):
            result[k, mask[k]] = dense.slice_probability(padded[k : k + dense.patch_shape[0]], mask[k])
    return result


class _Dense:
    """A network taken apart into what is shared over a slice (`shared`) and what each voxel does alone (`own`)."""

    def __init__(self, network, device, dtype):
        if not isinstance(network, PatchNetwork):
            raise ModelError(f"{type(network).__name__} is no patch network; make one with kit.models.build")
        if not all(torch.isfinite(weight).all() for weight in network.parameters()):
            raise ModelError(f"network {network.name}: weights are not finite; its training diverged, train it again")
        self.device, self.dtype, self.patch_shape = device, dtype, network.patch_shape
        trunk = copy.deepcopy(network.trunk).to(device, dtype, memory_format=torch.channels_last)
        padded = [i for i, m in enumerate(trunk) if isinstance(m, nn.Conv2d) and m.padding != (0, 0)]
        cut = padded[0] if padded else len(trunk)
        self.shared, self.strides, self.side = _fragmenting(trunk[:cut], network.patch_shape[1])
        self.own = _as_matrices([*trunk[cut:], *copy.deepcopy(network.head).to(device, dtype)], self.side)

    def pad(self, image):
        """Surround the image by its minimum, so that each voxel has its patch and each fragment the same size."""
        half = [side // 2 for side in self.patch_shape]
        spare = prod(self.strides) - 1
        widths = [(half[0], half[0]), *((side, side + spare) for side in half[1:])]
        return np.pad(image, widths, constant_values=image.min())

    def slice_probability(self, slab, mask):
        """(slices, padded rows, padded columns) and one slice's mask -> (voxels in the mask,) probabilities."""
        rows, columns = np.nonzero(mask)
        top, left = rows.min(), columns.min()
        rows, columns = rows - top, columns - left
        step = prod(self.strides)
        height, width = (-(-(line.max() + 1) // step) * step + self.patch_shape[1] - 1 for line in (rows, columns))
        box = np.ascontiguousarray(slab[None, :, top : top + height, left : left + width])
        maps = torch.from_numpy(box).to(self.device, self.dtype)  # (1, slices, height, width)
        for layer in self.shared:
            maps = layer(maps)
        fragments = maps.permute(0, 2, 3, 1)  # (fragment, row, column, features)
        index = torch.from_numpy(_addresses(rows, columns, self.strides, fragments.shape, self.side)).to(self.device)
        pixels = fragments.reshape(-1, fragments.shape[-1])  # (fragment * row * column, features)
        return torch.cat([self._own_part(pixels, part) for part in index.split(CHUNK)]).cpu().numpy()

    def _own_part(self, pixels, index):
        x = pixels[index].flatten(1)  # (voxels, side * side * features)
        for layer in self.own:
            x = layer(x)
        return x.float().softmax(1)[:, 1]  # (voxels,)


def _fragmenting(modules, side):
    """Layers to run over a slice, the strides that became fragments, and the side of a patch's last map."""
    shared, strides = [], []
    for m in modules:
        if isinstance(m, nn.MaxPool2d):
            side = (side - m.kernel_size) // m.stride + 1
            stride = m.stride if side > 1 else 1  # of a 1x1 map nothing is skipped
            shared.append(_pool(m.kernel_size, stride))
            strides += [stride]
        else:
            side -= m.kernel_size[0] - 1 if isinstance(m, nn.Conv2d) else 0
            shared.append(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m)
    return shared, strides, side


def _pool(window, stride):
    """Max-pooling that keeps each choice of lines as a fragment on the batch axis, the latest pooling slowest."""

    def pool(maps):
        maps = F.max_pool2d(maps, window, 1)
        height, width = (size - size % stride for size in maps.shape[2:])  # what no patch of the box needs is left out
        starts = [(row, column) for row in range(stride) for column in range(stride)]
        return torch.cat([maps[:, :, row:height:stride, column:width:stride] for row, column in starts])

    return pool


def _addresses(rows, columns, strides, shape, side):
    """Positions of each voxel's side x side map among the fragments' pixels: (voxels, side * side) int64."""
    fragment, count = 0, 1
    for stride in strides:
        fragment = fragment + count * (rows % stride * stride + columns % stride)
        rows, columns, count = rows // stride, columns // stride, count * stride**2
    _, height, width, _ = shape
    window = (np.arange(side)[:, None] * width + np.arange(side)).ravel()
    return ((fragment * height + rows) * width + columns)[:, None] + window


def _as_matrices(modules, side):
    """The layers of one side x side map as functions of (voxels, position * feature) matrices, features fastest."""
    own = []
    for m in modules:
        if isinstance(m, nn.Conv2d):
            taps = m.in_channels * side**2
            basis = torch.eye(taps, device=m.weight.device, dtype=m.weight.dtype)
            basis = basis.view(taps, side, side, m.in_channels).permute(0, 3, 1, 2)  # one map per input number
            response = F.conv2d(basis, m.weight, padding=m.padding)  # (taps, features, side, side)
            side = response.shape[-1]
            own.append(_affine(response.permute(0, 2, 3, 1).flatten(1).T, m.bias.repeat(side**2)))
        elif isinstance(m, nn.MaxPool2d):
            own.append(_small_pool(m, side))
            side = (side - m.kernel_size) // m.stride + 1
        elif isinstance(m, nn.Linear):
            weight = m.weight.view(m.out_features, -1, side, side).permute(0, 2, 3, 1)
            own.append(_affine(weight.flatten(1), m.bias))
            side = 1
        elif isinstance(m, nn.ReLU):
            own.append(nn.ReLU(inplace=True))
    return own


def _affine(weight, bias):
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight, bias)


def _small_pool(pool, side):
    def small_pool(x):
        maps = x.view(len(x), side, side, -1).permute(0, 3, 1, 2)  # (voxels, features, side, side)
        return pool(maps).permute(0, 2, 3, 1).flatten(1)

    return small_pool


def _checked(image, mask):
    image = np.asarray(image)
    if image.ndim != 3 or image.size == 0 or image.dtype.kind not in "fiub":
        raise ValueError(f"image {image.dtype} of shape {image.shape}: give real numbers (slice, row, column)")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        where = tuple(np.argwhere(~np.isfinite(image))[0].tolist())
        raise ValueError(f"image is not finite at (slice, row, column) {where}; replace such voxels before")
    mask = np.ones(image.shape, bool) if mask is None else np.asarray(mask) != 0
    if mask.shape != image.shape:
        raise ValueError(f"mask of shape {mask.shape} for an image of shape {image.shape}; both lie on one grid")
    return image, mask


@contextmanager
def _full_float32():
    """Keep float32 products from being rounded to TF32 or bfloat16 on the way, whatever the caller has allowed."""
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):  # torch's settings by operation refuse to be mixed with the older switches
        operations = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        settings = [(operation, "fp32_precision", "ieee") for operation in operations]
    else:
        settings = [(owner, "allow_tf32", False) for owner in (backends.cuda.matmul, backends.cudnn)]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, exact in settings:
            setattr(owner, name, exact)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)
