"""The commands of the kit: `python -m kit COMMAND --help` describes each.

run       run one notebook with parameters, and keep the executed copy
demo      run all notebooks and make HTML pages of them
commit    run all notebooks at their defaults and put the cleaned copies in their places
phantom   make the files of a manifest's synthetic scans that are missing
record    run experiments at a larger size than a notebook's, for results/
related   fit the related methods and compare them with trained networks, for results/
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
    EXAMPLES,
    EXPERIMENTS,
    FAULTS,
    ROOT,
    NotebookError,
    check_device,
    clean,
    find_notebook,
    gather,
    known_parameters,
    minutes,
    numbered_notebooks,
    parameters_from_text,
    record_cohort,
    record_experiment,
    record_related,
    run_all,
    run_notebook,
    to_html,
    write_index,
)
from kit.figures import write_report
from kit.metrics import RULES, PredictionError
from kit.metrics import score as score_maps
from kit.phantom import make_missing
from kit.samplers import SCHEMES
from kit.scans import SEARCHES, read_manifest, select, write_table

TRAINING_S, QUICK_S = 48 * 3600, 1800  # what a cell may take: at full scale, or at quick


def main(arguments=None):
    """Run a command; returns the exit code: 0, or 2 where something given cannot be used or a notebook failed."""
    given = _parser().parse_args(arguments)
    try:
        given.command(given)
    except (ValueError, OSError) as error:  # every error of the kit is a ValueError
        print(error, file=sys.stderr)
        return 2
    return 0


def run(given):
    """Run one notebook with parameters, and keep the executed copy."""
    notebook = find_notebook(given.notebook)
    parameters = parameters_from_text(notebook, given.parameters)
    run_notebook(notebook, given.output, parameters, timeout_s=given.timeout, progress=True)
    print(given.output)


def demo(given):
    """Run all notebooks and make HTML pages of them; failures are reported at the end."""
    started, failures = time.perf_counter(), {}
    for notebook, error in _reported(run_all(given.out, jobs=given.jobs, timeout_s=given.timeout)):
        output = Path(given.out, notebook.name)
        if output.exists():
            to_html(nbformat.read(output, as_version=4), output.with_suffix(".html"))
        failures |= {notebook.stem: error} if error else {}
    took = time.perf_counter() - started
    print(f"{write_index(given.out, seconds=took, failed=failures).resolve()}\n{minutes(took)} in all")
    _refuse(failures.values())


def commit(given):
    """Run all notebooks at their defaults and put the executed, cleaned copies in their places."""
    for notebook in numbered_notebooks():
        run_dir = notebook.parent / known_parameters(notebook)["run_dir"].default
        if run_dir.exists():
            print(f"{notebook.stem} reads what is in {run_dir.resolve()}; delete that to have it made anew")
    folder, failures = ROOT / "runs" / "commit", []
    for notebook, error in _reported(run_all(folder, jobs=given.jobs, timeout_s=given.timeout)):
        if error:
            failures.append(error)
        else:
            nbformat.write(clean(nbformat.read(folder / notebook.name, as_version=4)), notebook)
    _refuse(failures)


def phantom(given):
    """Make the files of a manifest's synthetic scans that are missing."""
    make_missing(read_manifest(given.manifest, check_files=False))


def record(given):
    """Run experiments at a larger size than a notebook's, one after the other; a stopped one goes on where it was."""
    check_device(given.device)
    if given.threads:
        torch.set_num_threads(given.threads)
    options = {
        name: getattr(given, name) for name in ("labels", "device", "dtype", "seed", "examples", "scheme", "search")
    }
    size = {name: getattr(given, name) for name in ("budget", "epochs", "validation_patches")}
    table = record_cohort(given.runs / "cohort", given.patients, given.cohort_seed)
    for name in given.experiments:
        print(record_experiment(name, table, given.runs, **options, **size).to_string(), flush=True)
        gather(given.runs, given.out)


def related(given):
    """Fit the related methods on training and validation scans and compare them with networks on test scans."""
    check_device(given.device)
    if given.threads:
        torch.set_num_threads(given.threads)
    follow_ups = read_manifest(given.follow_ups) if given.follow_ups else None
    options = {"scans": given.scans, "fit_scans": given.fit_scans, "device": given.device}
    networks = {"networks": dict(given.network), "maps": dict(given.maps), "unet": given.unet, "follow_ups": follow_ups}
    record_related(read_manifest(given.manifest), given.work, given.out, **networks, **options)
    print(given.out)


def score(given):
    """Score a folder of probability maps or masks against a manifest's labels: tables and an HTML page."""
    out = given.output or Path("runs", "scores", given.predictions.resolve().name)
    if out.exists() and any(out.iterdir()):
        raise PredictionError(out, ["has files already; name another folder by -o, or delete it"])
    table = read_manifest(given.manifest, data_root=given.data_root)
    table = table[table.label != ""] if given.split == "all" else select(table, given.split)
    settings = {"threshold": given.threshold, "low": given.low, "rule": given.rule, "min_volume_mm3": given.min_volume}
    workers = {"workers": given.jobs, "progress": sys.stderr.isatty()}
    tables = vars(score_maps(given.predictions, table, **settings, **workers))
    about = {"predictions": given.predictions.name, "manifest": given.manifest.name, **settings}
    _write_scores(tables, out, about)
    print(out / "report.html")


def _reported(runs):
    """Say how long each notebook took as it ends; yields (notebook, error)."""
    for notebook, seconds, error in runs:
        print(f"{notebook.stem} {'failed after' if error else 'done in'} {minutes(seconds)}", flush=True)
        yield notebook, error


