"""A patch network over crops that are larger than its patch: many voxels in one pass, each with its patch's own value.

Neighbouring patches overlap almost wholly, so each layer is computed once for a crop instead of once for a patch:

- An unpadded convolution does not know where a patch ends: it runs over the whole crop.
- Pooling with stride 2 keeps every second line of *its patch*, and which lines these are differs from voxel to voxel.
  Max-pooling fragments (Masci et al. 2013) keep all four choices, one beside the other on the batch axis:

      a b c d e f        a c e    b d f        The patches of one voxel in four lie wholly within one
      g h i j k l   ->   m o q    n p r        fragment, undilated; a voxel's row and column, modulo the
      m n o p q r        g i k    h j l        stride, say in which.
      s t u v w x        s u w    t v x

- Where only the voxels of a lattice are wanted, every `step`-th in row and column, the first fragment will do: pooling
  simply keeps its stride. On a lattice of 4, D costs about 4 MFLOP a voxel that way; a patch alone costs 212.
- A convolution with stride 5 (F's sparse one) is the same with 25 fragments.
- From the first zero-padded convolution on, what the patch's border does is part of the function. The maps are tiny
  by then (2x2), so they are gathered for the voxels that are wanted, and each layer is one matrix product for all.
- Where a network has two paths, each runs over its own part of the crop, and they meet in a voxel's features:

      |<-------- patch -------->|     a path whose window is narrower than the patch begins `margin` lines
      |<-margin->|<-window->|         further in, so that in both a voxel's patch begins at the voxel's own
                                      row and column

So there are three ways through one set of layers: a crop of one patch is that patch; `step=4` is a lattice to learn
from; `step=1` is every voxel of a whole slice. Values and gradients are those of the single patches.

Masci et al., "A fast learning algorithm for image segmentation with max-pooling convolutional networks", ICIP 2013.
"""

from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from kit.models.networks import ModelError
from kit.models.patch_network import PatchNetwork

WIDEST_STEP = 4  # of a lattice to learn from: wider ones take the price of a voxel back up


class Fragments(nn.Module):
    """A patch network's layers, applied to crops: (crop, slice, row, column) -> logits of a lattice of voxels.

    Parameters
    ----------
    network : kit.models.PatchNetwork
        Its parameters are used, not copied: what is learnt here is learnt there.
    step : int
        Rows and columns from one voxel of the lattice to the next; 1 is every voxel.

    Raises
    ------
    ModelError
        If it is no patch network, or `step` is not positive.

    Examples
    --------
    >>> from kit.models import build
    >>> fragments = Fragments(build("D", seed=0), step=4)
    >>> fragments(torch.zeros(1, 5, 55, 59)).shape
    torch.Size([1, 2, 2, 3])
    """

    def __init__(self, network, step=1):
        super().__init__()
        if not isinstance(network, PatchNetwork):
            raise ModelError(f"{type(network).__name__} is no patch network; make one with kit.models.build")
        if not isinstance(step, int) or step < 1:
            raise ModelError(f"step={step!r}: give how many voxels apart the lattice lies, 1 or more")
        self.network, self.step = network, step
        self.paths = [_Path(modules, window, network.patch_shape, step) for modules, window in network.paths]

    def forward(self, crops):
        """Logits (crop, 2, row, column), healthy first, of all voxels of the lattice; a patch begins at the corner."""
        counts = [(size - self.network.patch_shape[1]) // self.step + 1 for size in crops.shape[2:]]
        places = torch.meshgrid(*(torch.arange(n, device=crops.device) for n in (len(crops), *counts)), indexing="ij")
        crop, row, column = (place.flatten() for place in places)
        logits = self.logits(self.maps(crops), crop, self.step * row, self.step * column, self.tail())
        return logits.view(len(crops), *counts, 2).permute(0, 3, 1, 2)  # (crop, 2, row, column)

    def side(self, count):
        """Rows of a crop that holds `count` voxels of the lattice from top to bottom."""
        return self.network.patch_shape[1] + self.step * (count - 1)

    def maps(self, crops):
        """What the voxels of each crop share: for each path, maps (fragment, features, row, column)."""
        return [path.maps(crops) for path in self.paths]

    def tail(self):
        """What each voxel does alone, made of the weights as they are now: for `logits`, once a step or a scan."""
        own = [_as_matrices(path.own, path.side) for path in self.paths]
        ends = [(path.features(), side) for path, (_, side) in zip(self.paths, own, strict=True)]
        return [layers for layers, _ in own], _head_as_matrices(self.network.head, ends)

    def logits(self, maps, crop, row, column, tail):
        """Logits (voxel, 2) of some voxels.

        Parameters
        ----------
        maps : list of torch.Tensor
            From `maps`.
        crop, row, column : (voxel,) int64 torch.Tensor
            Where each voxel's patch begins: multiples of `step`.
        tail
            From `tail`.
        """
        own, head = tail
        parts = []
        for path, shared, layers in zip(self.paths, maps, own, strict=True):
            x = path.gather(shared, crop, row, column)  # (voxel, side * side * features)
            for layer in layers:
                x = layer(x)
            parts.append(x)
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)  # (voxel, all features)
        for layer in head:
            x = layer(x)
        return x  # (voxel, 2)


