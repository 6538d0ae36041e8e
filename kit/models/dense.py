"""A patch network over a whole scan: the same function as patch by patch, slice by slice in `kit.models.fragments`."""

import copy
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from scipy import ndimage
from tqdm.auto import tqdm

from kit.models.fragments import Fragments
from kit.models.networks import ModelError

CHUNK = 2048  # voxels in one matrix product: enough to be efficient, few enough to stay in the cache
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def probability_map(network, image, mask=None, *, device="auto", dtype="float32", step=1, shift=0.0, progress=False):
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
    step : int
        Only every `step`-th row and column is computed, and the map is 0 between them: a quick look at a scan, in a
        sixteenth of the time for 4. 1: every voxel.
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
        For an image that is not three-dimensional, real and finite, a mask of another shape, or an unknown dtype.
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
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    result = np.zeros(image.shape, np.float32)
    with torch.inference_mode(), _full_float32():
        mapper = _Mapper(network, device, DTYPES[dtype], step, shift)
        padded, mask = mapper.pad(image), _on_lattice(mask, step)
        for k in tqdm(np.flatnonzero(mask.any((1, 2))), unit="slice", disable=not progress):
            for inside in _parts(mask[k], mapper.patch_shape[1] - 1):
                result[k, inside] = mapper.slice_probability(padded[k : k + mapper.patch_shape[0]], inside)
    return result


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

    def slice_probability(self, slab, mask):
        """(slices, padded rows, padded columns) and one slice's mask -> (voxels in the mask,) probabilities."""
        rows, columns = np.nonzero(mask)
        top, left = (int(line.min()) // self.step * self.step for line in (rows, columns))
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
    """A slice's mask as masks that are worth a box each: its parts where they lie far apart, else the whole.

    A box costs its area with `border` lines and columns more, so that a few lesions far apart are cheaper one by one.
    """

    def cost(box):
        return prod(side.stop - side.start + border for side in box)

    parts, count = ndimage.label(mask, np.ones((3, 3)))
    (whole,) = ndimage.find_objects(mask.astype(np.uint8))
    if count == 1 or count > 20 or sum(map(cost, ndimage.find_objects(parts))) >= cost(whole):
        return [mask]
    return [parts == number for number in range(1, count + 1)]


def _on_lattice(mask, step):
    """A mask's voxels in every step-th row and column."""
    lattice = np.zeros_like(mask)
    lattice[:, ::step, ::step] = mask[:, ::step, ::step]
    return lattice


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
