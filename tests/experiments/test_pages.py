"""Pages of executed notebooks say what the notebooks say of themselves, load nothing and name no folder."""

import re
from base64 import b64decode, b64encode
from io import BytesIO

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from kit.experiments import NOTEBOOK_FOLDER, heading, main_figure, to_html, write_index
from kit.experiments.pages.index import thumbnail

PARAMETERS = 'seed: int = 7  # any\nprofile: str = "quick"  # quick | full\nrun_dir: str = "../runs/small"\n'
OPENING = (
    "# Small <things>\n\n**Does it *run*?**\n\n**Takeaway.** It does, as [03](03_network_b.ipynb) shows.\n\nA bit."
)


def png(red, size=(8, 4), mode="RGB"):
    """A PNG file of one colour."""
    Image.new(mode, size, (red, 0, 0)[: len(mode)]).save(file := BytesIO(), "PNG")
    return file.getvalue()


def shows(*reds, tags=()):
    """A cell that shows a picture for each red."""
    pictures = [new_output("display_data", {"image/png": b64encode(png(red)).decode()}) for red in reds]
    return new_code_cell("show()", outputs=pictures, metadata={"tags": list(tags)})


def executed(*cells, opening=OPENING, **about):
    """A notebook as papermill leaves it, with `about` what it noted."""
    first = [new_markdown_cell(opening), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    python = {"name": "python3", "language": "python", "display_name": "Python 3"}
    noted = {"duration": 83.4, "parameters": {}, "exception": None, **about}
    return new_notebook(cells=[*first, *cells], metadata={"kernelspec": python, "papermill": noted})


@pytest.fixture
def index_of(tmp_path):
    """`index_of({name: notebook}, **options)`: the text of the index over them."""

    def write(notebooks, **options):
        for name, notebook in notebooks.items():
            nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        return write_index(tmp_path, **options).read_text(encoding="utf-8")

    return write


def words_of(page):
    """What a reader sees of a page, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).split())


def test_a_heading_without_a_takeaway_or_a_question_is_empty_there():
    assert heading(executed(opening="# Title\n\nWhy?\n\nOther words.")) == ("Title", "Why?", "")
    assert heading(executed(opening="# Title")) == ("Title", "", "")
    assert heading(executed(opening="no title")) == ("", "", "")
    assert heading(executed(opening="# T\n\nWhy?\n\n**Takeaway.** Over\ntwo lines.")).takeaway == "Over\ntwo lines."


def test_the_main_figure_is_the_first_picture_of_the_tagged_cell():
    assert main_figure(executed(shows(10), shows(20, 30, tags=["main-figure"]), shows(40))) == png(20)


def test_without_a_tagged_picture_the_main_figure_is_the_last_one():
    assert main_figure(executed(shows(10), shows(20, 30))) == png(30)
    assert main_figure(executed(shows(10), shows(tags=["main-figure"]))) == png(10)
    assert main_figure(executed(shows())) is None


def test_a_thumbnail_keeps_proportions_colours_and_what_is_small_and_lies_on_white():
    address, width, height = thumbnail(png(200, size=(1600, 400)))
    assert (width, height) == (800, 200)
    picture = np.asarray(Image.open(BytesIO(b64decode(address.partition("base64,")[2]))))
    assert picture.shape == (200, 800, 3)
    assert np.abs(picture.astype(int) - (200, 0, 0)).max() <= 3
    assert thumbnail(png(200, size=(30, 20)))[1:] == (30, 20)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file := BytesIO(), "PNG")
    clear = thumbnail(file.getvalue())[0]
    assert np.asarray(Image.open(BytesIO(b64decode(clear.partition("base64,")[2])))).min() >= 252


def test_the_index_shows_number_question_takeaway_picture_time_and_parameters(index_of):
    page = index_of({"01_small": executed(shows(20, tags=["main-figure"]), parameters={"seed": 9})})
    seen = words_of(page)
    assert "01 Small &lt;things&gt; Does it run ? It does, as 03 shows. 1 min 23 s · parameters seed 9 profile" in seen
    assert "<em>run</em>" in page
    assert "03_network_b" not in page
    assert thumbnail(png(20))[0] in page
    assert "python -m kit run 01_small -o" in seen
    assert "<details>" in page


def test_the_index_says_what_was_run_on_what_and_in_how_long(index_of):
    notebooks = {"01_one": executed(), "02_two": executed(duration=40)}
    seen = words_of(index_of(notebooks))
    assert re.search(r"Run kit \d+\.\d+\.\d+, profile quick, 2 notebooks: none failed", seen)
    assert re.search(r"On \d+ CPU cores \(.+\), .+, \w+ In 2 min 3 s", seen)
    assert "In 1 min 5 s" in words_of(index_of(notebooks, seconds=65))
    assert "Data none On" in seen
    built_in, own = ({"manifest": path} for path in ("../data_manifest.csv", "/data/mine/data_manifest.csv"))
    seen = words_of(index_of({"01_one": executed(parameters=built_in), "02_two": executed(parameters=own)}))
    assert "Data data_manifest.csv, data_manifest.csv (built in: synthetic scans) On" in seen
    assert "profile full and quick" in words_of(
        index_of(notebooks | {"03_c": executed(parameters={"profile": "full"})})
    )


def test_the_index_names_failures_by_themselves_or_given_even_where_nothing_was_written(index_of):
    error = new_output("error", ename="OSError", evalue="/some/where/secret.nii", traceback=[])
    broken = executed(new_code_cell("read()", outputs=[error]), exception=True)
    page = index_of({"01_one": executed(), "02_two": broken, "03_c": executed()}, failed=["03_c", "04_gone"])
    seen = words_of(page)
    assert "4 notebooks: 3 failed ( 02 , 03 , 04 )" in seen
    assert "02 Small &lt;things&gt; Failed: OSError. The page shows where." in seen
    assert "secret" not in page
    assert "04 04_gone Failed: nothing was written." in seen
    assert 'href="04_gone.html"' not in page


def test_the_index_names_no_folder_of_the_machine(index_of, tmp_path):
    page = index_of({"01_small": executed(parameters={"run_dir": str(tmp_path / "deep" / "small")})})
    assert "…/small" in page
    assert str(tmp_path) not in page
    assert tmp_path.name not in page
    assert "README" in words_of(page)
    assert '<a href="..' not in page  # a link from outside the project would name the folders between


def test_a_page_has_its_figure_in_it_folds_its_parameters_and_loads_nothing(tmp_path):
    page = to_html(executed(shows(20)), tmp_path / "01_small.html").read_text()
    assert f"data:image/png;base64,{b64encode(png(20)).decode()}" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"?(http|//)", page)
    assert "<title>Small &lt;things&gt;</title>" in page
    folded = re.findall(r"<details(.*?)>(.*?)</details>", page, re.DOTALL)
    assert len(folded) == 1
    assert "open" not in folded[0][0]
    assert "run_dir" in folded[0][1]
    assert "show" not in folded[0][1]


def test_an_index_loads_nothing(index_of):
    page = index_of({"01_small": executed(shows(20))})
    assert not re.search(r"(src|href)=\"?(http|//)|@import|url\(|<script|<link", page)


def test_a_page_leads_to_its_neighbours_and_the_index_and_notebook_links_to_pages(tmp_path):
    page = to_html(executed(), tmp_path / "04_network_c.html").read_text()
    for before_and_after in ("03_network_b", "05_network_d"):
        title = heading(nbformat.read(NOTEBOOK_FOLDER / f"{before_and_after}.ipynb", as_version=4)).title
        assert page.count(f'<a href="{before_and_after}.html" rel=') == 2  # above and below
        assert page.count(title) == 2
    assert page.count('<a href="index.html">') == 2
    assert '<a href="03_network_b.html">03</a>' in page
    assert ".ipynb" not in page
    first = to_html(executed(), tmp_path / "01_data_statistics.html").read_text()
    assert 'rel="prev"' not in first
    assert 'rel="next"' in first
    assert 'rel="next"' not in to_html(executed(), tmp_path / "other.html").read_text()


def test_a_link_of_a_notebook_to_a_file_of_the_project_is_one_from_the_page_too(tmp_path):
    linked = executed(opening="# T\n\nWhy?\n\n[read](../README.md), [there](https://example.org), [here](#below)")
    inside = NOTEBOOK_FOLDER.parent / "runs" / "page-test"
    inside.mkdir(parents=True, exist_ok=True)
    try:
        page = to_html(linked, inside / "t.html").read_text()
    finally:
        (inside / "t.html").unlink(missing_ok=True)
        inside.rmdir()
    assert '<a href="../../README.md">read</a>' in page
    assert 'href="https://example.org"' in page
    assert 'href="#below"' in page
    assert str(tmp_path) not in to_html(linked, tmp_path / "t.html").read_text()
