"""The step `roi`: known maps, every way to have no value, and any grid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from somite import images, registry, segments, selection
from somite.errors import DatasetError
from somite.images import Grid
from somite.interfaces import roi
from somite.registry import Context
from somite.segments import SegmentGroup

OBLIQUE = np.array([[1.4, 0.2, -0.1, -20], [-0.3, 1.5, 0.3, 5], [0.1, -0.2, 3.9, 11], [0, 0, 0, 1.0]])
TABLE = """index\tname\tregion\tside\tlevel\tsegment
4\tL5 left, first half\tnerve_root\tL\tL5\tforaminal_drg
9\tcanal\tcanal\tmidline\tn/a\tn/a
2\tL5 left, second half\tnerve_root\tL\tL5\tforaminal_drg
7\tL5 right\tnerve_root\tR\tL5\tforaminal_drg
"""
ROWS = 7 * 4 + 3
"""Rows of a segment: seven metrics of four statistics, FA of the mean eigenvalues and two fractions."""

Row = dict[str, str]
Arrays = dict[str, np.ndarray]


def scan(shape: tuple[int, int, int] = (7, 6, 5), seed: int = 0) -> Arrays:
    """Maps of a fit as the step `tensor` makes them, and labels 2, 4, 7 (2 voxels) and 9."""
    rng = np.random.default_rng(seed)
    eigenvalues = -np.sort(-rng.normal(1.2e-3, 2e-4, (*shape, 3)), axis=-1).astype(np.float32)
    labels = np.zeros(shape, np.int32)
    labels[:3], labels[3], labels[4:, 3:], labels[4, 0, 0:2] = 9, 4, 2, 7
    return {
        "fa": rng.uniform(0.2, 0.4, shape).astype(np.float32),
        "md": eigenvalues.mean(-1),
        "ad": eigenvalues[..., 0],
        "rd": eigenvalues[..., 1:].mean(-1),
        "s0": rng.uniform(900, 1100, shape).astype(np.float32),
        "residual": rng.uniform(0.01, 0.03, shape).astype(np.float32),
        "eigenvalues": eigenvalues,
        "nonpositive": np.zeros(shape, np.uint8),
        "noise_sigma": np.full(shape, 40, np.float32),
        "mask": np.ones(shape, np.uint8),
        "labels_dwi": labels,
    }


def measure(
    folder: Path,
    arrays: Arrays,
    config: Mapping[str, Any] | None = None,
    affine: np.ndarray = OBLIQUE,
    table: str | None = TABLE,
    identity: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> tuple[list[Row], Context]:
    """Run the step on arrays and texts; rows as a reader of the TSV finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = arrays["fa"].shape
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    products: dict[str, Path] = {
        name: images.write(folder / f"{name}.nii", data, grid) for name, data in arrays.items()
    }
    products["bval"] = folder / "dwi.bval"
    products["bval"].write_text("0 5 795 800 805 1500\n")
    if table is not None:
        products["label_table"] = folder / "labels.tsv"
        products["label_table"].write_text(table)
    if identity is not None:
        products["identity"] = folder / "identity.json"
        products["identity"].write_text(json.dumps(identity))
    for name, text in (texts or {}).items():
        products[name] = folder / f"{name}.txt"
        products[name].write_text(text)
    context = Context(folder)
    made = registry.discover()["roi"](roi.Config.model_validate(config or {}), context, **products)
    return read(made["segments"]), context


def read(path: Path, columns: tuple[str, ...] = segments.COLUMNS) -> list[Row]:
    header, *lines = path.read_text().splitlines()
    assert tuple(header.split("\t")) == columns
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]


def of(rows: list[Row], region: str, metric: str = "fa", statistic: str = "mean", side: str = "") -> Row:
    (row,) = (
        row
        for row in rows
        if (row["region"], row["metric"], row["statistic"]) == (region, metric, statistic)
        and side in ("", row["side"])
    )
    return row


