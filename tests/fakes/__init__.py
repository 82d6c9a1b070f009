"""Stand-ins for command-line tools: same names, same checks of their arguments, and the same ways to fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def install(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "6.0.7.4", *others: str
) -> Path:
    """Put the stand-in where FSL would have it, `$FSLDIR/bin`, outside PATH; returns its path.

    `others` are more names of the same tool. It behaves as the environment variable FAKE_MODE says: see its
    source.
    """
    tool = put_fsl(folder / "fsl", version, name, *others)
    monkeypatch.setenv("FSLDIR", str(folder / "fsl"))
    monkeypatch.setenv("PATH", "/usr/bin" + os.pathsep + "/bin")
    monkeypatch.delenv("FAKE_MODE", raising=False)
    return tool


def put_fsl(home: Path, version: str, *names: str) -> Path:
    """An FSL with these tools in the folder `home`; returns the path of the first."""
    (home / "bin").mkdir(parents=True, exist_ok=True)
    (home / "etc").mkdir(exist_ok=True)
    (home / "etc/fslversion").write_text(f"{version}:1a2b3c\n")
    for name in names:
        put(home / "bin" / name, f"{name.split('_')[0]}_stand_in.py")
    return home / "bin" / names[0]


def put(tool: Path, source: str) -> Path:
    """Make an executable of a stand-in's source; returns its path."""
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(f"#!{sys.executable}\n{(Path(__file__).parent / source).read_text()}")
    tool.chmod(0o755)
    return tool


def put_script(tool: Path, body: str) -> Path:
    """Make an executable of a few lines of shell; returns its path."""
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    return tool


def install_runtime(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container runtime first in PATH, on a machine without FSL; returns the folder of its images.

    An image is a folder `<image>.root` there, with `bin` in its PATH and, if it has one, `fsl` as FSLDIR; an
    image file beside it stands for that of apptainer.
    """
    put(folder / "runtime" / name, "runtime_stand_in.py")
    monkeypatch.setenv("PATH", os.pathsep.join((str(folder / "runtime"), "/usr/bin", "/bin")))
    monkeypatch.delenv("FSLDIR", raising=False)
    monkeypatch.delenv("FAKE_MODE", raising=False)
    monkeypatch.setenv("FAKE_IMAGES", str(folder / "images"))
    (folder / "images").mkdir(exist_ok=True)
    return folder / "images"
