"""Steps: functions from named files to named files. Knows no engine, no BIDS and no YAML.

A step is one file in `interfaces/`; its file name is its name, and the name of its section in the YAML:

    class Config(StepConfig):
        fwhm_mm: float = Field(3.0, gt=0, description="Full width at half maximum of the kernel, mm")

    @step(makes={"fa_smooth": "Smoothed fractional anisotropy, 3D NIfTI"})
    def run(fa: Fa, config: Config, context: Context) -> Path: ...

The parameters of `run` are the products that it needs: `Path` for one file, `tuple[Path, ...]` for several,
`Path | None = None` for one that may be absent. `config` and `context` are not products. What it makes
is named in the decorator, in the order in which `run` returns it, and written into `context.folder`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict

from somite.errors import GraphError, Problem


class StepConfig(BaseModel):
    """The options of one step. Frozen; a key that is not an option is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class Fact:
    """Something that was inferred rather than given, with the reason: kept in the record of the run."""

    name: str
    value: str
    reason: str


@dataclass
class Context:
    """What a step gets from its surroundings, and where it leaves word of what it did."""

    folder: Path
    """Where the step writes its products; an empty folder of its own."""
    threads: int = 1
    """How many cores it may use. Results do not depend on it."""
    facts: list[Fact] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Command lines of the tools that ran."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Figures about the run itself, for quality control: counts and fractions, named with their unit."""

    def infer(self, name: str, value: object, reason: str) -> None:
        """Keep a fact that was inferred rather than given."""
        self.facts.append(Fact(name, str(value), reason))

    def warn(self, problem: Problem) -> None:
        """Keep a problem that does not stop the step. Its severity must be `warning`."""
        self.warnings.append(problem)


# The products that several steps share, with the words that describe them to a person.
Dwi = Annotated[Path, "Diffusion-weighted series, 4D NIfTI"]
Bval = Annotated[Path, "b-values in s/mm2, FSL text format, one per volume"]
Bvec = Annotated[Path, "Gradient directions, FSL text format: 3 rows, in the voxel frame of the image"]
Mask = Annotated[Path, "Mask, 3D NIfTI on the grid of the DWI, 1 inside"]
Labels = Annotated[Path, "Label image, 3D NIfTI of integers on the grid of the DWI"]
LabelTable = Annotated[Path, "Table of the labels, TSV: index, name, region, side, level, segment"]
Scan = Annotated[Path, "Acquisition of each volume, JSON: series, phase encoding, readout and echo times"]


@dataclass(frozen=True)
class Need:
    """A product that a step needs."""

    name: str
    description: str
    many: bool = False
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """One step: what it needs, what it makes, its options, and what it wants from the machine."""

    name: str
    run: Callable[..., Any]
    needs: tuple[Need, ...]
    makes: Mapping[str, str]
    """Name of each product -> its description, in the order in which `run` returns them."""
    config: type[StepConfig]
    tools: Callable[[Any], dict[str, str]]
    """Config -> version of every command-line tool that it will call. Raises ToolError when one is absent."""
    dwi_copies: float
    """Peak memory, in multiples of the DWI series as float32, beside that of the interpreter."""

    def __call__(self, config: StepConfig, context: Context, **products: Any) -> dict[str, Path]:
        """Run on paths; returns product name -> path. Raises GraphError when a product was not written."""
        result = self.run(**products, config=config, context=context)
        paths = result if isinstance(result, tuple) else (result,)
        made = dict(zip(self.makes, paths, strict=True))
        absent = [name for name, path in made.items() if not path.is_file()]
        if absent:
            raise GraphError(
                Problem(
                    "PRODUCT_NOT_WRITTEN",
                    f"step {self.name} ended without writing {', '.join(absent)}",
                    where=self.run.__module__,
                    do="report this: a step must write all that it declares",
                )
            )
        return made


class _NoOptions(StepConfig):
    """The options of a step that has none."""


def _no_tools(config: StepConfig) -> dict[str, str]:  # noqa: ARG001
    return {}


def _need(parameter: inspect.Parameter, hint: Any) -> Need:
    description = parameter.name.replace("_", " ")
    if get_origin(hint) is Annotated:
        hint, description = get_args(hint)[:2]
    optional = get_origin(hint) in (typing.Union, UnionType) and type(None) in get_args(hint)
    if optional:
        hint = next(a for a in get_args(hint) if a is not type(None))
        if get_origin(hint) is Annotated:
            hint, description = get_args(hint)[:2]
    many = get_origin(hint) is tuple
    if many:
        hint = get_args(hint)[0]
        if get_origin(hint) is Annotated:
            hint, description = get_args(hint)[:2]
    if hint is not Path:
        raise TypeError(f"{parameter.name}: not a Path, tuple[Path, ...] or Path | None, but {hint}")
    if optional and parameter.default is not None:
        raise TypeError(f"{parameter.name}: a product that may be absent has the default None")
    return Need(parameter.name, description, many, optional)


_STEPS: dict[str, Step] = {}


def step(
    *,
    makes: Mapping[str, str],
    tools: Callable[[Any], dict[str, str]] = _no_tools,
    dwi_copies: float = 2.0,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register `run` as the step named after its module. See the module's docstring.

    Args:
        makes: product name -> description, in the order in which `run` returns them.
        tools: config -> versions of the command-line tools that it will call.
        dwi_copies: peak memory in multiples of the DWI series as float32.
    """

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        name = run.__module__.rpartition(".")[2]
        hints = get_type_hints(run, include_extras=True)
        parameters = inspect.signature(run).parameters.values()
        needs = tuple(_need(p, hints[p.name]) for p in parameters if p.name not in ("config", "context"))
        config = hints.get("config", _NoOptions)
        _STEPS[name] = Step(name, run, needs, dict(makes), config, tools, dwi_copies)
        return run

    return register


@cache
def discover() -> Mapping[str, Step]:
    """All steps of `somite.interfaces`, by name."""
    import somite.interfaces as package

    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return _STEPS
