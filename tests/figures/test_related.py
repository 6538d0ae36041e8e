"""Figures of the related methods show what they are given, where it is."""

import numpy as np
import pandas as pd
import pytest

from kit.figures import budget_curve, change_panel, method_froc, plane_line, template_panel
from kit.models import Plane, shell_template


def test_templates_are_drawn_with_the_shape_of_their_voxels(axes):
    ax = axes(1, 2)
    templates = [shell_template(3, spacing_mm=spacing) for spacing in ((1, 1, 1), (4, 1, 1))]
    template_panel(ax, templates, [(1, 1, 1), (4, 1, 1)], ["thin", "thick"])
    assert [one.get_title() for one in ax] == ["thin", "thick"]
    assert [one.get_aspect() for one in ax] == [1, 4]
    np.testing.assert_allclose(ax[1].images[0].get_array(), templates[1][:, 5])


@pytest.mark.parametrize(("axis", "at"), [(0, 6), (1, 20)])
def test_a_plane_is_drawn_where_it_cuts_the_slice_in_anisotropic_voxels(axes, axis, at):
    normal = np.array([0.1, -0.15, 1.0]) / np.linalg.norm([0.1, -0.15, 1.0])
    plane, spacing_mm, ax = Plane(tuple(normal), 18.0, 1.0), (3.0, 1.0, 1.2), axes(1, 1)
    plane_line(ax, plane, (12, 40, 30), at, spacing_mm, axis=axis)
    column, along = ax.lines[0].get_data()
    fixed = np.full(len(along), at)
    places = np.stack([fixed, along, column] if axis == 0 else [along, fixed, column], axis=1)
    np.testing.assert_allclose(plane.distance_mm(places * spacing_mm), 0, atol=1e-9)
    assert len(along) == (40 if axis == 0 else 12)


def test_the_change_panel_shows_before_now_difference_and_growth(axes):
    rng = np.random.default_rng(0)
    later, earlier = rng.normal(100, 10, (2, 3, 16, 16))
    posterior = np.zeros((3, 3, 16, 16))
    posterior[1, 1, 4:8, 4:8] = 0.9
    ax = axes(1, 4)
    change_panel(ax, later, earlier, posterior, 1, posterior[1] > 0.5, ["before", "now", "difference", "growth"])
    np.testing.assert_allclose(ax[2].images[0].get_array(), later[1] - earlier[1])
    assert (~ax[3].images[1].get_array().mask).sum() == 16
    assert [one.get_title() for one in ax] == ["before", "now", "difference", "growth"]


def test_each_method_has_its_curve_and_its_chance_in_one_colour(axes):
    froc = pd.DataFrame({"method": ["template", "template", "D", "D"], "threshold": [0.9, 0.5, 0.9, 0.5],
                         "recall": [0.3, 0.5, 0.6, 0.8], "fp_per_scan": [1.0, 4.0, 0.5, 8.0]})  # fmt: skip
    chance = froc.assign(chance=0.1).sample(frac=1, random_state=0)
    ax = axes(1, 1)
    method_froc(ax, froc, chance)
    template, its_chance, network, *_ = ax.lines
    assert template.get_color() == its_chance.get_color() != network.get_color()
    assert its_chance.get_xdata().tolist() == [1, 4]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["template", "D", "chance"]


def test_recall_over_minutes_has_a_line_for_the_unet_and_points_for_others(axes):
    rows = pd.DataFrame({"minutes": [5, 10], "recall": [0.2, 0.4], "low": [0.1, 0.3], "high": [0.3, 0.6]})
    others = pd.DataFrame({"minutes": [39], "recall": [0.7], "low": [0.5], "high": [0.8]}, index=["D"])
    ax = axes(1, 1)
    budget_curve(ax, rows, others, 4)
    assert ax.containers[0].lines[0].get_ydata().tolist() == [20, 40]
    assert ax.containers[1].lines[0].get_xdata().tolist() == [39]
    assert "4 false positives" in ax.get_title()
