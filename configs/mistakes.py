"""What pydantic finds wrong -> Problems that point into the file and say what would be right."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from somite.configs import schema as schemas
from somite.configs.document import KeyPath, Node, dotted, where
from somite.configs.schema import Schema
from somite.errors import Problem

_LENGTH = {"too_short", "too_long"}
_RANGE = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "multiple_of",
    "finite_number",
    "string_too_short",
    "string_too_long",
    *_LENGTH,
}
_VALUE = {"literal_error", "enum", "string_pattern_mismatch"}
_IN_OWN_WORDS = {"value_error", "assertion_error", "text_form"}
# Of several complaints about one value, the alternatives of a union, the most telling one counts.
_RANK = ("CONFIG_UNKNOWN_KEY", "CONFIG_MISSING", "CONFIG_RANGE", "CONFIG_VALUE", "CONFIG_TYPE")

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_SWITCHES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


@dataclass(frozen=True)
class Mistake:
    """One thing wrong at one place of the tree."""

    code: str
    path: KeyPath
    node: Node
    """The value; for a missing key, its section."""
    said: str = ""
    """The words of the option's own check, where it has any."""
    form: str = ""
    """The form that a text must have, in words."""


def find(error: ValidationError, root: Node) -> list[Mistake]:
    """The mistakes of a validation, one for each place."""
    found: dict[KeyPath, Mistake] = {}
    for detail in error.errors(include_url=False, include_input=False):
        mistake = _mistake(str(detail["type"]), detail["loc"], str(detail["msg"]), root)
        known = found.get(mistake.path)
        if known is None or _RANK.index(mistake.code) < _RANK.index(known.code):
            found[mistake.path] = mistake
    # A value that is wrong as a whole and wrong inside belongs to a union: inside is where it was meant.
    return [m for m in found.values() if not any(_inside(other, m.path) for other in found)]


def unmisspelt(found: Collection[Mistake]) -> list[Mistake]:
    """The mistakes without the missing keys that a misspelt key of the same section explains."""
    unknown = [mistake.path for mistake in found if mistake.code == "CONFIG_UNKNOWN_KEY"]
    return [
        mistake
        for mistake in found
        if mistake.code != "CONFIG_MISSING"
        or not any(
            path[:-1] == mistake.path[:-1] and schemas.nearest(str(path[-1]), [str(mistake.path[-1])])
            for path in unknown
        )
    ]


def _inside(path: KeyPath, outer: KeyPath) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _mistake(kind: str, loc: Sequence[str | int], message: str, root: Node) -> Mistake:
    if kind == "missing":
        path, node = _walk(loc[:-1], root)
        if isinstance(loc[-1], int):  # a value of a list of fixed length
            return Mistake("CONFIG_RANGE", path, node)
        return Mistake("CONFIG_MISSING", (*path, loc[-1]), node)
    path, node = _walk(loc, root)
    if kind == "union_tag_not_found":
        return Mistake("CONFIG_MISSING", (*path, _tag(message)), node)
    if kind == "union_tag_invalid":
        return Mistake("CONFIG_VALUE", (*path, _tag(message)), node.children()[_tag(message)])
    if kind == "extra_forbidden":
        return Mistake("CONFIG_UNKNOWN_KEY", path, node)
    if kind in _RANGE and not (kind in _LENGTH and isinstance(node.value, str | int | float)):
        return Mistake("CONFIG_RANGE", path, node)
    if kind in _VALUE and not isinstance(node.value, Mapping | tuple | None):
        return Mistake("CONFIG_VALUE", path, node)
    if kind not in _IN_OWN_WORDS:  # a length, too: one value that stands for a list and was refused
        return Mistake("CONFIG_TYPE", path, node)
    if kind == "text_form":
        return Mistake("CONFIG_VALUE", path, node, form=message)
    said = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for key, child in node.children().items():  # a check of several options: point to the first that it names
        if re.search(rf"\b{re.escape(key)}\b", said):
            return Mistake("CONFIG_VALUE", (*path, key), child, said)
    return Mistake("CONFIG_VALUE", path, node, said)


def _tag(message: str) -> str:
    """The key that tells the alternatives of a union apart, from pydantic's words on it."""
    found = re.search(r"discriminator '(\w+)'|using '(\w+)'", message)
    return (found[1] or found[2]) if found else "kind"


def _walk(loc: Iterable[str | int], root: Node) -> tuple[KeyPath, Node]:
    """Pydantic's location -> path and node; what it says of a union's alternatives is passed over."""
    path: KeyPath = ()
    node = root
    for part in loc:
        if isinstance(part, int) and isinstance(node.value, tuple) and part < len(node.value):
            path, node = (*path, part), node.value[part]
        elif isinstance(part, str) and part in node.children():
            path, node = (*path, part), node.children()[part]
    return path, node


