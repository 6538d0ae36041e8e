"""The one entry point: help for everything, and exit code 2 with one message for whatever cannot be used."""

import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from kit.__main__ import COMMANDS, main


def ends_with(code, *arguments):
    """Run a command that argparse itself ends; its exit code must be this one."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


def test_the_help_names_every_command_and_what_it_does(capsys):
    ends_with(0, "--help")
    text = " ".join(capsys.readouterr().out.split())
    for name, (function, *_) in COMMANDS.items():
        assert f"{name} {function.__doc__}" in text


def test_a_commit_that_fails_while_it_writes_leaves_the_notebook_as_it_was(tmp_path, monkeypatch, capsys):
    notebook, executed = tmp_path / "01_page.ipynb", tmp_path / "runs" / "commit" / "01_page.ipynb"
    executed.parent.mkdir(parents=True)
    for path in (notebook, executed):
        nbformat.write(nbformat.v4.new_notebook(), path)
    before = notebook.read_bytes()

    def full(content, place):
        Path(place).write_text("half of it")
        raise OSError("no space left on device")

    given = {"ROOT": tmp_path, "numbered_notebooks": lambda: [notebook]}
    given |= {"known_parameters": lambda path: {"run_dir": SimpleNamespace(default="nowhere")}}
    given |= {"run_all": lambda folder, **options: [(notebook, 1.0, "")]}
    for name, value in given.items():
        monkeypatch.setattr(f"kit.__main__.{name}", value)
    monkeypatch.setattr("nbformat.write", full)
    assert main(["commit"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert notebook.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01_page.ipynb", "runs"]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_every_option_with_its_default(name, capsys):
    ends_with(0, name, "--help")
    lines = capsys.readouterr().out.split("options:\n")[1].split("\n\n")[0]
    options = [part.strip() for part in re.split(r"\n  (?=-)", lines)]
    for option in options[1:]:  # after --help itself
        assert re.search(r"\S  +\S|\n +\S", option), option
        assert "(" in option or option.startswith(("-o OUTPUT", "-p ")), option


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["demo", "--jobs", "0"], "--jobs: 0 is no whole number above 0"),
        (["record", "--epochs", "many"], "--epochs: many is no whole number above 0"),
        (["record", "--labels", "fautly"], "invalid choice: 'fautly'"),
        (["score", "maps", "m.csv", "--low", "x"], "--low: x is no number above 0 and at most 1"),
        (["score", "maps", "m.csv", "--threshold", "1.5"], "--threshold: 1.5 is no number above 0"),
        (["run", "01_data_statistics"], "the following arguments are required: -o"),
    ],
)
def test_an_argument_that_cannot_be_read_ends_with_code_2_and_its_name(arguments, message, capsys):
    ends_with(2, *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["phantom", "nowhere.csv"], "nowhere.csv"),
        (["score", "maps", "nowhere.csv"], "nowhere.csv"),
        (["run", "99_none", "-o", "x.ipynb"], "no such notebook"),
        (["run", "15_comparison", "-o", "x.ipynb", "-p", "profile", "huge"], "profile is 'huge': choose one of quick"),
        (["record", "--device", "gpu"], "device is 'gpu'"),
        (["record", "--device", "cpu", "--experiments", "Z"], "experiment is 'Z'"),
        (["record", "--device", "cpu", "--weights", "D", "D.safetensors"], "D: is the name of an experiment"),
    ],
)
def test_what_cannot_be_used_ends_with_code_2_and_one_message(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert message in written.err
    assert "Traceback" not in written.err
    assert not list(tmp_path.iterdir())
