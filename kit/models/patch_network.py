"""The networks of `kit.models.networks` as torch modules: one builder for all rows, and their weights on disk."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from kit.models.networks import ModelError, is_sliding, layers, map_sizes, row_of
from kit.scans import replacing

DROPOUT = 0.5  # after each hidden FC layer


class PatchNetwork(nn.Module):
    """A network that classifies the centre voxel of a patch: (N, slice, row, column) -> (N, 2) logits.

    `row` is its line of `NETWORKS`, `trunk` the convolutions and poolings of the main path, `beside` those of the
    second path (None where there is one path), `head` the fully connected layers.
    """

    def __init__(self, row):
        super().__init__()
        self.row = row
        self.sliding = is_sliding(row)
        modules = {path: [m for layer in layers(row) if layer.path == path for m in _modules(layer)]
                   for path in ("main", "beside", "head")}  # fmt: skip
        self.trunk = nn.Sequential(*modules["main"])
        self.beside = nn.Sequential(*modules["beside"]) if row.beside else None
        self.head = nn.Sequential(nn.Flatten(), *modules["head"][:-2])  # the last gives logits: no ReLU, no dropout

    @property
    def name(self):
        """The network's name in `NETWORKS`."""
        return self.row.name

    @property
    def patch_shape(self):
        """(slices, rows, columns) of one patch."""
        return self.row.patch_shape

    @property
    def training_shape(self):
        """(slices, rows, columns) of the patches that it is trained on: larger for FCN, which gives a map of logits."""
        return self.row.training_shape

    @property
    def paths(self):
        """(modules, side of the centred window that they see) of each path, in the order of their concatenation."""
        windows = [window for window, _ in self.row.paths.values()]
        return list(zip((self.trunk, self.beside), windows, strict=False))  # `beside` falls out where there is none

    def forward(self, patches):
        """Classify patches.

        Parameters
        ----------
        patches : torch.Tensor of float, (N, slice, row, column)
            Of `patch_shape`. FCN, and every network that is a stack of unpadded convolutions, takes larger ones too.

        Returns
        -------
        torch.Tensor, (N, 2)
            Logits: healthy, lesion. From patches that are n x m larger, (N, 2, n + 1, m + 1): the one at
            (row, column) belongs to the patch that begins there.

        Raises
        ------
        ModelError
            For patches of a shape that the network does not take.
        """
        self._check(tuple(patches.shape))
        if tuple(patches.shape[1:]) != self.patch_shape:
            return self._head_over(self.trunk(patches))  # (N, 2, rows, columns)
        features = [path(_centre(patches, side)) for path, side in self.paths]
        return self.head(torch.cat([maps.flatten(1) for maps in features], 1))  # (N, 2)

    def _check(self, shape):
        slices, side, _ = self.patch_shape
        larger = self.sliding and len(shape) == 4 and shape[1] == slices and min(shape[2:]) >= side
        if shape[1:] != self.patch_shape and not larger:
            raise ModelError(
                f"network {self.name} takes patches of shape (N, {', '.join(map(str, self.patch_shape))})"
                f"{' or with more rows or columns' if self.sliding else ''}, got {shape}; "
                "cut patches of network.patch_shape"
            )

    def _head_over(self, maps):
        """The head at every place of larger maps: its first layer is a convolution with the kernel of one's map."""
        side = map_sizes(self.row)[-1]
        for module in self.head[1:]:  # without Flatten
            if isinstance(module, nn.Linear):
                weight = module.weight.view(module.out_features, maps.shape[1], side, side)
                maps, side = F.conv2d(maps, weight, module.bias), 1
            else:
                maps = module(maps)
        return maps


