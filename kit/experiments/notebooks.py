"""Notebooks as programs and as pages: run with checked parameters, one or all of them; cleaned for git.

A notebook's parameters are the flat literals of its cell tagged `parameters`; relative paths among them start from the
notebook's folder, in which it runs. The comment after a parameter may name its choices, separated by ` | `, each with
an explanation after a colon or in brackets; the default is one of them. `*` at a choice's end stands for anything.

    profile: str = "quick"  # quick | full: minutes on a CPU, or every lesion voxel
    scheme: str = "ratio"  # ratio (G) | border-pairs (G-Pairs)
    device: str = "auto"  # auto | cpu | cuda*: a GPU, such as cuda:1
    mask: str = ""  # a path; empty: none        <- no choices: anything of its type
"""

import copy
import os
import re
import sys
import time
from ast import literal_eval
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbstripout import strip_output
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from kit.experiments.runs import without_places
from kit.scans import nearest, replacing

NOTEBOOK_FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PRIVATE = "private:"  # before the path of what papermill writes: it goes through `_Private`
CELL_S = 48 * 3600  # what a cell may take: one at full scale trains for a day on the thesis' hardware
KINDS = {"bool": bool, "int": int, "float": (float, int), "str": str, "list": list}
CHOICE = re.compile(r"[\w.+-]+( [\w.+-]+)*\*?$")

WIDGET = "application/vnd.jupyter.widget-view+json"
VOLATILE = (
    *("metadata.papermill", "metadata.widgets", "metadata.language_info.version"),
    *("cell.metadata.papermill", "cell.metadata.execution", "cell.metadata.collapsed", "cell.metadata.scrolled"),
)
BAR = re.compile(r"\d%\||\d\w+ \[\d\d:\d\d")  # a progress bar as tqdm writes it to stderr: "7%|", or "12it [00:03"


class NotebookError(ValueError):
    """A notebook that cannot be run as asked, or that failed; the message names it and the remedy."""


class Parameter(NamedTuple):
    """What a notebook says of one of its parameters.

    `kind` is its type as annotated, such as "float" or "list[float]"; `choices` are empty where anything goes.
    """

    kind: str
    default: object
    choices: tuple[str, ...] = ()


def run_notebook(notebook, output, parameters=None, *, timeout_s=CELL_S, progress=False):
    """Run a notebook with the given parameters and write the executed copy.

    Parameters
    ----------
    notebook, output : path
        The output keeps what was computed when a cell fails, with the traceback. It names no folder of the machine or
        its user, see `without_places`, whatever parameters, outputs and tracebacks held.
    parameters : dict, optional
        Name to bool, int, float, str or list; an int may stand for a float.
    timeout_s : int
        The longest that one cell may take.
    progress : bool
        Show a bar of the cells done.

    Returns
    -------
    nbformat.NotebookNode
        As written, with times and parameters in its metadata under `papermill`.

    Raises
    ------
    NotebookError
        Before anything runs, for unknown names, wrong types and values that are not among the choices, all at once and
        with the nearest known word; afterwards, for a cell that fails.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    parameters = _checked(parameters or {}, known_parameters(notebook), notebook.name)
    if output == notebook:
        raise NotebookError(f"{output}: the output would replace the notebook itself; name another file")
    output.parent.mkdir(parents=True, exist_ok=True)
    bar = {"desc": notebook.stem, "file": sys.stdout} if progress else False
    options = {"kernel_name": "python3", "cwd": notebook.parent, "execution_timeout": timeout_s, "progress_bar": bar}
    options["extra_arguments"] = ["--log-level=ERROR"]  # a kernel's remarks on its transport are not the notebook's
    try:
        papermill.execute_notebook(notebook, f"{PRIVATE}{output}", parameters, **options)
        return nbformat.read(output, as_version=4)
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        reason = str(error).strip()
    raise NotebookError(f"{notebook.name} failed: {reason}\n{output} has what it did before, and where it failed.")


def known_parameters(notebook):
    """What a notebook lets one choose, from its cell tagged `parameters`.

    Returns
    -------
    dict
        Name to `Parameter` (kind, default, choices).

    Raises
    ------
    NotebookError
        Where there is no such notebook, or its parameters are no literals.
    """
    if not Path(notebook).is_file():
        there = [path.stem for path in NOTEBOOK_FOLDER.glob("*.ipynb")]
        raise NotebookError(f"{notebook}: no such notebook{nearest(Path(notebook).stem, there)}")
    try:
        return {name: _parameter(about) for name, about in papermill.inspect_notebook(notebook).items()}
    except (ValueError, SyntaxError) as error:
        raise NotebookError(f"{notebook}: its parameters must be literals; derive values in a later cell") from error


def find_notebook(name):
    """The path behind a path, or behind the name of a notebook in `notebooks/`, with or without its ending."""
    path = Path(name).with_suffix(".ipynb")
    return path if path.is_file() else NOTEBOOK_FOLDER / path.name


def parameters_from_text(notebook, pairs):
    """Parameters as a command line gives them, (name, text) pairs, converted to the types of a notebook's parameters.

    A list is written `0.1,0.5` or `[0.1, 0.5]`. What cannot be converted stays text, which `run_notebook` refuses.
    """
    known = known_parameters(notebook)
    return {name: _from_text(text, known[name].kind if name in known else "str") for name, text in pairs}


def run_all(folder, *, jobs=1, timeout_s=CELL_S):
    """Run all numbered notebooks at their defaults, several at a time.

    They share the built-in cohort: where it is made before (`make cohort`), none waits for another.

    Parameters
    ----------
    folder : path
        Where the executed copies go.
    jobs : int
        Notebooks at a time.
    timeout_s : int
        The longest that one cell may take.

    Yields
    ------
    (notebook, seconds, error)
        As each one ends; `error` is None, or why it failed.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    options = {"folder": Path(folder).resolve(), "timeout_s": timeout_s, "threads": threads}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_attempt, notebook, **options): notebook for notebook in numbered_notebooks()}
        for one in as_completed(running):
            yield running[one], *one.result()


