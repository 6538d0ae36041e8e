"""The dense form against its slow twins: patch by patch through the network, and dilated instead of fragmented."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from kit.models import NETWORKS, Beside, ModelError, Network, best_dtype, build, dense, probability_map

TINY = Network("tiny", (3, 11, 11), "conv3-6 mp-3-2 conv2-6 mp-2-2 conv3-5", (8, 2))
TOKENS = ["conv1-3", "conv2-4", "conv3-4", "conv5-3", "mp-2-1", "mp-2-2", "mp-3-2", "mp-3-3", "mp-2-3"]
TOKENS += ["sparse[2,2]-3-2", "sparse[3,2]-4-1", "sparse[2,3]-2-3"]
FEW = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def lively(row, image=None, seed=0):
    """A network whose random weights give probabilities all over 0 to 1 on patches like this scan's."""
    network = build(row, seed=seed).eval()
    image = scan((5, 30, 30)) if image is None else image
    mask = np.random.default_rng(0).permutation(image.size).reshape(image.shape) < 64
    with torch.no_grad():
        network.trunk[0].bias += 0.1
        logits = network(patches_around(image, mask, network.patch_shape))
        scale = 1 / (logits[:, 1] - logits[:, 0]).std().clamp(min=0.2)
        network.head[-1].weight *= scale
        network.head[-1].bias -= scale * logits.mean(0)
    return network


def scan(shape, seed=0):
    """Noise of varying loudness, so that patches differ."""
    rng = np.random.default_rng(seed)
    loudness = 0.5 + 1.5 * rng.random(shape[-1])
    return (rng.normal(size=shape) * loudness).astype(np.float32)


