"""The pictures' arithmetic against torch, and that what is drawn says what it should."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view

from kit.figures import fragments as fragment_plots


@pytest.fixture
def axes_of():
    """`axes_of(count)`: axes side by side, closed afterwards."""
    yield lambda count: plt.subplots(1, count, squeeze=False)[1][0]
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


@pytest.mark.parametrize("side", [6, 8, 12])
def test_the_woven_toy_network_equals_its_patches_one_by_one(side):
    numbers = np.random.default_rng(side).integers(0, 99, (side, side))
    patches = torch.from_numpy(sliding_window_view(numbers, (5, 5)).reshape(-1, 1, 5, 5)).float()
    expected = F.max_pool2d(patches, 3, stride=2).sum((1, 2, 3))
    np.testing.assert_array_equal(fragment_plots.weave(numbers).woven.ravel(), expected)


def test_the_matrix_of_a_zero_padded_kernel_equals_the_convolution():
    kernel, inputs = torch.rand(3, 3), torch.rand(2, 2)
    matrix = [[float(kernel.flatten()["abcdefghi".index(tap)]) for tap in row] for row in fragment_plots.padded_taps()]
    expected = F.conv2d(inputs[None, None], kernel[None, None], padding=1).flatten()
    torch.testing.assert_close(torch.tensor(matrix) @ inputs.flatten(), expected)


@pytest.mark.parametrize("patch", [(0, 0), (1, 2), (3, 3)])
def test_the_framed_patch_keeps_four_neighbours_of_one_fragment_and_their_sum(axes_of, patch):
    weaving = fragment_plots.weave(np.arange(64).reshape(8, 8))
    axes = fragment_plots.weaving_steps(axes_of(5), weaving, patch)
    framed = [sorted(_framed(ax)) for ax in axes]
    assert len(framed[0]) == 25
    assert framed[1] == framed[2]
    assert len(framed[1]) == 4
    assert framed[3] == framed[4] == [sum(framed[1])] == [weaving.woven[patch]]


def _framed(ax):
    """Numbers whose centre lies in a frame."""
    boxes = [box for box in ax.patches if not box.get_fill()]
    inside = [t for t in ax.texts for b in boxes if 0 < t.get_position()[0] - b.get_x() < b.get_width()
              and 0 < t.get_position()[1] - b.get_y() < b.get_height()]  # fmt: skip
    return [int(text.get_text()) for text in inside]


@pytest.mark.parametrize(
    ("network", "last"),
    [
        ("A", "patch: 1×1\nfragments: 16"),
        ("D", "patch: 2×2\nfragments: 16"),
        ("F", "patch: 2×2\nfragments: 16"),
        ("FCN", "patch: 7×7\nfragments: 1"),
    ],
)
def test_map_sizes_end_with_the_last_shared_layer_of_the_main_path(axes_of, network, last):
    (ax,) = axes_of(1)
    assert texts(fragment_plots.fragment_sizes(ax, network))[-2].endswith(last)


def test_the_padded_tail_shows_every_tap_and_the_matrix(axes_of):
    axes = fragment_plots.padded_kernel(axes_of(5))
    assert "".join(texts(axes[4])[-16:]) == "efhideghbcefabde"


def test_outcomes_are_drawn_where_there_is_no_difference_too(axes_of):
    image = np.random.default_rng(0).random((9, 7))
    fragment_plots.twin_maps(axes_of(4), image, image, image)
    plt.gcf().canvas.draw()
    compared = pd.DataFrame({"where": ["a", "b"], "patch_by_patch": [0.1, 0.2], "dense": [0.1, 0.20001]})
    assert len(fragment_plots.agreement(axes_of(2), compared)[0].collections) == 2
    (ax,) = axes_of(1)
    fragment_plots.minutes_a_scan(ax, {"then": (60, 90), "now": (2, 2)}, limit=10)
    assert [text.strip() for text in texts(ax)] == ["60 to 90", "2"]
    plt.gcf().canvas.draw()
