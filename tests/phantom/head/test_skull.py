"""The skull base and the outline of the head: materials and air lie where anatomy has them."""

import numpy as np
import pytest

from kit.phantom.head.skull import DEPTHS, FRACTIONS, SHELL_MM, head_outline, skull_base


@pytest.fixture(scope="module")
def base():
    """The skull base on a grid of 1 x 2 x 1 mm (slice, row, column), and how to read it at an MNI position."""
    box = (
        np.arange(-60, 61.0)[None, None],
        np.arange(90, -51.0, -2)[None, :, None],
        np.arange(-72, 1.0)[:, None, None],
    )
    box = tuple(b.astype(np.float32) for b in box)
    volumes = skull_base(np.full(np.broadcast_shapes(*(b.shape for b in box)), 20, np.float32), box)
    parts = dict(zip((*FRACTIONS, *DEPTHS), volumes, strict=True))
    return lambda name, x, y, z: float(parts[name][int(z + 72), int((90 - y) // 2), int(x + 60)])


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("fluid", (32, 60, -36)),  # the globe
        ("fat", (22, 50, -42)),  # behind it
        ("muscle", (20, 34, -33)),  # the optic nerve
        ("marrow", (0, -12, -50)),  # the clivus
        ("bone", (40, -26, -44)),  # the petrous pyramid
        ("enhancing", (12, 0, -36)),  # the cavernous sinus
    ],
)
def test_each_material_fills_its_places_on_both_sides(base, name, place):
    x, y, z = place
    assert base(name, x, y, z) > 0.95
    assert base(name, -x, y, z) > 0.95


def test_air_is_deep_in_the_sinuses_and_there_is_none_in_the_eye(base):
    assert base("sinus", 32, 46, -60) - 6 > 4
    assert base("nose", 0, 8, -60) - 6 > 4  # the pharynx
    assert max(base(name, 32, 60, -36) for name in DEPTHS) < 1  # 6 mm added: more than 5 mm away


def test_cells_are_small_and_have_walls(base):
    line = np.array([base("cells", 9, y, -36) - 6 for y in range(26, 70, 2)])
    assert (line > 0.2).sum() >= 3
    assert (line < 0).sum() >= 3
    assert line.max() < 5


def test_a_round_head_gets_its_face_and_neck_and_keeps_its_vault():
    x, y, z = (np.arange(*r, dtype=np.float32) for r in ((-90, 91, 4), (110, -131, -4), (-70, 111, 4)))
    box = (x[None, None], y[None, :, None], z[:, None, None])
    outside = np.sqrt(box[0] ** 2 + (box[1] + 15) ** 2 + (box[2] - 8) ** 2) - 75
    extra = head_outline(outside.astype(np.float32), box)
    skin = SHELL_MM + extra - outside  # mm below the skin

    def at(*place):
        return tuple(int(np.abs(axis - mm).argmin()) for axis, mm in zip((z, y, x), place[::-1], strict=True))

    assert extra.min() >= 0
    assert extra[at(0, -15, 90)] < 0.5
    assert skin[at(0, 60, -62)] > 5 > 0 > outside[at(0, -15, 8)]
    assert skin[at(0, -70, -62)] > 5
    assert skin[at(0, 105, 60)] < 0
