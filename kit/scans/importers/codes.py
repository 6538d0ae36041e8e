"""Which values of a label are lesion, found in the files where a collection's own words leave it open."""

from collections import Counter

import numpy as np

from kit.scans.files import ScanError, in_threads, read_codes, read_grid, read_image
from kit.scans.manifests.text import ManifestError

NECROSIS = 1


def all_codes(tree, table):
    """The table with `lesion_codes` where a label holds several values: all of them are lesion."""
    found = list(in_threads(_values, table["label"].tolist(), "reading labels"))
    _note_failures(tree, found)
    codes = [";".join(map(str, values)) if isinstance(values, list) and len(values) > 1 else "" for values in found]
    return table.assign(lesion_codes=codes)


def enhancing_codes(tree, table):
    """The table with `lesion_codes`: necrosis, which is 1, and the value that lights up in the image.

    Descriptions of the collection exchange the values of enhancing tumour and oedema. With contrast agent the one is
    bright and the other dark, so each label that has both says for itself; the others follow the majority.

    ManifestError where no label of the folder has both.
    """
    found = list(in_threads(_brightest, table.to_dict("records"), "telling tumour from oedema"))
    _note_failures(tree, found)
    votes = Counter(code for code in found if isinstance(code, int))
    if not votes and (table["label"] != "").any():
        raise ManifestError(
            f"{tree.folder}: no label has two values besides {NECROSIS}, so that none says which of them is oedema; "
            "import more scans together, or write the manifest by hand with lesion_codes"
        )
    usual = votes.most_common(1)[0][0] if votes else None
    enhancing = [code if isinstance(code, int) else usual for code in found]
    tree.notes += [
        f"labels with {code} for enhancing tumour, by its brightness: {count} (lesion_codes {NECROSIS};{code})"
        for code, count in votes.most_common()
    ]
    codes = [f"{NECROSIS};{code}" if path else "" for code, path in zip(enhancing, table["label"], strict=True)]
    return table.assign(lesion_codes=codes)


def _values(path):
    """The positive values of a label, or the reason why it cannot be read."""
    try:
        return [int(value) for value in np.unique(read_codes(path)) if value > 0] if path else []
    except ScanError as error:
        return error


def _brightest(row):
    """The value above 1 that is brightest in the image, None where there is but one, or why it cannot be read."""
    if not row["label"]:
        return None
    try:
        codes = read_codes(row["label"], read_grid(row["image"]))
        others = [int(value) for value in np.unique(codes) if value > NECROSIS]
        if len(others) < 2:
            return None
        image, _ = read_image(row["image"])
        return max(others, key=lambda value: float(np.median(image[codes == value])))
    except ScanError as error:
        return error


def _note_failures(tree, found):
    tree.note("labels that cannot be read", [str(error) for error in found if isinstance(error, ScanError)])
