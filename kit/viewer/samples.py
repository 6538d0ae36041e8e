"""The sample browser: which voxels a sampling scheme draws, and the patches around them, on the slices themselves."""

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from kit.figures import KIND_COLOURS, clear, frame_head, show_slice
from kit.viewer.viewer import VIEWER_FILES, SliceViewer, script
from kit.viewer.volumes import ViewerError

NEEDED = ("scan", "slice", "row", "column", "label", "why")
STILLS = 4  # slices a scheme
APART = 6  # slices between two of them


class SampleBrowser(SliceViewer):
    """Look at what sampling schemes draw: every drawn voxel a mark coloured by why it was drawn, its patch on demand.

    Point at a mark, or go from one to the next with n and p, to see its patch, turned as the network saw it.

    Parameters
    ----------
    cohort : kit.samplers.Cohort
        Prepared scans.
    draws : dict of name to pandas.DataFrame
        What each scheme drew: rows of `kit.samplers.draw`, with scan, slice, row, column, label, why and, if there,
        angle (degrees) and pair (rows with the same number belong together; below 0: none).
    patch_shape : (slices, rows, columns)
        In voxels, such as a network's `patch_shape`.
    **traits
        As `kit.viewer.SliceViewer`.

    Attributes
    ----------
    scheme, scan : str
        Which draw and which scan are shown.
    sample : int
        The row of `samples` that the cross-hair is at, or -1.
    samples : pandas.DataFrame
        What is drawn from this scan, in slice order.

    Raises
    ------
    kit.viewer.ViewerError
        If a table lacks a column, names a scan that the cohort lacks, or there is none.
    """

    _esm = script(*VIEWER_FILES, "samplebrowser.js", entry="sampleBrowser")

    scheme = traitlets.Unicode("").tag(sync=True)
    scan = traitlets.Unicode("").tag(sync=True)
    sample = traitlets.Int(-1).tag(sync=True)

    def __init__(self, cohort, draws, patch_shape=(1, 51, 51), **traits):
        self._scans = {scan.scan_id: index for index, scan in enumerate(cohort.scans)}
        self._cohort, self._draws = cohort, checked_draws(draws, self._scans)
        self._patch_shape, self._ready = [int(size) for size in patch_shape], False
        given = {"scheme": next(iter(self._draws)), "scan": self._fullest_scan(), "show_cross": False} | traits
        self._rows = self._drawn(given["scheme"], given["scan"])
        super().__init__(*self._image_and_label(given["scan"]), places=self._rows.head(0), **given)
        self._ready = True
        if not {"slice", "cursor"} & set(traits):
            self.slice = self._fullest_slice()

    @property
    def samples(self):
        """The rows of `scheme` in `scan`, in slice order."""
        return self._rows

    def counts(self):
        """How many voxels each scheme draws, by scan and reason: a table with one column a reason."""
        parts = [
            rows.groupby(["scan", "why"], observed=True).size().unstack(fill_value=0).assign(scheme=name)
            for name, rows in self._draws.items()
        ]
        table = pd.concat(parts).fillna(0).reset_index().set_index(["scheme", "scan"])
        return table.rename_axis(columns=None).astype(int)

    def montage(self, slices=None, *, width=10.0):
        """Draw some slices with the marks on them and one patch, one line a scheme; by default those with most."""
        figure = Figure(figsize=(width, 0.29 * width * len(self._draws)), layout="constrained")
        axes = figure.subplots(len(self._draws), STILLS, squeeze=False)
        slices = self._still_slices() if slices is None else slices
        for line, name in zip(axes, self._draws, strict=True):
            rows = self._drawn(name, self.scan)
            for ax, k in zip(line, slices, strict=False):
                self._draw_samples(ax, rows[rows["slice"] == k], k, f"{name}, {self.scan}, slice {k}")
            clear(line)
        return figure

    def _draw_samples(self, ax, rows, k, title):
        show_slice(ax, self.volumes.image[k], self.volumes.label[k], window=self.window, title=title)
        for why, some in rows.groupby("why", observed=True):
            colour = KIND_COLOURS.get(str(why), "white")
            ax.scatter(some.column, some.row, s=4, color=colour, linewidths=0, label=f"{why} ({len(some)})")
        if len(rows):
            ax.legend(fontsize=6, loc="lower right", markerscale=2)
            self._draw_patch(ax, rows.iloc[int(rows.label.argmax())])
        frame_head(ax, self.volumes.image[k])

    def _draw_patch(self, ax, row):
        """The outline of a sample's patch, turned as `kit.samplers.patches` turns it."""
        half, turn = self._patch_shape[1] / 2, np.deg2rad(row.get("angle", 0.0))
        r, c = half * np.array([[-1, -1, 1, 1, -1], [-1, 1, 1, -1, -1]])
        turned = r * np.sin(turn), r * np.cos(turn), c * np.cos(turn), c * np.sin(turn)
        colour = KIND_COLOURS.get(str(row.why), "white")
        ax.plot(row.column + turned[2] - turned[0], row.row + turned[1] + turned[3], color=colour, linewidth=1)

    def _still_slices(self):
        """The slices with most samples of all schemes, apart from each other."""
        counts = pd.concat([self._drawn(name, self.scan) for name in self._draws])["slice"].value_counts()
        slices = []
        for k in counts.index:
            if len(slices) < STILLS and all(abs(k - other) >= APART for other in slices):
                slices.append(int(k))
        return sorted(slices)

    def _drawn(self, scheme, scan):
        rows = self._draws[scheme]
        return rows[rows.scan == scan].sort_values(["slice", "row", "column"], kind="stable").reset_index(drop=True)

    def _fullest_scan(self):
        counts = pd.concat(list(self._draws.values())).query("label")["scan"].astype(str).value_counts()
        return counts.index[0] if len(counts) else next(iter(self._scans))

    def _fullest_slice(self):
        lesion = self._rows[self._rows.label] if self._rows.label.any() else self._rows
        return int(lesion["slice"].mode()[0]) if len(lesion) else self.slice

    def _image_and_label(self, scan):
        index = self._scans[scan]
        return self._cohort.image(index), self._cohort.scans[index].label

    @traitlets.observe("scan", "scheme")
    def _other_samples(self, change):
        if not self._ready:
            return
        self._rows = self._drawn(self.scheme, self.scan)
        self.sample = -1
        if change.name == "scan":
            kept = {name: getattr(self, name) for name in ("plane", "zoom")}
            self.show(*self._image_and_label(self.scan), places=self._rows.head(0), **kept)
            self.slice = self._fullest_slice()
        if self._asked:
            self._send_samples()

    @traitlets.observe("sample")
    def _sample_moves_cursor(self, change):
        if self._ready and change.new >= 0:
            self.cursor = tuple(int(self._rows.loc[change.new, name]) for name in ("slice", "row", "column"))

    @traitlets.validate("scheme", "scan")
    def _check_choice(self, proposal):
        choices = self._draws if proposal.trait.name == "scheme" else self._scans
        if self._ready and proposal.value not in choices:
            raise ViewerError(f"{proposal.trait.name} is {proposal.value!r}; choose one of {', '.join(choices)}")
        return proposal.value

    @traitlets.validate("sample")
    def _check_sample(self, proposal):
        if self._ready and not -1 <= proposal.value < len(self._rows):
            raise ViewerError(f"sample is {proposal.value}; this scheme has {len(self._rows)} in {self.scan}")
        return proposal.value

    def _heard(self, widget, content, buffers):
        super()._heard(widget, content, buffers)
        if content.get("type") == "ready":
            self._send_samples()

    def _send_samples(self):
        rows = self._rows
        whys = [str(why) for why in dict.fromkeys(rows.why)]
        where = rows[["slice", "row", "column"]].to_numpy(np.int16)
        kind = rows.why.astype(str).map(whys.index).to_numpy(np.int16) if len(rows) else np.zeros(0, np.int16)
        angle = rows["angle"] if "angle" in rows else pd.Series(0.0, rows.index)
        pair = rows["pair"] if "pair" in rows else pd.Series(-1, rows.index)
        about = {"schemes": list(self._draws), "scans": list(self._scans), "whys": whys, "shape": self._patch_shape}
        columns = [where, kind, angle.to_numpy(np.float32), pair.fillna(-1).to_numpy(np.int32)]
        self.send(
            {"type": "samples", "scan": self.scan, **about}, [np.ascontiguousarray(one).tobytes() for one in columns]
        )


def checked_draws(draws, scans):
    """Draws as given, a dict with at least one table of the columns needed, or a ViewerError.

    Examples
    --------
    >>> checked_draws({"balanced": pd.DataFrame({"scan": ["s1"], "slice": [0]})}, ["s1"])
    Traceback (most recent call last):
    ...
    kit.viewer.volumes.ViewerError: the draw of 'balanced' lacks row, column, label, why; pass rows of kit.samplers.draw
    """
    if not isinstance(draws, dict) or not draws:
        raise ViewerError(f"draws is {type(draws).__name__}; pass a dict from a scheme's name to rows of draw")
    for name, rows in draws.items():
        missing = [column for column in NEEDED if column not in rows]
        if missing:
            raise ViewerError(f"the draw of {name!r} lacks {', '.join(missing)}; pass rows of kit.samplers.draw")
        unknown = sorted(set(rows.scan.astype(str)) - set(scans))
        if unknown:
            raise ViewerError(f"the draw of {name!r} has scans that the cohort lacks: {', '.join(unknown)}")
    return {str(name): rows.assign(scan=rows.scan.astype(str)) for name, rows in draws.items()}
