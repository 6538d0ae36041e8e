"""Slices of a scan, their labels and maps; each function draws on the axes it is given and returns them.

Slices are drawn as radiologists look at them: nose up, the patient's right on the left.
"""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from kit.figures.style import SKY, clear
from kit.scans import crop, foreground

SEEN_THROUGH = 0.6  # opacity of probabilities over a scan
BEHIND_TEXT = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 0.8}  # white words on bright tissue


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
        ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=SEEN_THROUGH, interpolation="nearest")
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
        One a centre; none at all by default.
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


def scale_bar(ax, mm, spacing_mm=1.0):
    """Draw a bar of a length in mm into the lower left corner of axes that show a slice."""
    bottom, left = np.interp([0.04, 0.05], [0, 1], ax.get_ylim()), np.interp(0.04, [0, 1], ax.get_xlim())
    length = mm / spacing_mm
    ax.plot([left, left + length], [bottom[0]] * 2, color="white", linewidth=2)
    words = f"{mm / 10:g} cm"
    ax.text(left + length / 2, bottom[1], words, color="white", ha="center", va="bottom", fontsize=7)
    return ax


def probability_bar(figure, axes):
    """Draw a bar of the colours in which `show_slice` draws probabilities beside some axes."""
    heat = ScalarMappable(Normalize(0, 1), "inferno")
    return figure.colorbar(heat, ax=axes, label="probability of lesion", shrink=0.5, pad=0.01, alpha=SEEN_THROUGH)


def three_planes(axes, image, label=None, *, window=None, title=""):
    """Draw the axial, coronal and sagittal plane through the middle of a box, head up.

    Parameters
    ----------
    axes : three Axes
    image, label : (slice, row, column) arrays
        Of one shape, such as `kit.scans.crop` gives; `label` is bool or None.
    """
    middle = [size // 2 for size in image.shape]
    for ax, axis, name in zip(axes, range(3), ("axial", "coronal", "sagittal"), strict=True):
        planes = (None if box is None else np.take(box, middle[axis], axis) for box in (image, label))
        show_slice(ax, *planes, window=window, title=f"{title}\n{name}" if axis == 0 else f"\n{name}")
        if axis:
            ax.invert_yaxis()  # slices run from the neck upwards
    return axes


def contact_sheet(ax, slices, labels=(), *, columns=12, windows=(0, 2.2), titles=()):
    """Draw many slices of one size side by side, line by line, with the outlines of their labels.

    Parameters
    ----------
    slices : sequence of (row, column) arrays
    labels : sequence of (row, column) bool arrays, optional
        One a slice.
    columns : int
        Slices a line.
    windows : (low, high) or sequence of them
        Intensities shown black and white: one for all slices, or one a slice.
    titles : sequence of str
        Written into the slices' upper left corners.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = contact_sheet(Figure().subplots(), [np.eye(9)] * 5, [np.eye(9) > 0] * 5, columns=3)
    >>> ax.images[0].get_array().shape
    (18, 27)
    """
    lines, (height, width) = -(-len(slices) // columns), np.shape(slices[0]) if len(slices) else (1, 1)
    sheet = np.ones((lines * height, min(columns, max(len(slices), 1)) * width), np.float32)
    pairs = np.broadcast_to(np.asarray(windows, float).reshape(-1, 2), (len(slices), 2))
    for n, (image, (low, high)) in enumerate(zip(slices, pairs, strict=True)):
        top, left = n // columns * height, n % columns * width
        sheet[top : top + height, left : left + width] = np.clip((image - low) / (high - low), 0, 1)
        if n < len(labels):
            ax.add_collection(LineCollection(np.add(_outline(labels[n]), (left, top)), colors=SKY, linewidths=0.8))
        if n < len(titles):
            ax.text(left + 1, top + 1, titles[n], color="white", fontsize=7, va="top", bbox=BEHIND_TEXT)
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def frame_head(ax, image_slice, margin=4):
    """Zoom axes that show a slice, (row, column), to the head and a margin in voxels, so that little of them is air."""
    places = np.argwhere(foreground(np.asarray(image_slice)[None])[0])
    if len(places):
        (top, left), (bottom, right) = places.min(0) - margin - 0.5, places.max(0) + margin + 0.5
        ax.set(xlim=(left, right), ylim=(bottom, top))
    return ax


def _outline(mask):
    """The edges ((x, y), (x, y)) between pixels of a mask and others: a label is drawn as it is, pixel by pixel."""
    padded = np.pad(mask, 1)
    row, column = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.array([(column - 0.5, row - 0.5), (column - 0.5, row + 0.5)])
    row, column = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.array([(column - 0.5, row - 0.5), (column + 0.5, row - 0.5)])
    return np.concatenate([upright, level], axis=2).transpose(2, 0, 1)  # (edge, end, x y)
