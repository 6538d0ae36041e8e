"""Synthetic scans with known truth, and lesions put into scans that are given."""

from kit.phantom.anatomy import draw_head
from kit.phantom.cohort import draw_scan, fingerprint, make_missing, make_scan, plan_cohort, same_fingerprint
from kit.phantom.lesions import Lesion, PhantomError, draw_lesions, implant
from kit.phantom.realism import compare_scans
from kit.phantom.template import SHAPE, smooth_field
