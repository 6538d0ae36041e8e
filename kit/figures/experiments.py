"""Figures of the experiments: what a scheme looks at, and how networks stand beside each other and the thesis."""

from matplotlib.lines import Line2D

from kit.figures.slices import BLUE, GREY, KIND_COLOURS, network_style, show_slice
from kit.samplers import patches

MARKERS = {"lesion": "o", "lesion border": "o", "beside the border": "s", "healthy": "s"}
TITLES = {
    "recall": "recall (%)",
    "precision": "precision (%)",
    "dice": "Dice of lesions",
    "dice_healthy": "Dice, healthy",
}


def sample_patches(axes, cohort, rows, patch_shape, window=(-1, 3)):
    """Draw the centre slice of turned training patches: lesion voxels in the upper row of axes, healthy ones below.

    Parameters
    ----------
    axes : (2, n) array of Axes
    cohort : kit.samplers.Cohort
    rows : pandas.DataFrame
        Of `kit.samplers.draw`; the first n of each class are shown, with what they are.
    patch_shape : (slices, rows, columns)
    """
    for line, label in zip(axes, (True, False), strict=True):
        some = rows[rows.label == label].head(len(line))
        found = patches(cohort, some, patch_shape, some.angle.to_numpy())[:, patch_shape[0] // 2].numpy()
        for ax, patch, why in zip(line, found, some.why, strict=False):
            show_slice(ax, patch, window=window, title=why)
    return axes


def drawn_voxels(ax, image_slice, label_slice, rows, *, window=None, size=22):
    """Draw a slice with the voxels that were drawn on it, coloured by why, a pair joined by a line (Fig. 5.6).

    Parameters
    ----------
    image_slice, label_slice : (row, column) arrays
    rows : pandas.DataFrame
        The rows of `kit.samplers.draw` on this slice; a partner on another slice is not there to be joined.
    """
    show_slice(ax, image_slice, label_slice, window=window)
    for _, pair in rows[rows.pair >= 0].groupby("pair"):
        ax.plot(pair.column, pair.row, color="white", linewidth=0.8, zorder=2)
    for why, mine in rows.groupby("why", observed=True):
        ax.scatter(mine.column, mine.row, s=size, marker=MARKERS[why], color=KIND_COLOURS[why], edgecolors="black",
                   linewidths=0.4, zorder=3)  # fmt: skip
    return ax


def legend_of_reasons(figure, reasons):
    """A legend of `drawn_voxels` below a figure, for the reasons that occur in it."""
    entries = [
        Line2D([], [], marker=MARKERS[why], color=KIND_COLOURS[why], linestyle="", markeredgecolor="black", label=why)
        for why in MARKERS
        if why in set(reasons)
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
    return figure


def forest(axes, measured, published):
    """Draw every experiment's scores with their intervals, one axes a score, the published figure as a star.

    Parameters
    ----------
    axes : sequence of Axes
        One a score of `TITLES`, in this order; they share the experiments.
    measured : pandas.DataFrame
        `kit.experiments.record_table`.
    published : pandas.DataFrame
        Indexed by experiment, with the columns of `TITLES`.
    """
    names = list(measured.index)[::-1]
    for ax, (score, title) in zip(axes, TITLES.items(), strict=False):
        scale = 100 if title.endswith("(%)") else 1
        for at, name in enumerate(names):
            row = measured.loc[name]
            value, low, high = (scale * row[score + end] for end in ("", "_low", "_high"))
            if value == value:
                style = network_style(name)
                ax.plot([low, high], [at, at], color=style["color"], linewidth=2)
                ax.plot(value, at, color=style["color"], marker=style["marker"], markersize=6)
            if name in published.index:
                ax.plot(scale * published.loc[name, score], at, "*", color="black", markersize=9, zorder=3)
        ax.set_yticks(range(len(names)), names)
        ax.set(xlabel=title, ylim=(-0.7, len(names) - 0.3))
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
    return axes


def learning_curves(ax, histories, score="validation_loss"):
    """Draw one score of several experiments' training over the patches visited.

    `histories` has the rows of `kit.experiments.train` with their `experiment`.
    """
    for name, history in histories.groupby("experiment", sort=False):
        ax.plot(history.patches_worth / 1000, history[score], markersize=4, label=name, **network_style(name))
    ax.set(xlabel="patches visited (thousands)", ylabel=score.replace("_", " "), xlim=(0, None))
    ax.legend(fontsize=8)
    return ax


def border_profiles(ax, profiles, styles=None):
    """Draw mean probability over the distance from the true border, a line a network.

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
    ax.set(xlim=(-5.2, 5.2), ylim=(0, 1), xlabel="distance from the true border (mm); grey: outside the lesion")
    ax.set_ylabel("mean probability of lesion")
    ax.legend(fontsize=8)
    return ax


def step_plot(ax, steps, rate):
    """Draw what each change of network or scheme did to a rate, with its interval; the published change is a star.

    Parameters
    ----------
    steps : pandas.DataFrame
        Indexed by (step, rate): difference, low, high, published, all as fractions.
    """
    mine = steps.xs(rate, level="rate")[::-1]
    ax.axvline(0, color=GREY, linewidth=1)
    for at, (_, row) in enumerate(mine.iterrows()):
        sure = row.low > 0 or row.high < 0
        ax.plot([100 * row.low, 100 * row.high], [at, at], color=BLUE if sure else "0.6", linewidth=2)
        ax.plot(100 * row.difference, at, "o", color=BLUE if sure else "0.6")
        ax.plot(100 * row.published, at, "*", color="black", markersize=9, zorder=3)
    ax.set_yticks(range(len(mine)), mine.index)
    ax.set(xlabel=f"change of {rate} (percentage points); blue: the interval is clear of 0")
    ax.grid(axis="x", color="0.9")
    return ax
