"""Figures of a record: how experiments that were trained several times differ.

What fills a whole figure takes a matplotlib Figure or SubFigure, all else the axes that it draws on; they are returned.
"""

import numpy as np
from matplotlib.colors import ListedColormap

from kit.figures.evaluation import froc_axis, precision_recall, recall_over_size_curves
from kit.figures.slices import frame_head, probability_bar, scale_bar, show_slice
from kit.figures.style import BLUE, GREY, PALE, STAR, clear, labelled, legend_below, network_style, network_styles
from kit.metrics import froc, recall_curve, summarise

TITLES = {
    "recall": "recall (%)",
    "precision": "precision (%)",
    "dice": "Dice of lesions",
    "dice_healthy": "Dice, healthy",
}
FP_PER_SCAN = (0.25, 32)  # axis of FROC curves
FP_TICKS = (0.5, 2, 8, 32)  # along narrow ones
BEHIND = {"color": PALE, "linewidth": 0.8}  # curves that others are compared with
LEVEL = 0.05  # of a corrected p
BAR_MM = 50  # length of a scale bar
PER_ROW = 7  # networks side by side whose curves are shown
SHOWN_FROM = 0.1  # probability; whole scans of a record are mapped around what exceeds it


def learning_curves(ax, histories, names=None, score="validation_loss"):
    """Draw one score of several experiments' trainings from clean labels over the size of the run, in patches' worth.

    `histories` has the rows of `kit.experiments.train` with their `experiment`, `labels` and `seed`; each training has
    a line. `names` chooses experiments.
    """
    histories = _from_clean_labels(histories, names)
    seen, styles = set(), network_styles(histories.experiment.drop_duplicates() if names is None else names)
    for (name, _), history in histories.groupby(["experiment", "seed"], sort=False):
        label = None if name in seen else name
        ax.plot(history.patches_worth / 1000, history[score], markersize=4, label=label, **styles[name])
        seen.add(name)
    ax.set_xlim(0, None)
    legend_below(ax, columns=4)
    return labelled(ax, "", "patches' worth (thousands)", score.replace("_", " "))


def learning_multiples(figure, histories, names=None, score="validation_loss", columns=4):
    """Show one score of all experiments' training over its epochs, one axes each, before those of all others in grey.

    `histories` and `names` as in `learning_curves`.
    """
    histories = _from_clean_labels(histories, names)

    def draw(ax, name, others):
        for one in (*others, name):
            style = network_style(name) | {"markersize": 3} if one == name else BEHIND
            for _, history in histories[histories.experiment == one].groupby("seed"):
                ax.plot(history.epoch, history[score], **style)
        ax.set_xlim(0, None)

    shown = list(histories.experiment.drop_duplicates())
    return _multiples(figure, shown, draw, columns, "epoch", score.replace("_", " "))


def _from_clean_labels(histories, names):
    chosen = histories.labels == "clean"
    return histories[chosen if names is None else chosen & histories.experiment.isin(names)]


def forest_plot(axes, measured, published):
    """Draw every experiment's scores with their intervals, one axes a score, and the published figures.

    Parameters
    ----------
    axes : sequence of Axes
        For recall, precision and the Dice of lesions and of healthy tissue, in this order; they share the experiments.
    measured : pandas.DataFrame
        Indexed by experiment: recall, precision, dice, dice_healthy in [0, 1], each with its `_low` and `_high`.
    published : pandas.DataFrame
        The same scores, indexed by experiment; what is missing has no star.
    """
    names = list(measured.index)[::-1]
    for ax, (score, title) in zip(axes, TITLES.items(), strict=False):
        scale = 100 if title.endswith("(%)") else 1
        for at, name in enumerate(names):
            value, low, high = (scale * measured.loc[name, score + end] for end in ("", "_low", "_high"))
            style = network_style(name)
            ax.plot([low, high], [at, at], color=style["color"], linewidth=2)
            ax.plot(value, at, color=style["color"], marker=style["marker"], markersize=6)
            if name in published.index:
                ax.plot(scale * published.loc[name, score], at, markersize=9, zorder=3, **STAR)
        ax.set_yticks(range(len(names)), names)
        ax.set(xlabel=title, ylim=(-0.7, len(names) - 0.3))
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
    return axes


