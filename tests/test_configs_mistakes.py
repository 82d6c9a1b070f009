"""Configuration: every mistake at once, each with its line, what is allowed, and what was probably meant."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, field_validator, model_validator

from somite.configs import reader
from somite.configs.schema import nearest
from somite.errors import ConfigError, Problem
from somite.registry import Step, StepConfig


class Group(StepConfig):
    region: str
    sides: tuple[Literal["L", "R", "midline"], ...] = ("midline",)
    levels: tuple[str, ...] = ("",)


class Denoise(StepConfig):
    method: Literal["mppca", "none"] = "mppca"
    patch_voxels: int = Field(5, ge=3, le=15)
    stride_voxels: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _patches_meet(self) -> Self:
        if self.stride_voxels > self.patch_voxels:
            raise ValueError("stride_voxels is larger than patch_voxels")
        return self


class Tensor(StepConfig):
    method: Literal["ols", "wls", "iwls", "robust"] = "wls"
    iterations: int = Field(2, ge=1, le=10)
    fwhm_mm: float = Field(3.0, gt=0)
    tolerance: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    robust: bool = False
    grid: tuple[int, int, int] = (1, 1, 1)


class Roi(StepConfig):
    segments: tuple[Group, ...] | Literal["all"] = "all"
    metrics: Annotated[tuple[Literal["fa", "md"], ...], Field(min_length=1)] = ("fa",)
    fraction: float = Field(0.5, ge=0, lt=1)

    @field_validator("metrics")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("given twice")
        return names


class Bare(StepConfig):
    pass


STEPS = {
    name: Step(name, lambda: None, (), {}, config, lambda _: {}, 2.0)
    for name, config in {"denoise": Denoise, "tensor": Tensor, "roi": Roi, "bare": Bare}.items()
}


def problems(folder: Path, text: str | bytes) -> tuple[Problem, ...]:
    """What is wrong with a file, its name shortened in `where`."""
    path = folder / "my.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        reader.read(path, STEPS)
    found = caught.value.problems
    assert all(problem.where.startswith(str(path)) for problem in found)
    assert all(problem.what and problem.severity == "error" for problem in found)
    return found


def short(folder: Path, problem: Problem) -> tuple[str, str]:
    return problem.code, problem.where.removeprefix(f"{folder}/my.yaml").strip()


def one(folder: Path, text: str) -> Problem:
    found = problems(folder, "protocol: x\n" + text)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def test_ten_mistakes_are_ten_problems_with_their_lines(tmp_path: Path) -> None:
    text = """\
protocol: lumbar spine
runs:
  combine: samepe
  filter: {run: 01}
keep: on
tensor:
  metod: wls
  iterations: 12
  fwhm_mm: 3 mm
roi:
  segments:
    - region: disc
    - sides: [left]
  metrics: fa

