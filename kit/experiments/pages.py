"""Executed notebooks for readers: cleaned for git, shown as pages that need no network, listed on one index page."""

import copy
import html
import re
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbstripout import strip_output

VOLATILE = (
    *("metadata.papermill", "metadata.widgets", "metadata.language_info.version"),
    *("cell.metadata.papermill", "cell.metadata.execution", "cell.metadata.collapsed", "cell.metadata.scrolled"),
)
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\d%\||\d\w+ \[\d\d:\d\d")  # a progress bar as tqdm writes it to stderr: "7%|", or "12it [00:03"
NO_SCRIPT = "data:text/javascript,"  # in place of scripts from the network

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Brain metastasis kit: executed notebooks</title>
<style>body {{ font: 16px/1.4 sans-serif; margin: 2em auto; max-width: 72em; }} table {{ border-collapse: collapse; }}
td, th {{ border-top: 1px solid #bbb; padding: .5em 1em .5em 0; text-align: left; vertical-align: top; }}
td p {{ margin: 0; }} code {{ font-size: 13px; }}</style></head>
<body><h1>Executed notebooks</h1>
<table><tr><th>notebook</th><th>question</th><th>time</th><th>parameters</th></tr>
{rows}
</table></body></html>
"""


def clean(notebook):
    """A copy of an executed notebook without what differs between two runs: times and progress bars.

    Figures, tables and text stay, and so does what else was written to stderr: it is better read than hidden. Counts
    stay because nbval takes a cell without one for a cell that was not run.

    >>> bar = nbformat.v4.new_output("stream", name="stderr", text="training:  7%|7  | 1/14 [00:01<00:13]")
    >>> cell = nbformat.v4.new_code_cell("train()", outputs=[bar])
    >>> clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    []
    """
    notebook = copy.deepcopy(notebook)
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=True, extra_keys=list(VOLATILE))
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in map(_without_bars, cell.outputs) if output]
    return notebook


def to_html(notebook, path):
    """Write an executed notebook (nbformat.NotebookNode) as one page, figures embedded, that loads nothing else.

    Formulas in TeX stay TeX, as the program that sets them would come from the network.
    """
    exporter = HTMLExporter(embed_images=True, require_js_url=NO_SCRIPT, mathjax_url=NO_SCRIPT)
    page, _ = exporter.from_notebook_node(clean(notebook), {"metadata": {"name": heading(notebook)[0]}})
    Path(path).write_text(page, encoding="utf-8")
    return Path(path)


def heading(notebook):
    """Title and question: the first line of the first cell that has a title, and the paragraph after it.

    >>> cell = nbformat.v4.new_markdown_cell("# Depth\\n\\nDoes it help?\\n\\nAbout a minute.")
    >>> heading(nbformat.v4.new_notebook(cells=[cell]))
    ('Depth', 'Does it help?')
    """
    first = next((cell.source for cell in notebook.cells if cell.source.startswith("# ")), "")
    title, _, rest = first.strip().partition("\n")
    return title.lstrip("# "), rest.strip().split("\n\n")[0]


def index(folder):
    """Write `index.html` over a folder's executed notebooks and the pages beside them; return its path."""
    rows = "\n".join(_index_row(path) for path in sorted(Path(folder).glob("*.ipynb")))
    page = Path(folder) / "index.html"
    page.write_text(PAGE.format(rows=rows), encoding="utf-8")
    return page


def _index_row(path):
    notebook = nbformat.read(path, as_version=4)
    title, question = heading(notebook)
    about = notebook.metadata.get("papermill", {})
    defaults = {name: told["default"] for name, told in papermill.inspect_notebook(path).items()}
    given = {name: repr(value) for name, value in about.get("parameters", {}).items()}
    parameters = ", ".join(f"{name}={value}" for name, value in (defaults | given).items())
    link = f'<a href="{path.stem}.html">{html.escape(title)}</a>' + ("<br>failed" if about.get("exception") else "")
    parameters = f"<code>{html.escape(parameters)}</code>"
    cells = (link, markdown2html(question), minutes(about.get("duration") or 0), parameters)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def minutes(seconds):
    """A duration to be read.

    >>> minutes(83.4)
    '1 min 23 s'
    """
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _without_bars(output):
    """An output without progress bars and widgets, or None where nothing else is in it."""
    if WIDGET in output.get("data", {}):  # only a live kernel can show it: a still picture beside it stays
        del output.data[WIDGET]
        return output if set(output.data) - {"text/plain"} else None
    if output.get("name") == "stderr":
        lines = [line for line in re.split(r"[\r\n]+", output.text) if line.strip() and not BAR.search(line)]
        return nbformat.v4.new_output("stream", name="stderr", text="\n".join(lines)) if lines else None
    return output
