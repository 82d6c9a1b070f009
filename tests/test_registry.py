"""A step declares its needs by its parameters, and what it declares wrongly is found at import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from somite.errors import GraphError
from somite.registry import Context, Dwi, Mask, Step, StepConfig, discover, step


class Config(StepConfig):
    """No options."""


def registered(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Step:
    found: dict[str, Step] = {}
    monkeypatch.setattr("somite.registry._STEPS", found)
    step(makes={"out": "Something"})(run)
    return next(iter(found.values()))


def test_needs_follow_from_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(
        dwi: Dwi, several: tuple[Dwi, ...], config: Config, context: Context, mask: Mask | None = None
    ) -> Path:
        raise NotImplementedError

    needs = {need.name: need for need in registered(run, monkeypatch).needs}
    assert list(needs) == ["dwi", "several", "mask"]
    assert needs["dwi"].description.startswith("Diffusion-weighted series")
    assert (needs["several"].many, needs["several"].optional) == (True, False)
    assert (needs["mask"].many, needs["mask"].optional) == (False, True)


def test_several_files_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: Config, context: Context, several: tuple[Dwi, ...] | None = None) -> Path:
        raise NotImplementedError

    (need,) = registered(run, monkeypatch).needs
    assert (need.name, need.many, need.optional) == ("several", True, True)


def test_a_parameter_that_is_no_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(threshold: float, config: Config, context: Context) -> Path:
        raise NotImplementedError

    with pytest.raises(TypeError, match="threshold: not a Path"):
        registered(run, monkeypatch)


def test_a_product_that_was_not_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(config: Config, context: Context) -> Path:
        return context.folder / "absent.nii"

    with pytest.raises(GraphError, match="ended without writing out"):
        registered(run, monkeypatch)(Config(), Context(tmp_path))


@pytest.mark.parametrize("name", sorted(discover()))
def test_every_step_describes_itself(name: str) -> None:
    found = discover()[name]
    assert found.name == name
    assert inspect.getdoc(found.run)
    assert all(text for text in found.makes.values())
    for option, info in found.config.model_fields.items():
        assert info.description, f"{name}.{option} has no description"


def test_to_know_all_steps_loads_none_of_their_large_libraries() -> None:
    code = (
        "import sys\nfrom somite.registry import discover\nfrom somite.workflows import cohort\ndiscover()\n"
        "large = {'SimpleITK', 'dipy', 'matplotlib', 'nipype', 'numba', 'statsmodels'}\n"
        "print(sorted(large & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "the process that watches over a cohort holds them for nothing"
