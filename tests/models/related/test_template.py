"""Templates: correlation against a slow twin, balls of known volume, and spheres in noise found at place and size."""

import numpy as np
import pytest
from small_scans import drawn_balls, drawn_tube

from kit.models import CandidateDetector, ModelError, correlate, match_templates, shell_template, template_candidates


def correlate_box_by_box(image, template):
    """The slow twin: numpy's correlation coefficient at every place where the template fits into the scan."""
    found, shape = np.zeros(image.shape), template.shape
    for at in np.ndindex(*(n - m + 1 for n, m in zip(image.shape, shape, strict=True))):
        box = image[tuple(slice(a, a + m) for a, m in zip(at, shape, strict=True))]
        if np.ptp(box) > 0:
            found[tuple(a + m // 2 for a, m in zip(at, shape, strict=True))] = np.corrcoef(box.flat, template.flat)[
                0, 1
            ]
    return found


def test_correlation_by_fourier_transform_is_that_of_each_box():
    rng = np.random.default_rng(0)
    image = rng.normal(5, 2, (9, 14, 13)).astype(np.float32)
    image[:4, :8, :7] = 3.0  # flat: nothing correlates there
    template = shell_template(2, 1, spacing_mm=(2.5, 1.0, 1.3))
    np.testing.assert_allclose(correlate(image, template), correlate_box_by_box(image, template), atol=2e-4)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.9, 1.2)])
@pytest.mark.parametrize(("radius", "core"), [(2.5, 0.0), (6.0, 3.0)])
def test_a_template_holds_the_volume_of_its_shell_whatever_the_voxels(radius, core, spacing_mm):
    template = shell_template(radius, core, width_mm=0.3, width_core_mm=0.3, spacing_mm=spacing_mm)
    volume = template.sum(dtype=float) * np.prod(spacing_mm)
    assert volume == pytest.approx(4 / 3 * np.pi * (radius**3 - core**3), rel=0.06)
    np.testing.assert_allclose(template, template[::-1, ::-1, ::-1], atol=1e-6)


def test_a_core_larger_than_its_ball_is_refused():
    with pytest.raises(ModelError, match="core < radius"):
        shell_template(2, 3)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 0.9, 1.1)])
@pytest.mark.parametrize("radius", [2.0, 5.0])
def test_a_sphere_in_noise_correlates_best_at_its_place_with_a_template_of_its_size(radius, spacing_mm):
    place = (24.0, 20.0, 27.0)
    image = drawn_balls([(*place, radius)], spacing_mm)
    best, size = match_templates(image, spacing_mm=spacing_mm)
    at = np.unravel_index(best.argmax(), best.shape)
    np.testing.assert_allclose(np.multiply(at, spacing_mm), place, atol=max(spacing_mm))
    assert size[at] == pytest.approx(radius, abs=1.0)
    assert best[at] > 0.6


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_of_a_ball_and_a_tube_the_criteria_leave_the_ball(spacing_mm):
    image = drawn_balls([(24, 14, 14, 3.0)], spacing_mm) + drawn_tube((24, 34), 2.0, spacing_mm)
    found, regions = template_candidates(image, np.ones(image.shape, bool), spacing_mm)
    middle = np.array([(region * spacing_mm).mean(0) for region in regions])
    ball = np.linalg.norm(middle - (24, 14, 14), axis=1) < 3
    tube = np.hypot(middle[:, 0] - 24, middle[:, 1] - 34) < 2
    detector = CandidateDetector("template", (("anisotropy", "most", 0.5), ("volume_mm3", "least", 20)))
    kept = detector.probability(found) > 0
    assert tube.any()
    assert (found.anisotropy[tube & (found.volume_mm3 > 20)] > 0.5).all()
    assert not kept[tube].any()
    assert kept[ball].sum() == 1


def test_only_the_masks_surroundings_are_looked_at():
    image = drawn_balls([(10, 10, 10, 2.0), (10, 10, 40, 2.0)], (1.0, 1.0, 1.0), shape=(20, 20, 50))
    mask = np.zeros(image.shape, bool)
    mask[5:15, 5:15, 5:15] = True
    best, _ = match_templates(image, mask, radii_mm=(2.0, 3.0))
    assert best[10, 10, 10] > 0.7
    assert not best[:, :, 30:].any()
