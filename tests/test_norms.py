"""Reference values: shipped, read, matched, made from controls; and the affected side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from somite import norms, registry
from somite.errors import DatasetError
from somite.interfaces import affected as affected_step
from somite.interfaces import norms as norms_step
from somite.interfaces import reference as reference_step
from somite.metrics import METRICS
from somite.norms import Norm, Sample
from somite.registry import Context
from somite.segments import write_table

Row = dict[str, object]
ROOT = {"region": "nerve_root", "side": "L", "level": "L5", "segment": "", "extraction": "label"}


def row(
    participant: str, value: float, place: Mapping[str, str] = ROOT, metric: str = "fa", **more: object
) -> Row:
    unit = METRICS[metric].unit  # type: ignore[index]
    return {
        "participant_id": participant,
        "site": "A",
        "protocol": "lumbar",
        **place,
        "metric": metric,
        "statistic": "mean",
        "value": value,
        "se": 0.01,
        "unit": unit,
        "n_voxels": 30,
        "n_effective": 30.0,
        "qc_status": "pass",
        "pipeline_version": "1",
        **more,
    }


def clinical(folder: Path, people: Sequence[Mapping[str, object]]) -> Path:
    path = folder / "participants.tsv"
    pd.DataFrame(people).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def run(step: str, folder: Path, rows: Sequence[Row], **options: object) -> tuple[pd.DataFrame, Context]:
    folder.mkdir(parents=True, exist_ok=True)
    table = write_table(folder / "segments.tsv", rows)
    products = {key: value for key, value in options.items() if isinstance(value, Path)}
    config = {key: value for key, value in options.items() if not isinstance(value, Path)}
    module = {"norms": norms_step, "reference": reference_step, "affected": affected_step}[step]
    context = Context(folder)
    made = registry.discover()[step](
        module.Config.model_validate(config), context, segments_table=table, **products
    )
    return pd.read_csv(made[step], sep="\t", na_values=["n/a"], keep_default_na=False), context


def test_the_shipped_values_are_those_of_the_publications() -> None:
    found = norms.shipped()
    assert len(found) > 25
    assert {norm.portable for norm in found} == {"no"}
    assert all(norm.source and norm.protocol and norm.metric in METRICS for norm in found)
    assert all(norm.unit == METRICS[norm.metric].unit for norm in found)  # type: ignore[index]
    place = ROOT | {"metric": "fa", "statistic": "mean"}
    assert [(norm.mean, norm.sd, norm.n) for norm in norms.chosen(found, place)] == [
        (0.390, 0.122, 20),
        (0.332, 0.051, 50),
    ]
    drg = place | {"level": "L4", "segment": "foraminal_drg"}
    assert [(norm.mean, norm.source) for norm in norms.chosen(found, drg)] == [(0.287, "10.1002/nbm.2902")]


def test_only_the_left_was_published_for_the_left() -> None:
    place = ROOT | {"segment": "intraspinal", "metric": "fa", "statistic": "mean"}
    assert len(norms.chosen(norms.shipped(), place)) == 1
    assert not norms.chosen(norms.shipped(), place | {"side": "R"})


def test_a_score_by_hand_and_by_the_prediction_interval_of_t() -> None:
    norm = Norm("a", "", "", "", "fa", mean=0.4, sd=0.05, n=20)
    found = norms.score(0.3, norm)
    assert found.z == pytest.approx(-2)
    t = -2 / math.sqrt(1 + 1 / 20)
    assert found.z_prediction == pytest.approx(stats.norm.ppf(stats.t.cdf(t, 19)))
    assert math.isnan(norms.score(0.3, replace(norm, n=math.nan)).z_prediction)
    assert "no standard deviation" in norms.score(0.3, replace(norm, sd=math.nan)).reason


def test_prediction_scores_of_new_people_are_standard_normal() -> None:
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(1500):
        age, male = rng.uniform(20, 70, 12), rng.integers(0, 2, 12).astype(float)
        male[:2] = 0, 1
        y = 0.4 - 0.002 * age + 0.02 * male + rng.normal(0, 0.03, 12)
        norm = Norm("a", "", "", "", "fa", **norms.build(Sample(y, age, male)))  # type: ignore[arg-type]
        old, sex = rng.uniform(20, 80), float(rng.integers(0, 2))
        value = 0.4 - 0.002 * old + 0.02 * sex + rng.normal(0, 0.03)
        scores.append(norms.score(value, norm, old, sex).z_prediction)
    assert stats.kstest(scores, "norm").pvalue > 0.01
    assert np.std(scores) == pytest.approx(1, abs=0.05)


def test_adjustment_is_that_of_a_regression() -> None:
    rng = np.random.default_rng(1)
    age, male = rng.uniform(20, 70, 30), rng.integers(0, 2, 30).astype(float)
    y = 0.4 - 0.002 * age + 0.02 * male + rng.normal(0, 0.03, 30)
    found = norms.build(Sample(y, age, male))
    design = np.column_stack([np.ones(30), age, male])
    beta, residual, _, _ = np.linalg.lstsq(design, y, rcond=None)
    assert (found["age_slope"], found["male_effect"]) == pytest.approx((beta[1], beta[2]))
    assert found["sd"] == pytest.approx(math.sqrt(residual[0] / 27))
    assert found["mean"] == pytest.approx(y.mean())
    norm = Norm("a", "", "", "", "fa", **found)  # type: ignore[arg-type]
    new = np.array([1, 81.0, 1.0])
    scored = norms.score(0.2, norm, 81.0, 1.0)
    assert scored.expected == pytest.approx(new @ beta)
    se = math.sqrt(residual[0] / 27 * (1 + new @ np.linalg.inv(design.T @ design) @ new))
    t = (0.2 - new @ beta) / se
    assert scored.z_prediction == pytest.approx(stats.norm.ppf(stats.t.cdf(t, 27)))
    line = stats.linregress(age, y)
    assert norms.build(Sample(y, age))["age_slope"] == pytest.approx(line.slope)


def test_without_age_of_everyone_there_is_no_adjustment() -> None:
    y, age = np.array([0.3, 0.4, 0.5, 0.35, 0.45]), np.array([30, 40, np.nan, 50, 60.0])
    found = norms.build(Sample(y, age, np.ones(5)))
    assert set(found) == {"mean", "sd", "n"}
    assert found["sd"] == pytest.approx(pd.Series(y).std())
    collinear = norms.build(Sample(y, np.array([20, 40, 20, 40, 40.0]), np.array([0, 1, 0, 1, 1.0])))
    assert "male_effect" not in collinear
    assert "age_slope" in collinear


def cohort(n: int = 8) -> tuple[list[Row], list[dict[str, object]]]:
    rng = np.random.default_rng(2)
    people = [
        {"participant_id": f"sub-{i:02}", "group": "control", "age": 30 + 3 * i, "sex": "MF"[i % 2]}
        for i in range(n)
    ]
    people.append({"participant_id": "sub-99", "group": "patient", "age": 50, "sex": "M"})
    rows = [row(str(p["participant_id"]), float(rng.normal(0.4, 0.03))) for p in people]
    rows.append(row("sub-00", 0.4, session_id="ses-2"))
    rows.append(row("sub-01", 9.0, ROOT | {"side": "R"}))
    return rows, people


def test_controls_make_a_reference_that_can_be_given_back(tmp_path: Path) -> None:
    rows, people = cohort()
    table, context = run("norms", tmp_path, rows, clinical=clinical(tmp_path, people), adjust=False)
    (found,) = table.to_dict("records")
    frame = pd.DataFrame(rows)
    left = frame[(frame["side"] == "L") & (frame["participant_id"] != "sub-99")]
    means = left.groupby("participant_id")["value"].mean()
    assert found["mean"] == pytest.approx(means.mean())
    assert found["sd"] == pytest.approx(means.std())
    assert found["n"] == 8
    assert context.numbers["measures_with_too_few_controls"] == 1
    again = norms.read_norms(tmp_path / "norms.tsv")
    assert [(norm.region, norm.level, norm.protocol) for norm in again] == [("nerve_root", "L5", "lumbar")]
    given = tmp_path / "mine.tsv"
    given.write_bytes((tmp_path / "norms.tsv").read_bytes())
    scored, _ = run("reference", tmp_path / "scores", rows, norms_given=given, shipped=False)
    patient = scored[scored["participant_id"] == "sub-99"].iloc[0]
    assert patient["z"] == pytest.approx((patient["value"] - means.mean()) / means.std())
    assert "same protocol" in patient["caveat"]


def test_age_and_sex_are_adjusted_and_asked_for(tmp_path: Path) -> None:
    rows, people = cohort()
    table = clinical(tmp_path, people)
    found, _ = run("norms", tmp_path, rows, clinical=table)
    assert found["age_slope"].iloc[0] != 0
    assert found["male_share"].iloc[0] == 0.5
    given = tmp_path / "mine.tsv"
    given.write_bytes((tmp_path / "norms.tsv").read_bytes())
    blind, _ = run("reference", tmp_path / "blind", rows, norms_given=given, shipped=False)
    assert blind["z"].isna().all()
    assert blind["reason"].str.contains("age is not known").all()
    scored, _ = run("reference", tmp_path / "known", rows, norms_given=given, shipped=False, clinical=table)
    assert scored["z"].notna().all()


def test_published_values_carry_their_caveat(tmp_path: Path) -> None:
    scored, _ = run("reference", tmp_path, [row("sub-01", 0.268), row("sub-01", 1.534, metric="md")])
    assert set(scored["caveat"]) == {reference_step.PUBLISHED}
    assert len(scored) == 4
    first = scored.iloc[0]
    assert first["z"] == pytest.approx(-1)
    assert "20131223" in first["source"]


def test_another_unit_is_not_compared(tmp_path: Path) -> None:
    scored, _ = run("reference", tmp_path, [row("sub-01", 0.001534, metric="md", unit="mm2/s")])
    assert scored["z"].isna().all()
    assert scored["reason"].str.contains("the reference is in 1e-3 mm2/s").all()


def test_yaml_and_tsv_are_the_same(tmp_path: Path) -> None:
    yaml, tsv = tmp_path / "a.yaml", tmp_path / "a.tsv"
    yaml.write_text(
        "- {region: gracilis, side: '*', level: n/a, segment: n/a, metric: fa, mean: 0.25, sd: 0.03, n: 40,\n"
        "   unit: '1', protocol: thigh, source: 10.1/x}\n"
    )
    tsv.write_text(
        "region\tside\tlevel\tsegment\tmetric\tmean\tsd\tn\tunit\tprotocol\tsource\n"
        "gracilis\t*\tn/a\tn/a\tfa\t0.25\t0.03\t40\t1\tthigh\t10.1/x\n"
    )
    assert norms.read_norms(yaml) == norms.read_norms(tsv)
    assert norms.read_norms(tsv)[0].mean == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("region\tmetric\na\tfa\n", "missing: side"),
        ("region\tside\tlevel\tsegment\tmetric\tmean\tsd\tn\tunit\tx\n" + "a\t" * 9 + "a\n", "not known: x"),
        ("region\tside\tlevel\tsegment\tmetric\tmean\tsd\tn\tunit\na\t\t\t\tfa\t0,3\t1\t2\t1\n", "0,3"),
        ("region\tside\tlevel\tsegment\tmetric\tmean\tsd\tn\tunit\na\t\t\t\tfa\t0.3\t0\t2\t1\n", "sd 0"),
    ],
)
def test_mistakes_of_a_reference_file_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "norms.tsv"
    path.write_text(text)
    with pytest.raises(DatasetError, match="NORMS") as caught:
        norms.read_norms(path)
    assert words in str(caught.value)
    assert "line 2" in str(caught.value)


def test_a_file_that_is_no_reference(tmp_path: Path) -> None:
    for name, text in (("a.yaml", "just words"), ("b.yaml", "a: ["), ("c.tsv", None)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(DatasetError, match="NORMS"):
            norms.read_norms(path)


def test_the_affected_side_over_the_other(tmp_path: Path) -> None:
    rows = [
        row(f"sub-0{i}", value, ROOT | {"side": side})
        for i in (1, 2, 3, 4)
        for side, value in (("L", 0.42), ("R", 0.30))
    ]
    rows.append(row("sub-02", 0.3, ROOT | {"level": "S1", "side": "R"}))
    people = [
        {"participant_id": "sub-01", "affected_side": "R"},
        {"participant_id": "02", "affected_side": "left"},
        {"participant_id": "sub-03", "affected_side": "bilateral"},
        {"participant_id": "sub-04", "affected_side": None},
    ]
    found, context = run("affected", tmp_path, rows, clinical=clinical(tmp_path, people))
    assert context.numbers["participants_with_affected_side"] == 2
    values = {(r["participant_id"], r["level"]): r["value"] for r in found.to_dict("records")}
    assert values[("sub-01", "L5")] == pytest.approx(0.30 / 0.42)
    assert values[("sub-02", "L5")] == pytest.approx(0.42 / 0.30)
    assert math.isnan(values[("sub-02", "S1")])
    assert len(values) == 3
    assert set(found["metric"]) == {"fa_affected_ratio"}
    se = 0.01 * math.hypot(1 / 0.42, 0.30 / 0.42**2)
    assert found["se"].iloc[0] == pytest.approx(se)


def test_without_an_affected_side_there_is_no_ratio(tmp_path: Path) -> None:
    people = [{"participant_id": "sub-01", "group": "patient"}]
    found, context = run("affected", tmp_path, [row("sub-01", 0.3)], clinical=clinical(tmp_path, people))
    assert found.empty
    assert [warning.code for warning in context.warnings] == ["AFFECTED_SIDE_UNKNOWN"]


def test_a_clinical_table_with_mistakes(tmp_path: Path) -> None:
    for people in ([{"name": "x"}], [{"participant_id": "01"}, {"participant_id": "sub-01"}]):
        with pytest.raises(DatasetError, match="CLINICAL_TABLE"):
            run("affected", tmp_path, [row("sub-01", 0.3)], clinical=clinical(tmp_path, people))
