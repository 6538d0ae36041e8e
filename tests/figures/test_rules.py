"""The drawn cases of notebook 16 do what they are drawn for."""

from kit.figures import CASES, MIDDLE, SHAPE, arrays, count_cases


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
        probability, truth = arrays(case)
        assert probability.shape == truth.shape == SHAPE
        assert truth[MIDDLE].any()
        assert probability[MIDDLE].any()
