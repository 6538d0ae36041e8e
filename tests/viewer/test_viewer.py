"""The slice viewer without a browser: what is refused, sent and saved, and how its traits hang together."""

import base64
import json
import re
import zlib

import ipywidgets
import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest

from kit.experiments import WIDGET, clean
from kit.viewer import SliceViewer, ViewerError, checked_volumes, head_box, packed

SHAPE = (6, 7, 8)
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(100, 30, SHAPE).astype(np.float32)
LABEL = np.zeros(SHAPE, bool)
LABEL[1, 2:4, 3] = LABEL[4, 5, 6] = True
MAP = RNG.random(SHAPE).astype(np.float32)


@pytest.fixture
def sent():
    """`sent(viewer)`: what a viewer sends from now on, as a list of (content, buffers)."""

    def listen(viewer):
        messages = []
        viewer.send = lambda content, buffers=None: messages.append((content, buffers))
        return messages

    return listen


def ready(viewer):
    viewer._heard(viewer, {"type": "ready"}, [])


def broken(array, value):
    array = array.copy()
    array[0, 0, 0] = value
    return array


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"image": IMAGE[0]}, r"image has shape \(7, 8\)"),
        ({"image": IMAGE[:0]}, r"image has shape \(0, 7, 8\)"),
        ({"image": broken(IMAGE, np.nan)}, "image holds 1 voxels that are not finite"),
        ({"image": IMAGE.astype(complex)}, "image is of type complex"),
        ({"image": IMAGE, "label": LABEL[1:]}, r"label has shape \(5, 7, 8\) and image \(6, 7, 8\)"),
        ({"image": IMAGE, "label": LABEL * 3}, "label holds 3"),
        ({"image": IMAGE, "probability": MAP * 100}, "pass probabilities in"),
        ({"image": IMAGE, "probability": broken(MAP, np.nan)}, "probability reaches from nan"),
        ({"image": IMAGE, "probability": {"D": MAP[:, 1:]}}, r"D has shape \(6, 6, 8\)"),
        ({"image": IMAGE, "probability": dict.fromkeys("ABCDE", MAP)}, "5 maps are given"),
        ({"image": IMAGE, "spacing_mm": (1, 0, 1)}, "three positive numbers"),
        ({"image": IMAGE, "affine": np.eye(3)}, r"pass a \(4, 4\) matrix"),
        ({"image": IMAGE, "affine": np.eye(4), "spacing_mm": (3, 1, 1)}, "pass the two of one scan"),
        ({"image": IMAGE, "places": pd.DataFrame({"slice": [1]})}, "it needs slice, row and column"),
        ({"image": IMAGE, "places": pd.DataFrame({"slice": [6], "row": [0], "column": [0]})}, "outside the scan"),
        ({"image": IMAGE, "colour": 1}, "colour is not something a viewer has"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_sent(given, told, monkeypatch):
    monkeypatch.setattr(ipywidgets.Widget, "open", lambda _: pytest.fail("the page was told of it"))
    with pytest.raises(ViewerError, match=told):
        SliceViewer(**given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("slice", 6), ("slice", -1), ("cursor", (0, 7, 0)), ("threshold", 1.5)],
        *[("opacity", -1), ("zoom", 0.5), ("window", (5, 5)), ("place", 2)],
    ],
)
def test_a_trait_out_of_range_is_refused_and_keeps_its_value(name, value):
    viewer = SliceViewer(IMAGE, LABEL)
    before = getattr(viewer, name)
    with pytest.raises(ViewerError, match=name):
        setattr(viewer, name, value)
    assert getattr(viewer, name) == before


def test_slice_plane_and_cursor_go_together():
    viewer = SliceViewer(IMAGE, cursor=(1, 2, 3))
    assert viewer.slice == 1
    viewer.plane = "sagittal"
    assert viewer.slice == 3
    viewer.slice = 7
    assert viewer.cursor == (1, 2, 7)
    viewer.plane = "three"
    viewer.cursor = (5, 6, 0)
    assert viewer.slice == 5


def test_traits_can_be_observed():
    viewer, seen = SliceViewer(IMAGE), []
    viewer.observe(lambda change: seen.append(change.new), "slice")
    viewer.cursor = (0, 0, 0)
    assert seen == [0]


def test_the_reading_has_the_values_under_the_cross_hair():
    viewer = SliceViewer(IMAGE, LABEL, {"D": MAP}, cursor=(1, 2, 3))
    expected = {"cursor": [1, 2, 3], "intensity": float(IMAGE[1, 2, 3]), "label": True}
    assert viewer.reading == expected | {"probability": {"D": float(MAP[1, 2, 3])}}
    viewer.cursor = (0, 0, 0)
    assert viewer.reading["label"] is False


def test_places_are_the_lesions_and_a_place_moves_the_cross_hair():
    viewer = SliceViewer(IMAGE, LABEL)
    assert viewer.places[["slice", "row", "column"]].values.tolist() == [[1, 2.5, 3], [4, 5, 6]]
    viewer.place = 1
    assert viewer.cursor == (4, 5, 6)


def test_a_viewer_opens_on_the_fullest_slice_of_the_label():
    assert SliceViewer(IMAGE, LABEL).cursor[0] == 1
    assert SliceViewer(IMAGE).cursor == (3, 3, 4)


