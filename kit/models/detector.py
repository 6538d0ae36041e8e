"""Detectors: from a raw scan to a probability map."""

from dataclasses import dataclass

from kit.models.dense import probability_map
from kit.models.patch_network import build, load_weights, weights_metadata
from kit.scans import normalise


@dataclass(frozen=True)
class Detector:
    """A trained network with the intensities it was trained on.

    `statistics` is the (mean, s.d.) of the training cohort, or None where each scan is normalised by its own.
    """

    network: object
    statistics: tuple | None = None

    @classmethod
    def load(cls, name, path):
        """Read a network's weights; their metadata say how its scans were normalised."""
        network = build(name)
        load_weights(network, path)
        told = weights_metadata(path)
        return cls(network, (float(told["mean"]), float(told["sd"])) if "mean" in told else None)

    def __call__(self, image, mask=None, **options):
        """Map a raw image to a probability map, see `probability_map`."""
        return probability_map(self.network, normalise(image, *(self.statistics or (None, None))), mask, **options)
