"""A patch network over a whole scan: the same function as patch by patch, with the work shared between voxels.

Neighbouring patches overlap almost wholly, so each layer is computed once per slice instead of once per patch:

- An unpadded convolution does not know where a patch ends: it runs over the whole slice.
- Pooling with stride 2 keeps every second line of *its patch*, and which lines these are differs from voxel to voxel.
  Max-pooling fragments (Masci et al. 2013) keep all four choices, one beside the other on the batch axis:

      a b c d e f        a c e    b d f        The patches of one voxel in four lie wholly within one
      g h i j k l   ->   m o q    n p r        fragment, undilated; a voxel's row and column, modulo the
      m n o p q r        g i k    h j l        stride, say in which.
      s t u v w x        s u w    t v x

- A convolution with stride 5 (F's sparse one) is the same with 25 fragments: it runs with stride 1, then is split.
- From the first zero-padded convolution on, what the patch's border does is part of the function. The maps are tiny
  by then (2x2), so they are gathered for the voxels of the mask, and each layer is one matrix product for all of them.
- Where a network has two paths, each runs over its own part of the slice, and they meet in a voxel's features:

      |<-------- patch -------->|     a path whose window is narrower than the patch begins `margin` lines
      |<-margin->|<-window->|         further in, so that in both a voxel's patch begins at the voxel's own
                                      row and column
"""

import copy
from contextlib import contextmanager
from functools import partial
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn
from tqdm.auto import tqdm

from kit.models.networks import ModelError
from kit.models.patch_network import PatchNetwork

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
    >>> from kit.models.patch_network import build
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
            for inside in _parts(mask[k], dense.patch_shape[1] - 1):
                result[k, inside] = dense.slice_probability(padded[k : k + dense.patch_shape[0]], inside)
    return result


class _Dense:
    """A network taken apart into its paths and what follows where they meet, as functions of matrices (`head`)."""

    def __init__(self, network, device, dtype):
        if not isinstance(network, PatchNetwork):
            raise ModelError(f"{type(network).__name__} is no patch network; make one with kit.models.build")
        if not all(torch.isfinite(weight).all() for weight in network.parameters()):
            raise ModelError(f"network {network.name}: weights are not finite; its training diverged, train it again")
        self.device, self.dtype, self.patch_shape = device, dtype, network.patch_shape
        network = copy.deepcopy(network).to(device, dtype, memory_format=torch.channels_last)
        self.paths = [_Path(modules, window, network.patch_shape) for modules, window in network.paths]
        self.head = _head_as_matrices(network.head, [path.end for path in self.paths])

    def pad(self, image):
        """Surround the image by its minimum, so that each voxel has its patch and each fragment the same size."""
        half = [side // 2 for side in self.patch_shape]
        spare = max(path.step for path in self.paths) - 1
        widths = [(half[0], half[0]), *((side, side + spare) for side in half[1:])]
        return np.pad(image, widths, constant_values=image.min())

    def slice_probability(self, slab, mask):
        """(slices, padded rows, padded columns) and one slice's mask -> (voxels in the mask,) probabilities."""
        rows, columns = np.nonzero(mask)
        top, left = rows.min(), columns.min()
        slab = torch.from_numpy(slab[None, :, top:, left:]).to(self.device, self.dtype)
        chunks = [path.features(slab, rows - top, columns - left) for path in self.paths]
        return torch.cat([self._classify(parts) for parts in zip(*chunks, strict=True)]).cpu().numpy()

    def _classify(self, parts):
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)  # (voxels, all features)
        for layer in self.head:
            x = layer(x)
        return x.float().softmax(1)[:, 1]  # (voxels,)


