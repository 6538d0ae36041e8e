"""One session laid over another: the rigid motion between two scans of a patient, how good it is, and resampling by it.

World coordinates are RAS+ mm, as `Scan.affine` gives them. Needs SimpleITK, an optional extra:
`pip install "brain-metastasis-kit[registration]"`.
"""

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kit.scans.files import ScanError, replacing
from kit.scans.head import foreground
from kit.scans.volume import Scan

LEVELS = ((4, 3.0), (2, 1.5), (1, 0.7))  # coarse to fine: shrink factor of the fixed scan, smoothing in mm
SAMPLES = 200_000  # voxels of the fixed scan that a level looks at
BINS = 40
STEPS = 150
LEAST_OVERLAP = 0.3  # of the fixed scan's compared voxels that the moving scan must cover


@dataclass(frozen=True, eq=False)
class Registration:
    """The rigid motion between two scans, and how well they agree after it.

    `transform` is 4x4 and maps world mm of the fixed scan to world mm of the moving scan. `similarity` is the
    correlation of the two images (-1 to 1) where both have voxels, after the motion; `similarity_before` without it;
    `mutual_information` (nats) is what was maximised; `overlap` is the share of the compared voxels of the fixed scan
    that the moving scan covers.
    """

    transform: np.ndarray
    similarity: float
    similarity_before: float
    mutual_information: float
    overlap: float

    @property
    def angle_deg(self):
        """By how many degrees the head is turned, about whichever axis."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.transform[:3, :3]) - 1) / 2, -1, 1))))

    def resample(self, moving, fixed) -> Scan:
        """Bring the moving scan, and its label where there is one, onto the voxels of the fixed scan.

        Intensities are interpolated linearly, labels take the nearest voxel; beyond the moving scan lies its minimum
        (air), and no lesion.
        """
        image = resampled(moving.image, moving.affine, fixed, self.transform, float(moving.image.min()))
        label = None
        if moving.label is not None:
            label = resampled(moving.label.astype(np.uint8), moving.affine, fixed, self.transform, 0) > 0
        return replace(fixed, image=image, label=label)

    def save(self, path) -> None:
        """Write transform and quality as JSON, whole or not at all."""
        with replacing(path) as part:
            part.write_text(json.dumps({name: _plain(value) for name, value in vars(self).items()}, indent=1) + "\n")

    @classmethod
    def load(cls, path) -> "Registration":
        """Read what `save` wrote; ScanError where the file is no such record."""
        try:
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            transform = np.array(facts.pop("transform"), float).reshape(4, 4)
            return cls(transform, **{name: float(value) for name, value in facts.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScanError(f"{path}: no record of a registration ({error}); register the two scans again") from error


def register(fixed: Scan, moving: Scan, *, mask=None, seed=2015) -> Registration:
    """Find the rigid motion that lays one scan of a patient over another.

    Parameters
    ----------
    fixed, moving : Scan
        Of the same patient; they may differ in grid, spacing, scanner and sequence.
    mask : (slice, row, column) bool array, optional
        Where the fixed scan is compared, by default `kit.scans.foreground` of it. A brain mask leaves out what moves
        against the brain, such as jaw and neck.
    seed : int
        Of the voxels that are looked at.

    Returns
    -------
    Registration
        From the better of two starts, the scanner's coordinates or centre of mass on centre of mass, by the mutual
        information of Mattes over three resolutions. The same scans and seed give the same numbers on one machine.

    Raises
    ------
    ScanError
        SimpleITK is missing, the mask has another shape or is empty, or the scans do not come to lie over each other.

    References
    ----------
    D. Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE TMI 22 (2003).
    """
    sitk = simpleitk()
    mask = foreground(fixed.image) if mask is None else np.asarray(mask, bool)
    if mask.shape != fixed.image.shape or not mask.any():
        raise ScanError(f"mask has shape {mask.shape} and {mask.sum()} voxels; give one over {fixed.image.shape}")
    images = _to_itk(sitk, fixed.image, fixed.affine), _to_itk(sitk, moving.image, moving.affine)
    itk_mask = _to_itk(sitk, mask.astype(np.uint8), fixed.affine)
    starts = [_motion(sitk, images[0], fixed, mask), _motion(sitk, images[0], fixed, mask, moving)]
    with _one_thread(sitk):
        values = [_evaluated(sitk, *images, itk_mask, start, seed) for start in starts]
        motion, value = _optimised(sitk, *images, itk_mask, starts[int(np.argmin(values))], seed)
    transform = _matrix(motion)
    similarity, overlap = _agreement(fixed, moving, mask, transform)
    before, _ = _agreement(fixed, moving, mask, np.eye(4))
    if overlap < LEAST_OVERLAP or not similarity > 0:
        raise ScanError(
            f"the scans could not be registered: they share {overlap:.0%} of the head and correlate by "
            f"{similarity:.2f} there; look whether both show the same head, and whether their headers are right"
        )
    return Registration(transform, similarity, before, -value, overlap)


def simpleitk():
    """The module SimpleITK; ScanError with what to install where it is missing."""
    try:
        import SimpleITK  # an optional extra, and heavy
    except ImportError as error:
        raise ScanError(
            'registration needs SimpleITK: pip install "brain-metastasis-kit[registration]", or pip install SimpleITK'
        ) from error
    return SimpleITK


@contextmanager
def _one_thread(sitk):
    """Sums are taken in one order: the same bytes each time."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _to_itk(sitk, array, affine):
    """A (slice, row, column) array as a SimpleITK image (column, row, slice) whose world is the affine's."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(step) for step in steps[::-1]])
    image.SetOrigin([float(value) for value in affine[:3, 3]])
    image.SetDirection((affine[:3, :3] / steps)[:, ::-1].ravel().tolist())
    return image


def _motion(sitk, itk_fixed, fixed, mask, moving=None):
    """A rigid motion about the head's centre: none, or onto the centre of another scan's head."""
    centre = _world_centre(mask, fixed.affine)
    motion = sitk.Euler3DTransform()
    motion.SetCenter(centre.tolist())
    if moving is not None:
        motion.SetTranslation((_world_centre(foreground(moving.image), moving.affine) - centre).tolist())
    return motion


def _world_centre(mask, affine):
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def _method(sitk, mask, motion, seed):
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [SAMPLES * shrink**3 / mask.GetNumberOfPixels() for shrink, _ in LEVELS]
    method.SetMetricSamplingPercentagePerLevel([min(share, 1.0) for share in shares], seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(motion, inPlace=False)
    return method


def _evaluated(sitk, fixed, moving, mask, motion, seed):
    """The metric at a motion, lower is better; infinite where the scans do not overlap."""
    try:
        return _method(sitk, mask, motion, seed).MetricEvaluate(fixed, moving)
    except RuntimeError:
        return np.inf


def _optimised(sitk, fixed, moving, mask, motion, seed):
    method = _method(sitk, mask, motion, seed)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.005, STEPS, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    try:
        found = method.Execute(fixed, moving)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ScanError(
            f"the scans could not be registered ({reason}); look whether both show the same head"
        ) from error
    if isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return sitk.Euler3DTransform(found), float(method.GetMetricValue())


def _matrix(motion):
    """A rigid motion about a centre as a 4x4 matrix."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(motion.GetMatrix(), (3, 3))
    centre = np.array(motion.GetCenter())
    matrix[:3, 3] = centre + motion.GetTranslation() - matrix[:3, :3] @ centre
    return matrix


def resampled(array, affine, fixed, transform, fill):
    """An array brought onto the fixed scan's voxels; `fill` beyond it."""
    sitk = simpleitk()
    motion = sitk.AffineTransform(transform[:3, :3].ravel().tolist(), transform[:3, 3].tolist())
    like = _to_itk(sitk, np.zeros(fixed.image.shape, np.uint8), fixed.affine)
    how = sitk.sitkLinear if array.dtype.kind == "f" else sitk.sitkNearestNeighbor
    image = _to_itk(sitk, array, affine)
    return sitk.GetArrayFromImage(sitk.Resample(image, like, motion, how, fill, image.GetPixelID()))


def _agreement(fixed, moving, mask, transform):
    """Correlation in the mask where both scans have voxels, and the share of the mask where they do."""
    there = mask & (resampled(np.ones(moving.image.shape, np.uint8), moving.affine, fixed, transform, 0) > 0)
    if there.sum() < 2:
        return float("nan"), 0.0
    other = resampled(moving.image, moving.affine, fixed, transform, float(moving.image.min()))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(fixed.image[there], other[there])[0, 1]), float(there.sum() / mask.sum())


def _plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value
