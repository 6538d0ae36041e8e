"""The thesis' networks, their exact whole-scan form, and detectors made of them."""

from kit.models.blobs import find_blobs, look_alikes
from kit.models.dense import CHUNK, best_dtype, probability_map
from kit.models.detector import Detector, prior_shift
from kit.models.fragments import Fragments, lattice_step
from kit.models.networks import (
    NETWORKS,
    Beside,
    Layer,
    ModelError,
    Network,
    is_sliding,
    layer_table,
    layers,
    map_sizes,
    network_table,
    parameter_count,
    row_of,
)
from kit.models.patch_network import PatchNetwork, build, load_weights, save_weights, weights_metadata
from kit.models.related import (
    METHODS,
    CandidateDetector,
    ChangeDetector,
    FollowUps,
    Plane,
    blob_candidates,
    change_posterior,
    correlate,
    find_plane,
    laplacian_scale_space,
    match_intensities,
    match_templates,
    propose,
    shell_template,
    template_candidates,
)
from kit.models.unet import WIDTHS, UNet, UNetDetector, block_map, dice_and_cross_entropy
