"""The page over all executed notebooks: what was run, on what, in how long, and each notebook's answer."""

import re
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbconvert.filters import markdown2html
from PIL import Image

from kit.experiments.notebooks import known_parameters, minutes
from kit.experiments.pages.contents import heading, main_figure
from kit.experiments.pages.page import TEMPLATES, link_to, write_page
from kit.experiments.runs import environment

WIDTH = 800  # pixels of a thumbnail, for a phone's dense screen
QUALITY = 80  # of its JPEG
BUILT_IN = "../data_manifest.csv"  # as the notebooks name the synthetic cohort


def write_index(folder, *, seconds=None, failed=()):
    """Write `index.html` over a folder's executed notebooks and the pages beside them.

    Title, question and takeaway are those of each notebook's first cell, the picture is its main figure (see `heading`
    and `main_figure`). Nothing on the page names the machine, its user or a folder of theirs.

    Parameters
    ----------
    folder : path
        Holds `*.ipynb`, as `run_all` writes them, and a page `*.html` of each.
    seconds : float, optional
        How long all of it took; None: the sum over the notebooks.
    failed : collection of str
        Names of notebooks (without ending) that failed, beside those that say so themselves.

    Returns
    -------
    Path
        The index page's.
    """
    paths = sorted(Path(folder).glob("*.ipynb"))
    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    cards = [_card(path, notebook, failed) for path, notebook in notebooks.items()]
    about = {
        "cards": cards + [_missing(name) for name in sorted(set(failed) - {path.stem for path in paths})],
        "version": environment()["versions"]["brain-metastasis-kit"],
        "profiles": sorted({one["values"]["profile"] for one in cards if "profile" in one["values"]}),
        "manifests": sorted({_manifest(one["values"]["manifest"]) for one in cards if one["values"].get("manifest")}),
        "hardware": _in_words(environment()["hardware"]),
        "took": minutes(sum(map(_seconds, notebooks.values())) if seconds is None else seconds),
        "readme": link_to("README.md", folder),
    }
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return write_page(Path(folder) / "index.html", templates.get_template("index.html.j2").render(about))


def thumbnail(png):
    """A picture as a small JPEG on white, as a `data:` address.

    Parameters
    ----------
    png : bytes
        A picture's file.

    Returns
    -------
    address : str
    width, height : int
        In pixels; the width is at most 800.
    """
    with Image.open(BytesIO(png)) as picture:
        picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    small = Image.alpha_composite(white, picture).convert("RGB")
    small.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    small.save(file := BytesIO(), "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}", *small.size


def _card(path, notebook, failed):
    """What the page says of one notebook."""
    title, question, takeaway = heading(notebook)
    values = {name: parameter.default for name, parameter in known_parameters(path).items()}
    values |= notebook.metadata.get("papermill", {}).get("parameters", {})
    errors = [output.ename for cell in notebook.cells for output in cell.get("outputs", []) if "ename" in output]
    broken = path.stem in failed or notebook.metadata.get("papermill", {}).get("exception")
    picture = main_figure(notebook)
    return {
        **{"name": path.stem, "number": path.stem.partition("_")[0], "title": title, "values": values},
        **{"question": _inline(question.replace("**", "")), "takeaway": _inline(takeaway)},
        **{"picture": thumbnail(picture) if picture else None, "took": minutes(_seconds(notebook))},
        **{"failed": (errors or ["stopped before its end"])[-1] if broken else None},
        **{"parameters": {name: _shown(value) for name, value in values.items()}},
        "page": f"{path.stem}.html",
    }


def _missing(name):
    """What the page says of a notebook that left nothing at all."""
    words = {"name": name, "number": name.partition("_")[0], "title": name, "failed": "nothing was written"}
    return words | dict.fromkeys(("question", "takeaway", "took", "page"), "") | {"picture": None, "parameters": {}}


def _manifest(path):
    return f"{Path(path).name} (built in: synthetic scans)" if path == BUILT_IN else Path(path).name


def _seconds(notebook):
    return notebook.metadata.get("papermill", {}).get("duration") or 0


def _inline(text):
    """A paragraph of Markdown as HTML without its links, which would lead away from the page before it is read."""
    return re.sub(r"</?(p|a)\b[^>]*>", "", markdown2html(text)).strip()


def _shown(value):
    """A parameter's value as it is written; of a path on this machine the name alone."""
    return f"'…/{Path(value).name}'" if isinstance(value, str) and Path(value).is_absolute() else repr(value)


def _in_words(hardware):
    """What it ran on, without a name of the machine.

    >>> _in_words({"cpus": 2, "machine": "x86_64", "system": "Linux", "cpu_capability": "AVX2", "gpu": None})
    '2 CPU cores (x86_64, AVX2), no GPU, Linux'
    """
    kind = ", ".join(word for word in (hardware["machine"], hardware["cpu_capability"]) if word != "DEFAULT")
    return f"{hardware['cpus']} CPU cores ({kind}), {hardware['gpu'] or 'no GPU'}, {hardware['system']}"
