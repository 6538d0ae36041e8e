"""The error browser: from a point of a curve to every error behind it, looked at in three planes, and judged."""

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from kit.figures import clear, finding_crops, precision_recall
from kit.viewer.verdicts import VERDICTS, VerdictBook
from kit.viewer.viewer import VIEWER_FILES, SliceViewer, script
from kit.viewer.volumes import ViewerError

KINDS = {"FN and FP": ("FN", "FP"), "FN": ("FN",), "FP": ("FP",)}
NEEDED = ("scan_id", "kind", "component", "slice", "row", "column")
FACTS = ("volume_mm3", "diameter_mm", "peak", "nearest_lesion", "nearest_predicted", "nearest_mm", "rule")
CLOSE_UP = 3.5  # zoom on an error: a field of view of some 6 cm
STILLS = 6
HALF_WIDTH = 20  # voxels of a still crop


class ErrorBrowser(SliceViewer):
    """Page through the errors of a detector, and say of each whether the network or the label is wrong.

    Click a point of the curve, or go along it with the arrow keys; page with n and p; judge with t (true error),
    f (label fault), u (unsure). Every verdict is written to a CSV at once, and is there again after a restart.

    Parameters
    ----------
    curve : pandas.DataFrame
        One row a threshold, such as `kit.metrics.summarise` gives for one minimum volume: threshold, recall,
        precision, fp_per_scan.
    errors : pandas.DataFrame, or callable from a threshold to one
        One row an error: scan_id, kind ("FN" or "FP"; others are left out), component, slice, row, column and, if
        there, volume_mm3, diameter_mm, peak, nearest_lesion, nearest_predicted, nearest_mm, rule. A table that has
        several thresholds needs the column threshold.
    load : callable
        From a scan's id to (`kit.scans.Scan`, probability map), such as `kit.viewer.saved_maps` gives.
    verdicts : path
        CSV file, made with the first verdict.
    threshold : float
        The point to begin at, the nearest there is.
    **traits
        As `kit.viewer.SliceViewer`.

    Attributes
    ----------
    point : int
        The row of `curve` that is looked at.
    kinds : {"FN and FP", "FN", "FP"}
    error : int
        The row of `errors` that is shown, or -1 where there is none.
    errors : pandas.DataFrame
        Those of `point` and `kinds`, with verdict and note.
    book : kit.viewer.VerdictBook
        `book.table` has all verdicts.

    Raises
    ------
    kit.viewer.ViewerError
        For tables without the columns or rows that are needed.
    """

    _esm = script(*VIEWER_FILES, "errorbrowser.js", entry="errorBrowser")

    point = traitlets.Int(0).tag(sync=True)
    kinds = traitlets.Enum([*KINDS], "FN and FP").tag(sync=True)
    error = traitlets.Int(-1).tag(sync=True)
    axes = traitlets.Enum(["precision and recall", "FROC"], "precision and recall").tag(sync=True)

    def __init__(self, curve, errors, load, verdicts, *, threshold=0.5, **traits):
        self._book, self._load = VerdictBook(verdicts), load
        self._curve, self._all_errors = checked_curve(curve), errors
        self._loaded, self._ready = {}, False
        start = int((self._curve.threshold - threshold).abs().argmin())
        self._rows = self._errors_at(start, "FN and FP")
        scan_id = self._first_scan()
        scan, probability = self._scan(scan_id)
        given = {"plane": "three", "zoom": CLOSE_UP, "show_cross": False, "threshold": 0.2} | traits
        places = self._places(scan_id)
        super().__init__(scan.image, scan.label, probability, affine=scan.affine, places=places, **given)
        self.caption, self.point, self._ready = scan_id, start, True
        self.error = 0 if len(self._rows) else -1

    @property
    def errors(self):
        """The errors of `point` and `kinds`, with verdict and note."""
        judged = [self._book.of(row) for row in self._rows.to_dict("records")]
        return self._rows.assign(verdict=[verdict for verdict, _ in judged], note=[note for _, note in judged])

    @property
    def book(self):
        """All verdicts, and their file."""
        return self._book

    def mark(self, verdict, note=None):
        """Judge the error that is shown: one of `kit.viewer.VERDICTS`, or "" to take a verdict back.

        Without `note` the note stays as it is.
        """
        if self.error < 0:
            raise ViewerError("no error is shown that could be judged; choose another point of the curve")
        self._mark(self.error, verdict, note)

    def montage(self, slices=None, *, width=10.0):
        """Draw the curve and some errors at its current point, FN first and larger ones before smaller ones."""
        figure = Figure(figsize=(width, 0.34 * width), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.7))
        precision_recall(left.subplots(), self._curve, mark=(self._curve.threshold[self.point],))
        axes = right.subplots(2, STILLS // 2)
        for ax, row in zip(np.ravel(axes), self._still_rows().itertuples(), strict=False):
            scan, probability = self._scan(row.scan_id)
            given = {"half": HALF_WIDTH, "label": scan.label, "probability": probability}
            title = f"{row.kind}, {row.scan_id}, slice {row.slice:.0f}"
            finding_crops([ax], scan.image, [(row.slice, row.row, row.column)], titles=[title], **given)
        clear(axes)
        return figure

    def _still_rows(self):
        order = "volume_mm3" if "volume_mm3" in self._rows else "component"
        rows = self._rows.sort_values(["kind", order], ascending=[True, False])
        both = [rows[rows.kind == kind].head(STILLS // 2) for kind in ("FN", "FP")]
        return pd.concat([*both, rows]).drop_duplicates(list(NEEDED)).head(STILLS)

    def _errors_at(self, point, kinds):
        threshold = self._curve.threshold[point]
        if callable(self._all_errors):
            found = self._all_errors(threshold)
        else:
            found = self._all_errors
            if "threshold" in found and found.threshold.nunique() > 1:
                found = found[np.isclose(found.threshold, threshold)]
        missing = [name for name in NEEDED if name not in found]
        if missing:
            raise ViewerError(f"errors lacks the columns {', '.join(missing)}; it has {', '.join(found)}")
        rows = found[found.kind.isin(KINDS[kinds])]
        return rows.sort_values(["scan_id", "slice", "row"], kind="stable").reset_index(drop=True)

    def _first_scan(self):
        """The scan to open with: of the first error, or of any error at all."""
        for rows in (self._rows, self._all_errors):
            if isinstance(rows, pd.DataFrame) and len(rows):
                return rows.scan_id.iloc[0]
        raise ViewerError("there is no error to look at: errors has no row at this threshold")

    def _scan(self, scan_id):
        """A scan and its map; the last two scans are kept in memory, for going back and forth."""
        if scan_id not in self._loaded:
            self._loaded = dict([*self._loaded.items()][-1:])
            self._loaded[scan_id] = self._load(scan_id)
        return self._loaded[scan_id]

    def _places(self, scan_id):
        rows = self._rows[self._rows.scan_id == scan_id]
        return rows[["slice", "row", "column", "kind"]]

    @traitlets.observe("point", "kinds")
    def _other_errors(self, _):
        if self._ready:
            self._rows = self._errors_at(self.point, self.kinds)
            self._send_errors()
            self.error = -1  # so that the first of the new ones is a change
            self.error = 0 if len(self._rows) else -1

    @traitlets.observe("error")
    def _show_error(self, change):
        if not self._ready or change.new < 0:
            return
        row = self._rows.loc[change.new]
        at = tuple(int(np.clip(round(row[name]), 0, None)) for name in ("slice", "row", "column"))
        if row.scan_id == self.caption:
            self.cursor = at
            return
        scan, probability = self._scan(row.scan_id)
        kept = {name: getattr(self, name) for name in ("plane", "zoom", "threshold", "opacity")}
        given = {"affine": scan.affine, "places": self._places(row.scan_id), "caption": row.scan_id, "cursor": at}
        self.show(scan.image, scan.label, probability, **given, **kept)

    @traitlets.validate("point", "error")
    def _check_row(self, proposal):
        size = len(self._curve if proposal.trait.name == "point" else self._rows)
        least = 0 if proposal.trait.name == "point" else -1
        if self._ready and not least <= proposal.value < size:
            raise ViewerError(f"{proposal.trait.name} is {proposal.value}; there are {size}, from 0")
        return proposal.value

    def _heard(self, widget, content, buffers):
        super()._heard(widget, content, buffers)
        if content.get("type") == "ready":
            self._send_errors()
        if content.get("type") == "mark":
            rows = self._rows
            at = content["error"]
            if 0 <= at < len(rows) and str(rows.scan_id[at]) == content["scan_id"]:  # of the list that is there now
                self._mark(at, content["verdict"], content["note"])

    def _mark(self, at, verdict, note):
        error = self._rows.loc[at].to_dict()
        error = {"threshold": self._curve.threshold[self.point]} | error
        self._book.mark(error, verdict, self._book.of(error)[1] if note is None else note)
        judged = dict(zip(("verdict", "note"), self._book.of(error), strict=True))
        self.send({"type": "marked", "error": at, **judged, "file": self._book.path.name, "count": self._count()})

    def _count(self):
        return {verdict: int((self._book.table.verdict == verdict).sum()) for verdict in VERDICTS}

    def _send_errors(self):
        shown = [name for name in (*NEEDED, *FACTS, "verdict", "note") if name in self.errors]
        rows = self.errors[shown].astype(object).where(self.errors[shown].notna(), None).to_dict("records")
        curve = self._curve.astype(object).where(self._curve.notna(), None).to_dict("records")
        about = {"curve": curve, "verdicts": list(VERDICTS), "kinds": list(KINDS), "count": self._count()}
        self.send({"type": "errors", "rows": [_plain(row) for row in rows], **about})


def checked_curve(curve):
    """The curve's rows in the order of their thresholds, or a ViewerError.

    Examples
    --------
    >>> rows = pd.DataFrame({"threshold": [0.9, 0.5], "recall": [0.5, 1], "precision": [1, 0.5], "fp_per_scan": [0, 2]})
    >>> checked_curve(rows).threshold.tolist()
    [0.5, 0.9]
    """
    columns = ["threshold", "recall", "precision", "fp_per_scan"]
    missing = [name for name in columns if name not in curve]
    if missing:
        raise ViewerError(f"curve lacks the columns {', '.join(missing)}; pass rows of kit.metrics.summarise")
    if curve.empty or curve.threshold.duplicated().any():
        raise ViewerError(f"curve has {len(curve)} rows; pass one row a threshold, of one min_volume_mm3 and network")
    return curve[columns].sort_values("threshold").reset_index(drop=True).astype(float)


def _plain(row):
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
