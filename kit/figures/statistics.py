"""What lesions of a cohort are like (notebook 01); each function draws on the axes it is given and returns them.

`lesions` is a table of `kit.scans.cohort_statistics`, one row a lesion. `compare_looks` and `compare_lesions` draw the
tables of `kit.phantom.realism.compare_scans`.
"""

from itertools import cycle

import numpy as np
from scipy.ndimage import gaussian_filter

from kit.figures.style import BLUE, GREEN, GREY, ORANGE, PALE, PURPLE, RED, SIZE, SKY, clear, labelled

COARSE_VOXELS = 27  # below it sigma_r says more of the grid than of the lesion
COARSENESS = (f"below {COARSE_VOXELS} voxels", f"{COARSE_VOXELS} voxels and more")
LIGHT = np.array([0.8, -0.45, -0.4])  # towards the lamp: (slice, row, column), length 1
RELATIVE = "intensity (median of the head = 1)"
FREQUENCIES = (0.02, 0.05, 0.1, 0.2, 0.5)  # cycles per mm
WHITE = "intensity (air 0, white matter 1)"
REAL_COLOURS, REAL_MARKERS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY), "os^Dv"
PHANTOM = {"color": GREY, "marker": "o", "alpha": 0.6, "label": "phantom"}


def lesion_size_histogram(ax, lesions):
    """Draw how large lesions are (Fig. 5.2a); the small ones of the thesis' 38 % are orange."""
    sizes = lesions.size_mm.to_numpy(float)
    bins = np.arange(0, max(sizes.max(initial=0), 5) + 1)
    ax.hist([sizes[sizes < 5], sizes[sizes >= 5]], bins, stacked=True, color=[ORANGE, BLUE], edgecolor="white")
    share = f" ({(sizes < 5).mean():.0%})" if sizes.size else ""
    ax.legend([f"below 5 mm{share}", "5 mm and more"])
    return labelled(ax, "Lesion size", SIZE, "lesions")


def shape_complexity_histogram(ax, lesions):
    """Draw the distribution of sigma_r (Fig. 5.2b), with the lesions that are too small for it in grey."""
    known, coarse = _shapes(lesions)
    bins = np.linspace(0, max(known.sigma_r.max(), 0.4) if len(known) else 0.4, 21)
    parts = [known.sigma_r[coarse], known.sigma_r[~coarse]]
    ax.hist(parts, bins, stacked=True, color=[PALE, BLUE], edgecolor="white", label=COARSENESS)
    ax.legend()
    return labelled(ax, "Shape complexity", r"$\sigma_r$ (0: sphere)", "lesions")


def shape_against_size(ax, lesions):
    """Draw sigma_r over the size of a lesion (Fig. 5.2c)."""
    known, coarse = _shapes(lesions)
    ax.scatter(known.size_mm[coarse], known.sigma_r[coarse], s=22, facecolors="none", edgecolors=GREY)
    ax.scatter(known.size_mm[~coarse], known.sigma_r[~coarse], s=22, color=BLUE, alpha=0.7)
    ax.legend(COARSENESS)
    ax.set_ylim(bottom=0)
    return labelled(ax, "Shape against size", SIZE, r"$\sigma_r$")


def shape_gallery(axes, labels, sigma_r, titles=()):
    """Draw the surfaces of lesions, lit from above and seen from the top of the head, with sigma_r (Fig. 5.3).

    Parameters
    ----------
    axes : array of Axes
    labels : sequence of (slice, row, column) bool arrays
        Boxes of any size around one lesion each; every lesion fills its axes.
    sigma_r : sequence of float
    """
    axes = np.ravel(axes)
    titles = [*titles, *[""] * len(axes)]
    for ax, label, value, title in zip(axes, labels, sigma_r, titles, strict=False):
        ax.imshow(_lit_surface(label), cmap="bone", vmin=0, vmax=1)
        ax.set_title(f"$\\sigma_r$ = {value:.2f}{title}", fontsize=9)
    return clear(axes)


def contrast_of_look_alikes(axes, lesions, places):
    """Draw how bright lesions are over their diameter (first axes), and how bright look-alikes are (second).

    Parameters
    ----------
    axes : pair of Axes that share their y axis
    lesions : pandas.DataFrame
        Its `rim` and `core` are intensities, 1 being the median of the head.
    places : pandas.DataFrame
        From `kit.models.look_alikes`.
    """
    axes[0].scatter(lesions.diameter_mm, lesions.rim, s=22, color=RED, label="rim (90th percentile)")
    axes[0].scatter(lesions.diameter_mm, lesions.core, s=22, facecolors="none", edgecolors=BLUE, label="core")
    axes[0].vlines(lesions.diameter_mm, lesions.core, lesions.rim, colors=PALE, zorder=0)
    axes[0].margins(y=0.2)
    axes[0].legend(ncols=2)
    kinds = {"tube": GREEN, "blob": ORANGE}
    values = [places.brightness[places.kind == kind].to_numpy(float) for kind in kinds]
    axes[1].hist(values, 15, stacked=True, orientation="horizontal", color=list(kinds.values()), label=list(kinds))
    axes[1].legend()
    labelled(axes[0], "Lesions", "diameter (mm)", RELATIVE)
    labelled(axes[1], "Look-alikes", "places", "")
    return axes


