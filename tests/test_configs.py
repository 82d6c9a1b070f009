"""Configuration: what is read, how files extend each other, the effective configuration."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from somite.configs import model, reader
from somite.errors import ConfigError
from somite.registry import Step, StepConfig


class Group(StepConfig):
    region: str
    levels: tuple[str, ...] = ("",)


class Tensor(StepConfig):
    """Options of the fit."""

    method: Literal["ols", "wls", "none"] = "wls"
    """How the tensor is fitted."""
    iterations: int = Field(2, ge=1, le=10)
    tolerance: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    fwhm_mm: float = Field(3.0, gt=0)


class Roi(StepConfig):
    groups: tuple[Group, ...] | Literal["all"] = "all"
    names: dict[int, str] = Field({})


class Atlas(StepConfig):
    sha256: str
    folder: Path = Path("atlas")


class Bare(StepConfig):
    pass


def step(name: str, config: type[StepConfig]) -> Step:
    return Step(name, lambda: None, (), {}, config, lambda _: {}, 2.0)


STEPS = {name: step(name, config) for name, config in [("tensor", Tensor), ("roi", Roi), ("bare", Bare)]}


def written(folder: Path, text: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def settings(folder: Path, text: str, steps: dict[str, Step] = STEPS) -> Any:
    return reader.read(written(folder, text), steps)


def codes(source: str | Path, steps: dict[str, Step] = STEPS) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        reader.read(source, steps)
    return [problem.code for problem in caught.value.problems]


# What is read


def test_a_file_of_one_line_gives_every_default(tmp_path: Path) -> None:
    got = settings(tmp_path, "protocol: lumbar\n")
    assert (got.protocol, got.keep, got.runs.combine) == ("lumbar", "all", "none")
    assert got.labels.path(Path("/data")) == Path("/data/derivatives/labels")
    assert got.masks.path(Path("/data")) is None
    assert got.step("tensor") == Tensor()
    assert got.step("bare") == Bare()


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    got = settings(
        tmp_path,
        """
protocol: brain-als
runs: {combine: all_pe, filter: {dir: [AP, PA], run: "01", acq: b1000}}
labels: {folder: /elsewhere/labels, transforms: xfm, roi_source: manual, rater: A. B.}
masks: {folder: derivatives/masks}
tensor: {method: none, iterations: 0x3, tolerance: 1e-3, fwhm_mm: 2}
roi: {groups: [{region: disc, levels: [L3-L4, L4-L5]}], names: {94: disc, 95: canal}}
""",
    )
    assert got.runs.filter == model.RunFilter(dir=("AP", "PA"), run=("01",), acq=("b1000",))
    assert got.labels.path(Path("/data")) == Path("/elsewhere/labels")
    assert got.masks.path(Path("/data")) == Path("/data/derivatives/masks")
    assert got.step("tensor") == Tensor(method="none", iterations=3, tolerance=1e-3, fwhm_mm=2.0)
    assert got.step("roi") == Roi(
        groups=(Group(region="disc", levels=("L3-L4", "L4-L5")),), names={94: "disc", 95: "canal"}
    )


def test_one_label_and_a_list_of_one_are_the_same(tmp_path: Path) -> None:
    one = settings(tmp_path, "protocol: x\nruns: {filter: {dir: AP}}")
    many = settings(tmp_path, "protocol: x\nruns: {filter: {dir: [AP]}}")
    assert one == many
    assert one.digest() == many.digest()


def test_a_section_left_empty_keeps_its_defaults(tmp_path: Path) -> None:
    got = settings(tmp_path, "protocol: x\ntensor:\n  # method: ols\nruns:\n  filter:\n")
    assert got == settings(tmp_path, "protocol: x\n")


def test_anchors_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = """\ufeffprotocol: x
roi:
  groups:
    - {region: a, levels: &discs [L3]}
    - {region: b, levels: *discs}
