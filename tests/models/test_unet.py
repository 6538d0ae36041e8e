"""The U-Net's block map: whole where one block suffices, seamless where several are needed, and read from its file."""

import numpy as np
import pytest
import torch
from torch import nn

from kit.models import ModelError, UNet, UNetDetector, block_map, build, dice_and_cross_entropy, save_weights
from kit.scans import normalise

SMALL = (8, 16)


def test_the_map_of_a_scan_that_is_one_block_is_one_pass():
    network, image = UNet(SMALL), np.random.default_rng(0).normal(0, 1, (16, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        whole = torch.sigmoid(network(torch.from_numpy(image)[None, None]))[0, 0].numpy()
    np.testing.assert_allclose(block_map(network, image, side=16), whole, atol=1e-6)


def test_a_scan_smaller_than_a_block_is_padded_with_air_and_cut_back():
    network, image = UNet(SMALL), np.random.default_rng(0).normal(0, 1, (10, 16, 13)).astype(np.float32)
    padded = np.pad(image, ((0, 6), (0, 0), (0, 3)), constant_values=image.min())
    np.testing.assert_allclose(
        block_map(network, image, side=16), block_map(network, padded, side=16)[:10, :, :13], atol=1e-6
    )


@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_the_network_is_left_as_it_was_and_auto_is_the_devices_fastest_dtype(fastest, monkeypatch):
    monkeypatch.setattr("kit.models.dense.best_dtype", lambda device: fastest)
    network, image = UNet(SMALL).train(), np.random.default_rng(0).normal(0, 1, (16, 16, 16)).astype(np.float32)
    found = {word: block_map(network, image, side=16, dtype=word) for word in ("auto", "float32", "bfloat16")}
    assert network.training
    np.testing.assert_array_equal(found["auto"], found[fastest])
    assert not np.array_equal(found["float32"], found["bfloat16"])
    with pytest.raises(ValueError, match="dtype 'float61': choose one of auto, float32, bfloat16"):
        block_map(network, image, side=16, dtype="float61")


class Local(nn.Module):
    """Sees one voxel only: whatever the blocks, the map must be that of a whole pass."""

    def forward(self, x):
        return 3 * x - 1


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_blocks_cover_every_voxel_of_the_mask_and_nothing_else(overlap):
    rng = np.random.default_rng(0)
    image, mask = rng.normal(0, 1, (30, 21, 40)), rng.random((30, 21, 40)) < 0.1
    found = block_map(Local(), image, mask, side=16, overlap=overlap)
    expected = np.where(mask, 1 / (1 + np.exp(1 - 3 * image)), 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not block_map(Local(), image, np.zeros(mask.shape, bool), side=16).any()


def test_dice_and_cross_entropy_by_hand():
    logits, label = torch.tensor([[[0.0, 2.0, -1.0]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    p = 1 / (1 + np.exp([0.0, -2.0, 1.0]))
    dice = (2 * p[1] + 1) / (p.sum() + 1 + 1)
    cross_entropy = -np.mean(np.log([1 - p[0], p[1], 1 - p[2]]))
    assert dice_and_cross_entropy(logits, label).item() == pytest.approx(1 - dice + cross_entropy, rel=1e-5)


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn_from():
    before = torch.get_rng_state()
    first, again, other = (UNet(SMALL, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_standard_size_has_about_two_million_parameters():
    assert 1e6 < sum(part.numel() for part in UNet().parameters()) < 2.5e6


def test_a_detector_comes_back_from_its_file_and_normalises_as_it_was_trained(tmp_path):
    network = UNet(SMALL, seed=3)
    save_weights(network, tmp_path / "u.safetensors", {"widths": "8 16", "intensities": "scan", "seed": "3"})
    image = np.random.default_rng(0).normal(300, 50, (16, 16, 16)).astype(np.float32)
    found = UNetDetector.load(tmp_path / "u.safetensors")(image, side=16)
    np.testing.assert_allclose(found, block_map(network, normalise(image, "scan"), side=16), atol=1e-6)


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(build("A", seed=0), tmp_path / "A.safetensors")
    with pytest.raises(ModelError, match="not of a U-Net"):
        UNetDetector.load(tmp_path / "A.safetensors")
