"""The notebooks themselves: committed as they should be, and run at their quick profile with the numbers they write."""

import ast
import importlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from small_scans import write_cohort

from kit.experiments import (
    NOTEBOOK_FOLDER,
    NotebookError,
    clean,
    cut_slices,
    gather,
    heading,
    read_record,
    record_experiment,
    run_notebook,
)
from kit.metrics import MIN_VOLUMES_MM3, THRESHOLDS

NOTEBOOKS = sorted(path.stem for path in NOTEBOOK_FOLDER.glob("*.ipynb"))
COMMON = ["manifest", "profile", "device", "seed", "run_dir"]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")  # no runs are shared, should two workers execute one notebook
RUNS = NOTEBOOK_FOLDER.parent / "runs" / "test" / WORKER  # in the project, so that a failed notebook can be looked at
NAMES_TAKEN_FROM = ("kit.scans", "kit.phantom")  # all other rooms are taken whole: figures.show_slice says where from
CELL_LINES, DEF_LINES = 12, 5
CELL_S = 900

# all tests of one notebook run in one process, which executes it once
each_notebook = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in NOTEBOOKS])


@dataclass(frozen=True)
class Executed:
    """One run of a notebook: what it shows, what it wrote, and the error it ended with, if any."""

    notebook: nbformat.NotebookNode
    run_dir: Path
    error: NotebookError | None


