"""What a notebook says of itself: title, question and takeaway in its first cell, and its main figure.

The first cell is Markdown. Its first line is the title, the paragraph after it the question, and the paragraph that
begins with **Takeaway.** the answer, in a sentence or two. The cell whose figure stands for the notebook is tagged
`main-figure`.

    # Network B: deeper

    **Does depth help?**

    **Takeaway.** Two convolutions more found one lesion more, which may be chance.
"""

from base64 import b64decode
from typing import NamedTuple

TAKEAWAY = "**Takeaway.**"
MAIN_FIGURE = "main-figure"
PNG = "image/png"


class Heading(NamedTuple):
    """How a notebook opens, as Markdown; what is not there is empty."""

    title: str
    question: str
    takeaway: str


def heading(notebook):
    """Title, question and takeaway of a notebook, from its first cell that has a title.

    >>> from nbformat.v4 import new_markdown_cell, new_notebook
    >>> cell = new_markdown_cell("# Depth\\n\\nDoes it help?\\n\\n**Takeaway.** A little.\\n\\nA minute.")
    >>> heading(new_notebook(cells=[cell]))
    Heading(title='Depth', question='Does it help?', takeaway='A little.')
    """
    first = next((cell.source for cell in notebook.cells if cell.source.startswith("# ")), "")
    title, _, rest = first.strip().partition("\n")
    question, *others = rest.strip().split("\n\n")
    answers = [one.removeprefix(TAKEAWAY).strip() for one in others if one.startswith(TAKEAWAY)]
    return Heading(title.lstrip("# "), question, "".join(answers[:1]))


def main_figure(notebook):
    """The picture that stands for a notebook: the first one of its cell tagged `main-figure`.

    Without such a cell, or where it shows no picture, it is the notebook's last picture.

    Returns
    -------
    bytes or None
        A PNG file, or None where the notebook shows no picture at all.
    """
    tagged = [cell for cell in notebook.cells if MAIN_FIGURE in cell.metadata.get("tags", [])]
    chosen = [picture for cell in tagged for picture in _pictures(cell)][:1]
    chosen = chosen or [picture for cell in notebook.cells for picture in _pictures(cell)][-1:]
    return b64decode(chosen[0]) if chosen else None


def _pictures(cell):
    """The PNG files that a cell shows, in base64."""
    return [output.data[PNG] for output in cell.get("outputs", []) if PNG in output.get("data", {})]
