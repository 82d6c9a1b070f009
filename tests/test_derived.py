"""Comparisons of segments: values, errors against simulation, partners that lack, and the spine's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from somite import derived, registry
from somite.derived import Value
from somite.estimates import Estimate
from somite.interfaces import derived as compare
from somite.measure import Row, not_measured
from somite.registry import Context
from somite.segments import COLUMNS, Segment, write_table

LEFT, RIGHT = Value(0.40, 0.010, 40), Value(0.30, 0.012, 25)


def test_values_by_hand() -> None:
    assert derived.asymmetry(LEFT, RIGHT).value == pytest.approx(2 * 0.1 / 0.7)
    assert derived.difference(LEFT, RIGHT).value == pytest.approx(0.1)
    assert derived.ratio(LEFT, RIGHT).value == pytest.approx(4 / 3)
    three = [Value(x, 0.01, 20) for x in (0.25, 0.31, 0.40)]
    found = derived.gradient(three)
    assert found.value == pytest.approx(np.polyfit([0, 1, 2], [0.25, 0.31, 0.40], 1)[0])
    assert found.se == pytest.approx(0.01 / math.sqrt(2))


@pytest.mark.parametrize("function", [derived.asymmetry, derived.difference, derived.ratio])
def test_standard_errors_are_those_of_a_simulation(function: Callable[[Value, Value], Estimate]) -> None:
    rng = np.random.default_rng(0)
    left = rng.normal(LEFT.value, LEFT.se, 20000)
    right = rng.normal(RIGHT.value, RIGHT.se, 20000)
    simulated = [function(Value(x, 0, 9), Value(y, 0, 9)).value for x, y in zip(left, right, strict=True)]
    assert function(LEFT, RIGHT).se == pytest.approx(np.std(simulated), rel=0.03)


def test_the_interval_of_a_difference_is_that_of_welch() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    x, y = rng.normal(0.4, 0.05, 12), rng.normal(0.3, 0.02, 30)
    one, other = (Value(v.mean(), v.std(ddof=1) / math.sqrt(v.size), v.size) for v in (x, y))
    low, high = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    found = derived.difference(one, other)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), rel=1e-9)


def test_division_by_zero_has_no_value() -> None:
    zero = Value(0.0, 0.1, 5)
    assert math.isnan(derived.ratio(LEFT, zero).value)
    assert math.isnan(derived.asymmetry(zero, zero).value)
    assert math.isnan(derived.difference(Value(1, math.nan, 1), LEFT).se)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (["S1", "L3", "L5", "L4"], {"L3": "", "L4": "L3", "L5": "L4", "S1": "L5"}),
        (["L5", "L6", "S1"], {"L5": "", "L6": "L5", "S1": "L6"}),
        (["L3", "L5", "S1"], {"L3": "", "L5": "", "S1": "L5"}),
        (["L3-L4", "L5-S1", "L4-L5"], {"L3-L4": "", "L4-L5": "L3-L4", "L5-S1": "L4-L5"}),
        (["L4-L5", "L6-S1", "L5-L6"], {"L4-L5": "", "L5-L6": "L4-L5", "L6-S1": "L5-L6"}),
        (["L3-L4", "L5-S1"], {"L3-L4": "", "L5-S1": ""}),
        (["T12", "L1", "upper"], {"T12": "", "L1": "T12", "upper": ""}),
        (["C7", "T1"], {"C7": "", "T1": "C7"}),
    ],
)
def test_the_next_level_above(levels: list[str], expected: dict[str, str]) -> None:
    assert derived.levels_above(levels) == expected


def row(place: Segment, value: float | None, metric: str = "fa", **more: object) -> Row:
    common: Row = {
        "participant_id": "sub-01",
        "site": "A",
        "region": place.region,
        "side": place.side,
        "level": place.level,
        "segment": place.segment,
        "metric": metric,
        "statistic": "mean",
        "extraction": "label",
        "n_voxels": 30,
        "n_effective": 30,
        "qc_status": "pass",
    }
    own = not_measured("no label") if value is None else {"value": value, "se": 0.01}
    return common | own | more


def read(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text().splitlines()
    assert tuple(header.split("\t")) == COLUMNS
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines]


def compared(folder: Path, rows: Sequence[Row], **options: object) -> list[dict[str, str]]:
    path = write_table(folder / "segments.tsv", rows)
    config = compare.Config.model_validate(options)
    made = registry.discover()["derived"](config, Context(folder), segments=path)
    return read(made["derived"])


def only(rows: list[dict[str, str]], metric: str, **where: str) -> dict[str, str]:
    (found,) = (r for r in rows if r["metric"] == metric and all(r[k] == v for k, v in where.items()))
    return found


def test_sides_levels_and_gradients_of_roots(tmp_path: Path) -> None:
    zones = ("intraspinal", "foraminal_drg", "extraforaminal")
    values = {
        Segment("nerve_root", side, level, zone): 0.3
        + 0.02 * i
        + 0.05 * (side == "L")
        - 0.01 * (level == "L5")
        for side in "LR"
        for level in ("L4", "L5")
        for i, zone in enumerate(zones)
    }
    rows = compared(tmp_path, [row(place, value) for place, value in values.items()])
    assert len(rows) == 6 + 2 * 12 + 4
    found = only(rows, "fa_asymmetry", level="L4", segment="foraminal_drg")
    assert float(found["value"]) == pytest.approx(2 * 0.05 / (0.37 + 0.32))
    assert (found["side"], found["unit"], found["n_voxels"]) == ("n/a", "1", "60")
    assert float(found["ci_low"]) < float(found["value"]) < float(found["ci_high"])
    found = only(rows, "fa_level_difference", level="L5", side="R", segment="intraspinal")
    assert float(found["value"]) == pytest.approx(-0.01)
    found = only(rows, "fa_level_ratio", level="L5", side="R", segment="intraspinal")
    assert float(found["value"]) == pytest.approx(0.29 / 0.30)
    top = only(rows, "fa_level_ratio", level="L4", side="R", segment="intraspinal")
    assert (top["value"], top["reason"]) == ("n/a", "the level above is not in the table")
    found = only(rows, "fa_gradient", level="L5", side="L")
    assert float(found["value"]) == pytest.approx(0.02)
    assert (found["segment"], found["unit"], found["n_voxels"]) == ("n/a", "1 per segment", "90")
    keys = [tuple(r[name] for name in ("metric", "side", "level", "segment")) for r in rows]
    assert len(set(keys)) == len(keys)


def test_a_partner_that_lacks_is_a_reason(tmp_path: Path) -> None:
    one = Segment("gracilis", "L", "", "proximal")
    rows = compared(
        tmp_path,
        [
            row(one, 0.3),
            row(Segment("sartorius", "R"), 0.3),
            row(Segment("soleus", "L"), 0.3),
            row(Segment("soleus", "R"), None),
            row(Segment("canal", "midline"), 0.1),
        ],
    )
    reasons = {(r["region"], r["metric"]): r["reason"] for r in rows}
    assert reasons == {
        ("gracilis", "fa_asymmetry"): "no segment on the other side",
        ("gracilis", "fa_gradient"): "middle, distal not in the table",
        ("sartorius", "fa_asymmetry"): "no segment on the other side",
        ("soleus", "fa_asymmetry"): "no value of soleus R: no label",
    }
    assert {r["qc_status"] for r in rows} == {"fail"}


def test_a_doubtful_part_makes_a_doubtful_comparison(tmp_path: Path) -> None:
    rows = [row(Segment("soleus", "L"), 0.3, qc_status="warn"), row(Segment("soleus", "R"), 0.3)]
    (found,) = compared(tmp_path, rows)
    assert (found["qc_status"], found["qc_flags"], float(found["value"])) == ("warn", "parts=warn", 0)


def test_tracts_are_not_compared_with_labels(tmp_path: Path) -> None:
    rows = [
        row(Segment("CST", "L"), 0.5),
        row(Segment("CST", "R"), 0.4),
        row(Segment("CST", "L"), 0.6, extraction="tract"),
        row(Segment("CST", "R"), 0.6, extraction="tract"),
    ]
    found = compared(tmp_path, rows)
    assert [(r["extraction"], float(r["value"])) for r in found] == [
        ("label", pytest.approx(2 * 0.1 / 0.9)),
        ("tract", 0),
    ]


def test_a_session_without_segments_has_one_row(tmp_path: Path) -> None:
    (found,) = compared(tmp_path, [{"participant_id": "sub-01"} | not_measured("no label image")])
    assert found["participant_id"] == "sub-01"
    assert "no segment has a side" in found["reason"]
