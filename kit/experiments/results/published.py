"""What the thesis published, as data; "not published" where it has no figure.

Source: the 2015 master's thesis on detecting and segmenting brain metastases with convolutional networks that this kit
reproduces; table and chapter numbers are its own.
"""

import pandas as pd

COHORT = {
    "scans": 621, "patients": 493, "lesions": 1675, "lesions_per_scan": 2.7, "mean_radius_mm": 5.0,
    "negatives_per_positive": 3800, "smaller_than_5mm_cubed_of_those_below_30mm_cubed": 0.38,
    "test_scans": 50, "test_lesions": 122, "slices_per_scan": 160,
}  # fmt: skip
SCANS_PER_PATIENT = {1: 394, 2: 74, 3: 21, 4: 4}  # Table 1.1
MINUTES_PER_SCAN = (60, 90)  # patch by patch on a Quadro K4000; the clinic allows 10 (chapter 6)

SCORES = ("recall", "precision", "dice", "dice_healthy")
COLUMNS = [
    "patches_worth",
    "scans",
    "lesions",
    "chance",
    *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")),
]


def published_row(name):
    """What the thesis published of an experiment, as one row of `comparison_table`; all NaN where that is nothing.

    Table 5.5, of partitions; for the FCN Table 5.6, of whole scans.
    """
    fcn = published_whole_scans("FCN").set_axis(["FCN"])
    published = pd.concat([published_sampled(), fcn])
    row = published.assign(scans=50, lesions=122).reindex([name])
    return row.reindex(columns=COLUMNS).rename_axis("experiment")


def published_sampled():
    """Table 5.5: partitions around every test lesion and as much healthy tissue, theta 0.5, indexed by experiment.

    `patches_worth` is not printed there: about so many, from the epochs and voxels that the thesis gives.

    >>> published_sampled().loc["D", "recall"]
    np.float64(0.847)
    """
    few, many = 40e6, 220e6
    rows = {
        "A": (0.898, 0.517, 0.563, 0.994, few), "B": (0.915, 0.478, 0.532, 0.995, few),
        "C": (0.831, 0.715, 0.612, 0.996, few), "D": (0.847, 0.752, 0.662, 0.996, few),
        "E": (0.831, 0.605, 0.572, 0.996, few), "F": (0.756, 0.425, 0.340, 0.997, few),
        "G": (0.898, 0.525, 0.660, 0.997, many), "G-Pairs": (0.856, 0.340, 0.645, 0.997, many),
        "G-Eroded-Pairs": (0.941, 0.407, 0.598, 0.998, many), "H-Eroded-Pairs": (0.924, 0.574, 0.580, 0.997, many),
    }  # fmt: skip
    columns = [*SCORES, "patches_worth"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("experiment")


def published_whole_scans(network):
    """The thesis on its 50 whole test scans with 122 lesions, theta 0.5: Table 6.1 (D), Table 5.6 (FCN).

    One row a minimum volume, below which components are removed; no row for any other network.

    >>> published_whole_scans("D")[["min_volume_mm3", "tp", "fp"]].values.tolist()
    [[0, 105, 4068], [40, 101, 379], [80, 99, 228], [150, 96, 138]]
    """
    if network == "FCN":
        rows = [{"min_volume_mm3": 0, "recall": 0.893, "precision": 0.0023, "dice": 0.190, "dice_healthy": 0.999}]
        return pd.DataFrame(rows).assign(scans=50)
    columns = ["min_volume_mm3", "tp", "fn", "fp", "recall", "precision", "fp_per_scan", "fp_per_slice"]
    rows = [
        (0, 105, 17, 4068, 0.861, 0.025, 83, 0.52), (40, 101, 21, 379, 0.828, 0.210, 7.7, 0.05),
        (80, 99, 23, 228, 0.811, 0.303, 4.7, 0.03), (150, 96, 26, 138, 0.787, 0.410, 2.8, 0.02),
    ]  # fmt: skip
    return pd.DataFrame(rows if network == "D" else [], columns=columns).assign(scans=50)