"""
    assert settings(tmp_path, text.replace("\n", "\r\n")).step("roi").groups[1] == Group(
        region="b", levels=("L3",)
    )


def test_a_date_and_a_yes_are_text(tmp_path: Path) -> None:
    got = settings(tmp_path, "protocol: 2024-01-02\nlabels: {rater: yes}")
    assert (got.protocol, got.labels.rater) == ("2024-01-02", "yes")


def test_settings_are_frozen(tmp_path: Path) -> None:
    got = settings(tmp_path, "protocol: x\n")
    for owner, name in [(got, "protocol"), (got.runs, "combine"), (got.tensor, "method")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, "none")
    assert hash(got.runs) == hash(model.Runs())


# A section for every step


def test_a_new_step_has_its_section(tmp_path: Path) -> None:
    smooth = type("Config", (StepConfig,), {"__annotations__": {"fwhm_mm": float}, "fwhm_mm": 3.0})
    steps = {**STEPS, "smooth": step("smooth", smooth)}
    got = settings(tmp_path, "protocol: x\nsmooth: {fwhm_mm: 5}", steps)
    assert got.step("smooth") == smooth(fwhm_mm=5.0)
    assert codes(tmp_path / "my.yaml", STEPS) == ["CONFIG_UNKNOWN_KEY"]
    assert "smooth" in model.json_schema(steps)["properties"]


def test_only_steps_are_steps(tmp_path: Path) -> None:
    got = settings(tmp_path, "protocol: x\n")
    for name in ("runs", "protocol", "digest", "tensr"):
        with pytest.raises(KeyError, match=name):
            got.step(name)


@pytest.mark.parametrize("name", ["runs", "extends", "digest", "copy"])
def test_a_step_cannot_take_a_name_of_the_configuration(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        model.settings_model({name: step(name, Bare)})


def test_an_option_without_default_must_be_given(tmp_path: Path) -> None:
    steps = {"atlas": step("atlas", Atlas)}
    path = written(tmp_path, "protocol: x\n")
    with pytest.raises(ConfigError) as caught:
        reader.read(path, steps)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("CONFIG_MISSING", f"{path} line 1, atlas.sha256")
    assert settings(tmp_path, "protocol: x\natlas: {sha256: ab}", steps).atlas.sha256 == "ab"


# extends


def test_files_extend_files_in_other_folders(tmp_path: Path) -> None:
    written(tmp_path, "protocol: base\ntensor: {method: ols, iterations: 5}\nkeep: final", "base/site.yaml")
    written(tmp_path, "extends: base/site.yaml\ntensor: {iterations: 7}", "middle.yaml")
    got = settings(tmp_path, "extends: ./middle.yaml\nprotocol: mine\ntensor: {fwhm_mm: 4}")
    assert (got.protocol, got.keep) == ("mine", "final")
    assert got.step("tensor") == Tensor(method="ols", iterations=7, fwhm_mm=4.0)


def test_lists_are_replaced_and_a_null_takes_a_filter_away(tmp_path: Path) -> None:
    base = "protocol: x\nruns: {filter: {dir: [AP, PA], acq: b1000}}\nroi: {groups: [{region: a}]}"
    written(tmp_path, base, "base.yaml")
    got = settings(
        tmp_path, "extends: base.yaml\nruns: {filter: {dir: [LR], acq: null}}\nroi: {groups: [{region: b}]}"
    )
    assert got.runs.filter == model.RunFilter(dir=("LR",))
    assert got.step("roi").groups == (Group(region="b"),)


def test_an_empty_section_changes_nothing_of_what_is_extended(tmp_path: Path) -> None:
    written(tmp_path, "protocol: x\ntensor: {method: ols}", "base.yaml")
    assert settings(tmp_path, "extends: base.yaml\ntensor:\n").step("tensor").method == "ols"


def test_a_mistake_is_shown_in_the_file_that_holds_it(tmp_path: Path) -> None:
    base = written(tmp_path, "protocol: x\ntensor:\n  method: wsl\n  iterations: 99\n", "base.yaml")
    mine = written(tmp_path, "extends: base.yaml\n\ntensor:\n  fwhm_mm: -1\n  iterations: 3\n")
    with pytest.raises(ConfigError) as caught:
        reader.read(mine, STEPS)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [
        ("CONFIG_RANGE", f"{mine} line 4, tensor.fwhm_mm"),
        ("CONFIG_VALUE", f"{base} line 3, tensor.method"),
    ]


def test_a_cycle_is_named_whole(tmp_path: Path) -> None:
    written(tmp_path, "extends: b.yaml", "a.yaml")
    written(tmp_path, "extends: sub/../a.yaml\nprotocol: x", "b.yaml")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError) as caught:
        reader.read(tmp_path / "a.yaml", STEPS)
    (problem,) = caught.value.problems
    assert problem.code == "CONFIG_EXTENDS_CYCLE"
    assert problem.where == f"{tmp_path / 'b.yaml'} line 1, extends"
    assert re.fullmatch(r"\S*a.yaml extends \S*b.yaml extends \S*a.yaml", problem.found)
    with pytest.raises(ConfigError) as caught:
        reader.read(written(tmp_path, "extends: a.yaml"), STEPS)
    assert re.fullmatch(r"\S*a.yaml extends \S*b.yaml extends \S*a.yaml", caught.value.problems[0].found)
    assert codes(written(tmp_path, "protocol: x\nextends: my.yaml")) == ["CONFIG_EXTENDS_CYCLE"]


def test_mistakes_of_form_do_not_hide_those_of_other_files(tmp_path: Path) -> None:
    base = written(tmp_path, "protocol: x\ntensor:\n\tmethod: ols\n", "base.yaml")
    mine = written(tmp_path, "extends: base.yaml\nkeep: some\nkeep: most\n")
    with pytest.raises(ConfigError) as caught:
        reader.read(mine, STEPS)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [
        ("CONFIG_DUPLICATE_KEY", f"{mine} line 3, keep"),
        ("CONFIG_SYNTAX", f"{base} line 3"),
        ("CONFIG_VALUE", f"{mine} line 3, keep"),
    ]


@pytest.mark.parametrize(
    ("extends", "code", "do"),
    [
        ("defalt", "CONFIG_EXTENDS_NOT_FOUND", "did you mean default?"),
        ("bsae.yaml", "CONFIG_EXTENDS_NOT_FOUND", "did you mean base.yaml?"),
        ("nowhere/base.yaml", "CONFIG_EXTENDS_NOT_FOUND", ""),
        ('"a\\0b"', "CONFIG_EXTENDS_NOT_FOUND", ""),
        ("[default]", "CONFIG_TYPE", ""),
        ("", "CONFIG_TYPE", ""),
    ],
)
def test_what_extends_names_must_be_there(tmp_path: Path, extends: str, code: str, do: str) -> None:
    written(tmp_path, "protocol: x", "base.yaml")
    mine = written(tmp_path, f"protocol: x\nextends: {extends}\n")
    with pytest.raises(ConfigError) as caught:
        reader.read(mine, STEPS)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == (code, f"{mine} line 2, extends")
    assert do in problem.do


# The effective configuration

AWKWARD = [
    "01",
    "1e3",
    "0x1F",
    "1_0",
    ".5",
    "on",
    "null",
    "~",
    "true",
    "none",
    "2024-01-02",
    "a: b",
    "# a",
    "é",
]
AWKWARD += ["", " x ", "- a", "[a]", "*a", "!a", "'", '"', "long " * 60, "=", "<<", ".inf", "-", "012"]


def test_the_effective_configuration_reads_back_equal(tmp_path: Path) -> None:
    first = settings(
        tmp_path,
        f"""
