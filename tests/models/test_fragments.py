"""Crops through a network's layers: every voxel's value and gradient are those of its own patch."""

import pytest
import torch
from torch.nn import functional

from kit.models import NETWORKS, Fragments, ModelError, Network, build, lattice_step

STRIDED = Network("strided", (3, 19, 19), "conv3-4 mp-2-2 conv2-4 mp-3-3", (6, 2))


def crops_and_patches(network, step, rows, columns, count=2, dtype=torch.float64):
    """Random crops that hold rows x columns voxels of a lattice, and each voxel's patch, in the same order."""
    slices, side, _ = network.patch_shape
    shape = (count, slices, side + step * (rows - 1), side + step * (columns - 1))
    crops = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    patches = crops.unfold(2, side, step).unfold(3, side, step)  # (crop, slice, row, column, side, side)
    return crops, patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, slices, side, side)


def in_order(logits):
    """(crop, 2, row, column) -> (voxel, 2)."""
    return logits.permute(0, 2, 3, 1).reshape(-1, 2)


@pytest.mark.parametrize("step", [1, "lattice"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_is_that_of_its_patch(name, step):
    network = build(name, seed=0).double().eval()
    step = lattice_step(network) if step == "lattice" else step
    crops, patches = crops_and_patches(network, step, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(in_order(Fragments(network, step)(crops)), network(patches), rtol=0, atol=1e-10)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_any_step_is_exact_whether_it_divides_the_strides_or_not(step):
    network = build(STRIDED, seed=0).double().eval()
    crops, patches = crops_and_patches(network, step, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(in_order(Fragments(network, step)(crops)), network(patches), rtol=0, atol=1e-10)


@pytest.mark.parametrize("step", [1, "lattice"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_a_mean_loss_is_that_of_the_patches(name, step):
    network = build(name, seed=0).double().eval()  # without dropout, which would differ between the two
    step = lattice_step(network) if step == "lattice" else step
    crops, patches = crops_and_patches(network, step, 2, 2)
    wanted = torch.arange(len(patches)) % 2
    gradients = []
    for logits in (in_order(Fragments(network, step)(crops)), network(patches)):
        network.zero_grad()
        functional.cross_entropy(logits, wanted).backward()
        gradients.append({key: parameter.grad.clone() for key, parameter in network.named_parameters()})
    for key, gradient in gradients[1].items():
        assert gradient.abs().max() > 0, key
        torch.testing.assert_close(gradients[0][key], gradient, rtol=0, atol=1e-10)


def test_a_crop_of_one_patch_is_the_patch():
    network = build("D", seed=0).eval()
    patches = torch.randn(3, 5, 51, 51)
    with torch.no_grad():
        torch.testing.assert_close(Fragments(network, 4)(patches)[:, :, 0, 0], network(patches), rtol=0, atol=1e-5)


def test_chosen_voxels_are_those_of_the_whole_lattice():
    network = build("G", seed=0).eval()
    fragments, crops = Fragments(network, 4), torch.randn(2, 5, 63, 67)
    with torch.no_grad():
        whole = fragments(crops)
        crop, row, column = torch.tensor([1, 0, 1]), torch.tensor([3, 0, 2]), torch.tensor([4, 1, 0])
        some = fragments.logits(fragments.maps(crops), crop, 4 * row, 4 * column, fragments.tail())
    torch.testing.assert_close(some, whole[crop, :, row, column])


def test_what_is_learnt_through_crops_is_learnt_by_the_network():
    network = build("A", seed=0)
    assert {id(p) for p in Fragments(network, 4).parameters()} == {id(p) for p in network.parameters()}


def test_the_lattice_stops_at_four_voxels():
    assert {name: lattice_step(build(name, seed=0)) for name in NETWORKS} == dict.fromkeys("ABCDEFGH", 4) | {"FCN": 1}
    assert lattice_step(build(STRIDED, seed=0)) == 2  # 2 * 3 is more than 4


def test_a_module_that_is_no_patch_network_and_a_step_of_zero_are_refused():
    with pytest.raises(ModelError, match="Linear is no patch network"):
        Fragments(torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="step=0"):
        Fragments(build("A", seed=0), 0)
