"""The thesis' patch networks as data, and the tables that are read off them.

A row is written as Tables 5.1-5.4 write it, so that code and paper can be held side by side: ``conv3-48`` is a 3x3
convolution with 48 features followed by ReLU, ``mp-3-2`` is max-pooling with window 3 and stride 2, and
``sparse[7,5]-64-5`` is a convolution with 7x7 taps at distance 5 (31x31 wide), 64 features and stride 5, followed by
ReLU. Adding a network is adding a row to `NETWORKS`.

The thesis leaves padding open. One rule reproduces every published parameter count of A, B, C, D, G and H:

- a convolution is unpadded, unless its kernel is larger than its map: then it is zero-padded and keeps the map's size;
- pooling rounds down, and a window larger than its map is clipped to it (so pooling a 1x1 map changes nothing).

E and F look at a voxel along two paths, each of which sees a centred window of the patch. The last maps of both are
flattened, the main path's first, and concatenated before the first FC layer:

    E   main    5x51x51 -> D's layers ------------------------> 96 + 125 -> FC
        beside  5x5x5   -> conv1-48 conv1-5 -------------------------^

    F   main    5x51x51 -> D's layers ------------------------> 96 + 5184 -> FC
        beside  5x91x91 -> sparse[7,5]-64-5 conv3-64 conv3-64 --------^
"""

import re
from dataclasses import dataclass

import pandas as pd


class ModelError(ValueError):
    """A network that cannot be built, read or stored; the message names the value and the remedy."""


@dataclass(frozen=True)
class Beside:
    """A second path: `layers` over the centred window x window voxels of the patch, in all its slices."""

    window: int
    layers: str


@dataclass(frozen=True)
class Network:
    """One row of the thesis' tables: `patch_shape` is (slices, rows, columns), slices are the input channels.

    `layers` see the centred `window` x `window` of the patch (None: all of it), `beside` is a second path. A network
    without pooling can be trained on square patches of side `training_side`, with a map of outputs.
    """

    name: str
    patch_shape: tuple[int, int, int]
    layers: str
    fc: tuple[int, ...]
    printed_parameters: int | None = None
    note: str = ""
    window: int | None = None
    beside: Beside | None = None
    training_side: int | None = None

    @property
    def paths(self):
        """The convolutional paths in the order of their concatenation: {"main" or "beside": (window, layers)}."""
        main = {"main": (self.patch_shape[1] if self.window is None else self.window, self.layers)}
        return main if self.beside is None else main | {"beside": (self.beside.window, self.beside.layers)}

    @property
    def training_shape(self):
        """(slices, rows, columns) of the patches that it is trained on."""
        slices, rows, columns = self.patch_shape
        return (slices, self.training_side or rows, self.training_side or columns)


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
        Network(
            "E",
            (5, 51, 51),
            D_LAYERS,
            (1024, 1024, 2),
            3_391_919,
            note="The layers of Table 5.2 do not give its printed count; built as its layers are described.",
            beside=Beside(5, "conv1-48 conv1-5"),
        ),
        Network(
            "F",
            (5, 91, 91),
            D_LAYERS,
            (1024, 1024, 2),
            4_785_346,
            note="The printed layers do not give the printed count; built as the layers are described.",
            window=51,
            beside=Beside(91, "sparse[7,5]-64-5 conv3-64 conv3-64"),
        ),
        Network("G", (5, 51, 51), G_LAYERS, (1024, 1024, 2), 2_147_738),
        Network("H", (5, 51, 51), H_LAYERS, (1024, 1024, 2), 2_295_322),
        Network(
            "FCN",
            (5, 17, 17),
            "conv3-48 conv3-64 conv3-96 conv3-96 conv3-64",  # conv7-512 on the 7x7 map that they leave is FC-512
            (512, 512, 2),
            729_090,
            note="Table 5.4 prints B's count, a misprint. The text trains on 5x5 outputs of 22x22, which are 6x6.",
            training_side=22,
        ),
    )
}


@dataclass(frozen=True)
class Layer:
    """One parsed layer: maps are square and given by their side, kernels likewise; `padding` is lines on each side.

    The taps of a kernel are `dilation` lines apart. The first FC layer behind two paths has `features_in` single
    numbers on a 1x1 map. Sizes are those for one patch, also where a network takes larger ones.
    """

    token: str
    kind: str  # "conv" | "mp" | "FC"
    kernel: int
    stride: int
    padding: int
    features_in: int
    features_out: int
    map_in: int
    map_out: int
    path: str = "main"  # "main" | "beside" | "head"
    dilation: int = 1

    @property
    def parameters(self):
        """Number of weights and biases."""
        return 0 if self.kind == "mp" else (self.features_in * self.kernel**2 + 1) * self.features_out


