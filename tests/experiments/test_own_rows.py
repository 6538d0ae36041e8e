"""A network, a scheme and an experiment that are added from outside the package go wherever the thesis' own go."""

import numpy as np
import pandas as pd
import pytest
from small_scans import make_scan, write_cohort

from kit import figures
from kit.experiments import (
    EXPERIMENTS,
    SCORES,
    Experiment,
    changes,
    comparison_table,
    evaluate_sampled,
    format_scores,
    format_whole_scans,
    gather,
    published_row,
    published_whole_scans,
    read_record,
    record_experiment,
    record_table,
    run_experiment,
)
from kit.models import NETWORKS, Detector, Network, layer_table, network_table
from kit.samplers import SCHEMES, Scheme

SIZE = {"examples": "patches", "budget": 96, "epochs": 2, "validation_patches": 16, "device": "cpu", "progress": False}
SIZE |= {"intensities": "scan"}  # these heads hold no brain
NAMES = ["Tiny-Five", "Tiny-Pairs"]


@pytest.fixture(scope="module", autouse=True)
def own_rows():
    """One network, one scheme and two experiments, each added in one place and taken away again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "Tiny", Network("Tiny", (1, 13, 13), "conv3-4 mp-3-2", (16, 2)))
        patch.setitem(SCHEMES, "five", Scheme(5, (0.2, 1.0)))
        patch.setitem(EXPERIMENTS, "Tiny-Five", Experiment("Tiny", "five", "A", "one small convolution"))
        patch.setitem(EXPERIMENTS, "Tiny-Pairs", Experiment("Tiny", "border-pairs", "Tiny-Five"))
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = write_cohort(tmp_path_factory.mktemp("cohort"), (1, 2, 3, 4, 5))
    return table.assign(patient_id=list("pqrst"), session=1, split=["train", "train", "validation", "test", "test"])


@pytest.fixture(scope="module")
def trained(table, own_rows, tmp_path_factory):
    """(run's folder, network, statistics, history)"""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, *run_experiment("Tiny-Five", table, folder, **SIZE)


@pytest.fixture(scope="module")
def record(table, own_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    for name in NAMES:
        record_experiment(name, table, folder / "runs", **SIZE)
    gather(folder / "runs", folder / "results")
    return read_record(folder / "results")


def test_the_networks_tables_have_its_row():
    row = network_table().set_index("network").loc["Tiny"]
    assert row.reproduced == layer_table("Tiny").parameters.sum()
    assert np.isnan(row.printed)


def test_its_weights_make_a_detector_by_its_name(trained):
    folder, network, *_ = trained
    image = make_scan(4)[0][:4, 40:52, 40:52]
    found = Detector.load("Tiny", folder / "weights.safetensors")(image)
    np.testing.assert_array_equal(found, Detector(network)(image))


def test_its_evaluation_stands_beside_the_record_and_what_is_not_published(trained, table, record):
    folder, *results = trained
    found, compared, _ = evaluate_sampled("Tiny-Five", results, table, folder, record, device="cpu", progress=False)
    assert compared.index.tolist() == ["measured here", "saved trainings", "published"]
    assert compared.lesions.tolist()[:2] == [len(found.lesions)] * 2
    text = format_scores(compared)
    assert text.loc["published"].tolist() == ["not published", *[""] * (len(text.columns) - 1)]
    assert text.loc["saved trainings", "patches worth"] == "96"
    alone = comparison_table("Tiny-Five", found.sweep, 96, read_record(""))
    assert alone.index.tolist() == ["measured here", "published"]


def test_the_record_has_its_row_and_the_changes_have_no_published_one(record):
    measured = record_table(record)
    assert measured.index.tolist() == NAMES
    assert record.runs[["network", "scheme"]].values.tolist() == [["Tiny", "five"], ["Tiny", "border-pairs"]]
    found = changes(record, [("A", "Tiny-Five"), tuple(NAMES)])
    assert found.index.get_level_values("rate").tolist() == list(SCORES)  # A is not on this record
    assert found.published.isna().all()


def test_whole_scans_of_it_have_no_published_row():
    assert published_whole_scans("Tiny").empty
    assert format_whole_scans(published_whole_scans("Tiny")).empty


def test_the_figures_draw_it_without_a_star(record, axes):
    measured = record_table(record)
    published = pd.concat([published_row(name) for name in [*NAMES, "A"]])
    drawn = figures.forest_plot(axes(1, 4), measured, published)
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == NAMES[::-1]
    assert not [line for line in drawn[0].lines if line.get_marker() == "*" and np.isfinite(line.get_xdata()).any()]
    ax = figures.change_plot(axes(), changes(record, [tuple(NAMES)]), "recall")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Tiny-Five → Tiny-Pairs"]
    ax = figures.learning_curves(axes(), record.histories)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == NAMES