def lattice_step(network):
    """The lattice to learn from: the product of a network's first strides, as far as it is 4 or less.

    >>> from kit.models import build
    >>> [lattice_step(build(name, seed=0)) for name in ("D", "G", "FCN")]
    [4, 4, 1]
    """
    step = 1
    for stride in Fragments(network).paths[0].strides:
        if step * stride > WIDEST_STEP:
            break
        step *= stride
    return step


class _Path:
    """One path taken apart into what is shared over a crop (`shared`) and what each voxel does alone (`own`).

    `side` is that of a patch's map between the two. `strides` are those of the shared layers; `kept` says which of
    them the lattice leaves as they are, the others become fragments.
    """

    def __init__(self, modules, window, patch_shape, step):
        modules = list(modules)
        self.slices, self.window, self.margin = patch_shape[0], window, (patch_shape[1] - window) // 2
        padded = [i for i, m in enumerate(modules) if isinstance(m, nn.Conv2d) and m.padding != (0, 0)]
        cut = padded[0] if padded else len(modules)
        self.convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
        self.own, self.side = modules[cut:], window
        self.shared, self.strides, self.kept = [], [], []
        for m in modules[:cut]:
            if isinstance(m, nn.ReLU):
                self.shared.append(F.relu_)
                continue
            width, stride = _reach(m)
            self.side = (self.side - width) // stride + 1
            if stride == 1 or self.side == 1:  # of a 1x1 map nothing is skipped
                self.shared.append(_at_stride(m, 1))
                continue
            self.strides.append(stride)
            self.kept.append(step % stride == 0)
            step = step // stride if self.kept[-1] else 1
            self.shared += [_at_stride(m, stride)] if self.kept[-1] else [_at_stride(m, 1), _splitting(stride)]

    def maps(self, crops):
        """(crop, slice, row, column) -> (fragment, features, row, column); all fragments have one size."""
        end = [-self.margin or None] * 2
        maps = crops[:, :, self.margin : end[0], self.margin : end[1]]
        period = prod(self.strides)  # with as many voxels as a multiple of it, no fragment lacks a line
        spare = [-(size - self.window + 1) % period for size in maps.shape[2:]]
        maps = F.pad(maps, (0, spare[1], 0, spare[0])) if any(spare) else maps
        for layer in self.shared:
            maps = layer(maps)
        return maps

    def gather(self, maps, crop, row, column):
        """Each voxel's own side x side map, features fastest: (voxel, side * side * features)."""
        fragments = maps.permute(0, 2, 3, 1)  # (fragment, row, column, features)
        total, height, width, features = fragments.shape
        fragment, count = crop, total // prod(s**2 for s, kept in zip(self.strides, self.kept, strict=True) if not kept)
        for stride, kept in zip(self.strides, self.kept, strict=True):
            if not kept:
                fragment = fragment + count * (row % stride * stride + column % stride)
                count *= stride**2
            row, column = row // stride, column // stride
        line = torch.arange(self.side, device=maps.device)
        window = (line[:, None] * width + line).flatten()
        index = ((fragment * height + row) * width + column)[:, None] + window  # (voxel, side * side)
        pixels = fragments.reshape(-1, features)  # (fragment * row * column, features)
        return pixels.index_select(0, index.flatten()).view(len(index), -1)

    def features(self):
        """How many features the path ends with."""
        return self.convolutions[-1].out_channels if self.convolutions else self.slices


