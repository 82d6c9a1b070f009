"""Reference values: shipped, read, matched, made from controls; and the affected side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from long_tables import read_segments, write_parquet
from scipy import stats

from somite import norms, registry
from somite.analysis.model import Cohort
from somite.clinical import ages, cohort_text, male
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


def run(
    step: str,
    folder: Path,
    rows: Sequence[Row],
    *,
    people: Path | None = None,
    cohort: Mapping[str, object] | None = None,
    given: Path | None = None,
    own: Path | None = None,
    **options: object,
) -> tuple[pd.DataFrame, Context]:
    """Run a step on a table; `own` is the folder of norms that were made before."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = Cohort.model_validate({"controls": {"group": "control"}, **(cohort or {})})
    about = folder / "cohort.json"
    about.write_text(cohort_text(declared, "controls", "age", "sex", "exclude", "affected"))
    (folder / "protocol.json").write_text("lumbar")
    table = write_table(folder / "segments.tsv", rows)
    clinic = () if people is None else (people,)
    products: dict[str, object] = {
        "norms": {
            "segments_parquet": write_parquet(folder / "segments.parquet", read_segments(table)),
            "clinical": clinic,
            "controls": about,
            "protocol": folder / "protocol.json",
        },
        "reference": {
            "segments_table": table,
            "norms_given": given,
            **({"clinical": clinic, "age_sex": about} if clinic else {}),
            **({"norms": own / "norms.tsv"} if own else {}),
            **({"norms_without_each": own / "norms_without_each.parquet"} if own else {}),
        },
        "affected": {"segments_table": table, "clinical": clinic, "affected_side": about},
    }[step]
    module = {"norms": norms_step, "reference": reference_step, "affected": affected_step}[step]
    context = Context(folder)
    made = registry.discover()[step](module.Config.model_validate(options), context, **products)
    found = pd.read_csv(made[step], sep="\t", na_values=["n/a"], keep_default_na=False)
    assert set(json.loads(made[f"{step}_dictionary"].read_text())) == set(found.columns)
    return found, context


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
    table, context = run("norms", tmp_path, rows, people=clinical(tmp_path, people), adjust=False)
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
    scored, _ = run("reference", tmp_path / "scores", rows, given=given, shipped=False)
    patient = scored[scored["participant_id"] == "sub-99"].iloc[0]
    assert patient["z"] == pytest.approx((patient["value"] - means.mean()) / means.std())
    assert "same protocol" in patient["caveat"]


def test_age_and_sex_are_adjusted_and_asked_for(tmp_path: Path) -> None:
    rows, people = cohort()
    table = clinical(tmp_path, people)
    found, _ = run("norms", tmp_path, rows, people=table)
    assert found["age_slope"].iloc[0] != 0
    assert found["male_share"].iloc[0] == 0.5
    given = tmp_path / "mine.tsv"
    given.write_bytes((tmp_path / "norms.tsv").read_bytes())
    blind, _ = run("reference", tmp_path / "blind", rows, given=given, shipped=False)
    assert blind["z"].isna().all()
    assert blind["reason"].str.contains("age is not known").all()
    scored, _ = run("reference", tmp_path / "known", rows, given=given, shipped=False, people=table)
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
    found, context = run("affected", tmp_path, rows, people=clinical(tmp_path, people))
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
    found, context = run("affected", tmp_path, [row("sub-01", 0.3)], people=clinical(tmp_path, people))
    assert found.empty
    assert [warning.code for warning in context.warnings] == ["AFFECTED_SIDE_UNKNOWN"]


def test_words_that_are_no_side_are_named(tmp_path: Path) -> None:
    people = [{"participant_id": "sub-01", "affected_side": "medial"}]
    found, context = run("affected", tmp_path, [row("sub-01", 0.3)], people=clinical(tmp_path, people))
    assert found.empty
    assert context.warnings[0].found == "medial"


def test_a_clinical_table_with_mistakes(tmp_path: Path) -> None:
    for people, code in (
        ([{"name": "x"}], "PEOPLE_TABLE"),
        ([{"participant_id": "01"}, {"participant_id": "sub-01"}], "PARTICIPANT_TWICE"),
    ):
        with pytest.raises(DatasetError, match=code):
            run("affected", tmp_path, [row("sub-01", 0.3)], people=clinical(tmp_path, people))


def judged(tmp_path: Path, rows: Sequence[Row], table: Path, **options: object) -> pd.DataFrame:
    """z-scores against the cohort's own norms."""
    run("norms", tmp_path, rows, people=table, **options)  # type: ignore[arg-type]
    found, _ = run("reference", tmp_path / "scores", rows, people=table, own=tmp_path, shipped=False)
    return found


