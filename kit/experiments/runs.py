"""The folder of one run: its parameters, the versions and hardware it ran on, its tables, and where to go on from.

    runs/d-seed7/
      parameters.json        parameters and seed, library versions, hardware
      checkpoint.safetensors tensors of the last finished epoch, the state beside them as JSON in its header
      weights.safetensors    the best weights so far
      history.csv, ...       tables

Each file is written whole or not at all, and nothing is unpickled. None names a folder of the machine or its user.
"""

import getpass
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kit.scans import is_phantom, nearest, replacing, write_table

PROJECT = Path(__file__).resolve().parents[2]
BEFORE = (
    r"(^|[^\w.~/…<-]|\x1b\[[\d;]*m|\\[nrt]|file://)"  # what stands before a path in a text, such as a colour's code
)
STEP = r"[^\s/'\"`<>|:;,()\[\]{}*?\\]+"  # the name of a folder or file in a text

LIBRARIES = ("brain-metastasis-kit", "torch", "numpy", "scipy", "nibabel", "pandas", "safetensors")


class RunError(ValueError):
    """A run that cannot be started, read or resumed as asked; the message gives the value or file and the remedy."""


@dataclass(frozen=True)
class Run:
    """The folder of one run; made by `open_run`."""

    folder: Path
    parameters: dict

    @property
    def weights_path(self):
        """Where the best weights lie, written by `kit.models.save_weights`."""
        return self.folder / "weights.safetensors"

    def save_table(self, name, table):
        """Write a data frame as `<name>.csv`, floats in full, and return its path."""
        path = self.folder / f"{name}.csv"
        write_table(table, path)
        return path

    def load_table(self, name):
        """Read back a table written by `save_table`, the same floats to the last bit; RunError if it is missing."""
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise RunError(f"{path} is missing: this run has not written it (yet). Run the step that makes it first.")
        return pd.read_csv(path)

    def save_checkpoint(self, tensors, state):
        """Write tensors (dict of name to tensor) and a JSON-able state as one file, so that they always fit."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"state": json.dumps(_plain(state))}
        with replacing(self.folder / "checkpoint.safetensors") as part:
            part.write_bytes(save(tensors, metadata))

    def load_checkpoint(self):
        """The tensors (on the CPU) and the state of the last checkpoint, or None if there is none yet."""
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["state"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}). Delete it to train again from the start.") from error


def open_run(folder, parameters):
    """Start a run in a folder, or return to it: the folder is made if missing.

    Parameters
    ----------
    folder : path
    parameters : dict
        Everything that decides the outcome, the seed among it: words, numbers, booleans, None, paths and lists or
        dicts of those. Of an absolute path the name is kept, and of a file a digest of what is in it.

    Raises
    ------
    RunError
        If the folder holds a run with other parameters; the message names each that differs.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = open_run(folder, {"network": "D", "seed": 7})
    ...     sorted(path.name for path in run.folder.iterdir())
    ['parameters.json']
    """
    folder, parameters = Path(folder), _plain(parameters)
    path = folder / "parameters.json"
    if path.is_file():
        refuse_other_parameters(_plain(_read(path)["parameters"]), parameters, path)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps({"parameters": parameters, **environment()}, indent=2) + "\n", encoding="utf-8")
    return Run(folder, parameters)


def own_maps(folder, parameters):
    """`open_run` for a folder of maps: parameters are compared where it has a map, and replaced where it has none.

    Maps of versions before 0.5, which have no parameters beside them, are taken as they are.

    Raises
    ------
    RunError
        For maps that were made with other parameters.
    """
    folder, mapped = Path(folder), any(Path(folder).glob("**/map.nii.gz"))
    stored = folder / "parameters.json"
    if not mapped:
        stored.unlink(missing_ok=True)
    if not mapped or stored.is_file():
        open_run(folder, parameters)


def refuse_other_parameters(stored, given, where):
    """Raise a RunError that names every parameter in which `given` differs from `stored`, if any does."""
    given, absent = _plain(given), object()
    differences = [
        f"{name} is {_value(given, name)}, but this run was started with {_value(stored, name)}"
        for name in dict.fromkeys([*stored, *given])
        if stored.get(name, absent) != given.get(name, absent)
    ]
    if differences:
        raise RunError(
            f"{where}: {'; '.join(differences)}. Give the same parameters to go on with it, or choose another folder."
        )


def digest(facts):
    """Sixteen digits that tell facts, such as the parameters of `open_run`, from others.

    >>> digest({"seed": 7}) == digest({"seed": 7}) != digest({"seed": 8})
    True
    """
    return hashlib.sha256(json.dumps(_plain(facts)).encode()).hexdigest()[:16]


def detector_facts(detector):
    """What tells a detector from others, as parameters of `open_run`: its class, a digest of its weights, its numbers.

    Of a function, and of an object that is neither a dataclass nor a network, the name is all that is known.

    >>> detector_facts(np.hypot), detector_facts({"r": (2, np.float32(0.5))})
    ('hypot', {'r': [2, 0.5]})
    """
    name = type(detector).__qualname__
    if isinstance(detector, torch.nn.Module):
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
        return {"class": name, "weights": hashlib.sha256(save(tensors)).hexdigest()[:16]}
    if is_dataclass(detector):
        return {"class": name} | {one.name: detector_facts(getattr(detector, one.name)) for one in fields(detector)}
    if isinstance(detector, dict):
        return {key: detector_facts(value) for key, value in detector.items()}
    if isinstance(detector, tuple | list | np.ndarray):
        return [detector_facts(value) for value in detector]
    if detector is None or isinstance(detector, str | int | float | Path):
        return detector
    return detector.item() if isinstance(detector, np.generic) else getattr(detector, "__name__", name)


def scan_facts(row):
    """What tells the scan of a manifest's row from another of its name, as parameters of `open_run`.

    Files by what is in them; the image of a synthetic scan, whose last bits differ between machines, by its source.
    """
    files = {name: Path(row[name]).resolve() if row.get(name) else "" for name in ("image", "label", "mask")}
    image = {"image": row["source"]} if is_phantom(row) else {}
    return {**files, **image, "lesion_codes": row.get("lesion_codes") or ""}


def check_choices(**words):
    """Refuse every word that is not among its choices, all in one RunError, before any work starts.

    Parameters
    ----------
    words : (value, choices) by name
        `choices` are strings, such as a registry's keys.

    Examples
    --------
    >>> check_choices(profile=("ful", ("quick", "full")))
    Traceback (most recent call last):
    ...
    kit.experiments.runs.RunError: profile is 'ful' (perhaps 'full' is meant): choose one of quick, full
    """
    problems = [
        f"{name} is {value!r}{nearest(str(value), choices)}: choose one of {', '.join(choices)}"
        for name, (value, choices) in words.items()
        if value not in list(choices)
    ]
    if problems:
        raise RunError("\n".join(problems))


def check_device(device):
    """Refuse a device that torch does not know, or a GPU that this machine lacks: RunError. "auto" is always there.

    Examples
    --------
    >>> check_device("gpu")
    Traceback (most recent call last):
    ...
    kit.experiments.runs.RunError: device is 'gpu': give auto, cpu, or cuda where there is a GPU
    """
    try:
        found = torch.device("cpu" if device == "auto" else device)
        there = found.type != "cuda" or (found.index or 0) < torch.cuda.device_count()
    except RuntimeError:
        there = False
    if not there:
        raise RunError(f"device is {str(device)!r}: give auto, cpu, or cuda where there is a GPU")


def environment():
    """Versions and hardware: what else a result may depend on. Nothing in it names the machine or its user."""
    hardware = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    versions = {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}
    return {"versions": versions, "hardware": hardware}


def without_places(text):
    """A text in which no path names a folder of this machine or its user, for what may be passed on.

    Paths inside the project start from there; of others the name stays.

    Examples
    --------
    >>> without_places(f"no file {PROJECT}/runs/a.csv or {tempfile.gettempdir()}/jane/b.csv")
    'no file runs/a.csv or …/b.csv'
    """
    if "/" not in text:
        return text
    text = re.sub(BEFORE + re.escape(str(PROJECT)) + "/", r"\1", text)
    text = re.sub(BEFORE + re.escape(str(PROJECT)) + r"(?![\w.-])", r"\1.", text)
    own = {
        Path("~").expanduser() if "HOME" in os.environ else Path("/"),
        Path.cwd(),
        Path(tempfile.gettempdir()),
        Path(sys.prefix),
    }
    own = sorted({str(form) for path in own for form in (path, path.resolve())} - {"/"}, key=len, reverse=True)
    tops = [re.escape(f"/{name}") for name in sorted(os.listdir("/"), key=len, reverse=True)]
    for folders in ([re.escape(path) for path in own], tops):
        text = re.sub(f"{BEFORE}(?:{'|'.join(folders)})(?=/|\\b)", r"\1…", text)
    text = re.sub(rf"…(?:/{STEP})*(/{STEP})", r"…\1", text)
    return re.sub(rf"(?<=/){re.escape(user)}(?![\w.-])", "…", text) if (user := _user()) else text


def _user():
    """The name of who runs this, or "" where the machine knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # in a container, a user may be a number only
        return ""


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _value(parameters, name):
    return repr(parameters[name]) if name in parameters else "not given"


def _plain(value):
    """The value as JSON gives it back: tuples become lists, numpy numbers plain ones, paths text without folders."""
    plain = json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))
    return _each_text(_named, plain)


def _each_text(function, value):
    """A value of JSON with every text in it replaced by what a function makes of it."""
    if isinstance(value, dict):
        return {name: _each_text(function, one) for name, one in value.items()}
    if isinstance(value, list):
        return [_each_text(function, one) for one in value]
    return function(value) if isinstance(value, str) else value


def _named(text):
    """Of an absolute path its name, and of a file what tells it from others of that name."""
    path = Path(text)
    if not path.is_absolute():
        return text
    if not path.is_file():
        return without_places(f"…/{path.name}")
    with path.open("rb") as file:
        return f"…/{path.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _read(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["parameters"].keys()
        return content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}). Choose another folder, or delete this one.") from error
