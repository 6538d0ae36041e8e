"""Notebooks are refused before they run or run as asked, and what is left of two runs is the same bytes."""

import re
import subprocess
import sys

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import kit
from kit.__main__ import main
from kit.experiments import (
    NOTEBOOK_FOLDER,
    NotebookError,
    clean,
    known_parameters,
    notebooks,
    parameters_from_text,
    run_notebook,
)

PARAMETERS = """\
seed: int = 7  # any
rate: float = 0.5  # 0..1
profile: str = "quick"  # quick | full: a minute, or an hour
scheme: str = "ratio"  # ratio (G) | border-pairs: each with a neighbour | missing slices
device: str = "auto"  # auto | cpu | cuda*: such as cuda:1
where: str = "head"  # head | brain, or a path
other: str = "mine"  # yours | theirs
noisy = False
thresholds: list[float] = [0.1, 0.5]  # each 0..1
run_dir: str = "out"
"""
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


@pytest.fixture
def write_notebook(tmp_path):
    """`write_notebook(*sources)`: 01_small.ipynb with a title, PARAMETERS and these cells, in a folder of its own."""

    def write(*sources):
        title = new_markdown_cell("# Small <things>\n\nDoes it *run*?\n\nA second.")
        cells = [title, new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
        path = tmp_path / "notebooks" / "01_small.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
        return path

    return write


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text_of(notebook):
    return "".join(str(output.get("text", output.get("data"))) for output in outputs_of(notebook))


def test_parameters_are_known_with_their_kinds_and_defaults(write_notebook):
    known = known_parameters(write_notebook())
    assert known["seed"] == ("int", 7, ())
    assert known["noisy"] == ("bool", False, ())
    assert known["thresholds"] == ("list[float]", [0.1, 0.5], ())


def test_choices_are_the_words_between_bars_where_the_default_is_one_of_them(write_notebook):
    known = known_parameters(write_notebook())
    assert known["profile"].choices == ("quick", "full")
    assert known["scheme"].choices == ("ratio", "border-pairs", "missing slices")
    assert known["device"].choices == ("auto", "cpu", "cuda*")
    assert known["where"].choices == known["other"].choices == known["rate"].choices == ()


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOK_FOLDER.glob("*.ipynb")))
def test_every_notebook_of_the_kit_names_its_choices_so_that_they_are_checked(name):
    known = known_parameters(NOTEBOOK_FOLDER / f"{name}.ipynb")
    assert known["profile"].choices == ("quick", "full")
    assert known["device"].choices[:2] == ("auto", "cpu")
    comments = {
        name: about["help"] for name, about in papermill.inspect_notebook(NOTEBOOK_FOLDER / f"{name}.ipynb").items()
    }
    assert not [name for name, comment in comments.items() if " | " in comment and not known[name].choices]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sead": 7}, "'sead' is not a parameter (perhaps 'seed' is meant); there are seed, rate"),
        ({"seed": 7.0}, "seed must be int, as its default 7, not float 7.0"),
        ({"seed": True}, "seed must be int"),
        ({"seed": "7"}, "not str '7'"),
        ({"rate": "0.1"}, "rate must be float"),
        ({"rate": False}, "rate must be float"),
        ({"profile": None}, "profile must be str"),
        ({"noisy": 0}, "noisy must be bool"),
        ({"thresholds": 0.1}, "thresholds must be list[float]"),
        ({"thresholds": [0.1, "x"]}, "thresholds must be list[float]"),
        ({"profile": "huge"}, "profile is 'huge': choose one of quick, full"),
        ({"profile": "ful"}, "profile is 'ful' (perhaps 'full' is meant)"),
        ({"device": "cdua"}, "device is 'cdua' (perhaps 'cuda' is meant): choose one of auto, cpu, cuda*"),
        ({"scheme": "missing_slices", "seed": 1}, "scheme is 'missing_slices' (perhaps 'missing slices' is meant)"),
        ({"rat": 1, "seed": None}, "seed must be int"),
        ({"seed": None, "profile": "huge"}, "seed must be int, as its default 7, not NoneType None\nprofile is 'huge'"),
    ],
)
def test_what_cannot_be_given_is_refused_before_anything_runs(write_notebook, tmp_path, parameters, message):
    output = tmp_path / "runs" / "x.ipynb"
    with pytest.raises(NotebookError, match=re.escape(message)):
        run_notebook(write_notebook("1 / 0"), output, parameters)
    assert not output.parent.exists()


def test_what_is_open_may_be_given_and_lists_are_written_with_commas(write_notebook, tmp_path):
    path = write_notebook("device, where, other, thresholds")
    pairs = [("device", "cuda:1"), ("where", "a/b.nii"), ("other", "x"), ("thresholds", "0.2,1")]
    executed = run_notebook(path, tmp_path / "x.ipynb", parameters_from_text(path, pairs))
    assert "('cuda:1', 'a/b.nii', 'x', [0.2, 1])" in text_of(executed)
    for text, wanted in (("[0.1, 0.5]", [0.1, 0.5]), ("0.3", [0.3]), ("", [])):
        assert parameters_from_text(path, [("thresholds", text)]) == {"thresholds": wanted}


def test_a_notebook_that_is_not_there_or_would_be_overwritten_is_refused(write_notebook, tmp_path):
    path = write_notebook()
    with pytest.raises(NotebookError, match="no such notebook"):
        run_notebook(path.with_name("02_other.ipynb"), tmp_path / "x.ipynb")
    with pytest.raises(NotebookError, match="would replace the notebook itself"):
        run_notebook(path, path)