def build(network, *, seed=None):
    """Build a network with fresh weights.

    Parameters
    ----------
    network : str or Network
        A name in `NETWORKS`, or a row of your own.
    seed : int, optional
        The same seed gives the same weights; without one they differ each time. Torch's global random state is
        neither read nor changed.

    Returns
    -------
    PatchNetwork
        Float32 module on the CPU, in training mode: (N, slice, row, column) -> (N, 2) logits; `.patch_shape`.

    Raises
    ------
    ModelError
        For an unknown name, or a row that cannot be read (the message names the offending token).

    Notes
    -----
    The thesis does not say how weights start. Chosen here: He normal (He et al. 2015), which keeps the variance
    through ReLU layers, with zero biases; the last layer has no ReLU and gets the same without the factor 2.

    Examples
    --------
    >>> build("D", seed=0)(torch.zeros(3, 5, 51, 51)).shape
    torch.Size([3, 2])
    """
    with torch.device("meta"):  # torch's own initialisation would draw from the global random state
        module = PatchNetwork(row_of(network))
    module.to_empty(device="cpu")
    _initialise(module, seed)
    return module


def save_weights(network, path, metadata=None):
    """Write a network's weights as safetensors, whole or not at all.

    `metadata` is a dict of strings kept in the file's header beside the network's name (key ``network``).
    """
    metadata = {**(metadata or {}), "network": network.name}
    bad = [key for key, value in metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
    if bad:
        raise ModelError(f"metadata {bad[0]!r}: keys and values are strings, got {metadata[bad[0]]!r}; use str(...)")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as part:
        # one entry: several are written in an order that changes from process to process
        # `save`: what `save_file` writes nobody else may read
        part.write_bytes(save(tensors, {"about": json.dumps(metadata, sort_keys=True)}))


def load_weights(network, path):
    """Read weights written by `save_weights` into a network; nothing is unpickled.

    Parameters
    ----------
    network : str or PatchNetwork
        A name in `NETWORKS` (the network is built), or a built network (filled in place, where it is).
    path : str or Path
        The safetensors file.

    Returns
    -------
    PatchNetwork

    Raises
    ------
    ModelError
        For a missing or damaged file, or weights of another network; the given network is then unchanged.
    """
    module = network if isinstance(network, PatchNetwork) else build(network, seed=0)
    tensors, metadata = _read_file(path)
    stored = metadata.get("network", module.name)
    if stored != module.name:
        raise ModelError(
            f"{path}: holds weights of network {stored}, not of {module.name}; build({stored!r}) takes them"
        )
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    received = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | received.keys()):
        if expected.get(name) != received.get(name):
            raise ModelError(
                f"{path}: {name} has shape {received.get(name, 'missing')}, network {module.name} needs "
                f"{expected.get(name, 'no such tensor')}; the file comes from another version of its row"
            )
    module.load_state_dict(tensors)
    return module


def read_weights(path):
    """The tensors of a file that `save_weights` wrote, by name; ModelError where it is missing or damaged."""
    return _read_file(path)[0]


def weights_metadata(path):
    """The strings stored beside the weights: a dict with at least ``network`` when `save_weights` wrote the file."""
    return _read_file(path)[1]


def _centre(patches, side):
    """The centred side x side rows and columns of patches, in all slices: a view."""
    top, left = ((size - side) // 2 for size in patches.shape[2:])
    return patches[:, :, top : top + side, left : left + side]


def _modules(layer):
    if layer.kind == "mp":
        return [nn.MaxPool2d(layer.kernel, layer.stride)]
    if layer.kind == "conv":
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return [nn.Conv2d(layer.features_in, layer.features_out, layer.kernel, **geometry), nn.ReLU()]
    return [nn.Linear(layer.features_in * layer.kernel**2, layer.features_out), nn.ReLU(), nn.Dropout(DROPOUT)]


def _initialise(module, seed):
    """He normal weights and zero biases, see the notes of `build`."""
    rng = torch.Generator()
    if seed is None:
        rng.seed()
    else:
        rng.manual_seed(seed)
    weighted = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for m in weighted:
        gain = "linear" if m is weighted[-1] else "relu"
        nn.init.kaiming_normal_(m.weight, nonlinearity=gain, generator=rng)
        nn.init.zeros_(m.bias)


def _read_file(path):
    """(tensors, metadata) of a safetensors file."""
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such weights file; train the network first or give another path")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error}); copy or train it again") from error
