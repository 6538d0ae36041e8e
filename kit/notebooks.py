"""Notebooks as programs: run with checked parameters, one by one, all for a demonstration, or all for git.

    python -m kit.notebooks run 02_network_a -o runs/seed7.ipynb -p seed 7 -p profile full
    python -m kit.notebooks demo --out runs/demo
    python -m kit.notebooks commit

A notebook's parameters are the flat literals of its cell tagged `parameters`; relative paths among them start from the
notebook's folder, in which it runs. The functions here print nothing; only the commands do.
"""

import argparse
import os
import sys
import time
from ast import literal_eval
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from kit.manifestfile import nearest
from kit.pages import clean, index, minutes, to_html

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
CELL_S, DEMO_S = 48 * 3600, 1800  # what a cell may take: one at full scale trains for a day on the thesis' hardware
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


def _run_command(told):
    """Run one notebook with parameters, and keep the executed copy."""
    path = Path(told.notebook).with_suffix(".ipynb")
    notebook = path if path.is_file() else FOLDER / path.name
    known = known_parameters(notebook)
    parameters = {name: _from_text(text, known.get(name, ("str",))[0]) for name, text in told.parameters}
    run_notebook(notebook, told.output, parameters, timeout_s=told.timeout, progress=True)
    print(told.output)


def _demo_command(told):
    """Run all numbered notebooks and make pages of them; a failed one is reported at the end."""
    started, failures = time.perf_counter(), []
    for notebook, error in _run_all(told, told.out):
        output = Path(told.out, notebook.name)
        if output.exists():
            to_html(nbformat.read(output, as_version=4), output.with_suffix(".html"))
        failures += [error] if error else []
    print(f"{index(told.out).resolve()}\n{minutes(time.perf_counter() - started)} in all")
    if failures:
        raise NotebookError("\n".join(failures))


def _commit_command(told):
    """Run all numbered notebooks at their defaults and put the executed, cleaned copies in their places."""
    for notebook in _numbered():
        run_dir = FOLDER / known_parameters(notebook)["run_dir"][1]
        if run_dir.exists():
            print(f"{notebook.stem} reads back what is in {run_dir.resolve()}; delete that to have it made anew")
    failures = []
    for notebook, error in _run_all(told, "runs/commit"):
        if error:
            failures.append(error)
        else:
            nbformat.write(clean(nbformat.read(Path("runs/commit", notebook.name), as_version=4)), notebook)
    if failures:
        raise NotebookError("\n".join(failures))


def _run_all(told, folder):
    """Run all numbered notebooks, several at a time; yields (notebook, error or None) as each one ends.

    The first one runs alone: it makes the built-in cohort, which the others share.
    """
    first, *others = _numbered()
    options = {"folder": Path(folder).resolve(), "timeout_s": told.timeout}
    with ProcessPoolExecutor(told.jobs, mp_context=get_context("spawn")) as pool:
        yield first, pool.submit(_attempt, first, threads=os.cpu_count(), **options).result()
        threads = max(1, (os.cpu_count() or 1) // told.jobs)
        running = {pool.submit(_attempt, notebook, threads=threads, **options): notebook for notebook in others}
        for one in as_completed(running):
            yield running[one], one.result()


def _attempt(notebook, folder, timeout_s, threads):
    """Run one notebook on so many threads, say how long it took, and return its error as text, if there is one."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # its kernel is a process of its own
    started, error = time.perf_counter(), None
    try:
        run_notebook(notebook, folder / notebook.name, timeout_s=timeout_s)
    except Exception as failed:  # whatever it is, the other notebooks go on and it is told at the end
        error = str(failed) if isinstance(failed, NotebookError) else f"{notebook.name}: {failed!r}"
    how = "failed after" if error else "done in"
    print(f"{notebook.stem} {how} {minutes(time.perf_counter() - started)}", flush=True)
    return error


def _numbered():
    found = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise NotebookError(f"{FOLDER}: no notebooks here; install the kit from its repository with `pip install -e .`")
    return found


def _from_text(text, kind):
    if kind == "str":
        return text
    try:
        return literal_eval(text.title() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text  # of the wrong kind, which run_notebook tells


def _parser():
    parser = argparse.ArgumentParser(prog="python -m kit.notebooks", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="run | demo | commit")
    run = commands.add_parser("run", help=_run_command.__doc__)
    run.add_argument("notebook", help="a path, or the name of one in notebooks/")
    run.add_argument("-o", "--output", required=True, help="where the executed notebook goes")
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    demo = commands.add_parser("demo", help=_demo_command.__doc__)
    demo.add_argument("--out", default="runs/demo")
    commit = commands.add_parser("commit", help=_commit_command.__doc__)
    for one in (demo, commit):
        one.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="at a time (%(default)s)")
    limits = {run: CELL_S, demo: DEMO_S, commit: DEMO_S}
    for one, command in ((run, _run_command), (demo, _demo_command), (commit, _commit_command)):
        one.add_argument("--timeout", type=int, default=limits[one], help="seconds a cell may take (%(default)s)")
        one.set_defaults(command=command)
    return parser


def main(arguments=None):
    """The commands; returns the exit code."""
    told = _parser().parse_args(arguments)
    try:
        told.command(told)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