def test_a_control_is_judged_by_the_others_and_a_patient_by_all(tmp_path: Path) -> None:
    rows, people = cohort()
    rows.pop()  # the right side, that one control has
    found = judged(tmp_path, rows, clinical(tmp_path, people), adjust=False)
    means = pd.DataFrame(rows).groupby("participant_id")["value"].mean()
    assert len(found) == len(rows)
    for one in found.to_dict("records"):
        others = means.drop(list({one["participant_id"], "sub-99"}))
        assert one["reference_n"] == len(others) == (8 if one["participant_id"] == "sub-99" else 7)
        assert one["reference_mean"] == pytest.approx(others.mean())
        assert one["z"] == pytest.approx((one["value"] - others.mean()) / others.std(), abs=1e-6)
        assert ("held against the others" in one["caveat"]) == (one["participant_id"] != "sub-99")
    assert found["caveat"].str.startswith(reference_step.COHORT).all()
    twice = found[found["participant_id"] == "sub-00"]
    assert list(twice["session_id"].fillna("")) == ["", "ses-2"]


def test_a_control_is_judged_by_the_regression_of_the_others(tmp_path: Path) -> None:
    rows, people = cohort(12)
    rows = rows[:13]
    found = judged(tmp_path, rows, clinical(tmp_path, people)).set_index("participant_id")
    frame = (
        pd.DataFrame(people).set_index("participant_id").join(pd.DataFrame(rows).set_index("participant_id"))
    )
    frame["male"] = (frame["sex"] == "M").astype(float)
    for who in ("sub-00", "sub-07", "sub-99"):
        others = frame.drop(list({who, "sub-99"}))
        fit = sm.OLS(others["value"], sm.add_constant(others[["age", "male"]])).fit()
        new = np.array([[1.0, frame.loc[who, "age"], frame.loc[who, "male"]]])
        told = fit.get_prediction(new).summary_frame()
        assert found.loc[who, "reference_mean"] == pytest.approx(told["mean"].iloc[0])
        assert found.loc[who, "reference_sd"] == pytest.approx(math.sqrt(fit.scale))
        se = math.sqrt(fit.scale + told["mean_se"].iloc[0] ** 2)
        t = (frame.loc[who, "value"] - told["mean"].iloc[0]) / se
        assert found.loc[who, "z_prediction"] == pytest.approx(stats.norm.ppf(stats.t.cdf(t, fit.df_resid)))


def test_controls_judged_without_themselves_are_standard_normal(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n, levels = 20, 60
    people = [{"participant_id": f"sub-{i:02}", "group": "control", "age": 20 + 3 * i} for i in range(n)]
    rows = [
        row(f"sub-{i:02}", 0.4 - 0.002 * i + rng.normal(0, 0.03), ROOT | {"level": f"L{k}"})
        for i in range(n)
        for k in range(levels)
    ]
    z = judged(tmp_path, rows, clinical(tmp_path, people))["z_prediction"]
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert np.std(z) == pytest.approx(1, abs=0.06)


def test_who_is_excluded_makes_no_norm(tmp_path: Path) -> None:
    rows, people = cohort()
    rows[0] = row("sub-00", 5.0, qc_status="fail")
    table, context = run("norms", tmp_path, rows, people=clinical(tmp_path, people), adjust=False)
    assert table["mean"].iloc[0] < 0.5
    assert table["n"].iloc[0] == 8  # the second session of sub-00 stays
    kept, _ = run(
        "norms",
        tmp_path / "all",
        rows,
        people=clinical(tmp_path, people),
        cohort={"exclude": {"rows": "none"}},
        adjust=False,
    )
    assert kept["mean"].iloc[0] > table["mean"].iloc[0] + 0.2
    assert context.numbers["controls"] == 8


def test_a_measure_that_does_not_vary_has_no_norm_and_is_counted(tmp_path: Path) -> None:
    _, people = cohort()
    rows = [row(str(person["participant_id"]), 0.4) for person in people]
    table, context = run("norms", tmp_path, rows, people=clinical(tmp_path, people))
    assert table.empty
    assert context.numbers["measures_without_spread"] == 1
    assert [warning.code for warning in context.warnings] == ["NORMS_NONE"]


def test_the_own_norms_of_a_cohort_cannot_be_given_to_it(tmp_path: Path) -> None:
    rows, people = cohort()
    table = clinical(tmp_path, people)
    run("norms", tmp_path, rows, people=table)
    given = tmp_path / "copy.tsv"
    given.write_bytes((tmp_path / "norms.tsv").read_bytes())
    with pytest.raises(DatasetError, match="NORMS_CIRCULAR"):
        run("reference", tmp_path / "scores", rows, people=table, own=tmp_path, given=given)


def test_ages_and_sexes_as_people_write_them() -> None:
    np.testing.assert_array_equal(ages(["30", " 89+", "", "old", "inf"]), [30, 89, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(male(["M", "female", "", "1"]), [1, 0, np.nan, np.nan])
