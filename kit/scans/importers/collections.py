"""The collections by their words, and the one function that imports any of them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kit.scans.importers import patterns, published
from kit.scans.importers.folder import Collection, Tree, named
from kit.scans.manifests.text import ManifestError, nearest

MANIFEST = b"scan_id,patient_id,session,"


class Importer(NamedTuple):
    """How a collection is read: a function of a `Tree`, and the files that it looks for, in words."""

    gather: Callable
    layout: str


COLLECTIONS = {
    "brats-mets": Importer(published.brats_mets, "BraTS-MET-00001-000/BraTS-MET-00001-000-{t1c,seg}.nii.gz"),
    "ucsf-bmsr": Importer(published.ucsf_bmsr, "100101A/100101A_{T1post,seg}.nii.gz"),
    "brainmetshare": Importer(published.brainmetshare, "Mets_001/{bravo,t1_gd,seg}.nii.gz, or Mets_001/{0,seg}/*.png"),
    "pretreat-mets": Importer(published.pretreat_mets, "BraTS-MET-00001/BraTS-MET-00001-{t1c,seg}.nii.gz"),
    "nyumets": Importer(published.nyumets, "patientId/1/studyId/2/{RTSTRUCT_MRI,CT1,RTSTRUCT_segmentation}.nii.gz"),
    "brain-mets-lung": Importer(published.brain_mets_lung, "NAME_t1ce_img.nii.gz, NAME_core_seg.nii.gz"),
    "openbtai": Importer(published.openbtai, "PATIENT/NAME_img.nii, PATIENT/NAME_msk.nii"),
    "proteas": Importer(
        published.proteas, "P01/BraTS/fu1/t1c.nii.gz, P01/tumor segmentation/P01_tumor_mask_fu1.nii.gz"
    ),
    "pairs": Importer(patterns.pairs, "what --image and --label say"),
    "bids": Importer(patterns.bids, "sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz, and derivatives"),
}


def import_collection(name, folder, **options) -> Collection:
    """Make the table of a collection of scans as it was downloaded, and say what was found.

    Parameters
    ----------
    name : str
        One of `COLLECTIONS`.
    folder : path
        Where it was unpacked; folders between it and those of the layout do not matter.
    **options
        `image`, `label` (patterns) and `lesion_codes` for pairs, `lesion_codes` for bids.

    Returns
    -------
    Collection
        `.table` for `write_manifest(table, path, data_root=folder)`, `.unknown` files and `.notes`. Nothing is
        written, but for slices that are stacked (older BrainMetShare). Images are not read unless a label's values
        are to be found out: use `read_manifest` on the manifest for that.

    Raises
    ------
    ManifestError
        An unknown name or option, no such folder, or no scan of the collection in it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("anna_1_t1gd.nii", "anna_1_seg.nii", "anna_2_t1gd.nii", "notes.txt"):
    ...         _ = Path(folder, name).write_bytes(b"")
    ...     options = {"image": "{patient}_{session}_t1gd.nii", "label": "{patient}_{session}_seg.nii"}
    ...     found = import_collection("pairs", folder, **options)
    >>> found.table[["scan_id", "patient_id", "session"]].values.tolist(), found.unknown
    ([['anna-1', 'anna', 1], ['anna-2', 'anna', 2]], ['notes.txt'])
    """
    if name not in COLLECTIONS:
        raise ManifestError(f"no collection is called {name!r}{nearest(name, COLLECTIONS)}: {', '.join(COLLECTIONS)}")
    importer = COLLECTIONS[name]
    known = list(inspect.signature(importer.gather).parameters)[1:]
    for option in options:
        if option not in known:
            raise ManifestError(f"{name} has no option {option}; it has {', '.join(known) or 'none'}")
    if not Path(folder).is_dir():
        raise ManifestError(f"{folder}: no such folder; give the one that the collection was unpacked in")
    tree = Tree(folder)
    table = importer.gather(tree, **options)
    unknown = [path for path in sorted(tree.left + tree.hidden) if not _is_manifest(tree.folder / path)]
    if table.empty:
        there = named("other files", unknown) or "no file at all"
        raise ManifestError(f"{folder}: no scan of {name} in it, but {there}; looked for {importer.layout}. Name the "
                            f"folder that holds these, or another collection: {', '.join(COLLECTIONS)}")  # fmt: skip
    if not table["lesion_codes"].any():
        table = table.drop(columns="lesion_codes")
    return Collection(name, tree.folder, table.assign(source=name), unknown, tree.notes)


def _is_manifest(path):
    """Whether a file is a manifest, or the one that a shell has just opened for this import."""
    if path.suffix != ".csv":
        return False
    with path.open("rb") as file:
        start = file.read(len(MANIFEST))
    return start in (b"", MANIFEST)
