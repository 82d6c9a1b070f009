"""Stand-ins for command-line tools: same names, same checks of their arguments, and the same ways to fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def install(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "6.0.7.4") -> Path:
    """Put the stand-in where FSL would have it, `$FSLDIR/bin`, outside PATH; returns its path.

    It behaves as the environment variable FAKE_MODE says: see its source.
    """
    (folder / "fsl/bin").mkdir(parents=True, exist_ok=True)
    (folder / "fsl/etc").mkdir(exist_ok=True)
    (folder / "fsl/etc/fslversion").write_text(f"{version}:1a2b3c\n")
    tool = folder / "fsl/bin" / name
    source = (Path(__file__).parent / f"{name.split('_')[0]}_stand_in.py").read_text()
    tool.write_text(f"#!{sys.executable}\n{source}")
    tool.chmod(0o755)
    monkeypatch.setenv("FSLDIR", str(folder / "fsl"))
    monkeypatch.setenv("PATH", "/usr/bin" + os.pathsep + "/bin")
    monkeypatch.delenv("FAKE_MODE", raising=False)
    return tool
