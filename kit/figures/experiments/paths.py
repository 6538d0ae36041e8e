"""Networks with two paths: what of a patch each path sees, and how its layers meet (Fig. 5.4 and 5.5)."""

from itertools import product

import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

from kit.figures.slices import show_slice
from kit.figures.style import BLUE, GREEN, ORANGE, clear
from kit.models import layers, row_of

COLOURS = {"main": BLUE, "beside": ORANGE, "head": GREEN}
WIDE, HIGH = 0.94, 0.76  # of a layer's box, where paths and layers are 1 apart
POINTS = 11  # size of words: to be read where the figure is shown at half its width


def path_windows(ax, patch, network, *, window=None):
    """Draw a patch's centre slice with what each path sees of it, and the taps of a sparse kernel at its first place.

    Parameters
    ----------
    patch : (slice, row, column) array
        Of the network's patch_shape.
    network : str
        A key of `kit.models.NETWORKS`.
    window : (low, high), optional
        Intensities shown black and white.
    """
    row = row_of(network)
    middle = np.asarray(patch)[len(patch) // 2]
    show_slice(ax, middle, window=window)
    for path, (side, _) in row.paths.items():
        first = (middle.shape[0] - side) / 2 - 0.5
        label = f"{path}: {side} x {side}"
        ax.add_patch(
            Rectangle((first, first), side, side, fill=False, edgecolor=COLOURS[path], linewidth=2, label=label)
        )
        wide = [layer for layer in layers(row) if layer.path == path and layer.dilation > 1]
        for layer in wide[:1]:
            taps = [first + 0.5 + layer.dilation * step for step in range(layer.kernel)]
            places = np.array(list(product(taps, taps)))
            ax.plot(*places.T, ".", color=COLOURS[path], markersize=4, label=f"{layer.kernel} x {layer.kernel} taps")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=POINTS, frameon=False)
    return ax


def path_layers(ax, network):
    """Draw each path's layers as a column of boxes, from the patch above to the fully connected layers below.

    In a box stand the layer and the side of the map that it gives.
    """
    row, found = row_of(network), layers(network)
    lines = {path: [layer for layer in found if layer.path == path] for path in (*row.paths, "head")}
    meet = max(len(lines[path]) for path in row.paths) + 0.4  # with room for the arrows
    centre = (len(row.paths) - 1) / 2
    for column, path in enumerate(row.paths):
        for at, layer in enumerate(lines[path]):
            _box(ax, column, at, f"{layer.token}: {layer.map_out} x {layer.map_out}", COLOURS[path])
        _arrow(ax, (column, len(lines[path]) - 1), (centre, meet))
    for at, layer in enumerate(lines["head"]):
        _box(ax, centre, meet + at, layer.token, COLOURS["head"])
    ax.set(xlim=(-0.5, len(row.paths) - 0.5), ylim=(meet + len(lines["head"]) - 0.5, -0.5))
    return clear(ax)


def _box(ax, x, y, text, colour):
    ax.add_patch(Rectangle((x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, facecolor=colour, alpha=0.25, edgecolor=colour))
    ax.text(x, y, text, ha="center", va="center", fontsize=POINTS)


def _arrow(ax, start, end):
    begin, stop = (start[0], start[1] + HIGH / 2), (end[0], end[1] - HIGH / 2)
    ax.add_patch(FancyArrowPatch(begin, stop, arrowstyle="-|>", mutation_scale=12, color="0.4", shrinkA=0, shrinkB=0))