class _Path:
    """One path taken apart into what is shared over a slice (`shared`) and what each voxel does alone (`own`).

    `end` is (features, side) of a voxel's last map, `step` the number of lines after which the fragments repeat.
    """

    def __init__(self, modules, window, patch_shape):
        self.window, self.margin = window, (patch_shape[1] - window) // 2
        padded = [i for i, m in enumerate(modules) if isinstance(m, nn.Conv2d) and m.padding != (0, 0)]
        cut = padded[0] if padded else len(modules)
        self.shared, self.strides, self.side = _fragmenting(modules[:cut], window)
        self.own, side = _as_matrices(modules[cut:], self.side)
        convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
        self.end = (convolutions[-1].out_channels if convolutions else patch_shape[0], side)
        self.step = prod(self.strides)

    def features(self, slab, rows, columns):
        """Features of the voxels at these rows and columns of (1, slices, row, column), chunk by chunk."""
        height, width = (-(-(line.max() + 1) // self.step) * self.step + self.window - 1 for line in (rows, columns))
        box = slab[:, :, self.margin : self.margin + height, self.margin : self.margin + width]
        maps = box.contiguous()  # (1, slices, height, width)
        for layer in self.shared:
            maps = layer(maps)
        fragments = maps.permute(0, 2, 3, 1)  # (fragment, row, column, features)
        index = torch.from_numpy(_addresses(rows, columns, self.strides, fragments.shape, self.side)).to(slab.device)
        pixels = fragments.reshape(-1, fragments.shape[-1])  # (fragment * row * column, features)
        for part in index.split(CHUNK):
            yield self._own_part(pixels, part)

    def _own_part(self, pixels, index):
        x = pixels[index].flatten(1)  # (voxels, side * side * features)
        for layer in self.own:
            x = layer(x)
        return x


def _parts(mask, border):
    """A slice's mask as masks that are worth a box each: its parts where they lie far apart, else the whole.

    A box costs its area with `border` lines and columns more, so that a few lesions far apart are cheaper one by one.
    """

    def cost(box):
        return prod(side.stop - side.start + border for side in box)

    parts, count = ndimage.label(mask, np.ones((3, 3)))
    (whole,) = ndimage.find_objects(mask.astype(np.uint8))
    if count == 1 or count > 20 or sum(map(cost, ndimage.find_objects(parts))) >= cost(whole):
        return [mask]
    return [parts == number for number in range(1, count + 1)]


def _fragmenting(modules, side):
    """Layers to run over a slice, the strides that became fragments, and the side of a patch's last map."""
    shared, strides = [], []
    for m in modules:
        if isinstance(m, nn.ReLU):
            shared.append(nn.ReLU(inplace=True))
            continue
        layer, width, stride = _without_stride(m)
        side = (side - width) // stride + 1
        shared.append(layer)
        if stride > 1 and side > 1:  # of a 1x1 map nothing is skipped
            shared.append(_splitting(stride))
            strides.append(stride)
    return shared, strides, side


def _without_stride(m):
    """A layer at stride 1, the lines from its kernel's first to its last, and the stride that was taken away."""
    if isinstance(m, nn.MaxPool2d):
        return partial(F.max_pool2d, kernel_size=m.kernel_size, stride=1), m.kernel_size, m.stride
    width = m.dilation[0] * (m.kernel_size[0] - 1) + 1
    return partial(F.conv2d, weight=m.weight, bias=m.bias, dilation=m.dilation), width, m.stride[0]


def _splitting(stride):
    """Keep each choice of every stride-th line as a fragment on the batch axis, the latest splitting slowest."""

    def split(maps):
        height, width = (size - size % stride for size in maps.shape[2:])  # what no patch of the box needs is left out
        starts = [(row, column) for row in range(stride) for column in range(stride)]
        return torch.cat([maps[:, :, row:height:stride, column:width:stride] for row, column in starts])

    return split


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
    """The layers of one side x side map as functions of (voxels, position * feature) matrices, features fastest.

    Returned with the side of the map that they leave.
    """
    own = []
    for m in modules:
        if isinstance(m, nn.Conv2d):
            taps = m.in_channels * side**2
            basis = torch.eye(taps, device=m.weight.device, dtype=m.weight.dtype)
            basis = basis.view(taps, side, side, m.in_channels).permute(0, 3, 1, 2)  # one map per input number
            response = F.conv2d(basis, m.weight, None, m.stride, m.padding, m.dilation)  # (taps, features, side, side)
            side = response.shape[-1]
            own.append(_affine(response.permute(0, 2, 3, 1).flatten(1).T, m.bias.repeat(side**2)))
        elif isinstance(m, nn.MaxPool2d):
            own.append(_small_pool(m, side))
            side = (side - m.kernel_size) // m.stride + 1
        else:
            own.append(nn.ReLU(inplace=True))
    return own, side


def _head_as_matrices(head, ends):
    """The FC layers without dropout; the first, trained on maps flattened features slowest, takes them fastest.

    `ends` has (features, side) of each path's last map.
    """
    functions, linear = [], [m for m in head if isinstance(m, nn.Linear)]
    for m in linear:
        weight = _features_fastest(m.weight, ends) if m is linear[0] else m.weight
        functions += [_affine(weight, m.bias), nn.ReLU(inplace=True)]
    return functions[:-1]  # the last gives logits


def _features_fastest(weight, ends):
    """Reorder the columns of (outputs, inputs), path by path, from (feature, row, column) to (row, column, feature)."""
    parts = weight.split([features * side**2 for features, side in ends], 1)
    maps = [part.unflatten(1, (features, side, side)) for part, (features, side) in zip(parts, ends, strict=True)]
    return torch.cat([part.permute(0, 2, 3, 1).flatten(1) for part in maps], 1)


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
