"""A log that cannot be written does not end a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.console import set_ctrl_c

SAY = """
from runtime.console import be_patient
be_patient(); be_patient()
for i in range(3): print("line", i, flush=True)
raise SystemExit(7)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_the_log() -> None:
    repo = Path(__file__).resolve().parents[2]
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SAY], cwd=repo, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 7 and not done.stderr  # 120 where Python's flush at exit fails
    done = subprocess.run([sys.executable, "-c", SAY], cwd=repo, capture_output=True)
    assert done.stdout == b"line 0\nline 1\nline 2\n" and done.returncode == 7


def test_what_ctrl_c_does_is_set_and_stays_where_it_cannot_be() -> None:
    before = signal.getsignal(signal.SIGINT)
    set_ctrl_c(signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    set_ctrl_c(None)  # a handler that is not Python's own
    other = threading.Thread(target=set_ctrl_c, args=(before,))
    other.start()
    other.join()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
