"""Synthetic scans with known truth, and lesions put into scans that are given."""

from kit.phantom.cohort import draw_scan, fingerprint, make_missing, make_scan, plan_cohort, same_fingerprint
from kit.phantom.head.anatomy import draw_head
from kit.phantom.head.template import SHAPE, smooth_field
from kit.phantom.lesions import Lesion, PhantomError, draw_lesions, implant, likely_places
from kit.phantom.realism import compare_scans
from kit.phantom.surroundings import Tissue, estimate_tissue
