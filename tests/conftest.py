"""What several tests share: files written on the spot, and outside data where a machine has it."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small_scans import write_cohort

from kit.samplers import prepare

OUTSIDE = "KIT_SHARED_DATA"  # environment variable: a folder with scans/, healthy/ and awkward/


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers wherever and after whatever it runs."""
    torch.manual_seed(2015)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real and awkward files that do not belong to the project; tests that need it skip without it."""
    folder = Path(os.environ.get(OUTSIDE) or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no outside data at {folder}; {OUTSIDE} may name its folder")
    return folder


@pytest.fixture
def write_image(tmp_path):
    """`write_image(name, array, affine=identity)`: a NIfTI file with sform and qform in a temporary folder."""

    def write(name, array, affine=None, kind=nib.Nifti1Image):
        image = kind(np.asarray(array), np.eye(4) if affine is None else affine)
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=1)
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Manifest rows of three small scans with lesions and a fourth without a label."""
    table = write_cohort(tmp_path_factory.mktemp("scans"), seeds=[1, 2, 3, 4])
    table.loc[3, "label"] = ""
    return table


@pytest.fixture(scope="session")
def cohort(files, tmp_path_factory):
    """The scans of `files`, prepared."""
    return prepare(files, tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture
def axes():
    """`axes(rows, columns)`: axes of a new figure, which is rendered at the end: what cannot be drawn fails."""
    figures = []

    def make(*shape):
        figures.append(Figure())
        return figures[-1].subplots(*shape)

    yield make
    for figure in figures:
        figure.canvas.draw()
