"""JSON Schema in words: what may stand at a place of the configuration, as a person would say it.

The messages and the schema for editors have one source. Reads schemas as pydantic writes them; knows no
option and no file.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

_LIMITS = {
    "exclusiveMinimum": "greater than",
    "minimum": "of at least",
    "exclusiveMaximum": "below",
    "maximum": "of at most",
    "multipleOf": "a multiple of",
}


def alternatives(schema: Schema, root: Schema) -> list[Schema]:
    """The schema without references and unions: each thing that may stand there."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return alternatives(root["$defs"][name], root)
    unions = [part for word in ("anyOf", "oneOf", "allOf") for part in schema.get(word, ())]
    if unions and "properties" not in schema:
        return [found for part in unions for found in alternatives(part, root)]
    return [schema]


def at(root: Schema, path: Sequence[str | int]) -> list[Schema]:
    """What may stand at `path`: a key for each mapping, a position for each list. Empty where nothing may."""
    found = alternatives(root, root)
    for part in path:
        found = below(found, part, root)
    return found


def narrowed(root: Schema, tree: Mapping[str, Any]) -> Schema:
    """The schema for one file: where the entries of a section are told apart by a key of theirs, each entry
    of the file has the schema of its kind. Messages then name the options of that kind only."""
    properties = dict(root.get("properties", {}))
    for name, section in properties.items():
        rule = section.get("additionalProperties", {})
        told = rule.get("discriminator", {}) if isinstance(rule, Mapping) else {}
        entries = tree.get(name)
        if not told or not isinstance(entries, Mapping):
            continue
        kinds = {
            key: told["mapping"].get(entry.get(told["propertyName"]))
            for key, entry in entries.items()
            if isinstance(entry, Mapping) and isinstance(entry.get(told["propertyName"]), str)
        }
        known = {key: {"$ref": reference} for key, reference in kinds.items() if reference}
        properties[name] = {**section, "properties": known}
    return {**root, "properties": properties}


def below(found: Iterable[Schema], part: str | int, root: Schema) -> list[Schema]:
    """What may stand at key or position `part` of any of `found`."""
    return [deeper for schema in found for deeper in _below(schema, part, root)]


def _below(schema: Schema, part: str | int, root: Schema) -> list[Schema]:
    if isinstance(part, int):
        fixed = schema.get("prefixItems", ())
        item = fixed[part] if part < len(fixed) else schema.get("items")
    else:
        item = schema.get("properties", {}).get(part, schema.get("additionalProperties"))
    return alternatives(item, root) if isinstance(item, Mapping) else []


def choices(found: Iterable[Schema]) -> list[Any]:
    """The values of an option that has a fixed list of them; those of the entries for a list."""
    values: list[Any] = []
    for schema in found:
        values += schema.get("enum", [])
        values += [schema["const"]] if "const" in schema else []
    return values


def keys(found: Iterable[Schema]) -> list[str]:
    """The keys that a section may hold."""
    return [key for schema in found for key in schema.get("properties", {})]


def types(found: Iterable[Schema]) -> set[str]:
    """JSON types that may stand there: string, integer, number, boolean, array, object, null."""
    return {str(schema["type"]) for schema in found if "type" in schema}


def words(found: Sequence[Schema], root: Schema) -> str:
    """What may stand there, in words: `ols, wls or iwls`; `a number greater than 0 and of at most 5`."""
    parts = [v if isinstance(v, str) and v else json.dumps(v) for v in choices(found)]
    for schema in found:
        if choices([schema]) or (schema.get("type") == "null" and len(found) > 1):
            continue
        part = _one(schema, root)
        entry = _entry(schema, root)
        if entry in parts:  # `x or a list, each entry x`
            part = part.replace(f", each entry {entry}", " of such")
        parts += [part] if part not in parts else []
    return " or ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _one(schema: Schema, root: Schema) -> str:
    kind = schema.get("type")
    if kind in ("integer", "number"):
        noun = "a whole number" if kind == "integer" else "a number"
        return f"{noun} {_range(schema)}".strip()
    if kind == "object":
        names = ", ".join(schema.get("properties", {}))
        return f"a section with the keys {names}" if names else "a section"
    if kind == "array":
        return _list(schema, root)
    if kind == "string":
        form = schema.get("$comment") or schema.get("pattern")
        return "a path" if schema.get("format") == "path" else f"text ({form})" if form else "text"
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "any value")


def _range(schema: Schema) -> str:
    limit = {name: _number(value) for name, value in schema.items() if name in _LIMITS}
    if "minimum" in limit and "maximum" in limit:
        return f"from {limit['minimum']} to {limit['maximum']}"
    return " and ".join(f"{said} {limit[name]}" for name, said in _LIMITS.items() if name in limit)


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def _list(schema: Schema, root: Schema) -> str:
    fixed = schema.get("prefixItems", ())
    if fixed:
        values = (words(alternatives(item, root), root) for item in fixed)
        return f"a list of {len(fixed)} values: " + ", ".join(values)
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    noun = f"a list of at least {least}" if least > 1 else "a non-empty list" if least else "a list"
    if most is not None:
        noun = f"a list of {least}" if most == least else f"a list of {least} to {most}"
    entry = _entry(schema, root)
    return noun + (f", each entry {entry}" if entry else "")


def _entry(schema: Schema, root: Schema) -> str:
    item = schema.get("items")
    return words(alternatives(item, root), root) if isinstance(item, Mapping) else ""


def nearest(word: str, names: Iterable[str]) -> str:
    """The name that was probably meant, or `""`. A missing unit (`fwhm` for `fwhm_mm`) is seen through."""
    plain = {_plain(name): name for name in names}
    meant = _plain(word)
    if meant in plain:
        return plain[meant]
    for name in sorted(plain):
        if meant and name and (name.startswith(meant + "_") or meant.startswith(name + "_")):
            return plain[name]
    close = difflib.get_close_matches(meant, plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else ""


def _plain(word: str) -> str:
    return word.strip().casefold().replace("-", "_").replace(" ", "_")