def change_plot(ax, changes, rate):
    """Draw what each change of network or scheme did to a rate, with its interval; blue where the corrected p is small.

    Parameters
    ----------
    changes : pandas.DataFrame
        Indexed by change and something else: difference, low, high, corrected and, where it is known, published, as
        fractions; see `kit.experiments.changes` and `whole_scan_changes`.
    rate : str or float
        Of the second level: such as "recall", or a number of false positives a scan, at which it is recall.
    """
    mine = changes.xs(rate, level=1)[::-1]
    ax.axvline(0, color=GREY, linewidth=1)
    for at, (_, row) in enumerate(mine.iterrows()):
        colour = BLUE if row.corrected < LEVEL else "0.6"
        ax.plot([100 * row.low, 100 * row.high], [at, at], color=colour, linewidth=2)
        ax.plot(100 * row.difference, at, "o", color=colour)
        ax.plot(100 * row.get("published", np.nan), at, markersize=9, zorder=3, **STAR)
    ax.set_yticks(range(len(mine)), mine.index)
    ax.grid(axis="x", color="0.9")
    what = rate if isinstance(rate, str) else f"recall at {rate:g} false positives a scan"
    return labelled(ax, f"{what}; blue: corrected p < {LEVEL:g}", "change (percentage points)", "")


def border_profiles(ax, profiles, styles=None):
    """Draw mean probability over the distance from the true border in mm, a line a network.

    Parameters
    ----------
    profiles : dict of str to pandas.DataFrame
        Name to `kit.metrics.border_profile`.
    styles : dict of str to dict, optional
        Options of a line, such as its colour and dash, by name.
    """
    ax.axvspan(0, 6, color="0.94", zorder=0)
    ax.axvline(0, color=GREY, linewidth=1)
    for name, profile in profiles.items():
        at = profile.distance_mm - 0.5 * (profile.distance_mm > 0) + 0.5 * (profile.distance_mm < 0)  # mid of the bin
        style = {"marker": "o"} | (styles or {}).get(name, {})
        ax.plot(at, profile.probability, markersize=4, label=name, **style)
    ax.set(xlim=(-5.2, 5.2), ylim=(0, 1))
    ax.legend(fontsize=8)
    return labelled(
        ax, "", "distance from the true border (mm); grey: outside the lesion", "mean probability of lesion"
    )


def froc_lines(ax, points, names, behind=()):
    """Draw the FROC curves of some experiments on whole scans, a line each training, and others in grey behind them.

    Parameters
    ----------
    points : pandas.DataFrame
        Of `kit.experiments.Record`.
    names, behind : sequence of str
        Experiments; those that are not recorded have no line.
    """
    styles = network_styles(names)
    for name in (*behind, *names):
        style = styles[name] | {"marker": ""} if name in names else BEHIND
        for seed, part in points[points.experiment == name].groupby("seed"):
            curve, first = froc(part), seed == points.seed[points.experiment == name].min()
            label = name if first and name in names else None
            ax.step(curve.fp_per_scan, 100 * curve.recall, where="post", label=label, **style)
    froc_axis(ax)
    ax.set(xlim=FP_PER_SCAN, ylim=(-2, 102))
    ax.legend(fontsize=8, loc="lower right")
    return labelled(ax, "", "false positives a scan", "recall (%)")


def froc_multiples(figure, points, columns=4):
    """Show the FROC curves of all experiments of a record, one axes each, before those of all others in grey.

    `points` as in `froc_lines`, or the rows of some experiments.
    """

    def draw(ax, name, others):
        froc_lines(ax, points, [name], others).get_legend().remove()
        ax.set_xticks(FP_TICKS)

    names = points.experiment.drop_duplicates()
    return _multiples(figure, list(names), draw, columns, "false positives a scan", "recall (%)")