def patches_around(image, mask, patch_shape):
    """Patches around the mask's voxels; beyond the scan they see its minimum."""
    padded = np.pad(image, [(side // 2, side // 2) for side in patch_shape], constant_values=image.min())
    windows = np.lib.stride_tricks.sliding_window_view(padded, patch_shape)  # one patch a voxel of the image
    return torch.from_numpy(windows[mask])


def patch_by_patch(network, image, mask):
    """The slow twin: classify every patch by itself."""
    result = np.zeros(image.shape, np.float32)
    with torch.no_grad():
        result[mask] = network(patches_around(image, mask, network.patch_shape)).softmax(1)[:, 1]
    return result


def dilated(network, image):
    """The other twin: strides taken out, and whatever follows them dilated; the last maps are cut out one by one."""
    half = [side // 2 for side in network.patch_shape]
    padded = np.pad(image, [(side, side) for side in half], constant_values=image.min())
    maps = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(padded, network.patch_shape[0], axis=0).copy())
    maps = maps.permute(0, 3, 1, 2)  # (slice of the scan, slice of the patch, row, column)
    features = []
    for modules, window in network.paths:
        inner = slice(half[1] - window // 2, window // 2 - half[1] or None)
        features.append(dilated_path(list(modules), window, maps[:, :, inner, inner], image.shape))
    return network.head(torch.cat(features, 1)).softmax(1)[:, 1].reshape(image.shape)


def dilated_path(trunk, side, maps, shape):
    """Features of every voxel of a scan of that shape along one path: (voxels, features * row * column)."""
    step = 1
    while trunk and not (isinstance(trunk[0], nn.Conv2d) and trunk[0].padding != (0, 0)):
        layer = trunk.pop(0)
        if isinstance(layer, nn.Conv2d):
            (distance, _), (stride, _) = layer.dilation, layer.stride
            maps = F.conv2d(maps, layer.weight, layer.bias, dilation=step * distance)
            side, step = (side - (layer.kernel_size[0] - 1) * distance - 1) // stride + 1, step * stride
        elif isinstance(layer, nn.MaxPool2d):
            maps = F.max_pool2d(maps, layer.kernel_size, stride=1, dilation=step)
            side, step = (side - layer.kernel_size) // layer.stride + 1, step * layer.stride
        else:
            maps = layer(maps)
    rows, columns = shape[1:]
    places = [(row * step, column * step) for row in range(side) for column in range(side)]
    own = torch.stack([maps[:, :, r : r + rows, c : c + columns] for r, c in places], -1)
    own = own.permute(0, 2, 3, 1, 4).reshape(np.prod(shape), -1, side, side)  # (voxel, features, side, side)
    return nn.Sequential(*trunk)(own).flatten(1)


def assert_same(network, image, mask):
    found, expected = probability_map(network, image, mask), patch_by_patch(network, image, mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    return expected[mask]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_voxel_of_a_scan_smaller_than_its_patches_agrees_with_its_own_patch(name):
    image = scan((3, 6, 9))
    network = lively(name, image)
    values = assert_same(network, image, np.ones(image.shape, bool))
    assert values.std() > 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_scattered_voxels_and_corners_of_a_larger_scan_agree_with_their_own_patches(name):
    image = scan((4, 67, 58), seed=1)
    network = lively(name, image, seed=1)
    mask = np.random.default_rng(2).random(image.shape) < 0.004
    mask[np.ix_((0, -1), (0, -1), (0, -1))] = True
    mask[2] = False  # a slice without a voxel to look at
    values = assert_same(network, image, mask)
    assert values.std() > 0.05
    assert np.ptp(values) > 0.3


@pytest.mark.parametrize("name", ["A", "D", "E", "F", "G", "FCN"])
def test_fragments_equal_the_dilated_form(name):
    image = scan((2, 21, 26))
    network = lively(name, image)
    with torch.no_grad():
        np.testing.assert_allclose(probability_map(network, image), dilated(network, image), rtol=0, atol=1e-5)


@FEW
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    low=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 99),
)
def test_a_is_exact_for_any_size_of_scan_and_place_of_the_mask(shape, low, seed):
    image, mask = scan(shape, seed), np.zeros(shape, bool)
    start = [int(part * (size - 1)) for part, size in zip(low, shape[1:], strict=True)]
    mask[0, start[0] : start[0] + 5, start[1] : start[1] + 6] = True
    assert_same(LIVELY_A, image, mask)


LIVELY_A = lively("A")


@FEW
@given(
    tokens=st.lists(st.sampled_from(TOKENS), max_size=6),
    side=st.sampled_from([1, 3, 9, 13, 17]),
    slices=st.sampled_from([1, 3]),
)
def test_any_row_that_can_be_built_is_exact(tokens, side, slices):
    row = Network("any", (slices, side, side), " ".join(["conv1-2", *tokens]), (6, 2))
    try:
        network = lively(row)
    except ModelError:  # an even kernel on a smaller map
        assume(False)
    image = scan((2, 8, 11))
    assert_same(network, image, np.ones(image.shape, bool))


@FEW
@given(
    main=st.lists(st.sampled_from(TOKENS), max_size=4),
    beside=st.lists(st.sampled_from(TOKENS), max_size=4),
    windows=st.sampled_from([(13, 5), (13, 13), (5, 13), (9, 1), (1, 9)]),
)
def test_any_two_paths_that_can_be_built_are_exact(main, beside, windows):
    second = Beside(windows[1], " ".join(["conv1-3", *beside]))
    tokens = " ".join(["conv1-2", *main])
    row = Network("any", (3, max(windows), max(windows)), tokens, (6, 2), window=windows[0], beside=second)
    try:
        network = lively(row)
    except ModelError:
        assume(False)
    image = scan((2, 8, 11))
    assert_same(network, image, np.ones(image.shape, bool))


@pytest.mark.parametrize("name", ["E", "F", "FCN"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 13), (1, 23, 7)])
def test_odd_scans_agree_with_their_own_patches(name, shape):
    image = scan(shape)
    assert_same(lively(name), image, np.ones(shape, bool))


@pytest.mark.parametrize("name", ["E", "F", "FCN"])
def test_voxels_of_several_chunks_are_joined_in_their_order(name, monkeypatch):
    network, image = lively(name), scan((1, 9, 11))
    expected = probability_map(network, image)
    monkeypatch.setattr("kit.models.dense.CHUNK", 7)
    np.testing.assert_allclose(probability_map(network, image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tail", ["sparse[2,1]-3-3", "sparse[2,2]-3-1 conv5-2"])
def test_a_sparse_convolution_behind_a_zero_padded_one_is_exact(tail):
    row, image = Network("tail", (1, 11, 11), f"conv7-4 conv7-4 {tail}", (6, 2)), scan((2, 8, 11))
    assert_same(lively(row), image, np.ones(image.shape, bool))


def test_a_second_path_without_layers_passes_its_voxels_on():
    row = Network("raw", (3, 11, 11), "conv3-6 mp-3-2", (8, 2), beside=Beside(3, ""))
    image = scan((2, 8, 11))
    assert_same(lively(row), image, np.ones(image.shape, bool))


def test_weights_of_the_second_path_that_are_not_finite_are_refused():
    network = build("E", seed=0)
    network.beside[0].weight.data[0, 0] = torch.inf
    with pytest.raises(ModelError, match="network E: weights are not finite"):
        probability_map(network, np.zeros((1, 3, 3)))


def test_without_a_mask_every_voxel_is_computed_and_outside_a_mask_the_map_is_zero():
    network, image = lively(TINY), scan((3, 10, 12))
    everywhere = probability_map(network, image)
    assert (everywhere > 0).all()
    mask = image > 0.5
    np.testing.assert_allclose(probability_map(network, image, mask), everywhere * mask, rtol=0, atol=1e-6)
    assert not probability_map(network, image, np.zeros(image.shape, bool)).any()


def test_the_air_around_a_scan_is_its_minimum():
    network, image = lively(TINY), scan((3, 10, 12))
    surrounded = np.pad(image, 9, constant_values=image.min())
    inner = probability_map(network, surrounded)[9:-9, 9:-9, 9:-9]
    np.testing.assert_allclose(probability_map(network, image), inner, rtol=0, atol=1e-6)


def test_memory_order_and_number_type_do_not_matter():
    network, image = lively(TINY), np.round(scan((3, 10, 12)) * 4)
    expected = probability_map(network, image)
    turned = np.ascontiguousarray(image.transpose(2, 0, 1)[::-1])[::-1].transpose(1, 2, 0)
    assert not turned.flags.c_contiguous
    for other in (turned, image.astype(np.float64), image.astype(np.int16), image.astype(">f4"), image.tolist()):
        np.testing.assert_array_equal(probability_map(network, other), expected)
    assert not probability_map(network, image, turned > 0).any(where=image <= 0)


def test_a_network_in_training_is_evaluated_without_dropout_and_left_as_it_was():
    network, image = lively(TINY), scan((3, 10, 12))
    expected = probability_map(network, image)
    network.train()
    network.head[1].eval()  # modes need not be the same everywhere
    modes = [m.training for m in network.modules()]
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.random.get_rng_state()
    np.testing.assert_array_equal(probability_map(network, image), expected)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_channels_last_and_half_precision_networks_are_taken_too():
    network, image = lively(TINY), scan((3, 10, 12))
    expected = probability_map(network, image)
    last = probability_map(network.to(memory_format=torch.channels_last), image)
    np.testing.assert_allclose(last, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(probability_map(network.bfloat16(), image), expected, rtol=0, atol=0.1)


def test_bfloat16_is_near_but_not_the_same():
    network, image = lively("A"), scan((1, 12, 12))
    exact, rough = probability_map(network, image), probability_map(network, image, dtype="bfloat16")
    assert 1e-5 < np.abs(exact - rough).max() < 5e-2
    assert rough.dtype == np.float32


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_reduced_precision_is_off_meanwhile_and_then_as_it_was(precision, monkeypatch):
    def exact():
        matmul = torch.backends.cuda.matmul
        return matmul.fp32_precision == "ieee" if hasattr(torch.backends.cudnn, "conv") else not matmul.allow_tf32

    def linear(*args, **options):
        seen.append(exact())
        return plain(*args, **options)

    seen, plain, network = [], F.linear, lively(TINY)
    monkeypatch.setattr("kit.models.fragments.F.linear", linear)
    torch.set_float32_matmul_precision(precision)
    try:
        before = exact()
        probability_map(network, np.zeros((1, 3, 3)))
        assert (exact(), torch.get_float32_matmul_precision()) == (before, precision)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen
    assert all(seen)


def test_progress_is_shown_only_when_asked_for(capsys):
    network, image = lively(TINY), scan((2, 5, 5))
    probability_map(network, image)
    assert capsys.readouterr() == ("", "")
    probability_map(network, image, progress=True)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "mask", "words"),
    [
        (np.zeros((4, 5)), None, r"shape \(4, 5\)"),
        (np.zeros((1, 2, 4, 5)), None, r"shape \(1, 2, 4, 5\)"),
        (np.zeros((0, 4, 5)), None, r"shape \(0, 4, 5\)"),
        (np.zeros((2, 4, 5), complex), None, "complex128"),
        (np.where(np.arange(40).reshape(2, 4, 5) == 27, np.nan, 0), None, r"not finite at .* \(1, 1, 2\)"),
        (np.where(np.arange(40).reshape(2, 4, 5) == 0, -np.inf, 0), None, r"not finite at .* \(0, 0, 0\)"),
        (np.zeros((2, 4, 5)), np.ones((2, 5, 4), bool), r"mask of shape \(2, 5, 4\)"),
        (np.zeros((2, 4, 5)), np.ones((4, 5), bool), r"mask of shape \(4, 5\)"),
    ],
)
def test_images_and_masks_that_cannot_be_read_are_named(image, mask, words):
    with pytest.raises(ValueError, match=words):
        probability_map(build(TINY, seed=0), image, mask)


def test_auto_is_the_fastest_precision_of_the_device():
    network, image = build(TINY, seed=0), np.random.default_rng(0).normal(size=(2, 6, 7))
    fast = probability_map(network, image, device="cpu", dtype=best_dtype("cpu"))
    np.testing.assert_array_equal(probability_map(network, image, device="cpu", dtype="auto"), fast)


def test_networks_and_dtypes_that_cannot_be_used_are_named():
    image, diverged = np.zeros((2, 4, 5)), build(TINY, seed=0)
    with pytest.raises(ValueError, match=r"'float16'.*float32, bfloat16"):
        probability_map(diverged, image, dtype="float16")
    with pytest.raises(ModelError, match="Linear is no patch network"):
        probability_map(nn.Linear(3, 2), image)
    diverged.head[1].bias.data[0] = torch.nan
    with pytest.raises(ModelError, match="tiny: weights are not finite"):
        probability_map(diverged, image)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_gives_the_same_even_where_tf32_is_allowed(name):
    network, image = lively(name), scan((3, 20, 23))
    torch.set_float32_matmul_precision("high")
    try:
        found = probability_map(network, image, device="cuda")
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(found, probability_map(network, image, device="cpu"), rtol=0, atol=1e-5)


def test_parts_of_a_mask_that_lie_far_apart_are_mapped_one_by_one_to_the_same_values(monkeypatch):
    image = np.random.default_rng(3).normal(size=(2, 130, 140)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[0, :5, :7] = mask[0, 120:, 130:] = mask[1, 40:44, 3:9] = mask[1, 46, 6] = True
    network = build("A", seed=2)
    calls, whole = [], dense._Mapper.slice_probability
    monkeypatch.setattr(
        dense._Mapper, "slice_probability", lambda self, slab, part: calls.append(part.sum()) or whole(self, slab, part)
    )
    found = probability_map(network, image, mask, device="cpu")
    assert calls == [35, 100, 25]  # two boxes in the first slice, one around both parts in the second
    monkeypatch.setattr(dense, "_parts", lambda part, border: [part])
    np.testing.assert_allclose(found, probability_map(network, image, mask, device="cpu"), rtol=0, atol=5e-6)


@pytest.mark.parametrize(("look", "slack"), [("float32", 1e-4), ("bfloat16", 0.02)])
@pytest.mark.parametrize("name", [TINY, "A"])
def test_of_a_map_above_a_value_each_component_is_exact_and_whole_or_missing(name, look, slack, monkeypatch):
    monkeypatch.setattr(dense, "best_dtype", lambda device: look)
    image = ndimage.gaussian_filter(scan((10, 60, 70)), (1, 2, 2)) * 5
    network = lively(name, image)
    whole = probability_map(network, image)
    above = np.quantile(whole, 0.97)
    found = probability_map(network, image, above=above)
    assert 0 < np.count_nonzero(found) < 0.6 * found.size
    np.testing.assert_allclose(found[found > 0], whole[found > 0], rtol=0, atol=1e-5)
    parts, count = ndimage.label(whole > above + 1e-4, np.ones((3, 3, 3)))
    there = [np.unique(found[parts == part] > 0) for part in range(1, count + 1)]
    assert all(len(some) == 1 for some in there)
    kept = [part for part, some in enumerate(there, 1) if some[0]]
    looked_at = np.zeros(image.shape, bool)
    for start, (row, column) in enumerate([(0, 0), (2, 2), (0, 2), (2, 0)]):  # in every fourth slice each
        looked_at[start::4, row::4, column::4] = True
    assert set(np.unique(parts[looked_at & (whole > above + slack)])) - {0} <= set(kept)
    assert 3 < len(kept) < count


def test_nothing_above_a_value_leaves_an_empty_map():
    assert not probability_map(lively(TINY), scan((3, 20, 20)), above=0.9999999).any()


def test_a_lattice_is_refused_where_only_what_exceeds_a_value_is_computed():
    with pytest.raises(ValueError, match=r"step is 4, above 0.1: .*give one of the two"):
        probability_map(lively(TINY), scan((3, 20, 20)), above=0.1, step=4)


def test_parts_near_each_other_share_a_box_and_nothing_is_lost():
    mask = np.zeros((90, 90), bool)
    mask[2:5, 2:5] = mask[8:11, 2:5] = mask[2:5, 9:12] = mask[80:84, 80:90] = True
    parts = dense._parts(mask, border=10)
    assert [part.sum() for part in parts] == [27, 40]
    assert (sum(part.astype(int) for part in parts) == mask).all()


@pytest.mark.parametrize(
    ("can", "dtype"),
    [
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx2": True, "amx_bf16": False}, "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_its_hardware_does(monkeypatch, can, dtype):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: can, raising=False)
    assert best_dtype("cpu") == dtype