def layers(network):
    """Read a network's row under the padding rule: a list of `Layer`, main path, second path, then FC layers.

    >>> [layer.map_out for layer in layers("A")]
    [43, 41, 20, 18, 8, 6, 4, 1, 1, 1, 1]
    >>> [(layer.token, layer.path) for layer in layers("E")][8:13]
    [('conv3-96', 'main'), ('conv3-96', 'main'), ('mp-3-2', 'main'), ('conv1-48', 'beside'), ('conv1-5', 'beside')]
    """
    row = row_of(network)
    _check_shape(row)
    found, ends = [], []
    for path, (side, tokens) in row.paths.items():
        features = row.patch_shape[0]
        for token in tokens.split():
            found.append(_read_token(row.name, path, token, features, side))
            features, side = found[-1].features_out, found[-1].map_out
        ends.append((features, side))
    found += _fc_layers(row, ends)
    if row.training_side is not None and (row.training_side < row.patch_shape[1] or not _slides(row, found)):
        raise ModelError(
            f"network {row.name}: training_side {row.training_side} of patches of side {row.patch_shape[1]}; only a "
            "stack of unpadded convolutions can be trained on patches of another side, and on larger ones"
        )
    return found


def map_sizes(network, path="main"):
    """Sides of the square maps of one path, from its window of the patch to the first FC layer.

    >>> map_sizes("D")
    [51, 49, 47, 23, 21, 10, 8, 6, 4, 2, 2, 1]
    >>> map_sizes("F", "beside")
    [91, 13, 11, 9]
    """
    row = row_of(network)
    if path not in row.paths:
        raise ModelError(f"network {row.name} has no path {path!r}; choose one of {', '.join(row.paths)}")
    return [row.paths[path][0], *(layer.map_out for layer in layers(row) if layer.path == path)]


def parameter_count(network):
    """Number of weights and biases.

    >>> parameter_count("D")
    1651490
    """
    return sum(layer.parameters for layer in layers(network))


def is_sliding(network):
    """Whether the network can slide over a larger patch as it is: one path, all convolutions, no stride, no padding.

    >>> [name for name in NETWORKS if is_sliding(name)]
    ['FCN']
    """
    return _slides(row_of(network), layers(network))


def layer_table(network):
    """One row a layer, to read beside the thesis' tables.

    Returns
    -------
    pandas.DataFrame
        Columns layer, kernel, padding, features, map_in, map_out (sides of square maps), sees (the side of what one
        number of its output depends on, in voxels of the patch) and parameters. A network with two paths has a column
        path before them: main, beside, or head for the FC layers behind both.

    Examples
    --------
    >>> layer_table("D")[["layer", "map_in", "map_out", "parameters"]].tail(2)
          layer  map_in  map_out  parameters
    12  FC-1024       1        1     1049600
    13     FC-2       1        1        2050
    >>> layer_table("D").sees.tolist()
    [3, 5, 7, 11, 15, 23, 31, 39, 47, 51, 51, 51, 51, 51]
    >>> layer_table("E")[["path", "layer", "map_in", "map_out", "parameters"]].iloc[10:14]
          path     layer  map_in  map_out  parameters
    10    main    mp-3-2       2        1           0
    11  beside  conv1-48       5        5         288
    12  beside   conv1-5       5        5         245
    13    head   FC-1024       1        1      227328
    """
    found = layers(network)
    records = [
        (m.path, m.token, m.kernel, m.padding, m.features_out, m.map_in, m.map_out, sees, m.parameters)
        for m, sees in zip(found, _fields(row_of(network), found), strict=True)
    ]
    columns = ["path", "layer", "kernel", "padding", "features", "map_in", "map_out", "sees", "parameters"]
    table = pd.DataFrame.from_records(records, columns=columns)
    return table if len(row_of(network).paths) > 1 else table.drop(columns="path")


def network_table(networks=None):
    """One row a network (all of `NETWORKS` by default): its input, paths, depth and parameter count.

    Returns
    -------
    pandas.DataFrame
        Columns network, input, paths, weight_layers, printed (the count in the thesis), reproduced (the count of the
        network that is built) and note (why the two differ, or what had to be changed so that they do not).

    Examples
    --------
    >>> network_table(["A"])[["printed", "reproduced"]].values.tolist()
    [[509570, 509570]]
    >>> network_table(["D", "F"]).paths.tolist()
    ['main 51x51', 'main 51x51, beside 91x91']
    """
    records = []
    for row in map(row_of, NETWORKS if networks is None else networks):
        depth = sum(layer.kind != "mp" for layer in layers(row))
        shape = "x".join(map(str, row.patch_shape))
        paths = ", ".join(f"{path} {side}x{side}" for path, (side, _) in row.paths.items())
        records.append((row.name, shape, paths, depth, row.printed_parameters, parameter_count(row), row.note))
    columns = ["network", "input", "paths", "weight_layers", "printed", "reproduced", "note"]
    return pd.DataFrame.from_records(records, columns=columns)


