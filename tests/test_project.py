"""The files around the package agree with each other, and none of them betrays where it was written."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("work", "root", "farm", "home", "Users", "tmp")  # a path from one of these is somebody's own machine


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def torch_in_makefile():
    return re.search(r"^TORCH \?= (torch==\S+)$", read("Makefile"), re.MULTILINE)[1]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def requirements(project):
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


@pytest.fixture(scope="module")
def pinned():
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.fixture(scope="module")
def tracked():
    """Every file that is or would be committed, as a path; without git there is nothing to look at."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    paths = [ROOT / name for name in names.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_constraints_pin_every_direct_dependency_at_a_version_that_is_allowed(requirements, pinned):
    direct = {canonicalize_name(one.name): one for one in requirements if one.name != "torch"}
    assert set(direct) <= set(pinned)
    assert not [name for name, one in direct.items() if pinned[name] not in one.specifier]


def test_torch_is_installed_first_at_a_version_that_is_allowed(requirements, pinned):
    (wanted,) = [one for one in requirements if one.name == "torch"]
    assert torch_in_makefile().removeprefix("torch==") in wanted.specifier
    assert "torch" not in pinned


def test_every_dependency_says_what_it_is_for():
    lines = re.findall(r'^  "[\w-]+>=[^"]*",.*$', read("pyproject.toml"), re.MULTILINE)
    assert len(lines) > 20
    assert not [line for line in lines if not re.search(r"# \w{2,}", line)]


def test_the_conda_environment_is_a_thin_face_of_pyproject(project):
    environment = yaml.safe_load(read("environment.yml"))
    python, pip, listed = environment["dependencies"]
    assert environment["name"] == project["name"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(project["requires-python"])
    assert pip == "pip"
    assert listed == {"pip": ["-c constraints.txt", torch_in_makefile(), "-e .[dev]"]}


def test_the_version_is_the_same_everywhere(project):
    cited = yaml.safe_load(read("CITATION.cff"))
    newest, date = re.search(r"^## (\S+) - (\S+)$", read("CHANGELOG.md"), re.MULTILINE).groups()
    assert project["version"] == cited["version"] == newest
    assert cited["date-released"] == date
    assert cited["license"] == project["license"]


def test_commands_and_files_that_the_readme_names_are_there():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"help", "demo", "test", "check", "lab", "notebooks", "clean"} <= targets
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", read("README.md"), re.MULTILINE)) <= targets
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", read("README.md"))
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_machine_that_integrates_runs_all_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "\nmake test\n" in script.read_text()


def test_no_module_is_longer_than_a_reader_can_bear():
    assert not [path.name for path in (ROOT / "kit").rglob("*.py") if len(path.read_text().splitlines()) > 400]


def test_no_file_names_a_path_of_the_machine_it_was_written_on(tracked):
    somewhere = re.compile(rb"(?<![\w.~/:-])/(" + "|".join(PLACES).encode() + rb")/[\w.]")
    found = {path.relative_to(ROOT): somewhere.search(path.read_bytes()) for path in tracked}
    assert not {str(path): hit[0] for path, hit in found.items() if hit}
