"""The pages of `make demo` in Chromium: they fit a phone and a desktop, and are light or dark as the system is."""

import re

import lab
import nbformat
import pytest

from kit.experiments import NOTEBOOK_FOLDER, to_html, write_index

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(lab.why_not() is not None, reason=lab.why_not() or ""),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own pipes
]

NAMES = ("01_data_statistics", "05_network_d")
WIDE = """() => [...document.querySelectorAll("h1, h2, p, .run, article, details, nav")].filter((one) =>
    one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.textContent.slice(0, 60))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Index and pages of two committed notebooks."""
    folder = tmp_path_factory.mktemp("pages")
    for name in NAMES:
        notebook = nbformat.read(NOTEBOOK_FOLDER / f"{name}.ipynb", as_version=4)
        nbformat.write(notebook, folder / f"{name}.ipynb")
        to_html(notebook, folder / f"{name}.html")
    write_index(folder)
    return folder


@pytest.fixture(scope="module")
def chromium():
    with lab.browser() as chromium:
        yield chromium


@pytest.mark.parametrize("name", ["index", *NAMES])
@pytest.mark.parametrize(("width", "scheme"), [(380, "light"), (1280, "dark")])
def test_a_page_fits_its_screen_in_the_systems_colours(chromium, folder, name, width, scheme):
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto((folder / f"{name}.html").as_uri())
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate(WIDE) == []
        back, ink = (
            sum(map(int, re.findall(r"\d+", page.evaluate(f"() => getComputedStyle(document.body).{what}"))[:3]))
            for what in ("backgroundColor", "color")
        )
        assert (back < 150 < 500 < ink) if scheme == "dark" else (ink < 250 < 700 < back)
        assert not [url for url in asked if not url.startswith(("file:", "data:"))]
        for one in page.query_selector_all("details"):
            one.evaluate("(details) => { details.open = true }")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    finally:
        page.close()


def test_the_index_leads_to_a_notebook_and_back_and_on(chromium, folder):
    page = chromium.new_page(viewport={"width": 380, "height": 800})
    try:
        page.goto((folder / "index.html").as_uri())
        assert page.evaluate("() => [...document.images].every((one) => one.loading === 'lazy' || one.naturalWidth)")
        page.click("#\\30 1_data_statistics h2 a")
        assert page.title().startswith("Does the cohort look like")
        assert not page.is_visible("text=one row a scan")  # in the parameters
        page.click("summary")
        assert page.is_visible("text=one row a scan")
        page.click("nav >> text=All notebooks")
        assert page.url.endswith("/index.html")
    finally:
        page.close()
