"""How a patch network becomes a whole-scan one (notebook 10); each function draws on the axes given and returns them.

Four colours tell the four offsets of a pooling with stride 2 apart.
"""

from itertools import groupby
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.patches import Rectangle
from numpy.lib.stride_tricks import sliding_window_view

from kit.figures.style import GREEN, ORANGE, PURPLE, SKY
from kit.models import layers

OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (row, column) at which a pooling with stride 2 can start
COLOURS = (ORANGE, SKY, GREEN, PURPLE)  # of the four offsets
PLAIN, FAINT, INK = "#ECECEC", "#AAAAAA", "#222222"
STEPS = ("1  a map, one 5×5 patch framed", "2  maximum of each 3×3 window", "3  four fragments, one an offset",
         "4  next layer: sum of each 2×2", "5  woven back: one answer a patch")  # fmt: skip
SMALLEST = 1e-10  # difference that a logarithmic axis begins with; smaller ones, and none at all, stand there


class Weaving(NamedTuple):
    """A toy network over all 5x5 patches of a map at once: max-pooling 3/2, then the sum of the 2x2 that it leaves."""

    numbers: np.ndarray  # (n, n), n even
    pooled: np.ndarray  # (n - 2, n - 2): the maximum of every 3x3 window
    fragments: list  # four of (n/2 - 1, n/2 - 1): every second line of `pooled`, one fragment an offset
    sums: list  # four of (n/2 - 2, n/2 - 2): the next layer in each fragment
    woven: np.ndarray  # (n - 4, n - 4): the answer of every patch


def weave(numbers):
    """Run the toy network of `Weaving` over a square map of even side.

    >>> weave(np.arange(36).reshape(6, 6)).woven.tolist()
    [[84, 88], [108, 112]]
    """
    pooled = sliding_window_view(np.asarray(numbers), (3, 3)).max((2, 3))
    fragments = [pooled[row::2, column::2] for row, column in OFFSETS]
    sums = [sliding_window_view(fragment, (2, 2)).sum((2, 3)) for fragment in fragments]
    woven = np.empty((len(pooled) - 2, len(pooled) - 2), pooled.dtype)
    for (row, column), answers in zip(OFFSETS, sums, strict=True):
        woven[row::2, column::2] = answers
    return Weaving(np.asarray(numbers), pooled, fragments, sums, woven)


def weaving_steps(axes, weaving, patch=(1, 2)):
    """Draw the five steps of a `Weaving` on five axes; what belongs to the patch at (row, column) is framed."""
    (row, column), side = patch, len(weaving.numbers)
    for ax, title in zip(axes, STEPS, strict=True):
        _bare(ax, side, title)
    _cells(axes[0], weaving.numbers, lambda r, c: PLAIN)
    _frame(axes[0], row, column, 5)
    for ax, array, start in ((axes[1], weaving.pooled, 1), (axes[4], weaving.woven, 2)):
        _cells(ax, array, lambda r, c: COLOURS[2 * (r % 2) + c % 2], (start, start))
        for r, c in OFFSETS if ax is axes[1] else OFFSETS[:1]:
            _frame(ax, start + row + 2 * r, start + column + 2 * c, 1)
    for ax, parts, window in ((axes[2], weaving.fragments, 2), (axes[3], weaving.sums, 1)):
        for offset, part, colour in zip(OFFSETS, parts, COLOURS, strict=True):
            top, left = ((side - 1) / 2 - len(part) + step * (len(part) + 1) for step in offset)
            _cells(ax, part, lambda r, c, colour=colour: colour, (top, left))
            if offset == (row % 2, column % 2):
                _frame(ax, top + row // 2, left + column // 2, window)
    return axes


def fragment_sizes(ax, network, size=96):
    """Draw to scale what the shared layers make of size x size voxels: fragments and, dark, the map of one patch.

    Of a network with two paths this is the main one.
    """
    found = [layer for layer in layers(network) if layer.path != "beside"]
    shared = found[: next(number for number, layer in enumerate(found) if layer.padding or layer.kind == "FC")]
    stages = [("input", found[0].map_in, 1)]
    for kind, run in groupby(shared, key=lambda layer: layer.kind):
        run = list(run)
        cut = stages[-1][2] * (run[0].stride if kind == "mp" and run[0].map_out > 1 else 1)
        tokens = [(len(list(same)), token) for token, same in groupby(layer.token for layer in run)]
        name = ", ".join(f"{count} × {token}" if count > 1 else token for count, token in tokens)
        stages.append((name, run[-1].map_out, cut))
    for number, (name, side, cut) in enumerate(stages):
        x = number * size * 1.25
        _tiles(ax, x, size, cut)
        ax.add_patch(Rectangle((x + 0.8, 0.8), side, side, facecolor=INK))
        facts = f"{name}\npatch: {side}×{side}\nfragments: {cut**2}"
        ax.text(x + size / 2, size * 1.05, facts, ha="center", va="top", fontsize=9)
        ax.text(x - size / 8, size / 2, "→" * (number > 0), ha="center", va="center", fontsize=12)
    _bare(ax, size * 1.45)
    ax.set_xlim(-2, x + size + 2)
    return ax


def padded_taps():
    """Which tap of a 3x3 kernel (a to i, row by row) joins which input (column) to which output (row) of a 2x2 map.

    >>> padded_taps().tolist()
    [['e', 'f', 'h', 'i'], ['d', 'e', 'g', 'h'], ['b', 'c', 'e', 'f'], ['a', 'b', 'd', 'e']]
    """
    return np.array([["abcdefghi"[3 * (r - row + 1) + c - column + 1] for r, c in OFFSETS] for row, column in OFFSETS])


def padded_kernel(axes):
    """Draw on five axes a zero-padded 3x3 kernel at the four places of a 2x2 map, and the one matrix that equals it."""
    taps = padded_taps()
    for place, (row, column) in enumerate(OFFSETS):
        axes[4].text(-0.15, place + 0.5, f"output {place + 1}", ha="right", va="center", fontsize=8)
        written = np.full((4, 4), "0")
        written[row : row + 3, column : column + 3] = np.array(list("abcdefghi")).reshape(3, 3)
        _bare(axes[place], 4, f"output {place + 1}")
        _cells(axes[place], written, lambda r, c: PLAIN, ink=FAINT)
        _cells(axes[place], taps[place].reshape(2, 2), lambda r, c: COLOURS[2 * r + c], (1, 1))
        _frame(axes[place], row, column, 3)
    _bare(axes[4], 4, "the same, as one matrix")
    _cells(axes[4], taps, lambda r, c: COLOURS[c])
    return axes


def twin_maps(axes, image, expected, found):
    """Draw a crop (row, column) on four axes: the image, its map patch by patch and dense, and their difference."""
    difference = np.ma.masked_equal(np.abs(found - expected), 0)
    shown = (
        (image, "image", "normalised intensity", {"cmap": "gray"}),
        (expected, "patch by patch", "probability", {"vmin": 0, "vmax": 1}),
        (found, "dense", "probability", {"vmin": 0, "vmax": 1}),
        (difference, "|difference| (white: none)", "", {"norm": LogNorm(SMALLEST, 1e-5)}),
    )
    for ax, (array, title, unit, style) in zip(axes, shown, strict=True):
        drawn = ax.imshow(array, interpolation="nearest", **style)
        ax.set(xticks=[], yticks=[], title=title)
        ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, label=unit)
    return axes


