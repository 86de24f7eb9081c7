"""Whether this machine lets bubblewrap build walls; a container may forbid it."""

import shutil
import subprocess

import pytest


def _can_be_walled() -> bool:
    bwrap = shutil.which("bwrap")
    walls = ["--unshare-all", "--ro-bind", "/", "/", "true"]
    return bool(bwrap) and subprocess.run([bwrap, *walls], capture_output=True).returncode == 0


needs_sandbox = pytest.mark.skipif(
    not _can_be_walled(), reason="needs bubblewrap, and a machine that allows it namespaces"
)
