"""The text of a manifest: its columns and rows with their line numbers, and the message that lists its faults."""

import csv
import difflib
import io
from typing import NamedTuple

REQUIRED = ("scan_id", "patient_id", "session", "image", "label", "split")
SAME = {"healthy_mask": "mask"}  # another name of a column, and the one that it is read as
SHOWN = 50  # problems a message lists before it only counts


class Problem(NamedTuple):
    """One fault of a manifest: the line of the file (the header is line 1), column, value, what to do."""

    row: int
    column: str
    value: str
    message: str

    def __str__(self):
        return f"line {self.row}, {self.column} {self.value!r}: {self.message}"


class Row(NamedTuple):
    """One scan of a manifest: its line, its cells as they stand there, and the paths its file columns come to."""

    line: int
    cells: dict
    files: dict

    def problem(self, column, message):
        return Problem(self.line, column, self.cells[column], message)


class ManifestError(ValueError):
    """A manifest cannot be used; `problems` lists (row, column, value, message) of every fault found in it."""

    def __init__(self, message, problems=()):
        super().__init__(message)
        self.problems = list(problems)


def parse(path):
    """Columns, rows and problems of a manifest; blank lines count as lines but not as scans.

    Commas, semicolons and tabs separate columns, whichever the header has most of. ManifestError where the file as a
    whole is no manifest: missing, no UTF-8 text, empty, or without a column that it needs.
    """
    text = _decoded(path)
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets of many countries write semicolons
    lines = _lines(path, text, delimiter)
    columns = _columns(path, lines)
    rows, problems = [], []
    for line, values in lines[1:]:
        if len(values) > len(columns) and not any(values[len(columns) :]):
            values = values[: len(columns)]
        if len(values) == len(columns):
            rows.append(Row(line, dict(zip(columns, values, strict=True)), {}))
        else:
            problems.append(_wrong_length(line, values, columns, delimiter))
    if not lines[1:]:
        raise ManifestError(f"{path}: has a header but no scan; add one row a scan")
    return columns, rows, problems


def manifest_error(path, problems):
    """One error for all problems, in the order of their lines; beyond 50 the message only counts them."""
    problems = sorted(dict.fromkeys(problems), key=lambda problem: problem.row)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return ManifestError("\n  ".join([f"{path}: {count}", *map(str, problems[:SHOWN]), *more]), problems)


def nearest(name, choices):
    """A hint at the choice that was probably meant, to go into a message; empty where none is near.

    Examples
    --------
    >>> nearest("Valid", ["train", "validation"])
    " (perhaps 'validation' is meant)"
    """
    by_lower = {choice.lower(): choice for choice in choices if choice}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (perhaps {by_lower[found[0]]!r} is meant)" if found else ""


def _decoded(path):
    """The manifest's text, as any spreadsheet program on any system saves it."""
    if not path.is_file():
        raise ManifestError(f"{path}: no such file; give the path of a manifest (a CSV file, one row a scan)")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason}); save it as 'CSV UTF-8'") from error
    if "\0" in text:
        raise ManifestError(f"{path}: holds zero bytes, so it is no text table; save it as 'CSV UTF-8'")
    return text


def _lines(path, text, delimiter):
    """(line number, stripped cells) of every line that holds something."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines, start = [], 1
    try:
        for values in reader:
            values = [value.strip() for value in values]
            if any(values):
                lines.append((start, values))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{path}: line {start} is no CSV ({error}); check its quotation marks") from error
    return lines


def _columns(path, lines):
    """The header's columns by the names they are read as, refused where one is missing or comes twice."""
    if not lines:
        raise ManifestError(f"{path}: is empty; its first line must be {','.join(REQUIRED)}")
    line, columns = lines[0]
    while not columns[-1]:
        columns = columns[:-1]  # spreadsheets end lines with empty cells
    problems = [
        Problem(line, name, "", f"this column is missing{nearest(name, columns)}; there are {', '.join(columns)}")
        for name in REQUIRED
        if name not in columns
    ]
    problems += [
        Problem(line, name, name, "this column has no name or comes more than once; name each column once")
        for name in sorted({name for name in columns if not name or columns.count(name) > 1})
    ]
    problems += [
        Problem(line, other, other, f"is another name of the column {name}, which is there too; keep one of the two")
        for other, name in SAME.items()
        if {other, name} <= set(columns)
    ]
    if problems:
        raise manifest_error(path, problems)
    return [SAME.get(name, name) for name in columns]


def _wrong_length(line, values, columns, delimiter):
    message = (
        f"{len(values)} values where the header has {len(columns)}; leave empty values in place, and put a value "
        f"that holds {delimiter!r} in quotation marks"
    )
    return Problem(line, columns[min(len(values), len(columns)) - 1], values[-1], message)
