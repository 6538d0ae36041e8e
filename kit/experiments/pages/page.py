"""An executed notebook as one page: figures in it, parameters folded away, links to its neighbours and the index."""

import html
import os
import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from kit.experiments.notebooks import NOTEBOOK_FOLDER, clean, numbered_notebooks
from kit.experiments.pages.contents import heading
from kit.scans import replacing

TEMPLATES = Path(__file__).with_name("templates")
NO_SCRIPT = "data:text/javascript,"  # in place of scripts from the network
LINK = re.compile(r'(?<=<a href=")(?![a-z]+:|#|/)([^"#]+)')  # to a file


def to_html(notebook, path):
    """Write an executed notebook (nbformat.NotebookNode) as one page, figures embedded, that loads nothing else.

    It is light or dark as its reader's system is, its parameters are folded away, and it leads to the pages of the
    notebooks before and after it, which are looked for by the name of `path`. Links between notebooks lead to their
    pages. Formulas in TeX stay TeX, as the program that sets them would come from the network.

    Returns
    -------
    Path
        The page's.
    """
    exporter = HTMLExporter(
        embed_images=True,
        require_js_url=NO_SCRIPT,
        mathjax_url=NO_SCRIPT,
        extra_template_paths=[str(TEMPLATES)],
        template_file="notebook.html.j2",
    )
    about = {"name": heading(notebook).title, **_neighbours(Path(path).stem)}
    page, _ = exporter.from_notebook_node(clean(notebook), {"metadata": about})
    return write_page(path, LINK.sub(lambda link: _seen_from(Path(path).parent, html.unescape(link[1])), page))


def write_page(path, text):
    """Write a page whole or not at all; return its path."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def link_to(file, folder):
    """A page's link to a file of the repository; "" from a folder outside it, where the link would name folders."""
    root, folder = NOTEBOOK_FOLDER.parent, Path(folder).resolve()
    return Path(os.path.relpath(root / file, folder)).as_posix() if folder.is_relative_to(root) else ""


def _neighbours(name):
    """Name and title of the notebooks before and after one of the project, where there are such."""
    paths = numbered_notebooks()
    places = {path.stem: place for place, path in enumerate(paths)}
    if name not in places:
        return {}
    near = {"before": places[name] - 1, "after": places[name] + 1}
    found = {word: paths[place] for word, place in near.items() if 0 <= place < len(paths)}
    return {word: (path.stem, heading(nbformat.read(path, as_version=4)).title) for word, path in found.items()}


def _seen_from(folder, link):
    """A link of a notebook, as its page has it: to the page of another notebook, or to the same file from there."""
    if re.fullmatch(r"\d\d_\w+\.ipynb", link):
        return link.removesuffix("ipynb") + "html"
    return link if link.endswith(".html") else html.escape(link_to(f"notebooks/{link}", folder) or link)
