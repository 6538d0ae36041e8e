"""The built-in cohort: its plan has the thesis' statistics, and a scan is the same every time."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kit.phantom import (
    SHAPE,
    PhantomError,
    draw_head,
    draw_scan,
    fingerprint,
    make_missing,
    plan_cohort,
    same_fingerprint,
    smooth_field,
)
from kit.phantom import make_scan as make_phantom
from kit.scans import lesion_table, load_scan


def radii_of(table):
    return np.array([float(r) for text in table[table.session == 1].lesion_radii_mm for r in text.split(";") if r])


# ------------------------------------------------------------------------------------------------------------- plan


def test_the_plan_has_24_patients_three_followed_up_and_two_without_a_lesion():
    plan = plan_cohort()
    first = plan[plan.session == 1]
    assert first.split.value_counts().to_dict() == {"train": 14, "test": 6, "validation": 4}
    assert len(first) == 24
    assert (plan.session == 2).sum() == 3
    assert (first.lesion_radii_mm == "").sum() == 2
    assert plan.groupby("patient_id").split.nunique().max() == 1


def test_planned_lesions_have_the_thesis_statistics():
    radii = radii_of(plan_cohort(patients=240))
    volumes = 4 / 3 * np.pi * radii**3
    assert len(radii) / 240 == pytest.approx(2.7, abs=0.1)
    assert radii.mean() == pytest.approx(4.7, abs=0.2)  # the thesis has 5; the cut at 15 mm costs 0.3
    assert (volumes < 5**3).sum() / (volumes < 30**3).sum() == pytest.approx(0.38, abs=0.03)


def test_another_seed_is_another_cohort_and_the_same_seed_the_same():
    pd.testing.assert_frame_equal(plan_cohort(seed=3), plan_cohort(seed=3))
    assert plan_cohort(seed=3).source.tolist() != plan_cohort(seed=4).source.tolist()


def test_the_committed_manifest_is_the_plan():
    committed = pd.read_csv("data_manifest.csv", dtype=str, keep_default_na=False)
    plan = plan_cohort().astype(str)
    pd.testing.assert_frame_equal(committed[plan.columns], plan, check_dtype=False)


# ------------------------------------------------------------------------------------------------------------ scans


@pytest.fixture(scope="module")
def scan():
    return draw_scan(7, [2.0, 4.0, 8.0])


@pytest.mark.slow
def test_a_scan_is_full_size_and_its_labels_have_the_planned_volumes(scan):
    image, label = scan
    assert image.shape == label.shape == SHAPE
    assert image.dtype == np.int16
    radius = np.sort(lesion_table(label, (1, 1, 1)).diameter_mm.to_numpy() / 2)
    np.testing.assert_allclose(radius, [2.0, 4.0, 8.0], rtol=0.2)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(scan):
    code = "import hashlib; from kit.phantom import draw_scan; a, b = draw_scan(7, [2.0, 4.0, 8.0]); "
    code += "print(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest())"
    expected = hashlib.sha256(scan[0].tobytes() + scan[1].tobytes()).hexdigest()
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == expected


@pytest.mark.slow
def test_a_follow_up_has_the_same_head_and_lesions_grown_shrunk_and_new(scan):
    image, label = scan
    later_image, later = draw_scan(7, [2.0, 4.0, 8.0], growth=[1.0, 0.0, 1.2], session=2)
    assert len(lesion_table(later, (1, 1, 1))) == 2
    assert (label & later).sum() > 0.9 * (lesion_table(label, (1, 1, 1)).voxels.max())
    assert (image != later_image).mean() > 0.5  # noise and gain are the session's
    assert np.corrcoef(image[::4, ::4, ::4].ravel(), later_image[::4, ::4, ::4].ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_low_slices_are_darker_as_in_figure_7_1(scan):
    image, _ = scan
    head = [image[k][image[k] > 0.2 * np.percentile(image, 99)] for k in (5, 80)]
    assert head[0].mean() < 0.8 * head[1].mean()


@pytest.mark.slow
def test_vessels_are_bright_and_run_through_all_slices_of_a_patch():
    head = draw_head(np.random.default_rng(3))
    table = lesion_table((head.image > 1.2) & head.brain, (1, 1, 1))  # the faintest lesions reach 1.06
    tall = [box[0][1] - box[0][0] >= 5 for box in table.box]
    assert sum(tall) >= 20  # in one slice such a vessel is a small bright disc


def test_a_smooth_field_has_no_mean_and_unit_sd():
    field = smooth_field(np.random.default_rng(0), (60, 60, 60), 4)
    assert field.shape == (60, 60, 60)
    assert abs(field.mean()) < 0.1
    assert field.std() == pytest.approx(1, abs=0.25)


# -------------------------------------------------------------------------------------------- files and fingerprint


def test_a_fingerprint_forgives_rounding_and_nothing_else():
    rng = np.random.default_rng(0)
    image, label = rng.integers(100, 200, (16, 16, 16)), np.zeros((16, 16, 16), bool)
    label[2:6, 2:6, 2:6] = True
    own = fingerprint(image, label)
    assert same_fingerprint(own, fingerprint(image + (rng.random(image.shape) < 0.01), label))
    assert not same_fingerprint(own, fingerprint(image * 1.03, label))
    other = label.copy()
    other[10, 10, 10] = True
    assert not same_fingerprint(own, fingerprint(image, other))
    assert not same_fingerprint(own, fingerprint(image, np.zeros_like(label)))


@pytest.mark.slow
def test_files_are_made_when_missing_and_load_as_drawn(tmp_path, scan):
    row = {"scan_id": "p", "session": 1, "source": "phantom:7", "lesion_radii_mm": "2;4;8", "growth": "1;1;1"}
    row |= {"image": str(tmp_path / "new" / "i.nii.gz"), "label": str(tmp_path / "new" / "l.nii.gz")}
    table = make_missing(pd.DataFrame([row]), progress=False)
    loaded = load_scan(table.image[0], table.label[0])
    np.testing.assert_array_equal(loaded.image, scan[0])
    np.testing.assert_array_equal(loaded.label, scan[1])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["i.nii.gz", "l.nii.gz"]
    before = os.stat(table.image[0]).st_mtime_ns
    make_missing(table, progress=False)
    assert os.stat(table.image[0]).st_mtime_ns == before


@pytest.mark.slow
def test_a_scan_that_is_not_the_manifests_is_refused_and_not_written(tmp_path):
    row = {"session": 1, "source": "phantom:7", "lesion_radii_mm": "2;4;8", "growth": ""}
    row |= {"image": str(tmp_path / "i.nii.gz"), "label": str(tmp_path / "l.nii.gz")}
    with pytest.raises(PhantomError, match=r"i\.nii\.gz: .*fingerprint.*take the manifest"):
        make_phantom(row | {"fingerprint": "lesions 5 | means 1 1 1 1 1 1 1 1"})
    assert not list(tmp_path.iterdir())


def test_only_rows_with_a_phantom_source_are_made():
    rows = pd.DataFrame([{"source": "hospital", "image": "missing.nii", "label": ""}])
    pd.testing.assert_frame_equal(make_missing(rows), rows)
