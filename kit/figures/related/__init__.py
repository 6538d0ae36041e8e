"""Figures of the related methods (notebook 12)."""

from kit.figures.related.methods import budget_curve, change_panel, method_froc, plane_line, template_panel
