"""What `python -m kit export` does: it stands beside `__main__`, above all rooms."""

import sys

from kit.metrics import export_lesions, export_maps
from kit.models import Detector
from kit.scans import ExportError, export_nnunet, read_manifest, select, write_table


def export(given):
    """Write maps and masks, a list of lesions, or a dataset folder of nnU-Net, to be read by other programs."""
    table = read_manifest(given.manifest, data_root=given.data_root)
    if given.split != "all":
        table = select(table, given.split, follow_ups=True)
    EXPORTS[given.what](table, given)
    print(given.out)


def _export_maps(table, given):
    if bool(given.predictions) == bool(given.weights):
        raise ExportError("maps come from --predictions FOLDER or are made with --weights FILE; give one of the two")
    source, options = given.predictions or Detector.load(given.network, given.weights), {}
    if given.weights:
        options = {"search": given.search, "device": given.device}
    export_maps(source, table, given.out, **_of_mask(given), **options, progress=sys.stderr.isatty())


def _export_lesions(table, given):
    if given.out.exists():
        raise ExportError(f"{given.out}: is there already; name another file, or delete it")
    found = export_lesions(table, given.predictions, **_of_mask(given), progress=sys.stderr.isatty())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_table(found, given.out)


def _export_nnunet(table, given):
    done = export_nnunet(table, given.out, progress=sys.stderr.isatty())
    for row in done[~done.part.isin(["Tr", "Ts"])].itertuples():
        print(f"{row.scan_id} is left out: {row.part}", file=sys.stderr)


def _of_mask(given):
    return {"threshold": given.threshold, "low": given.low, "min_volume_mm3": given.min_volume}


EXPORTS = {"maps": _export_maps, "lesions": _export_lesions, "nnunet": _export_nnunet}