def without(node: Node, paths: Collection[KeyPath], here: KeyPath = ()) -> Node:
    """The tree without the keys at `paths`."""
    if isinstance(node.value, Mapping):
        kept = {key: child for key, child in node.value.items() if (*here, key) not in paths}
        return replace(node, value={key: without(child, paths, (*here, key)) for key, child in kept.items()})
    if isinstance(node.value, tuple):
        items = (without(item, paths, (*here, i)) for i, item in enumerate(node.value))
        return replace(node, value=tuple(items))
    return node


def explain(mistake: Mistake, root: Schema) -> Problem:
    """The Problem for a person: where it is, what was found, what is allowed, what to do."""
    if mistake.code == "CONFIG_UNKNOWN_KEY":
        return _unknown_key(mistake, root)
    name, node = dotted(mistake.path), mistake.node
    place = where(node.file, node.line, mistake.path)
    allowed = schemas.at(root, mistake.path)
    if mistake.code == "CONFIG_MISSING":
        return Problem(
            mistake.code,
            f"`{name}` is missing",
            place,
            expected=schemas.words(allowed, root),
            do=f"add a line `{mistake.path[-1]}:` with its value",
        )
    what = {
        "CONFIG_RANGE": f"`{name}` is out of range",
        "CONFIG_VALUE": f"`{name}`: {mistake.said}" if mistake.said else f"`{name}` cannot have this value",
        "CONFIG_TYPE": f"`{name}` is of the wrong kind",
    }[mistake.code]
    return Problem(
        mistake.code,
        what,
        place,
        found=describe(node),
        expected=mistake.form or schemas.words(allowed, root),
        do=_remedy(node, mistake.path, allowed),
    )


def _unknown_key(mistake: Mistake, root: Schema) -> Problem:
    *section, last = mistake.path
    key = str(last)
    names = schemas.keys(schemas.at(root, section))
    elsewhere = [name for name in schemas.keys([root]) if key in schemas.keys(schemas.at(root, [name]))]
    if ":" in key:
        do = f"put a space, or a new line, after the colon of `{key.partition(':')[0]}`"
    elif meant := schemas.nearest(key, names):
        do = f"did you mean {meant}?"
    elif elsewhere:
        do = f"{key} is an option of {', '.join(elsewhere)}: put it there"
    else:
        do = "remove it"
    return Problem(
        mistake.code,
        f"`{dotted(mistake.path)}` is not " + ("an option" if section else "a section"),
        where(mistake.node.file, mistake.node.line, mistake.path),
        found=key,
        expected=", ".join(names) or "no option: this section has none",
        do=do,
    )


def describe(node: Node) -> str:
    """A value as it was found, with what YAML makes of it where that is the surprise."""
    value, text = node.value, node.text
    if isinstance(value, Mapping):
        return f"a section with the keys {', '.join(value)}" if value else "an empty section"
    if isinstance(value, tuple):
        items = ", ".join(item.text for item in value)
        return f"[{items}]" if all(item.text for item in value) else f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return text if str(value) == text else f"{text}, which YAML reads as the number {value}"
    as_text = isinstance(value, str) and (not text or _NUMBER.fullmatch(text))
    return f'"{text}", which is text' if as_text else text


def _remedy(node: Node, path: KeyPath, allowed: Sequence[Schema]) -> str:
    """What to do about a value; empty where the words of what is allowed say it all."""
    value, text, kinds = node.value, node.text, schemas.types(allowed)
    names = [name for name in schemas.choices(allowed) if isinstance(name, str)]
    if value is None:
        return "write a value, or remove the line"
    if isinstance(value, Mapping):
        return ""
    if isinstance(value, tuple):
        alone = len(value) == 1 and not kinds & {"array", "object"}
        return "write the value alone, without brackets or dash" if alone else ""
    if isinstance(value, str):
        return _remedy_for_text(text, path, kinds, names)
    if "string" in kinds and (text in names or not names):
        return f'write it in quotes, "{text}": without them YAML reads a number, or true or false'
    if kinds == {"integer"} and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    return f"write it as a list: [{text}]" if "array" in kinds else ""


def _remedy_for_text(text: str, path: KeyPath, kinds: set[str], names: Sequence[str]) -> str:
    if meant := schemas.nearest(text, names):
        return f"did you mean {meant}?"
    if "boolean" in kinds and text.lower() in _SWITCHES:
        return f"write {_SWITCHES[text.lower()]}"
    if kinds & {"integer", "number"} and (number := _NUMBER.match(text)):
        digits, rest = number[0].replace(",", "."), text[number.end() :].strip()
        return f"write {digits}" + (": a number alone, in the unit of the option's name" if rest else "")
    if "object" in kinds and (key := re.match(r"(\w+):\S", text)):
        return f"put a space after the colon of `{key[1]}`"
    entity = next((part for part in reversed(path) if isinstance(part, str)), "")
    if "string" in kinds and text.startswith(f"{entity}-"):
        return f"write the label alone: {text.removeprefix(f'{entity}-')}"
    return f"write it as a list: [{text}]" if "array" in kinds and "string" not in kinds else ""
