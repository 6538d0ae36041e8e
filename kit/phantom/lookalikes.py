"""Look-alikes of metastases, without a label, in some patients: meningiomas, old infarcts and lacunes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kit.phantom.head.template import REGIONS
from kit.phantom.lesions import Lesion, draw_lobes, implant, place_drawer
from kit.phantom.surroundings import around, noise, ramp

MENINGIOMA, INFARCT, LACUNES = (
    0.1,
    0.1,
    0.2,
)  # shares of the patients, more than in the population: networks must see them
FLUID = 0.33  # intensity of a cavity, white matter = 1


def with_lookalikes(head, rng, *, away_from=()):
    """Draw meningiomas, old infarcts and lacunes into a head; most heads get none.

    Parameters
    ----------
    head : Head
    rng : numpy.random.Generator
    away_from : sequence of Lesion
        They keep 4 mm from these.

    Returns
    -------
    Head
        With another `image`, and less `white` and `grey` matter where an infarct is.
    """
    drawn = rng.uniform(size=3) < (MENINGIOMA, INFARCT, LACUNES)
    for is_drawn, add in zip(drawn, (add_meningioma, add_infarct, add_lacunes), strict=True):
        if is_drawn:
            head = add(head, rng, away_from)
    return head


def add_meningioma(head, rng, away_from=()):
    """Add a tumour of the dura to a head: broad-based, even, bright, pushing, with a tail along the dura.

    Arguments and result are those of `with_lookalikes`. Where there is no room the head stays as it is.
    """
    radius_mm = float(np.exp(rng.uniform(*np.log([4, 13]))))
    where = (head.region == REGIONS["cerebrum"]) & (head.depth_mm > 1) & (head.depth_mm < 1 + 0.45 * radius_mm)
    centre = place_drawer(where, rng)(radius_mm, away_from)
    if centre is None:
        return head
    contrast = float(rng.uniform(0.45, 1.1))
    tumour = Lesion(
        centre, radius_mm, contrast, draw_lobes(radius_mm, rng), patchy=0.03, edge_mm=0.7, push=0.9,
        oedema_mm=float(radius_mm * rng.choice([0, 0, 1])), oedema=0.18, seed=int(rng.integers(2**31)),
    )  # fmt: skip
    image, _ = implant(head.image, [tumour], white_matter=1.0, tissue=head)
    _add_tail(image, head, tumour, rng)
    return replace(head, image=image)


def _add_tail(image, head, tumour, rng):
    """Dura that enhances and thins out with the distance from its tumour, in place."""
    box, offset = around(tumour.centre, image.shape, (1, 1, 1), 2.6 * tumour.radius_mm)
    away = np.sqrt(sum(o**2 for o in offset)) / np.float32(tumour.radius_mm)
    uneven = noise(rng, [o.ravel() for o in offset], 8.0)
    thickness = 2.2 * np.clip((2.4 - away) / 1.4, 0, 1) * np.clip(1 + 0.5 * uneven, 0, 1.5)
    cover = np.clip(thickness - np.maximum(head.depth_mm[box], 0) + 0.3, 0, 1) * (head.depth_mm[box] > -0.7)
    image[box] += cover * np.maximum(1 + 0.85 * tumour.contrast - image[box], 0)


def add_infarct(head, rng, away_from=()):
    """Add an old infarct of a cortical branch to a head: a wedge with its base at the surface, a cavity in gliosis.

    Arguments and result are those of `with_lookalikes`. Where there is no room the head stays as it is.
    """
    width_mm, length_mm = rng.uniform(9, 22), rng.uniform(22, 45)
    where = (
        np.isin(head.region, [REGIONS[name] for name in ("cerebrum", "cerebellum")])
        & (head.depth_mm > 3)
        & (head.depth_mm < 6)
    )
    centre = place_drawer(where, rng)(width_mm, away_from)
    if centre is None:
        return head
    box, offset = around(centre, head.image.shape, (1, 1, 1), length_mm + 8)
    inwards = np.array([n / 2 for n in head.image.shape]) + rng.normal(0, 12, 3) - centre
    depth = _depth_in_wedge(offset, inwards / np.linalg.norm(inwards), width_mm, length_mm, rng)
    axes = [o.ravel() for o in offset]
    cavity = ramp((depth - 2.5 + 2 * noise(rng, axes, 6.0)) / 3) * rng.uniform(0.5, 1)
    scar = rng.uniform(0.55, 0.75) * (1 + 0.05 * noise(rng, axes, 3.0))
    cover = (
        ramp(depth / 3 + 0.5) * np.clip(head.depth_mm[box] - 1.5, 0, 1) * (head.region[box] != REGIONS["ventricles"])
    )
    image, white, grey = head.image.copy(), head.white.copy(), head.grey.copy()
    lost = np.minimum(scar + cavity * (FLUID - scar), np.maximum(image[box], FLUID)) + head.vessel[box]
    image[box] += cover * (lost - image[box])
    for tissue in (white, grey):
        tissue[box] *= 1 - cover
    return replace(head, image=image, white=white, grey=grey)


def _depth_in_wedge(offset, inwards, width_mm, length_mm, rng):
    """How deep each point lies below the side of a cone that narrows inwards, mm, with an uneven border."""
    along = sum(o * a for o, a in zip(offset, inwards, strict=True))
    across = np.sqrt(np.maximum(sum(o**2 for o in offset) - along**2, 0))
    uneven = 1 + 0.25 * noise(rng, [o.ravel() for o in offset], 9.0)
    return (width_mm * np.clip(1 - along / length_mm, 0, 1.3) * uneven - across) * (along > -12)


def add_lacunes(head, rng, away_from=()):
    """Add up to five lacunes to a head: dark cavities of a few mm in deep grey and deep white matter.

    Arguments and result are those of `with_lookalikes`.
    """
    where = (head.region == REGIONS["deep grey"]) + 0.3 * (head.white > 0.9) * (head.depth_mm > 22)
    draw_place, lacunes = place_drawer(where, rng, keep_out=head.region == REGIONS["ventricles"]), []
    for radius_mm in rng.uniform(1.2, 4.5, rng.integers(1, 6)):
        centre = draw_place(radius_mm, [*away_from, *lacunes])
        if centre is not None:
            lobes = draw_lobes(radius_mm, rng, irregular=2.5)
            lacunes.append(Lesion(centre, float(radius_mm), -float(rng.uniform(0.25, 1 - FLUID)), lobes))
    return replace(head, image=implant(head.image, lacunes, white_matter=1.0)[0])