protocol: "007"
runs: {{filter: {{run: ["01", "1e3"], acq: "null"}}}}
labels: {{rater: "yes, 'no' # never", roi_source: "~"}}
tensor: {{tolerance: 1e-9, fwhm_mm: .inf}}
roi: {{groups: [{{region: disc, levels: {json.dumps(AWKWARD)}}}], names: {{1: "2"}}}}
""",
    )
    again = settings(tmp_path, first.to_yaml())
    assert again == first
    assert again.digest() == first.digest()
    assert again.to_yaml() == first.to_yaml()
    assert again.step("roi").groups[0].levels == tuple(AWKWARD)


def test_the_effective_configuration_holds_every_option(tmp_path: Path) -> None:
    written(tmp_path, "protocol: x\ntensor: {method: ols}", "base.yaml")
    text = settings(tmp_path, "extends: base.yaml\n").to_yaml()
    assert "extends" not in text
    for line in ("  method: ols", "  iterations: 2", "  tolerance: auto", "  combine: none", "keep: all"):
        assert line in text.splitlines()


def test_the_digest_follows_the_meaning_not_the_writing(tmp_path: Path) -> None:
    short = settings(tmp_path, "protocol: x\n")
    spelt = settings(tmp_path, "# words\nkeep: all\ntensor: {fwhm_mm: 3, method: wls}\nprotocol: 'x'\n")
    other = settings(tmp_path, "protocol: x\ntensor: {fwhm_mm: 3.01}\n")
    assert short.digest() == spelt.digest() != other.digest()
    turned = settings(tmp_path, "protocol: x\n", dict(reversed(STEPS.items())))
    assert (turned, turned.digest()) == (short, short.digest())
    text = json.dumps(short.canonical(), sort_keys=True, separators=(",", ":"))
    assert short.digest() == hashlib.sha256(text.encode()).hexdigest()


# Containers of tools


def test_a_suite_of_tools_may_come_from_a_container(tmp_path: Path) -> None:
    assert settings(tmp_path, "protocol: x\n").tools.containers() == {}
    got = settings(
        tmp_path,
        """
protocol: x
tools:
  fsl: {container: apptainer exec --bind "/my data" '/my images/fsl.sif'}
  mrtrix3:
    container: docker run --rm -v /data:/data mrtrix3:3.0.4
""",
    )
    assert got.tools.containers() == {
        "fsl": """apptainer exec --bind "/my data" '/my images/fsl.sif'""",
        "mrtrix3": "docker run --rm -v /data:/data mrtrix3:3.0.4",
    }
    assert settings(tmp_path, got.to_yaml()) == got


@pytest.mark.parametrize(
    "command", ["''", "'  '", "apptainer exec 'fsl.sif", 'docker run "img', "a\\", '"one\\ntwo"']
)
def test_a_command_that_is_none_is_refused_in_words(tmp_path: Path, command: str) -> None:
    text = f"protocol: x\ntools:\n  fsl:\n    container: {command}\n"
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.code == "CONFIG_VALUE" and problem.where.endswith("line 4, tools.fsl.container")
    assert "apptainer exec /images/fsl.sif" in problem.expected


def test_a_container_may_not_be_a_list_and_a_suite_must_be_known(tmp_path: Path) -> None:
    mine = written(tmp_path, "protocol: x\ntools: {fsl: {container: [apptainer, exec]}, ants: {}}\n")
    assert codes(mine) == ["CONFIG_TYPE", "CONFIG_UNKNOWN_KEY"]