def numbered_notebooks():
    """The paths of the project's notebooks in reading order; NotebookError where there are none."""
    found = sorted(NOTEBOOK_FOLDER.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise NotebookError(
            f"{NOTEBOOK_FOLDER}: no notebooks here; install the kit from its repository with `pip install -e .`"
        )
    return found


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


def minutes(seconds):
    """A duration to be read.

    >>> minutes(83.4)
    '1 min 23 s'
    """
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


class _Private:
    """How papermill writes executed notebooks, after every cell and at the end: whole, and without places."""

    @staticmethod
    def pretty_path(path):
        return path.removeprefix(PRIVATE)

    @staticmethod
    def write(text, path):
        notebook = nbformat.reads(text, as_version=4)
        notebook.metadata.get("papermill", {}).pop("output_path", None)
        with replacing(path.removeprefix(PRIVATE)) as part:
            nbformat.write(_without_places(notebook), part)


papermill_io.register(PRIVATE, _Private)


def _without_places(node):
    """A notebook, or a part of one, with every text in it without places; pictures are left as they are."""
    if isinstance(node, dict):
        for name, value in node.items():
            node[name] = value if name.startswith("image/") else _without_places(value)
        return node
    if isinstance(node, list):
        return [_without_places(value) for value in node]
    return without_places(node) if isinstance(node, str) else node


def _parameter(about):
    """A `Parameter` from what papermill found in the cell: its name, type, default and comment."""
    default, kind = literal_eval(about["default"]), about["inferred_type_name"]
    words = [re.split(r":| \(", part)[0].strip() for part in about["help"].split(" | ")]
    listed = len(words) > 1 and all(map(CHOICE.match, words)) and _is_among(default, words)
    return Parameter(type(default).__name__ if kind == "None" else kind, default, tuple(words) if listed else ())


def _is_among(value, choices):
    return any(fnmatchcase(str(value), choice) for choice in choices)


def _checked(parameters, known, notebook):
    """The parameters, ints made floats where those are wanted, or one NotebookError about all that is wrong."""
    problems = [_problem(name, value, known) for name, value in parameters.items()]
    if any(problems):
        raise NotebookError(f"{notebook}: " + "\n".join(filter(None, problems)))
    return {name: float(value) if known[name].kind == "float" else value for name, value in parameters.items()}


def _problem(name, value, known):
    """Why a value cannot be given to a parameter, or None."""
    if name not in known:
        names = ", ".join(known) or "none: it has no cell tagged `parameters`"
        return f"{name!r} is not a parameter{nearest(name, known)}; there are {names}"
    kind, default, choices = known[name]
    if not _fits(value, kind):
        return f"{name} must be {kind}, as its default {default!r}, not {type(value).__name__} {value!r}"
    if choices and not _is_among(value, choices):
        hint = nearest(str(value), [choice.removesuffix("*") for choice in choices])
        return f"{name} is {value!r}{hint}: choose one of {', '.join(choices)}"
    return None


def _fits(value, kind):
    outer, _, inner = kind.partition("[")
    if outer not in KINDS:
        raise NotebookError(f"parameters of kind {kind} are not understood; use one of {', '.join(KINDS)}")
    if not isinstance(value, KINDS[outer]) or (isinstance(value, bool) and outer != "bool"):
        return False
    return not inner or all(_fits(item, inner.removesuffix("]")) for item in value)


def _from_text(text, kind):
    if kind == "str":
        return text
    outer, _, inner = kind.partition("[")
    if outer == "list" and not text.startswith("["):
        return [_from_text(part.strip(), inner.removesuffix("]")) for part in text.split(",")] if text else []
    try:
        return literal_eval(text.title() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text  # of the wrong kind, which run_notebook refuses


def _attempt(notebook, folder, timeout_s, threads):
    """Run one notebook on so many threads; how many seconds it took, and its error as text or None."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # its kernel is a process of its own
    started, error = time.perf_counter(), None
    try:
        run_notebook(notebook, folder / notebook.name, timeout_s=timeout_s)
    except Exception as failed:  # whatever it is, the other notebooks go on and it is reported at the end
        error = str(failed) if isinstance(failed, NotebookError) else f"{notebook.name}: {failed!r}"
    return time.perf_counter() - started, error


def _without_bars(output):
    """An output without progress bars and widgets, or None where nothing else is in it."""
    if WIDGET in output.get("data", {}):  # only a live kernel can show it: a still picture beside it stays
        del output.data[WIDGET]
        return output if set(output.data) - {"text/plain"} else None
    if output.get("name") == "stderr":
        lines = [line for line in re.split(r"[\r\n]+", output.text) if line.strip() and not BAR.search(line)]
        return nbformat.v4.new_output("stream", name="stderr", text="\n".join(lines)) if lines else None
    return output