def row_of(network):
    """A `Network` from its name in `NETWORKS`, from itself, or from a module that has it as `.row`."""
    row = getattr(network, "row", network)
    if isinstance(row, Network):
        return row
    if network in NETWORKS:
        return NETWORKS[network]
    near = [name for name in NETWORKS if name == str(network).strip().upper()]
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ModelError(f"no network {network!r}; {hint}known: {', '.join(NETWORKS)}")


def _fields(row, found):
    """How many voxels of the patch, in a row, one number of each layer depends on.

    What pooling rounds away nobody sees: A's patch is 45 voxels wide, and its head depends on 39 of them.
    """
    fields, reaches, path = [], {}, None
    for layer in found:
        if layer.path == "head":
            fields.append(max(reaches.values()))
            continue
        if layer.path != path:
            path, step, field = layer.path, 1, 1
            reaches[path] = row.paths[path][0]  # what all numbers of a map together depend on
        field = min(field + (layer.kernel - 1) * layer.dilation * step, reaches[path])
        step *= layer.stride
        reaches[path] = min(field + (layer.map_out - 1) * step, reaches[path])
        fields.append(field)
    return fields


def _slides(row, found):
    return row.beside is None and all(m.kind != "mp" and m.stride == 1 and not m.padding for m in found)


def _check_shape(row):
    """The classified voxel is the centre of the patch and of each window, so that sides are odd."""
    slices, side, columns = row.patch_shape
    if side != columns or side % 2 == 0 or slices % 2 == 0:
        raise ModelError(
            f"network {row.name}: patch_shape {row.patch_shape} needs odd slices and odd, equal rows/columns"
        )
    windows = [window for window, _ in row.paths.values()]
    if max(windows) != side or any(window < 1 or window % 2 == 0 for window in windows):
        raise ModelError(
            f"network {row.name}: windows {windows} of a patch of side {side}; give odd ones, the widest of them {side}"
        )


def _read_token(name, path, token, features, side):
    """One token of a row, applied to a side x side map with so many features."""
    if match := re.fullmatch(r"conv([1-9]\d*)-([1-9]\d*)", token):
        kernel, features_out = map(int, match.groups())
        padding = kernel // 2 if kernel > side else 0
        if padding and kernel % 2 == 0:
            raise ModelError(f"network {name}: {token!r} on a {side}x{side} map is zero-padded; use an odd kernel")
        map_out = side if padding else side - kernel + 1
        return Layer(token, "conv", kernel, 1, padding, features, features_out, side, map_out, path)
    if match := re.fullmatch(r"mp-([1-9]\d*)-([1-9]\d*)", token):
        window, stride = map(int, match.groups())
        window = min(window, side)
        return Layer(token, "mp", window, stride, 0, features, features, side, (side - window) // stride + 1, path)
    if match := re.fullmatch(r"sparse\[([1-9]\d*),([1-9]\d*)\]-([1-9]\d*)-([1-9]\d*)", token):
        kernel, distance, features_out, stride = map(int, match.groups())
        width = (kernel - 1) * distance + 1
        if width > side:
            raise ModelError(f"network {name}: {token!r} is {width} wide on a {side}x{side} map; it is never padded")
        map_out = (side - width) // stride + 1
        return Layer(token, "conv", kernel, stride, 0, features, features_out, side, map_out, path, distance)
    raise ModelError(
        f"network {name}: cannot read {token!r}; write conv<kernel>-<features>, mp-<window>-<stride> or "
        "sparse[<kernel>,<distance>]-<features>-<stride>"
    )


def _fc_layers(row, ends):
    """The FC layers; the first sees the whole map, as a convolution with a kernel of the map's side would.

    `ends` has (features, side) of each path's last map; those of two paths come flattened.
    """
    if not row.fc or row.fc[-1] != 2 or any(not isinstance(width, int) or width < 1 for width in row.fc):
        raise ModelError(f"network {row.name}: fc {row.fc!r}; give positive widths ending in 2 (healthy, lesion)")
    features, side = ends[0] if len(ends) == 1 else (sum(width * side**2 for width, side in ends), 1)
    found = []
    for width in row.fc:
        found.append(Layer(f"FC-{width}", "FC", side, 1, 0, features, width, side, 1, "head"))
        features, side = width, 1
    return found
