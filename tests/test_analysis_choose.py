"""From the long table and the clinical data to measures: what is taken, joined, aggregated, left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from long_tables import IDENTITY, Plain, frame, ids, long, write_tsv

from somite.analysis.choose import select, selection
from somite.analysis.clinical import files as clinical_files
from somite.analysis.long import read_long
from somite.analysis.model import Aggregate, Cohort, Select
from somite.analysis.people import People, read_people
from somite.errors import DatasetError, Problem


def people(folder: Path, **columns: Any) -> People:
    n = len(next(iter(columns.values())))
    return read_people([write_tsv(folder / "participants.tsv", {"participant_id": ids(n), **columns})])


def refused(run: Callable[[], object]) -> list[Problem]:
    with pytest.raises(DatasetError) as caught:
        run()
    return list(caught.value.problems)


def one(run: Callable[[], object]) -> Problem:
    found = refused(run)
    assert len(found) == 1, found
    return found[0]


def test_measures_hold_the_rows_that_pandas_finds_whatever_the_order_of_the_table(tmp_path: Path) -> None:
    rows = frame(ids(7)).sample(frac=1, random_state=3)
    clinical = people(tmp_path, age=range(40, 47), diagnosis=["p", "c", "p", "c", "p", "c", "p"])
    config = Plain(covariates=("age",), group="diagnosis", select=Select(metric=("f*",), level=("L5",)))
    measures = list(select(long(tmp_path, rows), clinical, config))
    assert [measure.name for measure in measures] == ["nerve_root L L5 fa", "nerve_root R L5 fa"]
    for measure in measures:
        names = pd.Series(measure.identity)
        want = rows[(rows[list(IDENTITY)] == names).all(axis=1)].sort_values("participant_id")
        np.testing.assert_array_equal(measure.frame["value"], want["value"])
        np.testing.assert_array_equal(measure.frame["n_voxels"], want["n_voxels"])
        assert measure.frame["participant_id"].tolist() == ids(7)
        assert measure.frame["age"].tolist() == list(range(40, 47))
        assert measure.frame["diagnosis"].tolist() == ["p", "c", "p", "c", "p", "c", "p"]
        assert measure.unit == "1"


def test_patterns_take_any_text_and_name_what_was_probably_meant(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(3), regions=("nerve_root", "disc")))
    nobody = People()

    def taken(**options: tuple[str, ...]) -> int:
        return len(list(select(table, nobody, Plain(select=Select(**options)))))

    assert taken() == 16
    assert taken(region=("nerve_*",), side=("?",)) == 8
    assert taken(region=("disc", "nerve_root"), metric=("fa",), level=("L4",), side=("R",)) == 2
    assert taken(segment=("n/a",)) == 16
    problems = refused(lambda: taken(region=("nerve_rot",), metric=("FA",), level=("S1",)))
    assert [(p.code, p.where) for p in problems] == [
        ("SELECT_NOTHING", "analyses.plain.select.metric"),
        ("SELECT_NOTHING", "analyses.plain.select.region"),
        ("SELECT_NOTHING", "analyses.plain.select.level"),
    ]
    assert [p.do for p in problems[:2]] == ["did you mean fa?", "did you mean nerve_root?"]
    assert problems[2].expected == "L4, L5"


def test_patterns_that_each_match_but_never_together_are_an_error(tmp_path: Path) -> None:
    rows = frame(ids(2), regions=("nerve_root", "disc"))
    rows = rows[(rows["region"] == "disc") == (rows["level"] == "L4")]
    config = Plain(select=Select(region=("disc",), level=("L5",)))
    found = one(lambda: list(select(long(tmp_path, rows), People(), config)))
    assert found.code == "SELECT_NOTHING"
    assert found.found == "statistic: mean; region: disc; level: L5"


def test_misspelt_columns_and_groups_are_named_all_together(tmp_path: Path) -> None:
    clinical = people(tmp_path, age=[1, 2], diagnosis=["patient", "control"], odi=["20", "x"])
    config = Plain(
        covariates=("agee", "odi"),
        group="diagnosis",
        groups=("patiant", "control"),
        only={"diagnosi": ("a",)},
    )
    problems = refused(lambda: list(select(long(tmp_path, frame(ids(2))), clinical, config)))
    assert {(p.code, p.do) for p in problems} == {("COLUMN_UNKNOWN", "did you mean diagnosis?")}
    config = config.model_copy(update={"only": {}})
    problems = refused(lambda: list(select(long(tmp_path, frame(ids(2))), clinical, config)))
    assert [(p.code, p.where, p.do) for p in problems] == [
        ("COLUMN_UNKNOWN", "analyses.plain.covariates", "did you mean age?"),
        ("GROUP_UNKNOWN", "analyses.plain.group", "did you mean patient?"),
    ]


def test_who_lacks_a_value_or_a_covariate_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = frame(ids(6), sides=("L",), levels=("L5",), metrics=("fa", "md"))
    first = (rows["participant_id"] == "sub-001") & (rows["metric"] == "fa")
    rows.loc[first, ["value", "reason"]] = [np.nan, "no voxel"]
    rows = rows[~((rows["participant_id"] == "sub-002") & (rows["metric"] == "md"))]
    clinical = people(tmp_path, age=[1, 2, "n/a", 4, 5])  # sub-006 has no line
    table = long(tmp_path, rows)
    fa, md = select(table, clinical, Plain(covariates=("age",)))
    assert fa.absent == {
        "no value: no voxel": ("sub-001",),
        "no age": ("sub-003",),
        "not in participants.tsv": ("sub-006",),
    }
    assert fa.left_out == {"no value: no voxel": 1, "no age": 1, "not in participants.tsv": 1}
    assert md.absent["no row in the table"] == ("sub-002",)
    assert fa.frame["participant_id"].tolist() == ["sub-002", "sub-004", "sub-005"]
    assert not fa.frame[["value", "age"]].isna().any().any()

    whole = list(select(table, clinical, Plain(covariates=("age",), missing="complete")))
    assert [m.frame["participant_id"].tolist() for m in whole] == [["sub-004", "sub-005"]] * 2
    assert whole[0].absent["lacks a value in another measure"] == ("sub-002",)

    found = one(lambda: list(select(table, clinical, Plain(covariates=("age",), missing="error"))))
    assert found.code == "MISSING_VALUES"
    assert "sub-001" in found.what


def test_several_rows_of_a_person_are_an_error_that_names_the_ways_out(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(3), sessions=("ses-1", "ses-2")))
    found = one(lambda: list(select(table, People(), Plain())))
    assert found.code == "MANY_ROWS"
    assert found.what.startswith("sub-001 has 2 rows in nerve_root L L4 fa (so in 8 measures)")
    assert found.found == "session_id: ses-1, ses-2"
    assert all(word in found.do for word in ("session: ...", "aggregate", "mixed", "bootstrap"))
    for pattern in ("ses-2", "2"):
        (measure, *_) = select(table, People(), Plain(select=Select(session=(pattern,))))
        assert set(measure.frame["session_id"]) == {"ses-2"}


def test_what_varies_within_a_person_stands_in_the_frame(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(3), sessions=("ses-1", "ses-2"), metrics=("fa",)))
    config = Plain(repeats=("side", "session_id"), select=Select(level=("L5",)))
    (measure,) = select(table, People(), config)
    assert (measure.side, measure.level, measure.n, len(measure.frame)) == ("*", "L5", 3, 12)
    assert measure.frame["side"].tolist() == ["L", "R"] * 6
    assert one(lambda: list(select(table, People(), Plain(repeats=("side",))))).code == "MANY_ROWS"


@pytest.mark.parametrize("by", ["mean", "median", "min", "max", "weighted"])
def test_aggregation_gives_what_pandas_gives(tmp_path: Path, by: str) -> None:
    rows = frame(ids(4), levels=("L3", "L4", "L5")).sample(frac=1, random_state=1)
    config = Plain(aggregate=Aggregate(over=("side", "level"), by=by))
    measures = {m.metric: m for m in select(long(tmp_path, rows), People(), config)}
    assert (measures["fa"].side, measures["fa"].level) == (f"{by}(L,R)", f"{by}(L3,L4,L5)")
    for metric, measure in measures.items():
        groups = rows[rows["metric"] == metric].groupby("participant_id")
        if by == "weighted":
            want = groups.apply(lambda g: np.average(g["value"], weights=g["n_voxels"]))
        else:
            want = groups["value"].agg(by)
        np.testing.assert_allclose(measure.frame["value"], want, rtol=1e-12)
        np.testing.assert_array_equal(measure.frame["n_voxels"], groups["n_voxels"].sum())


def test_an_aggregate_needs_all_its_parts_unless_any_will_do(tmp_path: Path) -> None:
    rows = frame(ids(3), levels=("L5",), metrics=("fa",))
    gone = (rows["participant_id"] == "sub-002") & (rows["side"] == "R")
    right = rows["value"][(rows["participant_id"] == "sub-002") & (rows["side"] == "L")].item()
    for broken in (rows[~gone], rows.assign(value=rows["value"].mask(gone))):
        table = long(tmp_path, broken)
        (strict,) = select(table, People(), Plain(aggregate=Aggregate(over=("side",))))
        assert strict.frame["participant_id"].tolist() == ["sub-001", "sub-003"]
        assert strict.absent == {"no value: lacks a part of mean(side)": ("sub-002",)}
        (loose,) = select(table, People(), Plain(aggregate=Aggregate(over=("side",), need="any")))
        assert loose.frame["value"].tolist()[1] == pytest.approx(right)


def test_sessions_are_aggregated_with_their_clinical_numbers(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(2), sessions=("ses-1", "ses-2"), sides=("L",), levels=("L5",)))
    who, when = np.repeat(ids(2), 2), ["1", "ses-2"] * 2
    scores = {"participant_id": who, "session_id": when, "odi": [10, 20, 30, 50], "arm": ["a", "a", "a", "b"]}
    clinical = read_people([write_tsv(tmp_path / "odi.tsv", scores)])
    config = Plain(covariates=("odi",), aggregate=Aggregate(over=("session_id",)))
    (fa, _) = select(table, clinical, config)
    assert fa.frame["odi"].tolist() == [15.0, 40.0]
    (fa, _) = select(table, clinical, config.model_copy(update={"group": "arm"}))
    assert fa.absent == {"no arm": ("sub-002",)}  # two words have no mean


def test_a_file_with_sessions_gives_each_session_its_own_value(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(2), sessions=("ses-1", "ses-2"), sides=("L",), levels=("L5",)))
    scores = {"participant_id": ["001", "001", "002"], "session_id": ["1", "2", "1"], "odi": [10, 20, 30]}
    clinical = read_people(
        [
            write_tsv(tmp_path / "participants.tsv", {"participant_id": ids(2), "age": [50, 60]}),
            write_tsv(tmp_path / "phenotype" / "odi.tsv", scores),
        ]
    )
    config = Plain(covariates=("odi", "age"), repeats=("session_id",))
    (fa, _) = select(table, clinical, config)
    assert fa.frame[["session_id", "odi", "age"]].to_numpy().tolist() == [
        ["ses-1", 10.0, 50.0],
        ["ses-2", 20.0, 50.0],
        ["ses-1", 30.0, 60.0],
    ]
    assert fa.absent == {"no odi": ("sub-002",)}


def test_the_affected_side_and_level_are_joined_only_here(tmp_path: Path) -> None:
    rows = frame(ids(5), metrics=("fa",))
    clinical = people(
        tmp_path,
        affected_side=["L", "right", "both", "n/a", "R"],
        affected_level=["L5", "L4", "L5", "n/a", "L4;L5"],
    )
    table = long(tmp_path, rows)

    def value(who: str, side: str, level: str) -> float:
        row = (rows["participant_id"] == who) & (rows["side"] == side) & (rows["level"] == level)
        return float(rows["value"][row].item())

    config = Plain(select=Select(side=("affected",), level=("affected",)))
    chosen = selection(table, clinical, config.model_copy(update={"repeats": ("level",)}))
    assert one(lambda: selection(table, clinical, config)).code == "MANY_ROWS"  # sub-005 has two
    assert [(one.reason, one.participants) for one in chosen.left] == [
        ("no affected side recorded", ("sub-004",)),
        ("both sides affected", ("sub-003",)),
    ]
    config = config.model_copy(update={"aggregate": Aggregate(over=("level",))})
    (measure,) = selection(table, clinical, config).measures
    want = [value("sub-001", "L", "L5"), value("sub-002", "R", "L4")]
    want.append((value("sub-005", "R", "L4") + value("sub-005", "R", "L5")) / 2)
    np.testing.assert_allclose(measure.frame["value"], want)

    both = Plain(select=Select(side=("affected", "unaffected"), level=("L5",)), repeats=("side",))
    (measure,) = select(table, clinical, both)
    assert measure.frame["side"].tolist() == ["affected", "unaffected"] * 3
    np.testing.assert_allclose(
        measure.frame["value"][:4],
        [
            value("sub-001", "L", "L5"),
            value("sub-001", "R", "L5"),
            value("sub-002", "R", "L5"),
            value("sub-002", "L", "L5"),
        ],
    )
    mixed = Plain(select=Select(side=("affected", "L")))
    assert one(lambda: selection(table, clinical, mixed)).code == "SELECT_AFFECTED"
    strange = people(tmp_path, affected_side=["L", "up", "R", "R", "R"])
    sided = Plain(select=Select(side=("affected",)))
    assert one(lambda: selection(table, strange, sided)).found == "up"


def test_only_some_people_take_part(tmp_path: Path) -> None:
    clinical = people(tmp_path, sex=["F", "M", "F"], stage=["1", "2", "3"])
    table = long(tmp_path, frame(ids(3)))
    chosen = selection(table, clinical, Plain(only={"sex": ("F",), "stage": ("1", "2")}))
    assert chosen.measures[0].frame["participant_id"].tolist() == ["sub-001"]
    assert chosen.left[0].participants == ("sub-002", "sub-003")
    assert chosen.measures[0].absent == {}
    found = one(lambda: selection(table, clinical, Plain(only={"sex": ("f",)})))
    assert (found.code, found.do) == ("GROUP_UNKNOWN", "did you mean F?")


def test_groups_that_differ_in_snr_or_motion_are_warned_of(tmp_path: Path) -> None:
    rows = frame(ids(40), sides=("L",), levels=("L5",), metrics=("fa",))
    groups = ["a", "b"] * 20
    quality = write_tsv(
        tmp_path / "qc_wide.tsv",
        {
            "participant_id": ids(40),
            "session_id": ["n/a"] * 40,
            "run": ["n/a"] * 40,
            "verdict": ["pass"] * 40,
            "motion_relative_mean_mm": [
                0.2 + 0.3 * (g == "b") + 0.01 * (i % 5) for i, g in enumerate(groups)
            ],
        },
    )
    clinical = read_people(
        [write_tsv(tmp_path / "participants.tsv", {"participant_id": ids(40), "g": groups})], quality
    )
    table = long(tmp_path, rows)
    (measure,) = select(table, clinical, Plain(group="g"))
    assert [warning.partition(":")[0] for warning in measure.warnings] == [
        "motion_relative_mean_mm differs between the groups"
    ]
    (measure,) = select(table, clinical, Plain(group="g", covariates=("motion_relative_mean_mm",)))
    assert measure.warnings[0].endswith("(a - b), adjusted for")
    assert measure.frame["motion_relative_mean_mm"].iloc[1] == pytest.approx(0.51)
    rows["snr"] += 3.0 * (np.array(groups) == "a")
    (measure,) = select(long(tmp_path, rows), clinical, Plain(group="g"))
    assert measure.warnings[0].startswith("snr differs between the groups: g = ")
    third = ["c" if i < 6 else g for i, g in enumerate(groups)]
    clinical = read_people([write_tsv(tmp_path / "p.tsv", {"participant_id": ids(40), "g": third})])
    (measure,) = select(long(tmp_path, rows), clinical, Plain(group="g", groups=("a", "c")))
    assert all("b" not in warning.rpartition("(")[2] for warning in measure.warnings)


def test_the_random_numbers_of_a_measure_do_not_depend_on_the_others(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(2)))
    all_of_them = {m.name: m.random(1).random() for m in select(table, People(), Plain())}
    (alone,) = select(table, People(), Plain(select=Select(metric=("md",), side=("R",), level=("L5",))))
    assert alone.random(1).random() == all_of_them[alone.name]
    assert len(set(all_of_them.values())) == 8


def test_only_the_metrics_asked_for_are_read(tmp_path: Path) -> None:
    long(tmp_path, frame(ids(2), statistics=("mean", "sd")))
    table = read_long(tmp_path / "segments.parquet", ["f*"], ["mean"])
    assert len(table) == 8
    assert {table.texts["metric"].words[i] for i in table.texts["metric"].codes} == {"fa"}


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    frame(ids(1)).to_parquet(tmp_path / "x.parquet")
    assert one(lambda: read_long(tmp_path / "x.parquet")).code == "TABLE_COLUMNS"
    (tmp_path / "y.parquet").write_text("no parquet")
    assert one(lambda: read_long(tmp_path / "y.parquet")).code == "TABLE_UNREADABLE"


def test_an_empty_table_selects_nothing_in_words(tmp_path: Path) -> None:
    table = long(tmp_path, frame(ids(1)).iloc[:0])
    assert {p.code for p in refused(lambda: list(select(table, People(), Plain())))} == {"SELECT_NOTHING"}


def visit(folder: Path, who: str, table: dict[str, Any]) -> Path:
    return write_tsv(folder / who / f"{who}_sessions.tsv", table)


def test_sessions_files_give_their_values_to_one_session_of_one_person(tmp_path: Path) -> None:
    first, second, third = ids(3)
    write_tsv(tmp_path / "participants.tsv", {"participant_id": ids(3), "sex": ["F", "M", "F"]})
    visit(tmp_path, first, {"session_id": ["ses-1", "2"], "edss": [1.5, 2.5], "drug": ["a", "n/a"]})
    visit(tmp_path, second, {"edss": [4], "session_id": ["ses-1"]})
    clinical = read_people(clinical_files(tmp_path, Cohort()).tables)
    rows = frame(ids(3), sessions=("ses-1", "ses-2"), sides=("L",), levels=("L5",), metrics=("fa",))
    config = Plain(covariates=("edss", "sex"), repeats=("session_id",))
    (measure,) = select(long(tmp_path, rows), clinical, config)
    told = measure.frame.set_index(["participant_id", "session_id"])["edss"].to_dict()
    assert told == {(first, "ses-1"): 1.5, (first, "ses-2"): 2.5, (second, "ses-1"): 4.0}
    assert measure.absent["no edss"] == (second, third)
    assert clinical.levels("sessions.drug", "here") == ["a"]


def test_mistakes_of_sessions_files_are_named_together(tmp_path: Path) -> None:
    first, second, third = (
        visit(tmp_path, "sub-1", {"session": ["ses-1"]}),
        visit(tmp_path, "sub-2", {"session_id": ["ses-1", "1"], "x": [1, 2]}),
        visit(tmp_path, "sub-3", {"session_id": ["ses-1"], "x": [1]}),
    )
    found = refused(lambda: read_people([first, second, third]))
    assert [problem.code for problem in found] == ["PEOPLE_TABLE", "PARTICIPANT_TWICE"]
    assert "session_id" in found[0].what
    assert "sub-2_sessions.tsv" in found[1].where


def test_a_column_of_participants_and_of_sessions_is_written_with_its_file(tmp_path: Path) -> None:
    table = write_tsv(tmp_path / "participants.tsv", {"participant_id": ["sub-1"], "age": [40]})
    people_ = read_people([table, visit(tmp_path, "sub-1", {"session_id": ["ses-1"], "age": [41]})])
    problem = one(lambda: people_.find("age", "here"))
    assert problem.do == "write one of participants.age, sessions.age"
    key = ("sub-1", "ses-1", "")
    assert [people_.values(f"{name}.age", [key], "here")[0] for name in ("participants", "sessions")] == [
        "40",
        "41",
    ]
