"""A patch network over a whole scan: the same function as patch by patch, slice by slice in `kit.models.fragments`."""

import copy
from contextlib import contextmanager

import numpy as np
import torch
from scipy import ndimage
from tqdm.auto import tqdm

from kit.models.fragments import Fragments
from kit.models.networks import ModelError

LOOK_STEP, LOOK_STARTS = 4, ((0, 0), (2, 2), (0, 2), (2, 0))  # a lattice, and where it begins in each of four slices
MOST_PARTS = 100  # of a slice's mask that are put into boxes
CHUNK = 2048  # voxels in one matrix product: enough to be efficient, few enough to stay in the cache
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def probability_map(
    network,
    image,
    mask=None,
    *,
    device="auto",
    dtype="float32",
    step=1,
    above=0.0,
    shift=0.0,
    progress=False,
):
    """Probability of lesion at every voxel of a scan, exactly as the network gives it patch by patch.

    Parameters
    ----------
    network : kit.models.PatchNetwork
        Used as in evaluation (no dropout) and left as it is.
    image : array_like, (slice, row, column)
        A normalised scan. A patch that reaches beyond it sees its minimum there (air), as training patches do.
    mask : array_like of bool, (slice, row, column), optional
        Where to compute; the map is 0 elsewhere. Default: everywhere.
    device : str or torch.device
        ``"auto"`` takes CUDA where there is one, else the CPU.
    dtype : str
        ``"float32"``: each value equals ``softmax(network(patch))[1]`` to 1e-5 (TF32 is off meanwhile).
        ``"bfloat16"``: faster on hardware made for it, but differs by up to about 1e-2.
        ``"auto"``: bfloat16 on such hardware, see `best_dtype`.
    step : int
        Only every `step`-th row and column is computed, and the map is 0 between them: a quick look at a scan, in a
        sixteenth of the time for 4. 1: every voxel; `above` asks for it.
    above : float
        With a positive value, such as 0.1, the scan is first looked at on a lattice of 4 that moves from slice to
        slice, in bfloat16 where the device computes in it (`best_dtype`). Only around what exceeds `above` there is
        every voxel computed, in `dtype`, outwards until nothing does; the map is 0 elsewhere. What is computed is
        exact, and a component of a threshold from `above` upwards is there as a whole or not at all: lost are small
        ones between the lattice's voxels, whose highest probability is seldom above 0.5 (benchmarks/README.md). It
        takes a quarter to a half of the time.
    shift : float
        Added to the logit of lesion at every voxel, see `prior_shift`.
    progress : bool
        Show a progress bar over slices.

    Returns
    -------
    numpy.ndarray of float32, (slice, row, column)
        In [0, 1].

    Raises
    ------
    ValueError
        For an image that is not three-dimensional, real and finite, a mask of another shape, an unknown dtype, or a
        `step` beside `above`.
    kit.models.ModelError
        For a network that is no patch network, or whose weights are not finite.

    References
    ----------
    Masci et al., "A fast learning algorithm for image segmentation with max-pooling convolutional networks", 2013.

    Examples
    --------
    >>> from kit.models.patch_network import build
    >>> probability_map(build("A", seed=0), np.zeros((2, 9, 7))).shape
    (2, 9, 7)
    """
    image, mask = _checked(image, mask)
    if above > 0 and step != 1:
        raise ValueError(f"step is {step}, above {above:g}: above computes every voxel around it; give one of the two")
    device, dtype = device_and_dtype(device, dtype)
    result = np.zeros(image.shape, np.float32)
    with torch.inference_mode(), _full_float32():
        mapper = _Mapper(network, device, dtype, step, shift)
        padded = mapper.pad(image)
        if above > 0:
            look = _Mapper(network, device, DTYPES[best_dtype(device)], LOOK_STEP, shift)
            look.fill(result, padded, _on_lattice(mask, LOOK_STEP, LOOK_STARTS), progress)
            done, todo = np.zeros_like(mask), _around(result > above) & mask
            while todo.any():
                mapper.fill(result, padded, todo, progress)
                done |= todo
                todo = _around((result > above) & done) & mask & ~done
            result[~done] = 0
        else:
            mapper.fill(result, padded, _on_lattice(mask, step), progress)
    return result


def best_dtype(device):
    """The fastest precision on a device: "bfloat16" where its hardware computes in it, else "float32".

    A CPU does with AMX or AVX-512 BF16; without, torch imitates bfloat16 at a tenth of the speed.

    >>> best_dtype("cpu") in DTYPES
    True
    """
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.4 does not say
    return "bfloat16" if can.get("amx_bf16") or can.get("avx512_bf16") else "float32"


def device_and_dtype(device, dtype):
    """What the words of `probability_map` mean: a torch.device and a torch.dtype; ValueError for an unknown dtype.

    >>> device_and_dtype("cpu", "bfloat16")
    (device(type='cpu'), torch.bfloat16)
    """
    if dtype not in {"auto", *DTYPES}:
        raise ValueError(f"dtype {dtype!r}: choose one of auto, {', '.join(DTYPES)}")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    return device, DTYPES[best_dtype(device) if dtype == "auto" else dtype]