def test_the_volume_is_sent_once_when_the_page_asks_and_arrives_whole(sent):
    viewer = SliceViewer(IMAGE, LABEL, {"D": MAP, "truth": LABEL}, affine=np.diag([3.0, 1, 1, 1]))
    messages = sent(viewer)
    viewer.slice = 2
    assert not messages
    ready(viewer)
    ((header, buffers),) = messages
    assert header["shape"] == list(SHAPE)
    assert header["spacing_mm"] == [3, 1, 1]
    assert header["maps"] == ["D", "truth"]
    image, label, first, second = (np.frombuffer(zlib.decompress(part), np.uint8) for part in buffers)
    low, high = header["intensity"]
    np.testing.assert_allclose(low + image.reshape(SHAPE) / 255 * (high - low), IMAGE.clip(low, high), atol=0.5)
    np.testing.assert_array_equal(np.unpackbits(label, bitorder="little")[: LABEL.size].reshape(SHAPE), LABEL)
    np.testing.assert_allclose(first.reshape(SHAPE) / 255, MAP, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(second.reshape(SHAPE) == 255, LABEL)
    viewer.slice = 3
    assert len(messages) == 1


def test_another_scan_of_another_shape_can_be_shown(sent):
    viewer = SliceViewer(IMAGE, LABEL, plane="sagittal", slice=7)
    messages = sent(viewer)
    ready(viewer)
    viewer.show(IMAGE[:3, :4, :5], caption="small")
    assert viewer.slice == viewer.cursor[2] == 2
    assert [content["caption"] for content, _ in messages] == ["", "small"]
    assert messages[1][0]["version"] == viewer.version == 2


def test_viewers_do_not_disturb_one_another(sent):
    one, other = SliceViewer(IMAGE), SliceViewer(IMAGE)
    to_other = sent(other)
    one.slice, one.threshold = 0, 0.9
    ready(one)
    assert (other.slice, other.threshold, to_other) == (3, 0.2, [])


def test_nothing_of_the_volume_is_in_the_saved_state():
    big = np.tile(RNG.random((32, 32, 32)).astype(np.float32), (2, 4, 4))
    state = ipywidgets.Widget.get_manager_state(widgets=[SliceViewer(big, big > 0.9, {"D": big})])
    saved = json.dumps(state)
    assert not [model for model in state["state"].values() if "buffers" in model]
    assert len(saved) < 100_000  # the program and a few numbers; the scan has a million voxels
    assert len(saved) - len(SliceViewer._esm) - len(SliceViewer._css) < 10_000


def test_a_saved_notebook_shows_a_still_picture():
    bundle, *_ = SliceViewer(IMAGE, LABEL, {"D": MAP, "E": MAP})._repr_mimebundle_()
    assert WIDGET in bundle
    assert bundle["text/plain"] == "SliceViewer(6 x 7 x 8 voxels, D, E)"
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_a_cleaned_notebook_keeps_the_still_picture_and_drops_the_widget():
    data, *_ = SliceViewer(IMAGE)._repr_mimebundle_()
    bar = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "x"}, "text/plain": "training: 0%"})
    cell = nbformat.v4.new_code_cell("viewer", outputs=[nbformat.v4.new_output("display_data", data), bar])
    (output,) = clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert set(output.data) == {"image/png", "text/plain"}


def test_the_montage_has_a_line_a_map_and_the_slices_asked_for():
    figure = SliceViewer(IMAGE, LABEL, {"D": MAP, "E": MAP}).montage([4, 1])
    assert [ax.get_title() for ax in figure.axes[:-1]] == ["D, slice 1", "D, slice 4", "E, slice 1", "E, slice 4"]


def test_the_montage_says_whose_it_is_and_has_a_scale_in_mm_and_a_bar_of_colours():
    ax, bar = (figure := SliceViewer(IMAGE, LABEL, {"D": MAP}, spacing_mm=(5, 9, 10), caption="P1").montage([3])).axes
    assert figure.get_suptitle() == "P1, D"
    assert bar.get_ylabel() == "probability of lesion"
    assert np.ptp(ax.lines[0].get_xdata()) == pytest.approx(5), "5 cm, of 10 mm voxels"
    (alone,) = (figure := SliceViewer(IMAGE, LABEL, caption="P1").montage([3])).axes  # no map, and voxels of any size
    assert figure.get_suptitle() == "P1"
    assert not alone.lines


def test_the_montage_keeps_proportions_in_mm():
    figure = SliceViewer(IMAGE, spacing_mm=(5, 2, 1)).montage([3])
    (ax,) = figure.axes
    assert ax.get_aspect() == 2
    figure.savefig("/dev/null", format="png")


def test_the_frame_holds_head_and_label():
    image = np.zeros((20, 30, 40), np.float32)
    image[8:12, 10:20, 15:25] = 100
    label = np.zeros(image.shape, bool)
    label[2, 11, 37] = True
    assert head_box(checked_volumes(image)) == [[4, 17], [6, 25], [11, 30]]
    assert head_box(checked_volumes(image, label))[2] == [11, 40]


def test_a_constant_image_can_be_shown():
    header, _ = packed(checked_volumes(np.full(SHAPE, 7.0)))
    assert header["intensity"] == [7, 8]
    assert SliceViewer(np.full(SHAPE, 7.0)).window[0] < SliceViewer(np.full(SHAPE, 7.0)).window[1]


def test_the_front_end_is_one_module_that_loads_nothing_from_the_network():
    for text in (SliceViewer._esm, SliceViewer._css):
        assert "http" not in str(text).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"^\s*import\b|import\(|@import", str(text), re.MULTILINE)
    assert str(SliceViewer._esm).count("export default") == 1


def test_the_colour_of_heat_is_that_of_the_figures():
    table = re.search(r"const INFERNO = \[(.*?)\];", str(SliceViewer._esm), re.DOTALL)[1]
    stops = np.array(re.findall(r"\d+", table), int).reshape(-1, 3)
    np.testing.assert_allclose(stops, 255 * matplotlib.colormaps["inferno"](np.linspace(0, 1, 9))[:, :3], atol=3)
