"""Seconds of one core that a built-in scan takes to be drawn and written: python benchmarks/phantom.py [SCANS]."""

import sys
import tempfile
import time

import torch

from kit.phantom import make_scan, plan_cohort
from kit.phantom.head.template import template


def main(scans):
    torch.set_num_threads(1)
    started = time.process_time()
    template()
    print(f"template, once a process: {time.process_time() - started:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        for row in plan_cohort().head(scans).to_dict("records"):
            started = time.process_time()
            make_scan(row | {"image": f"{folder}/image.nii.gz", "label": f"{folder}/label.nii.gz"})
            print(f"{row['scan_id']}: {time.process_time() - started:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
