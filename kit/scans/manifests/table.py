"""The cohort table: read it and report all its faults at once, write it, choose a split."""

import hashlib
import os
import re
from pathlib import Path, PureWindowsPath

import pandas as pd

from kit.scans.files import ScanError, in_threads, read_grid, read_image, read_label, read_mask, write_table
from kit.scans.manifests.leaks import FOLLOW_UP, KNOWN, Digests, across_splits, is_phantom, same_voxels, voxel_digest
from kit.scans.manifests.text import SHOWN, ManifestError, manifest_error, nearest, parse

SPLITS = ("train", "validation", "test", "")
FILES = ("image", "label", "mask")
CODES = re.compile(r"[1-9][0-9]*(\s*;\s*[1-9][0-9]*)*")


def read_manifest(path, *, data_root=None, check_files=True, check_leaks=True) -> pd.DataFrame:
    """Read a cohort's CSV, one row a scan, and check all of it before anything long begins.

    Parameters
    ----------
    path
        CSV with the columns `scan_id, patient_id, session, image, label, split`; `lesion_codes`, `mask` (a file on the
        image's grid; `healthy_mask` is read as `mask`), `source`, `sha256` (of the image file) and `known_leak` (why a
        row may break the rules on leaks) are understood, further columns kept as text.
    data_root : path, optional
        Folder that the file columns are relative to and may not leave; the manifest's own folder by default.
    check_files : bool
        Read every image, label and mask (about half a second a scan); False only looks whether they are there.
    check_leaks : bool
        Refuse what `find_leaks` finds; with False it can be asked for as a table. What takes reading the images is
        found with `check_files` only.

    Returns
    -------
    pandas.DataFrame
        One row a scan, in the file's order. `session` is int, all else str; `image`, `label` and `mask` are absolute
        paths, empty where there is none. Files of rows whose `source` is `phantom:<seed>` need not exist yet.
        `attrs["voxels"]` holds a digest of each image that was read, by its path.

    Raises
    ------
    ManifestError
        Names every fault with line, column, value and remedy; `error.problems` has them as a list.

    Examples
    --------
    >>> import tempfile
    >>> text = "scan_id,patient_id,session,image,label,split,source\\n01,p1,1,01.nii.gz,,train,phantom:7\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "cohort.csv").write_text(text)
    ...     table = read_manifest(f"{folder}/cohort.csv")
    >>> table.loc[0, ["scan_id", "session", "split"]].tolist()
    ['01', np.int64(1), 'train']
    """
    path = Path(path)
    columns, rows, problems = parse(path)
    root = path.parent if data_root is None else Path(data_root)
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; correct data_root, which the manifest's paths start from")
    problems += _table_problems(rows)
    hints = iter(range(SHOWN))  # looking for names alike takes long in a large folder, and no more are shown
    problems += [problem for row in rows for problem in _place_files(row, root.resolve(), hints)]
    problems += _repeated_paths(rows)
    found, digests = _file_problems(rows) if check_files else ([], Digests())
    problems += found + (list(_leaks(rows, digests)) if check_leaks else [])
    if problems:
        raise manifest_error(path, problems)
    table = pd.DataFrame([row.cells | row.files for row in rows], columns=columns, dtype=str)
    table.attrs["voxels"] = digests
    return table.astype({"session": int})


def write_manifest(table, path, *, data_root=None) -> None:
    """Write a cohort's table as a manifest that `read_manifest` reads back to the same table.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a scan, with the columns of `read_manifest`. Paths that are absolute are written relative to
        `data_root`; the others are taken to be so already.
    path
        CSV file in a folder that is there; it appears whole or not at all.
    data_root : path, optional
        Folder that holds all files, to be given to `read_manifest` again; the manifest's own folder by default.

    Raises
    ------
    ManifestError
        A file lies outside that folder; nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> row = {"scan_id": "01", "patient_id": "p1", "session": 1, "label": "", "split": "test", "source": "phantom:7"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_manifest(pd.DataFrame([row | {"image": f"{folder}/01.nii.gz"}]), f"{folder}/cohort.csv")
    ...     Path(folder, "cohort.csv").read_text().splitlines()[1]
    '01,p1,1,,test,phantom:7,01.nii.gz'
    """
    root = Path(path).parent if data_root is None else Path(data_root)
    files = {name: [_relative(file, root.resolve(), path) for file in table[name]] for name in FILES if name in table}
    write_table(table.assign(**files), path)


def select(table, split, *, follow_ups=False) -> pd.DataFrame:
    """The labelled scans of a split, by default only each patient's first labelled session.

    On follow-ups the thesis' lesions were not labelled again, so its experiments leave them out.

    Parameters
    ----------
    table : pandas.DataFrame
        From `read_manifest`.
    split : {"train", "validation", "test", ""}
    follow_ups : bool
        Take all labelled sessions.

    Returns
    -------
    pandas.DataFrame
        Some rows of `table`, in its order.

    Raises
    ------
    ManifestError
        The split has no labelled scan; the message says which splits have.

    Examples
    --------
    >>> table = pd.DataFrame({"patient_id": ["p", "p"], "session": [2, 1], "label": ["b", "a"], "split": ["test"] * 2})
    >>> select(table, "test")["session"].tolist()
    [1]
    """
    labelled = table[table["label"] != ""]
    scans = labelled[labelled["split"] == split]
    if scans.empty:
        counts = labelled["split"].value_counts()
        there = ", ".join(f"{name or 'no split'} ({count})" for name, count in counts.items()) or "no split at all"
        raise ManifestError(f"split is {split!r}{nearest(split, SPLITS)}: no labelled scan is in it, but in {there}")
    if not follow_ups:
        first = scans.groupby("patient_id")["session"].transform("min")
        scans = scans[scans["session"] == first]
    return scans.reset_index(drop=True)


