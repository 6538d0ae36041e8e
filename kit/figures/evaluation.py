"""Figures of an evaluation (notebook 11, and any score): each function draws a table on the axes it is given.

The axes are returned. Rates in tables are fractions, in figures percent.
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import FixedLocator, NullLocator

from kit.figures.style import BLUE, GREEN, GREY, ORANGE, RED, SIZE, SKY, STAR, labelled, write_beside

MARKERS = "osD^vPX*"
PLANES = (("row", "column", "axial"), ("slice", "column", "coronal"), ("slice", "row", "sagittal"))
TOWARDS = {
    "slice": "slice (voxel, neck to crown)",
    "row": "row (voxel, front to back)",
    "column": "column (voxel, right to left)",
}
CURVES = {  # what differs along a curve of precision and recall: values marked, how they are written, style, title
    "threshold": ((0.5,), "θ {:g}", {"marker": "o"}, "Precision and recall"),
    "min_volume_mm3": ((0, 40, 80, 150), "{:g} mm³", {"marker": "s", "color": GREEN},
                       "Size filter, precision and recall"),
}  # fmt: skip
RECALL_AXIS = (0, 108)  # percent, and room for a label at the right
FP_TICKS = [2.0**power for power in range(-3, 9)]  # false positives a scan along a FROC curve


def precision_recall(ax, summary, *, over="threshold", label=None, mark=None, **style):
    """Draw precision over recall, one point a threshold or minimum volume (Fig. 6.1).

    Parameters
    ----------
    summary : pandas.DataFrame
        From `kit.metrics.summarise`.
    over : str
        threshold or min_volume_mm3: what differs from point to point.
    mark : sequence of float, optional
        Values of it that are written beside their points: theta 0.5, or the thesis' four volumes.
    **style
        Of the line, such as `network_style` gives.

    Raises
    ------
    ValueError
        If a value of `over` comes twice: rows of several networks would make one curve.
    """
    marks, text, own, title = CURVES[over]
    if summary[over].duplicated().any():
        other = next(name for name in CURVES if name != over)
        raise ValueError(f"summary has a {over} twice; give the rows of one {other} and one network")
    curve = summary.dropna(subset=["recall", "precision"]).sort_values(over)
    own = own | {"linestyle": "-", "markersize": 3}
    (line,) = ax.plot(100 * curve.recall, 100 * curve.precision, label=label, **own | style)
    ax.set(xlim=RECALL_AXIS, ylim=(0, 102))
    for value, *rates in curve[[over, "recall", "precision"]].to_numpy(float):
        if np.isclose(marks if mark is None else mark, value).any():
            at = tuple(100 * rate for rate in rates)
            ax.plot(*at, own["marker"], color=line.get_color(), markersize=7)
            write_beside(ax, text.format(value), at)
    return labelled(ax, title, "recall (%)", "precision (%)")


def published_point(ax, recall, precision, label):
    """Draw a figure of the thesis, rates in [0, 1], as a star beside measured curves; nothing where they are NaN."""
    if recall == recall:
        at = (100 * recall, 100 * precision)
        ax.plot(*at, markersize=11, **STAR)
        write_beside(ax, label, at)
    return ax


def recall_over_size(ax, table):
    """Draw recall by class of size, its interval and the number of lesions, from `kit.metrics.recall_by_size`."""
    names = [f"{a:g}–{b:g}" if np.isfinite(b) else f"≥ {a:g}" for a, b in zip(table.from_mm, table.to_mm, strict=True)]
    for at, row in enumerate(table.itertuples()):
        ax.text(at, 104, f"n = {row.lesions}", ha="center", fontsize=8)
        if row.lesions:
            reach = [[100 * (row.recall - row.low)], [100 * (row.high - row.recall)]]
            ax.errorbar(at, 100 * row.recall, np.maximum(reach, 0), fmt="o", color=BLUE, capsize=4)
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.6, len(names) - 0.4), ylim=(-3, 112))
    return labelled(ax, "Recall by lesion size", "diameter (mm)", "recall (%)")


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
    shades = colormaps["viridis"](np.linspace(0, 0.85, max(len(values), 1)))
    for number, value in enumerate(values):
        rows = curves[curves[by] == value].dropna(subset=["recall"])
        name = f"θ {value:g}" if by == "threshold" else f"from {value:g} mm³"
        style = {"color": shades[number], "marker": MARKERS[number % len(MARKERS)], "markersize": 4, "linewidth": 1.4}
        ax.plot(rows.at_mm, 100 * rows.recall, label=name, **style)
    ax.set(ylim=(-3, 106), xlim=(0, None))
    ax.legend(fontsize=8, loc="lower right")
    return labelled(ax, f"Recall over lesion size{fixed}", SIZE, "recall (%)")


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
    froc_axis(ax)
    ax.set(xlim=(1 / 16, max(16, 1.1 * curve.fp_per_scan.max())), ylim=(-2, 102))
    ax.legend(loc="upper left", fontsize=8)
    return labelled(ax, "FROC", "false positives a scan", "recall (%)")


def froc_axis(ax):
    """Let false positives a scan double from tick to tick."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(FP_TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"1/{round(1 / value)}" if value < 1 else f"{value:g}")
    ax.grid(alpha=0.3)
    return ax


