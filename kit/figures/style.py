"""How figures look: the one table of colours, what marks a network or a finding, and the labels of axes.

The colours are Okabe and Ito's, which colour-blind readers tell apart; where there are many curves, markers differ too.
"""

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

BLUE, SKY, GREEN, ORANGE, RED, GREY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "0.45"
PURPLE, YELLOW, BLACK, PALE = "#CC79A7", "#F0E442", "black", "0.75"
KIND_COLOURS = {  # of what is marked on a slice, in figures and in the viewers
    "lesion": SKY, "TP": GREEN, "FN": RED, "FP": ORANGE,
    "lesion border": RED, "beside the border": GREEN, "healthy": ORANGE,
}  # fmt: skip
NETWORK_COLOURS = {
    "A": SKY, "B": GREEN, "C": ORANGE, "D": BLUE, "E": PURPLE, "F": YELLOW, "G": RED, "H": BLACK, "FCN": GREY,
}  # fmt: skip
NETWORK_MARKERS = dict(zip(NETWORK_COLOURS, "osv^<>DXP", strict=True))
SCHEME_LINES = {"Pairs": "--", "Eroded-Pairs": ":"}  # how an experiment's samples were drawn; solid: at random
SHADES = ((0, 0.55), (1, 0.5), (0, 0.85))  # of a colour that is taken: toward black (0) or white (1), and how far
SIZE = "size: cube root of the volume (mm)"
COUNTS = ("lesions", "places", "false positives")  # axes with whole numbers only
LABEL_POINTS = 8  # size of words beside a point
LETTER = 0.55 * LABEL_POINTS  # width of one of their letters, about
STAR = {"marker": "*", "color": BLACK, "linestyle": ""}  # a published figure


def network_style(experiment):
    """How curves and points of an experiment look in every figure: colour and marker by network, line by scheme.

    A variant, such as "D+hard-negatives" or "D (weights)", is a dash-dotted line in the colour of its network, whose
    name ends at the first plus or space. An experiment that the thesis does not have is a grey line with dots.

    Examples
    --------
    >>> network_style("G-Eroded-Pairs") == {"color": RED, "marker": "D", "linestyle": ":"}
    True
    """
    base, varied, _ = experiment.replace(" ", "+").partition("+")
    network, _, scheme = base.partition("-")
    marker, colour = NETWORK_MARKERS.get(network, "o"), NETWORK_COLOURS.get(network, GREY)
    return {"color": colour, "marker": marker, "linestyle": "-." if varied else SCHEME_LINES.get(scheme, "-")}


def network_styles(experiments):
    """`network_style` of experiments that are drawn together, by name: those of one network in up to four shades.

    The network itself, if it is among them, has its own colour.

    Examples
    --------
    >>> styles = network_styles(["G-Pairs", "G", "D"])
    >>> styles["G"]["color"] == RED, styles["G-Pairs"]["color"], styles["D"]["color"] == BLUE
    (True, '#602a00', True)
    """
    styles, seen = {name: network_style(name) for name in experiments}, []
    for style in sorted(styles.values(), key=lambda style: style["linestyle"] != "-"):
        own = style["color"]
        if own in seen:
            toward, share = SHADES[(seen.count(own) - 1) % len(SHADES)]
            style["color"] = to_hex((1 - share) * np.array(to_rgb(own)) + share * toward)
        seen.append(own)
    return styles


def labelled(ax, title, x, y):
    """Write title and labels on axes, with whole numbers along an axis that counts, and return the axes."""
    ax.set(title=title, xlabel=x, ylabel=y)
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_label_text() in COUNTS:
            axis.set_major_locator(MaxNLocator(integer=True))
    return ax


def write_beside(ax, text, at):
    """Write text beside a point, with a white halo: at its right, or at its left where the text would leave the axes.

    It stands at the left too where another text was written beside the same point. The figure's size and the limits of
    the axes have to be set.
    """
    room = np.diff(ax.transData.transform([at, (ax.get_xlim()[1], at[1])])[:, 0])[0] * 72 / ax.figure.dpi  # in points
    taken = any(np.allclose(other.xy, at) for other in ax.texts if isinstance(other, Annotation))
    side = 1 if not taken and room > 7 + LETTER * len(text) else -1
    place = {"xytext": (7 * side, 0), "ha": "left" if side > 0 else "right", "va": "center"}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    return ax.annotate(text, at, textcoords="offset points", fontsize=LABEL_POINTS, path_effects=halo, **place)


def legend_below(ax, columns=2, gap=0.2):
    """Put the legend of axes under them, where it hides nothing; the layout has to be a constrained one.

    `gap`, a share of the axes' height, is left for their label.
    """
    return ax.legend(loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=columns, fontsize=8, frameon=False)


def clear(axes):
    """Take frames and ticks off one or more axes, so that those of a gallery which stay empty are not seen."""
    for ax in np.ravel(axes):
        ax.set_axis_off()
    return axes
