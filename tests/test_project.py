"""The files around the package agree with each other, and none of them betrays where it was written."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from kit.experiments import EXPERIMENTS, format_recall, read_record, whole_scan_table
from kit.metrics import RULES
from kit.models import NETWORKS, Detector, weights_metadata
from kit.samplers import SCHEMES

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "kit").rglob("*.py"))
ROOMS = sorted(path.parent for path in MODULES if path.name == "__init__.py" and path.parent.name != "kit")
PLACES = ("work", "root", "farm", "home", "Users", "tmp")  # a path from one of these is somebody's own machine


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def modules_of(room):
    return [path for path in room.glob("*.py") if path.name != "__init__.py"]


def imported(source):
    """The names of all modules that a source text imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    pairs = [(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return names | {f"{module}.{name}" if is_module(module, name) else module for module, name in pairs}


def is_module(package, name):
    """Whether a name of a package is one of its modules, and nothing that its face offers."""
    folder = ROOT / package.replace(".", "/")
    return (folder / f"{name}.py").is_file() and name not in offered(folder / "__init__.py")


def offered(face):
    nodes = [node for node in ast.walk(ast.parse(face.read_text())) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes for alias in node.names}


def code_of(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


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


def test_a_room_has_at_most_eight_modules_and_each_module_at_most_400_lines():
    crowded = {room.name: len(modules_of(room)) for room in ROOMS if len(modules_of(room)) > 8}
    long = {str(path.relative_to(ROOT)): len(lines) for path in MODULES if len(lines := lines_of(path)) > 400}
    assert (crowded, long) == ({}, {})


def test_a_rooms_face_fits_one_screen():
    assert not {room.name: n for room in ROOMS if (n := len(lines_of(room / "__init__.py"))) > 80}


def test_rooms_and_notebooks_import_rooms_through_their_faces():
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in MODULES}
    sources |= {path.name: code_of(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    behind = re.compile(r"kit\.(\w+)\.\w+")
    found = {
        f"{name}: {module}"
        for name, source in sources.items()
        for module in imported(source)
        if (inside := behind.match(module)) and not name.startswith(f"kit/{inside[1]}/")
    }
    assert not found


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_modules_of_a_room_do_not_import_each_other_in_a_circle(room):
    prefix = f"kit.{room.name}."
    needs = {
        path.stem: {module.removeprefix(prefix) for module in imported(path.read_text()) if module.startswith(prefix)}
        for path in modules_of(room)
    }
    assert not [path.name for path in modules_of(room) if f"kit.{room.name}" in imported(path.read_text())]
    TopologicalSorter(needs).prepare()  # CycleError names the circle


@pytest.mark.parametrize(
    ("package", "heavy"),
    [("kit", {"numpy"}), ("kit.scans", {"torch", "matplotlib"}), ("kit.metrics", {"torch", "matplotlib"})],
)
def test_importing_a_package_leaves_out_what_takes_seconds(package, heavy):
    code = f"import sys, {package}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not heavy & set(found.split())


@pytest.fixture
def registries():
    """What is added to the package's tables is taken away again."""
    tables = (EXPERIMENTS, NETWORKS, RULES, SCHEMES)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def test_the_examples_of_contributing_run_and_name_files_that_are_there(registries):
    text = read("CONTRIBUTING.md")
    examples, shared = re.findall(r"```python\n(.*?)```", text, re.DOTALL), {}
    assert len(examples) >= 6
    for example in examples:
        assert 3 <= len(example.splitlines()) <= 10
        exec(example, shared)
    paths = re.findall(r"`((?:kit|tests|notebooks)/[\w/.*]+)`", text)
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


def test_no_file_names_a_path_of_the_machine_it_was_written_on(tracked):
    somewhere = re.compile(rb"(?<![\w.~/:-])/(" + "|".join(PLACES).encode() + rb")/[\w.]")
    found = {path.relative_to(ROOT): somewhere.search(path.read_bytes()) for path in tracked}
    assert not {str(path): hit[0] for path, hit in found.items() if hit}


@pytest.mark.parametrize("path", sorted((ROOT / "weights").glob("*.safetensors")), ids=lambda path: path.stem)
def test_trained_networks_that_are_shipped_load_and_have_a_card(path):
    about = weights_metadata(path)
    detector = Detector.load(EXPERIMENTS[about["experiment"]].network, path)
    assert detector.network.name == about["network"]
    assert about["training_scans"]
    assert f"**{path.stem}**" in read("weights/README.md")


def test_the_results_in_the_readme_are_those_of_the_record():
    record = read_record(ROOT / "results" / "record")
    recall, rows = format_recall(whole_scan_table(record)), {}
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if name and len(cells) == 6 and cells[0][:1].isdigit():
            rows[name.split(":")[0]] = cells
    words = {
        "D+by-size": "D with weights by size",
        "D+cohort": "D with the cohort's intensities",
        "D+hard-by-size": "D with hard negatives and weights by size",
        "D+hard-negatives": "D with hard negatives",
        "D+longer": "D with 4,000 steps",
        "D+patches": "D with single patches",
        "FCN+longer": "FCN with 4,000 steps",
        "G+balanced": "G with D's sampling",
        "D (weights)": "D of `weights/`",
    }
    assert list(rows) == [words.get(name, name) for name in record.names()]
    for name, (best, *further, large, _) in zip(record.names(), rows.values(), strict=True):
        wanted = [recall.loc[name, f"{rate} FP a scan"] for rate in (8, 4, 2, 1)]
        assert [best, *further] == [wanted[0], *(cell.split()[0] for cell in wanted[1:])], name
        lesions = record.of(name).lesions.query("diameter_mm >= 5")
        of_5_mm = lesions.groupby(["fp_per_scan", "seed"]).found.mean().groupby("fp_per_scan").mean()
        assert large == f"{100 * of_5_mm[8]:.0f} / {100 * of_5_mm[1]:.0f}", name


def test_the_results_on_unseen_scans_in_the_readme_are_those_of_their_tables():
    unseen = read_record(ROOT / "results" / "unseen")
    recall = format_recall(whole_scan_table(unseen))
    wanted = [" / ".join(row[f"{rate} FP a scan"].split()[0] for rate in (8, 4, 2, 1)) for _, row in recall.iterrows()]
    table = read("README.md").split("**On 24 new scans**")[1].split("\n\n")[1]
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == wanted
    assert set(unseen.runs.test_scans) == {24}


@pytest.mark.parametrize("path", ["README.md", *(f"notebooks/{p.name}" for p in (ROOT / "notebooks").glob("*.ipynb"))])
def test_each_corrected_p_in_words_is_that_of_a_table_shown_there_or_in_the_comparison(path):
    shown = set()
    for name in {path, "notebooks/15_comparison.ipynb"} - {"README.md"}:
        for cell in nbformat.read(ROOT / name, as_version=4).cells:
            for output in cell.get("outputs", ()):
                shown |= set(re.findall(r"<td>(\d\.\d+)</td>\s*</tr>", output.get("data", {}).get("text/html", "")))
    text = read(path)
    if path.endswith(".ipynb"):
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    written = list(re.finditer(r"corrected\s+p\s+(\d\.\d+)(?:\s+and\s+(\d\.\d+))?", text))
    assert written or path not in ("README.md", "notebooks/08_network_g.ipynb", "notebooks/15_comparison.ipynb")
    for found in written:
        for p in filter(None, found.groups()):
            digits = min(3, len(p.partition(".")[2]))  # tables have three
            assert f"{float(p):.{digits}f}" in {f"{float(value):.{digits}f}" for value in shown}, found[0]