def test_a_notebook_runs_in_its_own_folder_with_what_it_was_given(write_notebook, tmp_path):
    path = write_notebook("import pathlib\npathlib.Path(run_dir).mkdir()", "seed, rate, profile, noisy, thresholds")
    given = {"seed": 3, "rate": 1, "noisy": True, "thresholds": [0, 1.5], "run_dir": "../made"}
    executed = run_notebook(path, tmp_path / "runs" / "x.ipynb", given)
    assert "(3, 1.0, 'quick', True, [0, 1.5])" in text_of(executed)
    assert (tmp_path / "made").is_dir()
    assert nbformat.read(tmp_path / "runs" / "x.ipynb", as_version=4) == executed


def test_a_failed_notebook_keeps_what_it_did_and_its_traceback_and_can_be_shown(write_notebook, tmp_path):
    output = tmp_path / "runs" / "01_small.ipynb"
    with pytest.raises(
        NotebookError, match=r"01_small.ipynb failed: ZeroDivisionError: division by zero(.|\n)*x?.ipynb"
    ):
        run_notebook(write_notebook("'before'", "1 / 0", "'after'"), output)
    kept = nbformat.read(output, as_version=4)
    assert "before" in text_of(kept)
    assert "after" not in text_of(kept)
    assert outputs_of(kept)[-1].output_type == "error"


def test_a_cell_that_takes_too_long_is_ended(write_notebook, tmp_path):
    with pytest.raises(NotebookError, match=r"failed: .*timed out(.|\n)*after 4 seconds"):
        run_notebook(write_notebook("'before'", "while True: pass"), tmp_path / "x.ipynb", timeout_s=4)
    assert "before" in text_of(nbformat.read(tmp_path / "x.ipynb", as_version=4))


def test_two_runs_are_the_same_bytes_once_cleaned_and_warnings_stay(write_notebook, tmp_path):
    bars = "from tqdm import tqdm, auto\nfor _ in tqdm(range(3)): pass\nfor _ in auto.tqdm(range(3), 'w'): pass"
    warning = "import warnings\nfor _ in tqdm(range(2)): warnings.warn('read me')"
    path = write_notebook(bars, warning, "import matplotlib.pyplot as plt\nplt.plot([1, 3])\nplt.show()", "seed")
    runs = [clean(run_notebook(path, tmp_path / f"{number}.ipynb")) for number in range(2)]
    first, second = (re.sub(r"ipykernel_\d+/\d+", "", nbformat.writes(run)) for run in runs)
    assert first == second
    assert runs[0].cells[2].outputs == []
    assert "read me" in runs[0].cells[3].outputs[0].text
    assert "%|" not in first
    assert "image/png" in first
    assert nbformat.writes(clean(runs[0])) == nbformat.writes(runs[0])


@pytest.fixture
def kit_notebooks(monkeypatch, write_notebook, tmp_path):
    """The commands work on 01_small.ipynb instead of the kit's own notebooks, in an empty folder."""
    path = write_notebook("seed, rate, noisy, thresholds")
    monkeypatch.setattr(notebooks, "NOTEBOOK_FOLDER", path.parent)
    monkeypatch.chdir(tmp_path)
    return path


def test_run_reads_parameters_as_the_notebook_wants_them(kit_notebooks, tmp_path, capsys):
    assert (
        main(["run", "01_small", "-o", "x.ipynb", "-p", "seed", "3", "-p", "rate", "1e-3", "-p", "noisy", "true"]) == 0
    )
    assert "(3, 0.001, True, [0.1, 0.5])" in text_of(nbformat.read(tmp_path / "x.ipynb", as_version=4))
    assert main(["run", "01_small.ipynb", "-o", "y.ipynb", "-p", "seed", "many"]) == 2
    assert main(["run", "02_small", "-o", "y.ipynb"]) == 2
    message = capsys.readouterr().err
    assert "seed must be int, as its default 7, not str 'many'" in message
    assert "perhaps '01_small' is meant" in message


def test_demo_ends_with_its_index_and_says_what_failed(kit_notebooks, write_notebook, tmp_path, capsys):
    assert main(["demo", "--out", "demo"]) == 0
    page = tmp_path / "demo" / "index.html"
    assert str(page) in capsys.readouterr().out
    assert '<a href="01_small.html">Small &lt;things&gt;</a>' in page.read_text()
    assert "1 notebook: none failed" in page.read_text()
    assert (tmp_path / "demo" / "01_small.html").is_file()
    write_notebook("1 / 0")
    assert main(["demo", "--out", "demo"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert "Failed: ZeroDivisionError" in page.read_text()


def test_commit_puts_the_executed_and_cleaned_notebook_in_its_place(kit_notebooks, write_notebook, capsys):
    assert main(["commit"]) == 0
    committed = nbformat.read(kit_notebooks, as_version=4)
    assert "(7, 0.5, False, [0.1, 0.5])" in text_of(committed)
    assert clean(committed) == committed
    assert len(committed.cells) == 3
    before = write_notebook("1 / 0").read_bytes()
    assert main(["commit"]) == 2
    assert kit_notebooks.read_bytes() == before


def test_a_notebook_starts_without_the_programs_that_run_notebooks_and_draw_heads():
    """What the first cell of most notebooks imports; papermill, nbformat and nilearn take as long as torch."""
    code = "import sys; from kit import experiments, figures, metrics, models, viewer; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"papermill", "nbformat", "nilearn"} & set(loaded)
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        _ = kit.experiments.nothing_of_this_name
