"""Figures of the experiments hold what they are said to show."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kit.experiments import EXPERIMENTS, SCORES, published_row
from kit.figures import KIND_COLOURS, experiments, network_style, network_styles
from kit.figures.style import BLUE, PALE
from kit.metrics import border_profile
from kit.samplers import WHY, Cohort, draw


def test_every_experiment_looks_different_and_every_reason_has_a_marker():
    styles = [tuple(network_style(name).values()) for name in EXPERIMENTS]
    assert len(set(styles)) == len(EXPERIMENTS)
    for variant in ("D+hard-negatives", "D (weights)", "D hard-by-size (trained)", "D of 0.4.0 (weights)"):
        assert network_style(variant) == network_style("D") | {"linestyle": "-."}
    assert set(experiments.panels.MARKERS) == set(WHY) <= set(KIND_COLOURS)


def test_experiments_of_one_network_have_shades_of_its_colour_in_one_axes(points, axes):
    names = ["G-Pairs", "G", "G+balanced", "G-Eroded-Pairs", "D"]
    styles = network_styles(names)
    assert len({style["color"] for style in styles.values()}) == len(names)
    assert [styles[name] for name in "GD"] == [network_style(name) for name in "GD"]
    assert [styles[name] | {"color": ""} for name in names] == [network_style(name) | {"color": ""} for name in names]
    twice = pd.concat([points, points[points.experiment == "A"].assign(experiment="D (weights)")])
    ax = experiments.froc_lines(axes(), twice, ["D (weights)", "D"])
    assert len({line.get_color() for line in ax.lines}) == 2
    histories = history([0.1]).assign(seed=1, labels="clean")
    histories = pd.concat([histories.assign(experiment=name) for name in names])
    assert len({line.get_color() for line in experiments.learning_curves(axes(), histories).lines}) == len(names)


def test_sample_patches_show_lesions_above_and_healthy_ones_below(cohort):
    rows = draw(cohort, "border-pairs", limit=100)
    upper, lower = np.reshape(experiments.sample_panel(Figure(), cohort, rows, (5, 21, 21), columns=3).axes, (2, 3))
    assert {ax.get_title() for ax in upper} <= {"lesion", "lesion border"}
    assert {ax.get_title() for ax in lower} <= {"healthy", "beside the border"}
    assert upper[0].images[0].get_array().shape == (21, 21)


def test_a_scheme_panel_shows_what_each_scheme_drew_on_one_slice(cohort):
    one = Cohort(cohort.scans[:1], cohort.statistics)
    draws = {scheme: draw(one, scheme) for scheme in ("balanced", "border-pairs")}
    at = draws["balanced"].iloc[0]
    figure = experiments.scheme_panel(Figure(layout="constrained"), one, draws, (at.slice, at.row, at.column))
    assert [ax.get_title() for ax in figure.axes] == list(draws)
    for ax, rows in zip(figure.axes, draws.values(), strict=True):
        marked = sum(len(marks.get_offsets()) for marks in ax.collections[1:])  # the first is the label's outline
        assert marked == (rows.slice == at.slice).sum()
        assert ax.get_xlim() == (at.column - experiments.panels.ZOOM, at.column + experiments.panels.ZOOM)
    figure.canvas.draw()


def test_drawn_voxels_are_marked_by_reason_and_pairs_are_joined(cohort, axes):
    rows = draw(cohort, "border-pairs", seed=1)
    rows = rows[(rows.scan == "s1") & (rows.slice == rows[rows.pair >= 0].slice.mode()[0])]
    ax = experiments.drawn_voxels(axes(), cohort.image(0)[rows.slice.iloc[0]], None, rows)
    marked = sum(len(points.get_offsets()) for points in ax.collections)
    assert marked == len(rows)
    joined = rows[rows.pair >= 0].groupby("pair").size()
    assert len(ax.lines) == len(joined)
    assert (joined == 2).any()
    figure = experiments.panels.legend_of_reasons(ax.figure, rows.why)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [why for why in WHY if why in set(rows.why)]


def test_a_forest_has_a_dot_an_interval_and_a_star_for_every_experiment(axes):
    published = pd.concat([published_row(name) for name in ("A", "D")])
    measured = published.assign(**{f"{s}{end}": published[s] for s in SCORES for end in ("_low", "_high")})
    drawn = experiments.forest_plot(axes(1, 4), measured, published)
    assert [label.get_text() for label in drawn[0].get_yticklabels()] == ["D", "A"]
    stars = [line.get_xdata()[0] for line in drawn[0].lines if line.get_marker() == "*"]
    assert stars == pytest.approx([84.7, 89.8])


def test_changes_that_a_corrected_test_does_not_carry_are_grey(axes):
    index = pd.MultiIndex.from_tuples([("A → B", "recall"), ("B → C", "recall")], names=["change", "rate"])
    values = {"difference": [0.1, 0.2], "low": [-0.1, 0.1], "high": [0.3, 0.3], "corrected": [0.2, 0.04]}
    values |= {"published": [0.02, np.nan]}
    ax = experiments.change_plot(axes(), pd.DataFrame(values, index=index), "recall")
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_color() for line in dots] == [BLUE, "0.6"]  # from below: the last change first


def test_profiles_and_learning_curves_have_a_line_a_network(axes):
    truth = np.zeros((9, 21, 21), bool)
    truth[3:6, 8:13, 8:13] = True
    profile = border_profile(truth * 0.9, truth)
    ax = experiments.border_profiles(axes(), {"D": profile, "G": profile}, {"D": {"color": "red"}})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["D", "G"]
    histories = pd.DataFrame(
        {
            "experiment": ["A", "A", "D"],
            "seed": 1,
            "patches_worth": [1, 2, 1],
            "validation_loss": 0.1,
            "labels": "clean",
        }
    )
    histories = pd.concat([histories, histories.assign(labels="faulty")])
    assert [line.get_label() for line in experiments.learning_curves(axes(), histories).lines] == ["A", "D"]
    assert [line.get_label() for line in experiments.learning_curves(axes(), histories, ["D"]).lines] == ["D"]


def history(rates):
    epochs = np.arange(1, len(rates) + 1)
    named = ("train_loss", "train_accuracy", *(f"validation_{n}" for n in ("loss", "accuracy", "recall", "precision")))
    columns = {"epoch": epochs, "patches_worth": 1000 * epochs, "learning_rate": rates}
    return pd.DataFrame(columns | dict.fromkeys(named, 1 / epochs))


def test_training_curves_mark_where_the_learning_rate_fell(axes):
    loss, rates = experiments.training_curves(axes(1, 2), history([0.01, 0.01, 0.001, 0.001]))
    assert len(loss.lines) == 2 + 1
    assert len(rates.lines) == 4 + 1
    assert loss.lines[-1].get_xdata()[0] == 2000, "the third epoch is the first at the lower rate"


def test_one_epoch_is_a_point(axes):
    loss, _ = experiments.training_curves(axes(1, 2), history([0.01]))
    assert loss.lines[0].get_marker() == "o"


def test_a_training_panel_says_whose_training_and_how_long_it_was():
    figure = experiments.training_panel(Figure(), "B", history([0.01, 0.001]))
    assert len(figure.axes) == 2
    assert figure.get_suptitle() == "B: 2,000 patches' worth"


def test_a_lesion_panel_shows_each_lesion_above_and_its_probability_below():
    loaded = []

    def load(scan_id):
        loaded.append(scan_id)
        return SimpleNamespace(image=np.eye(9)[None].repeat(3, 0), label=np.zeros((3, 9, 9), bool)), np.ones((3, 9, 9))

    lesions = pd.DataFrame(
        {"scan_id": ["a", "b"], "centre": [(1, 4, 4)] * 2, "diameter_mm": 3.14, "found": [True, False]}
    )
    *crops, bar = experiments.lesion_panel(Figure(), lesions, load).axes
    upper, lower = np.reshape(crops, (2, 2))
    assert bar.get_ylabel() == "probability of lesion"
    assert [text.get_text() for text in upper[0].texts] == ["1 cm"]
    assert loaded == ["a", "b"]
    assert [ax.get_title() for ax in upper] == ["a, 3.1 mm, found", "b, 3.1 mm, missed"]
    assert [len(ax.images) for ax in (*upper, *lower)] == [1, 1, 2, 2]
    assert all(len(ax.collections) == 1 for ax in (*upper, *lower))  # the outline
    assert len(experiments.lesion_panel(Figure(), lesions[:0], load).axes) == 2
    close = experiments.lesion_panel(Figure(), lesions, load, ["one", "two"], half=3).axes[:4]
    assert [ax.get_title() for ax in close[:2]] == ["a, 3.1 mm, one", "b, 3.1 mm, two"]
    assert {ax.images[0].get_array().shape for ax in close} == {(7, 7)}


@pytest.fixture
def points():
    """Operating points of two trainings of D and one of A on two scans."""
    rows = [
        {"experiment": name, "seed": seed, "scan_id": scan, "patient_id": scan, "threshold": threshold, "tp": hits,
         "fn": 2 - hits, "fp": 4 * hits + seed}
        for name, seed in (("A", 1), ("D", 1), ("D", 2)) for scan in "st" for threshold, hits in ((0.9, 1), (0.5, 2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_each_training_has_a_curve_and_others_lie_behind_in_grey(points, axes):
    ax = experiments.froc_lines(axes(), points, ["D"], ["A"])
    assert [line.get_color() for line in ax.lines] == [PALE, *2 * [network_style("D")["color"]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["D"]
    assert ax.lines[1].get_ydata().tolist() == [50, 100]
    assert ax.lines[1].get_xdata().tolist() == [5, 9]


def test_small_multiples_have_an_axes_an_experiment(points):
    figure = experiments.froc_multiples(Figure(), points, columns=3)
    assert [ax.get_title() for ax in figure.axes] == ["A", "D", ""]
    assert [len(ax.lines) for ax in figure.axes[:2]] == [3, 3]
    assert figure.axes[0].get_xticks().tolist() == [0.5, 2, 8, 32]


def test_small_multiples_of_trainings_go_by_epoch_and_show_the_others_in_grey():
    histories = pd.concat(
        [history([0.1] * 3).assign(experiment=name, seed=seed, labels="clean") for name, seed in ("A1", "D1", "D2")]
    )
    figure = experiments.learning_multiples(Figure(), histories, columns=3)
    assert [ax.get_title() for ax in figure.axes] == ["A", "D", ""]
    assert [line.get_color() for line in figure.axes[1].lines] == [PALE, *2 * [network_style("D")["color"]]]
    assert {tuple(line.get_xdata()) for line in figure.axes[1].lines} == {(1, 2, 3)}
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("epoch", "validation loss")


def curves_of(names):
    lesions = [{"threshold": t, "size_mm": mm, "found": mm > 4 + t, "fp_per_scan": np.nan, "experiment": name}
               for name in names for t in (0.5, 0.99) for mm in (3, 4.5, 8)]  # fmt: skip
    sweeps = [{"experiment": name, "threshold": t, "min_volume_mm3": 0, "tp": 2, "fn": 1, "fp": 3 if t < 0.9 else 1}
              for name in names for t in (0.5, 0.99)]  # fmt: skip
    return experiments.curve_multiples(Figure(), pd.DataFrame(sweeps), pd.DataFrame(lesions))


def test_curves_of_precision_recall_and_size_stand_one_above_the_other():
    figure = curves_of("AD")
    upper, beside, lower = figure.axes[:3]
    assert (upper.get_title(), beside.get_title()) == ("A", "D")
    assert sorted(upper.lines[0].get_ydata().tolist()) == pytest.approx([40, 200 / 3])
    assert [line.get_label() for line in lower.lines] == ["θ 0.5", "θ 0.99"]
    assert [text.get_text() for text in upper.texts] == ["θ 0.5", "θ 0.99"], (
        "dots above are at the theta of the curves below"
    )
    assert upper.get_ylim() == (0.1, 130)


def test_more_than_seven_networks_go_on_below():
    figure = curves_of("ABCDEFGH")
    titled = {ax.get_title(): ax.get_subplotspec().rowspan.start for ax in figure.axes if ax.get_title()}
    assert titled == {**dict.fromkeys("ABCDEFG", 0), "H": 2}
    assert sum(ax.axison for ax in figure.axes) == 16


def test_a_lesion_that_nobody_finds_has_a_triangle(axes):
    shares = pd.DataFrame({"volume_mm3": 1, "diameter_mm": [9, 3, 5], "size_mm": 1, "A": [1, 0, 0], "D": [1, 0, 0.5]})
    ax = experiments.found_matrix(axes(), shares)
    assert ax.collections[0].get_array().reshape(2, 3).tolist() == [[0, 0, 1], [0, 0.5, 1]]  # smallest lesion first
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5]


def test_a_gallery_has_the_label_each_map_a_scale_and_a_bar_of_colours():
    image, label = np.linspace(0, 1, 100 * 80).reshape(100, 80), np.zeros((100, 80), bool)
    label[40:50, 30:40] = True
    table = pd.DataFrame(
        [{"scan_id": "s", "slice": 7, "what": "9 mm", "spacing_row_mm": 1.0, "spacing_column_mm": 1.0}]
    )
    maps = {"A": 0.9 * label[None], "D": 0.05 * label[None], "G": label[None]}
    slices = SimpleNamespace(table=table, images=image[None], labels=label[None], maps=maps)
    figure = experiments.map_gallery(Figure(), slices, 0, ("A", "D"), columns=2)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == ["label", "A", "D"]
    seen = [int((~ax.images[-1].get_array().mask).sum()) for ax in figure.axes[1:3]]
    assert seen == [100, 0]
    assert np.ptp(figure.axes[0].lines[0].get_xdata()) == pytest.approx(50)
    assert figure.axes[-1].get_ylabel() == "probability of lesion"
    assert figure.get_suptitle() == "s, slice 7: 9 mm"
    slices.table = table.assign(row=44, column=34, spacing_row_mm=2.0)
    near = experiments.map_gallery(Figure(), slices, 0, around_mm=20).axes[1]
    assert (near.get_xlim(), near.get_ylim()) == ((24, 44), (49, 39)), "20 mm, of 1 and of 2 mm voxels"


def test_the_windows_of_both_paths_and_the_taps_of_a_sparse_kernel_are_drawn_to_scale(axes):
    ax = experiments.path_windows(axes(), np.zeros((5, 91, 91)), "F")
    boxes = {patch.get_label(): (patch.get_xy(), patch.get_width()) for patch in ax.patches}
    assert boxes == {"main: 51 x 51": ((19.5, 19.5), 51), "beside: 91 x 91": ((-0.5, -0.5), 91)}
    assert {text.get_fontsize() for text in ax.get_legend().get_texts()} == {11}, "to be read at half the size"
    (taps,) = ax.lines
    assert len(taps.get_xdata()) == 49
    assert np.unique(taps.get_xdata()).tolist() == [0, 5, 10, 15, 20, 25, 30]


def test_layers_of_both_paths_meet_in_the_head(axes):
    ax = experiments.path_layers(axes(), "E")
    words = [text.get_text() for text in ax.texts]
    assert words[:2] == ["conv3-48: 49 x 49", "conv3-64: 47 x 47"]
    assert "conv1-5: 5 x 5" in words
    assert words[-3:] == ["FC-1024", "FC-1024", "FC-2"]
    assert len(ax.patches) == len(words) + 2  # an arrow a path


def test_layers_are_written_large_and_within_their_boxes():
    figure = Figure(figsize=(6, 5.3), layout="constrained")
    ax = experiments.path_layers(figure.subplots(), "F")
    figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
    for text, box in zip(ax.texts, boxes, strict=True):
        words = text.get_window_extent()
        assert box.x0 < words.x0 < words.x1 < box.x1
        assert box.y0 < words.y0 < words.y1 < box.y1
    assert {text.get_fontsize() for text in ax.texts} == {11}
    assert not any(box.overlaps(other) for box, other in combinations(boxes, 2))
