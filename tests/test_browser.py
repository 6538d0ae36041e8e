"""The viewers in JupyterLab in Chromium: what a person sees and does, read back from the canvas and from Python."""

import json
import re
import shutil
import time
from pathlib import Path

import lab
import nbformat
import numpy as np
import pytest

from kit.experiments import NOTEBOOK_FOLDER

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(lab.why_not() is not None, reason=lab.why_not() or ""),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own pipes
]

ROOT = NOTEBOOK_FOLDER.parent
SHOTS = ROOT / "runs" / "test" / "browser"  # in the project, so that they can be looked at
NOTEBOOK = "14_inspect.ipynb"
BOXES = "where=lambda scan, row: metrics.partitions(complete[row['scan_id']], row, margin_mm=4.0, seed=seed))"
QUICK = ("above=0.1)", BOXES)  # boxes instead of whole heads: a test has 90 seconds
PLACES = {"manifest": ROOT / "data_manifest.csv", "weights": ROOT / "weights" / "D.safetensors"}
VIEWERS = 4  # in the notebook: one scan, side by side, errors, samples

PIXEL = """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data]"""
COLOURED = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) count += Math.abs(data[i] - data[i + 2]) > 24;
    return count;
}"""
PICTURE = "(canvas) => canvas.toDataURL()"
SIZE = "(canvas) => [canvas.width, canvas.height]"
# from a key to the picture: the drawing itself (a pixel is read, so that it has been done), and the next frame
LATENCY = """async (root) => {
    const canvas = root.querySelector("canvas.kit-panel");
    const [drawn, shown] = [[], []];
    for (let i = 0; i < 60; i++) {
        await new Promise((resolve) => setTimeout(resolve, 30));
        const key = i < 30 ? "ArrowUp" : "ArrowDown";
        const started = performance.now();
        root.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        canvas.getContext("2d").getImageData(0, 0, 1, 1);
        drawn.push(performance.now() - started);
        await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
        shown.push(performance.now() - started);
    }
    const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    return { drawn_ms: middle(drawn), drawn_ms_worst: Math.max(...drawn), shown_ms: middle(shown) };
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(browser, address of a JupyterLab, folder it serves), in it a copy of the notebook with a run of its own."""
    folder, private = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    notebook = nbformat.read(NOTEBOOK_FOLDER / NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in (PLACES | {"run_dir": folder / "run"}).items():
        cell.source = re.sub(rf'^({name}: str = )"[^"]*"', rf'\1"{value}"', cell.source, flags=re.MULTILINE)
    assert sum(QUICK[0] in cell.source for cell in notebook.cells) == 1
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace(*QUICK)
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / NOTEBOOK)
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    with lab.lab_server(folder, private) as address, lab.browser() as chromium:
        yield chromium, address, folder


@pytest.fixture(scope="module")
def page(served):
    """The notebook, run once in the light theme on a large screen."""
    chromium, address, _ = served
    with lab.opened(chromium, address, NOTEBOOK, width=1400, height=1000) as page:
        page.cells = lab.run_all(page)
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        assert_no_trouble(page)
        yield page


def assert_no_trouble(page):
    outputs = [output for cell in page.cells for output in cell["outputs"]]
    assert not ["\n".join(output["traceback"]) for output in outputs if output["output_type"] == "error"]
    assert not page.troubles
    page.wait_for_function(f"() => document.querySelectorAll('.kit-viewer').length === {VIEWERS}")


def viewer_at(page, number):
    """A viewer's root and first canvas, in view, ready and focused."""
    root = page.locator(".kit-viewer").nth(number)
    root.scroll_into_view_if_needed()
    canvas = root.locator("canvas.kit-panel").first
    canvas.wait_for()
    root.focus()
    return root, canvas


def wait_for(page, expression, value):
    """Wait until Python has heard of it: a message takes a moment."""
    deadline = time.monotonic() + 15
    while (found := lab.ask_kernel(page, expression)) != value and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == value, expression


def middle_of(canvas):
    box = canvas.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_notebook_runs_and_shows_its_viewers(page):
    for number in range(VIEWERS):
        root, canvas = viewer_at(page, number)
        assert canvas.evaluate(COLOURED) > 0, number  # a label's outline, heat or marks
        root.screenshot(path=SHOTS / f"viewer{number}.png")
    page.screenshot(path=SHOTS / "notebook.png")


def test_keys_go_through_slices_and_jupyterlab_does_not_take_them(page):
    root, canvas = viewer_at(page, 0)
    active = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    before, cell = lab.ask_kernel(page, "widget.slice"), page.evaluate(active)
    picture = canvas.evaluate(PICTURE)
    for key in ("ArrowUp", "ArrowUp", "ArrowDown", "PageUp"):
        page.keyboard.press(key)
    wait_for(page, "widget.slice", before + 11)
    assert canvas.evaluate(PICTURE) != picture
    page.keyboard.press("Home")
    wait_for(page, "widget.slice", 159)
    page.keyboard.press("2")
    wait_for(page, "[widget.plane, widget.slice == widget.cursor[1]]", ["coronal", True])
    page.keyboard.press("1")
    page.keyboard.press("n")
    wait_for(page, "[widget.plane, widget.place]", ["axial", 0])
    assert page.evaluate(active) == cell
    assert root.evaluate("(root) => root === document.activeElement")


def test_every_pixel_is_the_voxel_it_stands_for(page):
    _, canvas = viewer_at(page, 0)
    lab.tell_kernel(page, "widget.zoom = 16; widget.show_cross = widget.show_label = False")
    read = "(at) => document.querySelector('.kit-reading').textContent.includes(at)"
    for plane in ("axial", "coronal", "sagittal"):
        for at in ((28, 169, 155), (70, 100, 120), (100, 60, 140)):
            lab.tell_kernel(page, f"widget.plane = {plane!r}; widget.cursor = {at}")
            page.wait_for_function(read, arg=", ".join(map(str, at)))
            canvas = page.locator("canvas.kit-panel").first
            width, height = canvas.evaluate(SIZE)
            found = canvas.evaluate(PIXEL, [width // 2, height // 2])
            told = lab.ask_kernel(page, "[widget.reading, widget.window]")
            assert found[:3] == pytest.approx(expected_colour(*told), abs=5), (plane, at)
    lab.tell_kernel(page, "widget.zoom = 1; widget.plane = 'axial'; widget.show_cross = widget.show_label = True")


def expected_colour(reading, window, threshold=0.2, opacity=0.6):
    import matplotlib

    grey = np.clip(255 * (reading["intensity"] - window[0]) / (window[1] - window[0]), 0, 255)
    (probability,) = reading["probability"].values()
    if probability < threshold:
        return [grey] * 3
    return (opacity * 255 * np.array(matplotlib.colormaps["inferno"](probability)[:3]) + (1 - opacity) * grey).tolist()


def test_the_wheel_turns_slices_a_click_reads_a_voxel_and_a_drag_sets_the_window(page):
    _, canvas = viewer_at(page, 0)
    lab.tell_kernel(page, "widget.cursor = (60, 10, 10)")
    page.mouse.move(*middle_of(canvas))
    page.mouse.wheel(0, -100)
    wait_for(page, "widget.slice", 61)
    page.mouse.wheel(0, 100)
    page.mouse.wheel(0, 100)
    wait_for(page, "widget.slice", 59)
    page.mouse.click(*middle_of(canvas))
    wait_for(page, "all(abs(a - 128) < 30 for a in widget.cursor[1:])", True)
    wait_for(page, "widget.reading['cursor'] == list(widget.cursor)", True)
    assert "59, " in page.locator(".kit-reading").first.text_content()
    low, high = lab.ask_kernel(page, "widget.window")
    x, y = middle_of(canvas)
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(x + 50, y)
    page.mouse.up()
    page.keyboard.up("Shift")
    wait_for(page, f"widget.window[0] < {low} and widget.window[1] > {high}", True)
    page.keyboard.press("r")
    wait_for(page, "widget.window", [low, high])


def test_dragging_the_threshold_takes_heat_away(page):
    root, canvas = viewer_at(page, 0)
    lab.tell_kernel(page, "widget.show_label = widget.show_cross = False; widget.cursor = (111, 95, 88)")
    wait_for(page, "widget.slice", 111)
    page.wait_for_timeout(200)
    before = canvas.evaluate(COLOURED)
    slider = root.locator("input[name=threshold]")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 7 + 0.2 * (box["width"] - 14), box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 7 + 0.95 * (box["width"] - 14), box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    wait_for(page, "0.9 < widget.threshold < 1", True)
    assert 0 < canvas.evaluate(COLOURED) < before
    lab.tell_kernel(page, "widget.threshold = 0.2; widget.show_label = widget.show_cross = True")


def test_python_moves_the_picture_and_hears_of_moves(page):
    root, canvas = viewer_at(page, 0)
    lab.tell_kernel(page, "heard = []; widget.observe(lambda change: heard.append(change.new), 'slice')")
    picture = canvas.evaluate(PICTURE)
    lab.tell_kernel(page, "widget.slice = 90")
    page.wait_for_function("() => document.querySelector('.kit-reading').textContent.includes('voxel 90,')")
    assert canvas.evaluate(PICTURE) != picture
    root.focus()
    page.keyboard.press("ArrowUp")
    wait_for(page, "heard", [90, 91])


def test_viewers_do_not_disturb_one_another(page):
    _, other = viewer_at(page, 1)
    picture, errors = other.evaluate(PICTURE), lab.ask_kernel(page, "[browser.cursor, browser.threshold]")
    viewer_at(page, 0)
    for key in ("PageUp", "]", "w", "4", "1"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert other.evaluate(PICTURE) == picture
    assert lab.ask_kernel(page, "[browser.cursor, browser.threshold]") == errors
    lab.tell_kernel(page, "widget.threshold = 0.2")


def test_play_runs_through_slices_until_it_is_stopped(page):
    viewer_at(page, 0)
    lab.tell_kernel(page, "widget.slice = 20")
    page.keyboard.press("Space")
    wait_for(page, "widget.slice > 24", True)
    page.keyboard.press("Space")
    page.wait_for_timeout(500)
    stopped = lab.ask_kernel(page, "widget.slice")
    page.wait_for_timeout(500)
    assert lab.ask_kernel(page, "widget.slice") == stopped


def test_keys_in_quick_succession_all_count_and_their_time_is_told(page, record_property):
    times, before = {}, lab.ask_kernel(page, "widget.slice")
    for key, plane in (("1", "axial"), ("4", "three planes")):
        root, _ = viewer_at(page, 0)
        page.keyboard.press(key)
        page.wait_for_timeout(300)
        times[plane] = root.evaluate(LATENCY)
        record_property(plane, times[plane])
    (SHOTS / "latency.json").write_text(json.dumps(times, indent=1))
    print("\nfrom a key to the slice, on 160 x 256 x 256 voxels:", times)
    page.keyboard.press("1")
    wait_for(page, "widget.slice", before)


def test_a_point_of_the_curve_leads_to_errors_and_a_verdict_is_on_disk_at_once(page, served):
    verdicts = Path(served[2], "run", "verdicts.csv")
    root, _ = viewer_at(page, 2)
    page.locator(".kit-curve svg").focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, "browser._curve.threshold[browser.point]", 0.95)
    wait_for(page, "browser.error", 0)
    root.focus()
    page.keyboard.press("n")
    wait_for(page, "browser.error", 1)
    page.keyboard.press("u")
    page.wait_for_function("() => document.querySelector('.kit-saved').textContent.includes('1 unsure')")
    assert "unsure" in verdicts.read_text()
    root.locator("textarea").fill("beside a vessel")
    root.locator("textarea").blur()
    page.wait_for_function("() => document.querySelector('.kit-saved').textContent.startsWith('saved in')")
    assert "beside a vessel" in verdicts.read_text()
    places = [[float(dot.get_attribute(name)) for name in ("cx", "cy")] for dot in root.locator("circle").all()]
    furthest = int(np.linalg.norm(np.subtract(places, places[-1]), axis=1).argmax())  # the last one drawn is at 0.95
    root.locator("circle").nth(furthest).click(force=True)
    wait_for(page, "bool(browser._curve.threshold[browser.point] != 0.95)", True)
    root.locator("select[aria-label='which curve']").select_option("FROC")
    wait_for(page, "browser.axes", "FROC")
    assert root.locator("button", has_text="unsure").get_attribute("aria-pressed") is not None


def test_paging_crosses_from_scan_to_scan(page):
    root, canvas = viewer_at(page, 2)
    lab.tell_kernel(page, "browser.error = 0")
    first = lab.ask_kernel(page, "browser.caption")
    page.wait_for_timeout(500)
    root.focus()
    page.keyboard.press("p")  # backwards from the first is the last, of the other scan
    wait_for(page, f"browser.caption != {first!r}", True)
    last = lab.ask_kernel(page, "browser.caption")
    page.wait_for_function(f"() => document.querySelectorAll('.kit-title')[0].textContent.endsWith('{last}')")
    read = "(at) => document.querySelectorAll('.kit-reading')[2].textContent.includes(at)"
    page.wait_for_function(read, arg=", ".join(map(str, lab.ask_kernel(page, "browser.cursor"))))
    assert canvas.evaluate(COLOURED) > 0


def test_samples_can_be_chosen_and_show_their_patch(page):
    root, canvas = viewer_at(page, 3)
    picture = canvas.evaluate(PICTURE)
    root.locator("select[aria-label='sampling scheme']").select_option("ratio")
    wait_for(page, "samples.scheme", "ratio")
    page.wait_for_timeout(300)
    assert canvas.evaluate(PICTURE) != picture
    root.focus()
    page.keyboard.press("n")
    wait_for(page, "samples.sample >= 0", True)
    row = "samples.samples.loc[samples.sample, ['slice', 'row', 'column']].tolist()"
    wait_for(page, f"list(samples.cursor) == {row}", True)
    assert "patch of 5 × 51 × 51 turned by" in root.locator(".kit-saved").text_content()
    root.screenshot(path=SHOTS / "samples.png")


def test_everything_can_be_reached_by_keyboard_and_has_a_name(page):
    root, _ = viewer_at(page, 0)
    names = root.evaluate(
        """(root) => [root, ...root.querySelectorAll("button, input, select, textarea, canvas.kit-panel")].map((one) =>
            one.getAttribute("aria-label") || one.closest("label")?.textContent || one.textContent)"""
    )
    assert all(names)
    page.keyboard.press("Tab")
    focused = "() => document.activeElement.closest('.kit-viewer') && document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "play (Space)"
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    before = lab.ask_kernel(page, "widget.slice")
    page.keyboard.press("ArrowRight")  # the slider's own key, not the viewer's as well
    wait_for(page, "widget.slice", before + 1)
    root.focus()
    page.keyboard.press("?")
    assert root.locator(".kit-help").is_visible()
    root.screenshot(path=SHOTS / "help.png")
    page.keyboard.press("?")


def test_the_saved_notebook_has_a_still_picture_and_no_volume(page, served):
    page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save') }")
    path = Path(served[2], NOTEBOOK)
    saved = nbformat.read(path, as_version=4)
    bundles = [output.data for cell in saved.cells for output in cell.get("outputs", []) if "data" in output]
    stills = [data for data in bundles if "application/vnd.jupyter.widget-view+json" in data and "image/png" in data]
    assert len(stills) == VIEWERS
    pictures = sum(len(data["image/png"]) for data in stills)
    assert path.stat().st_size - pictures < 400_000  # the scans have ten million voxels each


@pytest.mark.parametrize(("theme", "width", "height"), [("dark", 1400, 1000), ("light", 640, 700)])
def test_it_looks_right_in_a_dark_theme_and_in_a_small_window(page, theme, width, height):
    change = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
    page.evaluate(change, lab.THEMES[theme])
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_function(f"() => document.body.dataset.jpThemeName === '{lab.THEMES[theme]}'")
    page.wait_for_timeout(1000)
    for number in range(VIEWERS):
        root, canvas = viewer_at(page, number)
        page.wait_for_timeout(300)
        root.screenshot(path=SHOTS / f"{theme}{width}_{number}.png")
        assert canvas.evaluate(COLOURED) > 0
        assert root.evaluate("(root) => root.scrollWidth <= root.clientWidth + 1"), "wider than its cell"
        back = root.evaluate("(root) => getComputedStyle(root).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == (theme == "dark")
    viewer_at(page, 0)
    page.screenshot(path=SHOTS / f"{theme}{width}.png")
