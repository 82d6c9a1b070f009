"""Read a configuration: a YAML file and those that it extends -> Settings, or every mistake at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from pydantic import ValidationError

from somite.configs import mistakes
from somite.configs import schema as schemas
from somite.configs.document import MOST_BYTES, KeyPath, Node, merge, parse, where
from somite.configs.model import Settings, json_schema, settings_model
from somite.configs.schema import Schema
from somite.errors import ConfigError, Problem
from somite.registry import Step

_FOLDER = Path(__file__).parent


def shipped() -> tuple[str, ...]:
    """Names of the configurations that come with Somite, such as `lumbar`."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def shipped_text(name: str) -> str:
    """The YAML of a shipped configuration, to begin one's own from. Raises ConfigError for another name."""
    if name not in shipped():
        raise ConfigError(_not_found(name, "", "CONFIG_NOT_FOUND", _FOLDER))
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def read(source: str | Path, steps: Mapping[str, Step]) -> Settings:
    """The settings of a configuration.

    Args:
        source: the path of a YAML file, or the name of a shipped configuration. A text that is such a name
            means the shipped one; a file of that very name is read as `./name`.
        steps: the steps whose sections may stand in the file, by name; usually `registry.discover()`.

    Raises:
        ConfigError: with every mistake of the file and of those that it extends. Codes: CONFIG_NOT_FOUND,
            CONFIG_UNREADABLE, CONFIG_ENCODING, CONFIG_EMPTY, CONFIG_SYNTAX, CONFIG_DUPLICATE_KEY,
            CONFIG_EXTENDS_NOT_FOUND, CONFIG_EXTENDS_CYCLE, CONFIG_UNKNOWN_KEY, CONFIG_MISSING, CONFIG_TYPE,
            CONFIG_VALUE, CONFIG_RANGE.
    """
    chain = _Chain()
    chain.follow(source)
    if not chain.trees:
        raise ConfigError.of(chain.problems)
    root = reduce(merge, reversed(chain.trees))
    schema = schemas.narrowed(json_schema(steps), root.plain())
    settings, wrong = _validate(_with_sections(root, steps, schema), settings_model(steps))
    if any(problem.code != "CONFIG_DUPLICATE_KEY" for problem in chain.problems):
        # What could not be read may hold what is missing.
        wrong = [mistake for mistake in wrong if mistake.code != "CONFIG_MISSING"]
    order = [tree.file for tree in chain.trees]
    wrong.sort(key=lambda mistake: (order.index(mistake.node.file), mistake.node.line))
    problems = chain.problems + [mistakes.explain(mistake, schema) for mistake in wrong]
    if problems or settings is None:
        raise ConfigError.of(problems)
    return settings


@dataclass
class _Chain:
    """A file and those that it extends, nearest first, with what is wrong in their form."""

    trees: list[Node] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _seen: dict[Path, str] = field(default_factory=dict)

    def follow(self, source: str | Path, beside: Path = Path(), asked: str = "") -> None:
        """Read `source`, a path from the folder `beside`, then what it extends. `asked`: who named it."""
        path, name = _locate(source, beside)
        try:
            resolved = path.resolve()
            if resolved in self._seen:
                start = list(self._seen).index(resolved)
                self.problems.append(_cycle([*list(self._seen.values())[start:], name], asked))
                return
            self._seen[resolved] = name
            with path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RuntimeError):
            code = "CONFIG_EXTENDS_NOT_FOUND" if asked else "CONFIG_NOT_FOUND"
            self.problems.append(_not_found(str(source), asked, code, path.parent))
            return
        except OSError as error:
            self.problems.append(_unreadable(name, error))
            return
        tree, problems = parse(data, name)
        self.problems += problems
        if tree is None:
            return
        children = dict(tree.children())
        extends = children.pop("extends", None)
        self.trees.append(replace(tree, value=children))
        if extends is None:
            return
        if isinstance(extends.value, str) and extends.value:
            at = where(extends.file, extends.line, ("extends",))
            self.follow(extends.value, path.parent, at)
        else:
            self.problems.append(_extends_type(extends))


def _locate(source: str | Path, beside: Path) -> tuple[Path, str]:
    """The path of a configuration, and its name for messages."""
    if isinstance(source, str) and source in shipped():
        return _FOLDER / f"{source}.yaml", f"{source}.yaml (shipped)"
    path = beside / source
    return path, str(path)


def _validate(root: Node, model: type[Settings]) -> tuple[Settings | None, list[mistakes.Mistake]]:
    """The settings, or every mistake.

    A section with an unknown key is validated again without it: pydantic runs a check of several options
    only where each of them is right.
    """
    wrong: dict[KeyPath, mistakes.Mistake] = {}
    for _ in range(2):
        try:
            settings = model.model_validate_json(json.dumps(root.plain()), strict=True)
        except ValidationError as error:
            wrong = {mistake.path: mistake for mistake in mistakes.find(error, root)} | wrong
            unknown = {path for path, mistake in wrong.items() if mistake.code == "CONFIG_UNKNOWN_KEY"}
            root = mistakes.without(root, unknown)
        else:
            return (None if wrong else settings), mistakes.unmisspelt(wrong.values())
    return None, mistakes.unmisspelt(wrong.values())


def _with_sections(root: Node, steps: Mapping[str, Step], schema: Schema) -> Node:
    """The tree with every step's section, and with an empty mapping where a section is left empty."""
    absent = {name: replace(root, value={}) for name in sorted(steps)}
    return _filled(replace(root, value={**absent, **root.children()}), schemas.at(schema, ()), schema)


def _filled(node: Node, allowed: list[Schema], root: Schema) -> Node:
    if node.value is None and schemas.types(allowed) == {"object"}:
        return replace(node, value={})
    if not isinstance(node.value, Mapping):
        return node
    below = {key: schemas.below(allowed, key, root) for key in node.value}
    return replace(node, value={key: _filled(child, below[key], root) for key, child in node.value.items()})


def _cycle(names: list[str], asked: str) -> Problem:
    return Problem(
        "CONFIG_EXTENDS_CYCLE",
        "a configuration extends itself",
        where=asked,
        found=" extends ".join(names),
        expected="a chain that ends",
        do="remove one `extends:` of the chain",
    )


def _extends_type(extends: Node) -> Problem:
    return Problem(
        "CONFIG_TYPE",
        "`extends` is not the name of a configuration",
        where=where(extends.file, extends.line, ("extends",)),
        found=mistakes.describe(extends),
        expected=f"a shipped configuration ({', '.join(shipped())}) or the path of a YAML file",
        do="write one name or path, or remove the line",
    )


def _not_found(wanted: str, asked: str, code: str, folder: Path) -> Problem:
    names = [*shipped(), *(path.name for path in sorted(folder.glob("*.y*ml")))]
    meant = schemas.nearest(Path(wanted).name, names)
    return Problem(
        code,
        f"there is no configuration {wanted}",
        where=asked or wanted,
        found=f"no file {wanted} in {folder.resolve()}" if folder.is_dir() else f"no folder {folder}",
        expected=f"a shipped configuration ({', '.join(shipped())}) or the path of a YAML file",
        do=f"did you mean {meant}?"
        if meant
        else "check the name; a path is relative to the file that names it",
    )


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(
        "CONFIG_UNREADABLE",
        "the file cannot be read",
        where=name,
        found=error.strerror or str(error),
        do="check who may read it",
    )
