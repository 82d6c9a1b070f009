"""A workflow of three small steps whose files a test may edit, for tests of what the engine does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

import pytest

from somite import fingerprint
from somite.derivatives import Derivative
from somite.record import Record
from somite.registry import _STEPS, StepConfig, discover
from somite.workflows import engine, session
from somite.workflows.engine import Event
from somite.workflows.graph import Use, join
from somite.workflows.session import Unit

HEADER = """
from pathlib import Path
from pydantic import Field
from somite.registry import Context, StepConfig, step
"""

TOY = {
    "helper": "def twice(x: float) -> float:\n    return 2 * x\n",
    "scale": HEADER
    + dedent("""
        from toy.helper import twice

        class Config(StepConfig):
            factor: float = Field(2.0, description="Factor")

        def version(config):
            return {"scaler": (Path(__file__).parent / "version").read_text()}

        @step(makes={"scaled": "Scaled number"}, tools=version)
        def run(number: Path, config: Config, context: Context) -> Path:
            out = context.folder / "scaled.txt"
            out.write_text(str(float(number.read_text()) * config.factor + 0 * twice(1)))
            return out
        """),
    "shift": HEADER
    + dedent("""
        from somite.errors import Problem, ToolError

        class Config(StepConfig):
            by: float = 1.0

        @step(makes={"shifted": "Shifted number", "note": "A note"})
        def run(scaled: Path, config: Config, context: Context) -> tuple[Path, Path]:
            value = float(scaled.read_text())
            if value < 0 or (Path(__file__).parent / "broken").exists():
                raise ToolError(Problem("TOOL_FAILED", "the shifter failed", found="its own last words"))
            out, note = context.folder / "shifted.txt", context.folder / "note.txt"
            out.write_text(str(value + config.by))
            note.write_text("positive")
            context.infer("sign", "positive", "it is not negative")
            context.numbers["value"] = value
            return out, note
        """),
    "collect": HEADER
    + dedent("""
        class Config(StepConfig):
            pass

        @step(makes={"collected": "All of it"})
        def run(shifted: Path, note: Path, number: Path, config: Config, context: Context,
                extra: Path | None = None) -> Path:
            out = context.folder / "collected.txt"
            words = [p.read_text() for p in (number, shifted, note, *([extra] if extra else []))]
            out.write_text(" ".join(words))
            return out
        """),
}

STEPS = (
    Use("collect", deliver={"collected": Derivative("collected", extension=".txt")}),
    Use("shift"),
    Use("scale"),
)


@dataclass
class Toy:
    """A workflow of three small steps whose files a test may edit."""

    root: Path
    settings: dict[str, dict[str, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def config(self, step: str) -> StepConfig:
        return _STEPS[step].config(**self.settings.get(step, {}))

    def unit(self, number: Path, label: str = "sub-01", **changes: object) -> Unit:
        present = ("number", *(("extra",) if "extra" in changes else ()))
        files: dict[str, object] = {"number": number}
        if "extra" in changes:
            files["extra"] = changes.pop("extra")
        out_dir = self.root / "out"
        unit = Unit(
            label=label,
            nodes=join(STEPS, present, self.config),
            files=files,  # type: ignore[arg-type]
            texts={},
            targets={"collected": (out_dir / label / "collected.txt", STEPS[0].deliver["collected"])},
            out_dir=out_dir,
            work_dir=self.root / "work",
            source_dir=number.parent,
        )
        return replace(unit, **changes)  # type: ignore[arg-type]

    def run(self, number: Path, label: str = "sub-01", **changes: object) -> Record:
        self.events.clear()
        return session.run(self.unit(number, label, **changes), self.events.append)

    def ran(self, number: Path, label: str = "sub-01", **changes: object) -> list[str]:
        """Run, and say which steps were executed."""
        result = self.run(number, label, **changes)
        assert result.verdict == "done", result.reason
        assert [s.step for s in result.steps if s.state == "run"] == self.executed
        return self.executed

    @property
    def executed(self) -> list[str]:
        return [event.step for event in self.events if event.state == "run"]

    def write(self, module: str, text: str) -> None:
        """Edit a step's file, as a developer would between two runs."""
        (self.root / "toy" / f"{module}.py").write_text(text)
        importlib.invalidate_caches()
        fingerprint.forget_code()
        engine._task_class.cache_clear()
        names = ("toy.helper", "toy.scale", "toy.shift", "toy.collect")
        for name in ("toy", *names):
            sys.modules.pop(name, None)
        for name in names:
            importlib.import_module(name)

    @property
    def result(self) -> str:
        return (self.root / "out" / "sub-01" / "collected.txt").read_text()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "version").write_text("1.0")
    for module, text in TOY.items():
        (package / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(discover())
    found = Toy(tmp_path)
    found.write("helper", TOY["helper"])
    yield found
    _STEPS.clear()
    _STEPS.update(before)
    fingerprint.forget_code()
    engine._task_class.cache_clear()


@pytest.fixture
def number(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "number.txt"
    path.parent.mkdir()
    path.write_text("3")
    return path
