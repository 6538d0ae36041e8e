"""Networks against the counts and map sizes that the thesis printed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kit.models as models
from kit.models import NETWORKS, Beside, ModelError, Network, build, load_weights, save_weights

PRINTED = {"A": 509_570, "B": 729_090, "C": 730_818, "D": 1_651_490, "G": 2_147_738, "H": 2_295_322}
MAPS = {
    "A": "45 43 41 20 18 8 6 4 1",
    "B": "49 47 45 22 20 9 7 5 3 1 1",
    "C": "49 47 45 22 20 9 7 5 3 1 1",
    "D": "51 49 47 23 21 10 8 6 4 2 2 1",
    "G": "51 49 47 23 21 10 8 6 2 2 2 2 1",
    "H": "51 49 47 23 21 10 8 6 2 2 2 2 2 1",
    "E": "51 49 47 23 21 10 8 6 4 2 2 1",
    "F": "51 49 47 23 21 10 8 6 4 2 2 1",
    "FCN": "17 15 13 11 9 7",
}
BESIDE = {"E": "5 5 5", "F": "91 13 11 9"}
D_TRUNK = 1_651_490 - (96 + 1) * 1024 - (1024 + 1) * 1024 - (1024 + 1) * 2  # D without its FC layers
REPRODUCED = PRINTED | {
    "E": D_TRUNK
    + (5 + 1) * 48  # conv1-48 on 5 slices
    + (48 + 1) * 5  # conv1-5
    + (96 + 5 * 5 * 5 + 1) * 1024  # FC-1024 on both paths
    + (1024 + 1) * 1024
    + (1024 + 1) * 2,
    "F": D_TRUNK
    + (5 * 7 * 7 + 1) * 64  # sparse[7,5]-64-5: only the taps have weights
    + (64 * 3 * 3 + 1) * 64 * 2  # conv3-64 twice
    + (96 + 64 * 9 * 9 + 1) * 1024
    + (1024 + 1) * 1024
    + (1024 + 1) * 2,
    "FCN": (5 * 9 + 1) * 48
    + (48 * 9 + 1) * 64
    + (64 * 9 + 1) * 96
    + (96 * 9 + 1) * 96
    + (96 * 9 + 1) * 64
    + (64 * 7 * 7 + 1) * 512  # conv7-512
    + (512 + 1) * 512  # conv1-512
    + (512 + 1) * 2,  # conv1-2
}
TINY = Network("tiny", (1, 9, 9), "conv3-4 mp-3-2 conv3-4", (8, 2))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PRINTED)
def test_parameter_counts_are_the_published_ones(name):
    built = sum(p.numel() for p in build(name, seed=0).parameters())
    assert built == models.parameter_count(name) == NETWORKS[name].printed_parameters == PRINTED[name]


@pytest.mark.parametrize("name", ["E", "F", "FCN"])
def test_parameter_counts_of_e_f_and_fcn_are_those_of_their_printed_layers(name):
    built = sum(p.numel() for p in build(name, seed=0).parameters())
    assert built == models.parameter_count(name) == REPRODUCED[name]
    assert REPRODUCED == REPRODUCED | {"E": 1_780_023, "F": 7_049_506, "FCN": 2_093_538}


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_published_sizes_in_the_table_and_in_the_module(name):
    sizes = [int(size) for size in MAPS[name].split()]
    assert models.map_sizes(name) == sizes
    beside = [int(size) for size in BESIDE.get(name, "").split()]
    assert not beside or models.map_sizes(name, "beside") == beside
    network, seen = build(name, seed=0), []
    network.trunk.register_forward_pre_hook(lambda _, patches: seen.append(patches[0].shape[-1]))
    if beside:
        network.beside.register_forward_pre_hook(lambda _, patches: seen.append(patches[0].shape[-1]))
    for module in [*network.trunk, *(network.beside or ())]:
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.register_forward_hook(lambda _, __, out: seen.append(out.shape[-1]))
    logits = network(torch.zeros(2, *network.patch_shape))
    assert seen == sizes + beside
    assert logits.shape == (2, 2)


def test_the_rows_read_as_the_tables_do():
    assert list(NETWORKS) == ["A", "B", "C", "D", "E", "F", "G", "H", "FCN"]
    assert NETWORKS["D"].layers == NETWORKS["E"].layers == NETWORKS["F"].layers
    assert {name for name, row in NETWORKS.items() if row.training_shape != row.patch_shape} == {"FCN"}
    assert NETWORKS["FCN"].training_shape == build("FCN", seed=0).training_shape == (5, 22, 22)
    assert build("E", seed=0).training_shape == (5, 51, 51)
    assert (NETWORKS["D"].patch_shape, NETWORKS["D"].fc) == ((5, 51, 51), (1024, 1024, 2))
    assert NETWORKS["B"].layers == NETWORKS["C"].layers
    assert NETWORKS["H"].layers.split().count("conv3-128") == NETWORKS["G"].layers.split().count("conv3-128") + 1
    assert "conv3-48" in NETWORKS["A"].note
    assert "FC-512" in NETWORKS["D"].note


def test_layer_table_adds_up_to_the_published_count():
    table = models.layer_table("G")
    assert table.columns.tolist() == [
        "layer",
        "kernel",
        "padding",
        "features",
        "map_in",
        "map_out",
        "sees",
        "parameters",
    ]
    assert table.parameters.sum() == PRINTED["G"]
    assert table[table.padding > 0].layer.tolist() == ["conv3-164", "conv3-128", "conv3-128"]
    assert table.map_out.tolist()[:-1] == table.map_in.tolist()[1:]


def test_layer_table_tells_two_paths_apart():
    table = models.layer_table("F")
    assert table.columns.tolist() == ["path", *models.layer_table("D").columns]
    assert table.groupby("path", sort=False).parameters.sum().tolist() == [D_TRUNK, 89_600, 6_459_394]
    main, beside = (table[table.path == path] for path in ("main", "beside"))
    assert main.layer.tolist() == NETWORKS["D"].layers.split()
    assert beside.layer.tolist() == ["sparse[7,5]-64-5", "conv3-64", "conv3-64"]
    assert table.parameters.sum() == REPRODUCED["F"]


def test_network_table_shows_both_counts():
    table = models.network_table().set_index("network")
    assert table.reproduced.to_dict() == REPRODUCED
    assert table.printed.to_dict() == PRINTED | {"E": 3_391_919, "F": 4_785_346, "FCN": 729_090}
    assert table.weight_layers.to_dict() == dict(zip(NETWORKS, [8, 10, 10, 11, 13, 14, 11, 12, 8], strict=True))
    assert all(table.note[table.printed != table.reproduced])
    assert table.paths["E"] == "main 51x51, beside 5x5"


def test_the_padding_rule_clips_pooling_and_pads_only_oversized_kernels():
    row = Network("rule", (1, 5, 5), "conv3-2 conv3-2 conv5-2 mp-3-2 mp-2-2", (2,))
    assert models.map_sizes(row) == [5, 3, 1, 1, 1, 1]
    assert build(row)(torch.zeros(1, 1, 5, 5)).shape == (1, 2)


def test_e_looks_again_at_the_centre_of_its_patch_and_f_at_the_wide_surroundings():
    e, patch = build("E", seed=0).eval(), noise(2, 5, 51, 51)
    features = e.trunk(patch).flatten(1), e.beside(patch[:, :, 23:28, 23:28]).flatten(1)
    torch.testing.assert_close(e(patch), e.head(torch.cat(features, 1)))
    f, patch = build("F", seed=0).eval(), noise(2, 5, 91, 91)
    features = f.trunk(patch[:, :, 20:71, 20:71]).flatten(1), f.beside(patch).flatten(1)
    torch.testing.assert_close(f(patch), f.head(torch.cat(features, 1)))


def test_the_sparse_convolution_has_7x7_taps_five_apart_and_moves_by_five():
    sparse, patch = build("F", seed=0).beside[0], noise(5, 91, 91)
    lines = 5 * np.arange(13)[:, None] + 5 * np.arange(7)  # (place, tap)
    taps = patch.numpy()[:, lines[:, None, :, None], lines[None, :, None, :]]  # (slice, row, column, tap row, column)
    expected = np.einsum("srcij,fsij->frc", taps, sparse.weight.detach().numpy())
    np.testing.assert_allclose(sparse(patch[None])[0].detach().numpy(), expected, rtol=0, atol=1e-4)
    assert lines.max() == 90  # no line of the patch is left out at its end


@pytest.mark.parametrize("shape", [(22, 22), (17, 23), (21, 18)])
def test_fcn_gives_larger_patches_the_logits_of_every_patch_within_them(shape):
    network, large = build("FCN", seed=0).eval(), noise(2, 5, *shape)
    logits = network(large)
    assert logits.shape == (2, 2, shape[0] - 16, shape[1] - 16)
    for row, column in np.ndindex(*logits.shape[2:]):
        one = network(large[:, :, row : row + 17, column : column + 17])
        assert one.shape == (2, 2)
        torch.testing.assert_close(logits[:, :, row, column], one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [17, 22])
def test_dropout_works_on_single_patches_and_on_larger_ones(side):
    network, patches = build("FCN", seed=0), noise(1, 5, side, side)
    assert not torch.equal(network(patches), network(patches))
    network.eval()
    assert torch.equal(network(patches), network(patches))


@pytest.mark.parametrize("name", ["D", "E", "F", "FCN"])
def test_a_step_of_training_reaches_every_weight_and_lowers_the_loss(name):
    network, rng = build(name, seed=0).eval(), torch.Generator().manual_seed(0)
    patches = noise(4, *network.training_shape)
    logits = network(patches)
    label = torch.randint(2, (4, *logits.shape[2:]), generator=rng)
    before = nn.functional.cross_entropy(logits, label)
    before.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    torch.optim.SGD(network.parameters(), 1e-4).step()
    assert nn.functional.cross_entropy(network(patches), label) < before


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, again, other, unseeded = (build("A", seed=seed).state_dict() for seed in (3, 3, 4, None))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["trunk.0.weight"], other["trunk.0.weight"])
    assert not torch.equal(first["trunk.0.weight"], unseeded["trunk.0.weight"])


def test_he_initialisation_keeps_the_scale_of_the_signal():
    state = build("D", seed=0).state_dict()
    assert state["head.1.weight"].std() == pytest.approx((2 / 96) ** 0.5, rel=0.02)
    assert state["trunk.2.weight"].std() == pytest.approx((2 / (9 * 48)) ** 0.5, rel=0.02)
    assert all(not tensor.any() for name, tensor in state.items() if name.endswith("bias"))


def test_dropout_follows_each_hidden_fc_layer_only():
    head = [type(module).__name__ for module in build("D", seed=0).head]
    assert head == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert {m.p for m in build("D", seed=0).modules() if isinstance(m, nn.Dropout)} == {0.5}


def test_channels_last_gives_the_same_logits():
    network = build("C", seed=0).eval()
    patches = torch.randn(2, 5, 49, 49, generator=torch.Generator().manual_seed(1))
    expected = network(patches)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(patches.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Z", "no network 'Z'.*A, B, C, D, E, F, G, H, FCN"),
        ("fcn", "did you mean 'FCN'"),
        ("d", "did you mean 'D'"),
        (7, "no network 7"),
        (Network("x", (1, 9, 9), "conv3-4 cnov3-4", (2,)), "'cnov3-4'"),
        (Network("x", (1, 9, 9), "conv0-4", (2,)), "'conv0-4'"),
        (Network("x", (1, 9, 9), "conv3-0", (2,)), "'conv3-0'"),
        (Network("x", (1, 9, 9), "mp-3", (2,)), "'mp-3'"),
        (Network("x", (1, 3, 3), "conv4-8", (2,)), "'conv4-8' on a 3x3 map"),
        (Network("x", (1, 9, 9), "conv3-4", (8, 3)), "ending in 2"),
        (Network("x", (1, 9, 9), "conv3-4", ()), "ending in 2"),
        (Network("x", (1, 8, 8), "conv3-4", (2,)), "odd"),
        (Network("x", (1, 9, 11), "conv3-4", (2,)), "odd, equal"),
        (Network("x", (2, 9, 9), "conv3-4", (2,)), "odd slices"),
        (Network("x", (1, 9, 9), "sparse[3,2]-4", (2,)), r"'sparse\[3,2\]-4'; write .*sparse\[<kernel>,<distance>\]"),
        (Network("x", (1, 9, 9), "sparse[3]-4-2", (2,)), r"'sparse\[3\]-4-2'"),
        (Network("x", (1, 9, 9), "sparse[3,0]-4-2", (2,)), r"'sparse\[3,0\]-4-2'"),
        (Network("x", (1, 9, 9), "sparse[3,2]-4-0", (2,)), r"'sparse\[3,2\]-4-0'"),
        (Network("x", (1, 9, 9), "sparse[3,5]-4-2", (2,)), r"'sparse\[3,5\]-4-2' is 11 wide on a 9x9 map"),
        (Network("x", (1, 9, 9), "conv3-4", (2,), beside=Beside(5, "conv3-4 cnov3-4")), "'cnov3-4'"),
        (Network("x", (1, 9, 9), "conv3-4", (2,), beside=Beside(4, "conv1-4")), r"windows \[9, 4\]"),
        (
            Network("x", (1, 9, 9), "conv3-4", (2,), beside=Beside(11, "conv1-4")),
            r"windows \[9, 11\].*widest of them 9",
        ),
        (Network("x", (1, 9, 9), "conv3-4", (2,), window=5), r"windows \[5\]"),
        (Network("x", (1, 9, 9), "conv3-4", (2,), training_side=8), "training_side 8"),
        (Network("x", (1, 9, 9), "conv3-4 mp-3-2", (2,), training_side=12), "training_side 12.*stack of unpadded"),
    ],
)
def test_bad_rows_name_what_is_wrong(network, words):
    with pytest.raises(ModelError, match=words):
        build(network)


def test_the_maps_of_a_path_that_is_not_there_are_refused():
    with pytest.raises(ModelError, match="network D has no path 'beside'; choose one of main"):
        models.map_sizes("D", "beside")


@pytest.mark.parametrize("name", ["A", "D", "E", "F"])
def test_networks_that_pool_or_have_two_paths_take_their_own_patches_only(name):
    network = build(name, seed=0)
    slices, side, _ = network.patch_shape
    for shape in ((2, slices, side + 2, side + 2), (2, slices + 1, side, side), (slices, side, side)):
        with pytest.raises(ModelError, match=rf"{slices}, {side}, {side}\), got \("):
            network(torch.zeros(shape))


@pytest.mark.parametrize(
    "shape", [(2, 5, 16, 22), (2, 5, 22, 16), (2, 4, 22, 22), (5, 22, 22), (5, 17), (1, 2, 5, 22, 22)]
)
def test_fcn_takes_no_smaller_patches_and_no_other_slices(shape):
    with pytest.raises(ModelError, match=r"\(N, 5, 17, 17\) or with more rows or columns, got"):
        build("FCN", seed=0)(torch.zeros(shape))


def test_a_patch_of_the_wrong_shape_is_named():
    with pytest.raises(ModelError, match=r"\(N, 1, 9, 9\), got \(2, 1, 9, 8\)"):
        build(TINY)(torch.zeros(2, 1, 9, 8))


def test_weights_come_back_bit_for_bit_with_their_metadata(tmp_path):
    network, path = build("A", seed=1), tmp_path / "a.safetensors"
    save_weights(network.to(memory_format=torch.channels_last), path, {"seed": "1"})
    for loaded in (load_weights("A", path), load_weights(build("A", seed=2), path)):
        pairs = zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert models.weights_metadata(path) == {"network": "A", "seed": "1"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", ["E", "FCN"])
def test_weights_of_both_paths_are_stored(tmp_path, name):
    network, path = build(name, seed=1), tmp_path / "some.safetensors"
    save_weights(network, path)
    loaded = load_weights(build(name, seed=2), path).state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in network.state_dict().items())
    assert {key.split(".")[0] for key in loaded} == ({"trunk", "beside", "head"} if name == "E" else {"trunk", "head"})


def test_weights_of_networks_with_one_path_keep_their_names():
    keys = [f"{part}.{k}" for part in ("trunk.0", "trunk.2", "trunk.5", "trunk.8", "trunk.10", "trunk.12", "trunk.14",
            "trunk.16", "head.1", "head.4", "head.7") for k in ("weight", "bias")]  # fmt: skip
    network = load_weights("D", Path(__file__).parents[2] / "weights" / "D.safetensors")
    assert list(network.state_dict()) == keys


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(build("B", seed=0), tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="weights of network B, not of C"):
        load_weights("C", tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"head.1.bias": torch.zeros(9)}, r"head.1.bias has shape \(9,\), network tiny needs \(8,\)"),
        (lambda t: {k: v for k, v in t.items() if k != "head.1.bias"}, "head.1.bias has shape missing"),
        (lambda t: t | {"extra": torch.zeros(1)}, "extra .* no such tensor"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, change, words):
    network, path = build(TINY, seed=0), tmp_path / "tiny.safetensors"
    save_weights(build(TINY, seed=1), path)
    save_file(change(load_file(path)), path)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match=words):
        load_weights(network, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("content", [None, b"", b"not weights at all", "half", "pickle"])
def test_missing_and_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "tiny.safetensors"
    if content == "half":
        save_weights(build(TINY), path)
        path.write_bytes(path.read_bytes()[:-40])
    elif content == "pickle":
        torch.save(build(TINY).state_dict(), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        load_weights(build(TINY), path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    network, path = build(TINY, seed=0), tmp_path / "tiny.safetensors"
    save_weights(network, path)
    before = path.read_bytes()
    with pytest.raises(ModelError, match=r"metadata 'epoch'.*got 3"):
        save_weights(network, path, {"epoch": 3})

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("kit.models.patch_network.save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_weights(network, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_weights_can_be_read_by_whoever_may_read_new_files(tmp_path):
    save_weights(build("A", seed=0), tmp_path / "A.safetensors")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "A.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", models.NETWORKS)
def test_what_a_network_sees_is_what_changes_its_answer(name):
    """Rows and columns from `sees` on, which pooling rounds away, change nothing; the last ones before them do."""
    network = models.build(name, seed=1).eval()
    patch = torch.rand(4, *network.patch_shape, generator=torch.Generator().manual_seed(2))
    sees, side = models.layer_table(name).sees.iloc[-1], network.patch_shape[1]

    def changed(place):
        other = patch.clone()
        other[:, :, place:, :] += 3
        other[:, :, :, place:] += 3
        with torch.inference_mode():
            return (network(other) - network(patch)).abs().max().item()

    assert changed(sees) == 0 or sees == side
    assert changed(sees - 1) > 0
