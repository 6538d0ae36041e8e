"""A head without lesions, drawn around the MNI152 template."""

from kit.phantom.head.anatomy import Head, draw_head
from kit.phantom.head.template import REGIONS, SHAPE, mni_to_template, smooth_field, template
