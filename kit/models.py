"""The thesis' patch networks as data, and the one builder that reads them.

A row is written as Tables 5.1-5.4 write it, so that code and paper can be held side by side: ``conv3-48`` is a 3x3
convolution with 48 features followed by ReLU, ``mp-3-2`` is max-pooling with window 3 and stride 2. Adding a network
is adding a row to `NETWORKS`.

The thesis leaves padding open. One rule reproduces every published parameter count of A, B, C, D, G and H:

- a convolution is unpadded, unless its kernel is larger than its map: then it is zero-padded and keeps the map's size;
- pooling rounds down, and a window larger than its map is clipped to it (so pooling a 1x1 map changes nothing).
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

DROPOUT = 0.5  # after each hidden FC layer


class ModelError(ValueError):
    """A network that cannot be built, read or stored; the message names the value and the remedy."""


@dataclass(frozen=True)
class Network:
    """One row of the thesis' tables: `patch_shape` is (slices, rows, columns), slices are the input channels."""

    name: str
    patch_shape: tuple[int, int, int]
    layers: str
    fc: tuple[int, ...]
    printed_parameters: int | None = None
    note: str = ""


B_LAYERS = "conv3-48 conv3-64 mp-3-2 conv3-96 mp-3-2 conv3-96 conv3-96 conv3-96 conv3-96 mp-3-2"
D_LAYERS = "conv3-48 conv3-64 mp-3-2 conv3-96 mp-3-2 conv3-96 conv3-96 conv3-96 conv3-96 conv3-96 mp-3-2"
G_LAYERS = "conv3-48 conv3-64 mp-3-2 conv3-96 mp-3-2 conv3-128 conv3-164 mp-3-2 conv3-164 conv3-128 conv3-128 mp-3-2"
H_LAYERS = G_LAYERS.removesuffix("mp-3-2") + "conv3-128 mp-3-2"

NETWORKS = {
    row.name: row
    for row in (
        Network(
            "A",
            (1, 45, 45),
            "conv3-32 conv3-64 mp-3-2 conv3-96 mp-3-2 conv3-96 conv3-64 mp-3-2",
            (512, 512, 2),
            509_570,
            note="Table 5.1 prints conv3-48 as the first layer; the printed count needs conv3-32.",
        ),
        Network("B", (1, 49, 49), B_LAYERS, (512, 512, 2), 729_090),
        Network("C", (5, 49, 49), B_LAYERS, (512, 512, 2), 730_818),
        Network(
            "D",
            (5, 51, 51),
            D_LAYERS,
            (1024, 1024, 2),
            1_651_490,
            note="Table 5.1 prints FC-512 for both hidden layers; the printed count needs FC-1024.",
        ),
        Network("G", (5, 51, 51), G_LAYERS, (1024, 1024, 2), 2_147_738),
        Network("H", (5, 51, 51), H_LAYERS, (1024, 1024, 2), 2_295_322),
    )
}


@dataclass(frozen=True)
class Layer:
    """One parsed layer: maps are square and given by their side, kernels likewise; `padding` is lines on each side."""

    token: str
    kind: str  # "conv" | "mp" | "FC"
    kernel: int
    stride: int
    padding: int
    features_in: int
    features_out: int
    map_in: int
    map_out: int

    @property
    def parameters(self):
        """Number of weights and biases."""
        return 0 if self.kind == "mp" else (self.features_in * self.kernel**2 + 1) * self.features_out


class PatchNetwork(nn.Module):
    """A network that classifies the centre voxel of a patch: (N, slice, row, column) -> (N, 2) logits.

    `row` is its line of `NETWORKS`, `trunk` the convolutions and poolings, `head` the fully connected layers.
    """

    def __init__(self, row):
        super().__init__()
        self.row = row
        self.trunk = nn.Sequential(*(m for layer in layers(row) if layer.kind != "FC" for m in _modules(layer)))
        fc = [m for layer in layers(row) if layer.kind == "FC" for m in _modules(layer)]
        self.head = nn.Sequential(nn.Flatten(), *fc[:-2])  # the last layer gives logits: no ReLU, no dropout

    @property
    def name(self):
        """The network's name in `NETWORKS`."""
        return self.row.name

    @property
    def patch_shape(self):
        """(slices, rows, columns) of one patch."""
        return self.row.patch_shape

    def forward(self, patches):
        """(N, slice, row, column) -> (N, 2) logits: healthy, lesion."""
        if tuple(patches.shape[1:]) != self.patch_shape:
            raise ModelError(
                f"network {self.name} takes patches of shape (N, {', '.join(map(str, self.patch_shape))}), "
                f"got {tuple(patches.shape)}; cut patches of network.patch_shape"
            )
        return self.head(self.trunk(patches))  # (N, 2)


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
        module = PatchNetwork(_row(network))
    module.to_empty(device="cpu")
    _initialise(module, seed)
    return module


def layers(network):
    """Read a network's row under the padding rule: a list of `Layer`, first to last, FC layers included.

    >>> [layer.map_out for layer in layers("A")]
    [43, 41, 20, 18, 8, 6, 4, 1, 1, 1, 1]
    """
    row = _row(network)
    slices, side, columns = row.patch_shape
    if side != columns or side % 2 == 0 or slices % 2 == 0:
        raise ModelError(
            f"network {row.name}: patch_shape {row.patch_shape} needs odd slices and odd, equal rows/columns"
        )
    found, features = [], slices
    for token in row.layers.split():
        found.append(_read_token(row.name, token, features, side))
        features, side = found[-1].features_out, found[-1].map_out
    return found + _fc_layers(row, features, side)


