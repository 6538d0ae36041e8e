"""Which voxels a network is trained on, and what is read around them."""

from kit.samplers.augment import AUGMENTATIONS, TAKEN_OFF, Augmentation, augmentation_of, with_looks
from kit.samplers.cache import INTENSITIES, Cohort, prepare
from kit.samplers.draw import SCHEMES, WHY, Scheme, describe, draw, scheme_of, shell
from kit.samplers.entries import BORDER, ERODED, ERODED_BORDER, PreparedScan, SamplerError, depth_of
from kit.samplers.patches import label_maps, patches
from kit.samplers.resident import Places, Resident
from kit.samplers.segments import AROUND, COUNT, CROPS, HEALTHY, NOTHING, Lattice, choose, draw_segments, read_segments
