"""The error browser and the sample browser without a web browser."""

import numpy as np
import pandas as pd
import pytest
from small_scans import write_cohort

from kit.samplers import draw, prepare
from kit.scans import Scan
from kit.viewer import ErrorBrowser, SampleBrowser, VerdictBook, ViewerError

SHAPE = (6, 16, 18)
CURVE = pd.DataFrame(
    {"threshold": [0.9, 0.5], "recall": [0.5, 0.75], "precision": [1.0, 0.25], "fp_per_scan": [0.0, 1.5]}
)
ERRORS = pd.DataFrame(
    [
        ("s2", "FP", 1, 3.0, 4.0, 5.0, 0.5),
        ("s1", "FN", 1, 4.0, 5.0, 6.0, 0.5),
        ("s1", "FP", 2, 2.2, 7.0, 8.0, 0.5),
        ("s1", "TP", 3, 1.0, 7.0, 8.0, 0.5),
        ("s1", "FN", 1, 4.0, 5.0, 6.0, 0.9),
    ],
    columns=["scan_id", "kind", "component", "slice", "row", "column", "threshold"],
).assign(volume_mm3=[9.0, 8, 7, 6, 8], peak=[0.6, np.nan, 0.5, 1, np.nan])


def load(scan_id):
    image = np.random.default_rng(len(scan_id)).random(SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, bool)
    label[4, 5, 6] = True
    return Scan(image, label, (1.0, 1.0, 1.0), np.eye(4), None), image


@pytest.fixture
def browser(tmp_path):
    made = ErrorBrowser(CURVE, ERRORS, load, tmp_path / "verdicts.csv")
    made.messages = []
    made.send = lambda content, buffers=None: made.messages.append(content)
    return made


def test_it_opens_on_the_first_error_at_the_threshold_asked_for(browser):
    assert browser.errors[["scan_id", "kind"]].values.tolist() == [["s1", "FP"], ["s1", "FN"], ["s2", "FP"]]
    assert (browser.point, browser.error, browser.caption, browser.cursor) == (0, 0, "s1", (2, 7, 8))


def test_paging_goes_from_error_to_error_and_from_scan_to_scan(browser):
    browser.error = 1
    assert (browser.caption, browser.cursor) == ("s1", (4, 5, 6))
    browser.zoom = 8
    browser.error = 2
    assert (browser.caption, browser.cursor, browser.zoom, browser.plane) == ("s2", (3, 4, 5), 8, "three")


def test_another_point_and_another_kind_bring_other_errors(browser):
    browser.point = 1
    assert len(browser.errors) == 1
    browser.kinds = "FP"
    assert (len(browser.errors), browser.error) == (0, -1)
    with pytest.raises(ViewerError, match="no error is shown"):
        browser.mark("unsure")
    browser.point = 0
    assert (browser.errors.kind.unique().tolist(), browser.error) == (["FP"], 0)


def test_a_verdict_from_the_page_is_saved_and_shown_after_a_restart(browser, tmp_path):
    told = {"type": "mark", "error": 2, "scan_id": "s2", "verdict": "label fault", "note": "a rim"}
    browser._heard(browser, told, [])
    assert browser.messages[-1]["count"] == {"true error": 0, "label fault": 1, "unsure": 0}
    saved = VerdictBook(tmp_path / "verdicts.csv").table
    assert saved[["scan_id", "component", "peak", "threshold", "note"]].values.tolist() == [
        ["s2", 1, 0.6, 0.5, "a rim"]
    ]
    again = ErrorBrowser(CURVE, ERRORS, load, tmp_path / "verdicts.csv")
    assert again.errors.verdict.tolist() == ["", "", "label fault"]
    again.error = 2
    again.mark("true error")
    assert again.errors.loc[2, ["verdict", "note"]].tolist() == ["true error", "a rim"]


def test_a_verdict_for_a_list_that_is_gone_is_not_given_to_another_error(browser):
    browser._heard(browser, {"type": "mark", "error": 2, "scan_id": "s1", "verdict": "unsure", "note": ""}, [])
    assert browser.book.table.empty


def test_the_page_gets_errors_as_plain_values(browser):
    browser._heard(browser, {"type": "ready"}, [])
    (errors,) = [content for content in browser.messages if content["type"] == "errors"]
    assert [row["peak"] for row in errors["rows"]] == [0.5, None, 0.6]
    assert type(errors["rows"][0]["component"]) is int


def test_errors_may_come_from_a_function(tmp_path):
    asked = []

    def errors(threshold):
        asked.append(threshold)
        return ERRORS[ERRORS.threshold == threshold]

    browser = ErrorBrowser(CURVE, errors, load, tmp_path / "v.csv", threshold=0.8)
    assert (browser.point, len(browser.errors), asked) == (1, 1, [0.9])


