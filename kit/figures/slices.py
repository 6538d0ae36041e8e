"""Every figure of the notebooks: each function draws on the axes it is given and returns them.

Slices are drawn as radiologists look at them: nose up, the patient's right on the left.
"""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy.ndimage import gaussian_filter

from kit.scans import crop, foreground

BLUE, SKY, GREEN, ORANGE, RED, GREY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "0.45"
PURPLE, YELLOW = "#CC79A7", "#F0E442"
KIND_COLOURS = {  # of what is marked on a slice; one place, so that figures and the viewers agree
    "lesion": SKY, "TP": GREEN, "FN": RED, "FP": ORANGE,
    "lesion border": RED, "beside the border": GREEN, "healthy": ORANGE,
}  # fmt: skip
NETWORK_COLOURS = {  # one colour a network in every figure, told apart without colour vision together with the marker
    "A": SKY, "B": GREEN, "C": ORANGE, "D": BLUE, "E": PURPLE, "F": YELLOW, "G": RED, "H": "black", "FCN": GREY,
}  # fmt: skip
SCHEME_LINES = {"Pairs": "--", "Eroded-Pairs": ":"}  # how an experiment's samples were drawn; solid: at random
RELATIVE = "intensity (median of the head = 1)"
LIGHT = np.array([0.8, -0.45, -0.4])  # towards the lamp: (slice, row, column), length 1
COARSE_VOXELS = 27  # below it sigma_r says more of the grid than of the lesion
COARSENESS = (f"below {COARSE_VOXELS} voxels", f"{COARSE_VOXELS} voxels and more")


def show_slice(ax, image_slice, label=None, probability=None, *, window=None, title=None, threshold=0.2):
    """Draw a slice in grey, the label's outline over it, and the probability as heat where it reaches a threshold.

    Parameters
    ----------
    image_slice, label, probability : (row, column) arrays
        `label` is bool, `probability` in [0, 1].
    window : (low, high), optional
        Intensities shown black and white; of the slice itself by default, see `window_of`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> show_slice(Figure().subplots(), np.eye(9), np.eye(9) > 0, title="diagonal").get_title()
    'diagonal'
    """
    low, high = window_of(image_slice) if window is None else window
    ax.imshow(image_slice, cmap="gray", vmin=low, vmax=high)
    if probability is not None:
        heat = np.ma.masked_less(probability, threshold)
        ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="nearest")
    if label is not None:
        ax.add_collection(LineCollection(_outline(np.asarray(label) > 0), colors=SKY, linewidths=1))
    ax.set_title(title or "", fontsize=9)
    ax.set_axis_off()
    return ax


def window_of(image, percentiles=(1, 99.7)):
    """The display window (low, high) of a scan or slice: percentiles of its foreground, whatever its units.

    Examples
    --------
    >>> head = np.zeros((4, 20, 20))
    >>> head[:, 5:15, 5:15] = np.arange(100).reshape(10, 10)
    >>> window_of(head)[1] > 90
    True
    """
    volume = np.asarray(image)[None] if np.ndim(image) == 2 else np.asarray(image)
    volume = volume[tuple(slice(None, None, 2 if size > 64 else 1) for size in volume.shape)]
    inside = volume[foreground(volume)]
    low, high = np.percentile(inside, percentiles) if inside.size else (volume.min(), volume.max())
    return float(low), float(high if high > low else low + 1)


def finding_crops(axes, image, centres, *, titles=(), half=24, label=None, probability=None, window=None):
    """Draw an axial crop around each centre, the same window for all: what was found, missed or invented.

    Parameters
    ----------
    axes : array of Axes
        Those without a centre stay empty.
    image, label, probability : (slice, row, column) arrays
    centres : sequence of (slice, row, column) float
    titles : sequence of str
    half : int
        A crop is 2 * half + 1 voxels wide; beyond the scan there is air.
    """
    axes = np.ravel(axes)
    window = window_of(image) if window is None else window
    titles = [*titles, *[""] * len(axes)]
    for ax, centre, title in zip(axes, centres, titles, strict=False):
        cut = [None if a is None else crop(a, centre, (0, half, half))[0] for a in (image, label, probability)]
        show_slice(ax, *cut, window=window, title=title)
    return clear(axes)


