"""Quality numbers are those of a series whose noise, motion and losses are known; limits give verdicts."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from somite import images, quality
from somite.corrected import DISTORTION, MOTION
from somite.errors import DatasetError
from somite.gradients import Gradients, write_fsl
from somite.images import Grid
from somite.interfaces import qc, qc_table
from somite.quality import Series
from somite.quality_table import COLUMNS, METRICS, Number
from somite.registration import about, region_of
from somite.registry import Context

SIGMA = 20.0


@dataclass(frozen=True)
class Scan:
    """A series of known noise: what `qc` reads, and what it was made from."""

    files: dict[str, Path]
    clean: np.ndarray
    noisy: np.ndarray
    mask: np.ndarray
    gradients: Gradients
    motion: np.ndarray
    grid: Grid


def tsv(path: Path, header: list[str], rows: np.ndarray | list[list[object]]) -> Path:
    lines = ["\t".join(header), *("\t".join(str(value) for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def scan(
    folder: Path,
    shape: tuple[int, int, int] = (24, 22, 10),
    bvals: tuple[float, ...] = (0.0,) * 4 + (1000.0,) * 12 + (2000.0,) * 8,
    lost: tuple[int, ...] = (5, 5, 11),
) -> Scan:
    """Anisotropic tissue of changing direction, oblique, with motion and losses in its tables."""
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([2.0, -2.0, 3.0])
    grid = Grid(shape, affine)
    mask = np.zeros(shape, bool)
    mask[2:-2, 3:-2] = True
    n = len(bvals)
    bvecs = rng.standard_normal((n, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1)[:, None]
    bvecs[np.array(bvals) == 0] = 0
    gradients = Gradients(np.array(bvals), bvecs)
    fibre = np.stack(
        [np.cos(np.arange(shape[0]) / 6), np.sin(np.arange(shape[0]) / 6), 0 * np.arange(shape[0])]
    )
    tensor = 0.5e-3 * np.eye(3)[:, :, None] + 1.0e-3 * fibre[:, None] * fibre[None]
    six = np.stack([tensor[i, j] for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))], -1)
    six = np.broadcast_to(six[:, None, None], (*shape, 6))
    s0 = 1000 * (1 + 0.2 * rng.random(shape))
    attenuation = np.exp(-np.einsum("n,ni,ijx,nj->xn", gradients.bvals, bvecs, tensor, bvecs))
    clean = s0[..., None] * attenuation[:, None, None]
    noise = rng.normal(0, SIGMA, (2, *clean.shape))
    noisy = np.hypot(clean + noise[0], noise[1])
    motion = np.cumsum(rng.normal(0, 0.2, (n, 6)), 0)
    motion -= motion[0]
    region = region_of(mask, grid)
    moved = [np.linalg.norm(at(motion[v], region) - region.points, axis=1).mean() for v in range(n)]
    residual, nonpositive = np.full(shape, 0.04), np.zeros(shape)
    nonpositive[mask] = rng.random(mask.sum()) < 0.03
    eddy = np.zeros((n, 12))
    eddy[:, 0], eddy[:, -1] = np.arange(n), np.where(gradients.bvals > 0, 1.5, 0)
    bval, bvec = write_fsl(gradients, folder / "dwi.bval", folder / "dwi.bvec", affine)
    series = images.write(folder / "dwi.nii", np.asfortranarray(noisy), grid)
    files = {
        "dwi_loaded": images.write(folder / "dwi_loaded.nii", np.asfortranarray(clean), grid),
        "dwi_corrected": series,
        "bval": bval,
        "bvec": bvec,
        "noise_sigma": images.write(folder / "sigma.nii", np.full(shape, SIGMA), grid),
        "mask": images.write(folder / "mask.nii", mask, grid),
        "motion": tsv(
            folder / "motion.tsv",
            [c.name for c in MOTION],
            np.column_stack(
                [
                    np.arange(n),
                    motion,
                    moved,
                    np.bincount(np.array(lost, int), minlength=n),
                    np.full(n, shape[2]),
                ]
            ),
        ),
        "tensor": images.write(folder / "tensor.nii", np.asfortranarray(six), grid),
        "s0": images.write(folder / "s0.nii", s0, grid),
        "residual": images.write(folder / "residual.nii", residual, grid),
        "nonpositive": images.write(folder / "nonpositive.nii", nonpositive.astype(np.uint8), grid),
        "distortion": tsv(folder / "distortion.tsv", [c.name for c in DISTORTION], eddy),
    }
    return Scan(files, clean, noisy, mask, gradients, motion, grid)


def at(motion: np.ndarray, region) -> np.ndarray:
    """Where the points of a region are under six parameters, mm and degrees."""
    turn = Rotation.from_rotvec(motion[3:], degrees=True).as_matrix()
    pose = about(region.centre, turn, motion[:3])
    return np.asarray(region.points @ pose[:3, :3].T + pose[:3, 3])


def ran(files: dict[str, Path], folder: Path, **options: object) -> tuple[dict[str, dict[str, str]], Context]:
    folder.mkdir(exist_ok=True)
    context = Context(folder)
    table, _ = qc.run(**files, config=qc.Config(**options), context=context)
    with table.open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return {row["metric"] + f"_b{row['b_s_per_mm2']}".replace("_bn/a", ""): row for row in rows}, context


def value(rows: dict[str, dict[str, str]], name: str) -> float:
    return float(rows[name]["value"])


# Known truth


def test_signal_noise_and_contrast_are_those_of_the_scan(tmp_path: Path) -> None:
    made = scan(tmp_path)
    rows, context = ran(made.files, tmp_path / "work")
    inside, b = made.clean[made.mask], made.gradients.bvals
    assert value(rows, "snr_b0") == pytest.approx(np.median(inside[:, b == 0].mean(1)) / SIGMA, rel=0.01)
    assert value(rows, "snr_b0_repeated") == pytest.approx(value(rows, "snr_b0"), rel=0.03)
    for shell in (1000, 2000):
        of_shell = inside[:, b == shell]
        assert value(rows, f"snr_shell_b{shell}") == pytest.approx(
            np.median(of_shell.mean(1)) / SIGMA, rel=0.02
        )
        contrast = np.median(of_shell.std(1, ddof=1)) / SIGMA
        assert value(rows, f"cnr_shell_b{shell}") == pytest.approx(contrast, rel=1e-4)
    assert context.numbers["cnr_shell_b2000"] == pytest.approx(value(rows, "cnr_shell_b2000"))


def test_motion_losses_and_fit_are_those_of_the_scan(tmp_path: Path) -> None:
    made = scan(tmp_path)
    rows, _ = ran(made.files, tmp_path / "work")
    region = region_of(made.mask, made.grid)
    places = [at(row, region) for row in made.motion]
    absolute = [np.linalg.norm(p - places[0], axis=1).mean() for p in places]
    relative = [np.linalg.norm(p - q, axis=1).mean() for p, q in zip(places[1:], places[:-1], strict=True)]
    assert value(rows, "motion_absolute_mean_mm") == pytest.approx(np.mean(absolute), rel=1e-6)
    assert value(rows, "motion_absolute_max_mm") == pytest.approx(np.max(absolute), rel=1e-6)
    assert value(rows, "motion_relative_mean_mm") == pytest.approx(np.mean(relative), rel=1e-6)
    assert value(rows, "motion_relative_max_mm") == pytest.approx(np.max(relative), rel=1e-6)
    assert value(rows, "eddy_rms_mm") == pytest.approx(1.5)  # b=0 volumes do not count
    assert value(rows, "outlier_slices_percent") == pytest.approx(100 * 3 / (24 * 10))
    assert value(rows, "residual_percent") == pytest.approx(4.0)
    nonpositive = images.read_float(made.files["nonpositive"])[0][made.mask]
    assert value(rows, "nonpositive_percent") == pytest.approx(100 * nonpositive.mean())
    assert value(rows, "mask_volume_ml") == pytest.approx(made.mask.sum() * 12 / 1000)


def test_neighbours_in_q_space_correlate_as_numpy_says(tmp_path: Path) -> None:
    made = scan(tmp_path)
    rows, _ = ran(made.files, tmp_path / "work")
    weighted = np.flatnonzero(made.gradients.bvals > 0)
    q = np.sqrt(made.gradients.bvals)[:, None] * made.gradients.bvecs
    for name, data in (("ndc_raw", made.clean), ("ndc_corrected", made.noisy)):
        found = []
        for v in weighted:
            others = [u for u in weighted if u != v]
            apart = [min(np.linalg.norm(q[v] - q[u]), np.linalg.norm(q[v] + q[u])) for u in others]
            u = others[int(np.argmin(apart))]
            found.append(np.corrcoef(data[made.mask][:, v], data[made.mask][:, u])[0, 1])
        assert value(rows, name) == pytest.approx(np.mean(found), rel=1e-5)
    assert value(rows, "ndc_corrected") < value(rows, "ndc_raw")


def test_the_bias_field_is_put_back_where_signal_meets_noise(tmp_path: Path) -> None:
    made = scan(tmp_path)
    plain, _ = ran(made.files, tmp_path / "plain")
    field = np.exp(np.linspace(-0.5, 0.5, 24))[:, None, None] * np.ones(made.grid.shape)
    s0, grid = images.read_float(made.files["s0"])
    files = made.files | {
        "s0": images.write(tmp_path / "s0_unbiased.nii", s0 / field, grid),
        "bias_field": images.write(tmp_path / "field.nii", field, grid),
    }
    rows, _ = ran(files, tmp_path / "biased")
    assert value(rows, "cnr_shell_b1000") == pytest.approx(value(plain, "cnr_shell_b1000"), rel=1e-5)


@pytest.mark.parametrize(("n", "sd"), [(2, 30.0), (3, 30.0), (8, 30.0)])
def test_few_repeats_do_not_feign_a_high_snr(n: int, sd: float) -> None:
    rng = np.random.default_rng(0)
    data = 900 + rng.normal(0, sd, (40, 40, 40, n))
    series = Series(data, np.ones(data.shape[:3], bool))
    volumes = np.arange(n)
    snr = quality.repeated_snr(series.mean(volumes), series.deviation(volumes), n)
    assert snr == pytest.approx(900 / sd, rel=0.02)


def test_turning_the_body_is_motion_though_nothing_shifts() -> None:
    grid = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]))
    region = region_of(np.ones(grid.shape, bool), grid)
    turns = np.array([[0, 0, 0], [0, 0, 2.0], [0, 0, 2.0]])
    found = quality.relative_displacements(np.zeros((3, 3)), turns, region)
    distance = np.linalg.norm((region.points - region.centre)[:, :2], axis=1).mean()
    np.testing.assert_allclose(found, [2 * np.sin(np.deg2rad(1)) * distance, 0], atol=1e-9)


# Stored otherwise


def test_a_scan_stored_the_other_way_round_has_the_same_numbers(tmp_path: Path) -> None:
    made = scan(tmp_path)
    rows, _ = ran(made.files, tmp_path / "work")
    affine = made.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * 23
    affine[:3, 0] *= -1
    turned = Grid((22, 24, 10), affine[:, [1, 0, 2, 3]])
    files = dict(made.files)
    for name, path in made.files.items():
        if path.suffix == ".nii":
            data, _ = images.read_float(path)
            other = np.asfortranarray(np.moveaxis(data[::-1], 0, 1))
            files[name] = images.write(tmp_path / f"{name}_turned.nii", other, turned)
    write_fsl(made.gradients, tmp_path / "turned.bval", tmp_path / "turned.bvec", turned.affine)
    files |= {"bval": tmp_path / "turned.bval", "bvec": tmp_path / "turned.bvec"}
    other, _ = ran(files, tmp_path / "turned")
    for name in rows:
        if rows[name]["value"] != "n/a":
            assert value(other, name) == pytest.approx(value(rows, name), rel=1e-5), name


# What is not there is not a number


def without(files: dict[str, Path], *names: str) -> dict[str, Path]:
    return {name: path for name, path in files.items() if name not in names}


def test_one_b0_and_one_volume_per_shell_say_what_cannot_be_given(tmp_path: Path) -> None:
    made = scan(tmp_path, bvals=(0.0, *[1000.0] * 6, 2000.0), lost=())
    rows, _ = ran(made.files, tmp_path / "work")
    assert rows["snr_b0_repeated"]["value"] == "n/a" and "fewer than two" in rows["snr_b0_repeated"]["reason"]
    assert rows["cnr_shell_b2000"]["value"] == "n/a" and "one volume" in rows["cnr_shell_b2000"]["reason"]
    assert value(rows, "snr_shell_b2000") > 1 and value(rows, "cnr_shell_b1000") > 1


def test_a_single_slice_is_measured(tmp_path: Path) -> None:
    rows, _ = ran(scan(tmp_path, shape=(24, 22, 1), lost=(5,)).files, tmp_path / "work")
    assert value(rows, "snr_b0") > 30
    assert value(rows, "outlier_slices_percent") == pytest.approx(100 / 24)


def unlooked(made: Scan, volumes: int) -> None:
    """Let the motion table say that nobody looked for lost slices in the first volumes."""
    lines = made.files["motion"].read_text().splitlines()
    for v in range(1, 1 + volumes):
        lines[v] = "\t".join([*lines[v].split("\t")[:-2], "n/a", "n/a"])
    made.files["motion"].write_text("\n".join(lines) + "\n")


def test_tables_can_say_that_nobody_looked(tmp_path: Path) -> None:
    made = scan(tmp_path)
    unlooked(made, 24)
    tsv(made.files["distortion"], ["volume", "rms_mm"], [])
    for files in (made.files, without(made.files, "distortion")):
        rows, _ = ran(files, tmp_path / "work")
        assert rows["eddy_rms_mm"]["reason"] == "no eddy currents were estimated"
        assert rows["outlier_slices_percent"]["reason"] == "no outliers were looked for"
        assert rows["outlier_slices_percent"]["verdict"] == "n/a"


def test_eddy_currents_without_outliers_are_a_clean_scan(tmp_path: Path) -> None:
    rows, _ = ran(scan(tmp_path, lost=()).files, tmp_path / "work")
    assert value(rows, "outlier_slices_percent") == 0 and rows["outlier_slices_percent"]["verdict"] == "pass"


def test_volumes_that_nobody_looked_at_do_not_count(tmp_path: Path) -> None:
    made = scan(tmp_path)
    unlooked(made, 4)
    rows, _ = ran(made.files, tmp_path / "work")
    assert value(rows, "outlier_slices_percent") == pytest.approx(100 * 3 / (20 * 10))


def test_motion_that_was_not_estimated_is_not_passed(tmp_path: Path) -> None:
    made = scan(tmp_path)
    still = np.column_stack([np.arange(24), np.zeros((24, 8)), np.full(24, 10)])
    tsv(made.files["motion"], [c.name for c in MOTION], still)
    rows, _ = ran(made.files, tmp_path / "work")
    assert rows["motion_relative_mean_mm"]["value"] == "n/a"
    assert rows["motion_relative_mean_mm"]["reason"] == "no motion was estimated"
    assert rows["motion_relative_mean_mm"]["verdict"] == "n/a"


def test_noise_that_is_not_known_gives_no_ratio(tmp_path: Path) -> None:
    made = scan(tmp_path)
    images.write(made.files["noise_sigma"], np.zeros(made.grid.shape), made.grid)
    rows, context = ran(made.files, tmp_path / "work")
    assert rows["snr_b0"]["value"] == "n/a" and rows["snr_b0"]["reason"] == "the noise is 0"
    assert "snr_b0" not in context.numbers and all(math.isfinite(v) for v in context.numbers.values())


def test_fits_that_went_astray_leave_the_numbers_finite(tmp_path: Path) -> None:
    made = scan(tmp_path)
    tensor, grid = images.read_float(made.files["tensor"])
    wild = np.array(tensor)
    wild[3:6] = -10.0
    images.write(made.files["tensor"], wild, grid)
    rows, _ = ran(made.files, tmp_path / "work")
    assert value(rows, "cnr_shell_b1000") > 0


# Verdicts


@pytest.mark.parametrize("metric", METRICS)
def test_every_limit_gives_its_verdict_and_says_so(metric: str) -> None:
    lower = METRICS[metric].worse == "lower"
    warn, fail = (10.0, 5.0) if lower else (5.0, 10.0)
    config = qc.Config(**{f"{metric}_warn": warn, f"{metric}_fail": fail})
    good, bad, worst = (12.0, 7.0, 3.0) if lower else (3.0, 7.0, 12.0)
    side = "below" if lower else "above"
    shell = 1000 if "shell" in metric else None
    limits = config.limits(metric)
    assert Number(metric, good, shell).judge(*limits) == ("pass", "")
    for number, expected, limit in ((bad, "warn", warn), (worst, "fail", fail)):
        verdict, reason = Number(metric, number, shell).judge(*limits)
        assert verdict == expected
        assert (
            METRICS[metric].long_name in reason and f"{side} {limit:g}" in reason and f"{number:g}" in reason
        )
        assert (METRICS[metric].unit in reason) or METRICS[metric].unit == "1"
        assert ("b=1000 s/mm2" in reason) == (shell is not None)
    for limit in (warn, fail):  # at the limit is within it
        assert Number(metric, limit).judge(limit, None)[0] == "pass"
    assert Number(metric, worst).judge(None, None) == ("", "")
    assert Number(metric, worst).judge(None, fail)[0] == "fail"
    assert Number(metric, worst).judge(warn, None)[0] == "warn"
    with pytest.raises(ValidationError, match=metric):
        qc.Config(**{f"{metric}_warn": fail, f"{metric}_fail": warn})


def test_a_failed_number_is_told_and_stops_nothing(tmp_path: Path) -> None:
    made = scan(tmp_path)
    rows, context = ran(
        made.files, tmp_path / "work", snr_b0_warn=90, snr_b0_fail=80, residual_percent_warn=3
    )
    assert rows["snr_b0"]["verdict"] == "fail" and rows["snr_b0"]["fail"] == "80"
    assert rows["residual_percent"]["verdict"] == "warn"
    assert rows["overall"]["verdict"] == "fail"
    failed, warned = context.warnings
    assert (failed.code, warned.code) == ("QC_FAIL", "QC_WARN")
    assert failed.severity == "warning" and "below 80" in failed.found
    assert rows["overall"]["reason"] == f"{failed.found}; {warned.found}"
    assert context.numbers["qc_fail_count"] == 1 and context.numbers["qc_warn_count"] == 1


def test_a_good_scan_passes_in_silence(tmp_path: Path) -> None:
    made = scan(tmp_path)
    rows, context = ran(made.files, tmp_path / "work")
    assert rows["overall"]["verdict"] == "pass" and rows["overall"]["reason"] == "n/a"
    assert not context.warnings and context.numbers["qc_fail_count"] == 0
    assert [name for name in rows if "_b1000" not in name and "_b2000" not in name] == [
        *(name for name in METRICS if "shell" not in name),
        "overall",
    ]


def test_options_have_a_pair_of_limits_for_every_metric() -> None:
    limits = {name for name in qc.Config.model_fields if name.endswith(("_warn", "_fail"))}
    assert limits == {f"{name}_{end}" for name in METRICS for end in ("warn", "fail")}
    for wrong in ({"snr_b0_warn": -1}, {"snr_warn": 1}, {"snr_b0_warn": "high"}):
        with pytest.raises(ValidationError):
            qc.Config(**wrong)


def test_columns_and_metrics_are_in_the_dictionary(tmp_path: Path) -> None:
    made = scan(tmp_path)
    (tmp_path / "identity.json").write_text(json.dumps({"participant_id": "sub-7", "run": "acq-a"}))
    rows, _ = ran(made.files | {"identity": tmp_path / "identity.json"}, tmp_path / "work")
    assert rows["snr_b0"]["participant_id"] == "sub-7" and rows["snr_b0"]["session_id"] == "n/a"
    entries = json.loads((tmp_path / "work/qc_dictionary.json").read_text())
    assert list(entries) == list(rows["snr_b0"]) == list(COLUMNS)
    assert all({"LongName", "Description"} <= set(entry) for entry in entries.values())
    assert set(entries["metric"]["Levels"]) == set(METRICS)


# The cohort


def session_file(folder: Path, name: str, numbers: list[Number], **options: object) -> Path:
    work = folder / name
    work.mkdir()
    session = {"participant_id": name, "protocol": "default", "pipeline_version": "1"}
    return qc.write_table(work / "qc.tsv", numbers, session, qc.Config(**options), Context(work))


def cohort(folder: Path, *paths: Path) -> tuple[list[dict[str, str]], list[dict[str, str]], Context]:
    (folder / "group").mkdir()
    context = Context(folder / "group")
    made = qc_table.run(qc=paths, config=qc_table.Config(), context=context)
    long, wide = (list(csv.DictReader(path.read_text().splitlines(), delimiter="\t")) for path in made[:2])
    return long, wide, context


def test_sessions_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    two = session_file(tmp_path, "sub-2", [Number("snr_b0", 5.0), Number("snr_shell", 4.0, 2000)])
    one = session_file(tmp_path, "sub-1", [Number("snr_b0", 30.0), Number("snr_shell", 9.0, 700)])
    long, wide, context = cohort(tmp_path, two, one)
    assert [row["participant_id"] for row in long] == ["sub-1"] * 3 + ["sub-2"] * 3
    assert list(wide[0]) == [
        *qc_table.SESSION,
        "verdict",
        "reason",
        "snr_b0",
        "snr_shell_b700",
        "snr_shell_b2000",
    ]
    assert [row["snr_b0"] for row in wide] == ["30", "5"]
    assert [row["snr_shell_b700"] for row in wide] == ["9", "n/a"]
    assert [row["verdict"] for row in wide] == ["pass", "fail"] and "below 10" in wide[1]["reason"]
    assert context.numbers == {"sessions": 2, "sessions_pass": 1, "sessions_warn": 0, "sessions_fail": 1}
    entries = json.loads((tmp_path / "group/qc_table_dictionary.json").read_text())
    assert set(wide[0]) | set(long[0]) <= set(entries)
    assert entries["snr_shell_b700"]["LongName"].endswith("b=700 s/mm2")


def test_no_sessions_give_columns_without_rows(tmp_path: Path) -> None:
    long, wide, _ = cohort(tmp_path)
    assert not long and not wide
    assert (tmp_path / "group/qc_table.tsv").read_text().split() == list(COLUMNS)


def test_all_that_is_wrong_with_the_files_is_said_at_once(tmp_path: Path) -> None:
    good = session_file(tmp_path, "sub-1", [Number("snr_b0", 30.0)])
    again = session_file(tmp_path, "again", [Number("snr_b0", 31.0)])
    again.write_text(again.read_text().replace("again", "sub-1"))
    mixed = session_file(tmp_path, "sub-3", [Number("snr_b0", 31.0)])
    mixed.write_text(mixed.read_text().replace("sub-3", "sub-4", 1))
    odd = tsv(tmp_path / "odd.tsv", ["metric", "value"], [["snr_b0", 3]])
    empty = tmp_path / "empty.tsv"
    empty.write_text("")
    with pytest.raises(DatasetError) as error:
        cohort(tmp_path, good, again, mixed, odd, empty, tmp_path / "absent.tsv")
    codes = [problem.code for problem in error.value.problems]
    assert sorted(codes) == ["QC_DUPLICATE"] + ["QC_TABLE"] * 4
