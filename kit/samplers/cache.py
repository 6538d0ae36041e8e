"""A cohort prepared once for training: memory-mapped scans and the voxels that samples are drawn from.

Each scan becomes a float16 volume and lists of voxels (lesion, healthy and not black), so that memory does not grow
with the number of scans. Which voxels of a lesion lie on its border, or would survive an erosion, is found
once and kept with them, because every epoch asks for it. The brain, which takes seconds to find, is added when scans
are first normalised by it, and where it ends when skulls are first taken off.
"""

import warnings
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from kit.samplers.augment import augmentation_of
from kit.samplers.entries import PreparedScan, SamplerError, ensure, open_entry, whole_entry
from kit.scans import SEARCHES, ScanError

INTENSITIES = ("brain", "scan", "cohort")
MOST_LISTED = 50  # scans that a message lists before it only counts


@dataclass(frozen=True)
class Cohort:
    """Prepared scans, and how they are normalised: `statistics` is (mean, sd) of all, or "scan" or "brain": its own."""

    scans: tuple[PreparedScan, ...]
    statistics: tuple[float, float] | str

    def __len__(self):
        return len(self.scans)

    @property
    def scale_and_offset(self):
        """Two float32 arrays (scan,): `volume * scale + offset` is the normalised scan."""
        if self.statistics == "scan":
            return np.ones(len(self), np.float32), np.zeros(len(self), np.float32)
        wanted = [scan.brain if self.statistics == "brain" else self.statistics for scan in self.scans]
        both = [(scan.sd / sd, (scan.mean - mean) / sd) for scan, (mean, sd) in zip(self.scans, wanted, strict=True)]
        return tuple(np.array(both, np.float32).T.copy())

    def image(self, index):
        """The whole normalised scan, float32 (slice, row, column), as its patches see it."""
        scale, offset = self.scale_and_offset
        return self.scans[index].volume.astype(np.float32) * scale[index] + offset[index]


def prepare(
    table,
    cache_dir,
    *,
    intensities="cohort",
    statistics=None,
    search="head",
    augment="none",
    workers=1,
    progress=True,
):
    """Bring the scans of a manifest table into a cache of memory-mapped arrays and normalise them alike.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `kit.scans.read_manifest`, usually one split; an empty `label` means that no lesion is known.
        With a `mask`, healthy voxels are drawn inside it only.
    cache_dir : path
        Made if missing. A scan is found again by what is in its files, wherever they lie. What a killed preparation
        has finished is kept, and a damaged entry is made anew, with a warning.
    intensities : {"cohort", "scan", "brain"}
        "cohort" is the thesis' way: one mean and one s.d. over the non-black voxels of all training scans
        (section 5.2). "scan": each scan by its own. "brain": each scan by its brain alone, see
        `kit.scans.brain_statistics`, so that a brain has the same values with skull and without.
    statistics : (mean, sd), optional
        With "cohort": use these, the training cohort's `statistics`, for validation and test scans.
    search : {"head", "brain"}
        Where healthy voxels are drawn in scans without a `mask`, see `kit.scans.search_region`. It says nothing of
        how intensities are normalised.
    augment : str or Augmentation
        What the scans are prepared for, see `kit.samplers.patches`. With any but "none", and intensities "brain", it is
        found out where each brain ends, which takes seconds a scan.
    workers : int
        How many processes prepare. 1 is this process; a script that asks for more needs
        ``if __name__ == "__main__"``. Memory grows with the workers (some 0.6 GB each for a scan of 10 million voxels)
        and not with the cohort.
    progress : bool

    Returns
    -------
    Cohort
        Rounding to float16 moves an intensity by at most 1/2000 of its distance from its scan's mean.

    Raises
    ------
    SamplerError
        If the table is empty, `intensities` is not one of the three words, `augment` is unknown or `workers` is below
        1. At the end, with each scan that could not be prepared and why: an unusable file, a full disk, a process that
        was killed. The other scans are in the cache then, and the next call begins with those that are missing.
    ScanError
        If `search` is another word.
    """
    if intensities not in INTENSITIES:
        raise SamplerError(f"intensities is {intensities!r}; choose one of {', '.join(INTENSITIES)}")
    if len(table) == 0:
        raise SamplerError("no scans to prepare: the table has no rows; check the split's name and the manifest")
    if search not in SEARCHES:
        raise ScanError(f"search is {search!r}; choose one of {', '.join(SEARCHES)}")
    if workers < 1:
        raise SamplerError(f"workers is {workers}; give how many processes prepare, at least 1")
    rows = table.to_dict("records")
    parts = ("facts", "brain") if intensities == "brain" else ("facts",)
    if augmentation_of(augment) is not None and intensities == "brain":
        parts += ("beyond",)
    jobs = [(row, Path(cache_dir), search, parts) for row in rows]
    folders = _folders(jobs, workers, progress)
    scans = tuple(open_entry(folder, row["scan_id"], parts) for folder, row in zip(folders, rows, strict=True))
    if intensities != "cohort":
        return Cohort(scans, intensities)
    return Cohort(scans, tuple(statistics) if statistics is not None else _pooled_statistics(scans))