@pytest.fixture(scope="session")
def execute():
    """`execute(name)`: the notebook run from the start at its quick profile, once a session."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = _run(name)
        return done[name]

    return run


def _run(name):
    output, run_dir, error = RUNS / f"{name}.ipynb", RUNS / name, None
    shutil.rmtree(run_dir, ignore_errors=True)  # a run that is there would be read back instead of made
    try:
        run_notebook(NOTEBOOK_FOLDER / f"{name}.ipynb", output, {"run_dir": str(run_dir)}, timeout_s=CELL_S)
    except NotebookError as failed:
        error = failed
    return Executed(nbformat.read(output, as_version=4), run_dir, error)


def committed(name):
    return nbformat.read(NOTEBOOK_FOLDER / f"{name}.ipynb", as_version=4)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def parameters_cell(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def code_of(notebook):
    """The code cells, parsed."""
    return [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def assert_shows_figures_and_no_trouble(notebook):
    outputs = outputs_of(clean(notebook))
    assert not [output.evalue for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]


@each_notebook
def test_a_notebook_opens_with_a_title_a_question_and_a_takeaway(name):
    first = committed(name).cells[0]
    title, question, takeaway = heading(committed(name))
    assert first.cell_type == "markdown"
    assert title
    assert not title[0].isdigit(), "the number is the file's"
    assert "?" in question
    assert takeaway.endswith(".")
    assert 40 < len(takeaway) < 300, "a sentence or two, to be read in the index of all notebooks"


@each_notebook
def test_a_notebook_has_one_main_figure_and_it_shows_a_picture(name):
    (cell,) = [cell for cell in committed(name).cells if "main-figure" in cell.metadata.get("tags", [])]
    assert [output for output in cell.outputs if "image/png" in output.get("data", {})]


@each_notebook
def test_a_notebook_has_the_common_parameters_first_and_papermill_sees_all(name):
    written = [node.target.id for node in ast.parse(parameters_cell(committed(name)).source).body]  # all annotated
    assert written[: len(COMMON)] == COMMON
    assert list(papermill.inspect_notebook(NOTEBOOK_FOLDER / f"{name}.ipynb")) == written


@each_notebook
def test_a_notebook_has_short_cells_without_classes(name):
    sources = [cell.source for cell in committed(name).cells if cell.cell_type == "code"]
    assert max(len(source.splitlines()) for source in sources) <= CELL_LINES
    nodes = [node for tree in code_of(committed(name)) for node in ast.walk(tree)]
    assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if node.end_lineno - node.lineno + 1 > DEF_LINES]


@each_notebook
def test_the_default_of_a_parameter_is_among_its_documented_choices(name):
    for line in parameters_cell(committed(name)).source.splitlines():
        code, _, comment = line.partition("#")
        choices = [word.strip() for word in comment.partition(":")[0].split("|")]
        if len(choices) > 1:
            assert ast.parse(code.strip()).body[0].value.value in choices, line
    assert "# quick | full" in parameters_cell(committed(name)).source


@each_notebook
def test_every_name_that_a_notebook_takes_from_kit_is_in_a_face(name):
    nodes = [node for tree in code_of(committed(name)) for node in ast.walk(tree)]
    rooms, taken = {}, set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "kit":
            rooms |= {alias.name: importlib.import_module(f"kit.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("kit."):
            assert node.module in NAMES_TAKEN_FROM, f"from kit import {node.module.removeprefix('kit.')}"
            taken |= {(node.module.removeprefix("kit."), alias.name) for alias in node.names}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not stored & set(rooms), "a variable hides a room"
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    taken |= {(node.value.id, node.attr) for node in attributes if node.value.id in rooms}
    assert taken
    faces = {room: importlib.import_module(f"kit.{room}") for room, _ in taken}
    assert sorted(f"{room}.{what}" for room, what in taken if not hasattr(faces[room], what)) == []


@each_notebook
def test_a_notebook_is_committed_executed_and_cleaned(name):
    notebook = committed(name)
    assert notebook.metadata.kernelspec.name == "python3"
    assert_shows_figures_and_no_trouble(notebook)
    path = NOTEBOOK_FOLDER / f"{name}.ipynb"
    assert path.read_text(encoding="utf-8").strip() == nbformat.writes(clean(notebook)).strip(), "make notebooks"


@pytest.mark.notebooks
@each_notebook
def test_a_notebook_runs_from_nothing(execute, name):
    done = execute(name)
    assert done.error is None
    assert_shows_figures_and_no_trouble(done.notebook)


EXPERIMENTS = [name for name in NOTEBOOKS if "_network_" in name]


@pytest.mark.notebooks
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in EXPERIMENTS])
def test_a_quick_training_learns_and_its_evaluation_covers_the_test_lesions(execute, name):
    run_dir = execute(name).run_dir
    history = pd.read_csv(run_dir / "history.csv")
    assert history.voxels_learnt.iloc[-1] > 5_000  # of the 204,800 that 100 steps classify; F visits 6,000 patches
    assert history.validation_accuracy.max() > 0.65  # half would be chance; 71 to 78 % here
    compared = pd.read_csv(run_dir / "sampled.csv", index_col="source")
    assert compared.index.tolist() in (
        ["measured here", "published"],
        ["measured here", "saved trainings", "published"],
    )
    assert compared.lesions[["measured here", "published"]].tolist() == [15, 122]
    assert compared.dice_healthy["measured here"] > 0.98


def test_every_experiment_of_the_thesis_has_its_notebook():
    assert [f"{number:02d}_network_{letter}" for number, letter in enumerate("abcdefgh", start=2)] == EXPERIMENTS


@pytest.mark.notebooks
@pytest.mark.xdist_group("13_label_noise")
def test_label_noise_is_measured_against_the_clean_truth(execute):
    run_dir = execute("13_label_noise").run_dir
    assert len(pd.read_csv(run_dir / "sampled.csv")) == 6  # three schemes, two kinds of labels
    faults = pd.read_csv(run_dir / "labels" / "faults.csv").fault
    assert (faults != "none").mean() > 0.3


@pytest.mark.notebooks
@pytest.mark.xdist_group("15_comparison")
def test_the_comparison_shows_what_is_published_and_what_is_recorded(execute):
    run_dir = execute("15_comparison").run_dir
    assert len(pd.read_csv(run_dir / "published.csv")) == 11
    recorded = set(read_record(NOTEBOOK_FOLDER.parent / "results" / "record").names())
    assert set(pd.read_csv(run_dir / "table_5_5.csv").experiment) == recorded
    assert set(pd.read_csv(run_dir / "whole_scans.csv").experiment) == recorded


@pytest.mark.notebooks
@pytest.mark.xdist_group("15_comparison")
def test_the_comparison_without_a_record_shows_what_is_published(tmp_path):
    given = {"run_dir": str(tmp_path / "15"), "record": ""}
    run_notebook(NOTEBOOK_FOLDER / "15_comparison.ipynb", tmp_path / "15.ipynb", given, timeout_s=CELL_S)
    assert len(pd.read_csv(tmp_path / "15" / "published.csv")) == 11
    assert not (tmp_path / "15" / "table_5_5.csv").exists()


@pytest.mark.notebooks
@pytest.mark.xdist_group("15_comparison")
@pytest.mark.filterwarnings("ignore:no brain is found")  # these heads hold none
def test_the_comparison_with_a_record_tests_what_changed(tmp_path):
    table = write_cohort(tmp_path, (1, 2, 3, 4, 5))
    table = table.assign(patient_id=list("pqrst"), session=1, split=["train", "train", "validation", "test", "test"])
    size = {"examples": "patches", "budget": 128, "epochs": 2, "validation_patches": 32, "intensities": "scan"}
    for name in ("A", "B"):
        record_experiment(name, table, tmp_path / "runs", device="cpu", progress=False, **size)
    gather(tmp_path / "runs", tmp_path / "record")
    cut_slices(tmp_path / "runs", table, tmp_path / "record")
    given = {"run_dir": str(tmp_path / "15"), "record": str(tmp_path / "record")}
    run_notebook(NOTEBOOK_FOLDER / "15_comparison.ipynb", tmp_path / "15.ipynb", given, timeout_s=CELL_S)
    assert pd.read_csv(tmp_path / "15" / "table_5_5.csv").experiment.tolist() == ["A", "B"]
    for file in ("changes", "whole_scan_changes"):
        assert pd.read_csv(tmp_path / "15" / f"{file}.csv").change.unique().tolist() == ["A → B"]
    assert len(outputs_of(nbformat.read(tmp_path / "15.ipynb", as_version=4))) >= 10


@pytest.mark.notebooks
@pytest.mark.xdist_group("10_fcn_conversion")
def test_the_dense_form_is_exact_and_an_order_faster(execute):
    run_dir = execute("10_fcn_conversion").run_dir
    assert (pd.read_csv(run_dir / "exactness.csv").largest_difference < 1e-5).all()
    rates = pd.read_csv(run_dir / "timing.csv").set_index("form").voxels_per_s
    assert rates["dense"] > 10 * rates["patch by patch"]


@pytest.mark.notebooks
@pytest.mark.xdist_group("11_final_evaluation")
def test_the_final_evaluation_repeats_what_is_on_record(execute):
    columns = ["scan_id", "threshold", "min_volume_mm3", "tp", "fn", "fp"]
    here = pd.read_csv(execute("11_final_evaluation").run_dir / "sweep.csv")[columns]
    record = pd.read_csv(NOTEBOOK_FOLDER.parent / "results" / "D" / "sweep.csv")[columns]
    both = here.merge(record, on=columns[:3], suffixes=("", "_record"))
    assert len(both) == len(here) == len(THRESHOLDS) * len(MIN_VOLUMES_MM3)
    assert (both.tp + both.fn == both.tp_record + both.fn_record).all()
    assert ((both.fp - both.fp_record).abs() <= 2 + 0.05 * both.fp_record).all()  # float sums differ by machine


@pytest.mark.notebooks
@pytest.mark.xdist_group("12_related_methods")
def test_the_related_methods_stand_beside_what_was_published_and_find_lesions_here(execute):
    run_dir = execute("12_related_methods").run_dir
    sources = pd.read_csv(run_dir / "table_2_1.csv").source.value_counts()
    assert sources.to_dict() == {"published": 4, "measured": 4}
    here = pd.read_csv(run_dir / "measured_here.csv")
    assert (here.tp + here.fn == 7).all()
    assert here.tp.between(2, 4).all()
    assert (here.fp <= 10).all()