def agreement(axes, compared, limit=1e-5):
    """Draw on two axes the two probabilities of each voxel against each other, and how far they are apart.

    `compared` is a data frame with the columns `where` (groups, coloured), `patch_by_patch` and `dense`.
    """
    for colour, (where, rows) in zip(COLOURS, compared.groupby("where", sort=False), strict=False):
        style = {"color": colour, "label": f"{where}: {len(rows)} voxels", "linewidth": 0}
        apart = (rows.dense - rows.patch_by_patch).abs().clip(lower=SMALLEST)
        axes[0].scatter(rows.patch_by_patch, rows.dense, s=14, **style)
        axes[1].hist(apart, np.logspace(-10, -4, 43), alpha=0.6, **style)
    axes[0].set(xlabel="probability, patch by patch", ylabel="probability, dense", aspect="equal")
    axes[1].axvline(limit, color=INK, linestyle="--", linewidth=1, label=f"promised: {limit:g}")
    axes[1].set(xlabel=f"|difference| ({SMALLEST:g}: that or less)", ylabel="voxels", xscale="log", yscale="log")
    axes[1].legend()
    return axes


def minutes_a_scan(ax, minutes, limit):
    """Draw times for a whole scan on a logarithmic axis: `minutes` maps a label to (low, high), `limit` is a line."""
    for height, (low, high) in enumerate(minutes.values()):
        ax.plot([low, high], [height] * 2, "o-", color=COLOURS[2], linewidth=7, markersize=9)
        ax.text(high, height, f"   {low:.3g}" + f" to {high:.3g}" * (low < high), va="center")
    ax.axvline(limit, color=INK, linestyle="--", linewidth=1)
    ax.set(yticks=range(len(minutes)), yticklabels=minutes, ylim=(len(minutes) - 0.4, -0.6), xscale="log")
    ax.set(xlabel="minutes for one whole scan", title=f"dashed: what the clinic allows, {limit:g} minutes")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.25)
    return ax


def _cells(ax, numbers, colour, corner=(0, 0), ink=INK):
    """Write a 2-D array as coloured cells of side 1 whose first has its upper left at (row, column) `corner`."""
    for (row, column), number in np.ndenumerate(numbers):
        x, y = corner[1] + column, corner[0] + row
        ax.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, facecolor=colour(row, column)))
        ax.text(x + 0.5, y + 0.52, number, ha="center", va="center", fontsize=8, color=ink)


def _frame(ax, row, column, side):
    ax.add_patch(Rectangle((column, row), side, side, fill=False, edgecolor=INK, linewidth=2))


def _bare(ax, side, title=""):
    ax.set(xlim=(-0.2, side + 0.2), ylim=(side + 0.2, -0.2), aspect="equal")
    ax.set_title(title, fontsize=9)
    ax.axis("off")


def _tiles(ax, x, size, cut):
    """A square of cut x cut fragments: the hue tells the first pooling's offset, the shade that of the next."""
    side = size / cut
    for row, column in np.ndindex(cut, cut):
        hue = np.array(to_rgb(COLOURS[2 * (2 * row // cut) + 2 * column // cut] if cut > 1 else PLAIN))
        shade = 0.16 * (2 * (row % 2) + column % 2) + 0.12 if cut > 2 else 0.2
        place = (x + column * side + 0.8, row * side + 0.8)
        ax.add_patch(Rectangle(place, side - 1.6, side - 1.6, facecolor=hue * (1 - shade) + shade))
