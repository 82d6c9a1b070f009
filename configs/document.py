"""YAML text -> a tree in which every value knows its file and line. Knows no option and no step.

YAML 1.2 through ruamel.yaml's composer: `on`, `yes` and `none` are text, a key that stands twice is a
mistake, and nothing is ever constructed but text, numbers, true, false, null, mappings and lists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode
from ruamel.yaml.reader import ReaderError

from somite.errors import Problem

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of the file to a value."""

_CORE = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000
"""Far beyond any configuration; reached only by aliases of aliases."""
MOST_BYTES = 4_000_000
"""The same of the file."""


@dataclass(frozen=True)
class Node:
    """A value of the YAML, with the place that it came from."""

    value: str | int | float | bool | Mapping[str, Node] | tuple[Node, ...] | None
    file: str
    """As a person knows it: the path that was given, or the name of a shipped file."""
    line: int
    """Counted from 1; of a value in a mapping, the line of its key."""
    text: str = ""
    """A scalar as it is written in the file, without its quotes."""

    def children(self) -> Mapping[str, Node]:
        """The values of a mapping by key; empty for any other value."""
        return self.value if isinstance(self.value, Mapping) else {}

    def plain(self) -> Any:
        """The same tree as dictionaries, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value


def dotted(path: KeyPath) -> str:
    """`("roi", "segments", 0, "sides")` -> `roi.segments[0].sides`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def where(file: str, line: int, path: KeyPath = ()) -> str:
    """`lumbar.yaml line 12, tensor.method`."""
    return f"{file} line {line}" + (f", {dotted(path)}" if path else "")


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings are merged key by key, everything else is replaced.

    A section left empty (`tensor:` with nothing below it) changes nothing.
    """
    if not isinstance(base.value, Mapping):
        return over
    if over.value is None:
        return base
    if not isinstance(over.value, Mapping):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return replace(over, value=merged)


def parse(data: bytes, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a YAML file and every mistake in its form.

    Args:
        data: the content of the file, UTF-8 with or without a byte order mark.
        file: its name, for messages.

    Returns:
        The tree (a mapping), or None where the file cannot be read as one; and the problems.
    """
    if len(data) > MOST_BYTES:
        found = f"a file of more than {MOST_BYTES:,} bytes"
        return None, [_syntax(where(file, 1), found, "name the YAML of the configuration")]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return None, [_not_utf8(where(file, line), data[error.start])]
    try:
        return _checked_root(YAML(typ="rt").compose(text), file)
    except MarkedYAMLError as error:
        return None, [_not_yaml(error, file)]
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        found = f"the character U+{ord(text[error.position]):04X}"
        return None, [_syntax(where(file, line), found, "remove this character")]
    except YAMLError as error:
        return None, [_syntax(where(file, 1), str(error))]
    except RecursionError:
        return None, [_syntax(where(file, 1), "brackets or sections nested too deeply", "close the brackets")]
    except _TooLargeError:
        found = f"more than {_MOST_VALUES} values, counting every use of an alias"
        return None, [_syntax(where(file, 1), found, "use fewer aliases")]


def _checked_root(root: YamlNode | None, file: str) -> tuple[Node | None, list[Problem]]:
    if root is None or root.tag == _CORE + "null":
        empty = Problem(
            "CONFIG_EMPTY",
            "the file holds no option",
            where=file,
            expected="at least `protocol:` or `extends:`",
            do="begin with a line `extends: default`",
        )
        return None, [empty]
    reader = _Reader(file)
    tree = reader.node(root, (), root.start_mark.line + 1)
    if tree is not None and not isinstance(tree.value, Mapping):
        colon = re.match(r"(\w+):\S", tree.text)
        reader.problems.append(
            Problem(
                "CONFIG_TYPE",
                "the file does not hold sections",
                where=where(file, tree.line),
                found="a list" if isinstance(tree.value, tuple) else tree.text,
                expected="keys with a colon and a space, such as `protocol: lumbar`",
                do=f"put a space after the colon of `{colon[1]}`" if colon else "remove the leading dashes",
            )
        )
        tree = None
    return tree, reader.problems


class _TooLargeError(Exception):
    """Aliases of aliases that grow without end."""


