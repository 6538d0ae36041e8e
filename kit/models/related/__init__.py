"""The related methods of the thesis' chapter 2: templates, scale space and symmetry, change between sessions."""

from kit.models.related.candidates import METHODS, CandidateDetector, paint, propose
from kit.models.related.change import CHANGES, ChangeDetector, FollowUps, change_posterior, match_intensities
from kit.models.related.scale_space import blob_candidates, laplacian_scale_space, scale_maxima
from kit.models.related.symmetry import Plane, find_plane, mirrored
from kit.models.related.template import correlate, match_templates, shell_template, template_candidates
