"""Patches read from a cohort that lies on a device are those read from its files."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_scans import cohort_of

from kit.samplers import Cohort, Places, Resident, draw, patches, prepare

PATCH = (5, 21, 21)


@pytest.fixture(scope="module")
def resident(cohort):
    return Resident(cohort, "cpu")


@pytest.mark.parametrize("shape", [PATCH, (1, 45, 45), (5, 22, 22)])
def test_patches_from_a_resident_cohort_are_those_from_the_files(cohort, resident, shape):
    rows = draw(cohort, "ratio", seed=4, limit=160)  # some reach beyond the scan
    wanted = patches(cohort, rows, shape, rows.angle.to_numpy())
    found = resident.patches(Places.of(rows, "cpu"), shape)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)  # float32 positions
    assert found.is_contiguous(memory_format=torch.channels_last) or shape[0] == 1


def test_resident_scans_may_differ_in_shape_and_normalisation(files, tmp_path):
    one = prepare(files[:2], tmp_path, progress=False)
    small = cohort_of(np.arange(4 * 6 * 7).reshape(4, 6, 7) - 50.0, healthy=np.ones((4, 6, 7))).scans[0]
    mixed = Cohort((one.scans[0], small, one.scans[1]), one.statistics)
    rows = pd.DataFrame([(3, 5, 1), (0, 0, 0), (10, 40, 44)], columns=["slice", "row", "column"])
    rows = rows.assign(scan=pd.Categorical.from_codes([1, 1, 2], ["s1", "made", "s2"]), angle=np.float32([9, -14, 3]))
    found = Resident(mixed, "cpu").patches(Places.of(rows, "cpu"), (5, 9, 9))
    torch.testing.assert_close(found, patches(mixed, rows, (5, 9, 9), rows.angle.to_numpy()), atol=2e-5, rtol=1e-5)