def map_sizes(network):
    """Sides of the square maps from the input to the first FC layer.

    >>> map_sizes("D")
    [51, 49, 47, 23, 21, 10, 8, 6, 4, 2, 2, 1]
    """
    return [_row(network).patch_shape[1], *(layer.map_out for layer in layers(network) if layer.kind != "FC")]


def parameter_count(network):
    """Number of weights and biases.

    >>> parameter_count("D")
    1651490
    """
    return sum(layer.parameters for layer in layers(network))


def layer_table(network):
    """One row a layer, to read beside the thesis' tables.

    Returns
    -------
    pandas.DataFrame
        Columns layer, kernel, padding, features, map_in, map_out (sides of square maps) and parameters.

    Examples
    --------
    >>> layer_table("D")[["layer", "map_in", "map_out", "parameters"]].tail(2)
          layer  map_in  map_out  parameters
    12  FC-1024       1        1     1049600
    13     FC-2       1        1        2050
    """
    records = [
        (m.token, m.kernel, m.padding, m.features_out, m.map_in, m.map_out, m.parameters) for m in layers(network)
    ]
    columns = ["layer", "kernel", "padding", "features", "map_in", "map_out", "parameters"]
    return pd.DataFrame.from_records(records, columns=columns)


def network_table(networks=tuple(NETWORKS)):
    """One row a network: its input, depth, and its parameter count as printed in the thesis and as reproduced.

    >>> network_table(["A"])[["printed", "reproduced"]].values.tolist()
    [[509570, 509570]]
    """
    records = []
    for row in map(_row, networks):
        depth = sum(layer.kind != "mp" for layer in layers(row))
        shape = "x".join(map(str, row.patch_shape))
        records.append((row.name, shape, depth, row.printed_parameters, parameter_count(row), row.note))
    return pd.DataFrame.from_records(
        records, columns=["network", "input", "weight_layers", "printed", "reproduced", "note"]
    )


def save_weights(network, path, metadata=None):
    """Write a network's weights as safetensors, whole or not at all.

    `metadata` is a dict of strings kept in the file's header beside the network's name (key ``network``).
    """
    metadata = {**(metadata or {}), "network": network.name}
    bad = [key for key, value in metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
    if bad:
        raise ModelError(f"metadata {bad[0]!r}: keys and values are strings, got {metadata[bad[0]]!r}; use str(...)")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    partial = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.partial")
    try:
        # one entry: several are written in an order that changes from process to process
        save_file(tensors, partial, metadata={"about": json.dumps(metadata, sort_keys=True)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def weights_metadata(path):
    """The strings stored beside the weights: a dict with at least ``network`` when `save_weights` wrote the file."""
    return _read_file(path)[1]


def _row(network):
    """A `Network` from its name, its row, or a built module."""
    if isinstance(network, PatchNetwork):
        return network.row
    if isinstance(network, Network):
        return network
    if network in NETWORKS:
        return NETWORKS[network]
    near = [name for name in NETWORKS if name == str(network).strip().upper()]
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ModelError(f"no network {network!r}; {hint}known: {', '.join(NETWORKS)}")


def _read_token(name, token, features, side):
    """One token of a row, applied to a side x side map with so many features."""
    if match := re.fullmatch(r"conv([1-9]\d*)-([1-9]\d*)", token):
        kernel, features_out = map(int, match.groups())
        padding = kernel // 2 if kernel > side else 0
        if padding and kernel % 2 == 0:
            raise ModelError(f"network {name}: {token!r} on a {side}x{side} map is zero-padded; use an odd kernel")
        map_out = side if padding else side - kernel + 1
        return Layer(token, "conv", kernel, 1, padding, features, features_out, side, map_out)
    if match := re.fullmatch(r"mp-([1-9]\d*)-([1-9]\d*)", token):
        window, stride = map(int, match.groups())
        window = min(window, side)
        return Layer(token, "mp", window, stride, 0, features, features, side, (side - window) // stride + 1)
    raise ModelError(f"network {name}: cannot read {token!r}; write conv<kernel>-<features> or mp-<window>-<stride>")


def _fc_layers(row, features, side):
    """The FC layers; the first sees the whole map, as a convolution with a kernel of the map's side would."""
    if not row.fc or row.fc[-1] != 2 or any(not isinstance(width, int) or width < 1 for width in row.fc):
        raise ModelError(f"network {row.name}: fc {row.fc!r}; give positive widths ending in 2 (healthy, lesion)")
    found = []
    for width in row.fc:
        found.append(Layer(f"FC-{width}", "FC", side, 1, 0, features, width, side, 1))
        features, side = width, 1
    return found


def _modules(layer):
    if layer.kind == "mp":
        return [nn.MaxPool2d(layer.kernel, layer.stride)]
    if layer.kind == "conv":
        return [nn.Conv2d(layer.features_in, layer.features_out, layer.kernel, padding=layer.padding), nn.ReLU()]
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
