"""Folders of one's own: pairs of files by a pattern, and BIDS."""

import re

from kit.scans.importers.folder import NIFTI, gather
from kit.scans.manifests.text import ManifestError

FIELDS = ("patient", "session")
ENTITIES = r"(?:_[^_/-]+-[^_/]+)*"  # of a name in BIDS: _acq-3d, _run-1
SUBJECT = r"sub-(?P<patient>[^_/]+)(?:_ses-(?P<session>[^_/]+))?"
LESION = r"(?:lesions?|tumou?rs?|mets?|metastas[ie]s)"


def pairs(tree, *, image="", label="", lesion_codes=""):
    """Pairs of files by patterns such as `{patient}/{session}/t1gd.nii.gz`; `*` is any text without a slash."""
    if not image:
        raise ManifestError(
            "pairs needs the pattern of its images, such as --image '{patient}_t1gd.nii.gz', and usually that of its "
            "labels, such as --label '{patient}_seg.nii.gz'"
        )
    patterns = [_compiled(text, what) for text, what in ((image, "image"), (label, "label")) if text]
    if len({tuple(field for field in FIELDS if f"{{{field}}}" in text) for text in (image, label) if text}) > 1:
        raise ManifestError(f"image is {image!r} and label {label!r}: name {{patient}} and {{session}} in both or none")
    scan = "{patient}-{session}" if "{session}" in image else "{patient}"
    return gather(tree, patterns[:1], label=patterns[1:], scan=scan, codes=lesion_codes)


def bids(tree, *, lesion_codes=""):
    """BIDS: T1w with contrast agent (`ce-`), and masks or segmentations of lesions below `derivatives`."""
    derived = [path for path in tree.left if re.search(r"(?:^|/)derivatives/.+_T1w\.", path)]
    tree.left = [path for path in tree.left if path not in set(derived)]
    mask = rf"{SUBJECT}{ENTITIES}"
    table = gather(
        tree,
        (rf"{SUBJECT}{ENTITIES}_ce-[^_/]+{ENTITIES}_T1w{NIFTI}",),
        label=(
            rf"derivatives/(?:[^/]+/)*{mask}_(?i:(?:label|desc)-{LESION}){ENTITIES}_(?:mask|dseg|seg|roi){NIFTI}",
            rf"derivatives/(?:[^/]+/)*(?!(?i:[^/]*brain)){mask}_(?:lesion_)?(?:mask|dseg|seg|roi){NIFTI}",
        ),
        others=(r"[^/]+\.(?:json|tsv|bval|bvec)", r"(?:README|CHANGES|LICENSE)[^/]*",
                rf"sub-[^/]+_[A-Za-z0-9]+{NIFTI}"),
        person="sub-{patient}",
        scan="sub-{patient}_ses-{session}",
        codes=lesion_codes,
    )  # fmt: skip
    tree.notes += [f"images below derivatives, not used: {len(derived)}"] if derived else []
    return table


def _compiled(text, what):
    """A pattern as a regular expression; a field that comes again must say the same again."""
    if "{patient}" not in text:
        raise ManifestError(f"{what} is {text!r}; name the patient in it, such as '{{patient}}_t1gd.nii.gz'")
    parts, known = [], set()
    for part in re.split(r"(\{[^{}]*\}|\*)", text):
        field = part[1:-1]
        if part == "*":
            parts.append("[^/]*")
        elif part.startswith("{"):
            if field not in FIELDS:
                raise ManifestError(
                    f"{what} is {text!r}; of {part} nothing is known: use {{patient}}, {{session}} and *"
                )
            parts.append(f"(?P={field})" if field in known else f"(?P<{field}>[^/]+?)")
            known.add(field)
        else:
            parts.append(re.escape(part))
    return "".join(parts)
