"""What is written to be kept or passed on says nothing of the patient's header, the machine's folders or its user."""

import gzip

import nbformat
import nibabel
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from small_scans import write_cohort

from kit.experiments import RunError, open_run, record_experiment, run_notebook, to_html, without_places, write_index
from kit.metrics import export_lesions, export_maps, find_predictions, score
from kit.scans import export_nnunet, load_row, read_manifest, save_map, write_manifest, write_table

SECRET, USER = "SECRETPATIENT", "secretuser"
FREE = {"descrip": 80, "aux_file": 24, "intent_name": 16, "db_name": 18, "data_type": 10}  # bytes of free text
PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home of a user with a telling name, in which everything happens."""
    folder = tmp_path / "home" / USER
    (folder / "study").mkdir(parents=True)
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


def name_the_patient(path):
    """Put SECRET into every free field of a file's header, and into an extension."""
    image = nibabel.load(path)
    for name, length in FREE.items():
        image.header[name] = SECRET.encode()[:length]
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    voxels = image.get_fdata()
    nibabel.save(nibabel.Nifti1Image(voxels.astype(image.get_data_dtype()), None, image.header), path)


@pytest.fixture
def table(home):
    """Five small scans in a manifest, each file's header naming its patient."""
    folder = home / "study"
    rows = write_cohort(folder, (1, 2, 3, 4, 5))
    for path in folder.glob("*.nii"):
        name_the_patient(path)
        assert SECRET[:10].encode() in path.read_bytes()
    rows = rows.assign(patient_id=list("pqrst"), session=1, split=["train", "train", "validation", "test", "test"])
    write_manifest(rows, folder / "cohort.csv")
    return read_manifest(folder / "cohort.csv")


def contents(path):
    """All that can be read of a file: its bytes, and what is packed in them."""
    raw = path.read_bytes()
    return raw + (gzip.decompress(raw) if path.suffix == ".gz" else b"")


def telling(folder, home):
    """Files of a folder that say something of the header, the user or the machine's folders."""
    words = [SECRET[:10], USER, str(home), str(home.parents[1])]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {str(path.relative_to(folder)): word for path in files for word in words if word.encode() in contents(path)}


@pytest.mark.slow
def test_trainings_evaluations_and_maps_name_neither_patient_nor_folder_nor_user(table, home):
    size = {"examples": "patches", "budget": 64, "epochs": 1, "validation_patches": 32, "intensities": "scan"}
    record_experiment("A", table, home / "runs", device="cpu", progress=False, **size)
    maps, row = home / "maps", table.iloc[4].to_dict()
    maps.mkdir()
    scan = load_row(row)
    save_map(scan.label.astype("f4"), scan, maps / f"{row['scan_id']}.nii.gz")
    score(maps, table[4:], home / "scores", progress=False)
    (home / "exports").mkdir()
    export_maps(maps, table[4:], home / "exports" / "maps", progress=False)
    export_nnunet(table, home / "exports" / "Dataset101_Mets", progress=False)
    write_table(export_lesions(table[4:], maps, progress=False), home / "exports" / "lesions.csv")
    noted = {"manifest": home / "study" / "cohort.csv", "weights": str(home), "all": [str(home / "x")]}
    open_run(home / "noted", noted)
    for folder in ("runs", "maps", "scores", "exports", "noted"):
        assert telling(home / folder, home) == {}
    assert find_predictions(maps, table[4:])[1] == []


def test_a_run_knows_its_files_again_wherever_they_lie_and_refuses_others_of_that_name(home):
    for name in ("a", "b", "c"):
        (home / name).mkdir()
        (home / name / "cohort.csv").write_text("other" if name == "c" else "same")
    open_run(home / "run", {"manifest": str(home / "a" / "cohort.csv")})
    open_run(home / "run", {"manifest": str(home / "b" / "cohort.csv")})
    with pytest.raises(RunError, match=r"manifest is '…/cohort\.csv, sha256 .*but this run was started with"):
        open_run(home / "run", {"manifest": str(home / "c" / "cohort.csv")})


def test_executed_notebooks_and_their_pages_keep_no_place_whether_they_end_or_fail(home):
    cells = [new_code_cell('folder: str = "x"\nrun_dir: str = "y"', metadata={"tags": ["parameters"]})]
    cells += [new_code_cell("import os, warnings; print(folder, os.getcwd()); warnings.warn(folder); {'at': folder}")]
    broken = [new_code_cell("open(folder + '/none')")]
    (home / "notebooks").mkdir()
    for name, more in (("01_whole", []), ("02_broken", broken)):
        nbformat.write(new_notebook(cells=cells + more, metadata=PYTHON), home / "notebooks" / f"{name}.ipynb")
    given = {"folder": str(home / "study"), "run_dir": f"../{USER}/runs"}
    run_notebook(home / "notebooks" / "01_whole.ipynb", home / "demo" / "01_whole.ipynb", given)
    with pytest.raises(ValueError, match="FileNotFoundError"):
        run_notebook(home / "notebooks" / "02_broken.ipynb", home / "demo" / "02_broken.ipynb", given)
    for path in sorted((home / "demo").glob("*.ipynb")):
        to_html(nbformat.read(path, as_version=4), path.with_suffix(".html"))
    write_index(home / "demo")
    assert telling(home / "demo", home) == {}
    assert "…/study" in (home / "demo" / "01_whole.ipynb").read_text()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("no file {home}/study/a.nii.gz: correct it", "no file …/a.nii.gz: correct it"),
        ("\x1b[38;5;28m{home}/x.py:3\x1b[0m", "\x1b[38;5;28m…/x.py:3\x1b[0m"),
        ("'one\\n{home}/x'", "'one\\n…/x'"),
        ("[PosixPath('{home}/a'), '/usr/lib/b.py']", "[PosixPath('…/a'), '…/b.py']"),
        ("../../secretuser/a.csv", "../../…/a.csv"),
        ("<var>a</var> <b>{home}/x</b>", "<var>a</var> <b>…/x</b>"),
        ("https://example.org/usr/x and 3/tmp and ../usr", "https://example.org/usr/x and 3/tmp and ../usr"),
    ],
)
def test_only_places_are_taken_out_of_a_text(text, wanted, home):
    assert without_places(text.format(home=home)) == wanted