def test_tables_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ViewerError, match="curve lacks the columns recall"):
        ErrorBrowser(CURVE.drop(columns="recall"), ERRORS, load, tmp_path / "v.csv")
    with pytest.raises(ViewerError, match="one row a threshold"):
        ErrorBrowser(pd.concat([CURVE, CURVE]), ERRORS, load, tmp_path / "v.csv")
    with pytest.raises(ViewerError, match="errors lacks the columns kind"):
        ErrorBrowser(CURVE, ERRORS.drop(columns="kind"), load, tmp_path / "v.csv")
    with pytest.raises(ViewerError, match="no error to look at"):
        ErrorBrowser(CURVE, ERRORS.head(0), load, tmp_path / "v.csv")


def test_the_error_browsers_still_picture_has_the_curve_and_the_errors(browser):
    titles = [ax.get_title() for ax in browser.montage().axes]
    assert titles[:4] == ["Precision and recall", "FN, s1, slice 4", "FP, s2, slice 3", "FP, s1, slice 2"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return prepare(write_cohort(folder, (1, 2)), folder / "cache", progress=False)


@pytest.fixture
def samples(cohort):
    draws = {name: draw(cohort, name, limit=200) for name in ("balanced", "ratio")}
    return SampleBrowser(cohort, draws, (5, 51, 51))


def test_every_drawn_voxel_of_the_scan_is_sent(samples, cohort):
    sent = []
    samples.send = lambda content, buffers=None: sent.append((content, buffers))
    samples._heard(samples, {"type": "ready"}, [])
    samples.scheme, samples.scan = "ratio", "s2"
    told, (where, kind, angle, pair) = [message for message in sent if message[0]["type"] == "samples"][-1]
    rows = samples.samples
    assert told["scan"] == "s2"
    assert set(rows.scan) == {"s2"}
    np.testing.assert_array_equal(
        np.frombuffer(where, np.int16).reshape(-1, 3), rows[["slice", "row", "column"]].to_numpy()
    )
    assert [told["whys"][k] for k in np.frombuffer(kind, np.int16)] == rows.why.astype(str).tolist()
    np.testing.assert_array_equal(np.frombuffer(angle, np.float32), rows.angle)
    assert set(np.frombuffer(pair, np.int32)) == {-1}


def test_a_sample_moves_the_cross_hair_and_label_and_image_are_the_scans_own(samples, cohort):
    samples.scan = "s1"
    samples.sample = 3
    assert list(samples.cursor) == samples.samples.loc[3, ["slice", "row", "column"]].tolist()
    np.testing.assert_array_equal(np.flatnonzero(samples.volumes.label), cohort.scans[0].lesion)
    np.testing.assert_array_equal(samples.volumes.image, cohort.image(0))


def test_counts_are_those_of_the_draws(samples):
    counts = samples.counts()
    assert counts.loc["balanced"].sum().tolist() == [100, 100]
    assert counts.loc["ratio", "healthy"].sum() == 10 * counts.loc["ratio", "lesion"].sum()


def test_draws_that_cannot_be_used_are_refused(cohort):
    rows = draw(cohort, limit=20)
    with pytest.raises(ViewerError, match="lacks why"):
        SampleBrowser(cohort, {"balanced": rows.drop(columns="why")})
    with pytest.raises(ViewerError, match="cohort lacks: s9"):
        SampleBrowser(cohort, {"balanced": rows.assign(scan="s9")})
    with pytest.raises(ViewerError, match="choose one of balanced"):
        SampleBrowser(cohort, {"balanced": rows}).scheme = "other"


def test_the_sample_browsers_still_picture_has_a_line_a_scheme_and_a_patch_in_place(samples, cohort):
    k = int(samples.samples["slice"][samples.samples.label].iloc[0])
    figure = samples.montage([k])
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [f"{name}, {samples.scan}, slice {k}" for name in ("balanced", "ratio")]
    ax = figure.axes[0]
    x, y = ax.lines[0].get_data()
    row = samples.samples[(samples.samples["slice"] == k) & samples.samples.label].iloc[0]
    assert (np.mean(x[:4]), np.mean(y[:4])) == pytest.approx((row.column, row.row))
    # the patch's first corner comes from where `kit.samplers.patches` reads it
    turn = np.deg2rad(row.angle)
    corner = (
        row.row - 25.5 * np.cos(turn) - 25.5 * np.sin(turn),
        row.column - 25.5 * np.cos(turn) + 25.5 * np.sin(turn),
    )
    assert (y[0], x[0]) == pytest.approx(corner, abs=1e-3)