def _pooled_statistics(scans):
    """Mean and s.d. over the non-black voxels of all scans, from each scan's own."""
    voxels, mean, sd = np.array([(scan.voxels, scan.mean, scan.sd) for scan in scans], float).T
    pooled = np.average(mean, weights=voxels)
    return float(pooled), float(np.sqrt(np.average(sd**2 + (mean - pooled) ** 2, weights=voxels)))


def _folders(jobs, workers, progress):
    """The entry of every job, in their order; SamplerError at the end with all that failed."""
    folders, failed = {}, {}
    with tqdm(total=len(jobs), desc="preparing scans", unit="scan", disable=not progress) as bar:
        with ThreadPoolExecutor(workers) as readers:  # reading and sums of checking leave Python to others
            for index, folder in enumerate(readers.map(_checked, jobs)):
                if folder is not None:
                    folders[index] = folder
                    bar.update()
        left = [index for index in range(len(jobs)) if index not in folders]
        for index, outcome in (
            _in_parallel(jobs, left, workers) if min(workers, len(left)) > 1 else _one_by_one(jobs, left)
        ):
            if isinstance(outcome, Exception):
                failed[index] = outcome
            else:
                folders[index], note = outcome
                if note:
                    warnings.warn(note, stacklevel=3)
            bar.update()
    if failed:
        raise SamplerError(_told(failed, jobs))
    return [folders[index] for index in range(len(jobs))]


def _checked(job):
    """The entry of a job that is there, whole; None where there is work, or trouble, for `ensure`."""
    try:
        return whole_entry(*job)
    except OSError:
        return None


def _told(failed, jobs):
    lines = [f"{jobs[index][0]['scan_id']}: {error}" for index, error in sorted(failed.items())]
    more = [f"... and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    head = f"{len(lines)} of {len(jobs)} scans could not be prepared; the others are in the cache:"
    return "\n  ".join([head, *lines[:MOST_LISTED], *more])


def _one_by_one(jobs, left):
    for index in left:
        try:
            yield index, ensure(*jobs[index])
        except (OSError, ValueError, MemoryError) as error:
            yield index, error


def _in_parallel(jobs, left, workers):
    """(index, entry or error) as they come; scans whose process was killed are tried again, each alone."""
    waiting, lost = left[::-1], []
    while waiting:
        yield from _in_pool(jobs, waiting, lost, workers)
    for index in lost:
        once, again = [index], []
        yield from _in_pool(jobs, once, again, 1)
        if again:
            yield index, ChildProcessError("its process was killed, twice; is there enough memory for this scan?")


def _in_pool(jobs, waiting, lost, workers):
    """Work off `waiting` from its end until nothing is left or a process dies; what was under way then is `lost`."""
    running = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        while waiting or running:
            try:
                while waiting and len(running) < workers:
                    index = waiting.pop()
                    running[pool.submit(ensure, *jobs[index])] = index
            except BrokenProcessPool:
                waiting.append(index)
                if not running:
                    return
            for one in wait(running, return_when=FIRST_COMPLETED).done:
                index, error = running.pop(one), one.exception()
                if isinstance(error, BrokenProcessPool):
                    lost += [index, *running.values()]
                    return
                if error is not None and not isinstance(error, OSError | ValueError | MemoryError):
                    raise error
                yield index, error or one.result()
