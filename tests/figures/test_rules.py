"""The drawn cases of notebook 16 do what they are drawn for."""

from small_maps import block

from kit.figures import rules
from kit.figures.rules import CASES, MIDDLE, SHAPE, case_arrays, count_cases
from kit.metrics import intervals, rule_table
from kit.scans import components


def test_rules_disagree_on_every_case():
    assert (count_cases().nunique(axis=1) > 1).all()


def test_the_counts_of_the_cases_are_those_drawn():
    counts = count_cases()
    assert counts.loc["one finding over two lesions"].tolist() == [
        *("1 of 2, 0 FP", "2 of 2, 0 FP", "1 of 2, 0 FP", "2 of 2, 0 FP", "0 of 2, 1 FP")
    ]
    assert counts.loc["two findings in one lesion"].tolist() == [
        *("1 of 1, 1 FP", "1 of 1, 0 FP", "1 of 1, 1 FP", "1 of 1, 0 FP", "1 of 1, 0 FP")
    ]
    assert counts.loc["two lesions a voxel apart"].tolist() == [
        *("1 of 2, 0 FP", "1 of 2, 0 FP", "1 of 2, 0 FP", "1 of 1, 0 FP", "1 of 2, 0 FP")
    ]


def test_a_case_is_seen_in_its_middle_slice():
    for case in CASES.values():
        probability, truth = case_arrays(case)
        assert probability.shape == truth.shape == SHAPE
        assert truth[MIDDLE].any()
        assert probability[MIDDLE].any()


def test_a_drawn_case_has_a_cross_a_component_and_says_why(axes):
    for name, case in CASES.items():
        ax = rules.rule_case(axes(), case, name)
        assert len(ax.lines) == sum(components(array > 0.5)[MIDDLE].max() for array in case_arrays(case))
        assert ax.get_title().replace("\n", " ") == f"{name}: {case.reason}"


def test_rules_stand_side_by_side(axes):
    truth, probability = block((9, 20, 24), "2:4 3:6 3:6"), 0.9 * block((9, 20, 24), "2:4 3:6 3:5", "5:8 11:15 12:18")
    table = intervals(rule_table(probability, truth).assign(patient_id="p"), by="rule", draws=10)
    drawn = rules.rule_bars(axes(1, 3), table)
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == table.rule.tolist()
    assert drawn[0].lines[0].get_xdata().tolist() == (100 * table.recall).tolist()
