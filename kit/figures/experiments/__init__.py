"""Figures of the experiments (notebooks 02 to 09, 13, 15): training, lesions, and the record."""

from kit.figures.experiments.panels import (
    drawn_voxels,
    lesion_panel,
    sample_panel,
    scheme_panel,
    training_curves,
    training_panel,
)
from kit.figures.experiments.paths import path_layers, path_windows
from kit.figures.experiments.records import (
    border_profiles,
    change_plot,
    curve_multiples,
    forest_plot,
    found_matrix,
    froc_lines,
    froc_multiples,
    learning_curves,
    learning_multiples,
    map_gallery,
)
