"""A step as a Nipype interface, for other people's workflows: files in, files out, options as traits."""

from __future__ import annotations

import os
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# Nipype asks its maker's server for news otherwise.
os.environ.setdefault("NIPYPE_NO_ET", "1")
os.environ.setdefault("NO_ET", "1")

from nipype.interfaces.base import (
    BaseInterface,
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    TraitedSpec,
    isdefined,
    traits,
)
from pydantic_core import PydanticUndefined

from somite import resources
from somite.registry import Context, Step, discover


class StepInterface(BaseInterface):  # type: ignore[misc]
    """What every step's interface does: run the step in the node's folder."""

    step: Step

    def _run_interface(self, runtime: Any) -> Any:
        needs = {need.name for need in self.step.needs}
        given = {name: value for name, value in self.inputs.get().items() if isdefined(value)}
        options = {name: value for name, value in given.items() if name in self.step.config.model_fields}
        paths = {name: _paths(value) for name, value in given.items() if name in needs}
        context = Context(folder=Path(runtime.cwd), threads=resources.threads())
        made = self.step(self.step.config(**options), context, **paths)
        self._made = {name: str(path) for name, path in made.items()}
        return runtime

    def _list_outputs(self) -> dict[str, str]:
        return dict(self._made)


def _paths(value: str | list[str]) -> Path | tuple[Path, ...]:
    if isinstance(value, list):
        return tuple(Path(item).absolute() for item in value)
    return Path(value).absolute()


def _trait(annotation: Any, default: Any, text: str) -> Any:
    """The Nipype trait of an option's type."""
    meta = {"desc": text}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        arguments = tuple(a for a in arguments if a is not NoneType)
        if len(arguments) == 1:
            return _trait(arguments[0], default, text)
        return traits.Any(**meta)
    if origin is Literal:
        return (
            traits.Enum(*arguments, **meta) if default is None else traits.Enum(default, *arguments, **meta)
        )
    plain = {bool: traits.Bool, int: traits.Int, float: traits.Float, str: traits.Str}
    if annotation in plain:
        return plain[annotation](**meta) if default is None else plain[annotation](default, **meta)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return traits.Enum(*annotation, **meta)
    return traits.Any(**meta)


def _input_spec(step: Step) -> Any:
    fields: dict[str, Any] = {}
    for need in step.needs:
        meta = {"exists": True, "mandatory": not need.optional, "desc": need.description}
        fields[need.name] = InputMultiPath(File(exists=True), **meta) if need.many else File(**meta)
    for name, info in step.config.model_fields.items():
        default = info.get_default(call_default_factory=True)
        default = None if default is PydanticUndefined else default
        fields[name] = _trait(info.annotation, default, info.description or "")
    return type(f"{class_name(step)}InputSpec", (BaseInterfaceInputSpec,), {**fields, "__module__": __name__})


def class_name(step: Step) -> str:
    """Name of a step's interface: `SmoothFa` for `smooth_fa`."""
    return step.name.title().replace("_", "")


def __getattr__(name: str) -> Any:
    """Interfaces and their specs by name, as pickle looks for them: Nipype pickles its nodes."""
    for step in discover().values():
        interface = interface_of(step)
        for found in (interface, interface.input_spec, interface.output_spec):
            if found.__name__ == name:
                return found
    raise AttributeError(name)


@cache
def interface_of(step: Step) -> type[StepInterface]:
    """The Nipype interface class of a step."""
    outputs = {name: File(exists=True, desc=text) for name, text in step.makes.items()}
    return type(
        class_name(step),
        (StepInterface,),
        {
            "step": step,
            "input_spec": _input_spec(step),
            "output_spec": type(
                f"{class_name(step)}OutputSpec", (TraitedSpec,), {**outputs, "__module__": __name__}
            ),
            "__doc__": step.run.__doc__,
            "__module__": __name__,
        },
    )
