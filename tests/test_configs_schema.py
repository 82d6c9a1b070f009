"""Configuration: the schema for editors, and the files that come with Somite."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field

from somite.configs import model, reader
from somite.configs.document import parse
from somite.errors import ConfigError
from somite.phantom.protocol import find
from somite.registry import Step, StepConfig, discover
from somite.segments import expand


class Group(StepConfig):
    region: str
    levels: tuple[str, ...] = ("",)


class Tensor(StepConfig):
    """Options of the fit."""

    method: Literal["ols", "wls", "none"] = "wls"
    """How the tensor is fitted."""
    iterations: int = Field(2, ge=1, le=10)
    tolerance: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"


class Roi(StepConfig):
    groups: tuple[Group, ...] | Literal["all"] = "all"


STEPS = {
    name: Step(name, lambda: None, (), {}, config, lambda _: {}, 2.0)
    for name, config in {"tensor": Tensor, "roi": Roi}.items()
}


def written(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# The schema


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """A JSON Schema validator for what pydantic writes; `required` and `extends` included."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    kinds = {"string": str, "integer": int, "number": int | float, "boolean": bool, "array": list}
    kinds |= {"object": dict, "null": type(None)}
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    checks = [
        value in schema.get("enum", [value]),
        value == schema.get("const", value),
        not schema.get("anyOf") or any(accepts(part, value, root) for part in schema["anyOf"]),
    ]
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks += [key in value for key in schema.get("required", [])]
        checks += [accepts(known[key], item, root) for key, item in value.items() if key in known]
        other = [item for key, item in value.items() if key not in known]
        checks += [rest if isinstance(rest, bool) else accepts(rest, item, root) for item in other]
    elif isinstance(value, list):
        checks += [accepts(schema.get("items", {}), item, root) for item in value]
        checks += [len(value) >= schema.get("minItems", 0)]
    elif isinstance(value, str):
        checks += [re.search(schema.get("pattern", ""), value) is not None]
    elif isinstance(value, int | float):
        checks += [schema.get("minimum", value) <= value <= schema.get("maximum", value)]
        checks += ["exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]]
    return all(checks)


@pytest.mark.parametrize(
    ("document", "right"),
    [
        ({"protocol": "x"}, True),
        ({"keep": "all"}, False),
        ({"protocol": "x y"}, False),
        ({"protocol": "x", "keep": "some"}, False),
        ({"protocol": "x", "tensr": {}}, False),
        ({"protocol": "x", "tensor": {"method": "ols", "iterations": 10}}, True),
        ({"protocol": "x", "tensor": {"iterations": 11}}, False),
        ({"protocol": "x", "tensor": {"tolerance": "auto"}}, True),
        ({"protocol": "x", "tensor": {"tolerance": 0}}, False),
        ({"protocol": "x", "runs": {"filter": {"run": "01", "dir": ["AP", "PA"]}}}, True),
        ({"protocol": "x", "runs": {"filter": {"run": 1}}}, False),
        ({"protocol": "x", "runs": {"filter": {"acq": "acq-a"}}}, False),
        ({"protocol": "x", "runs": {"filter": {"acq": []}}}, False),
        ({"protocol": "x", "roi": {"groups": [{"region": "disc"}]}}, True),
        ({"protocol": "x", "roi": {"groups": [{"levels": ["L3"]}]}}, False),
    ],
)
def test_the_schema_agrees_with_the_reader(tmp_path: Path, document: dict[str, Any], right: bool) -> None:
    schema = model.json_schema(STEPS)
    assert accepts(schema, document, schema) is right
    path = written(tmp_path, json.dumps(document))
    if right:
        reader.read(path, STEPS)
    else:
        with pytest.raises(ConfigError):
            reader.read(path, STEPS)


def test_the_schema_is_json_that_describes_every_option() -> None:
    schema = model.json_schema(STEPS)
    assert accepts(schema, {"extends": "lumbar", "tensor": {}}, schema)
    text = json.dumps(schema, allow_nan=False)
    assert json.loads(text) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$defs"]["Tensor"]["properties"]["method"]["description"] == "How the tensor is fitted."
    for name in ("RunFilter", "Runs", "ImageFilter", "LabelSource", "MaskSource"):
        for option, described in schema["$defs"][name]["properties"].items():
            assert described.get("description"), f"{name}.{option}"
    assert all(part.get("description") for part in schema["properties"].values())


# The shipped files, with the steps as they are


def plain(path: Path) -> Any:
    tree, problems = parse(path.read_bytes(), path.name)
    assert tree is not None
    assert not problems
    return tree.plain()


@pytest.mark.parametrize("name", reader.shipped())
def test_a_shipped_configuration_is_valid(name: str, tmp_path: Path) -> None:
    steps = discover()
    got = reader.read(name, steps)
    assert got.protocol == name
    assert reader.read(written(tmp_path, reader.shipped_text(name)), steps) == got
    assert reader.read(written(tmp_path, got.to_yaml()), steps) == got
    schema = model.json_schema(steps)
    json.dumps(schema, allow_nan=False)
    assert accepts(schema, plain(Path(reader.__file__).parent / f"{name}.yaml"), schema)


def test_shipped_configurations_say_what_a_study_asks_for() -> None:
    assert reader.shipped() == ("brain-als", "default", "lumbar", "thigh")
    assert reader.read("default", discover()).canonical()["roi"]["segments"] == "all"
    lumbar = reader.read("lumbar", discover()).canonical()
    methods = [lumbar[name]["method"] for name in ("denoise", "degibbs", "eddy", "mask", "tensor")]
    assert methods == ["mppca", "builtin", "builtin", "body", "wls"]


@pytest.mark.parametrize(
    ("protocol", "count"), [("lumbar", 24 + 9 + 3 + 18), ("thigh", 12 * 2 * 3), ("brain-als", 22)]
)
def test_a_protocol_expects_the_segments_of_its_phantom(protocol: str, count: int) -> None:
    groups: Any = reader.read(protocol, discover()).step("roi")
    segments = expand(groups.segments)
    assert len(segments) == len(set(segments)) == count
    about = find(protocol)
    anatomy = about.build(np.random.default_rng(0), "", ())
    assert set(segments) == {label.segment for label in anatomy.segments}


def test_the_text_of_an_unknown_shipped_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"did you mean lumbar\?"):
        reader.shipped_text("lumber")
