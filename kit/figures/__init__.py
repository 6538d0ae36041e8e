"""Every figure of the notebooks and of the report, by the notebook that shows it first."""

from kit.figures.evaluation import (  # notebook 11
    dice_of_lesions,
    false_positive_histograms,
    false_positive_positions,
    false_positives_of_scans,
    froc_curve,
    precision_recall,
    published_point,
    recall_over_size,
    recall_over_size_curves,
    reliability_diagram,
)
from kit.figures.experiments import (  # notebooks 02 to 09, 13, 15
    border_profiles,
    change_plot,
    curve_multiples,
    forest_plot,
    found_matrix,
    froc_lines,
    froc_multiples,
    learning_curves,
    learning_multiples,
    lesion_panel,
    map_gallery,
    path_layers,
    path_windows,
    sample_panel,
    scheme_panel,
    training_curves,
    training_panel,
)
from kit.figures.fragments import (  # notebook 10
    agreement,
    fragment_sizes,
    minutes_a_scan,
    padded_kernel,
    twin_maps,
    weave,
    weaving_steps,
)
from kit.figures.related import budget_curve, change_panel, method_froc, plane_line, template_panel  # notebook 12
from kit.figures.report import write_report
from kit.figures.rules import CASES, count_cases, rule_bars, rule_case  # notebook 16
from kit.figures.slices import (
    contact_sheet,
    finding_crops,
    frame_head,
    probability_bar,
    scale_bar,
    show_slice,
    three_planes,
    window_of,
)
from kit.figures.statistics import (  # notebook 01
    COARSE_VOXELS,
    compare_lesions,
    compare_looks,
    contrast_of_look_alikes,
    intensity_per_slice,
    lesion_size_histogram,
    shape_against_size,
    shape_complexity_histogram,
    shape_gallery,
)
from kit.figures.style import BLUE, GREEN, KIND_COLOURS, RED, clear, network_style, network_styles
