"""Analyses in the YAML: mistakes with their place and what was meant; light planning; the documents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from long_tables import frame, ids
from study import YAML, Study

from somite.configs import reader
from somite.errors import ConfigError, Problem
from somite.registry import discover


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, frame(ids(8)))


def mistakes(folder: Path, text: str) -> list[Problem]:
    (folder / "my.yaml").write_text("extends: default\nanalyses:\n" + text)
    with pytest.raises(ConfigError) as caught:
        reader.read(folder / "my.yaml", discover())
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "code", "key", "expected", "do"),
    [
        ("  a: {kind: comparre}", "VALUE", "a.kind", "compare", "did you mean compare?"),
        ("  a: {group: x}", "MISSING", "a.kind", "compare", "add a line `kind:`"),
        ("  a:", "MISSING", "a.kind", "compare", "add a line `kind:`"),
        (
            "  a: {kind: compare, grup: x, paired: side}",
            "UNKNOWN_KEY",
            "a.grup",
            "group",
            "did you mean group?",
        ),
        (
            "  a: {kind: compare, group: x, select: {regon: y}}",
            "UNKNOWN_KEY",
            "a.select.regon",
            "region",
            "did you mean region?",
        ),
        (
            "  a: {kind: compare, group: x, family: {method: fdr}}",
            "VALUE",
            "a.family.method",
            "fdr_bh, fdr_by",
            "did you mean fdr_bh?",
        ),
        ("  a: {kind: compare, group: 3}", "TYPE", "a.group", "text", "in quotes"),
        ("  a: {kind: compare, group: x, alpha: 0.7}", "RANGE", "a.alpha", "below 0.5", ""),
        ("  a b: {kind: compare, group: x}", "VALUE", "a b", "", ""),
        ("  a: {kind: compare, group: x, name: b}", "VALUE", "a", "", ""),
        (
            "  a: {kind: compare, group: x, aggregate: {over: [lvl]}}",
            "VALUE",
            "a.aggregate.over[0]",
            "level",
            "level",
        ),
    ],
)
def test_mistakes_of_analyses_have_their_line_and_what_was_meant(
    tmp_path: Path, text: str, code: str, key: str, expected: str, do: str
) -> None:
    (problem,) = mistakes(tmp_path, text + "\n")
    assert (problem.code, problem.where.rpartition(", ")[2]) == (f"CONFIG_{code}", f"analyses.{key}")
    assert "line 3" in problem.where
    assert expected in problem.expected
    assert do in problem.do


def test_an_unknown_key_is_told_the_options_of_its_kind_only(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path, "  a: {kind: compare, paired: side, zz: 1}\n")
    assert "paired" in problem.expected
    assert "matrix" not in problem.expected  # of another kind


def test_the_effective_configuration_reads_back_and_analyses_count_in_its_digest(tmp_path: Path) -> None:
    text = (
        "extends: default\nanalyses:\n"
        "  a: {kind: compare, group: g, only: {sex: F}, select: {level: [L4, L5]}}\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    one = reader.read(tmp_path / "a.yaml", discover())
    assert one.analyses["a"].only == {"sex": ("F",)}
    (tmp_path / "b.yaml").write_text(one.to_yaml())
    assert reader.read(tmp_path / "b.yaml", discover()) == one
    (tmp_path / "c.yaml").write_text(text.replace("L4", "L3"))
    assert reader.read(tmp_path / "c.yaml", discover()).digest() != one.digest()


# Planning


def test_planning_imports_no_statistics(study: Study) -> None:
    (study.root / "my.yaml").write_text(YAML)
    code = f"""
import sys
from pathlib import Path
from somite.analysis.clinical import check
from somite.analysis.model import discover as kinds
from somite.configs import reader
from somite.interfaces.analyse import definition
from somite.registry import discover
settings = reader.read(Path({str(study.root / "my.yaml")!r}), discover())
assert not check(Path({str(study.bids)!r}), settings.cohort, settings.analyses)
assert definition("level", settings.analyses, settings.cohort)
print(sorted(kinds()), "statsmodels" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = "agreement compare correlate logistic mixed profile roc symptomatic_level"
    assert set(names.split()) <= set(done.stdout.replace("'", "").strip("[").split("]")[0].split(", "))
    assert done.stdout.endswith("False\n")


def test_kinds_of_analysis_are_found_without_compiled_loops() -> None:
    code = "import sys; from somite.analysis.model import discover; discover(); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# The documents


def test_the_examples_of_the_documents_are_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "analyses.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(examples) == 6
    for example in examples:
        (tmp_path / "example.yaml").write_text(example)
        assert reader.read(tmp_path / "example.yaml", discover()).analyses


def test_the_python_of_the_documents_runs(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "analyses.md").read_text(encoding="utf-8")
    (code,) = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(study.root)
    found: dict[str, object] = {}
    exec(code, found)
    assert len(found["results"]) == len(found["measures"]) == 8  # type: ignore[arg-type]
