"""What Apptainer does with a definition file, done by buildah: for machines without Apptainer.

It copies and runs what the file says. That Apptainer itself takes the file is not shown by it.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One stage: its header, and its sections by their first line (`%files from build`)."""

    header: dict[str, str]
    sections: dict[str, str]

    def lines(self, section: str) -> list[str]:
        """Lines of a section that are neither empty nor a comment."""
        found = [line.strip() for line in self.sections.get(section, "").splitlines()]
        return [line for line in found if line and not line.startswith("#")]


def read(path: Path) -> list[Stage]:
    """The stages of a definition file."""
    found: list[Stage] = []
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("%"):
            section = line.strip()
            found[-1].sections[section] = ""
        elif header := re.match(r"(Bootstrap|From|Stage): (.+)", line):
            if header[1] == "Bootstrap":
                found.append(Stage({}, {}))
                section = ""
            found[-1].header[header[1]] = header[2]
        elif section:
            found[-1].sections[section] += line + "\n"
    return found


def build(path: Path, tag: str) -> None:
    """Build an image of podman's; environment and run script are files in `/.singularity.d`."""
    folders: dict[str, Path] = {}
    for stage in read(path):
        working = _buildah("from", "--pull-never", stage.header["From"])
        folders[stage.header["Stage"]] = root = Path(_buildah("mount", working))
        for section in stage.sections:
            if section.startswith("%files"):
                _, _, source = section.partition(" from ")
                _copy(stage.lines(section), folders[source] if source else path.parent, root, bool(source))
        if post := stage.sections.get("%post"):
            _buildah("run", "--isolation", "chroot", "--network", "host", working, "--", "sh", "-exc", post)
    folder = root / ".singularity.d"
    folder.mkdir()
    for section in ("environment", "runscript"):
        (folder / section).write_text(stage.sections[f"%{section}"])
    labels = [f"--label={line.replace(' ', '=', 1)}" for line in stage.lines("%labels")]
    _buildah("config", *labels, working)
    _buildah("commit", "--quiet", working, tag)
    _buildah("rm", "--all")


def _copy(lines: list[str], source: Path, root: Path, from_stage: bool) -> None:
    for line in lines:
        origin, target = line.split()
        to = root / target.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        how = "-a" if from_stage else "-fLr"
        subprocess.run(["cp", how, source / origin.lstrip("/"), to], check=True)


def _buildah(*words: str) -> str:
    done = subprocess.run(["buildah", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()
