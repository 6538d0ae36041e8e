"""The commands of the kit: `python -m kit COMMAND --help` describes each.

run       run one notebook with parameters, and keep the executed copy
demo      run all notebooks and make HTML pages of them
commit    run all notebooks at their defaults and put the cleaned copies in their places
import    make a manifest of a collection of scans as it was downloaded
check     read all files of manifests, and look for leaks within and between them
split     deal the patients of a manifest out to training, validation and test
register  lay the sessions of each patient over the first, and list lesions that later labels lack
phantom   make the files of a manifest's synthetic scans that are missing
record    run experiments at a larger size than a notebook's, for results/
related   fit the related methods and compare them with trained networks, for results/
score     score a folder of probability maps or masks against a manifest's labels
export    write maps and masks, a list of lesions, or a dataset folder of nnU-Net
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import torch

from kit import options as takes
from kit.experiments import (
    ROOT,
    NotebookError,
    check_device,
    clean,
    cut_slices,
    experiment_of,
    find_notebook,
    gather,
    known_parameters,
    minutes,
    numbered_notebooks,
    parameters_from_text,
    record_cohort,
    record_experiment,
    record_related,
    record_weights,
    run_all,
    run_notebook,
    to_html,
    weights_of,
    write_index,
)
from kit.figures import write_report
from kit.metrics import PredictionError, export_lesions, export_maps
from kit.metrics import score as score_maps
from kit.models import Detector
from kit.phantom import make_missing
from kit.scans import (
    ExportError,
    ManifestError,
    export_nnunet,
    find_leaks,
    import_collection,
    lesion_burden,
    missing_lesions,
    new_folder,
    read_manifest,
    register_sessions,
    replacing,
    select,
    split_folds,
    split_patients,
    write_manifest,
    write_table,
)


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
            with replacing(notebook) as part:
                nbformat.write(clean(nbformat.read(folder / notebook.name, as_version=4)), part)
    _refuse(failures)


def import_(given):
    """Make a manifest of a collection of scans as it was downloaded; it goes to standard output."""
    options = {name: getattr(given, name) for name in ("image", "label", "lesion_codes") if getattr(given, name)}
    found = import_collection(given.name, given.folder, **options)
    where = f"its paths start from {given.folder}: save the manifest there, or give that folder as data root"
    print(*found.summary(), where, sep="\n", file=sys.stderr)
    sys.stdout.write(_manifest_text(found.table, found.folder))


def check(given):
    """Read all files of manifests, and look for leaks within and between them."""
    tables, faults = [], []
    for path in given.manifests:
        try:
            tables.append(read_manifest(path, data_root=given.data_root))
            print(f"{path}: {_counts(tables[-1])}")
        except ManifestError as error:
            faults.append(str(error))
    leaks = find_leaks(*tables)
    if len(leaks):
        remedy = (
            "between manifests: keep a patient in one split and a scan once, or say in the column known_leak why not"
        )
        faults.append(f"{leaks.to_string(index=False)}\n{len(leaks)} leaks {remedy}")
    if faults:
        raise ManifestError("\n".join(faults))
    print("every file can be used, and no leak was found")


def split(given):
    """Deal the patients of a manifest out to training, validation and test; the new one goes to standard output."""
    if given.folds and given.fold > given.folds:
        raise ManifestError(f"fold is {given.fold}; there are {given.folds}")
    reading = {"data_root": given.data_root, "check_files": False, "check_leaks": False}
    table = make_missing(read_manifest(given.manifest, **reading))
    burden = lesion_burden(table)
    if given.folds:
        table = split_folds(table, given.folds, seed=given.seed, burden=burden)[given.fold - 1]
    else:
        table = split_patients(table, validation=given.validation, test=given.test, seed=given.seed, burden=burden)
    for name, some in table.join(burden).groupby("split"):
        mean = f"{some.lesions.mean():.1f} lesions of {some.volume_mm3.mean() / 1000:.1f} ml a labelled scan"
        print(f"{name or 'no split'}: {_counts(some)}; {mean}", file=sys.stderr)
    sys.stdout.write(_manifest_text(table, given.data_root or given.manifest.parent))


def register(given):
    """Lay the sessions of each patient over the first, and list lesions that later labels lack; may be stopped."""
    table = make_missing(read_manifest(given.manifest, data_root=given.data_root, check_files=False))
    options = {"workers": given.jobs, "spacing_mm": given.spacing}
    pairs = register_sessions(table, given.output, **options)
    missing = missing_lesions(table, given.output, **options)
    write_table(pairs, given.output / "pairs.csv")
    write_table(missing, given.output / "missing_lesions.csv")
    failed, labelled = (pairs.problem != "").sum(), set(table.scan_id[table.label != ""])
    follow_ups = set(pairs.moving[pairs.problem == ""]) & labelled
    print(f"{len(pairs) - failed} pairs registered, {failed} not; {missing.follow_up.nunique()} of {len(follow_ups)} "
          f"labelled follow-ups lack lesions known from before: {given.output / 'missing_lesions.csv'}")  # fmt: skip


def phantom(given):
    """Make the files of a manifest's synthetic scans that are missing."""
    make_missing(read_manifest(given.manifest, check_files=False))


