"""Figures are drawn on the axes that are given, hold what they are said to show, and bear empty tables."""

import numpy as np
import pandas as pd
import pytest

from kit.experiments import published_sampled
from kit.figures import slices as plots
from kit.metrics import recall_by_size
from kit.scans import lesion_table

NO_LESIONS = lesion_table(np.zeros((2, 2, 2), bool), (1, 1, 1)).assign(rim=[], core=[])


@pytest.fixture
def lesions():
    label = np.zeros((40, 40, 40), bool)
    label[2:4, 2:4, 2:4] = label[10:16, 10:16, 10:16] = True
    label[20:36, 20:30, 20:28] = label[5, 30, 30] = True
    return lesion_table(label, (2.0, 1.0, 1.0)).assign(rim=2.0, core=1.0)


def head(shape=(12, 40, 40)):
    """A bright box with a gradient, in the air."""
    image = np.zeros(shape, np.float32)
    image[1:-1, 5:-5, 5:-5] = np.linspace(100, 200, shape[2] - 10)
    return image


def outline(ax):
    (collection,) = ax.collections
    return {tuple(map(tuple, segment)) for segment in collection.get_segments()}


def test_the_outline_runs_along_the_pixels_edges(axes):
    label = np.zeros((5, 5), bool)
    label[2, 3] = True
    ax = plots.show_slice(axes(), np.eye(5), label)
    upright = {((x, 1.5), (x, 2.5)) for x in (2.5, 3.5)}
    level = {((2.5, y), (3.5, y)) for y in (1.5, 2.5)}
    assert outline(ax) == upright | level


def test_the_outline_reaches_the_edge_of_a_slice_that_is_all_lesion(axes):
    assert len(outline(plots.show_slice(axes(), np.eye(3), np.ones((3, 3), bool)))) == 12


def test_heat_is_clear_below_the_threshold_and_shown_at_it(axes):
    probability = np.array([[0.0, 0.19], [0.2, 1.0]])
    ax = plots.show_slice(axes(), np.eye(2), probability=probability, threshold=0.2)
    assert ax.images[1].get_array().mask.tolist() == [[True, True], [False, False]]
    assert ax.images[1].get_clim() == (0, 1)


def test_a_window_is_used_as_given(axes):
    assert plots.show_slice(axes(), np.eye(3), window=(-1, 4)).images[0].get_clim() == (-1, 4)


def test_the_window_leaves_the_air_out_whatever_the_offset_of_the_scan():
    low, high = plots.window_of(head())
    assert (low, high) == pytest.approx((100, 200), abs=4)
    assert plots.window_of(head() - 1000) == pytest.approx((low - 1000, high - 1000))
    assert plots.window_of(head()[5]) == pytest.approx((low, high), abs=2)


def test_a_constant_image_has_a_window_too():
    assert plots.window_of(np.full((3, 4, 4), 7.0)) == (7, 8)


def test_crops_have_their_centre_in_the_middle_and_air_beyond_the_scan(axes):
    image = head()
    image[6, 10, 38] = 500
    shown = plots.finding_crops(axes(1, 3), image, [(6.2, 9.8, 38.0), (0, 0, 0)], titles=["found", "edge"], half=8)
    picture = shown[0].images[0].get_array()
    assert picture.shape == (17, 17)
    assert picture[8, 8] == 500
    assert (picture[:, 10:] == 0).all()
    assert [ax.get_title() for ax in shown] == ["found", "edge", ""]
    assert not shown[2].images


def test_crops_carry_label_and_probability(axes):
    image, label = head(), np.zeros((12, 40, 40), bool)
    label[6, 20, 20] = True
    (ax,) = plots.finding_crops(axes(), image, [(6, 20, 20)], half=4, label=label, probability=label * 0.9)
    assert len(outline(ax)) == 4
    assert ax.images[1].get_array()[4, 4] == pytest.approx(0.9)


def test_upright_planes_have_the_highest_slice_at_the_top(axes):
    box = np.arange(27.0).reshape(3, 3, 3)
    axial, coronal, sagittal = plots.three_planes(axes(1, 3), box, window=(0, 27))
    assert axial.images[0].get_array()[0].tolist() == [9, 10, 11]
    assert coronal.images[0].get_array()[0].tolist() == [3, 4, 5]
    assert sagittal.images[0].get_array()[0].tolist() == [1, 4, 7]
    assert [ax.yaxis_inverted() for ax in (axial, coronal, sagittal)] == [True, False, False]


def test_a_slice_is_framed_to_the_head(axes):
    ax = plots.frame_head(plots.show_slice(axes(), head()[5]), head()[5], margin=2)
    assert ax.get_xlim() == (2.5, 36.5)
    assert ax.get_ylim() == (36.5, 2.5)


def test_every_lesion_is_in_the_histograms(axes, lesions):
    size, shape, against = axes(1, 3)
    assert sum(bar.get_height() for bar in plots.lesion_size_histogram(size, lesions).patches[-14:]) <= len(lesions)
    assert total_of(size) == len(lesions)
    plots.shape_complexity_histogram(shape, lesions)
    assert total_of(shape) == lesions.sigma_r.notna().sum()  # one voxel has no shape
    plots.shape_against_size(against, lesions)
    assert sum(len(dots.get_offsets()) for dots in against.collections) == lesions.sigma_r.notna().sum()