def false_positives_of_scans(ax, scans):
    """Draw how many false positives each scan has, those without lesions apart, with their means.

    `scans` are rows of `kit.metrics.sweep` at one threshold and minimum volume.
    """
    some = (scans.tp + scans.fn > 0).to_numpy()
    for at, (rows, colour) in enumerate(((scans[some], BLUE), (scans[~some], ORANGE))):
        aside = np.linspace(-0.15, 0.15, len(rows)) if len(rows) > 1 else np.zeros(len(rows))
        ax.plot(at + aside, rows.fp, "o", color=colour)
        if len(rows):
            mean = rows.fp.mean()
            ax.hlines(mean, at - 0.3, at + 0.3, color=colour)
            ax.text(at + 0.33, mean, f"{mean:.1f}", va="center", fontsize=8)
    ax.set_xticks([0, 1], [f"with lesions\n(scans: {some.sum()})", f"without\n(scans: {(~some).sum()})"])
    ax.set(xlim=(-0.6, 1.7), ylim=(0, None))
    return labelled(ax, "False positives", "", "false positives in a scan")


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
            through = next(axis for axis, side in enumerate(length) if side not in (vertical, horizontal))
            ax.contour(head.any(axis=through), [0.5], colors=[GREY])
        area = 4 + size * false.volume_mm3.clip(upper=4000)
        ax.scatter(false[horizontal], false[vertical], s=area, color=ORANGE, alpha=0.45, edgecolors=RED, linewidths=0.6)
        ax.set(xlim=(0, length[horizontal]), aspect="equal")
        ax.set_ylim((length[vertical], 0) if vertical == "row" else (0, length[vertical]))
        labelled(ax, name, TOWARDS[horizontal], TOWARDS[vertical])
    return axes


def false_positive_histograms(axes, errors, shape, *, bins=16):
    """Draw how false positives are spread along the three axes (right of Fig. 6.3).

    `axes` are three Axes for columns, rows and slices; the rest as in `false_positive_positions`.
    """
    false = errors[errors.kind == "FP"]
    for ax, name, length in zip(axes, ("column", "row", "slice"), reversed(shape), strict=True):
        ax.hist(false[name], np.linspace(0, length, bins + 1), color=ORANGE, edgecolor="white")
        ax.set_xlim(0, length)
        labelled(ax, "", TOWARDS[name], "false positives")
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
    mean = lesions.dice.mean()
    axes[0].axhline(mean, color=GREY, linestyle=":", linewidth=1, label=f"mean of all, {mean:.2f}", zorder=1)
    axes[0].set(ylim=(-0.03, 1.03), xlim=(0, None))
    axes[0].legend(fontsize=8)
    own = scans[scans.tp + scans.fn > 0].sort_values("dice")
    axes[1].barh(range(len(own)), own.dice, color=BLUE)
    axes[1].set_yticks(range(len(own)), own.scan_id if "scan_id" in own else range(len(own)), fontsize=8)
    axes[1].set_xlim(0, 1)
    labelled(axes[0], "Each lesion", SIZE, "Dice of a lesion and its components")
    labelled(axes[1], "Whole scans", "Dice of all voxels", "")
    return axes


def reliability_diagram(axes, pooled, *, error=None, what="voxels"):
    """Draw the share of lesion over the probability (first axes), and how many voxels each bin has (second).

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
    suffix = "" if error is None else f", ECE {error:.4f}"
    share = "share that is lesion" if what == "voxels" else "share that are hits"
    labelled(axes[0], f"Reliability, {what}{suffix}", "", share)
    labelled(axes[1], "", "probability", what)
    return axes