class _Mapper:
    """A copy of a network that maps slices."""

    def __init__(self, network, device, dtype, step, shift):
        Fragments(network, step)  # refuses what is no patch network
        if not all(torch.isfinite(weight).all() for weight in network.parameters()):
            raise ModelError(f"network {network.name}: weights are not finite; its training diverged, train it again")
        self.device, self.dtype, self.patch_shape, self.step = device, dtype, network.patch_shape, step
        self.shift = torch.tensor([0.0, shift], device=device)  # of the logits: healthy, lesion
        network = copy.deepcopy(network).eval().to(device, dtype, memory_format=torch.channels_last)
        self.fragments = Fragments(network, step)
        self.tail = self.fragments.tail()

    def pad(self, image):
        """Surround the image by its minimum, so that each voxel has its patch."""
        return np.pad(image, [(side // 2, side // 2) for side in self.patch_shape], constant_values=image.min())

    def fill(self, result, padded, mask, progress):
        """Write the probabilities of a mask's voxels, of a lattice where the mapper has one, into `result`."""
        for k in tqdm(np.flatnonzero(mask.any((1, 2))), unit="slice", disable=not progress):
            for inside in _parts(mask[k], self.patch_shape[1] - 1):
                result[k, inside] = self.slice_probability(padded[k : k + self.patch_shape[0]], inside)

    def slice_probability(self, slab, mask):
        """(slices, padded rows, padded columns) and one slice's mask -> (voxels in the mask,) probabilities."""
        rows, columns = np.nonzero(mask)
        top, left = int(rows.min()), int(columns.min())  # of the lattice, where there is one
        rows, columns = torch.from_numpy(rows - top), torch.from_numpy(columns - left)
        bottom, right = (int(line.max()) + self.patch_shape[1] for line in (rows, columns))
        crop = torch.from_numpy(slab[None, :, top : top + bottom, left : left + right])
        maps = self.fragments.maps(crop.to(self.device, self.dtype, memory_format=torch.channels_last))
        found = []
        for row, column in zip(rows.split(CHUNK), columns.split(CHUNK), strict=True):
            row, column = row.to(self.device), column.to(self.device)
            logits = self.fragments.logits(maps, torch.zeros_like(row), row, column, self.tail)
            found.append((logits.float() + self.shift).softmax(1)[:, 1])
        return torch.cat(found).cpu().numpy()


def _parts(mask, border):
    """A slice's mask as masks that are worth a box each: its parts, those put together that are cheaper in one box.

    A box costs its area with `border` lines and columns more, so that a few lesions far apart are cheaper one by one.
    """
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if count > MOST_PARTS:
        return [mask]
    found = ndimage.find_objects(parts)
    boxes = np.array([[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in found])
    group = np.arange(count)
    while len(boxes) > 1:
        whole = np.minimum(boxes[:, None], boxes)  # (box, box, top left bottom right) of each two in one
        whole[..., 2:] = np.maximum(boxes[:, None], boxes)[..., 2:]
        cost, both = (np.prod(some[..., 2:] - some[..., :2] + border, axis=-1) for some in (boxes, whole))
        gain = cost[:, None] + cost - both
        np.fill_diagonal(gain, 0)
        one, other = np.unravel_index(gain.argmax(), gain.shape)
        if gain[one, other] <= 0:
            break
        boxes[one], boxes = whole[one, other], np.delete(boxes, other, axis=0)
        group[group == other] = one
        group[group > other] -= 1
    group = np.append(-1, group)[parts]  # (row, column), -1 outside
    return [group == number for number in range(len(boxes))]


def _on_lattice(mask, step, starts=((0, 0),)):
    """A mask's voxels in every step-th row and column, from the next of `starts` on in each slice."""
    lattice = np.zeros_like(mask)
    for at, (row, column) in enumerate(starts):
        some = slice(at, None, len(starts)), slice(row, None, step), slice(column, None, step)
        lattice[some] = mask[some]
    return lattice


def _around(mask):
    """A mask and what lies within 3 rows and columns and a slice of it."""
    return ndimage.maximum_filter(mask.view(np.uint8), (3, 2 * LOOK_STEP - 1, 2 * LOOK_STEP - 1)) > 0


def _checked(image, mask):
    image = np.asarray(image)
    if image.ndim != 3 or image.size == 0 or image.dtype.kind not in "fiub":
        raise ValueError(f"image {image.dtype} of shape {image.shape}: give real numbers (slice, row, column)")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        where = tuple(np.argwhere(~np.isfinite(image))[0].tolist())
        raise ValueError(f"image is not finite at (slice, row, column) {where}; replace such voxels before")
    mask = np.ones(image.shape, bool) if mask is None else np.asarray(mask) != 0
    if mask.shape != image.shape:
        raise ValueError(f"mask of shape {mask.shape} for an image of shape {image.shape}; both lie on one grid")
    return image, mask


@contextmanager
def _full_float32():
    """Keep float32 products from being rounded to TF32 or bfloat16 on the way, whatever the caller has allowed."""
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):  # torch's settings by operation refuse to be mixed with the older switches
        operations = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        settings = [(operation, "fp32_precision", "ieee") for operation in operations]
    else:
        settings = [(owner, "allow_tf32", False) for owner in (backends.cuda.matmul, backends.cudnn)]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, exact in settings:
            setattr(owner, name, exact)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)
