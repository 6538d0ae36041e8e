"""Networks against the counts and map sizes that the thesis printed."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kit import models
from kit.models import NETWORKS, ModelError, Network, build, load_weights, save_weights

PRINTED = {"A": 509_570, "B": 729_090, "C": 730_818, "D": 1_651_490, "G": 2_147_738, "H": 2_295_322}
MAPS = {
    "A": "45 43 41 20 18 8 6 4 1",
    "B": "49 47 45 22 20 9 7 5 3 1 1",
    "C": "49 47 45 22 20 9 7 5 3 1 1",
    "D": "51 49 47 23 21 10 8 6 4 2 2 1",
    "G": "51 49 47 23 21 10 8 6 2 2 2 2 1",
    "H": "51 49 47 23 21 10 8 6 2 2 2 2 2 1",
}
TINY = Network("tiny", (1, 9, 9), "conv3-4 mp-3-2 conv3-4", (8, 2))


@pytest.mark.parametrize("name", PRINTED)
def test_parameter_counts_are_the_published_ones(name):
    built = sum(p.numel() for p in build(name, seed=0).parameters())
    assert built == models.parameter_count(name) == NETWORKS[name].printed_parameters == PRINTED[name]


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_published_sizes_in_the_table_and_in_the_module(name):
    sizes = [int(size) for size in MAPS[name].split()]
    assert models.map_sizes(name) == sizes
    network, seen = build(name, seed=0), [sizes[0]]
    for module in network.trunk:
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.register_forward_hook(lambda _, __, out: seen.append(out.shape[-1]))
    logits = network(torch.zeros(2, *network.patch_shape))
    assert seen == sizes
    assert logits.shape == (2, 2)


def test_the_rows_read_as_the_tables_do():
    assert (NETWORKS["D"].patch_shape, NETWORKS["D"].fc) == ((5, 51, 51), (1024, 1024, 2))
    assert NETWORKS["B"].layers == NETWORKS["C"].layers
    assert NETWORKS["H"].layers.split().count("conv3-128") == NETWORKS["G"].layers.split().count("conv3-128") + 1
    assert "conv3-48" in NETWORKS["A"].note
    assert "FC-512" in NETWORKS["D"].note


def test_layer_table_adds_up_to_the_published_count():
    table = models.layer_table("G")
    assert table.columns.tolist() == ["layer", "kernel", "padding", "features", "map_in", "map_out", "parameters"]
    assert table.parameters.sum() == PRINTED["G"]
    assert table[table.padding > 0].layer.tolist() == ["conv3-164", "conv3-128", "conv3-128"]
    assert table.map_out.tolist()[:-1] == table.map_in.tolist()[1:]


def test_network_table_shows_both_counts():
    table = models.network_table().set_index("network")
    assert table.printed.to_dict() == table.reproduced.to_dict() == PRINTED
    assert table.weight_layers.to_dict() == {"A": 8, "B": 10, "C": 10, "D": 11, "G": 11, "H": 12}


def test_the_padding_rule_clips_pooling_and_pads_only_oversized_kernels():
    row = Network("rule", (1, 5, 5), "conv3-2 conv3-2 conv5-2 mp-3-2 mp-2-2", (2,))
    assert models.map_sizes(row) == [5, 3, 1, 1, 1, 1]
    assert build(row)(torch.zeros(1, 1, 5, 5)).shape == (1, 2)


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
        ("Z", "no network 'Z'.*A, B, C, D, G, H"),
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
    ],
)
def test_bad_rows_name_what_is_wrong(network, words):
    with pytest.raises(ModelError, match=words):
        build(network)


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

    monkeypatch.setattr(models, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_weights(network, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.safetensors"]
