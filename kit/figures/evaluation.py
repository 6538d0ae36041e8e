"""Figures of an evaluation: each function draws tidy tables on the axes it is given and returns them.

Colours are those of `kit.figures.slices`, which colour-blind readers can tell apart; where there are many curves,
markers differ as well.
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from kit.figures.slices import BLUE, GREEN, GREY, ORANGE, RED, SKY

MARKERS = "osD^vPX*"
KINDS = {"TP": GREEN, "FN": RED, "FP": ORANGE}
PLANES = (("row", "column", "axial"), ("slice", "column", "coronal"), ("slice", "row", "sagittal"))
TOWARDS = {
    "slice": "slice (voxel, neck to crown)",
    "row": "row (voxel, front to back)",
    "column": "column (voxel, right to left)",
}


def precision_recall_over_filters(ax, summary, *, label=None, mark=(0, 40, 80, 150)):
    """Draw precision over recall, one point a minimum volume (lower part of Fig. 6.1).

    Parameters
    ----------
    summary : pandas.DataFrame
        From `kit.metrics.summarise`, the rows of one threshold.
    mark : sequence of float
        Minimum volumes in mm3 that are written beside their points.
    """
    if summary.min_volume_mm3.duplicated().any():
        raise ValueError("summary has a minimum volume twice; give the rows of one threshold and one network")
    curve = summary.dropna(subset=["recall", "precision"]).sort_values("min_volume_mm3")
    ax.plot(100 * curve.recall, 100 * curve.precision, "s-", markersize=3, color=GREEN, label=label)
    for point in curve[curve.min_volume_mm3.isin(mark)].itertuples():
        at = (100 * point.recall, 100 * point.precision)
        ax.plot(*at, "s", color=GREEN, markersize=6)
        ax.annotate(f"{point.min_volume_mm3:g} mm³", at, (7, 3), textcoords="offset points", fontsize=8)
    ax.set(xlim=(0, 102), ylim=(0, max(5, 115 * curve.precision.max()) if len(curve) else 5))
    return _labelled(ax, "Size filter, precision and recall", "recall (%)", "precision (%)")


def recall_over_size_curves(ax, curves, by="threshold", *, fixed=""):
    """Draw recall over lesion size, one curve a threshold or minimum volume (Fig. 6.2; left of Fig. B.1 to B.3).

    Parameters
    ----------
    curves : pandas.DataFrame
        From `kit.metrics.recall_curve`, one kind of curve: the other column has one value.
    by : str
        threshold or min_volume_mm3.
    fixed : str
        What the title says of the other.
    """
    values = sorted(curves[by].unique())
    shades = _shades(len(values))
    for number, value in enumerate(values):
        rows = curves[curves[by] == value].dropna(subset=["recall"])
        name = f"θ {value:g}" if by == "threshold" else f"from {value:g} mm³"
        style = {"color": shades[number], "marker": MARKERS[number % len(MARKERS)], "markersize": 4, "linewidth": 1.4}
        ax.plot(rows.at_mm, 100 * rows.recall, label=name, **style)
    ax.set(ylim=(-3, 106), xlim=(0, None))
    ax.legend(fontsize=8, loc="lower right")
    return _labelled(ax, f"Recall over lesion size{fixed}", "size: cube root of the volume (mm)", "recall (%)")


def false_positive_positions(axes, errors, shape, *, head=None, size=0.08):
    """Draw where false positives are on three planes, a circle's area after their volume (left of Fig. 6.3).

    Parameters
    ----------
    axes : three Axes
        Axial, coronal and sagittal.
    errors : pandas.DataFrame
        From `kit.metrics.error_table`, of scans on grids of about one shape.
    shape : (slice, row, column) int
        Of the scans.
    head : (slice, row, column) bool array, optional
        Whose outline on each plane is drawn behind.
    size : float
        Points of a circle's area for a mm3.
    """
    false = errors[errors.kind == "FP"].sort_values("volume_mm3", ascending=False)
    length = dict(zip(("slice", "row", "column"), shape, strict=True))
    for ax, (vertical, horizontal, name) in zip(axes, PLANES, strict=True):
        if head is not None:
            ax.contour(
                head.any(axis=("slice", "row", "column").index(_third(vertical, horizontal))), [0.5], colors=[GREY]
            )
        area = 4 + size * false.volume_mm3.clip(upper=4000)
        ax.scatter(false[horizontal], false[vertical], s=area, color=ORANGE, alpha=0.45, edgecolors=RED, linewidths=0.6)
        ax.set(xlim=(0, length[horizontal]), aspect="equal")
        ax.set_ylim((length[vertical], 0) if vertical == "row" else (0, length[vertical]))
        _labelled(ax, name, TOWARDS[horizontal], TOWARDS[vertical])
    return axes


def false_positive_histograms(axes, errors, shape, *, bins=16):
    """Draw how false positives are spread along the three axes (right of Fig. 6.3).

    `axes` are three Axes for columns, rows and slices; the rest as in `false_positive_positions`.
    """
    false = errors[errors.kind == "FP"]
    for ax, name, length in zip(axes, ("column", "row", "slice"), reversed(shape), strict=True):
        ax.hist(false[name], np.linspace(0, length, bins + 1), color=ORANGE, edgecolor="white")
        ax.set_xlim(0, length)
        _labelled(ax, "", TOWARDS[name], "false positives")
    return axes


def froc_curve(ax, curve, averages=None, *, label=None, colour=BLUE):
    """Draw recall over false positives a scan, with its interval, and the numbers that the average takes.

    Parameters
    ----------
    curve : pandas.DataFrame
        From `kit.metrics.froc`, with draws for the band.
    averages : pandas.DataFrame, optional
        From `kit.metrics.froc_average`.
    """
    rows = curve[curve.fp_per_scan > 0]
    if len(rows):
        ax.step(rows.fp_per_scan, 100 * rows.recall, where="post", color=colour, label=label)
    if "recall_low" in rows and len(rows):
        band = {"step": "post", "color": colour, "alpha": 0.15, "linewidth": 0}
        ax.fill_between(rows.fp_per_scan, 100 * rows.recall_low, 100 * rows.recall_high, **band)
    if averages is not None:
        at = averages.drop(index="average")
        mean = 100 * averages.recall["average"]
        ax.plot(at.index.astype(float), 100 * at.recall, "D", color=colour, markersize=5, label=f"average {mean:.0f} %")
    ax.set_xscale("log", base=2)
    ax.set(xlim=(1 / 16, max(16, 1.1 * curve.fp_per_scan.max())), ylim=(-2, 102))
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"1/{round(1 / value)}" if value < 1 else f"{value:g}")
    ax.grid(alpha=0.3)
    ax.legend(loc="upper left", fontsize=8)
    return _labelled(ax, "FROC", "false positives a scan", "recall (%)")


def reliability_diagram(axes, pooled, *, error=None, what="voxels"):
    """Draw the share of lesion over the promised probability (first axes), and how many voxels each bin has (second).

    Parameters
    ----------
    axes : pair of Axes, one above the other
    pooled : pandas.DataFrame
        From `kit.metrics.pool`.
    error : float, optional
        The expected calibration error, for the title.
    what : str
        What was counted: voxels, or components.
    """
    known = pooled.dropna(subset=["fraction"])
    axes[0].plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="what it says is so")
    axes[0].plot(known.mean_p, known.fraction, "o-", color=BLUE, label="measured")
    axes[0].set(xlim=(0, 1), ylim=(0, 1))
    axes[0].legend(fontsize=8, loc="upper left")
    width = pooled.to_p - pooled.from_p
    axes[1].bar(pooled.from_p + width / 2, pooled["count"], 0.9 * width, color=SKY)
    axes[1].set(xlim=(0, 1), yscale="log", ylim=(0.7, None))
    told = "" if error is None else f", ECE {error:.4f}"
    _labelled(axes[0], f"Reliability, {what}{told}", "", "share that is lesion")
    _labelled(axes[1], "", "probability", what)
    return axes


def dice_of_lesions(axes, lesions, scans):
    """Draw the Dice of every lesion over its size (first axes), and the Dice of whole scans beside (second).

    Parameters
    ----------
    axes : pair of Axes that share their y axis
    lesions : pandas.DataFrame
        `kit.metrics.Detection.truth` of several scans, with found and dice.
    scans : pandas.DataFrame
        Rows of `kit.metrics.sweep` at one threshold and minimum volume.
    """
    for found, colour, marker, name in ((True, GREEN, "o", "found"), (False, RED, "x", "missed")):
        rows = lesions[lesions.found == found]
        axes[0].scatter(rows.size_mm, rows.dice, color=colour, marker=marker, label=f"{name} ({len(rows)})", zorder=3)
    axes[0].axhline(lesions.dice.mean(), color=GREY, linestyle=":", linewidth=1)
    axes[0].set(ylim=(-0.03, 1.03), xlim=(0, None))
    axes[0].legend(fontsize=8)
    own = scans[scans.tp + scans.fn > 0].sort_values("dice")
    axes[1].barh(range(len(own)), own.dice, color=BLUE)
    axes[1].set_yticks(range(len(own)), own.scan_id if "scan_id" in own else range(len(own)), fontsize=8)
    axes[1].set_xlim(0, 1)
    _labelled(axes[0], "Each lesion", "size: cube root of the volume (mm)", "Dice of a lesion and its components")
    _labelled(axes[1], "Whole scans", "Dice of all voxels", "")
    return axes


def false_positives_of_scans(ax, scans):
    """Draw how many false positives each scan has, those without lesions apart.

    `scans` are rows of `kit.metrics.sweep` at one threshold and minimum volume.
    """
    some = (scans.tp + scans.fn > 0).to_numpy()
    for at, (rows, colour) in enumerate(((scans[some], BLUE), (scans[~some], ORANGE))):
        ax.plot(
            np.linspace(-0.15, 0.15, len(rows)) + at if len(rows) > 1 else [at] * len(rows), rows.fp, "o", color=colour
        )
        if len(rows):
            ax.hlines(rows.fp.mean(), at - 0.3, at + 0.3, color=colour)
            ax.text(at + 0.33, rows.fp.mean(), f"{rows.fp.mean():.1f}", va="center", fontsize=8)
    ax.set_xticks([0, 1], [f"with lesions\n({some.sum()} scans)", f"without\n({(~some).sum()} scans)"])
    ax.set(xlim=(-0.6, 1.7), ylim=(0, None))
    return _labelled(ax, "False positives", "", "false positives in a scan")


def rule_bars(axes, table, rates=("recall", "precision", "fp_per_scan")):
    """Draw the same maps under every rule: a rate on each axes, with its interval.

    Parameters
    ----------
    axes : as many Axes as rates
    table : pandas.DataFrame
        From `kit.metrics.intervals` with ``by="rule"``.
    """
    names = {"recall": "recall (%)", "precision": "precision (%)", "fp_per_scan": "false positives a scan"}
    for ax, rate in zip(axes, rates, strict=True):
        scale = 1 if rate.startswith("fp") else 100
        value, low, high = (scale * table[name].to_numpy(float) for name in (rate, f"{rate}_low", f"{rate}_high"))
        at = np.arange(len(table))
        ax.hlines(at, low, high, color=GREY, linewidth=2)
        ax.plot(value, at, "o", color=BLUE, markersize=7)
        ax.set_yticks(at, table.rule)
        ax.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 102 if rate == "recall" else None))
        ax.grid(axis="x", alpha=0.3)
        _labelled(ax, "", names.get(rate, rate), "")
    return axes


def drawn_case(ax, truth, predicted, *, title="", dilated=None):
    """Draw a small slice voxel by voxel: lesions filled, predictions outlined, centres of mass as crosses.

    Parameters
    ----------
    truth, predicted : (row, column) int arrays
        Component numbers, 0 outside.
    dilated : (row, column) bool array, optional
        Drawn faintly around the lesions.
    """
    rows, columns = truth.shape
    if dilated is not None:
        ax.add_collection(PatchCollection(_squares(dilated & (truth == 0)), facecolor=SKY, alpha=0.3))
    ax.add_collection(PatchCollection(_squares(truth > 0), facecolor=SKY, edgecolor="white", linewidth=0.5))
    inner = PatchCollection(_squares(predicted > 0, 0.28), facecolor="none", edgecolor=RED, linewidth=1.4)
    ax.add_collection(inner)
    for labels, colour, marker in ((truth, BLUE, "P"), (predicted, RED, "X")):
        for number in range(1, labels.max() + 1):
            row, column = np.argwhere(labels == number).mean(axis=0)
            ax.plot(column, row, marker, color=colour, markersize=8, markeredgecolor="white")
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    return ax


def differences(ax, table, *, rate="recall", unit="%"):
    """Draw the difference of networks to a reference with intervals, from `kit.metrics.compare_all`."""
    scale, at = (100 if unit == "%" else 1), np.arange(len(table))
    ax.axvline(0, color=GREY, linestyle="--", linewidth=1)
    ax.hlines(at, scale * table.low, scale * table.high, color=BLUE, linewidth=2)
    ax.plot(scale * table.difference, at, "o", color=BLUE)
    ax.set_yticks(at, table.index)
    ax.set_ylim(len(table) - 0.5, -0.5)
    return _labelled(ax, "", f"difference in {rate} ({unit})" if unit else f"difference in {rate}", "")


def _squares(mask, inset=0.0):
    side = 1 - 2 * inset
    return [Rectangle((column - 0.5 + inset, row - 0.5 + inset), side, side) for row, column in np.argwhere(mask)]


def _third(*two):
    return ({"slice", "row", "column"} - set(two)).pop()


def _shades(count):
    return colormaps["viridis"](np.linspace(0, 0.85, max(count, 1)))


def _labelled(ax, title, x, y):
    ax.set(title=title, xlabel=x, ylabel=y)
    if y == "false positives":
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax
