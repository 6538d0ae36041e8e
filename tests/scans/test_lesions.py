import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from kit.scans import as_mask, components, lesion_table

SPACING = (2.5, 0.9, 1.3)
COLUMNS = ["component", "voxels", "volume_mm3", "diameter_mm", "size_mm", "sigma_r", "centre", "box"]


def random_label(seed, shape=(6, 9, 8), share=0.08):
    return np.random.default_rng(seed).random(shape) < share


def ball(radius_mm, spacing_mm):
    """A ball in the middle of a scan with at least one empty voxel on every side."""
    half = [int(radius_mm / spacing) + 2 for spacing in spacing_mm]
    offsets = np.meshgrid(
        *(np.arange(-h, h + 1) * spacing for h, spacing in zip(half, spacing_mm, strict=True)), indexing="ij"
    )
    return sum(offset**2 for offset in offsets) <= radius_mm**2


def components_by_search(label):
    """Slow twin: visit voxels in reading order and flood each new lesion over its 26 neighbours."""
    numbers, count = np.zeros(label.shape, int), 0
    for start in map(tuple, np.argwhere(label)):
        if numbers[start]:
            continue
        count += 1
        front = [start]
        while front:
            here = front.pop()
            if min(here) < 0 or any(p >= n for p, n in zip(here, label.shape, strict=True)):
                continue
            if label[here] and not numbers[here]:
                numbers[here] = count
                front += [tuple(np.add(here, step) - 1) for step in np.ndindex(3, 3, 3)]
    return numbers


def sigma_r_by_loops(lesion, spacing):
    """Slow twin: one lesion, its hull found by looking at the six neighbours of each voxel in a padded copy."""
    padded = np.pad(lesion, 1)
    voxels = np.argwhere(padded)
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    hull = [v for v in voxels if not all(padded[tuple(v + step)] for step in steps)]
    centre = voxels.mean(axis=0)
    radius = np.array([np.sqrt((((v - centre) * spacing) ** 2).sum()) for v in hull])
    return np.sqrt(((radius / radius.mean() - 1) ** 2).mean())


@pytest.mark.parametrize("share", [0.02, 0.08, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_components_are_numbered_in_reading_order_as_a_plain_search_does(seed, share):
    label = random_label(seed, share=share)
    numbers = components(label)
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(numbers, components_by_search(label))


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 1, 1), (1, 5, 7), (3, 3, 3), (7, 7, 7)])
def test_no_scan_has_too_many_lesions(shape):
    label = np.zeros(shape, bool)
    label[::2, ::2, ::2] = True
    assert components(label).max() == label.sum()


def test_lesions_that_touch_at_a_corner_are_one_lesion():
    label = np.zeros((3, 4, 4), bool)
    label[0, 0, 0] = label[1, 1, 1] = True
    label[0, 3, 3] = True
    assert components(label).max() == 2
    assert lesion_table(label, SPACING).voxels.tolist() == [2, 1]


def test_memory_order_and_dtype_of_a_label_change_nothing():
    label = random_label(3)
    for same in (
        np.asfortranarray(label),
        label.astype(np.uint8),
        label.astype(float),
        np.pad(label, 2)[2:-2, 2:-2, 2:-2],
    ):
        np.testing.assert_array_equal(components(same), components(label))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.08, 0.3, 0.7]))
def test_table_agrees_with_each_lesion_looked_at_alone(seed, share):
    label = random_label(seed, (4, 7, 6), share)
    table, numbers = lesion_table(label, SPACING), components_by_search(label)
    assert len(table) == numbers.max()
    for row in table.itertuples():
        lesion = numbers == row.component
        volume = lesion.sum() * np.prod(SPACING)
        assert row.voxels == lesion.sum()
        assert row.volume_mm3 == pytest.approx(volume)
        assert row.size_mm**3 == pytest.approx(volume)
        assert 4 / 3 * np.pi * (row.diameter_mm / 2) ** 3 == pytest.approx(volume)
        assert row.centre == pytest.approx(ndimage.center_of_mass(lesion))
        assert tuple(slice(*side) for side in row.box) == ndimage.find_objects(lesion.astype(int))[0]
        if row.voxels > 1:
            assert row.sigma_r == pytest.approx(sigma_r_by_loops(lesion, SPACING), abs=1e-12)


