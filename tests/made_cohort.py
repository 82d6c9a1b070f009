"""An output dataset of a made-up cohort, without images: the table of a phantom cohort, quality numbers,
profiles, records, and analyses that have really run. For the tests of the cohort's page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from long_tables import write_parquet, write_tsv
from pages import step_record

from somite import record, roll
from somite.configs import reader
from somite.dataset.sessions import Plan
from somite.errors import Problem
from somite.phantom.cohort import Cohort
from somite.phantom.dataset import write_cohort_table
from somite.quality_table import Number
from somite.record import Delivered, Record, StepRecord
from somite.registry import discover
from somite.report import cohort_groups
from somite.workflows import analyses, session
from somite.workflows.participant import Place

ANALYSES = """\
extends: lumbar
cohort: {exclude: {qc: none}}
analyses:
  by_group:
    kind: compare
    group: group
    groups: [patient, control]
    data: long
    select: {region: nerve_root, metric: [fa, md]}
  adjusted:
    kind: compare
    group: group
    groups: [patient, control]
    covariates: [age, sex]
    select: {region: nerve_root, level: [L5, S1], segment: foraminal_drg, metric: [fa, md]}
  curves:
    kind: roc
    outcome: group
    event: patient
    data: wide
    direction: {fa: lower, md: higher}
    select: {region: nerve_root, level: [L5, S1], segment: foraminal_drg, metric: [fa, md]}
  no_data:
    kind: roc
    outcome: group
    event: patient
    data: none
    select: {region: nerve_root, side: L, level: L5, segment: foraminal_drg, metric: fa}
  odds:
    kind: logistic
    outcome: group
    event: patient
    repeats: 3
    select: {region: nerve_root, side: L, level: [L5, S1], segment: foraminal_drg, metric: [fa, md]}
  sides:
    kind: correlate
    between: sides
    data: long
    select: {region: nerve_root, metric: fa}
  score:
    kind: correlate
    columns: [age]
    data: wide
    select: {region: nerve_root, metric: [fa, md], level: [L5, S1]}
  agreement:
    kind: agreement
    repeated: side
    data: long
    select: {region: nerve_root, level: [L4, L5, S1], segment: intraspinal, metric: [fa, md]}
