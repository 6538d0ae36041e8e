"""Work that is killed goes on to the same bytes; `tests/kills.py` does it, and more often when it is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("KIT_KILLS", "4")  # of each kind of work


@pytest.mark.slow
def test_killed_work_goes_on_to_the_same_bytes_and_loses_nothing_that_was_finished():
    script = Path(__file__).with_name("kills.py")
    places = os.pathsep.join([str(script.parents[1]), str(script.parent)])
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, "--kills", KILLS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if f"'kills': {KILLS}" in line]) == 5