def test_every_segment_of_the_table_has_every_row(tmp_path: Path) -> None:
    rows, context = measure(tmp_path, scan())
    places = [tuple(row[name] for name in ("region", "side", "level", "segment")) for row in rows]
    assert places == (
        [("nerve_root", "L", "L5", "foraminal_drg")] * ROWS
        + [("canal", "midline", "n/a", "n/a")] * ROWS
        + [("nerve_root", "R", "L5", "foraminal_drg")] * ROWS
    )
    assert (
        len({(*place, row["metric"], row["statistic"]) for place, row in zip(places, rows, strict=True)})
        == 3 * ROWS
    )
    assert context.numbers == {"segments_expected": 3, "segments_measured": 2}


def test_values_are_those_of_numpy_in_the_units_of_the_table(tmp_path: Path) -> None:
    arrays = scan()
    rows, _ = measure(tmp_path, arrays)
    inside = np.isin(arrays["labels_dwi"], (2, 4))
    metrics: tuple[segments.MetricName, ...] = ("fa", "md", "ad", "rd", "s0", "residual")
    for metric in metrics:
        about = segments.METRICS[metric]
        x = arrays[metric][inside].astype(float) * about.scale
        expected = {
            "mean": x.mean(),
            "sd": x.std(ddof=1),
            "median": np.median(x),
            "iqr": np.subtract(*np.quantile(x, (0.75, 0.25))),
        }
        for statistic, value in expected.items():
            row = of(rows, "nerve_root", metric, statistic, "L")
            assert float(row["value"]) == pytest.approx(value, rel=1e-8)
            assert float(row["ci_low"]) < value < float(row["ci_high"])
            assert float(row["se"]) > 0
            if statistic == "mean":
                assert float(row["se"]) == pytest.approx(x.std(ddof=1) / math.sqrt(x.size), rel=1e-8)
                middle = (float(row["ci_low"]) + float(row["ci_high"])) / 2
                assert middle == pytest.approx(value, rel=1e-7)
            assert row["unit"] == about.unit
            assert (row["n_voxels"], row["qc_status"], row["reason"]) == (str(inside.sum()), "pass", "n/a")
    assert 1.1 < float(of(rows, "canal", "md")["value"]) < 1.3
    mean = arrays["eigenvalues"][inside].astype(float).mean(0)
    fa = math.sqrt(1.5 * ((mean - mean.mean()) ** 2).sum() / (mean**2).sum())
    found = of(rows, "nerve_root", "fa_of_mean_eigenvalues", side="L")
    assert float(found["value"]) == pytest.approx(fa, rel=1e-8)


def test_what_all_rows_share(tmp_path: Path) -> None:
    identity = {
        "participant_id": "sub-01",
        "session_id": "",
        "run": "dir-AP",
        "site": "A",
        "protocol": "lumbar",
        "pipeline_version": "9.9",
        "roi_source": "manual",
        "rater": "",
        "model": "tensor-wls",
        "unrelated": "x",
    }
    arrays = scan()
    rows, _ = measure(tmp_path, arrays, identity=identity)
    expected = {name: text or "n/a" for name, text in identity.items() if name != "unrelated"}
    expected |= {"weighting": "uniform", "extraction": "label", "space": "dwi", "b_used": "0;800;1500"}
    for row in rows:
        assert {name: row[name] for name in expected} == expected
    canal = arrays["labels_dwi"] == 9
    assert float(of(rows, "canal")["snr"]) == pytest.approx(arrays["s0"][canal].mean() / 40, rel=1e-6)
    assert float(of(rows, "canal")["volume_mm3"]) == pytest.approx(
        canal.sum() * abs(np.linalg.det(OBLIQUE)), rel=1e-6
    )


def test_alone_the_step_needs_no_identity(tmp_path: Path) -> None:
    rows, _ = measure(tmp_path, scan())
    unversioned, _ = measure(tmp_path, scan(), identity={"pipeline_version": ""})
    assert unversioned == rows
    assert rows[0]["participant_id"] == rows[0]["model"] == "n/a"
    assert rows[0]["pipeline_version"] not in ("", "n/a")


