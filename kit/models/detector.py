"""Detectors: from a raw scan to a probability map."""

from dataclasses import dataclass
from math import log

import numpy as np

from kit.models.dense import probability_map
from kit.models.networks import ModelError
from kit.models.patch_network import build, load_weights, weights_metadata
from kit.scans import SAME_SPACING, normalise

VOXEL_MM = (1.0, 1.0, 1.0)  # what networks are trained on


@dataclass(frozen=True)
class Detector:
    """A trained network with the intensities it was trained on.

    `statistics` is the (mean, s.d.) of the training cohort, or the word by which each scan is normalised by its own,
    see `kit.scans.normalise`. `shift` is added to the logit of lesion, see `prior_shift`.
    """

    network: object
    statistics: tuple | str = "scan"
    shift: float = 0.0

    @classmethod
    def load(cls, name, path, *, calibrated=False):
        """Read a network's weights; their metadata say how its scans were normalised.

        Parameters
        ----------
        name : str
            A key of `kit.models.NETWORKS`.
        path : path
            Written by `kit.models.save_weights`.
        calibrated : bool
            Undo the prior that training taught (`prior_shift`). Thresholds of the thesis, and all of this kit's
            results, are for maps without it. Of a network that learnt from hard negatives the prior is not known.

        Raises
        ------
        ModelError
            For weights that cannot be read, or with `calibrated` where the metadata lack the two shares.
        """
        network, about = load_weights(build(name), path), weights_metadata(path)
        if calibrated and not {"lesion_share", "prior"} <= about.keys():
            raise ModelError(
                f"{path}: the prior that it was trained on is not known (no lesion_share and prior in its metadata, "
                "as for networks that learnt from hard negatives); load it with calibrated=False"
            )
        shift = prior_shift(float(about["lesion_share"]), float(about["prior"])) if calibrated else 0.0
        own = about.get("intensities", "scan")
        return cls(network, (float(about["mean"]), float(about["sd"])) if "mean" in about else own, shift)

    def __call__(self, image, mask=None, *, spacing_mm=VOXEL_MM, **options):
        """Map a raw image, of 1 mm voxels, to a probability map, see `kit.models.probability_map`."""
        require_voxels(spacing_mm)
        image = normalise(image, self.statistics)
        return probability_map(self.network, image, mask, shift=self.shift, **options)


def require_voxels(spacing_mm):
    """Refuse voxels of another size than networks are trained on, in a ModelError; those `load_row` leaves are none.

    >>> require_voxels((1.0, 1.0, 1.0156))
    """
    if not np.allclose(spacing_mm, VOXEL_MM, rtol=SAME_SPACING, atol=0):
        size = " x ".join(f"{step:g}" for step in spacing_mm)
        raise ModelError(f"voxels are {size} mm, networks see 1 mm: resample the scan, as kit.scans.load_row does")


def prior_shift(learnt, prior):
    """What to add to the logit of lesion so that a network trained on one share of lesion speaks for another.

    A network that learns from as many lesion as healthy voxels answers as if every second voxel were lesion. By Bayes'
    rule its logits differ from those for the true share by a constant (Saerens et al. 2002, Neural Computation 14:21,
    eq. 2.4). The choice of hard negatives shifts them back by an amount that is not known: undoing the classes' share
    alone would leave such a network too timid by as much.

    Parameters
    ----------
    learnt : float in (0, 1)
        Share of lesion in the training loss, such as `kit.samplers.Scheme.lesion_share`.
    prior : float in (0, 1)
        Share of lesion where the network is used, such as that of the training scans' search regions.

    Examples
    --------
    >>> prior_shift(0.5, 0.5), round(prior_shift(0.5, 0.001), 2)
    (0.0, -6.91)
    """
    for name, value in (("learnt", learnt), ("prior", prior)):
        if not 0 < value < 1:
            raise ModelError(f"{name} is {value}; give a share between 0 and 1")
    return log(prior / (1 - prior)) - log(learnt / (1 - learnt))