def _reach(m):
    """Lines from a layer's first to its last, and its stride."""
    if isinstance(m, nn.MaxPool2d):
        return m.kernel_size, m.stride
    return m.dilation[0] * (m.kernel_size[0] - 1) + 1, m.stride[0]


def _at_stride(m, stride):
    """A layer as a function, at this stride, of the weights that the layer has when it is called."""
    if isinstance(m, nn.MaxPool2d):
        return partial(F.max_pool2d, kernel_size=m.kernel_size, stride=stride)
    return lambda maps: F.conv2d(maps, m.weight, m.bias, stride, 0, m.dilation)


def _splitting(stride):
    """Keep each choice of every stride-th line as a fragment on the batch axis, the latest splitting slowest."""

    def split(maps):
        height, width = (size - size % stride for size in maps.shape[2:])  # a last odd line is in no wanted patch
        starts = [(row, column) for row in range(stride) for column in range(stride)]
        return torch.cat([maps[:, :, row:height:stride, column:width:stride] for row, column in starts])

    return split


def _as_matrices(modules, side):
    """The layers of one side x side map as functions of (voxel, position * feature) matrices, features fastest.

    Returned with the side of the map that they leave.
    """
    own = []
    for m in modules:
        if isinstance(m, nn.Conv2d):
            weight, side_out = _matrix_of(m, side)
            own.append(partial(F.linear, weight=weight, bias=m.bias.repeat(side_out**2)))
            side = side_out
        elif isinstance(m, nn.MaxPool2d):
            own.append(_small_pool(m, side))
            side = (side - m.kernel_size) // m.stride + 1
        else:
            own.append(F.relu_)
    return own, side


def _matrix_of(m, side):
    r"""A convolution of one side x side map as a matrix (outputs, inputs), and the side of the map that it gives.

    The tap between an input's and an output's line is  input - output * stride + padding,  a multiple of the dilation;
    lines further apart than the kernel reaches have a tap of 0.
    """
    (kernel, _), (stride, _), (padding, _), (dilation, _) = m.kernel_size, m.stride, m.padding, m.dilation
    side_out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    line = torch.arange(side, device=m.weight.device)
    apart = line - stride * torch.arange(side_out, device=m.weight.device)[:, None] + padding  # (output, input)
    there = (apart >= 0) & (apart % dilation == 0) & (apart < dilation * kernel)
    tap = torch.where(there, apart // dilation, kernel)  # the kernel's line, or the line of zeros that is added to it
    taps = F.pad(m.weight, (0, 1, 0, 1))[:, :, tap][
        ..., tap
    ]  # (F, C, output row, input row, output column, ... column)
    return taps.permute(2, 4, 0, 3, 5, 1).reshape(m.out_channels * side_out**2, -1).contiguous(), side_out


def _small_pool(pool, side):
    def small_pool(x):
        maps = x.view(len(x), side, side, -1).permute(0, 3, 1, 2)  # (voxel, features, side, side)
        return pool(maps).permute(0, 2, 3, 1).flatten(1)

    return small_pool


def _head_as_matrices(head, ends):
    """The FC layers; the first, which is defined on maps flattened features slowest, takes them features fastest.

    `ends` has (features, side) of each path's last map.
    """
    layers = list(head)[1:]  # without Flatten
    first = layers[0]
    weight = _features_fastest(first.weight, ends).contiguous()
    return [partial(F.linear, weight=weight, bias=first.bias), *layers[1:]]


def _features_fastest(weight, ends):
    """Reorder the columns of (outputs, inputs), path by path, from (feature, row, column) to (row, column, feature)."""
    parts = weight.split([features * side**2 for features, side in ends], 1)
    maps = [part.unflatten(1, (features, side, side)) for part, (features, side) in zip(parts, ends, strict=True)]
    return torch.cat([part.permute(0, 2, 3, 1).flatten(1) for part in maps], 1)
