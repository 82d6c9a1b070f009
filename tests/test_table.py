"""The step `table`: the long, the Parquet and the wide table of a cohort."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from somite import long_table, registry, segments, sensitivity, wide_table
from somite.errors import DatasetError
from somite.interfaces import table
from somite.registry import Context
from somite.segments import COLUMNS, METRICS, Segment, write_table

PLACES = (
    Segment("nerve_root", "R", "L5", "foraminal_drg"),
    Segment("canal", "midline"),
    Segment("gracilis", "L", "", "proximal"),
)
NUMBERS = {column.name for column in segments.SCHEMA if column.kind != "text"}

ROWS = sum(len(about.statistics) for about in METRICS.values())
"""Of a segment with every metric."""

Row = dict[str, object]


def session_rows(
    participant: str, seed: int, places: Iterable[Segment] = PLACES, **more: object
) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for place, (metric, about) in product(places, METRICS.items()):
        for statistic in about.statistics:
            value, se = rng.normal(size=2)
            rows.append(
                {
                    "participant_id": participant,
                    "site": "A",
                    "region": place.region,
                    "side": place.side,
                    "level": place.level,
                    "segment": place.segment,
                    "metric": metric,
                    "statistic": statistic,
                    "value": float(value),
                    "se": float(se),
                    "unit": about.unit,
                    "n_voxels": int(rng.integers(3, 500)),
                    "volume_mm3": 1e-7,
                    "qc_status": "pass",
                    **more,
                }
            )
    return rows


def unmeasured(participant: str) -> list[Row]:
    return [{"participant_id": participant, "qc_status": "fail", "reason": "no label image"}]


def run(folder: Path, *paths: Path) -> tuple[dict[str, Path], Context]:
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(folder)
    return registry.discover()["table"](table.Config(), context, stats=paths), context


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    header, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    names = header.split("\t")
    return names, [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


def problem_of(folder: Path, *paths: Path) -> list[tuple[str, str]]:
    with pytest.raises(DatasetError) as caught:
        run(folder, *paths)
    return [(problem.code, Path(problem.where).name) for problem in caught.value.problems]


@pytest.fixture
def cohort(tmp_path: Path) -> list[Path]:
    sessions = [
        session_rows("sub-02", 2, session_id="ses-b"),
        session_rows("sub-02", 3, session_id="ses-a", reason='"one\' with "quotes'),
        unmeasured("sub-03"),
        session_rows("sub-01", 1, PLACES[:0:-1]),
    ]
    return [write_table(tmp_path / f"{i}_stats.tsv", rows) for i, rows in enumerate(sessions)]


def test_the_long_table_holds_all_rows_session_by_session(tmp_path: Path, cohort: list[Path]) -> None:
    made, context = run(tmp_path / "out", *cohort)
    names, rows = read(made["segments_table"])
    assert tuple(names) == COLUMNS
    expected = [row for i in (3, 1, 0, 2) for row in read(cohort[i])[1]]
    assert len(rows) == len(expected) == 8 * ROWS + 1
    for row, other in zip(rows, expected, strict=True):
        for name in COLUMNS:
            if name in NUMBERS and row[name] != "n/a":
                assert float(row[name]) == float(other[name])
            else:
                assert row[name] == other[name]
    assert context.numbers == {"sessions": 4, "rows": 8 * ROWS + 1}


def test_parquet_holds_the_same_with_types(tmp_path: Path, cohort: list[Path]) -> None:
    made, _ = run(tmp_path / "out", *cohort)
    found = pq.read_table(made["segments_parquet"])
    assert tuple(found.column_names) == COLUMNS
    kinds = {"text": "string", "number": "double", "count": "int64"}
    assert [str(kind) for kind in found.schema.types] == [kinds[column.kind] for column in segments.SCHEMA]
    assert found.schema.field("volume_mm3").metadata[b"units"] == b"mm3"
    _, rows = read(made["segments_table"])
    for row, typed in zip(rows, found.to_pylist(), strict=True):
        for name in COLUMNS:
            if row[name] == "n/a":
                assert typed[name] is None
            else:
                assert typed[name] == (float(row[name]) if name in NUMBERS else row[name])


def test_the_wide_table_is_the_long_one_turned(tmp_path: Path, cohort: list[Path]) -> None:
    made, _ = run(tmp_path / "out", *cohort)
    names, rows = read(made["segments_wide"])
    assert tuple(names[: len(long_table.SESSION)]) == long_table.SESSION
    assert [(row["participant_id"], row["session_id"]) for row in rows] == [
        ("sub-01", "n/a"),
        ("sub-02", "ses-a"),
        ("sub-02", "ses-b"),
        ("sub-03", "n/a"),
    ]
    expected: dict[tuple[str, str, str], str] = {}
    for row in read(made["segments_table"])[1]:
        if row["metric"] != "n/a":
            parts = [row[name].replace("n/a", "") for name in wide_table.MEASURE]
            column = "__".join(parts).rstrip("_")
            expected[row["participant_id"], row["session_id"], column] = row["value"]
    columns = names[len(long_table.SESSION) :]
    assert {column for _, _, column in expected} == set(columns)
    for row in rows:
        for column in columns:
            assert row[column] == expected.get((row["participant_id"], row["session_id"], column), "n/a")
    assert rows[0]["fa__mean__nerve_root__R__L5__foraminal_drg"] == "n/a"
    assert rows[0]["md__iqr__gracilis__L____proximal"] != "n/a"


def test_wide_columns_go_by_segment_then_metric_then_statistic(tmp_path: Path, cohort: list[Path]) -> None:
    made, _ = run(tmp_path / "out", *cohort)
    columns = read(made["segments_wide"])[0][len(long_table.SESSION) :]
    assert [wide_table.measure_of(column)[2] for column in columns] == (
        ["canal"] * ROWS + ["gracilis"] * ROWS + ["nerve_root"] * ROWS
    )
    own = [(m, s) for m, about in METRICS.items() for s in about.statistics]
    assert [wide_table.measure_of(column)[:2] for column in columns[:ROWS]] == own


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (
            ("fa", "mean", "nerve_root", "R", "L5", "foraminal_drg", ""),
            "fa__mean__nerve_root__R__L5__foraminal_drg",
        ),
        (("md", "sd", "canal", "midline", "", "", ""), "md__sd__canal__midline"),
        (("md", "sd", "gracilis", "L", "", "proximal", ""), "md__sd__gracilis__L____proximal"),
        (("rd", "iqr", "CST_R", "", "", "", ""), "rd__iqr__CST_R"),
        (("ad", "median", "x", "", "", "y", ""), "ad__median__x______y"),
        (("fa", "mean", "CST", "L", "", "", "tract"), "fa__mean__CST__L______tract"),
    ],
)
def test_names_of_wide_columns_can_be_turned_back(measure: tuple[str, ...], name: str) -> None:
    assert wide_table.wide_name(measure) == name
    assert wide_table.measure_of(name) == measure


def test_the_dictionary_holds_the_columns_of_both_tables(tmp_path: Path, cohort: list[Path]) -> None:
    made, _ = run(tmp_path / "out", *cohort)
    entries = json.loads(made["segments_dictionary"].read_text())
    assert set(entries) == {*COLUMNS, *read(made["segments_wide"])[0]}
    assert entries["md__median__canal__midline"] == {
        "Description": "Mean diffusivity (apparent diffusion coefficient, trace/3): median in canal midline",
        "Units": "1e-3 mm2/s",
        "Metric": "md",
        "Statistic": "median",
        "Region": "canal",
        "Side": "midline",
    }


def test_the_order_of_the_files_does_not_matter(tmp_path: Path, cohort: list[Path]) -> None:
    first, _ = run(tmp_path / "one", *cohort)
    second, _ = run(tmp_path / "two", *reversed(cohort))
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: path.read_bytes() for name, path in second.items()
    }


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    rows = session_rows("sub-01", 0)
    path = write_table(tmp_path / "stats.tsv", rows)
    exact = [0.1 + 0.2, 1e-300, 123456789.123456789, 5e-324]
    lines = path.read_text().splitlines()
    for i, number in enumerate(exact, start=1):
        fields = lines[i].split("\t")
        fields[COLUMNS.index("value")] = repr(number)
        lines[i] = "\t".join(fields)
    path.write_text("\n".join(lines) + "\n")
    made, _ = run(tmp_path / "out", path)
    assert [float(row["value"]) for row in read(made["segments_table"])[1][:4]] == exact
    assert pq.read_table(made["segments_parquet"])["value"].to_pylist()[:4] == exact
    assert {float(read(made["segments_wide"])[1][0][c]) for c in read(made["segments_wide"])[0][33:37]} <= {
        float(row["value"]) for row in read(made["segments_table"])[1]
    }


def test_two_raters_are_two_rows(tmp_path: Path) -> None:
    paths = [
        write_table(tmp_path / f"{name}.tsv", session_rows("sub-01", i, rater=name))
        for i, name in enumerate(("ann", "bob"))
    ]
    made, _ = run(tmp_path / "out", *paths)
    assert [row["rater"] for row in read(made["segments_wide"])[1]] == ["ann", "bob"]


def test_without_sessions_the_tables_have_columns_and_no_rows(tmp_path: Path) -> None:
    made, context = run(tmp_path / "out")
    assert made["segments_table"].read_text() == "\t".join(COLUMNS) + "\n"
    assert made["segments_wide"].read_text() == "\t".join(long_table.SESSION) + "\n"
    assert pq.read_table(made["segments_parquet"]).shape == (0, len(COLUMNS))
    assert tuple(json.loads(made["segments_dictionary"].read_text())) == COLUMNS
    assert context.numbers == {"sessions": 0, "rows": 0}


def test_files_as_a_spreadsheet_writes_them(tmp_path: Path, cohort: list[Path]) -> None:
    plain, _ = run(tmp_path / "plain", *cohort)
    for path in cohort:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    again, _ = run(tmp_path / "again", *cohort)
    assert again["segments_table"].read_bytes() == plain["segments_table"].read_bytes()
    assert again["segments_parquet"].read_bytes() == plain["segments_parquet"].read_bytes()


def edited(path: Path, line: int, column: str, text: str) -> None:
    lines = path.read_text().splitlines()
    fields = lines[line].split("\t")
    fields[COLUMNS.index(column)] = text
    lines[line] = "\t".join(fields)
    path.write_text("\n".join(lines) + "\n")


def test_other_columns_are_refused_for_all_files_at_once(tmp_path: Path, cohort: list[Path]) -> None:
    edited(cohort[0], 0, "value", "Value")
    cohort[2].write_text(cohort[2].read_text().replace("value\tse\t", "se\tvalue\t", 1))
    with pytest.raises(DatasetError) as caught:
        run(tmp_path / "out", *cohort)
    first, second = caught.value.problems
    assert first.code == second.code == "TABLE_COLUMNS"
    assert (Path(first.where).name, first.found) == ("0_stats.tsv", "absent: value; not known: Value")
    assert (Path(second.where).name, second.found) == ("2_stats.tsv", "another order, or a column twice")


def test_values_that_are_no_numbers_are_refused_for_all_files_at_once(
    tmp_path: Path, cohort: list[Path]
) -> None:
    edited(cohort[0], 5, "value", "0,25")
    edited(cohort[3], 7, "n_voxels", "3.5")
    assert problem_of(tmp_path / "out", *cohort) == [
        ("TABLE_VALUE", "3_stats.tsv"),
        ("TABLE_VALUE", "0_stats.tsv"),
    ]


def test_a_row_that_is_cut_off_is_refused(tmp_path: Path, cohort: list[Path]) -> None:
    cohort[0].write_text(cohort[0].read_text()[:-60])
    assert problem_of(tmp_path / "out", *cohort) == [("TABLE_VALUE", "0_stats.tsv")]


@pytest.mark.parametrize("text", ["\t".join(COLUMNS) + "\n", "\t".join(COLUMNS) + "\nsub-01\n"])
def test_a_file_without_a_row_is_refused(tmp_path: Path, cohort: list[Path], text: str) -> None:
    cohort[1].write_text(text)
    assert problem_of(tmp_path / "out", *cohort) == [("TABLE_EMPTY", "1_stats.tsv")]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, cohort: list[Path]) -> None:
    assert problem_of(tmp_path / "out", *cohort, tmp_path / "absent.tsv") == [
        ("TABLE_UNREADABLE", "absent.tsv")
    ]


def test_a_session_in_two_files_is_refused(tmp_path: Path, cohort: list[Path]) -> None:
    assert problem_of(tmp_path / "out", *cohort, cohort[0]) == [("TABLE_DUPLICATE", "0_stats.tsv")]


def test_two_sessions_in_one_file_are_refused(tmp_path: Path, cohort: list[Path]) -> None:
    edited(cohort[0], 9, "participant_id", "sub-99")
    assert problem_of(tmp_path / "out", *cohort) == [("TABLE_SESSION", "0_stats.tsv")]


def test_a_row_that_stands_twice_is_refused(tmp_path: Path) -> None:
    rows = session_rows("sub-01", 1)
    path = write_table(tmp_path / "stats.tsv", [*rows, rows[3]])
    with pytest.raises(DatasetError, match="TABLE_DUPLICATE: two rows hold fa__iqr__nerve_root__R__L5"):
        run(tmp_path / "out", path)


def test_one_column_of_the_wide_table_has_one_unit(tmp_path: Path) -> None:
    paths = [
        write_table(tmp_path / "a.tsv", session_rows("sub-01", 1)),
        write_table(tmp_path / "b.tsv", session_rows("sub-02", 1, unit="mm2/s")),
    ]
    with pytest.raises(DatasetError, match="TABLE_UNIT: fa__mean__nerve_root") as caught:
        run(tmp_path / "out", *paths)
    assert caught.value.problems[0].where == str(paths[1])


def test_sessions_fill_several_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_table, "ROWS_PER_GROUP", 4 * ROWS)
    paths = [write_table(tmp_path / f"{i}.tsv", session_rows(f"sub-{i:02}", i)) for i in range(5)]
    made, _ = run(tmp_path / "out", *paths)
    found: Mapping[str, list[object]] = pq.read_table(made["segments_parquet"]).to_pydict()
    assert pq.ParquetFile(made["segments_parquet"]).num_row_groups == 3
    assert found["participant_id"] == [f"sub-{i:02}" for i in range(5) for _ in range(3 * ROWS)]


def test_tracts_stand_beside_labels_of_the_same_name(tmp_path: Path) -> None:
    place = PLACES[0]
    rows = session_rows("sub-01", 1, [place], extraction="label")
    rows += session_rows("sub-01", 2, [place], extraction="tract", weighting="density")
    made, _ = run(tmp_path / "out", write_table(tmp_path / "stats.tsv", rows))
    names, (row,) = read(made["segments_wide"])
    assert len(names) == len(long_table.SESSION) + 2 * ROWS
    for column, source in (
        ("fa__mean__nerve_root__R__L5__foraminal_drg", rows[0]),
        ("fa__mean__nerve_root__R__L5__foraminal_drg__tract", rows[ROWS]),
    ):
        assert float(row[column]) == pytest.approx(source["value"], rel=1e-8)


def derived_rows(participant: str) -> list[Row]:
    shared: Row = {"participant_id": participant, "site": "A", "extraction": "label", "qc_status": "pass"}
    row = {"region": "gracilis", "metric": "fa_asymmetry", "statistic": "mean", "value": 0.25, "unit": "1"}
    return [shared | row]


def test_comparisons_join_the_wide_table_and_have_a_long_one(tmp_path: Path) -> None:
    paths = [write_table(tmp_path / f"{i}.tsv", session_rows(f"sub-0{i}", i)) for i in (1, 2)]
    derived = write_table(tmp_path / "derived.tsv", derived_rows("sub-02"))
    context = Context(tmp_path)
    made = registry.discover()["table"](table.Config(), context, stats=tuple(paths), derived=(derived,))
    values = [row["fa_asymmetry__mean__gracilis"] for row in read(made["segments_wide"])[1]]
    assert values == ["n/a", "0.25"]
    assert len(read(made["segments_table"])[1]) == 6 * ROWS
    (row,) = read(made["derived_table"])[1]
    assert (row["participant_id"], row["metric"], row["value"]) == ("sub-02", "fa_asymmetry", "0.25")
    entry = json.loads(made["segments_dictionary"].read_text())["fa_asymmetry__mean__gracilis"]
    assert entry["Description"].startswith("Fractional anisotropy: left-right asymmetry index")


def test_comparisons_without_their_segments_are_refused(tmp_path: Path) -> None:
    stats = write_table(tmp_path / "1.tsv", session_rows("sub-01", 1))
    derived = write_table(tmp_path / "derived.tsv", derived_rows("sub-02"))
    with pytest.raises(DatasetError, match="TABLE_SESSION"):
        registry.discover()["table"](table.Config(), Context(tmp_path), stats=(stats,), derived=(derived,))


def test_variants_go_to_a_parquet_file_of_their_own(tmp_path: Path) -> None:
    stats = write_table(tmp_path / "1.tsv", session_rows("sub-01", 1))
    rows = [
        {"participant_id": "sub-01", "site": "A", "region": "canal", "metric": "fa", "statistic": "mean"}
        | {"variant": name, "value": 0.1, "difference": -0.01}
        for name in sensitivity.VARIANTS
    ]
    path = write_table(tmp_path / "sensitivity.tsv", rows, sensitivity.SENSITIVITY_SCHEMA)
    made = registry.discover()["table"](
        table.Config(), Context(tmp_path), stats=(stats,), sensitivity=(path,)
    )
    found = pq.read_table(made["sensitivity_parquet"])
    assert tuple(found.column_names) == tuple(column.name for column in sensitivity.SENSITIVITY_SCHEMA)
    assert found["variant"].to_pylist() == list(sensitivity.VARIANTS)
    assert set(json.loads(made["sensitivity_dictionary"].read_text())) == set(found.column_names)
