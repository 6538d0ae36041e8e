"""Figures of a cohort's lesions hold every lesion, and bear empty tables."""

import numpy as np
import pandas as pd
import pytest

from kit.figures import statistics
from kit.scans import lesion_table

NO_LESIONS = lesion_table(np.zeros((2, 2, 2), bool), (1, 1, 1)).assign(rim=[], core=[])


@pytest.fixture
def lesions():
    label = np.zeros((40, 40, 40), bool)
    label[2:4, 2:4, 2:4] = label[10:16, 10:16, 10:16] = True
    label[20:36, 20:30, 20:28] = label[5, 30, 30] = True
    return lesion_table(label, (2.0, 1.0, 1.0)).assign(rim=2.0, core=1.0)


def test_every_lesion_is_in_the_histograms(axes, lesions):
    size, shape, against = axes(1, 3)
    assert sum(bar.get_height() for bar in statistics.lesion_size_histogram(size, lesions).patches[-14:]) <= len(
        lesions
    )
    assert total_of(size) == len(lesions)
    statistics.shape_complexity_histogram(shape, lesions)
    assert total_of(shape) == lesions.sigma_r.notna().sum()  # one voxel has no shape
    statistics.shape_against_size(against, lesions)
    assert sum(len(dots.get_offsets()) for dots in against.collections) == lesions.sigma_r.notna().sum()


def total_of(ax):
    """Bars of stacked histograms: what they count in all."""
    return sum(bar.get_height() for bars in ax.containers for bar in bars)


def test_figures_of_a_cohort_without_lesions_are_empty_but_there(axes):
    one, two, three, four, five = axes(1, 5)
    statistics.lesion_size_histogram(one, NO_LESIONS)
    statistics.shape_complexity_histogram(two, NO_LESIONS)
    statistics.shape_against_size(three, NO_LESIONS)
    statistics.contrast_of_look_alikes((four, five), NO_LESIONS, pd.DataFrame({"kind": [], "brightness": []}))
    assert total_of(one) == total_of(two) == 0
    assert len(statistics.shape_gallery(axes(2, 2), [], [])) == 4


def test_contrast_shows_every_lesion_and_every_look_alike(axes, lesions):
    pair = axes(1, 2)
    statistics.contrast_of_look_alikes(
        pair, lesions, pd.DataFrame({"kind": ["tube", "blob", "tube"], "brightness": 2.0})
    )
    assert len(pair[0].collections[0].get_offsets()) == len(lesions)
    assert sum(bar.get_width() for bars in pair[1].containers for bar in bars) == 3


def test_a_shape_fills_its_axes_one_pixel_a_voxel_and_the_rest_is_clear(axes):
    label = np.zeros((9, 30, 30), bool)
    label[4, 10:13, 20] = True
    (ax,) = statistics.shape_gallery(axes(), [label], [0.5], [", 2 mm"])
    picture = ax.images[0].get_array()
    assert picture.shape == (7, 7)
    assert (~picture.mask).nonzero()[0].tolist() == [2, 3, 4]
    assert ax.get_title() == "$\\sigma_r$ = 0.50, 2 mm"


def test_a_ball_is_lit_from_the_front_and_the_left(axes):
    ball = sum(g**2 for g in np.ogrid[-8:9, -8:9, -8:9]) < 60
    (ax,) = statistics.shape_gallery(axes(), [ball], [0.1])
    picture = ax.images[0].get_array()
    middle = len(picture) // 2
    assert picture[middle - 4, middle - 4] > picture[middle + 4, middle + 4] + 0.3


def test_slices_keep_their_numbers(axes):
    series = pd.Series([1.0, 2.0], index=[7, 8])
    ax = statistics.intensity_per_slice(axes(), series, series / 2)
    assert ax.lines[0].get_xdata().tolist() == [7, 8]


@pytest.fixture
def looks():
    names = ["P1", "P2", "real-1", "real-2"]
    scans = pd.DataFrame({"scan_id": names, "real": [False, False, True, True]})
    measures = (
        "csf",
        "grey",
        "csf_sd",
        "grey_sd",
        "white_sd",
        "noise",
        "bias",
        "white_seen",
        "vessels",
        "vessel_share",
    )
    scans = scans.assign(**{name: 0.1 * (n + 1) for n, name in enumerate(measures)})
    spectra = pd.DataFrame({"scan_id": np.repeat(names, 3), "frequency": [0.1, 0.2, 0.4] * 4})
    return scans, spectra.assign(in_plane=1 / spectra.frequency, through_plane=2 / spectra.frequency)


def test_every_scan_has_its_point_and_curve_and_phantoms_share_one_look(axes, looks):
    six = axes(2, 3)
    statistics.compare_looks(six, *looks)
    for ax in np.ravel(six)[1:]:
        assert len(ax.lines) == 4
    colours = [line.get_color() for line in np.ravel(six)[3].lines]
    assert colours[0] == colours[1]
    assert len(set(colours)) == 3
    legend = np.ravel(six)[1].get_legend_handles_labels()[1]
    assert legend == ["phantom", "real-1", "real-2"]


def test_lesions_stand_at_their_size_also_where_a_scan_has_none(axes, looks):
    lesions = pd.DataFrame({"scan_id": ["P1", "P1", "real-1"], "size_mm": [3.0, 9, 5], "contrast": [0.2, 0.4, 0.6]})
    lesions = lesions.assign(core=0.5, edge_mm=2.0, sigma_r=0.1, voxels=lesions.size_mm**3)
    four = axes(1, 4)
    statistics.compare_lesions(four, lesions, looks[0])
    drawn = np.concatenate([line.get_xydata() for line in four[0].lines])
    assert sorted(drawn.tolist()) == [[3.0, 0.2], [5.0, 0.6], [9.0, 0.4]]
