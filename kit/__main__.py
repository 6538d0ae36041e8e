"""The commands of the kit: `python -m kit COMMAND --help` describes each.

run       run one notebook with parameters, and keep the executed copy
demo      run all notebooks and make HTML pages of them
commit    run all notebooks at their defaults and put the cleaned copies in their places
phantom   make the files of a manifest's synthetic scans that are missing
record    run experiments at a larger size than a notebook's, for results/
score     score a folder of probability maps or masks against a manifest's labels
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
import torch

from kit.experiments import (
    EXPERIMENTS,
    FAULTS,
    ROOT,
    NotebookError,
    clean,
    find_notebook,
    gather,
    index,
    known_parameters,
    minutes,
    numbered_notebooks,
    parameters_from_text,
    record_cohort,
    record_experiment,
    run_all,
    run_notebook,
    to_html,
)
from kit.figures import write_report
from kit.metrics import RULES, PredictionError
from kit.metrics import score as score_maps
from kit.phantom import make_missing
from kit.scans import read_manifest, select, write_table

TRAINING_S, QUICK_S = 48 * 3600, 1800  # what a cell may take: at full scale, or at quick


def run(given):
    """Run one notebook with parameters, and keep the executed copy."""
    notebook = find_notebook(given.notebook)
    parameters = parameters_from_text(notebook, given.parameters)
    run_notebook(notebook, given.output, parameters, timeout_s=given.timeout, progress=True)
    print(given.output)


def demo(given):
    """Run all notebooks and make HTML pages of them; a failed one is reported at the end."""
    started, failures = time.perf_counter(), []
    for notebook, error in _reported(run_all(given.out, jobs=given.jobs, timeout_s=given.timeout)):
        output = Path(given.out, notebook.name)
        if output.exists():
            to_html(nbformat.read(output, as_version=4), output.with_suffix(".html"))
        failures += [error] if error else []
    print(f"{index(given.out).resolve()}\n{minutes(time.perf_counter() - started)} in all")
    if failures:
        raise NotebookError("\n".join(failures))


def commit(given):
    """Run all notebooks at their defaults and put the executed, cleaned copies in their places."""
    for notebook in numbered_notebooks():
        run_dir = notebook.parent / known_parameters(notebook)["run_dir"][1]
        if run_dir.exists():
            print(f"{notebook.stem} reads what is in {run_dir.resolve()}; delete that to have it made anew")
    folder, failures = ROOT / "runs" / "commit", []
    for notebook, error in _reported(run_all(folder, jobs=given.jobs, timeout_s=given.timeout)):
        if error:
            failures.append(error)
        else:
            nbformat.write(clean(nbformat.read(folder / notebook.name, as_version=4)), notebook)
    if failures:
        raise NotebookError("\n".join(failures))


def phantom(given):
    """Make the files of a manifest's synthetic scans that are missing."""
    make_missing(read_manifest(given.manifest, check_files=False))


def make_record(given):
    """Run experiments at a larger size than a notebook's, one after the other; stopped, it goes on where it was."""
    size = dict(vars(given))
    names, runs, out, threads = (size.pop(name) for name in ("experiments", "runs", "out", "threads"))
    patients, cohort_seed = size.pop("patients"), size.pop("cohort_seed")
    size.pop("command")
    if threads:
        torch.set_num_threads(threads)
    table = record_cohort(Path(runs) / "cohort", patients, cohort_seed)
    for name in names:
        print(record_experiment(name, table, runs, **size).to_string(), flush=True)
        gather(runs, out)


def score(given):
    """Score a folder of probability maps or masks against a manifest's labels: tables and an HTML page."""
    out = given.output or Path("runs", "scores", given.predictions.resolve().name)
    if out.exists() and any(out.iterdir()):
        raise PredictionError(out, ["has files already; name another folder by -o, or delete it"])
    table = read_manifest(given.manifest, data_root=given.data_root)
    table = table[table.label != ""] if given.split == "all" else select(table, given.split)
    asked = {"threshold": given.threshold, "low": given.low, "rule": given.rule, "min_volume_mm3": given.min_volume}
    workers = {"workers": given.jobs, "progress": sys.stderr.isatty()}
    tables = vars(score_maps(given.predictions, table, **asked, **workers))
    about = {"predictions": given.predictions.name, "manifest": given.manifest.name, **asked}
    _write_scores(tables, out, about)
    print(out / "report.html")


