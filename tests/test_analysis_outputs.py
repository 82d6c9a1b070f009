"""Exclusions, families of tests, and the difference between two freezes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from long_tables import Plain, frame, ids, long, write_parquet, write_tsv
from scipy import stats

from somite.analysis import compare, diff, exclusions, families
from somite.analysis.choose import select
from somite.analysis.model import AnalysisConfig, Exclude, Family
from somite.analysis.people import read_people
from somite.analysis.results import Result
from somite.cli import main
from somite.errors import ConfigError, DatasetError, Problem
from somite.long_table import as_lines, read_stats
from somite.segments import COLUMNS, write_table


def refused(run: Callable[[], object]) -> list[Problem]:
    with pytest.raises((DatasetError, ConfigError)) as caught:
        run()
    return list(caught.value.problems)


# Clinical tables


def test_every_mistake_of_the_clinical_tables_is_said_at_once(tmp_path: Path) -> None:
    twice = write_tsv(
        tmp_path / "participants.tsv", {"participant_id": ["01", "sub-01", "02"], "age": [1, 2, 3]}
    )
    torn = tmp_path / "odi.tsv"
    torn.write_text("participant_id\todi\nsub-01\t20\t30\n")
    nameless = write_tsv(tmp_path / "who.tsv", {"subject": ["01"]})
    found = refused(lambda: read_people([twice, torn, nameless, tmp_path / "absent.tsv"]))
    assert [problem.code for problem in found] == ["PARTICIPANT_TWICE", *["PEOPLE_TABLE"] * 3]
    assert (found[0].what, found[0].found) == ("sub-01 stands more than once", "lines 2, 3")
    assert found[1].where.endswith("odi.tsv, line 2")


def test_a_column_of_two_files_is_named_with_its_file(tmp_path: Path) -> None:
    one = write_tsv(tmp_path / "participants.tsv", {"participant_id": ids(2), "score": [1, 2]})
    other = write_tsv(tmp_path / "odi.tsv", {"participant_id": ids(2), "score": [3, 4]})
    people = read_people([one, other])
    table = long(tmp_path, frame(ids(2)))
    (found,) = refused(lambda: list(select(table, people, Plain(covariates=("score",)))))
    assert (found.code, found.do) == ("COLUMN_AMBIGUOUS", "write one of participants.score, odi.score")
    measure = next(select(table, people, Plain(covariates=("odi.score",))))
    assert measure.frame["odi.score"].tolist() == [3.0, 4.0]


# Exclusions


def quality(folder: Path, verdicts: list[str]) -> Path:
    n = len(verdicts)
    columns = {"participant_id": ids(n), "session_id": ["n/a"] * n, "run": ["n/a"] * n, "verdict": verdicts}
    return write_tsv(folder / "qc_wide.tsv", columns)


def test_who_is_excluded_is_counted_by_reason_in_order(tmp_path: Path) -> None:
    rows = frame(ids(6), metrics=("fa",), sides=("L",))
    rows.loc[(rows["participant_id"] == "sub-006") & (rows["level"] == "L4"), "qc_status"] = "fail"
    rows.loc[(rows["participant_id"] == "sub-005") & (rows["level"] == "L4"), "qc_status"] = "warn"
    people = read_people([], quality(tmp_path, ["fail", "fail", "warn", "pass", "pass", "pass"]))
    listed = exclusions.read_list(
        write_tsv(
            tmp_path / "exclusions.tsv",
            {
                "participant_id": ["sub-001", "004"],
                "level": ["n/a", "L5"],
                "reason": ["withdrew", "implant"],
            },
        )
    )
    table, left = exclusions.apply(long(tmp_path, rows), people, Exclude(), listed)
    assert [(one.reason, one.participants) for one in left] == [
        ("excluded: withdrew", ("sub-001",)),
        ("quality: fail", ("sub-002",)),
    ]
    l4, l5 = select(table, people, Plain())
    assert l4.absent == {"no value: segment quality: fail": ("sub-006",)}
    assert l5.absent == {"no value: excluded: implant": ("sub-004",)}
    assert l5.frame["participant_id"].tolist() == ["sub-003", "sub-005", "sub-006"]

    strict, left = exclusions.apply(long(tmp_path, rows), people, Exclude(qc="warn", rows="warn"), ())
    assert [(one.reason, len(one.participants)) for one in left] == [
        ("quality: warn", 1),
        ("quality: fail", 2),
    ]
    assert next(select(strict, people, Plain())).frame["participant_id"].tolist() == ["sub-004"]

    all_in, left = exclusions.apply(long(tmp_path, rows), people, Exclude(qc="none", rows="none"), ())
    assert (left, len(all_in)) == ([], len(rows))


def test_a_list_that_would_exclude_nobody_is_an_error(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(3)))
    people = read_people([write_tsv(tmp_path / "participants.tsv", {"participant_id": [*ids(3), "sub-xyz"]})])
    path = write_tsv(
        tmp_path / "out.tsv",
        {
            "participant_id": ["sub-04", "sub-xyz", "sub-002"],
            "side": ["n/a", "n/a", "l"],
            "reason": ["a"] * 3,
        },
    )
    found = refused(lambda: exclusions.apply(table, people, Exclude(), exclusions.read_list(path)))
    assert [(p.code, p.found) for p in found] == [("EXCLUSION_UNKNOWN", "sub-04"), ("EXCLUSION_UNKNOWN", "l")]
    assert found[0].do.startswith("did you mean sub-00")
    bad = write_tsv(tmp_path / "bad.tsv", {"participant_id": ["sub-001"], "reson": ["x"]})
    found = refused(lambda: exclusions.read_list(bad))
    assert [p.code for p in found] == ["EXCLUSIONS_TABLE"] * 3
    assert "did you mean reason?" in {p.do for p in found}


# Families


def with_p(name: str, p: list[float], **identity: str) -> list[Result]:
    return [Result(name, "plain", p=value, **identity) for value in p]  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["fdr_bh", "fdr_by", "bonferroni", "holm", "none"])
def test_corrections_are_those_of_the_textbooks(
    method: Literal["fdr_bh", "fdr_by", "bonferroni", "holm", "none"],
) -> None:
    p = np.random.default_rng(4).uniform(0, 0.2, 30)
    p[7] = p[8]
    config = Plain(name="a", family=Family(method=method))
    got = np.array([one.p_adjusted for one in families.adjust(with_p("a", p.tolist()), {"a": config})])
    order = np.argsort(p)
    holm = np.empty(30)
    holm[order] = np.minimum(np.maximum.accumulate((30 - np.arange(30)) * p[order]), 1)
    want = {
        "fdr_bh": stats.false_discovery_control(p, method="bh"),
        "fdr_by": stats.false_discovery_control(p, method="by"),
        "bonferroni": np.minimum(30 * p, 1),
        "holm": holm,
        "none": p,
    }[method]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_family_spans_analyses_and_is_split_by_columns() -> None:
    shared = Family(name="primary", method="bonferroni", by=("metric",))
    configs = {name: Plain(name=name, family=shared) for name in ("a", "b")} | {
        "c": Plain(name="c", family=Family(method="bonferroni"))
    }
    rows = [
        *with_p("a", [0.01, math.nan], metric="fa"),
        *with_p("b", [0.02, 0.03], metric="fa"),
        *with_p("b", [0.04], metric="md"),
        *with_p("c", [0.05]),
    ]
    found = families.adjust(rows, configs)
    assert [one.family for one in found] == [*["primary [metric=fa]"] * 4, "primary [metric=md]", "c"]
    assert [one.family_size for one in found] == [3, 3, 3, 3, 1, 1]
    np.testing.assert_allclose([one.p_adjusted for one in found], [0.03, math.nan, 0.06, 0.09, 0.04, 0.05])
    configs["b"] = Plain(name="b", family=Family(name="primary", method="holm"))
    (problem,) = refused(lambda: families.adjust(rows, configs))
    assert (problem.code, problem.where) == ("FAMILY_DIFFERS", "analyses.a.family, analyses.b.family")


def test_a_p_that_its_own_test_corrects_is_in_no_family() -> None:
    config = Plain(name="a", family=Family(method="bonferroni"))
    rows = [
        *with_p("a", [0.01, 0.02]),
        *with_p("a", [0.03, math.nan], corrected_for="all clusters of the profile"),
    ]
    found = families.adjust(rows, {"a": config})
    np.testing.assert_allclose([one.p_adjusted for one in found], [0.02, 0.04, 0.03, math.nan])
    assert [(one.family, one.family_size) for one in found] == [("a", 2)] * 2 + [("none", 0)] * 2
    assert found[2].correction == "by its own test, for all clusters of the profile"


def test_three_groups_are_corrected_contrast_by_contrast_unless_the_yaml_says_otherwise() -> None:
    contrasts = ("g: a, b, c", "a - b", "a - c", "b - c")
    rows = [row for text in contrasts for row in with_p("x", [0.01, 0.02], contrast=text)]

    def of(config: AnalysisConfig, some: list[Result]) -> list[tuple[str, int]]:
        return [(one.family, one.family_size) for one in families.adjust(some, {"x": config})]

    split = [(f"x [contrast={text}]", 2) for text in contrasts for _ in range(2)]
    assert of(compare.Config(name="x", group="g"), rows) == split
    assert of(compare.Config(name="x", paired="session_id"), rows) == split
    assert of(compare.Config(name="x", group="g", family=Family(by=())), rows) == [("x", 8)] * 8
    assert of(compare.Config(name="x", group="g", family=Family(name="all")), rows) == [("all", 8)] * 8
    assert of(compare.Config(name="x", group="g"), rows[:4]) == [("x", 4)] * 4  # two groups
    assert of(Plain(name="x"), rows) == [("x", 8)] * 8
    two = [row for text in ("g: L4 - L5, S1", "L4 - L5 - S1") for row in with_p("x", [0.01], contrast=text)]
    assert of(compare.Config(name="x", group="g"), two) == [("x", 2)] * 2  # a group whose name has a dash


# The difference between two freezes


def stats_tsv(path: Path, rows: pd.DataFrame) -> Path:
    keep = [name for name in COLUMNS if name in rows]
    return write_table(path, [dict(zip(keep, row, strict=True)) for row in rows[keep].to_numpy(object)])


def test_diff_names_who_which_segment_and_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = frame(ids(3))
    other = rows.copy()
    changed = (rows["participant_id"] == "sub-002") & (rows["side"] == "R") & (rows["level"] == "L5")
    other.loc[changed & (rows["metric"] == "md"), "value"] += 0.1
    other.loc[changed & (rows["metric"] == "fa"), "qc_status"] = "warn"
    other = other[other["participant_id"] != "sub-003"].sample(frac=1, random_state=1)
    a, b = write_parquet(tmp_path / "a.parquet", rows), stats_tsv(tmp_path / "b.tsv", other)
    found = diff.difference(a, b)
    assert {change.what for change in found.changes} == {"only in A", "value", "qc_status"}
    assert sum(change.what == "only in A" for change in found.changes) == 8
    (value,) = [change for change in found.changes if change.what == "value"]
    assert float(value.after) - float(value.before) == pytest.approx(0.1)
    assert value.row == ("sub-002", "n/a", "n/a", "nerve_root", "R", "L5", "n/a", "md", "mean")
    assert value.by.startswith("+0.1 (+")
    assert main(["diff", str(a), str(b), "--tsv", str(tmp_path / "d.tsv")]) == 1
    out = capsys.readouterr().out
    assert "sub-003: 8 changes" in out.replace(" n/a", "")
    assert "sub-002 nerve_root R L5 md mean" in out
    assert len((tmp_path / "d.tsv").read_text().splitlines()) == 11


def test_both_formats_of_one_table_do_not_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tsv = stats_tsv(tmp_path / "a.tsv", frame(ids(1)))
    table = read_stats(tsv)
    again = tmp_path / "b.tsv"
    again.write_text("\t".join(COLUMNS) + "\n" + as_lines(table))
    pq.write_table(table, tmp_path / "c.parquet")
    for other in (again, tmp_path / "c.parquet"):
        assert main(["diff", str(tsv), str(other)]) == 0
    assert "no difference: 8 rows" in capsys.readouterr().out


def test_tables_of_different_kinds_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tsv = stats_tsv(tmp_path / "a.tsv", frame(ids(1)))
    other = write_tsv(tmp_path / "b.tsv", {"participant_id": ["x"]})
    assert main(["diff", str(tsv), str(other)]) == 2
    assert main(["diff", str(tsv), str(tmp_path / "absent.tsv")]) == 2
    assert main(["diff", str(tsv), str(tsv.with_name("empty.tsv"))]) == 2
    assert capsys.readouterr().err.count("DIFF_TABLE") == 3