def intensity_per_slice(ax, mean, sd):
    """Draw mean and standard deviation of the head's intensity from slice to slice (Fig. 7.1).

    Parameters
    ----------
    mean, sd : pandas.Series
        Indexed by slice, from the neck upwards; 1 is the median of the head.
    """
    ax.plot(mean, color=BLUE, label="mean")
    ax.plot(sd, color=GREEN, label="s.d.")
    ax.set_ylim(bottom=0)
    ax.legend()
    return labelled(ax, "Head voxels, slice by slice", "slice, from the neck upwards", RELATIVE)


def compare_looks(axes, scans, spectra):
    """Draw what phantom and real scans look like apart from lesions, a panel a property.

    Parameters
    ----------
    axes : array of 6 Axes
        Contrast of tissues, noise, brightness as seen by a network, power spectra within and through slices, vessels.
    scans, spectra : pandas.DataFrame
        Of `kit.phantom.realism.compare_scans`, with a column `real` (bool): phantoms are grey, real scans coloured.
    """
    axes, looks = np.ravel(axes), _looks_of(scans)
    for row, (scan_id, look) in enumerate(looks.items()):
        scan = scans[scans.scan_id == scan_id].iloc[0]
        line = {name: look[name] for name in ("color", "alpha", "label")}
        classes = scan[["csf", "grey"]].to_numpy(float), scan[["csf_sd", "grey_sd"]].to_numpy(float)
        axes[0].errorbar(classes[0], [row, row], xerr=classes[1], fmt=look["marker"], capsize=2, **line)
        axes[1].plot(scan.white_sd, scan.noise, linestyle="", **look)
        axes[2].plot(scan.bias, scan.white_seen, linestyle="", **look)
        curve = spectra[spectra.scan_id == scan_id]
        axes[3].loglog(curve.frequency, curve.in_plane, **line)
        axes[4].loglog(curve.frequency, curve.through_plane, **line)
        axes[5].plot(scan.vessels, scan.vessel_share, linestyle="", **look)
    axes[0].axvline(1, color=PALE)
    axes[0].set_yticks([])
    axes[4].set_ylim(axes[3].get_ylim()[0] / 10, axes[3].get_ylim()[1])
    for ax in axes[3:5]:
        ax.set_xticks(FREQUENCIES, FREQUENCIES)
        ax.minorticks_off()
    labelled(axes[0], "Fluid and grey matter, mean and s.d.", WHITE, "scans")
    labelled(axes[1], "Noise", "s.d. of white matter", "s.d. of the noise")
    labelled(
        axes[2], "White matter as a network sees it", "bias: s.d. of log sensitivity", "after normalisation (s.d.)"
    )
    labelled(axes[3], "Power within slices", "cycles per mm", "power density (mm)")
    labelled(axes[4], "Power through slices", "cycles per mm", "power density (mm)")
    labelled(axes[5], "Bright thin structures", "a litre of brain", "share of the brain (per mille)")
    return axes


def compare_lesions(axes, lesions, scans):
    """Draw what lesions of 27 voxels and more look like in phantom and real scans, over their size, a panel a property.

    Parameters
    ----------
    axes : array of 4 Axes
        Contrast of the rim, brightness of the core, width of the edge, shape complexity.
    lesions, scans : pandas.DataFrame
        As for `compare_looks`, of the same scans.
    """
    panels = {
        "contrast": ("Rim less tissue around", WHITE), "core": ("Core", WHITE),
        "edge_mm": ("Edge, from 90 to 10 %", "width (mm)"), "sigma_r": ("Shape complexity", r"$\sigma_r$"),
    }  # fmt: skip
    for ax, (name, (title, unit)) in zip(np.ravel(axes), panels.items(), strict=True):
        for scan_id, look in _looks_of(scans).items():
            own = lesions[(lesions.scan_id == scan_id) & (lesions.voxels >= COARSE_VOXELS)]
            ax.plot(own.size_mm, own[name], linestyle="", **look)
        labelled(ax, title, SIZE, unit)
    return axes


def _looks_of(scans):
    """How points and lines of each scan look, phantoms first and one of them in the legend; by scan_id."""
    phantoms = scans.scan_id[~scans.real]
    looks = {scan_id: PHANTOM | ({} if n == 0 else {"label": None}) for n, scan_id in enumerate(phantoms)}
    styles = zip(cycle(REAL_COLOURS), cycle(REAL_MARKERS), strict=False)
    for scan_id, (colour, marker) in zip(scans.scan_id[scans.real], styles, strict=False):
        looks[scan_id] = {"color": colour, "marker": marker, "alpha": 1.0, "label": scan_id}
    return looks


def _shapes(lesions):
    known = lesions[lesions.sigma_r.notna()]
    return known, known.voxels < COARSE_VOXELS


def _lit_surface(label):
    """A lesion's upper surface in light from the front and left: (row, column) in [0, 1], masked beside it.

    One pixel a voxel, so that the eye sees how coarse a small shape is; only the light is smooth.
    """
    box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(label))
    room = max(label[box].shape) + 4 - np.array(label[box].shape)  # up to a cube, and 2 voxels on each side
    solid = np.pad(label[box], np.stack([room // 2, room - room // 2], axis=1))
    top = len(solid) - 1 - np.argmax(solid[::-1], axis=0)  # (row, column), the highest voxel
    slopes = np.gradient(-gaussian_filter(solid.astype(np.float32), 1))
    above = np.minimum(top + 1, len(solid) - 1)[None]  # just outside: inside a single voxel nothing has a slope
    normal = np.stack([np.take_along_axis(slope, above, axis=0)[0] for slope in slopes])  # (3, row, column)
    light = np.tensordot(LIGHT, normal, 1) / np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    return np.ma.masked_where(~solid.any(axis=0), 0.2 + 0.8 * light.clip(0))
