"""Synthetic scans with known truth, and lesions put into scans that are given."""

from kit.phantom.anatomy import SHAPE, draw_head, smooth_field
from kit.phantom.cohort import (
    Lesion,
    draw_lesions,
    draw_scan,
    fingerprint,
    implant,
    is_phantom,
    make_missing,
    make_scan,
    plan_cohort,
    same_fingerprint,
)