def test_sigma_r_of_a_drawn_line_of_three():
    # distances 2, 0, 2 mm: mean 4/3, so relative deviations 1/2, -1, 1/2
    label = np.zeros((3, 3, 5), bool)
    label[1, 1, 1:4] = True
    assert lesion_table(label, (7, 7, 2)).sigma_r.item() == pytest.approx(np.sqrt(0.5))


def test_sigma_r_is_undefined_for_one_voxel_and_nought_for_two():
    label = np.zeros((1, 1, 5), bool)
    label[0, 0, [0, 3, 4]] = True
    sigma_r = lesion_table(label, SPACING).sigma_r
    assert np.isnan(sigma_r[0])
    assert sigma_r[1] == 0


def test_sigma_r_leaves_out_what_lies_inside_and_counts_the_scan_edge_as_outside():
    block = np.ones((5, 5, 5), bool)
    in_the_middle = lesion_table(np.pad(block, 2), SPACING).sigma_r.item()
    hollow = block.copy()
    hollow[2, 2, 2] = False  # opens a hull inside, so the measure must change
    assert lesion_table(block, SPACING).sigma_r.item() == pytest.approx(in_the_middle)
    assert lesion_table(hollow, SPACING).sigma_r.item() != pytest.approx(in_the_middle)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1.5, 0.5, 0.75)])
def test_a_ball_has_its_diameter_and_a_small_sigma_r_at_any_spacing(spacing):
    row = lesion_table(ball(10, spacing), spacing).iloc[0]
    assert row.diameter_mm == pytest.approx(20, rel=0.01)
    assert row.sigma_r < 0.05


def test_sigma_r_of_a_stretched_lesion_is_larger():
    voxels = ball(6, (1, 1, 1))
    assert lesion_table(voxels, (3, 1, 1)).sigma_r.item() > 5 * lesion_table(voxels, (1, 1, 1)).sigma_r.item()


def test_a_lesion_at_the_scan_edge_has_its_box_to_the_edge():
    label = np.zeros((3, 4, 5), bool)
    label[2, 3, 2:] = True
    row = lesion_table(label, SPACING).iloc[0]
    assert row.box == ((2, 3), (3, 4), (2, 5))
    assert row.centre == (2, 3, 3)


def test_a_label_without_lesion_gives_the_same_columns_and_no_row():
    table = lesion_table(np.zeros((3, 4, 5)), SPACING)
    full = lesion_table(np.ones((3, 4, 5)), SPACING)
    assert list(table.columns) == list(full.columns) == COLUMNS
    assert table.empty
    assert (table.dtypes == full.dtypes).all()


def test_the_volume_at_a_limit_does_not_depend_on_the_order_of_the_axes():
    spacing = (0.1, 0.7, 1 / 0.07)  # one cubic millimetre, but for the last bit
    volumes = [lesion_table(np.ones((2, 5, 5)), np.roll(spacing, turn)).volume_mm3.item() for turn in range(3)]
    assert volumes == [50, 50, 50]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((2, 2, 2), 3), "label holds 3"),
        (np.full((2, 2, 2), 0.5), r"label holds 0\.5"),
        (np.full((2, 2, 2), np.nan), "label holds nan"),
        (np.zeros((4, 4), bool), r"shape \(4, 4\)"),
        (np.zeros((1, 4, 4, 4), bool), r"shape \(1, 4, 4, 4\)"),
    ],
)
def test_what_is_no_label_is_refused_with_the_value_found(label, message):
    with pytest.raises(ValueError, match=message):
        lesion_table(label, SPACING)


def test_the_message_calls_the_array_as_the_caller_does():
    with pytest.raises(ValueError, match="truth holds 2"):
        as_mask(np.full((1, 1, 1), 2), "truth")


@pytest.mark.parametrize("spacing", [1.0, (1, 1), (1, 0, 1), (1, -1, 1), (1, np.nan, 1), (1, np.inf, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="three positive numbers"):
        lesion_table(np.ones((2, 2, 2)), spacing)
