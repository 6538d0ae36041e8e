"""Every figure of the notebooks and of the report."""

from kit.figures.evaluation import (
    dice_of_lesions,
    drawn_case,
    false_positive_histograms,
    false_positive_positions,
    false_positives_of_scans,
    froc_curve,
    precision_recall_over_filters,
    recall_over_size_curves,
    reliability_diagram,
    rule_bars,
)
from kit.figures.experiments import (
    border_profiles,
    drawn_voxels,
    forest,
    learning_curves,
    legend_of_reasons,
    sample_patches,
    step_plot,
)
from kit.figures.fragments import (
    draw_agreement,
    draw_map_sizes,
    draw_minutes,
    draw_padded_tail,
    draw_twins,
    draw_weaving,
    weave,
)
from kit.figures.report import write_report
from kit.figures.rules import CASES, MIDDLE, SHAPE, arrays, count_cases
from kit.figures.slices import (
    BLUE,
    COARSE_VOXELS,
    KIND_COLOURS,
    RED,
    clear,
    contrast_beside_look_alikes,
    finding_crops,
    frame_head,
    intensity_per_slice,
    lesion_size_histogram,
    network_style,
    precision_recall,
    published_point,
    recall_over_size,
    shape_against_size,
    shape_complexity_histogram,
    shape_gallery,
    show_slice,
    three_planes,
    training_curves,
    window_of,
)
