"""The published collections: how each names its files, and what its label values mean.

Each function takes a `Tree` and returns the table of its scans. In BraTS' labels 1 is necrosis, 2 oedema, 3 enhancing
tumour and 4 a resection cavity: 1 and 3 are lesion.
"""

import csv
import re
from pathlib import Path

from kit.scans.importers.codes import all_codes, enhancing_codes
from kit.scans.importers.folder import NIFTI, gather, natural
from kit.scans.importers.slices import stack_slices

BRATS_LESION = "1;3"
STANFORD_MM = (1.0, 0.94, 0.94)  # of the older release's picture files
STANFORD_KINDS = {"0": "bravo", "seg": "seg"}  # its folders; 1, 2 and 3 are spin echoes without and with agent, FLAIR
SIDE_FILES = (r"[^/]+\.(?:xlsx?|pdf|docx?)", r"[^/]*(?:README|LICEN[CS]E|CHANGES)[^/]*")


def brats_mets(tree):
    """BraTS-METS 2023 to 2025; where corrected labels lie in a folder of their own, they win."""
    scan = r"(?P<patient>BraTS-MET-[0-9]{5})-(?P<session>[0-9]{3})"
    return gather(
        tree,
        (rf"{scan}-t1c{NIFTI}",),
        label=(rf"[^/]*corrected[^/]*/(?:.+/)?{scan}-seg{NIFTI}", rf"{scan}-seg{NIFTI}"),
        others=(rf"{scan}-(?:t1n|t2w|t2f){NIFTI}", *SIDE_FILES),
        scan="{patient}-{session}",
        codes=BRATS_LESION,
    )


def pretreat_mets(tree):
    """Pretreat-MetsToBrain-Masks: BraTS' names and label values; the exam may be left out of the names."""
    scan = r"(?P<patient>BraTS-MET-[0-9]{5})(?:-(?P<session>[0-9]{3}))?"
    return gather(
        tree,
        (rf"{scan}-t1c{NIFTI}",),
        label=(rf"{scan}-seg{NIFTI}",),
        others=(rf"{scan}-(?:t1n|t2w|t2f){NIFTI}", *SIDE_FILES),
        scan="{patient}-{session}",
        codes=BRATS_LESION,
    )


def ucsf_bmsr(tree):
    """UCSF-BMSR: six digits are the patient, the letter after them is the exam."""
    scan = r"(?P<patient>[0-9]{6})(?P<session>[A-Z])"
    return gather(
        tree,
        (rf"{scan}_T1post{NIFTI}",),
        label=(rf"{scan}_seg{NIFTI}",),
        others=(rf"{scan}_(?!T1post\.|seg\.)[^/]+{NIFTI}", *SIDE_FILES),
        person="UCSF-{patient}",
        scan="UCSF-{patient}{session}",
    )


def brainmetshare(tree):
    """BrainMetShare, as NIfTI or in its older folders of slices; lesions were drawn on the gradient echo (bravo)."""
    patient = r"(?P<patient>Mets_[0-9]+)"
    stack_slices(tree, rf"{patient}/(?P<kind>[0-3]|seg)/[^/]*[0-9]\.(?:png|jpg|bmp|tiff?)", STANFORD_KINDS, STANFORD_MM)
    return gather(
        tree,
        (rf"{patient}/bravo{NIFTI}", rf"{patient}/t1_gd{NIFTI}"),
        label=(rf"{patient}/seg{NIFTI}",),
        others=(rf"{patient}/(?:t1_pre|flair){NIFTI}", *SIDE_FILES),
    )