def record(given):
    """Run experiments at a larger size than a notebook's, one after the other; a stopped one goes on where it was."""
    check_device(given.device)
    for name in given.experiments:
        experiment_of(name, vars(given))  # before hours of work on those before it
    for name, file in given.weights:
        weights_of(name, file)
    if given.threads:
        torch.set_num_threads(given.threads)
    options = {
        name: getattr(given, name) for name in ("labels", "device", "dtype", "seed", "examples", "scheme", "search")
    }
    size = {name: getattr(given, name) for name in ("budget", "epochs", "validation_patches", "scans")}
    size["workers"] = given.jobs
    table = record_cohort(given.runs / "cohort", given.patients, given.cohort_seed)
    for name in given.experiments:
        print(record_experiment(name, table, given.runs, **options, **size).to_string(), flush=True)
        gather(given.runs, given.out)
    for name, file in given.weights:
        options = {"seed": given.seed, "scans": given.scans, "device": given.device}
        print(record_weights(name, file, table, given.runs, **options).to_string(), flush=True)
        gather(given.runs, given.out)
    cut_slices(given.runs, table, given.out, labels=given.labels, seed=given.seed, scans=given.scans)


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


def export(given):
    """Write maps and masks, a list of lesions, or a dataset folder of nnU-Net, to be read by other programs."""
    table = read_manifest(given.manifest, data_root=given.data_root)
    if given.split != "all":
        table = select(table, given.split, follow_ups=True)
    EXPORTS[given.what](table, given)
    print(given.out)


def _export_maps(table, given):
    if bool(given.predictions) == bool(given.weights):
        raise ExportError("maps come from --predictions FOLDER or are made with --weights FILE; give one of the two")
    source, options = given.predictions or Detector.load(given.network, given.weights), {}
    if given.weights:
        options = {"search": given.search, "device": given.device}
    export_maps(source, table, given.out, **_of_mask(given), **options, progress=sys.stderr.isatty())


def _export_lesions(table, given):
    if given.out.exists():
        raise ExportError(f"{given.out}: is there already; name another file, or delete it")
    found = export_lesions(table, given.predictions, **_of_mask(given), progress=sys.stderr.isatty())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_table(found, given.out)


def _export_nnunet(table, given):
    done = export_nnunet(table, given.out, progress=sys.stderr.isatty())
    for row in done[~done.part.isin(["Tr", "Ts"])].itertuples():
        print(f"{row.scan_id} is left out: {row.part}", file=sys.stderr)


def _of_mask(given):
    return {"threshold": given.threshold, "low": given.low, "min_volume_mm3": given.min_volume}


def _manifest_text(table, root):
    """A table as the text of a manifest whose paths start from a folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "manifest.csv")
        write_manifest(table, path, data_root=root)
        return path.read_text(encoding="utf-8")


def _counts(table):
    return f"{len(table)} scans of {table.patient_id.nunique()} patients, {(table.label != '').sum()} labelled"


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
    with new_folder(out, ExportError) as (part, _):
        for name, table in tables.items():
            write_table(table, part / f"{name}.csv")
        write_report(part / "report.html", tables, about)


def _parser():
    about = "`python -m kit COMMAND --help` describes each command."
    parser = argparse.ArgumentParser(prog="python -m kit", description=about)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, add_options, epilog) in COMMANDS.items():
        one = commands.add_parser(name, help=function.__doc__, description=function.__doc__, epilog=epilog)
        one.set_defaults(command=function)
        add_options(one.add_argument)
    return parser


EXPORTS = {"maps": _export_maps, "lesions": _export_lesions, "nnunet": _export_nnunet}
EXPORT_EXAMPLE = "Example: python -m kit export maps cohort.csv maps --weights weights/D.safetensors"
COMMANDS = {
    "run": (
        run,
        takes.run,
        "Example: python -m kit run 05_network_d -o runs/d/05.ipynb -p seed 1 -p profile full",
    ),
    "demo": (demo, takes.demo, None),
    "commit": (commit, takes.commit, None),
    "import": (import_, takes.import_, "Example: python -m kit import brats-mets DATA > DATA/manifest.csv"),
    "check": (check, takes.check, None),
    "split": (split, takes.split, "Example: python -m kit split all.csv --test 0.2 > split.csv"),
    "register": (register, takes.register, None),
    "phantom": (phantom, takes.phantom, None),
    "record": (record, takes.record, "The tables of all finished runs are gathered after each experiment."),
    "related": (related, takes.related, "What was computed before is read from the working folder."),
    "score": (
        score,
        takes.score,
        "Maps are named <scan_id>.nii.gz, on their scan's grid; masks hold 0 and 1.",
    ),
    "export": (export, takes.export, EXPORT_EXAMPLE),
}

if __name__ == "__main__":
    sys.exit(main())