def total_of(ax):
    """Bars of stacked histograms: what they count in all."""
    return sum(bar.get_height() for bars in ax.containers for bar in bars)


def test_figures_of_a_cohort_without_lesions_are_empty_but_there(axes):
    one, two, three, four, five = axes(1, 5)
    plots.lesion_size_histogram(one, NO_LESIONS)
    plots.shape_complexity_histogram(two, NO_LESIONS)
    plots.shape_against_size(three, NO_LESIONS)
    plots.contrast_beside_look_alikes((four, five), NO_LESIONS, pd.DataFrame({"kind": [], "brightness": []}))
    assert total_of(one) == total_of(two) == 0
    assert len(plots.shape_gallery(axes(2, 2), [], [])) == 4


def test_contrast_shows_every_lesion_and_every_look_alike(axes, lesions):
    pair = axes(1, 2)
    plots.contrast_beside_look_alikes(
        pair, lesions, pd.DataFrame({"kind": ["tube", "blob", "tube"], "brightness": 2.0})
    )
    assert len(pair[0].collections[0].get_offsets()) == len(lesions)
    assert sum(bar.get_width() for bars in pair[1].containers for bar in bars) == 3


def test_a_shape_fills_its_axes_one_pixel_a_voxel_and_the_rest_is_clear(axes):
    label = np.zeros((9, 30, 30), bool)
    label[4, 10:13, 20] = True
    (ax,) = plots.shape_gallery(axes(), [label], [0.5], [", 2 mm"])
    picture = ax.images[0].get_array()
    assert picture.shape == (7, 7)
    assert (~picture.mask).nonzero()[0].tolist() == [2, 3, 4]
    assert ax.get_title() == "$\\sigma_r$ = 0.50, 2 mm"


def test_a_ball_is_lit_from_the_front_and_the_left(axes):
    ball = sum(g**2 for g in np.ogrid[-8:9, -8:9, -8:9]) < 60
    (ax,) = plots.shape_gallery(axes(), [ball], [0.1])
    picture = ax.images[0].get_array()
    middle = len(picture) // 2
    assert picture[middle - 4, middle - 4] > picture[middle + 4, middle + 4] + 0.3


def test_slices_keep_their_numbers(axes):
    series = pd.Series([1.0, 2.0], index=[7, 8])
    ax = plots.intensity_per_slice(axes(), series, series / 2)
    assert ax.lines[0].get_xdata().tolist() == [7, 8]


def history(rates):
    epochs = np.arange(1, len(rates) + 1)
    named = ("train_loss", "train_accuracy", *(f"validation_{n}" for n in ("loss", "accuracy", "recall", "precision")))
    columns = {"patches_worth": 1000 * epochs, "learning_rate": rates}
    return pd.DataFrame(columns | dict.fromkeys(named, 1 / epochs))


def test_training_curves_mark_where_the_learning_rate_fell(axes):
    loss, rates = plots.training_curves(axes(1, 2), history([0.01, 0.01, 0.001, 0.001]))
    assert len(loss.lines) == 2 + 1
    assert len(rates.lines) == 4 + 1
    assert loss.lines[-1].get_xdata()[0] == 3000


def test_one_epoch_is_a_point(axes):
    loss, _ = plots.training_curves(axes(1, 2), history([0.01]))
    assert loss.lines[0].get_marker() == "o"


def summary():
    return pd.DataFrame({"threshold": [0.5, 0.1, 0.9], "recall": [0.8, 0.9, 0.1], "precision": [0.5, 0.2, np.nan]})


def test_the_precision_recall_curve_goes_by_threshold_in_percent(axes):
    ax = plots.precision_recall(axes(), summary(), label="D", mark=(0.1, 0.9))
    assert ax.lines[0].get_xydata().tolist() == [[90, 20], [80, 50]]  # without predictions there is no precision
    assert [text.get_text() for text in ax.texts] == ["θ 0.1"]


def test_two_curves_in_one_are_refused(axes):
    with pytest.raises(ValueError, match="rows of one min_volume_mm3"):
        plots.precision_recall(axes(), pd.concat([summary(), summary()]))


def test_a_published_point_lies_where_the_curve_would(axes):
    network = published_sampled().loc["D"]
    ax = plots.published_point(axes(), network.recall, network.precision, "thesis, D")
    assert ax.lines[0].get_xydata() == pytest.approx(np.array([[84.7, 75.2]]))
    assert ax.texts[0].get_text() == "thesis, D"


def test_recall_over_size_says_how_many_lesions_stand_behind_each_point(axes):
    table = recall_by_size(
        pd.DataFrame({"diameter_mm": [1.0, 1.5, 6.0], "found": [False, True, True]}), (0, 2, 5, np.inf)
    )
    ax = plots.recall_over_size(axes(), table)
    assert [text.get_text() for text in ax.texts] == ["n = 2", "n = 0", "n = 1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0–2", "2–5", "≥ 5"]
    assert [bar.lines[0].get_ydata().tolist() for bar in ax.containers] == [[50], [100]]