def test_expected_segments_that_cannot_be_measured_are_rows_with_the_reason(tmp_path: Path) -> None:
    table = TABLE + "11\tnot drawn\tdisc\tmidline\tL4-L5\tn/a\n"
    groups = [
        {"region": "nerve_root", "sides": ["L", "R"], "levels": ["L5"], "segments": ["foraminal_drg"]},
        {"region": "disc", "levels": ["L4-L5", "L5-S1"]},
    ]
    rows, context = measure(tmp_path, scan(), {"segments": groups}, table=table)
    assert len(rows) == 4 * ROWS
    missing = {
        (row["region"], row["side"], row["level"]): row["reason"] for row in rows if row["value"] == "n/a"
    }
    assert missing == {
        ("nerve_root", "R", "L5"): "2 of 2 voxels have a tensor fit, min_voxels is 3",
        ("disc", "midline", "L4-L5"): "no voxel of its label in the label image",
        ("disc", "midline", "L5-S1"): "no label of this segment in the label table",
    }
    for row in rows:
        absent = row["value"] == "n/a"
        assert absent == (row["reason"] != "n/a") == (row["qc_status"] == "fail")
        assert absent == (row["qc_flags"] == "not_measured") == (row["se"] == "n/a")
        assert row["unit"] != "n/a"
    assert of(rows, "nerve_root", side="R")["n_voxels"] == "2"
    (warning,) = context.warnings
    assert (warning.code, warning.severity) == ("SEGMENT_NOT_MEASURED", "warning")
    assert "disc midline L5-S1 (no label" in warning.found
    assert context.numbers["segments_measured"] == 1


def test_without_a_label_image_every_expected_segment_has_its_rows(tmp_path: Path) -> None:
    arrays = scan()
    del arrays["labels_dwi"]
    groups = {"segments": [{"region": "CST", "sides": ["L", "R"]}]}
    for name, config, table, n in (
        ("config", groups, None, 2 * ROWS),
        ("table", {}, TABLE, 3 * ROWS),
        ("neither", {}, None, 1),
    ):
        rows, context = measure(tmp_path / name, arrays, config, table=table)
        assert len(rows) == n
        assert {(row["value"], row["qc_status"]) for row in rows} == {("n/a", "fail")}
        assert all(row["reason"].startswith("no label image") for row in rows)
        assert [warning.code for warning in context.warnings] == ["SEGMENT_NOT_MEASURED"]


def test_a_table_without_labels_gives_one_row(tmp_path: Path) -> None:
    rows, _ = measure(tmp_path, scan(), table="index\tname\n")
    assert [row["reason"] for row in rows] == ["the label table names no label"]


def test_voxels_without_a_fit_are_left_out_and_flagged(tmp_path: Path) -> None:
    arrays = scan()
    canal = np.argwhere(arrays["labels_dwi"] == 9)
    outside, broken, unfitted = (tuple(canal[i]) for i in (0, 20, 50))
    arrays["mask"][outside] = 0
    arrays["fa"][outside] = 0
    arrays["md"][broken] = np.nan
    arrays["eigenvalues"][unfitted] = 0
    rows, _ = measure(tmp_path, arrays)
    kept = arrays["labels_dwi"] == 9
    for voxel in (outside, broken, unfitted):
        kept[voxel] = False
    for metric in ("fa", "md", "s0"):
        row = of(rows, "canal", metric)
        expected = arrays[metric][kept].astype(float).mean() * segments.METRICS[metric].scale  # type: ignore[index]
        assert float(row["value"]) == pytest.approx(expected, rel=1e-8)
        assert row["n_voxels"] == str(len(canal) - 3)
        assert (row["qc_status"], row["qc_flags"]) == ("warn", f"no_fit={3 / len(canal):.3g}")
    full = len(canal) * abs(np.linalg.det(OBLIQUE))
    assert float(of(rows, "canal")["volume_mm3"]) == pytest.approx(full, rel=1e-6)
    tolerant, _ = measure(tmp_path / "tolerant", arrays, {"no_fit_warn_fraction": 0.1})
    assert of(tolerant, "canal")["qc_status"] == "pass"
    strict, _ = measure(tmp_path / "strict", arrays, {"no_fit_fail_fraction": 0.01})
    assert of(strict, "canal")["qc_status"] == "fail"
    assert of(strict, "canal")["value"] != "n/a"