def _refuse(failures):
    if failures:
        raise NotebookError("\n".join(failures))


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


def _parser():
    about = "`python -m kit COMMAND --help` describes each command."
    parser = argparse.ArgumentParser(prog="python -m kit", description=about)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, add_options, epilog) in COMMANDS.items():
        one = commands.add_parser(name, help=function.__doc__, description=function.__doc__, epilog=epilog)
        one.set_defaults(command=function)
        add_options(one.add_argument)
    return parser


def _run_options(add):
    add("notebook", help="a path, or the name of one in notebooks/")
    add("-o", "--output", required=True, help="where the executed notebook goes")
    value = "one of its parameters, as often as needed; lists as 0.1,0.5; relative paths start from the notebook"
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    add("--timeout", type=_count, default=TRAINING_S, help="seconds a cell may take (%(default)s)")


def _commit_options(add):
    add("--jobs", type=_count, default=min(4, os.cpu_count() or 1), help="notebooks at a time (%(default)s)")
    add("--timeout", type=_count, default=QUICK_S, help="seconds a cell may take (%(default)s)")


def _demo_options(add):
    _commit_options(add)
    add("--out", default="runs/demo", help="folder of the pages (%(default)s)")


def _phantom_options(add):
    add("manifest", type=Path, help="such as data_manifest.csv")


def _record_options(add):
    add("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS, metavar="NAME",
        help=f"of {', '.join(EXPERIMENTS)} (all)")  # fmt: skip
    add("--labels", default="clean", choices=FAULTS, help="faults of the training labels (%(default)s)")
    add("--patients", type=_count, default=96, help="of the cohort, 7 in 12 for training (%(default)s)")
    add("--cohort-seed", type=int, default=2016, help="the built-in cohort has 2015 (%(default)s)")
    add("--examples", default="segments", choices=EXAMPLES, help="what is learnt from (%(default)s)")
    add("--budget", type=_count, default=5000, help="steps on segments, or patches to visit in all (%(default)s)")
    add("--epochs", type=_count, default=20, help="over which they are spread (%(default)s)")
    add("--scheme", default="", help=f"of sampling: {', '.join(SCHEMES)} (each experiment's own)")
    add("--search", default="head", choices=SEARCHES, help="region of healthy voxels (%(default)s)")
    add("--validation-patches", type=_count, default=4000, help="classified after each epoch (%(default)s)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="of training (%(default)s)")
    add("--device", default="auto", help="auto, cpu or cuda; auto takes a GPU where there is one (%(default)s)")
    add("--threads", type=_count, help="of the CPU (torch's choice)")
    add("--seed", type=int, default=2015, help="of weights, draws and faults (%(default)s)")
    add("--runs", type=Path, default=ROOT / "runs" / "record", help="working folder (runs/record of the repository)")
    add("--out", type=Path, default=ROOT / "results" / "record", help="of the tables (results/record, there too)")


def _related_options(add):
    add("manifest", type=Path, help="of a cohort with training, validation and test scans")
    add("--network", nargs=2, action="append", default=[], metavar=("NAME", "WEIGHTS"), help="a trained network (none)")
    add(
        "--maps",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FOLDER"),
        help="its maps of whole heads, read in place of making them (none)",
    )
    add("--unet", type=Path, metavar="RUN", help="folder of a run of kit.experiments.train_unet (none)")
    add("--follow-ups", type=Path, metavar="MANIFEST", help="with second sessions, for the change between (none)")
    add("--scans", type=_count, default=12, help="of the test scans, the first ones (%(default)s)")
    add("--fit-scans", type=_count, default=16, help="of each split, to fit on (%(default)s)")
    add("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    add("--threads", type=_count, help="of the CPU (torch's choice)")
    add("--work", type=Path, default=ROOT / "runs" / "related", help="working folder (runs/related of the repository)")
    add("--out", type=Path, default=ROOT / "results" / "related", help="of the tables (results/related, there too)")


def _score_options(add):
    add("predictions", type=Path, help="folder with one map a scan")
    add("manifest", type=Path, help="table of the scans and their labels")
    add("-o", "--output", type=Path, help="new folder for tables and report.html (runs/scores/NAME)")
    add("--split", default="test", help="train, validation or test: first sessions; all: every label (%(default)s)")
    add("--rule", default="thesis", choices=list(RULES), help="how findings are matched (%(default)s)")
    add("--threshold", type=_share, default=0.5, help="upper threshold of hysteresis (%(default)s)")
    add("--low", type=_share, default=0.2, help="lower threshold of hysteresis (%(default)s)")
    add("--min-volume", type=float, default=0.0, help="mm3 that a finding needs at least (%(default)s)")
    add("--jobs", type=_count, default=1, help="processes that score (%(default)s)")
    add("--data-root", type=Path, help="folder that the manifest's paths start from (the manifest's own)")


def _count(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _share(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0 and at most 1")
    return value


COMMANDS = {
    "run": (run, _run_options, "Example: python -m kit run 05_network_d -o runs/d/05.ipynb -p seed 1 -p profile full"),
    "demo": (demo, _demo_options, None),
    "commit": (commit, _commit_options, None),
    "phantom": (phantom, _phantom_options, None),
    "record": (record, _record_options, "The tables of all finished runs are gathered after each experiment."),
    "related": (related, _related_options, "What was computed before is read from the working folder."),
    "score": (score, _score_options, "Maps are named <scan_id>.nii.gz, on their scan's grid; masks hold 0 and 1."),
}

if __name__ == "__main__":
    sys.exit(main())
