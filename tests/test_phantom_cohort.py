"""Cohorts of a known difference and correlation are found to have them; lesions are where they belong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from somite.cli import main
from somite.errors import ConfigError
from somite.phantom import change, protocol, scheme, simulate
from somite.phantom.brain_als import brain_grid
from somite.phantom.change import Change
from somite.phantom.cohort import Cohort
from somite.phantom.dataset import write_cohort_table, write_dataset
from somite.phantom.lumbar import lumbar_grid
from somite.phantom.tissue import eigenvalues
from somite.segments import COLUMNS, METRICS, Segment

N = 700
KEYS = ["region", "side", "level", "segment"]


def read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False)
    for key in set(KEYS) & set(table.columns):
        table[key] = table[key].astype(object).where(table[key].notna(), "")
    return table


def wide(folder: Path, metric: str) -> pd.DataFrame:
    """A row per participant, a column per segment."""
    table = read(folder / "group" / "segments.tsv")
    return table[table.metric == metric].pivot(index="participant_id", columns=KEYS, values="value")


def cohens_d(values: pd.Series, ill: pd.Series) -> float:
    a, b = values[ill], values[~ill]
    return float((a.mean() - b.mean()) / math.sqrt((a.var() + b.var()) / 2))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = Cohort(N, N, d=-0.8, fa_sd=0.025, md_d=0.5, md_sd=0.08e-3, r=-0.6, shared=0.3)
    lesion = (Change("nerve_root", "L", "S1"),)
    return write_cohort_table(tmp_path_factory.mktemp("large") / "cohort", cohort, 7, lesion=lesion)


def test_the_group_difference_is_the_one_that_was_asked_for(large: Path) -> None:
    people = read(large / "participants.tsv").set_index("participant_id")
    ill = people.group == "patient"
    assert ill.sum() == (~ill).sum() == N
    for metric, d, sd in (("fa", -0.8, 0.025), ("md", 0.5, 0.08)):
        values = wide(large, metric)
        for zone in ("intraspinal", "foraminal_drg", "extraforaminal"):
            hurt = values[("nerve_root", "L", "S1", zone)]
            assert cohens_d(hurt, ill) == pytest.approx(d, abs=0.15)  # standard error 0.055
            assert hurt[~ill].std() == pytest.approx(sd, rel=0.08)
        sound = values[("nerve_root", "R", "S1", "foraminal_drg")]
        assert cohens_d(sound, ill) == pytest.approx(0, abs=0.15)
        both = np.corrcoef(values[("nerve_root", "L", "S1", "intraspinal")][~ill], sound[~ill])[0, 1]
        assert both == pytest.approx(0.3, abs=0.1)


def test_the_score_of_patients_correlates_as_asked_for(large: Path) -> None:
    score = read(large / "phenotype" / "odi.tsv").set_index("participant_id")["odi"]
    people = read(large / "participants.tsv").set_index("participant_id")
    ill = people.group == "patient"
    assert score[~ill].isna().all()
    assert score[ill].between(0, 100).all()
    assert (score.mean(), score.std()) == (pytest.approx(36, abs=2), pytest.approx(14, rel=0.08))
    fa = wide(large, "fa")[("nerve_root", "L", "S1", "foraminal_drg")]
    assert np.corrcoef(fa[ill], score[ill])[0, 1] == pytest.approx(-0.6, abs=0.07)
    sound = wide(large, "fa")[("psoas_major", "R", "L4-L5", "")]
    assert abs(np.corrcoef(sound[ill], score[ill])[0, 1]) < 0.3
    described = json.loads((large / "phenotype" / "odi.json").read_text())
    assert described["odi"]["Units"] == "%"


def test_side_and_level_are_in_the_phenotype(large: Path, tmp_path: Path) -> None:
    clinic = read(large / "phenotype" / "clinical.tsv")
    assert set(clinic.affected_side.dropna()) == {"L"}
    assert clinic.affected_level.notna().sum() == N
    any_side = Cohort(60, 5, sides=("L", "R"), levels=("L4", "L5"))
    folder = write_cohort_table(tmp_path / "any", any_side, 3)
    clinic = read(folder / "phenotype" / "clinical.tsv").dropna()
    assert len(clinic) == 60
    counts = clinic.groupby(["affected_side", "affected_level"]).size()
    assert len(counts) == 4
    assert counts.min() >= 6


def test_the_table_has_the_columns_of_the_long_table(large: Path) -> None:
    table = read(large / "group" / "segments.tsv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * N * 54 * 4
    first = table[table.participant_id == "sub-0001"]
    assert not first.duplicated([*KEYS, "metric"]).any()
    fa, md, ad, rd = (first[first.metric == m].value.to_numpy() for m in ("fa", "md", "ad", "rd"))
    assert np.stack(eigenvalues(fa, md)) == pytest.approx(np.stack([ad, rd]), rel=1e-6)
    assert first[first.metric == "md"].unit.unique() == [METRICS["md"].unit]


def test_same_seed_same_bytes_and_a_person_stays_the_same_in_a_larger_cohort(tmp_path: Path) -> None:
    for name, patients in (("one", 3), ("again", 3), ("more", 5)):
        write_cohort_table(tmp_path / name, Cohort(patients, 4), 9, protocol="brain-als")
    one, again, more = (tmp_path / name / "group" / "segments.tsv" for name in ("one", "again", "more"))
    assert one.read_bytes() == again.read_bytes()
    assert more.read_bytes().startswith(one.read_bytes())


def test_images_of_a_cohort_hold_what_its_table_says(tmp_path: Path) -> None:
    cohort = Cohort(2, 1, d=-2.0, fa_sd=0.04, r=0.9)
    few = scheme.shells(1)
    scans = write_dataset(
        tmp_path / "scans",
        seed=4,
        protocol="thigh",
        cohort=cohort,
        scheme=few,
        snr=math.inf,
        grid=protocol.find("thigh").grid((4.0, 4.0, 12.0)),
    )
    table = write_cohort_table(tmp_path / "table", cohort, 4, protocol="thigh")
    for name in ("participants.tsv", "phenotype/strength.tsv", "phenotype/clinical.tsv"):
        assert (scans / name).read_text() == (table / name).read_text()
    truth = read(scans / "derivatives" / "truth" / "segments.tsv")
    truth = truth[(truth.statistic == "mean") & truth.value.notna()]
    told = read(table / "group" / "segments.tsv")
    joined = truth.merge(told, on=["participant_id", *KEYS, "metric"])
    assert len(joined) > 3 * 80 * 4
    assert joined.value_x.to_numpy() == pytest.approx(joined.value_y.to_numpy(), rel=1e-4)


def test_alsfrs_r_falls_with_fa_and_both_sides_are_affected(tmp_path: Path) -> None:
    folder = write_cohort_table(tmp_path / "als", Cohort(400, 400), 2, protocol="brain-als")
    score = read(folder / "phenotype" / "alsfrs_r.tsv").set_index("participant_id")["alsfrs_r"]
    ill = score.notna()
    values = wide(folder, "fa")
    assert score.max() <= 48
    for region in ("CST", "CP", "PLIC", "SCR"):
        for side in ("L", "R"):
            assert cohens_d(values[(region, side, "", "")], ill) == pytest.approx(-1.0, abs=0.25)
    both = np.corrcoef(values[("CST", "L", "", "")], values[("PLIC", "R", "", "")])[0, 1]
    assert both == pytest.approx(1)  # the lesion is one
    assert np.corrcoef(values[("CST", "L", "", "")][ill], score[ill])[0, 1] == pytest.approx(0.5, abs=0.12)
    assert read(folder / "phenotype" / "clinical.tsv").affected_side.isna().all()


def test_age_changes_fa_where_it_is_asked_to(tmp_path: Path) -> None:
    folder = write_cohort_table(tmp_path / "old", Cohort(1, 400, fa_per_year=-0.002), 2)
    people = read(folder / "participants.tsv").set_index("participant_id")
    fa = wide(folder, "fa")[("multifidus", "L", "L4-L5", "")]
    assert np.polyfit(people.age, fa, 1)[0] == pytest.approx(-0.002, abs=0.0005)


def test_typical_values_are_those_of_the_tissues() -> None:
    normal = simulate.typical(protocol.find("lumbar"))
    assert list(normal) == [
        label.segment for label in protocol.find("lumbar").build(np.random.default_rng(1), "", ()).segments
    ]
    assert normal[Segment("nerve_root", "L", "L4", "extraforaminal")] == pytest.approx((0.40, 1.3e-3))
    assert normal[Segment("nerve_root", "L", "L4", "intraspinal")] == pytest.approx((0.30, 1.5e-3))
    assert normal[Segment("canal", "midline", "L4-L5")] == pytest.approx((0.0, 2.72e-3))
    assert Segment("femur", "L") not in simulate.typical(protocol.find("thigh"))


def test_a_change_replaces_then_adds() -> None:
    fa, md = np.array([0.4]), np.array([1.3e-3])
    assert Change(fa=0.26, md=1.79e-3).apply(fa, md) == (pytest.approx([0.26]), pytest.approx([1.79e-3]))
    assert Change(delta_fa=-0.5).apply(fa, md)[0] == [0.0]
    lower, higher = Change(delta_fa=-0.04, delta_rd=0.05e-3).apply(fa, md)
    assert lower == pytest.approx([0.36])
    assert eigenvalues(lower, higher)[1] == pytest.approx(eigenvalues(fa, md)[1] + 0.05e-3)
    assert Change("nerve_root", level="L5").holds(Segment("nerve_root", "R", "L5", "foraminal_drg"))
    assert not Change("nerve_root", "L").holds(Segment("nerve_root", "R", "L5"))


def test_every_mistake_of_a_cohort_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        write_dataset(
            tmp_path / "out",
            protocol="thigh",
            variant="L6",
            labels="anatomy",
            lesion=(Change("knee"),),
            cohort=Cohort(-1, 2, fa_sd=0.0, r=2.0),
        )
    codes = [problem.code for problem in raised.value.problems]
    assert set(codes) == {"VARIANT", "LABELS", "COHORT", "LESION"}
    assert codes.count("COHORT") == 3
    with pytest.raises(ConfigError, match="LESION"):
        change.at("nerve_root:R:L5:x:y", delta_fa=0, delta_md=0)
    assert list(tmp_path.iterdir()) == []


def test_the_lesion_of_patients_is_named_in_the_dataset(tmp_path: Path) -> None:
    lesion = (Change("psoas_major", "L", "L4-L5", delta_fa=-0.1, delta_md=0.2e-3),)
    folder = write_dataset(tmp_path / "out", 2, grid=lumbar_grid(3.0), scheme=scheme.shells(1), lesion=lesion)
    levels = json.loads((folder / "participants.json").read_text())["group"]["Levels"]
    assert levels["patient"] == "lesion of psoas_major L L4-L5"
    truth = read(folder / "derivatives/truth/segments.tsv")
    chosen = truth[(truth.metric == "fa") & (truth.statistic == "mean") & (truth.region == "psoas_major")]
    fa = chosen.set_index(["participant_id", "side", "level"]).value
    assert fa["sub-02", "L", "L4-L5"] == pytest.approx(0.18)
    assert fa["sub-02", "R", "L4-L5"] == fa["sub-02", "L", "L3-L4"] == pytest.approx(0.28)
    assert fa["sub-01", "L", "L4-L5"] == pytest.approx(0.28)


def test_the_command_line_writes_each_phantom_and_a_table(tmp_path: Path) -> None:
    options = ["--patients", "2", "--controls", "3", "--table-only", "--d", "-1.5", "--lesion", "gracilis:L"]
    assert main(["phantom", "thigh", str(tmp_path / "table"), *options]) == 0
    assert len(read(tmp_path / "table" / "participants.tsv")) == 5
    assert main(["phantom", "brain-als", str(tmp_path / "none"), "--table-only"]) == 2
    assert main(["phantom", "lumbar", str(tmp_path / "no"), "--lesion", "gracilis:L"]) == 2
    assert not (tmp_path / "no").exists()


def test_an_atlas_is_written_beside_the_brains(tmp_path: Path) -> None:
    grid = brain_grid(5.0, field_of_view_mm=(130.0, 150.0, 135.0))
    folder = write_dataset(tmp_path / "out", 1, protocol="brain-als", grid=grid, scheme=scheme.shells(1))
    assert not (folder / "derivatives" / "labels").exists()
    assert {path.name for path in (folder / "derivatives" / "atlas").iterdir()} == {
        "tpl-phantom_param-fa_dwimap.nii.gz",
        "tpl-phantom_dseg.nii.gz",
        "tpl-phantom_dseg.tsv",
    }