def test_nonpositive_eigenvalues_are_kept_and_flagged(tmp_path: Path) -> None:
    arrays = scan()
    bad = tuple(np.argwhere(arrays["labels_dwi"] == 9)[:9].T)
    arrays["nonpositive"][bad] = 1
    arrays["md"][bad] = -1e-3
    rows, _ = measure(tmp_path, arrays)
    row = of(rows, "canal", "md")
    assert float(row["value"]) == pytest.approx(1e3 * arrays["md"][:3].astype(float).mean(), rel=1e-8)
    assert (row["n_voxels"], row["qc_status"], row["qc_flags"]) == ("90", "warn", "nonpositive=0.1")
    assert of(rows, "nerve_root", side="L")["qc_flags"] == "n/a"
    limits = {"nonpositive_warn_fraction": 0.01, "nonpositive_fail_fraction": 0.05}
    assert of(measure(tmp_path / "strict", arrays, limits)[0], "canal")["qc_status"] == "fail"


@pytest.mark.parametrize(
    ("limits", "status", "flags"),
    [
        ({}, "pass", "n/a"),
        ({"snr_warn": 20}, "pass", "n/a"),
        ({"snr_warn": 40}, "warn", "low_snr"),
        ({"snr_warn": 40, "snr_fail": 30}, "fail", "low_snr"),
        ({"snr_fail": 30}, "fail", "low_snr"),
    ],
)
def test_limits_of_the_snr(tmp_path: Path, limits: dict[str, float], status: str, flags: str) -> None:
    row = of(measure(tmp_path, scan(), limits)[0], "canal")
    assert 24 < float(row["snr"]) < 26
    assert (row["qc_status"], row["qc_flags"]) == (status, flags)


def test_without_noise_there_is_no_snr(tmp_path: Path) -> None:
    arrays = scan()
    arrays["noise_sigma"][0] = np.nan
    arrays["noise_sigma"][1:] = 0
    row = of(measure(tmp_path, arrays)[0], "canal")
    assert (row["snr"], row["qc_status"]) == ("n/a", "pass")
    row = of(measure(tmp_path, arrays, {"snr_warn": 20})[0], "canal")
    assert (row["qc_status"], row["qc_flags"]) == ("warn", "no_snr")
    arrays["noise_sigma"][0] = np.inf
    arrays["noise_sigma"][2] = np.linspace(20, 60, 30).reshape(6, 5)
    known = (arrays["s0"][2] / arrays["noise_sigma"][2]).mean()
    assert float(of(measure(tmp_path, arrays)[0], "canal")["snr"]) == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("flip", [None, 0, 2])
def test_the_order_of_storage_does_not_matter(
    tmp_path: Path, axes: tuple[int, int, int], flip: int | None
) -> None:
    arrays = scan()
    measure(tmp_path / "plain", arrays)
    affine = OBLIQUE.copy()
    affine[:, :3] = OBLIQUE[:, axes]
    turned = {name: a.transpose(*axes, *range(3, a.ndim)) for name, a in arrays.items()}
    if flip is not None:
        affine[:, 3] += affine[:, flip] * (turned["fa"].shape[flip] - 1)
        affine[:, flip] *= -1
        turned = {name: np.flip(a, flip) for name, a in turned.items()}
    measure(tmp_path / "turned", turned, affine=affine)
    texts = [(tmp_path / name / "segments.tsv").read_text() for name in ("plain", "turned")]
    assert texts[0] == texts[1]


def test_one_slice(tmp_path: Path) -> None:
    arrays = {name: a[:, :, :1] for name, a in scan().items()}
    rows, _ = measure(tmp_path, arrays)
    assert of(rows, "canal")["n_voxels"] == "18"
    assert float(of(rows, "canal")["value"]) == pytest.approx(arrays["fa"][:3].astype(float).mean(), rel=1e-8)


