"""Pictures of what the related methods compute, and their curves beside those of networks."""

import numpy as np

from kit.figures.evaluation import froc_curve
from kit.figures.slices import clear, show_slice, window_of
from kit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, labelled

COLOURS = {"template": ORANGE, "blobs": GREEN, "U-Net": RED, "D": BLUE, "change": PURPLE}


def template_panel(axes, templates, spacings_mm, titles):
    """Draw the middle row of templates: slices downwards, columns across, each voxel as it is.

    Parameters
    ----------
    axes : array of Axes
    templates : sequence of (slice, row, column) arrays
        From `kit.models.shell_template`.
    spacings_mm : sequence of (slice, row, column) float
    titles : sequence of str
    """
    for ax, template, spacing, title in zip(np.ravel(axes), templates, spacings_mm, titles, strict=True):
        middle = template[:, template.shape[1] // 2]
        ax.imshow(middle, cmap="gray", vmin=0, vmax=1, aspect=spacing[0] / spacing[2], origin="lower")
        ax.set_title(title, fontsize=9)
    return clear(axes)


def plane_line(ax, plane, shape, at, spacing_mm=(1.0, 1.0, 1.0), *, axis=0, **style):
    """Draw where a mid-sagittal plane cuts a slice (axis 0, by rows and columns) or a row (axis 1, slices and columns).

    Parameters
    ----------
    plane : kit.models.Plane
    shape : (slice, row, column) int
    at : int
        Which slice or row is shown.
    """
    along = np.arange(shape[1 - axis])
    parts = [at, along] if axis == 0 else [along, at]
    known = sum(n * part * step for n, part, step in zip(plane.normal[:2], parts, spacing_mm[:2], strict=True))
    column = (plane.offset_mm - known) / (plane.normal[2] * spacing_mm[2])
    ax.plot(column, along, **{"color": RED, "linewidth": 1.2} | style)
    return ax


def change_panel(axes, later, earlier, posterior, at, label=None, titles=()):
    """Draw a slice of two sessions, their difference, and the probability of growth over the later one.

    Parameters
    ----------
    axes : four Axes
    later, earlier : (slice, row, column) arrays
        On one grid, intensities matched.
    posterior : (3, slice, row, column) array
        From `kit.models.change_posterior`.
    at : int
        The slice.
    label : (slice, row, column) bool array, optional
        Of the later session.
    titles : four str
    """
    window, own = window_of(later), None if label is None else label[at]
    difference = later[at] - earlier[at]
    reach = np.ptp(window) / 2
    show_slice(axes[0], earlier[at], window=window)
    show_slice(axes[1], later[at], own, window=window)
    axes[2].imshow(difference, cmap="RdBu_r", vmin=-reach, vmax=reach)
    show_slice(axes[3], later[at], own, posterior[1, at], window=window, threshold=0.3)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=9)
    return clear(axes)


def method_froc(ax, froc, chance):
    """Draw the FROC curve of each method with its interval, and dashed what chance would find.

    Parameters
    ----------
    froc : pandas.DataFrame
        Rows of `kit.metrics.froc` with limits, and their `method`.
    chance : pandas.DataFrame
        method, fp_per_scan, chance: see `kit.experiments.related.chance_curve`.
    """
    for name, rows in froc.groupby("method", sort=False):
        colour = COLOURS.get(name, BLACK)
        froc_curve(ax, rows, label=name, colour=colour)
        own = chance[chance.method == name].sort_values("fp_per_scan")
        ax.plot(own.fp_per_scan, 100 * own.chance, "--", color=colour, linewidth=1)
    ax.plot([], [], "--", color=BLACK, linewidth=1, label="chance")
    ax.set(xlim=(1 / 8, 64))
    ax.legend(loc="upper left", fontsize=8)
    return ax


def budget_curve(ax, rows, others, rate):
    """Draw the recall at a number of false positives over the minutes that a network was trained.

    Parameters
    ----------
    rows : pandas.DataFrame
        minutes, recall, low, high: one network at several parts of its training.
    others : pandas.DataFrame
        The same of others, indexed by method: one point each.
    rate : float
        False positives a scan.
    """
    reach = 100 * np.abs(rows[["low", "high"]].sub(rows.recall, axis=0).to_numpy().T)
    ax.errorbar(rows.minutes, 100 * rows.recall, reach, fmt="o-", color=COLOURS["U-Net"], capsize=4, label="U-Net")
    for name, other in others.iterrows():
        reach = 100 * np.abs([[other.low - other.recall], [other.high - other.recall]])
        ax.errorbar(other.minutes, 100 * other.recall, reach, fmt="s", color=COLOURS.get(name), capsize=4, label=name)
    ax.set(ylim=(-2, 102), xlim=(0, 1.1 * max([*rows.minutes, *others.minutes])))
    ax.legend(fontsize=8, loc="upper left")
    return labelled(ax, f"Recall at {rate:g} false positives a scan", "minutes of training", "recall (%)")