class _Reader:
    """Turns the composer's nodes into ours, and keeps every problem that it meets."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._count = 0

    def node(self, yaml: YamlNode, path: KeyPath, line: int) -> Node | None:
        """The node of `yaml`, or None where it cannot be used, which is then a problem."""
        self._count += 1
        if self._count > _MOST_VALUES:
            raise _TooLargeError
        if id(yaml) in self._open:
            self._bad(line, path, "an alias that contains itself", "write the values out")
            return None
        self._open.add(id(yaml))
        try:
            return self._by_kind(yaml, path, line)
        finally:
            self._open.discard(id(yaml))

    def _by_kind(self, yaml: YamlNode, path: KeyPath, line: int) -> Node | None:
        tag = str(yaml.tag)
        if isinstance(yaml, MappingNode) and tag == _CORE + "map":
            mapping = self._mapping(yaml, path)
            unreadable = bool(path and yaml.value and not mapping)
            return None if unreadable else Node(mapping, self.file, line)
        if isinstance(yaml, SequenceNode) and tag == _CORE + "seq":
            items = (self.node(y, (*path, i), y.start_mark.line + 1) for i, y in enumerate(yaml.value))
            return Node(tuple(item for item in items if item is not None), self.file, line)
        if isinstance(yaml, ScalarNode) and tag.startswith(_CORE):
            return self._scalar(yaml, tag.removeprefix(_CORE), path, line)
        self._bad(line, path, f"the tag {tag}", "remove the tag: only text, numbers, true and false are read")
        return None

    def _mapping(self, yaml: MappingNode, path: KeyPath) -> dict[str, Node]:
        found: dict[str, Node] = {}
        lines: dict[str, list[int]] = {}
        for key_yaml, value_yaml in yaml.value:
            line = key_yaml.start_mark.line + 1
            if not isinstance(key_yaml, ScalarNode):
                self._bad(line, path, "a list or mapping used as a key", "put text with braces in quotes")
                continue
            if key_yaml.tag == _CORE + "merge":
                self._bad(line, (*path, "<<"), "a merge key `<<`", "use `extends:`, or repeat the values")
                continue
            key = str(key_yaml.value)
            node = self.node(value_yaml, (*path, key), line)
            if node is not None:
                found[key] = merge(found[key], node) if key in found else node
            lines.setdefault(key, []).append(line)
        for key, at in lines.items():
            if len(at) > 1:
                self._duplicate((*path, key), at)
        return found

    def _scalar(self, yaml: ScalarNode, kind: str, path: KeyPath, line: int) -> Node | None:
        text = str(yaml.value)
        try:
            value = _value(kind, text)
        except ValueError as error:
            self._bad(line, path, f"{text[:40]!r}: {error}", "write a number in digits, and text in quotes")
            return None
        return Node(value, self.file, line, text)

    def _duplicate(self, path: KeyPath, lines: list[int]) -> None:
        numbers = ", ".join(str(n) for n in lines[:-1]) + f" and {lines[-1]}"
        self.problems.append(
            Problem(
                "CONFIG_DUPLICATE_KEY",
                f"`{dotted(path)}` stands more than once",
                where=where(self.file, lines[-1], path),
                found=f"lines {numbers}",
                expected="each key once in its section",
                do="keep one of them, or join their contents",
            )
        )

    def _bad(self, line: int, path: KeyPath, found: str, do: str) -> None:
        self.problems.append(_syntax(where(self.file, line, path), found, do))


def _value(kind: str, text: str) -> str | int | float | bool | None:
    """The value of a scalar. Raises ValueError for what cannot be one."""
    if kind in ("str", "timestamp"):  # a date is text: no option of ours is a date, and a label may look so
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("half of a surrogate pair, which is no character")
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind not in ("int", "float"):
        raise ValueError(f"the tag {kind} is not read")
    number = _number(kind, text.replace("_", "").lower())
    if math.isnan(number):
        raise ValueError("not a number")
    return number


def _number(kind: str, digits: str) -> int | float:
    try:
        if kind == "int":
            return int(digits, 0 if re.match(r"[-+]?0[box]", digits) else 10)
        return float(re.sub(r"\.(inf|nan)$", r"\1", digits))
    except ValueError:
        return math.nan


def _syntax(place: str, found: str, do: str = "check indentation, brackets and quotes near here") -> Problem:
    return Problem("CONFIG_SYNTAX", "this cannot be read", where=place, found=found, do=do)


def _not_utf8(place: str, byte: int) -> Problem:
    return Problem(
        "CONFIG_ENCODING",
        "the file is not UTF-8 text",
        where=place,
        found=f"byte 0x{byte:02X}",
        do="save the file with the encoding UTF-8 in your editor",
    )


_REMEDIES = {
    "'\\t'": "indent with spaces: YAML allows no tabs there",
    "mapping values are not allowed": "check the space after the colon and the indentation, here and in the "
    "line above; put a value that holds a colon in quotes",
    "could not find expected ':'": "write `key: value`, with a colon and a space",
    "expected <block end>": "begin all keys of one section in the same column",
    "another document": "keep one document in the file: remove the line `---` or `...`",
    "undefined alias": "put a value that begins with * in quotes",
    "cannot start any token": "put a value that begins with this character in quotes",
    "while scanning a quoted scalar": "close the quotes",
    "while parsing a flow": "close the brackets, and put commas between the values",
}


def _not_yaml(error: MarkedYAMLError, file: str) -> Problem:
    said = f"{error.problem or ''} {error.context or ''}".strip()
    do = next((cure for sign, cure in _REMEDIES.items() if sign in said), None)
    # A key without its colon is noticed only on the next line: the context knows where it began.
    late = "could not find expected ':'" in said and error.context_mark is not None
    mark = cast(Any, error.context_mark if late else error.problem_mark or error.context_mark)
    problem = _syntax(where(file, mark.line + 1 if mark else 1), said)
    return replace(problem, do=do) if do else problem
