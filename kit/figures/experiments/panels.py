"""What a network is shown, how it learns and what it finds: one experiment at a time.

A panel fills the whole matplotlib Figure or SubFigure it is given; every other function draws on the axes it is given.
What was drawn on is returned.
"""

from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from kit.figures.slices import finding_crops, probability_bar, scale_bar, show_slice
from kit.figures.style import BLUE, GREEN, GREY, KIND_COLOURS, ORANGE, clear, labelled, legend_below
from kit.samplers import patches

MARKERS = {"lesion": "o", "lesion border": "o", "beside the border": "s", "healthy": "s"}  # why a voxel was drawn
WINDOW = (-1, 3)  # of normalised scans
ZOOM = 22  # voxels on each side of the middle of a `scheme_panel`


def sample_panel(figure, cohort, rows, patch_shape, *, columns=8):
    """Show the centre slice of training patches, turned as they are drawn: lesions in the upper row, healthy below.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
    rows : pandas.DataFrame
        Of `kit.samplers.draw`; the first ones of each class are shown, with what they are.
    patch_shape : (slices, rows, columns) int
    columns : int
        Patches of each class.
    """
    for line, label in zip(figure.subplots(2, columns, squeeze=False), (True, False), strict=True):
        some = rows[rows.label == label].head(columns)
        found = patches(cohort, some, patch_shape, some.angle.to_numpy())[:, patch_shape[0] // 2].numpy()
        for ax, patch, why in zip(clear(line), found, some.why, strict=False):
            show_slice(ax, patch, window=WINDOW, title=why)
    figure.suptitle("Training patches, centre slice; upper row: lesion at the centre, lower row: healthy")
    return figure


def scheme_panel(figure, cohort, draws, centre):
    """Show one slice around a voxel with what each sampling scheme drew on it (Fig. 5.6), and a legend below.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
        Of one scan.
    draws : dict of str to pandas.DataFrame
        A title to the rows of `kit.samplers.draw` from that cohort.
    centre : (slice, row, column) int
    """
    at, row, column = centre
    for ax, (title, rows) in zip(figure.subplots(1, len(draws), squeeze=False)[0], draws.items(), strict=True):
        drawn_voxels(ax, cohort.image(0)[at], cohort.scans[0].label[at], rows[rows.slice == at], window=WINDOW)
        ax.set(title=title, xlim=(column - ZOOM, column + ZOOM), ylim=(row + ZOOM, row - ZOOM))
    legend_of_reasons(figure, MARKERS)
    return figure


def drawn_voxels(ax, image_slice, label_slice, rows, *, window=None, size=22):
    """Draw a slice with the voxels that were drawn on it, coloured by why, a pair joined by a line.

    Parameters
    ----------
    image_slice, label_slice : (row, column) arrays
        The label is bool, or None.
    rows : pandas.DataFrame
        The rows of `kit.samplers.draw` on this slice; a partner on another slice is not there to be joined.
    window : (low, high), optional
        See `show_slice`.
    size : float
        Area of a mark in square points.
    """
    show_slice(ax, image_slice, label_slice, window=window)
    for _, pair in rows[rows.pair >= 0].groupby("pair"):
        ax.plot(pair.column, pair.row, color="white", linewidth=0.8, zorder=2)
    style = {"s": size, "edgecolors": "black", "linewidths": 0.4, "zorder": 3}
    for why, mine in rows.groupby("why", observed=True):
        ax.scatter(mine.column, mine.row, marker=MARKERS[why], color=KIND_COLOURS[why], **style)
    return ax


def legend_of_reasons(figure, reasons):
    """Put a legend of `drawn_voxels` below a figure, for the reasons that occur in it."""
    style = {"linestyle": "", "markeredgecolor": "black"}
    present = [why for why in MARKERS if why in set(reasons)]
    entries = [Line2D([], [], marker=MARKERS[why], color=KIND_COLOURS[why], label=why, **style) for why in present]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
    return figure


def training_panel(figure, name, history):
    """Show how an experiment's training went: loss on the left, accuracy, recall and precision on the right.

    Parameters
    ----------
    name : str
        The experiment.
    history : pandas.DataFrame
        As `kit.experiments.train` returns.
    """
    training_curves(figure.subplots(1, 2), history)
    figure.suptitle(f"{name}: {history.patches_worth.iloc[-1]:,} patches' worth")
    return figure


def training_curves(axes, history):
    """Draw loss (first axes) and accuracy, recall, precision (second) over the size of the run, in patches' worth.

    Parameters
    ----------
    axes : pair of Axes
    history : pandas.DataFrame
        As `kit.experiments.train` returns. Dotted lines: there the learning rate fell, at the end of an epoch.
    """
    visited, style = history.patches_worth, {"markersize": 4}
    axes[0].plot(visited, history.train_loss, "o--", color=GREY, label="training", **style)
    axes[0].plot(visited, history.validation_loss, "o-", color=BLUE, label="validation", **style)
    axes[1].plot(visited, 100 * history.train_accuracy, "o--", color=GREY, label="training accuracy", **style)
    for name, colour in {"accuracy": BLUE, "recall": GREEN, "precision": ORANGE}.items():
        axes[1].plot(visited, 100 * history[f"validation_{name}"], "o-", color=colour, label=name, **style)
    for ax, title, unit in zip(axes, ("Loss", "Balanced patches"), ("cross entropy", "%"), strict=True):
        for drop in visited[history.learning_rate.diff().shift(-1) < 0]:
            ax.axvline(drop, color=GREY, linestyle=":", linewidth=1)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        legend_below(ax)
        labelled(ax, title, "patches' worth", unit)
    return axes


def lesion_panel(figure, lesions, load, words=(), half=24):
    """Show lesions with their labels, below them their probabilities too, and a bar of colours (Fig. A.1).

    Parameters
    ----------
    lesions : pandas.DataFrame
        With scan_id, centre (slice, row, column), diameter_mm and `found`.
    load : callable
        From a scan's id to (kit.scans.Scan, probability map), such as `kit.viewer.saved_maps` gives.
    words : sequence of str
        One a lesion, in place of "found" or "missed".
    half : int
        A crop is 2 * half + 1 voxels wide.
    """
    axes, words = figure.subplots(2, max(len(lesions), 1), squeeze=False), words or map(_fate, lesions.found)
    for (upper, lower), lesion, word in zip(clear(axes).T, lesions.itertuples(), words, strict=False):
        scan, probability = load(lesion.scan_id)
        title = f"{lesion.scan_id}, {lesion.diameter_mm:.1f} mm, {word}"
        finding_crops(upper, scan.image, [lesion.centre], titles=[title], label=scan.label, half=half)
        finding_crops(lower, scan.image, [lesion.centre], label=scan.label, probability=probability, half=half)
    if len(lesions):
        scale_bar(axes[0, 0], 10)
        probability_bar(figure, axes)
    return figure


def _fate(found):
    return "found" if found else "missed"
