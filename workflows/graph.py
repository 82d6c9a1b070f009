"""Steps joined by the names of what they need and make. Knows steps, and no engine.

A workflow is a list of `Use`; `join` turns it into nodes in the order of their needs.
"""

from __future__ import annotations

import difflib
import graphlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from somite import fingerprint
from somite.derivatives import Derivative
from somite.errors import GraphError, Problem, ToolError
from somite.registry import Step, StepConfig, discover

UNMET = ""
"""Wired to an optional need that no product shall meet, though one has its name."""


@dataclass(frozen=True)
class Use:
    """A step's place in a workflow: one line of its list."""

    step: str
    wires: Mapping[str, str] = field(default_factory=dict)
    """Need of the step -> product that meets it, where their names differ; `UNMET`: none shall."""
    deliver: Mapping[str, Derivative] = field(default_factory=dict)
    """Product -> the derivative that it becomes in the output."""
    only_with: str | tuple[str, ...] = ""
    """A given product without which the step is left out; of several, one must be there."""
    unless_with: str = ""
    """A given product with which the step is left out: a step that stands twice, wired in two ways."""
    unless_none: tuple[str, ...] = ()
    """Products that say nothing where the step's method is none, and are not delivered then."""
    when_asked: bool = False
    """Whether the step is left out where its method is none."""

    def belongs(self, given: Container[str], config_of: Callable[[str], StepConfig]) -> bool:
        """Whether the step belongs to a workflow with what is given, and these options."""
        needed = (self.only_with,) if isinstance(self.only_with, str) else self.only_with
        if any(needed) and not any(product in given for product in needed):
            return False
        if self.unless_with and self.unless_with in given:
            return False
        return not self.when_asked or config_of(self.step).model_dump()["method"] != "none"

    def delivered(self, config: Mapping[str, Any]) -> Mapping[str, Derivative]:
        """What is delivered by a node with these options."""
        empty = self.unless_none if config.get("method") == "none" else ()
        return {product: derivative for product, derivative in self.deliver.items() if product not in empty}


@dataclass(frozen=True)
class Node:
    """A step joined to the products that it needs, with all that decides its result but their contents."""

    step: str
    wires: dict[str, str]
    """Each of its needs -> a product; a need that nothing meets is left out."""
    config: dict[str, Any]
    code: str
    versions: dict[str, str]


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?` for a name that is not among the known ones, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def join(
    uses: Sequence[Use], given: Iterable[str], config_of: Callable[[str], StepConfig], where: str = "workflow"
) -> tuple[Node, ...]:
    """Join steps by the names of what they need and make; returns the nodes in the order of their needs.

    Args:
        uses: the steps, in any order.
        given: products that are there before any step runs.
        config_of: step name -> its options.
        where: name of the workflow, for messages.

    Raises:
        GraphError: every `STEP_UNKNOWN`, `STEP_TWICE`, `WIRE_UNKNOWN`, `PRODUCT_TWICE`, `PRODUCT_MISSING`,
            `DELIVER_UNKNOWN` and `PRODUCT_CIRCULAR` at once.
        ToolError: every command-line tool that a step will call and that is not there.
    """
    faults = _Faults(where)
    known = _known(uses, faults)
    maker = _makers(known.values(), given, faults)
    wires = {use.step: _wires(use, step, maker, faults) for use, step in known.values()}
    order = _order(wires, maker, faults)
    if faults.found:
        raise GraphError.of(faults.found)
    nodes = []
    absent: list[Problem] = []
    for name in order:
        try:
            nodes.append(_node(*known[name], wires[name], config_of(name)))
        except ToolError as error:
            absent.extend(error.problems)
    if absent:
        raise ToolError.of(absent)
    return tuple(nodes)


GIVEN = ""
"""Stands for the step that makes what is given."""


@dataclass
class _Faults:
    """Problems of one workflow, collected."""

    where: str
    found: list[Problem] = field(default_factory=list)

    def add(self, code: str, what: str, do: str = "") -> None:
        self.found.append(Problem(code, what, where=self.where, do=do))


def _known(uses: Iterable[Use], faults: _Faults) -> dict[str, tuple[Use, Step]]:
    """Name -> use and step, of the steps that exist."""
    steps = discover()
    known: dict[str, tuple[Use, Step]] = {}
    for use in uses:
        if use.step not in steps:
            faults.add("STEP_UNKNOWN", f"there is no step {use.step}", nearest(use.step, steps))
        elif use.step in known:
            faults.add("STEP_TWICE", f"step {use.step} is used twice")
        else:
            known[use.step] = (use, steps[use.step])
    return known


def _makers(known: Iterable[tuple[Use, Step]], given: Iterable[str], faults: _Faults) -> dict[str, str]:
    """Product -> the step that makes it, or `GIVEN`."""
    maker = dict.fromkeys(given, GIVEN)
    for use, step in known:
        for product in step.makes:
            if product in maker:
                other = f"by step {maker[product]}" if maker[product] else "given"
                what = f"{product} is made by step {use.step} and {other}"
                faults.add("PRODUCT_TWICE", what, f"rename what {use.step} makes")
            maker.setdefault(product, use.step)
    return maker


def _wires(use: Use, step: Step, maker: Mapping[str, str], faults: _Faults) -> dict[str, str]:
    """Need -> product, of one step."""
    needs = {need.name: need for need in step.needs}
    for wire in set(use.wires) - set(needs):
        faults.add("WIRE_UNKNOWN", f"step {use.step} has no need {wire}", nearest(wire, needs))
    for product in set(use.deliver) - set(step.makes):
        what = f"step {use.step} does not make {product}"
        faults.add("DELIVER_UNKNOWN", what, nearest(product, step.makes))
    met = {}
    for name, need in needs.items():
        product = use.wires.get(name, name)
        if product in maker:
            met[name] = product
        elif not need.optional:
            what = f"step {use.step} needs {product}, which no step makes and nobody gives"
            faults.add("PRODUCT_MISSING", what, nearest(product, maker))
    return met


def _order(wires: Mapping[str, Mapping[str, str]], maker: Mapping[str, str], faults: _Faults) -> list[str]:
    """The steps so that each comes after those whose products it needs."""
    before = {name: {maker[p] for p in met.values()} - {GIVEN} for name, met in wires.items()}
    try:
        return list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(error.args[1])
        faults.add("PRODUCT_CIRCULAR", f"steps need each other's products: {circle}")
        return []


def _node(use: Use, step: Step, wires: dict[str, str], config: StepConfig) -> Node:
    module = step.run.__module__
    versions = fingerprint.libraries(module) | step.tools(config)
    return Node(use.step, wires, config.model_dump(mode="json"), fingerprint.code(module), versions)


def step_named(name: str) -> Step:
    """The step of this name.

    Raises:
        GraphError: `STEP_UNKNOWN`, with the nearest name.
    """
    steps = discover()
    if name not in steps:
        raise GraphError(Problem("STEP_UNKNOWN", f"there is no step {name}", do=nearest(name, steps)))
    return steps[name]
