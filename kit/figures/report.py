"""A score as one HTML page: tables, figures and what they rest on, with nothing that comes from a network."""

import base64
import html
import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kit import metrics
from kit.figures import evaluation as draw
from kit.figures.rules import rule_bars
from kit.metrics import RULES, intervals, rule_of, summarise, with_interval
from kit.scans import replacing

SIZES_MM = (0, 3, 5, 7, 10, 15, np.inf)
DRAWS = 2000
LARGEST = 15  # false positives that the page lists
HEADS = {
    "tp": "TP", "fn": "FN", "fp": "FP", "fp_per_scan": "FP a scan", "fp_per_slice": "FP a slice",
    "volume_mm3": "mm³", "diameter_mm": "diameter, mm", "peak": "highest p", "nearest_mm": "to a lesion, mm",
    "x_mm": "x, mm", "y_mm": "y, mm", "z_mm": "z, mm",
}  # fmt: skip

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.45 sans-serif; margin: 2em auto; max-width: 64em; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.6em; }} h2 {{ font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }}
table {{ border-collapse: collapse; font-size: 14px; margin: .8em 0; }}
th, td {{ border-top: 1px solid #ccc; padding: .25em .9em .25em 0; text-align: right; font-weight: normal; }}
th {{ border-top: 0; border-bottom: 1px solid #888; font-weight: bold; vertical-align: bottom; }}
td:first-child, th:first-child {{ text-align: left; }}
tbody th {{ border-top: 1px solid #ccc; border-bottom: 0; font-weight: normal; }}
img {{ max-width: 100%; }} p {{ max-width: 46em; }} .small {{ color: #555; font-size: 14px; }}
</style></head>
<body>
{body}
</body></html>
"""


def write_report(path, tables, about):
    """Write a score as one HTML page; it appears whole or not at all.

    Parameters
    ----------
    path : path
    tables : mapping of str to pandas.DataFrame
        The attributes of `kit.metrics.Scores`; volumes in mm3, lengths in mm.
    about : mapping
        predictions, manifest (names), threshold, low, rule, min_volume_mm3.

    Returns
    -------
    pathlib.Path
    """
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        body = "\n".join(section(tables, about) for section in SECTIONS)
    with replacing(path) as part:
        part.write_text(PAGE.format(title=_title(about), body=body), encoding="utf-8")
    return Path(path)


def _head(tables, about):
    scans, lesions = tables["scans"], tables["lesions"]
    free, smallest = int((scans.lesions == 0).sum()), about["min_volume_mm3"]
    removed = f"; findings below {smallest:g} mm³ are removed where nothing else is said" if smallest else ""
    meaning = html.escape(rule_of(about["rule"]).meaning)
    text = (
        f"{len(scans)} scans of {scans.patient_id.nunique()} patients, {len(lesions)} lesions; {free} scans have none. "
        f"Maps are binarised by hysteresis at {about['threshold']:g} and {about['low']:g}{removed}. Findings are "
        f"matched by the rule <b>{about['rule']}</b>: {meaning}. Intervals are 95 % bootstraps over patients."
    )
    source = f"Predictions: {html.escape(str(about['predictions']))}; manifest: {html.escape(str(about['manifest']))}."
    return f'<h1>{_title(about)}</h1>\n<p>{text}</p>\n<p class="small">{source}</p>'


def _rules(tables, about):
    rows = _rates_by_rule(tables["rules"])
    meanings = {name: RULES[name].meaning for name in rows.index if name in RULES}
    listed = "".join(f"<li><b>{name}</b>: {html.escape(meaning)}</li>" for name, meaning in meanings.items())
    figure, axes = _figure(9, 2.6, 1, 3, sharey=True)
    rule_bars(axes, rows.reset_index())
    whole, wise = summarise(_scan_rows(tables, about)).iloc[0], rows.loc["brats"]
    after = (
        f"<p>Dice of whole scans with lesions, voxel by voxel: {whole.dice:.3f}; of healthy voxels "
        f"{whole.dice_healthy:.4f}. Lesion-wise scores with the penalties of BraTS-METS, mean over scans: Dice "
        f"{wise.wise_dice:.3f}, HD95 {wise.wise_hd95_mm:.0f} mm (a miss or a false positive counts 0 and 374 mm).</p>"
    )
    title = f"<h2>The same maps under {len(rows)} rules</h2>"
    return f"{title}\n<ul>{listed}</ul>\n{_table(_as_text(rows))}{_picture(figure)}{after}"


def _rates_by_rule(rules):
    """Recall, precision, Dice and false positives with their intervals, and lesion-wise means: one row a rule."""
    rates = intervals(rules, by="rule", draws=DRAWS).set_index("rule").loc[list(dict.fromkeys(rules.rule))]
    return rates.assign(**rules.groupby("rule")[["wise_dice", "wise_hd95_mm"]].mean())


def _as_text(rows):
    columns = {
        "lesions": (rows.tp + rows.fn).astype(int), "TP": rows.tp, "FN": rows.fn, "FP": rows.fp,
        "recall %": with_interval(rows, "recall", 100), "precision %": with_interval(rows, "precision", 100),
        "FP a scan": with_interval(rows, "fp_per_scan"), "Dice of a lesion": with_interval(rows, "lesion_dice", 1, 2),
    }  # fmt: skip
    return pd.DataFrame(columns, rows.index)


def _curves(tables, about):
    points, pooled = tables["points"], summarise(tables["sweep"])
    averages = metrics.froc_average(points, draws=DRAWS)
    figure, axes = _figure(10, 4, 1, 2)
    draw.froc_curve(axes[0], metrics.froc(points, draws=500), averages, label=about["rule"])
    filtered = pooled[pooled.threshold == _nearest(pooled.threshold.unique(), about["threshold"])]
    draw.precision_recall(axes[1], filtered, over="min_volume_mm3", label="over the size filter")
    draw.precision_recall(axes[1], pooled[pooled.min_volume_mm3 == 0], label="over θ")
    axes[1].legend(fontsize=8)
    area = metrics.average_precision(points, draws=DRAWS).iloc[0]
    text = (
        f"<p>Recall (%) at a number of false positives a scan, no interpolation; average precision {area.value:.3f} "
        f"({area.low:.3f} to {area.high:.3f}), recall that is never reached counting nothing.{_auroc(tables)}</p>"
    )
    columns = {f"{name:g}" if name != "average" else name: row for name, row in (100 * averages).round(1).iterrows()}
    return f"<h2>Along the threshold</h2>\n{_picture(figure)}{text}{_table(pd.DataFrame(columns))}"


def _auroc(tables):
    """A sentence on whether the highest finding says which scans have lesions; empty where all or none have."""
    lesions = tables["scans"].set_index("scan_id").lesions
    highest = tables["predicted"].groupby("scan_id").peak.max().reindex(lesions.index).fillna(0)
    area = metrics.auroc(highest, lesions > 0)
    return "" if np.isnan(area) else f" Does a scan have lesions? By its highest finding: AUROC {area:.2f}."


def _sizes(tables, about):
    lesions = tables["lesions"]
    if lesions.empty:
        return "<h2>Lesions by size</h2><p>There is no lesion.</p>"
    figure, axes = _figure(10, 7, 2, 2)
    draw.recall_over_size(axes[0, 0], metrics.recall_by_size(lesions, SIZES_MM))
    rows = tables["lesion_sweep"]
    draw.recall_over_size_curves(axes[0, 1], metrics.recall_curve(rows[rows.min_volume_mm3 == 0]))
    draw.dice_of_lesions(axes[1], lesions, _scan_rows(tables, about))
    text = (
        f"<p>No size filter. {int(lesions.found.sum())} of {len(lesions)} lesions are found; mean Dice of a lesion and "
        f"its own components {lesions.dice.mean():.3f}, of those found {lesions.dice[lesions.found].mean():.3f}.</p>"
    )
    return f"<h2>Lesions by size</h2>\n{_picture(figure)}{text}"


def _errors(tables, about):
    errors = tables["errors"]
    shape = errors[["slice", "row", "column"]].max().fillna(1).to_numpy() + 2
    figure, axes = _figure(11, 7, 2, 3)
    draw.false_positive_positions(axes[0], errors, shape)
    draw.false_positive_histograms(axes[1], errors, shape)
    apart = metrics.with_and_without_lesions(_scan_rows(tables, about)).set_index("lesions")
    apart = apart[["scans", "tp", "fn", "fp", "fp_per_scan", "fp_per_slice"]].round(3)
    names = {"with": "with lesions", "without": "without lesions", "all": "all scans"}
    largest = errors[errors.kind == "FP"].sort_values("volume_mm3", ascending=False).head(LARGEST).set_index("scan_id")
    columns = ["volume_mm3", "diameter_mm", "peak", "x_mm", "y_mm", "z_mm", "nearest_mm"]
    return (
        f"<h2>False positives</h2>\n{_table(apart.rename(index=names, columns=HEADS))}{_picture(figure)}"
        "<p>The largest ones; errors.csv has all findings.</p>"
        f"{_table(largest[columns].round(2).rename(columns=HEADS))}"
    )


def _calibration(tables, about):
    voxels, found = tables["reliability"], tables["predicted"]
    pooled = metrics.pool(voxels)
    figure, axes = _figure(5, 5, 2, 1, height_ratios=[2, 1], sharex=True)
    draw.reliability_diagram(axes, pooled, error=metrics.expected_calibration_error(voxels))
    sure = pooled.iloc[-1]
    share = "no voxel" if not sure["count"] else f"{100 * sure.fraction:.1f} % of the voxels"
    hits = f"{100 * found.hit.mean():.1f} %" if len(found) else "none"
    text = (
        f"<p>All voxels of the search regions. Where the map says {sure.from_p:g} or more, {share} are lesion; of the "
        f"{len(found)} components at θ {about['threshold']:g}, {hits} are hits.</p>"
    )
    return f"<h2>Is the probability one?</h2>\n{_picture(figure)}{text}"


SECTIONS = (_head, _rules, _curves, _sizes, _errors, _calibration)


def _title(about):
    return html.escape(f"Evaluation of {about['predictions']}")


def _nearest(values, wanted):
    return values[np.abs(values - wanted).argmin()]


def _scan_rows(tables, about):
    """One row a scan by the rule, threshold and minimum volume asked for."""
    rows = tables["rules"]
    return rows[rows.rule == about["rule"]].assign(threshold=about["threshold"], min_volume_mm3=about["min_volume_mm3"])


def _figure(width, height, rows, columns, *, sharex=False, sharey=False, **ratios):
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, gridspec_kw=ratios)


def _picture(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p style="max-width:none"><img alt="" src="data:image/png;base64,{data}"></p>\n'


def _table(table):
    return table.rename_axis(index=None).to_html(border=0, na_rep="–") + "\n"
