"""The error browser's rows are those of the detection, in voxels and in the world."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_maps import block, random_pair

from kit.metrics import COLUMNS, RULES, detect, error_table

SPACING = (2.4, 0.9, 1.3)
AFFINE = np.array([[0, 0, -1.3, 50], [0, -0.9, 0, 40], [2.4, 0, 0, -30], [0, 0, 0, 1]])


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.6]), st.sampled_from([0, 8]))
def test_the_rows_are_those_of_the_detection(rule, seed, threshold, min_volume_mm3):
    probability, truth = random_pair(seed)
    options = {"min_volume_mm3": min_volume_mm3, "spacing_mm": SPACING, "rule": rule}
    table = error_table(probability, truth, threshold=threshold, scan_id="s", patient_id="p", **options)
    found = detect(probability, truth, threshold, **options)
    assert list(table.columns) == list(COLUMNS)
    assert (table.kind.eq("TP").sum(), table.kind.eq("FN").sum(), table.kind.eq("FP").sum()) == (
        found.tp,
        found.fn,
        found.fp,
    )
    assert table.component[table.kind == "FP"].tolist() == found.false_positives.component.tolist()
    assert table.component[table.kind == "FN"].tolist() == found.missed.component.tolist()
    assert not table.peak.isna().any()
    assert (table.rule == rule).all()
    assert (table.threshold == threshold).all()
    assert (table.nearest_mm.isna() == (table[["nearest_lesion", "nearest_predicted"]].max(axis=1) == -1)).all()


def test_a_drawn_scan_row_by_row():
    truth = block((5, 12, 20), "1:3 2:4 3:6", "4:5 10:11 18:20")
    probability = np.where(block((5, 12, 20), "1:3 2:4 3:5"), 0.75, 0.0)
    probability[4, 10, 18], probability[0, 11, 2:4] = 0.125, (0.5, 0.25)
    table = error_table(probability, truth, spacing_mm=SPACING, affine=AFFINE, scan_id="P1_1", patient_id="P1")
    rows = table.set_index("kind")
    assert rows.index.tolist() == ["TP", "FN", "FP"]
    assert rows[["slice", "row", "column"]].values.tolist() == [[1.5, 2.5, 4], [4, 10, 18.5], [0, 11, 2.5]]
    assert rows.peak.tolist() == [0.75, 0.125, 0.5]
    assert rows.volume_mm3.tolist() == pytest.approx([12 * 2.808, 2 * 2.808, 2 * 2.808])
    assert rows.nearest_predicted.tolist() == [2, 2, -1]  # 22.9 and 21.5 mm from the missed one
    assert rows.nearest_lesion.tolist() == [-1, -1, 1]
    assert rows.nearest_mm["TP"] == pytest.approx(0.5 * 1.3)
    world = rows.loc["FN", ["x_mm", "y_mm", "z_mm"]].astype(float).tolist()
    assert world == pytest.approx([50 - 18.5 * 1.3, 40 - 9, 4 * 2.4 - 30])


def test_without_an_affine_there_are_no_world_positions():
    table = error_table(np.zeros((1, 2, 3)), block((1, 2, 3), "0:1 0:1 0:1"), spacing_mm=SPACING)
    assert table[["x_mm", "y_mm", "z_mm"]].isna().all(axis=None)


def test_scans_without_anything_give_the_same_columns():
    empty = np.zeros((2, 3, 4))
    table = error_table(empty, empty, spacing_mm=(1, 1, 1))
    assert (list(table.columns), len(table)) == (list(COLUMNS), 0)
    full = error_table(empty + 0.7, empty, spacing_mm=(1, 1, 1))
    assert full.dtypes.equals(table.dtypes) or (full.dtypes == table.dtypes)[["component", "peak", "nearest_mm"]].all()
    assert full[["kind", "component", "nearest_lesion"]].values.tolist() == [["FP", 1, -1]]
