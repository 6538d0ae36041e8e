"""The slice viewer: a scan, its label and its probability maps, slice by slice, in the browser.

The volume goes to the page once, as bytes, and slices are composed there: no round trip through the kernel, and nothing
of it in the saved notebook, where a still picture stands in its place. What the keys do is in `viewer.js`.
"""

from pathlib import Path

import anywidget
import numpy as np
import traitlets
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

from kit.figures import KIND_COLOURS, probability_bar, scale_bar, show_slice, window_of
from kit.viewer.volumes import ViewerError, checked_volumes, head_box, packed

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # the axis that a plane's slices are counted along
JS = Path(__file__).with_name("js")
VIEWER_FILES = ("slices.js", "elements.js", "controls.js", "viewer.js")
MOST_STILLS = 6
STILL_DPI = 80
BAR_MM = 50  # length of a still picture's scale bar
BAR_INCHES = 0.75  # width of its bar of colours


def script(*names, entry):
    """One ES module (text) out of files in `js/`; `entry` names the function that draws a view."""
    parts = [(JS / name).read_text(encoding="utf-8") for name in names]
    return "\n".join([*parts, f"export default () => widget({entry});\n"])


class SliceViewer(anywidget.AnyWidget):
    """Look through a scan: label as an outline, probability as heat, one plane or three, up to four maps side by side.

    Click into it and press ``?`` for the keys. In a saved notebook a still picture is shown instead.

    Parameters
    ----------
    image : (slice, row, column) array of finite numbers
        In any intensities.
    label : (slice, row, column) bool array, or numbers that are all 0 or 1, optional
    probability : (slice, row, column) array in [0, 1], or dict of name to array, optional
        A dict, of at most four maps, shows them side by side: networks, or truth and prediction.
    spacing_mm, affine : optional
        Voxel size (slice, row, column), and matrix from a voxel to world mm (`kit.scans.Scan.affine`).
    places : pandas.DataFrame, optional
        What n and p jump to: columns slice, row, column and, if there, kind and text; such as an error table. By
        default the label's lesions.
    **traits
        Start values of the traits below.

    Attributes
    ----------
    slice : int
        Of the plane that is shown; with three planes, the axial one.
    plane : {"axial", "coronal", "sagittal", "three"}
    cursor : (int, int, int)
        The voxel (slice, row, column) under the cross-hair.
    threshold, opacity : float in [0, 1]
        Heat is drawn where a probability reaches the threshold.
    window : (float, float)
        Intensities shown black and white.
    zoom : float
        From 1, the whole scan, to 16.
    place : int
        The row of `places` that was jumped to last, or -1.
    caption : str
        Written over the picture, such as the scan's name.
    show_label, show_map, show_cross : bool
    reading : dict
        Exact values under the cross-hair: cursor, intensity, label, probability. Not to be set.
    version : int
        Counts the scans shown; not to be set.

    Raises
    ------
    kit.viewer.ViewerError
        A ValueError, for arrays or values that cannot be shown; nothing has been sent then.

    Examples
    --------
    >>> viewer = SliceViewer(np.zeros((4, 5, 6)), plane="coronal", slice=3)
    >>> viewer.cursor
    (2, 3, 3)
    >>> viewer.cursor = (1, 0, 5)
    >>> viewer.slice, viewer.reading["intensity"]
    (0, 0.0)
    """

    _esm = script(*VIEWER_FILES, entry="sliceViewer")
    _css = (JS / "viewer.css").read_text(encoding="utf-8")

    slice = traitlets.Int(0).tag(sync=True)
    plane = traitlets.Enum([*PLANES, "three"], "axial").tag(sync=True)
    cursor = traitlets.Tuple(*[traitlets.Int()] * 3, default_value=(0, 0, 0)).tag(sync=True)
    threshold = traitlets.Float(0.2).tag(sync=True)
    opacity = traitlets.Float(0.6).tag(sync=True)
    window = traitlets.Tuple(*[traitlets.Float()] * 2, default_value=(0.0, 1.0)).tag(sync=True)
    zoom = traitlets.Float(1.0).tag(sync=True)
    place = traitlets.Int(-1).tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)
    show_label = traitlets.Bool(True).tag(sync=True)
    show_map = traitlets.Bool(True).tag(sync=True)
    show_cross = traitlets.Bool(True).tag(sync=True)
    reading = traitlets.Dict().tag(sync=True)
    version = traitlets.Int(0).tag(sync=True)

    def __init__(self, image, label=None, probability=None, *, spacing_mm=None, affine=None, places=None, **traits):
        given = {"spacing_mm": spacing_mm, "affine": affine, "places": places}
        volumes = checked_volumes(image, label, probability, **given)  # an error must come before anything is sent
        self._refuse_unknown(traits)
        self._asked = False  # no page has asked for the volume yet
        self.volumes = None
        super().__init__()
        self._put(volumes, traits)
        self.on_msg(self._heard)

    def show(self, image, label=None, probability=None, *, spacing_mm=None, affine=None, places=None, **traits):
        """Show another scan in the same viewer; parameters as for a new one.

        Without `cursor` or `slice` it opens where there is most to see: on the largest slice of the label, or of what
        reaches the threshold in the first map.
        """
        given = {"spacing_mm": spacing_mm, "affine": affine, "places": places}
        volumes = checked_volumes(image, label, probability, **given)
        self._refuse_unknown(traits)
        self._put(volumes, traits)

    @property
    def shape(self):
        """(slices, rows, columns) of the scan."""
        return self.volumes.shape

    @property
    def places(self):
        """What n and p jump to, as a table in slice order."""
        return self.volumes.places

    def montage(self, slices=None, *, width=10.0):
        """Draw a still picture of some slices: what a reader of the saved notebook sees.

        Parameters
        ----------
        slices : sequence of int, optional
            Axial slices; by default up to six through the largest lesions or the highest probabilities.
        width : float
            Inches.

        Returns
        -------
        matplotlib.figure.Figure
            One line a map, under the caption; with a scale where a voxel's size is known (and the scan wider than its
            bar), and a bar of colours where there is a map.
        """
        slices = self._still_slices() if slices is None else sorted(slices)
        maps = self.volumes.maps or {"": None}
        _, rows, columns = (step * (stop - first) for step, (first, stop) in zip(*self._framing(), strict=True))
        wide = (width - (BAR_INCHES if self.volumes.maps else 0)) / len(slices)
        size = (width, (rows / columns * wide + 0.25) * len(maps) + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(maps), len(slices), squeeze=False)
        for line, (name, values) in zip(axes, maps.items(), strict=True):
            for ax, k in zip(line, slices, strict=True):
                self._draw_still(ax, k, values, f"{name}, slice {k}" if len(maps) > 1 else f"slice {k}")
        if self.volumes.in_mm and columns > BAR_MM:
            scale_bar(axes[0, 0], BAR_MM, self.volumes.spacing_mm[2])
        if self.volumes.maps:
            probability_bar(figure, axes)
        figure.suptitle(", ".join(filter(None, (self.caption, *(maps if len(maps) == 1 else ())))))
        return figure

    def __repr__(self):
        about = [" x ".join(map(str, self.shape)) + " voxels", *self.volumes.maps]
        return f"{type(self).__name__}({', '.join(about)})"

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and the montage for those who cannot run it."""
        data, *rest = super()._repr_mimebundle_(**kwargs)
        return (data | {"image/png": print_figure(self.montage(), "png", dpi=STILL_DPI, base64=True)}, *rest)

    def _framing(self):
        return self.volumes.spacing_mm, head_box(self.volumes)

    def _draw_still(self, ax, k, values, title):
        label = None if self.volumes.label is None or not self.show_label else self.volumes.label[k]
        heat = None if values is None else values[k]
        show_slice(ax, self.volumes.image[k], label, heat, window=self.window, title=title, threshold=self.threshold)
        _, (top, bottom), (left, right) = self._framing()[1]
        ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
        ax.set_aspect(self.volumes.spacing_mm[1] / self.volumes.spacing_mm[2])

    def _still_slices(self):
        """Up to six slices, apart from each other, where there is most to see."""
        weight = self._weight().copy()
        reach, slices = max(2, len(weight) // 20), []
        while len(slices) < MOST_STILLS and weight.max() > 0:
            slices.append(int(weight.argmax()))
            weight[max(0, slices[-1] - reach) : slices[-1] + reach + 1] = 0
        return sorted(slices) or np.linspace(0, len(weight) - 1, 8).astype(int)[1:-1].tolist()

    def _weight(self):
        """How much there is to see in each slice: voxels of the label, or else of the first map."""
        shown = [self.volumes.label, *(values >= self.threshold for values in self.volumes.maps.values())]
        counts = [np.count_nonzero(mask, axis=(1, 2)) for mask in shown if mask is not None]
        return next((count for count in counts if count.any()), np.zeros(self.shape[0], int))

    def _opening(self):
        """The voxel to open on: the middle of the fullest slice."""
        weight = self._weight()
        if not weight.any():
            return tuple(size // 2 for size in self.shape)
        k, label = int(weight.argmax()), self.volumes.label
        maps = list(self.volumes.maps.values())
        mask = label[k] if label is not None and label[k].any() else maps[0][k] >= self.threshold
        rows, columns = np.nonzero(mask)
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)  # a voxel of it, not a hole
        return k, int(rows[middle]), int(columns[middle])

    def _refuse_unknown(self, traits):
        unknown = sorted(set(traits) - set(self.trait_names(sync=True)))
        if unknown:
            raise ViewerError(f"{', '.join(unknown)} is not something a viewer has; see help({type(self).__name__})")

    def _put(self, volumes, traits):
        """Take over checked volumes and set the traits that go with them."""
        with self.hold_sync():
            self.volumes = volumes
            self.version += 1
            start = {"window": window_of(volumes.image), "caption": "", "place": -1, "cursor": self._opening()}
            for name, value in sorted((start | traits).items(), key=lambda item: ORDER.get(item[0], 2)):
                setattr(self, name, value)
            self._read()
        if self._asked:
            self._send_volumes()

    def _heard(self, _, content, buffers):
        if content.get("type") == "ready":
            self._asked = True
            self._send_volumes()

    def _send_volumes(self):
        header, buffers = packed(self.volumes)
        header["caption"] = self.caption
        self.send({"type": "volumes", "version": self.version, "colours": KIND_COLOURS, **header}, buffers)

    def _read(self):
        if self.volumes is not None:
            self.reading = self.volumes.reading(self.cursor)

    @property
    def _axis(self):
        return PLANES.get(self.plane, 0)

    @traitlets.observe("cursor", "plane")
    def _cursor_moves_slice(self, _):
        self.slice = self.cursor[self._axis]
        self._read()

    @traitlets.observe("slice")
    def _slice_moves_cursor(self, _):
        cursor = list(self.cursor)
        cursor[self._axis] = self.slice
        self.cursor = tuple(cursor)

    @traitlets.observe("place")
    def _place_moves_cursor(self, change):
        if self.volumes is not None and change.new >= 0:
            at = self.places.loc[change.new, ["slice", "row", "column"]]
            self.cursor = tuple(int(np.clip(round(x), 0, n - 1)) for x, n in zip(at, self.shape, strict=True))

    @traitlets.validate("slice")
    def _check_slice(self, proposal):
        size = None if self.volumes is None else self.shape[self._axis]
        if size is not None and not 0 <= proposal.value < size:
            raise ViewerError(f"slice is {proposal.value}; {self.plane} slices are 0 to {size - 1}")
        return proposal.value

    @traitlets.validate("cursor")
    def _check_cursor(self, proposal):
        if self.volumes is not None:
            inside = [0 <= at < size for at, size in zip(proposal.value, self.shape, strict=True)]
            if not all(inside):
                raise ViewerError(f"cursor is {proposal.value}, outside the scan of shape {self.shape}")
        return proposal.value

    @traitlets.validate("place")
    def _check_place(self, proposal):
        if self.volumes is not None and not -1 <= proposal.value < len(self.places):
            raise ViewerError(f"place is {proposal.value}; there are {len(self.places)} places, or -1 for none")
        return proposal.value

    @traitlets.validate("threshold", "opacity")
    def _check_share(self, proposal):
        if not 0 <= proposal.value <= 1:
            raise ViewerError(f"{proposal.trait.name} is {proposal.value}; choose from 0 to 1")
        return proposal.value

    @traitlets.validate("window")
    def _check_window(self, proposal):
        low, high = proposal.value
        if not (np.isfinite([low, high]).all() and low < high):
            raise ViewerError(f"window is {proposal.value}; pass (low, high) intensities, low below high")
        return proposal.value

    @traitlets.validate("zoom")
    def _check_zoom(self, proposal):
        if not 1 <= proposal.value <= 16:
            raise ViewerError(f"zoom is {proposal.value}; choose from 1 (the whole scan) to 16")
        return proposal.value


ORDER = {"cursor": 0, "plane": 1, "place": 3, "slice": 4}  # a trait that refers to others is set after them