gibbs: {}
"""
    found = problems(tmp_path, text)
    assert [short(tmp_path, problem) for problem in found] == [
        ("CONFIG_VALUE", "line 1, protocol"),
        ("CONFIG_VALUE", "line 3, runs.combine"),
        ("CONFIG_TYPE", "line 4, runs.filter.run"),
        ("CONFIG_VALUE", "line 5, keep"),
        ("CONFIG_UNKNOWN_KEY", "line 7, tensor.metod"),
        ("CONFIG_RANGE", "line 8, tensor.iterations"),
        ("CONFIG_TYPE", "line 9, tensor.fwhm_mm"),
        ("CONFIG_MISSING", "line 13, roi.segments[1].region"),
        ("CONFIG_VALUE", "line 13, roi.segments[1].sides[0]"),
        ("CONFIG_TYPE", "line 14, roi.metrics"),
        ("CONFIG_UNKNOWN_KEY", "line 16, gibbs"),
    ]
    assert found[1].do == "did you mean same_pe?"
    assert found[4].do == "did you mean method?"
    assert "method, iterations, fwhm_mm" in found[4].expected
    assert found[7].expected == "text"


# What was found, what is allowed, what to do


@pytest.mark.parametrize(
    ("text", "code", "found", "expected", "do"),
    [
        ("tensor: {method: wsl}", "VALUE", "wsl", "ols, wls, iwls or robust", "did you mean wls?"),
        ("tensor: {method: WLS}", "VALUE", "WLS", "ols, wls, iwls or robust", "did you mean wls?"),
        ("tensor: {method: fsl}", "VALUE", "fsl", "ols, wls, iwls or robust", None),
        ("tensor: {method: 3}", "VALUE", "3", "ols, wls, iwls or robust", ""),
        ("tensor: {method: }", "TYPE", "nothing", "ols, wls, iwls or robust", "write a value, or remove the"),
        ("tensor: {method: [wls]}", "TYPE", "[wls]", "ols, wls, iwls or robust", "alone, without brackets"),
        ("tensor: {iterations: 0}", "RANGE", "0", "a whole number from 1 to 10", ""),
        ("tensor: {iterations: 2.0}", "TYPE", "2.0", "a whole number from 1 to 10", "write 2"),
        ("tensor: {iterations: 2.5}", "TYPE", "2.5", "a whole number from 1 to 10", ""),
        ("tensor: {iterations: '2'}", "TYPE", '"2", which is text', "a whole number from 1 to 10", "write 2"),
        ("tensor: {iterations: true}", "TYPE", "true", "a whole number from 1 to 10", ""),
        ("tensor:\n  fwhm_mm: 3,5", "TYPE", '"3,5", which is text', "a number greater than 0", "write 3.5"),
        ("tensor: {fwhm_mm: 3mm}", "TYPE", "3mm", "a number greater than 0", "write 3: a number alone"),
        ("tensor: {fwhm_mm: -.inf}", "RANGE", "-.inf", "a number greater than 0", ""),
        ("tensor: {tolerance: aut}", "VALUE", "aut", "auto or a number greater than 0", "did you mean auto?"),
        ("tensor: {tolerance: -1}", "RANGE", "-1", "auto or a number greater than 0", ""),
        ("tensor: {robust: yes}", "TYPE", "yes", "true or false", "write true"),
        ("tensor: {robust: off}", "TYPE", "off", "true or false", "write false"),
        ("tensor: {robust: 1}", "TYPE", "1", "true or false", ""),
        ("tensor: {grid: [1, 2]}", "RANGE", "[1, 2]", "a list of 3 values", ""),
        ("tensor: {grid: [1, 2, 3, 4]}", "RANGE", "[1, 2, 3, 4]", "a list of 3 values", ""),
        ("tensor: wls", "TYPE", "wls", "a section with the keys method, iterations", ""),
        ("tensor: method:wls", "TYPE", "method:wls", "a section with", "a space after the colon of `method`"),
        ("tensor: [method]", "TYPE", "[method]", "a section with the keys method, iterations", ""),
        ("roi: {segments: al}", "VALUE", "al", "all or a list, each entry a section", "did you mean all?"),
        ("roi: {segments: [disc]}", "TYPE", "disc", "a section with the keys region, sides, levels", ""),
        ("roi: {segments: {region: a}}", "TYPE", "a section with the keys region", "all or a list", ""),
        ("roi: {metrics: fa}", "TYPE", "fa", "a non-empty list, each entry fa or md", "a list: [fa]"),
        ("roi: {metrics: []}", "RANGE", "[]", "a non-empty list, each entry fa or md", ""),
        ("roi: {metrics: [fa, mdd]}", "VALUE", "mdd", "fa or md", "did you mean md?"),
        ("roi: {fraction: 1}", "RANGE", "1", "a number of at least 0 and below 1", ""),
        ("roi: {segments: [{region: a, levels: [1]}]}", "TYPE", "1", "text", 'in quotes, "1"'),
        ("runs: {filter: {run: 01}}", "TYPE", "01, which YAML reads as the number 1", "text (l", '"01"'),
        ("runs: {filter: {run: [1, '02']}}", "TYPE", "1", "text (letters and digits", 'in quotes, "1"'),
        ("runs: {filter: {acq: acq-hi}}", "VALUE", "acq-hi", "letters and digits only", "alone: hi"),
        ("runs: {filter: {acq: [a, b_c]}}", "VALUE", "b_c", "letters and digits only", ""),
        ("runs: {filter: {acq: ''}}", "VALUE", '"", which is text', "letters and digits only", ""),
        ("runs: {filter: {acq: []}}", "RANGE", "[]", "or a non-empty list of such", ""),
        (
            "labels: {filter: {sge: lumbar}}",
            "UNKNOWN_KEY",
            "sge",
            "acq, run, space, res",
            "did you mean seg?",
        ),
        ("labels: {folder: }", "TYPE", "nothing", "a path", "write a value"),
        ("keep: on", "VALUE", "on", "final or all", ""),
        ("tensor: {fwhm: 3}", "UNKNOWN_KEY", "fwhm", "method, iterations, fwhm_mm", "did you mean fwhm_mm?"),
        ("fraction: 1", "UNKNOWN_KEY", "fraction", "protocol, runs", "an option of roi: put it there"),
        ("tensor: {zzz: 1}", "UNKNOWN_KEY", "zzz", "method, iterations", "remove it"),
        ("bare: {zzz: 1}", "UNKNOWN_KEY", "zzz", "no option: this section has none", "remove it"),
        ("tensor:method: wls", "UNKNOWN_KEY", "tensor:method", "protocol", "after the colon of `tensor`"),
        ("tensor: {1: 2}", "UNKNOWN_KEY", "1", "method, iterations", "remove it"),
    ],
)
def test_a_problem_tells_what_is_allowed_and_what_to_do(
    tmp_path: Path, text: str, code: str, found: str, expected: str, do: str | None
) -> None:
    problem = one(tmp_path, text)
    assert problem.code == f"CONFIG_{code}"
    assert problem.found.startswith(found)
    assert expected in problem.expected
    if do is not None:
        assert do in problem.do
        assert bool(do) == bool(problem.do)


def test_a_misspelt_key_that_was_required_is_one_mistake(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "protocl: x\n")
    assert (problem.code, problem.do) == ("CONFIG_UNKNOWN_KEY", "did you mean protocol?")
    (problem,) = problems(tmp_path, "keep: all\n")
    assert short(tmp_path, problem) == ("CONFIG_MISSING", "line 1, protocol")


def test_a_check_of_two_options_points_to_the_first_that_it_names(tmp_path: Path) -> None:
    problem = one(tmp_path, "denoise:\n  patch_voxels: 3\n  stride_voxels: 4\n")
    assert problem.what == "`denoise.patch_voxels`: stride_voxels is larger than patch_voxels"
    assert short(tmp_path, problem) == ("CONFIG_VALUE", "line 3, denoise.patch_voxels")
    assert one(tmp_path, "roi: {metrics: [fa, fa]}").what == "`roi.metrics`: given twice"


def test_an_unknown_key_does_not_hide_a_check_of_its_section(tmp_path: Path) -> None:
    found = problems(tmp_path, "protocol: x\ndenoise:\n  stride_voxels: 9\n  pach: 1\n")
    assert [short(tmp_path, problem) for problem in found] == [
        ("CONFIG_VALUE", "line 3, denoise.stride_voxels"),
        ("CONFIG_UNKNOWN_KEY", "line 4, denoise.pach"),
    ]


# The form of the file


def test_a_key_that_stands_twice_is_shown_with_both_lines(tmp_path: Path) -> None:
    text = "protocol: x\ntensor:\n  method: ols\n  iterations: 3\n  method: wls\n" + "keep: all\n" * 3
    found = problems(tmp_path, text)
    assert {(short(tmp_path, problem), problem.found) for problem in found} == {
        (("CONFIG_DUPLICATE_KEY", "line 5, tensor.method"), "lines 3 and 5"),
        (("CONFIG_DUPLICATE_KEY", "line 8, keep"), "lines 6, 7 and 8"),
    }


def test_both_halves_of_a_section_that_stands_twice_are_checked(tmp_path: Path) -> None:
    found = problems(tmp_path, "protocol: x\ntensor:\n  method: a\nroi:\ntensor:\n  iterations: 0\n")
    assert [short(tmp_path, problem) for problem in found] == [
        ("CONFIG_DUPLICATE_KEY", "line 5, tensor"),
        ("CONFIG_VALUE", "line 3, tensor.method"),
        ("CONFIG_RANGE", "line 6, tensor.iterations"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "do"),
    [
        ("protocol: x\ntensor:\n\tmethod: ols\n", 3, "indent with spaces"),
        ("protocol: x\nroi:\n  metrics:\n    - fa\n   fraction: 1\n", 5, "in the same column"),
        ("protocol: a: b\n", 1, "after the colon"),
        ("protocol: x\nroi: {metrics: [fa\nkeep: all\n", 3, "close the brackets"),
        ("protocol: x\nkeep:all\nroi:\n", 2, "with a colon and a space"),
        ("protocol: x\n---\nkeep: all\n", 2, "one document"),
        ("protocol: x\nkeep: *all\n", 2, "begins with *"),
        ("protocol: x\nkeep: @all\n", 2, "in quotes"),
        ("protocol: x\nkeep: 'all\n", 3, "close the quotes"),
        ("protocol: x\nkeep: \x01\n", 2, "remove this character"),
        ("[" * 1200, 1, "close the brackets"),
    ],
)
def test_what_is_not_yaml_is_shown_with_its_line(tmp_path: Path, text: str, line: int, do: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert short(tmp_path, problem) == ("CONFIG_SYNTAX", f"line {line}")
    assert do in problem.do


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("keep: !!python/object/apply:os.mkdir [made]", "line 2, keep"),
        ("keep: !!python/name:os.system x", "line 2, keep"),
        ("keep: !!binary aGk=", "line 2, keep"),
        ("keep: {{ keep }}", "line 2, keep"),
        ("tensor:\n  <<: {method: ols}\n  iterations: 3", "line 3, tensor.<<"),
        ("tensor:\n  ? [a, b]\n  : 1\n  iterations: 3", "line 3, tensor"),
        ("roi: {segments: &a [*a]}", "line 2, roi.segments[0]"),
        ("tensor: {fwhm_mm: .nan}", "line 2, tensor.fwhm_mm"),
        ("tensor: {fwhm_mm: !!float x}", "line 2, tensor.fwhm_mm"),
        ("tensor: {iterations: " + "9" * 5000 + "}", "line 2, tensor.iterations"),
        ('keep: "\\ud800"', "line 2, keep"),
    ],
)
def test_what_cannot_be_a_value_is_refused_and_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path, one(tmp_path, text)) == ("CONFIG_SYNTAX", where)
    assert not (tmp_path / "made").exists()


def test_aliases_of_aliases_end(tmp_path: Path) -> None:
    rows = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 9)]
    (problem,) = problems(tmp_path, "\n".join(["k0: &k0 [1, 1, 1]", *rows]))
    assert problem.code == "CONFIG_SYNTAX"
    assert "more than 100000 values" in problem.found


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        (b"", "CONFIG_EMPTY", ""),
        (b"# only words\n", "CONFIG_EMPTY", ""),
        (b"null\n", "CONFIG_EMPTY", ""),
        (b"---\n", "CONFIG_EMPTY", ""),
        (b"- protocol: x\n", "CONFIG_TYPE", "line 1"),
        (b"\nprotocol:x\n", "CONFIG_TYPE", "line 2"),
        (b"protocol: x\nkeep: \xe9\n", "CONFIG_ENCODING", "line 2"),
        ("protocol: x\n".encode("utf-16"), "CONFIG_ENCODING", "line 1"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, text: bytes, code: str, where: str
) -> None:
    (problem,) = problems(tmp_path, text)
    assert short(tmp_path, problem) == (code, where)
    assert problem.do


# Where the file is


def test_a_configuration_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("protocol: x")
    for wanted, meant in [("lumbr", "lumbar"), ("min.yaml", "mine.yaml"), ("mine", "mine.yaml")]:
        with pytest.raises(ConfigError) as caught:
            reader.read(wanted, STEPS)
        (problem,) = caught.value.problems
        assert (problem.code, problem.where) == ("CONFIG_NOT_FOUND", wanted)
        assert problem.do == f"did you mean {meant}?"
    with pytest.raises(ConfigError, match="CONFIG_NOT_FOUND"):
        reader.read(tmp_path, STEPS)
    with pytest.raises(ConfigError, match="CONFIG_NOT_FOUND"):
        reader.read(Path("lumbar"), STEPS)


def test_a_configuration_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> bytes:
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match="CONFIG_UNREADABLE") as caught:
        reader.read(tmp_path / "my.yaml", STEPS)
    assert caught.value.problems[0].found == "Permission denied"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("wsl", "wls"),
        ("Wls", "wls"),
        ("fwhm", "fwhm_mm"),
        ("fwhm-mm", "fwhm_mm"),
        ("min_voxel", "min_voxels"),
        ("b_low", "b_low_s_per_mm2"),
        ("minimum", ""),
        ("", ""),
    ],
)
def test_the_nearest_name(word: str, meant: str) -> None:
    assert nearest(word, ["ols", "wls", "fwhm_mm", "min_voxels", "b_low_s_per_mm2"]) == meant
