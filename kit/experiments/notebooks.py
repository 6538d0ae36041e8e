"""Notebooks as programs: one run with checked parameters, or all of them.

A notebook's parameters are the flat literals of its cell tagged `parameters`; relative paths among them start from the
notebook's folder, in which it runs.
"""

import os
import sys
import time
from ast import literal_eval
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from kit.scans import nearest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
CELL_S = 48 * 3600  # what a cell may take: one at full scale trains for a day on the thesis' hardware
KINDS = {"bool": bool, "int": int, "float": (float, int), "str": str, "list": list}


class NotebookError(ValueError):
    """A notebook that cannot be run as asked, or that failed; the message names it and the remedy."""


def run_notebook(notebook, output, parameters=None, *, timeout_s=CELL_S, progress=False):
    """Run a notebook with the given parameters and write the executed copy.

    Parameters
    ----------
    notebook, output : path
        The output keeps what was computed when a cell fails, with the traceback.
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
        Before anything runs, for unknown names (with the nearest known one) and wrong types, all at once; afterwards,
        for a cell that fails.
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
        return papermill.execute_notebook(notebook, output, parameters, **options)
    except PapermillExecutionError as error:
        told = f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        told = str(error).strip()
    raise NotebookError(f"{notebook.name} failed: {told}\n{output} has what it did before, and where it failed.")


def known_parameters(notebook):
    """What a notebook lets one choose, from its cell tagged `parameters`.

    Returns
    -------
    dict
        Name to (kind, default), the kind as annotated, such as "float" or "list[float]".
    """
    if not Path(notebook).is_file():
        there = [path.stem for path in FOLDER.glob("*.ipynb")]
        raise NotebookError(f"{notebook}: no such notebook{nearest(Path(notebook).stem, there)}")
    told = papermill.inspect_notebook(notebook)
    try:
        defaults = {name: literal_eval(about["default"]) for name, about in told.items()}
    except (ValueError, SyntaxError) as error:
        raise NotebookError(f"{notebook}: its parameters must be literals; derive values in a later cell") from error
    kinds = {name: about["inferred_type_name"] for name, about in told.items()}
    kinds |= {name: type(defaults[name]).__name__ for name, kind in kinds.items() if kind == "None"}
    return {name: (kinds[name], defaults[name]) for name in told}


def find_notebook(name):
    """The path behind a path, or behind the name of a notebook in `notebooks/`, with or without its ending."""
    path = Path(name).with_suffix(".ipynb")
    return path if path.is_file() else FOLDER / path.name


def parameters_from_text(notebook, pairs):
    """Parameters as a command line gives them, (name, text) pairs, brought to the types that a notebook asks for.

    What cannot be brought to its type stays text, which `run_notebook` refuses.
    """
    known = known_parameters(notebook)
    return {name: _from_text(text, known.get(name, ("str",))[0]) for name, text in pairs}


def run_all(folder, *, jobs=1, timeout_s=CELL_S):
    """Run all numbered notebooks at their defaults, several at a time.

    The first one runs alone: it makes the built-in cohort, which the others share.

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
    first, *others = numbered_notebooks()
    options = {"folder": Path(folder).resolve(), "timeout_s": timeout_s}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield first, *pool.submit(_attempt, first, threads=os.cpu_count(), **options).result()
        threads = max(1, (os.cpu_count() or 1) // jobs)
        running = {pool.submit(_attempt, notebook, threads=threads, **options): notebook for notebook in others}
        for one in as_completed(running):
            yield running[one], *one.result()


def numbered_notebooks():
    """The paths of the project's notebooks in reading order; NotebookError where there are none."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise NotebookError(f"{FOLDER}: no notebooks here; install the kit from its repository with `pip install -e .`")
    return found


def _checked(parameters, known, notebook):
    """The parameters, ints made floats where those are wanted, or one NotebookError about all that is wrong."""
    problems = []
    for name, value in parameters.items():
        kind, default = known.get(name, (None, None))
        if kind is None:
            names = ", ".join(known) or "none: it has no cell tagged `parameters`"
            problems.append(f"{name!r} is not a parameter{nearest(name, known)}; there are {names}")
        elif not _fits(value, kind):
            problems.append(f"{name} must be {kind}, as its default {default!r}, not {type(value).__name__} {value!r}")
    if problems:
        raise NotebookError(f"{notebook}: " + "\n".join(problems))
    return {name: float(value) if known[name][0] == "float" else value for name, value in parameters.items()}


def _fits(value, kind):
    outer, _, inner = kind.partition("[")
    if outer not in KINDS:
        raise NotebookError(f"parameters of kind {kind} are not understood; use one of {', '.join(KINDS)}")
    if not isinstance(value, KINDS[outer]) or (isinstance(value, bool) and outer != "bool"):
        return False
    return not inner or all(_fits(item, inner.removesuffix("]")) for item in value)


def _attempt(notebook, folder, timeout_s, threads):
    """Run one notebook on so many threads; how many seconds it took, and its error as text or None."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # its kernel is a process of its own
    started, error = time.perf_counter(), None
    try:
        run_notebook(notebook, folder / notebook.name, timeout_s=timeout_s)
    except Exception as failed:  # whatever it is, the other notebooks go on and it is reported at the end
        error = str(failed) if isinstance(failed, NotebookError) else f"{notebook.name}: {failed!r}"
    return time.perf_counter() - started, error


def _from_text(text, kind):
    if kind == "str":
        return text
    try:
        return literal_eval(text.title() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text  # of the wrong kind, which run_notebook tells