def nyumets(tree):
    """NYUMets-Brain: the scan that radiosurgery was planned on, or the spin echo; days from the collection's table."""
    place = r"(?:patientId/)?(?P<patient>[0-9]+)/(?:studyId/)?(?P<session>[0-9]+)"
    days = _days_of_studies(tree)
    unknown = float("inf")
    table = gather(
        tree,
        (rf"{place}/RTSTRUCT_MRI{NIFTI}", rf"{place}/CT1{NIFTI}"),
        label=(rf"{place}/RTSTRUCT_segmentation{NIFTI}",),
        others=(rf"{place}/(?:T1|T2|FLAIR){NIFTI}", *SIDE_FILES),
        person="NYU-{patient}",
        scan="NYU-{patient}-{session}",
        order=lambda patient, study: (days.get(study, unknown), natural(study)),
    )
    undated = [scan for scan in table["scan_id"] if scan.rpartition("-")[2] not in days]
    tree.note("scans without a day in a table with StudyID and RelativeTimepoint, taken as the last", undated)
    return all_codes(tree, table)


def brain_mets_lung(tree):
    """Brain-Mets-Lung-MRI-Path-Segs: the core is the lesion; the whole has oedema too."""
    folders = [Path(path).parent for path in tree.left if re.search(rf"_t1ce_img{NIFTI}$", path)]
    has_own = len(set(folders)) > max(1, len(folders) / 2)  # a folder a patient, or all files in one
    scan = r"(?P<patient>[^/]+)/(?P<session>[^/]+)" if has_own else r"(?P<patient>[^/]+)"
    return gather(
        tree,
        (rf"{scan}_t1ce_img{NIFTI}",),
        label=(rf"{scan}_core_seg{NIFTI}",),
        others=(rf"[^/]+_(?:flair_img|whole_seg){NIFTI}", r"[^/]+\.svs", *SIDE_FILES),
        person="LUNG-{patient}",
        scan="LUNG-{session}" if has_own else "LUNG-{patient}",
    )


def openbtai(tree):
    """OpenBTAI (MOLAB): a folder a patient, an image and a mask a session; all values of a mask are lesion."""
    table = gather(
        tree,
        (rf"(?P<patient>[^/]+)/(?P<before>[^/]*?)(?i:img)(?P<after>[^/]*){NIFTI}",),
        label=(rf"(?P<patient>[^/]+)/(?P<before>[^/]*?)(?i:msk|mask)(?P<after>[^/]*){NIFTI}",),
        others=SIDE_FILES,
        person="MOLAB-{patient}",
        scan="MOLAB-{patient}-{session}",
    )
    return all_codes(tree, table)


def proteas(tree):
    """PROTEAS: `tumor segmentation` or `tumor_segmentation`; P04a and P04b are one patient, treated twice."""
    folder = r"(?P<patient>P[0-9]+)(?P<course>[a-z]?)"
    table = gather(
        tree,
        (rf"{folder}/BraTS/(?P<visit>[^/]+)/t1c{NIFTI}",),
        label=(rf"{folder}/tumor[ _]segmentation/(?P=patient)(?P=course)_tumor_mask_(?P<visit>[^/]+?){NIFTI}",),
        others=(rf"P[0-9]+[a-z]?/BraTS/[^/]+/(?:t1|t2|fla){NIFTI}", r"P[0-9]+[a-z]?/P[0-9]+[a-z]?_[^/]+",
                r"P[0-9]+[a-z]?/DICOM/.+", *SIDE_FILES),
        person="PROTEAS-{patient}",
        scan="PROTEAS-{patient}-{session}",
    )  # fmt: skip
    return enhancing_codes(tree, table)


def _days_of_studies(tree):
    """The days of studies, by their ids, from tables that have them; such tables are known files."""
    days = {}
    for path in [path for path in tree.left if path.endswith(".csv")]:
        with Path(tree.folder, path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.DictReader(file)
            if not {"StudyID", "RelativeTimepoint"} <= set(rows.fieldnames or ()):
                continue
            tree.left.remove(path)
            for row in rows:
                if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", row["RelativeTimepoint"] or ""):
                    days[str(row["StudyID"]).removesuffix(".0")] = float(row["RelativeTimepoint"])
    return days