def _multiples(figure, names, draw, columns, x, y):
    """Fill a figure with axes of one name each; `draw` takes one, its name and the others."""
    axes = figure.subplots(-(-len(names) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        draw(ax, name, [other for other in names if other != name])
        ax.set(title=name, xlabel="", ylabel="")
    clear(axes.flat[len(names) :])
    for ax in axes.flat[max(len(names) - columns, 0) : len(names)]:
        ax.tick_params(labelbottom=True)  # also where nothing stands below
    figure.supxlabel(x)
    figure.supylabel(y)
    return figure


def curve_multiples(figure, sweeps, lesions, thresholds=(0.5, 0.9, 0.99)):
    """Show precision and recall of every experiment on whole scans, and recall over size at some theta (Fig. B.1-B.3).

    Precision is on a logarithmic axis, because on whole scans most networks have a few percent. Seven networks stand
    side by side; below each seven the next follow.

    Parameters
    ----------
    sweeps, lesions : pandas.DataFrame
        Of `kit.experiments.Record`; all trainings of an experiment are added up.
    thresholds : sequence of float
        Theta of the curves over size, and of the dots on those of precision and recall; close ones lie on each other.
    """
    names = list(sweeps.experiment.drop_duplicates())
    bands, per_row = -(-len(names) // PER_ROW), min(len(names), PER_ROW)
    axes = figure.subplots(2 * bands, per_row, squeeze=False, sharey="row")
    clear(axes[-2:, len(names) - (bands - 1) * per_row :])
    for at, name in enumerate(names):
        upper, lower = axes[2 * (at // per_row) : 2 * (at // per_row) + 2, at % per_row]
        curve = summarise(sweeps[(sweeps.experiment == name) & (sweeps.min_volume_mm3 == 0)])
        precision_recall(upper, curve, mark=thresholds, **network_style(name))
        fixed = lesions[(lesions.experiment == name) & lesions.fp_per_scan.isna() & lesions.threshold.isin(thresholds)]
        recall_over_size_curves(lower, recall_curve(fixed, by=["threshold"]))
        lower.get_legend().remove()
        upper.set(title=name, ylabel="precision (%)")
        lower.set(title="", xlim=(0, 20), xlabel="size (mm)")
        for ax in (upper, lower):
            ax.set(ylabel="" if at % per_row else ax.get_ylabel())
    for ax in axes[::2, 0]:
        ax.set(yscale="log", ylim=(0.1, 130))
        ax.set_yticks((0.1, 1, 10, 100), (0.1, 1, 10, 100))
    figure.legend(handles=axes[1, 0].lines, loc="outside lower center", ncols=len(thresholds))
    return figure


def found_matrix(ax, shares):
    """Show which experiment finds which lesion, the smallest lesion on the left: how many of its trainings do.

    Parameters
    ----------
    shares : pandas.DataFrame
        From `kit.experiments.found_by`.
    """
    ordered = shares.sort_values("diameter_mm")
    found = ordered.drop(columns=["volume_mm3", "diameter_mm", "size_mm"])
    shown = ListedColormap(["white", *(str(shade) for shade in np.linspace(0.75, 0.2, 9))])
    ax.pcolormesh(found.T.to_numpy(float), cmap=shown, vmin=0, vmax=1, edgecolors="0.9", linewidth=0.3)
    ax.set_yticks(np.arange(found.shape[1]) + 0.5, found.columns)
    ax.invert_yaxis()
    every = max(len(ordered) // 12, 1)
    ax.set_xticks(np.arange(len(ordered))[::every] + 0.5, [f"{size:.1f}" for size in ordered.diameter_mm[::every]])
    for at in np.flatnonzero((found == 0).all(axis=1)):
        ax.plot(at + 0.5, -0.3, "v", color="black", markersize=4, clip_on=False)
    return labelled(ax, "", "lesions by diameter (mm); a triangle: found by none", "")


def map_gallery(figure, slices, at, networks=None, *, columns=5, threshold=SHOWN_FROM, around_mm=None):
    """Show a slice and the networks' probabilities on it, with the label's outline, scale and colours (Fig. A.1).

    Parameters
    ----------
    slices : kit.experiments.Slices
    at : int
        Of the slice.
    networks : sequence of str, optional
        Experiments; None: all.
    columns : int
    threshold : float
        Probabilities from here on are drawn.
    around_mm : float, optional
        Side of the square around the place for which the slice was chosen; by default the head fills the frame.
    """
    row, image, label = slices.table.iloc[at], slices.images[at], slices.labels[at]
    maps = {name: found[at] for name, found in slices.maps.items() if networks is None or name in networks}
    axes = clear(figure.subplots(-(-(len(maps) + 1) // columns), columns, squeeze=False))
    show_slice(axes.flat[0], image, label, title="label")
    for ax, (name, probability) in zip(axes.flat[1:], maps.items(), strict=False):
        show_slice(ax, image, label, probability, title=name, threshold=threshold)
    for ax in axes.flat[: len(maps) + 1]:
        frame_head(ax, image).set_aspect(row.spacing_row_mm / row.spacing_column_mm)
        if around_mm:
            wide, high = around_mm / 2 / row.spacing_column_mm, around_mm / 2 / row.spacing_row_mm
            ax.set(xlim=(row.column - wide, row.column + wide), ylim=(row.row + high, row.row - high))
    scale_bar(axes.flat[0], BAR_MM if around_mm is None else BAR_MM / 5, row.spacing_column_mm)
    if maps:
        probability_bar(figure, axes)
    figure.suptitle(f"{row.scan_id}, slice {row.slice}: {row.what}")
    return figure