"""
LIMITS: Mapping[str, tuple[float, float, float | None, float | None]] = {
    "snr_b0": (22, 4, 15, 8),
    "snr_b0_repeated": (28, 5, None, None),
    "motion_absolute_mean_mm": (0.8, 0.4, 3, None),
    "motion_relative_mean_mm": (0.3, 0.1, 1, 3),
    "eddy_rms_mm": (0.4, 0.1, None, None),
    "outlier_slices_percent": (0.8, 0.5, 2, 10),
    "residual_percent": (4, 0.6, None, None),
    "ndc_corrected": (0.93, 0.02, None, None),
    "mask_volume_ml": (750, 60, None, None),
}
"""Quality number -> mean and spread of the made-up cohort, and its limits."""


def make(root: Path, patients: int, controls: int, *, failed: int = 2, yaml: str = ANALYSES) -> Path:
    """Write the dataset and its output below `root`; returns the output."""
    bids, out = root / "bids", root / "out"
    write_cohort_table(bids, Cohort(patients, controls, d=-1.2), 1, protocol="lumbar")
    rows = pd.read_csv(bids / "group" / "segments.tsv", sep="\t", keep_default_na=False, low_memory=False)
    shutil.rmtree(bids / "group")
    (out / "group").mkdir(parents=True)
    for name in ("value", "se", "ci_low", "ci_high", "n_voxels", "volume_mm3"):
        rows[name] = pd.to_numeric(rows[name])
    rows = rows.replace({"n/a": ""})
    people = list(dict.fromkeys(rows["participant_id"]))
    rng = np.random.default_rng(1)
    quality: dict[str, list[object]] = {"participant_id": [], "session_id": [], "run": [], "verdict": []}
    steps = [step_record(name) for name in ("load", "denoise", "eddy", "tensor", "qc")]
    steps.append(StepRecord("roi", "run", 1.0, numbers={"segments_expected": 48, "segments_measured": 48}))
    for i, name in enumerate(people):
        verdict = member(out, name, rng, steps, failed=i >= len(people) - failed)
        if verdict:
            for column, text in zip(quality, (name, "n/a", "n/a", verdict), strict=True):
                quality[column].append(text)
    write_tsv(out / "group" / "qc_wide.tsv", quality)
    write_parquet(out / "group" / "segments.parquet", rows[~rows["participant_id"].isin(people[-failed:])])
    roll.add(out, dict.fromkeys([*people, "sub-stopped"], "r"))
    (root / "my.yaml").write_text(yaml)
    settings = reader.read(root / "my.yaml", discover())
    (out / "code").mkdir()
    (out / "code" / "config.yaml").write_text(settings.to_yaml())
    place = Place(Plan(bids), settings, out, root / "work")
    for unit in analyses.units(place):
        done = session.run(unit, lambda event: None)
        assert done.verdict == "done", [str(problem) for problem in done.problems]
    assert cohort_groups.write(out, bids, settings.cohort, settings.analyses) == []
    return out


def member(
    out: Path, label: str, rng: np.random.Generator, steps: list[StepRecord], *, failed: bool = False
) -> str:
    """A session with quality numbers and profiles; returns the verdict on them, "" for a failed one."""
    if failed:
        problem = Problem("NO_LABELS", "no label image was found", "/home/somebody/bids", do="draw some")
        record.write(
            Record(label, label, "", "", "failed", problems=[problem], failed_step="plan", recipe="r"), out
        )
        return ""
    rows, verdict = quality_rows(rng)
    folder = out / label / "dwi"
    folder.mkdir(parents=True)
    files = [folder / f"{label}_desc-qc_stats.tsv", folder / f"{label}_desc-profiles_stats.tsv"]
    pd.DataFrame(rows).to_csv(files[0], sep="\t", index=False)
    profile_rows(label, rng).to_csv(files[1], sep="\t", index=False, float_format="%.6g", na_rep="n/a")
    outputs = [Delivered(p.relative_to(out).as_posix(), "00", p.stat().st_size, "11") for p in files]
    software = {"somite": "0.1.0", "python": "3.11.7"}
    record.write(
        Record(label, label, "", "", "done", steps=steps, outputs=outputs, software=software, recipe="r"), out
    )
    return verdict


def quality_rows(rng: np.random.Generator) -> tuple[list[dict[str, object]], str]:
    """The table of quality numbers of a session, and its verdict; one in fifty moved a lot."""
    rows: list[dict[str, object]] = []
    restless = rng.random() < 0.02
    for name, (mean, spread, warn, fail) in LIMITS.items():
        value = abs(rng.normal(mean, spread)) * (5 if restless and "motion" in name else 1)
        verdict, reason = Number(name, value).judge(warn, fail)
        unit = {"mm": "mm", "ml": "ml", "percent": "%"}.get(name.rpartition("_")[2], "1")
        row = {"metric": name, "b_s_per_mm2": "n/a", "value": round(value, 5), "unit": unit, "warn": warn}
        row |= {"fail": fail, "verdict": verdict or "n/a", "reason": reason or "n/a"}
        rows.append({key: "n/a" if item is None else item for key, item in row.items()})
    worst = next(v for v in ("fail", "warn", "pass") if v in {row["verdict"] for row in rows})
    reasons = "; ".join(str(row["reason"]) for row in rows if row["verdict"] == worst != "pass") or "n/a"
    rows.append(dict.fromkeys(rows[0], "n/a") | {"metric": "overall", "verdict": worst, "reason": reasons})
    return rows, worst


def profile_rows(label: str, rng: np.random.Generator, nodes: int = 21) -> pd.DataFrame:
    """Profiles of all nerve roots of a person, one in ten without values."""
    index = pd.MultiIndex.from_product(
        [["L3", "L4", "L5", "S1"], ["L", "R"], range(nodes), ["fa", "md", "ad", "rd"]],
        names=["level", "side", "node", "metric"],
    )
    rows = index.to_frame(index=False)
    at = rows["node"].to_numpy() * 1.5
    base = rows["metric"].map({"fa": 0.28, "md": 1.4, "ad": 1.8, "rd": 1.2}).to_numpy()
    own = dict(zip(["L3", "L4", "L5", "S1"], rng.normal(1, 0.08, 4), strict=True))
    value = base * rows["level"].map(own).to_numpy() * (1 + 0.2 * np.sin(at / 9)) + rng.normal(
        0, 0.01, len(rows)
    )
    gone = (rows["level"] == "L3").to_numpy() & (rng.random() < 0.1)
    return rows.assign(
        participant_id=label, session_id="n/a", run="n/a", region="nerve_root", segment="n/a",
        extraction="label", weighting="central", position_mm=at, position_frac=np.nan,
        value=np.where(gone, np.nan, value), se=0.01, unit="1", n_voxels=5, weight=1.0,
        reason=np.where(gone, "no dural exit", "n/a"),
    )  # fmt: skip


def results(out: Path, name: str) -> pd.DataFrame:
    """The results of an analysis."""
    path = out / "group" / "analyses" / f"{name}.tsv"
    return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False)


def options(out: Path, name: str) -> dict[str, object]:
    """The options of an analysis."""
    about = json.loads((out / "group" / "analyses" / f"{name}.json").read_text())
    found: dict[str, object] = about["Analysis"]["Options"]
    return found