def test_a_single_voxel_has_a_mean_and_no_spread(tmp_path: Path) -> None:
    arrays = scan()
    arrays["labels_dwi"][:] = 0
    arrays["labels_dwi"][1, 2, 3] = 9
    table = "index\tname\n9\tcanal\n"
    rows, context = measure(tmp_path, arrays, {"min_voxels": 1}, table=table)
    mean, sd = of(rows, "canal"), of(rows, "canal", statistic="sd")
    assert float(mean["value"]) == pytest.approx(float(arrays["fa"][1, 2, 3]), rel=1e-8)
    assert (mean["se"], mean["ci_low"], mean["qc_status"]) == ("n/a", "n/a", "pass")
    assert (sd["value"], sd["qc_status"], sd["reason"]) == ("n/a", "fail", "sd is not defined for 1 voxel")
    assert context.numbers["segments_measured"] == 1


def test_metrics_and_statistics_are_chosen_in_order(tmp_path: Path) -> None:
    config = {"metrics": ["md", "fa_of_mean_eigenvalues"], "statistics": ["median", "sd"]}
    rows, _ = measure(tmp_path, scan(), config)
    assert [(row["metric"], row["statistic"]) for row in rows[:3]] == [
        ("md", "median"),
        ("md", "sd"),
        ("fa_of_mean_eigenvalues", "mean"),
    ]
    assert len(rows) == 3 * 3


def test_values_that_the_table_does_not_name_are_told(tmp_path: Path) -> None:
    _, context = measure(tmp_path, scan(), table="index\tname\n9\tcanal\n4\tx\n")
    (warning,) = context.warnings
    assert (warning.code, warning.found) == ("LABEL_UNNAMED", "2, 7")


def test_an_image_on_another_grid_is_refused(tmp_path: Path) -> None:
    arrays = scan()
    measure(tmp_path, arrays)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 0.5
    grid = Grid((7, 6, 5), shifted)
    products = {name: tmp_path / f"{name}.nii" for name in arrays}
    for name, code in (("labels_dwi", "LABEL_GRID"), ("md", "IMAGE_GRID")):
        moved = images.write(tmp_path / "moved.nii", arrays[name], grid)
        with pytest.raises(DatasetError, match=f"^{code}") as caught:
            roi.run(
                **products
                | {name: moved, "bval": tmp_path / "dwi.bval", "label_table": tmp_path / "labels.tsv"},
                config=roi.Config(),
                context=Context(tmp_path),
            )
        assert "moved.nii" in caught.value.problems[0].where


def test_a_label_image_of_two_volumes_is_refused(tmp_path: Path) -> None:
    arrays = scan()
    arrays["labels_dwi"] = np.stack([arrays["labels_dwi"]] * 2, -1)
    with pytest.raises(DatasetError, match="LABEL_GRID: the label image is not 3D"):
        measure(tmp_path, arrays)


def test_a_label_image_without_its_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="LABEL_TABLE: the label image has no label table"):
        measure(tmp_path, scan(), table=None)


@pytest.mark.parametrize(
    "options",
    [
        {"segments": "some"},
        {"segments": [{"region": "disc", "side": "L"}]},
        {"metrics": ["fa", "fa"]},
        {"metrics": ["adc"]},
        {"statistics": []},
        {"min_voxels": 0},
        {"no_fit_warn_fraction": 5},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        roi.Config.model_validate(options)


def test_segments_of_the_configuration_keep_its_order() -> None:
    config = roi.Config(segments=(SegmentGroup(region="b"), SegmentGroup(region="a")))
    found = selection.expected_segments(config.segments, {}, has_image=True)
    assert [one.segment.region for one in found] == ["b", "a"]


def test_positions_of_labels_among_sorted_values() -> None:
    where, values = selection.locate(np.array([[[0, 5]], [[3, 5]]], np.int32))
    assert values.tolist() == [3, 5, 5]
    assert where.tolist() == [1, 2, 3]
    assert selection.positions(values, (5, 4)).tolist() == [1, 2]
    assert selection.positions(values, (5, 3)).tolist() == [1, 2, 0]
    assert selection.positions(values, ()).tolist() == []


@pytest.mark.parametrize(
    ("bvals", "expected"),
    [
        ([0, 800, 800], [0, 800]),
        ([5, 50, 795, 798, 805, 1490, 1510], [0, 800, 1500]),
        ([700, 0, 350], [0, 350, 700]),
        ([1000], [1000]),
    ],
)
def test_shells(bvals: list[float], expected: list[int]) -> None:
    assert roi.shells(np.array(bvals, float)) == expected