def three_planes(axes, image, label=None, *, window=None, title=""):
    """Draw the axial, coronal and sagittal plane through the middle of a box (see `kit.scans.crop`), head up."""
    middle = [size // 2 for size in image.shape]
    for ax, axis, name in zip(axes, range(3), ("axial", "coronal", "sagittal"), strict=True):
        planes = (None if box is None else np.take(box, middle[axis], axis) for box in (image, label))
        show_slice(ax, *planes, window=window, title=f"{title}\n{name}" if axis == 0 else f"\n{name}")
        if axis:
            ax.invert_yaxis()  # slices run from the neck upwards
    return axes


def frame_head(ax, image_slice, margin=4):
    """Zoom a drawn slice to the head, so that little of the axes is spent on air."""
    places = np.argwhere(foreground(np.asarray(image_slice)[None])[0])
    if len(places):
        (top, left), (bottom, right) = places.min(0) - margin - 0.5, places.max(0) + margin + 0.5
        ax.set(xlim=(left, right), ylim=(bottom, top))
    return ax


def clear(axes):
    """Take frames and ticks off axes, so that those of a gallery which stay empty are not seen."""
    for ax in np.ravel(axes):
        ax.set_axis_off()
    return axes


def lesion_size_histogram(ax, lesions):
    """Draw how large lesions are (Fig. 5.2a); the small ones of the thesis' 38 % are orange."""
    sizes = lesions.size_mm.to_numpy(float)
    bins = np.arange(0, max(sizes.max(initial=0), 5) + 1)
    ax.hist([sizes[sizes < 5], sizes[sizes >= 5]], bins, stacked=True, color=[ORANGE, BLUE], edgecolor="white")
    share = f" ({(sizes < 5).mean():.0%})" if sizes.size else ""
    ax.legend([f"below 5 mm{share}", "5 mm and more"])
    return _labelled(ax, "Lesion size", "size: cube root of the volume (mm)", "lesions")


def shape_complexity_histogram(ax, lesions):
    """Draw the distribution of sigma_r (Fig. 5.2b), with the lesions that are too small for it in grey."""
    known, coarse = _shapes(lesions)
    bins = np.linspace(0, max(known.sigma_r.max(), 0.4) if len(known) else 0.4, 21)
    parts = [known.sigma_r[coarse], known.sigma_r[~coarse]]
    ax.hist(parts, bins, stacked=True, color=["0.75", BLUE], edgecolor="white", label=COARSENESS)
    ax.legend()
    return _labelled(ax, "Shape complexity", r"$\sigma_r$ (0: sphere)", "lesions")


def shape_against_size(ax, lesions):
    """Draw sigma_r over the size of a lesion (Fig. 5.2c)."""
    known, coarse = _shapes(lesions)
    ax.scatter(known.size_mm[coarse], known.sigma_r[coarse], s=22, facecolors="none", edgecolors=GREY)
    ax.scatter(known.size_mm[~coarse], known.sigma_r[~coarse], s=22, color=BLUE, alpha=0.7)
    ax.legend(COARSENESS)
    ax.set_ylim(bottom=0)
    return _labelled(ax, "Shape against size", "size: cube root of the volume (mm)", r"$\sigma_r$")


def shape_gallery(axes, labels, sigma_r, titles=()):
    """Draw the surfaces of lesions, lit from above and seen from the top of the head, with sigma_r (Fig. 5.3).

    Parameters
    ----------
    axes : array of Axes
    labels : sequence of (slice, row, column) bool arrays
        Boxes of any size around one lesion each; every lesion fills its axes.
    sigma_r : sequence of float
    """
    axes = np.ravel(axes)
    titles = [*titles, *[""] * len(axes)]
    for ax, label, value, title in zip(axes, labels, sigma_r, titles, strict=False):
        ax.imshow(_lit_surface(label), cmap="bone", vmin=0, vmax=1)
        ax.set_title(f"$\\sigma_r$ = {value:.2f}{title}", fontsize=9)
    return clear(axes)


def contrast_beside_look_alikes(axes, lesions, places):
    """Draw how bright lesions are, rim and core, over their diameter; beside them, how bright look-alikes are.

    `axes` is a pair that shares its y axis; `lesions` comes from `kit.scans.cohort_statistics`, `places` from
    `kit.models.look_alikes`.
    """
    axes[0].scatter(lesions.diameter_mm, lesions.rim, s=22, color=RED, label="rim (90th percentile)")
    axes[0].scatter(lesions.diameter_mm, lesions.core, s=22, facecolors="none", edgecolors=BLUE, label="core")
    axes[0].vlines(lesions.diameter_mm, lesions.core, lesions.rim, colors="0.8", zorder=0)
    axes[0].margins(y=0.2)
    axes[0].legend(ncols=2)
    kinds = {"tube": GREEN, "blob": ORANGE}
    values = [places.brightness[places.kind == kind].to_numpy(float) for kind in kinds]
    axes[1].hist(values, 15, stacked=True, orientation="horizontal", color=list(kinds.values()), label=list(kinds))
    axes[1].legend()
    _labelled(axes[0], "Lesions", "diameter (mm)", RELATIVE)
    _labelled(axes[1], "Look-alikes", "places", "")
    return axes


def intensity_per_slice(ax, mean, sd):
    """Draw mean and s.d. of the head's intensity from slice to slice (Fig. 7.1); a Series' index names the slices."""
    ax.plot(mean, color=BLUE, label="mean")
    ax.plot(sd, color=GREEN, label="s.d.")
    ax.set_ylim(bottom=0)
    ax.legend()
    return _labelled(ax, "Head voxels, slice by slice", "slice, from the neck upwards", RELATIVE)


def training_curves(axes, history):
    """Draw loss (first axes) and accuracy, recall, precision (second) over the patches visited.

    Parameters
    ----------
    axes : pair of Axes
    history : pandas.DataFrame
        From `kit.experiments.train`. Dotted lines: the learning rate was divided before the epoch that ends there.
    """
    visited = history.patches_worth
    rates = {"accuracy": BLUE, "recall": GREEN, "precision": ORANGE}
    axes[0].plot(visited, history.train_loss, "o--", color=GREY, markersize=4, label="training")
    axes[0].plot(visited, history.validation_loss, "o-", color=BLUE, markersize=4, label="validation")
    axes[1].plot(visited, 100 * history.train_accuracy, "o--", color=GREY, markersize=4, label="training accuracy")
    for name, colour in rates.items():
        axes[1].plot(visited, 100 * history[f"validation_{name}"], "o-", color=colour, markersize=4, label=name)
    for ax, title, unit in zip(axes, ("Loss", "Balanced patches"), ("cross entropy", "%"), strict=True):
        for drop in visited[history.learning_rate.diff() < 0]:
            ax.axvline(drop, color=GREY, linestyle=":", linewidth=1)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.legend()
        _labelled(ax, title, "patches visited", unit)
    return axes


def network_style(experiment):
    """How curves and points of an experiment look in every figure: colour and marker by network, line by scheme.

    Examples
    --------
    >>> network_style("G-Eroded-Pairs") == {"color": RED, "marker": "D", "linestyle": ":"}
    True
    """
    network, _, scheme = experiment.partition("-")
    marker = dict(zip(NETWORK_COLOURS, "osv^<>DXP", strict=True)).get(network, "o")
    colour = NETWORK_COLOURS.get(network, GREY)
    return {"color": colour, "marker": marker, "linestyle": SCHEME_LINES.get(scheme, "-")}


def precision_recall(ax, summary, *, label=None, mark=(0.5,), **style):
    """Draw precision over recall, one point a threshold (Fig. 6.1).

    Parameters
    ----------
    summary : pandas.DataFrame
        From `kit.metrics.summarise`, the rows of one minimum volume.
    mark : sequence of float
        Thresholds that are written beside their points.
    **style
        Of the line, such as `network_style` gives.

    Raises
    ------
    ValueError
        If a threshold comes twice: rows of several minimum volumes or networks would make one curve.
    """
    if summary.threshold.duplicated().any():
        raise ValueError("summary has a threshold twice; give the rows of one min_volume_mm3 and one network")
    curve = summary.dropna(subset=["recall", "precision"]).sort_values("threshold")
    style = {"marker": "o", "linestyle": "-", "markersize": 3} | style
    (line,) = ax.plot(100 * curve.recall, 100 * curve.precision, label=label, **style)
    for point in curve[[bool(np.isclose(mark, threshold).any()) for threshold in curve.threshold]].itertuples():
        at = (100 * point.recall, 100 * point.precision)
        ax.plot(*at, "o", color=line.get_color(), markersize=7)
        ax.annotate(f"θ {point.threshold:g}", at, (6, 6), textcoords="offset points", fontsize=8)
    ax.set(xlim=(0, 102), ylim=(0, 102))
    return _labelled(ax, "Precision and recall", "recall (%)", "precision (%)")


def published_point(ax, recall, precision, label):
    """Draw a figure of the thesis, rates in [0, 1], as a star beside measured curves."""
    ax.plot(100 * recall, 100 * precision, "*", color="black", markersize=11)
    ax.annotate(label, (100 * recall, 100 * precision), (-7, 7), textcoords="offset points", ha="right", fontsize=8)
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
    return _labelled(ax, "Recall by lesion size", "diameter (mm)", "recall (%)")


def _labelled(ax, title, x, y):
    ax.set(title=title, xlabel=x, ylabel=y)
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_label_text() in ("lesions", "places"):  # counts
            axis.set_major_locator(MaxNLocator(integer=True))
    return ax


def _outline(mask):
    """The edges ((x, y), (x, y)) between pixels of a mask and others: a label is drawn as it is, pixel by pixel."""
    padded = np.pad(mask, 1)
    row, column = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.array([(column - 0.5, row - 0.5), (column - 0.5, row + 0.5)])
    row, column = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.array([(column - 0.5, row - 0.5), (column + 0.5, row - 0.5)])
    return np.concatenate([upright, level], axis=2).transpose(2, 0, 1)  # (edge, end, x y)


def _shapes(lesions):
    known = lesions[lesions.sigma_r.notna()]
    return known, known.voxels < COARSE_VOXELS


def _lit_surface(label):
    """A lesion's upper surface in light from the front and left: (row, column) in [0, 1], masked beside it.

    One pixel a voxel, so that the eye sees how coarse a small shape is; only the light is smooth.
    """
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(label))
    room = max(label[box].shape) + 4 - np.array(label[box].shape)  # up to a cube, and 2 voxels on each side
    solid = np.pad(label[box], np.stack([room // 2, room - room // 2], axis=1))
    top = len(solid) - 1 - np.argmax(solid[::-1], axis=0)  # (row, column), the highest voxel
    slopes = np.gradient(-gaussian_filter(solid.astype(np.float32), 1))
    above = np.minimum(top + 1, len(solid) - 1)[None]  # just outside: inside a single voxel nothing has a slope
    normal = np.stack([np.take_along_axis(slope, above, axis=0)[0] for slope in slopes])  # (3, row, column)
    light = np.tensordot(LIGHT, normal, 1) / np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    return np.ma.masked_where(~solid.any(axis=0), 0.2 + 0.8 * light.clip(0))