def _relative(file, root, path):
    """A file's path relative to the root, refused where the file lies outside."""
    if not file or not Path(file).is_absolute():
        return file
    if not Path(file).resolve().is_relative_to(root):
        raise ManifestError(f"{path}: {file} lies outside {root}; name a data_root that holds all files")
    return Path(file).resolve().relative_to(root).as_posix()


def _table_problems(rows):
    """What is wrong by the table alone, no file looked at."""
    problems = [problem for row in rows for problem in _cell_problems(row)]
    first_line = {}
    for row in rows:
        scan = row.cells["scan_id"]
        if scan and first_line.setdefault(scan, row.line) != row.line:
            problems.append(row.problem("scan_id", f"is on line {first_line[scan]} already; give each scan its own"))
    return problems


def _leaks(rows, digests):
    """What two rows share that they may not share, by the table and by the voxels that were read."""
    for leak in across_splits([row.cells for row in rows]):
        first, other = rows[leak.first], rows[leak.other]
        there = f"is in {first.cells['split']!r} on line {first.line}"
        yield other.problem(
            "split",
            f"{leak.what.removeprefix(FOLLOW_UP)} {there}; keep one split, or say in the column {KNOWN} why not",
        )
    for leak in same_voxels([row.cells | row.files for row in rows], digests):
        line = rows[leak.first].line
        yield rows[leak.other].problem("image", f"has the voxels of line {line}'s; keep one of the two")


def _cell_problems(row):
    cells = row.cells
    for name in ("scan_id", "patient_id", "image"):
        if not cells[name]:
            yield row.problem(name, "is empty; fill it in")
    if re.search(r"[/\\]|^\.", cells["scan_id"]):
        yield row.problem("scan_id", "files are named after it: use no slashes, and no dot at its start")
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", cells["session"], re.ASCII):
        yield row.problem("session", "number a patient's sessions 1, 2, 3, ... in the order of their dates")
    if cells["split"] not in SPLITS:
        yield row.problem("split", f"must be train, validation, test or empty{nearest(cells['split'], SPLITS)}")
    if cells.get("lesion_codes") and not CODES.fullmatch(cells["lesion_codes"]):
        yield row.problem("lesion_codes", "give the label values that are lesion, such as 1 or 1;3")
    if cells.get("sha256") and not re.fullmatch(r"[0-9a-fA-F]{64}", cells["sha256"]):
        yield row.problem("sha256", "must be 64 hexadecimal digits, as `sha256sum` prints them; correct or empty it")


def _place_files(row, root, hints):
    """Put the absolute paths of a row's files into it, those that are there, and report the others."""
    for name in FILES:
        value = row.cells.get(name, "")
        if not value:
            continue
        try:
            place = (root / value).resolve()
            is_file = place.is_file()
        except (OSError, RuntimeError) as error:
            yield row.problem(name, f"is no path that can be followed ({_cause(error)}); correct it")
            continue
        if Path(value).is_absolute() or PureWindowsPath(value).anchor:
            yield row.problem(name, "is an absolute path; write it relative to the manifest, or name a data_root")
        elif not place.is_relative_to(root):
            yield row.problem(name, f"leads out of {root} to {place}; move it inside, or name a data_root around it")
        elif is_file or (is_phantom(row.cells) and not place.exists()):
            row.files[name] = str(place)
        elif "\\" in value:
            yield row.problem(name, "no such file; write its folders with / instead of \\")
        else:
            look = place.parent.is_dir() and next(hints, None) is not None
            hint = nearest(place.name, os.listdir(place.parent)) if look else ""
            yield row.problem(name, f"no such file in {root}{hint}; correct the path")


def _cause(error):
    """Why a path cannot be followed, without the path."""
    return "links lead in a circle" if isinstance(error, RuntimeError) else error.strerror


def _file_problems(rows):
    """What is wrong inside the files, and digests of the images by their paths."""
    problems, digests = [], Digests()
    for row, (found, digest) in zip(rows, in_threads(_check_files, rows, "checking scans"), strict=True):
        problems += found
        digests |= {row.files["image"]: digest} if digest else {}
    return problems, digests


def _check_files(row):
    """Problems of a row's files, and a digest of its image's voxels where they could be read."""
    if is_phantom(row.cells):  # made, and checked against their fingerprint, by kit.phantom
        return [], None
    problems = []
    grid = _attempt(problems, row, "image", read_grid)
    image, _ = (grid and _attempt(problems, row, "image", read_image)) or (None, None)
    codes = row.cells.get("lesion_codes", "")
    if not codes or CODES.fullmatch(codes):
        _attempt(problems, row, "label", read_label, grid, lesion_codes=codes)
    _attempt(problems, row, "mask", read_mask, grid)
    problems += _sha256_problems(row)
    return problems, None if image is None else voxel_digest(image)


def _attempt(problems, row, column, read, *args, **options):
    """What `read` makes of a row's file, or None after noting what it refused."""
    if column not in row.files:
        return None
    try:
        return read(row.files[column], *args, **options)
    except ScanError as error:
        problems.append(row.problem(column, str(error).removeprefix(f"{row.files[column]}: ")))
        return None


def _sha256_problems(row):
    wanted = row.cells.get("sha256", "").lower()
    if len(wanted) == 64 and "image" in row.files:
        with open(row.files["image"], "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            yield row.problem("sha256", f"the image file's is {found}; bring the right file or correct the value")


def _repeated_paths(rows):
    first_with = {}
    for row in rows:
        path = row.files.get("image")
        if path and first_with.setdefault(path, row) is not row:
            line = first_with[path].line
            yield row.problem("image", f"is the file of line {line}; one row a scan: delete one, or correct the path")