def _reported(runs):
    """Say how long each notebook took as it ends; yields (notebook, error)."""
    for notebook, seconds, error in runs:
        print(f"{notebook.stem} {'failed after' if error else 'done in'} {minutes(seconds)}", flush=True)
        yield notebook, error


def _write_scores(tables, out, about):
    """Tables and report in a folder that appears whole or not at all."""
    part = out.with_name(f".{os.getpid()}-{out.name}")
    part.mkdir(parents=True)
    try:
        for name, table in tables.items():
            write_table(table, part / f"{name}.csv")
        write_report(part / "report.html", tables, about)
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _share(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _parser():
    parser = argparse.ArgumentParser(prog="python -m kit", description="The commands of the kit.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, function, **options):
        told = function.__doc__
        one = commands.add_parser(name, help=told, description=told, **options)
        one.set_defaults(command=function)
        return one

    one = add("run", run)
    one.add_argument("notebook", help="a path, or the name of one in notebooks/")
    one.add_argument("-o", "--output", required=True, help="where the executed notebook goes")
    one.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    one.add_argument("--timeout", type=int, default=TRAINING_S, help="seconds a cell may take (%(default)s)")

    for name, function in (("demo", demo), ("commit", commit)):
        one = add(name, function)
        one.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="at a time (%(default)s)")
        one.add_argument("--timeout", type=int, default=QUICK_S, help="seconds a cell may take (%(default)s)")
        if name == "demo":
            one.add_argument("--out", default="runs/demo", help="folder of the pages (%(default)s)")

    one = add("phantom", phantom)
    one.add_argument("manifest", type=Path, help="such as data_manifest.csv")

    _add_record(add("record", make_record))
    _add_score(add("score", score, epilog="Maps are named <scan_id>.nii.gz, on their scan's grid; masks hold 0 and 1."))
    return parser


def _add_record(one):
    one.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS, metavar="NAME")
    one.add_argument("--labels", default="clean", choices=FAULTS, help="faults of training labels (%(default)s)")
    one.add_argument("--patients", type=int, default=96, help="of the cohort, 7 in 12 for training (%(default)s)")
    one.add_argument("--cohort-seed", type=int, default=2016, help="the built-in cohort has 2015 (%(default)s)")
    one.add_argument("--patches", type=int, default=96_000, help="to visit in all, each network (%(default)s)")
    one.add_argument("--epochs", type=int, default=12)
    one.add_argument("--validation-patches", type=int, default=4000)
    one.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    one.add_argument("--device", default="auto")
    one.add_argument("--threads", type=int, default=0, help="of the CPU; 0: torch's choice")
    one.add_argument("--seed", type=int, default=2015)
    one.add_argument("--runs", default=ROOT / "runs" / "record", help="working folder")
    one.add_argument("--out", default=ROOT / "results" / "record", help="where the tables go")


def _add_score(one):
    one.add_argument("predictions", type=Path, help="folder with one map a scan")
    one.add_argument("manifest", type=Path, help="table of the scans and their labels")
    one.add_argument("-o", "--output", type=Path, help="new folder for tables and report.html (runs/scores/NAME)")
    splits = "train, validation or test: first sessions; all: every label (%(default)s)"
    one.add_argument("--split", default="test", help=splits)
    one.add_argument("--rule", default="thesis", choices=list(RULES), help="how findings are matched (%(default)s)")
    one.add_argument("--threshold", type=_share, default=0.5, help="upper threshold of hysteresis (%(default)s)")
    one.add_argument("--low", type=_share, default=0.2, help="lower threshold of hysteresis (%(default)s)")
    one.add_argument("--min-volume", type=float, default=0.0, help="mm3 that a finding needs at least (%(default)s)")
    one.add_argument("--jobs", type=int, default=1, help="processes that score (%(default)s)")
    one.add_argument("--data-root", type=Path, help="folder that the manifest's paths start from")


def main(arguments=None):
    """Run a command; returns the exit code: 0, or 2 where something given cannot be used or a notebook failed."""
    given = _parser().parse_args(arguments)
    try:
        given.command(given)
    except (ValueError, OSError) as error:  # every error of the kit is a ValueError
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
