"""What `roi` measures beside the maps: weights, fractions, the noise floor, borders and fluid in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from test_roi import OBLIQUE, ROWS, TABLE, Arrays, Row, measure, of, read, scan

from somite import images, selection
from somite.errors import DatasetError
from somite.gradients import Gradients
from somite.interfaces import tensor
from somite.measure import residual_outliers
from somite.noise_floor import NoiseFloor, Scheme, noise_floor
from somite.phantom import scheme
from somite.phantom.tissue import CSF, NERVE, attenuation
from somite.segments import Segment
from somite.sensitivity import SENSITIVITY_SCHEMA
from somite.tensorfit import design_matrix

SENSITIVE = tuple(column.name for column in SENSITIVITY_SCHEMA)
TRACTS = (
    "index\tname\tregion\tside\tlevel\n1\ta\tnerve_root\tL\tL5\n2\tb\tnerve_root\tR\tL5\n3\tc\tx\tL\tn/a\n"
)


def variants(folder: Path) -> pd.DataFrame:
    frame = pd.DataFrame(read(folder / "sensitivity.tsv", SENSITIVE)).replace("n/a", np.nan)
    numbers = [column.name for column in SENSITIVITY_SCHEMA if column.kind != "text"]
    return frame.astype(dict.fromkeys(numbers, float))


def density(arrays: Arrays, seed: int = 1) -> np.ndarray:
    """Weights of three tracts: two random ones, and one without a voxel."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((*arrays["fa"].shape, 3), np.float32)
    weights[1:4, :, :, 0] = rng.uniform(0.05, 1, (3, *arrays["fa"].shape[1:]))
    weights[5, 2:5, 1:4, 1] = rng.uniform(0.05, 1, (3, 3))
    return weights


@pytest.mark.parametrize(
    ("kind", "table", "extraction", "weighting"),
    [
        ("tract_density", "tract_table", "tract", "density"),
        ("probabilities_dwi", "probability_table", "prob", "probability"),
    ],
)
def test_weights_are_weighted(tmp_path: Path, kind: str, table: str, extraction: str, weighting: str) -> None:
    arrays = scan()
    arrays[kind] = density(arrays)
    rows, context = measure(tmp_path, arrays, texts={table: TRACTS})
    assert len(rows) == 6 * ROWS
    assert {(row["extraction"], row["weighting"]) for row in rows} == {
        ("label", "uniform"),
        (extraction, weighting),
    }
    w = arrays[kind][..., 0].astype(float)
    (row,) = (
        row
        for row in rows
        if (row["extraction"], row["side"], row["metric"], row["statistic"])
        == (extraction, "L", "md", "mean")
        and row["region"] == "nerve_root"
    )
    assert float(row["value"]) == pytest.approx(1e3 * np.average(arrays["md"], weights=w), rel=1e-7)
    assert row["n_voxels"] == str((w > 0).sum())
    assert float(row["n_effective"]) == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-7)
    assert float(row["volume_mm3"]) == pytest.approx(w.sum() * abs(np.linalg.det(OBLIQUE)), rel=1e-6)
    x = arrays["md"].astype(float)[w > 0] * 1e3
    sd = np.sqrt(np.cov(x, aweights=w[w > 0]))
    assert float(row["se"]) == pytest.approx(sd / np.sqrt(float(row["n_effective"])), rel=1e-7)
    assert {r["reason"] for r in rows if r["region"] == "x"} == {"no voxel with a weight"}
    (warning,) = context.warnings
    assert f"x L ({extraction}) (no voxel with a weight)" in warning.found


def test_weights_of_one_are_a_label(tmp_path: Path) -> None:
    arrays = scan()
    arrays["tract_density"] = (arrays["labels_dwi"] == 9).astype(np.float32)[..., None]
    rows, _ = measure(tmp_path, arrays, texts={"tract_table": "index\tname\n1\tcanal\n"})
    for metric, statistic in (
        ("fa", "mean"),
        ("rd", "sd"),
        ("s0", "median"),
        ("fa_of_mean_eigenvalues", "mean"),
    ):
        label, tract = (
            row
            for row in rows
            if (row["region"], row["metric"], row["statistic"]) == ("canal", metric, statistic)
        )
        assert float(tract["value"]) == pytest.approx(float(label["value"]), rel=1e-8)
        assert float(tract["n_effective"]) == float(label["n_effective"]) == 90


def test_without_labels_the_tracts_are_all(tmp_path: Path) -> None:
    arrays = scan()
    arrays["tract_density"] = density(arrays)
    del arrays["labels_dwi"]
    rows, _ = measure(tmp_path, arrays, {"min_weight": 0.5}, table=None, texts={"tract_table": TRACTS})
    assert {row["extraction"] for row in rows} == {"tract"}
    kept = (arrays["tract_density"][..., 0] > 0.5).sum()
    assert of(rows, "nerve_root", side="L")["n_voxels"] == str(kept)
    assert set(variants(tmp_path)["variant"]) == {"physical"}


def test_effectively_few_voxels_are_not_measured(tmp_path: Path) -> None:
    arrays = scan()
    weights = np.full((*arrays["fa"].shape, 1), 1e-6, np.float32)
    weights[2, 2, 2] = weights[3, 3, 3] = 1
    arrays["tract_density"] = weights
    rows, _ = measure(tmp_path, arrays, texts={"tract_table": "index\tname\n1\tt\n"})
    row = of(rows, "t")
    assert (row["value"], row["qc_flags"]) == ("n/a", "not_measured")
    assert "effectively 2" in row["reason"]


@pytest.mark.parametrize(
    ("change", "table", "code"),
    [
        ("negative", "index\tname\n1\tt\n", "WEIGHT_VALUE"),
        ("nan", "index\tname\n1\tt\n", "WEIGHT_VALUE"),
        ("", "index\tname\n2\tt\n", "WEIGHT_COUNT"),
        ("", None, "LABEL_TABLE"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, change: str, table: str | None, code: str) -> None:
    arrays = scan()
    weights = np.ones((*arrays["fa"].shape, 1), np.float32)
    weights[0, 0, 0] = {"negative": -0.1, "nan": np.nan}.get(change, 1)
    arrays["tract_density"] = weights
    with pytest.raises(DatasetError, match=f"^{code}"):
        measure(tmp_path, arrays, texts={} if table is None else {"tract_table": table})


def test_fractions_are_counted_with_wilsons_interval(tmp_path: Path) -> None:
    arrays = scan()
    canal = np.argwhere(arrays["labels_dwi"] == 9)
    arrays["residual"][tuple(canal[:4].T)] = 0.9
    arrays["nonpositive"][tuple(canal[:9].T)] = 1
    arrays["md"][tuple(canal[:18].T)] = 0.5e-3
    rows, _ = measure(tmp_path, arrays, {"fat_md_max": 0.8})
    for metric, value in (
        ("nonpositive_fraction", 0.1),
        ("outlier_fraction", 4 / 90),
        ("fat_suspect_fraction", 0.2),
    ):
        row = of(rows, "canal", metric)
        assert float(row["value"]) == pytest.approx(value)
        assert 0 < float(row["ci_low"]) < value < float(row["ci_high"]) < 1
    row = of(rows, "canal")
    assert (row["qc_status"], row["qc_flags"]) == ("warn", "nonpositive=0.1;fat_suspect=0.2")
    assert not [r for r in measure(tmp_path / "plain", arrays)[0] if r["metric"] == "fat_suspect_fraction"]


def test_residual_outliers_are_those_of_the_segment_itself() -> None:
    rng = np.random.default_rng(0)
    residual = np.abs(rng.normal(0.05, 0.01, 500))
    assert residual_outliers(residual).mean() < 0.01
    residual[:20] += 0.1
    assert residual_outliers(residual).sum() == pytest.approx(20, abs=4)
    assert not residual_outliers(np.r_[np.full(9, 1e-7), 5e-7]).any()


def test_a_fat_fraction_map_fills_its_column(tmp_path: Path) -> None:
    arrays = scan()
    arrays["fat_fraction"] = np.full(arrays["fa"].shape, 0.04, np.float32)
    arrays["fat_fraction"][arrays["labels_dwi"] == 9] = 0.15
    arrays["fat_fraction"][0, 0, 0] = -1  # beyond the map
    rows, _ = measure(tmp_path, arrays)
    canal, root = of(rows, "canal"), of(rows, "nerve_root", side="L")
    assert float(canal["fat_fraction"]) == pytest.approx(0.15, rel=1e-6)
    assert (canal["qc_status"], canal["qc_flags"]) == ("warn", "fat=0.15")
    assert (float(root["fat_fraction"]), root["qc_status"]) == (pytest.approx(0.04, rel=1e-6), "pass")


THIGH = {"snr_warn": 40, "snr_fail": 25, "fat_md_max": 0.8, "fat_warn_fraction": 0.1}
"""The limits of muscle."""


@pytest.mark.parametrize(("sigma", "status"), [(50, "fail"), (30, "warn"), (20, "pass")])
def test_the_limits_of_muscle(tmp_path: Path, sigma: float, status: str) -> None:
    arrays = scan()
    arrays["noise_sigma"][:] = sigma
    assert of(measure(tmp_path, arrays, THIGH)[0], "canal")["qc_status"] == status


def test_perfusion_is_measured_where_it_is_known(tmp_path: Path) -> None:
    arrays = scan()
    arrays["perfusion_fraction"] = np.random.default_rng(3).normal(0.1, 0.02, arrays["fa"].shape)
    rows, _ = measure(tmp_path, arrays)
    expected = arrays["perfusion_fraction"][arrays["labels_dwi"] == 9].astype(np.float32).mean()
    assert float(of(rows, "canal", "perfusion_fraction")["value"]) == pytest.approx(expected, rel=1e-6)
    arrays["perfusion_fraction"] = np.full(arrays["fa"].shape, -1.0)
    row = of(measure(tmp_path / "unknown", arrays)[0], "canal", "perfusion_fraction")
    assert (row["value"], row["reason"]) == ("n/a", "the b-values do not tell the perfusion fraction")
    assert of(rows, "canal")["qc_status"] == "pass"
    del arrays["perfusion_fraction"]
    rows, _ = measure(tmp_path / "none", arrays)
    assert not [row for row in rows if row["metric"] == "perfusion_fraction"]


LOST = "volume\tslice\tz\treplaced\n3\t1\t-9\t1\n4\t1\t-8\t1\n4\t2\t-7\t0\n"
MOTION = "displacement_mm\n" + "0.3\n" * 10


@pytest.mark.parametrize(("axis", "expected"), [("k", 3 / 50), ("i", 3 / 30)])
def test_lost_slices_are_counted_along_the_axis_of_the_slices(
    tmp_path: Path, axis: str, expected: float
) -> None:
    told = {"series": [{"slice_encoding_direction": axis}], "volumes": [{}] * 10}
    texts = {"outliers": LOST, "motion": MOTION, "scan": json.dumps(told)}
    row = of(measure(tmp_path, scan(), texts=texts)[0], "canal", "lost_slice_fraction")
    assert float(row["value"]) == pytest.approx(expected)  # the canal: slices 0 to 2 of i, all five of k
    none = texts | {"outliers": LOST[:24] + "\n", "motion": "displacement_mm\n0\n0\n"}
    rows, _ = measure(tmp_path / "nobody", scan(), texts=none | {"outliers": "volume\tslice\tz\treplaced\n"})
    assert not [r for r in rows if r["metric"] == "lost_slice_fraction"]


def bvec_text(gradients: Gradients) -> str:
    return "\n".join(" ".join(f"{x:.8f}" for x in axis) for axis in gradients.bvecs.T)


def test_the_noise_floor_is_that_of_the_segments_snr_and_md(tmp_path: Path) -> None:
    gradients = scheme.lumbar()
    arrays = scan()
    texts = {"bvec_used": bvec_text(gradients), "bval": " ".join(f"{b:g}" for b in gradients.bvals)}
    rows, _ = measure(tmp_path, arrays, texts=texts)
    row = of(rows, "canal", "fa_noise_floor")
    inside = arrays["labels_dwi"] == 9
    snr, md = arrays["s0"][inside].mean() / 40, arrays["md"][inside].mean()
    assert float(row["value"]) == pytest.approx(noise_floor(Scheme.of(gradients), snr, md), rel=1e-4)
    assert 0.05 < float(row["value"]) < 0.12
    assert float(of(rows, "canal", "snr")["value"]) == pytest.approx(float(row["snr"]), rel=1e-8)
    residual = np.sqrt((arrays["residual"][inside].astype(float) ** 2).mean())
    of_fit = NoiseFloor(Scheme.of(gradients)).at_residual(residual, md)
    found = of(rows, "canal", "fa_noise_floor_of_fit")
    assert float(found["value"]) == pytest.approx(of_fit, rel=1e-4)
    arrays["noise_sigma"][:] = 0
    row = of(measure(tmp_path / "none", arrays, texts=texts)[0], "canal", "fa_noise_floor")
    assert row["reason"] == "the standard deviation of the noise is not known"


def test_the_snr_is_that_of_the_series_with_its_bias_field(tmp_path: Path) -> None:
    arrays = scan()
    arrays["bias_field"] = np.full(arrays["fa"].shape, 1.6, np.float32)
    row = of(measure(tmp_path, arrays)[0], "canal", "snr")
    expected = 1.6 * arrays["s0"][arrays["labels_dwi"] == 9].mean() / 40
    assert float(row["value"]) == pytest.approx(expected, rel=1e-5)
    assert float(row["snr"]) == pytest.approx(expected, rel=1e-5)


def test_what_the_segment_table_tells_is_flagged(tmp_path: Path) -> None:
    header, *lines = TABLE.splitlines()
    flags = ["clipped", "n/a", "clipped", "n/a"]
    table = "\n".join([f"{header}\tflags", *(f"{a}\t{b}" for a, b in zip(lines, flags, strict=True))]) + "\n"
    rows, _ = measure(tmp_path, scan(), table=table)
    root = of(rows, "nerve_root", side="L")
    assert (root["qc_status"], root["qc_flags"]) == ("warn", "clipped")
    assert of(rows, "canal")["qc_flags"] == "n/a"
    assert selection.read_flags(tmp_path / "labels.tsv") == {
        Segment("nerve_root", "L", "L5", "foraminal_drg"): "clipped"
    }


def test_a_border_has_a_neighbour_across_a_face_outside_the_segment() -> None:
    segments = np.zeros((6, 5, 3), np.int32)
    segments[1:6, 1:4] = 1
    segments[3:6, 1:4] = 2
    border = selection.border_of(segments)
    inside = (segments > 0) & ~border
    # Beyond the image nothing is known: neither the last i nor the first and last k are borders of it.
    assert {tuple(index) for index in np.argwhere(inside)} == {(i, 2, k) for i in (4, 5) for k in range(3)}
    assert not selection.border_of(np.ones((4, 4, 1), np.int32)).any()


def fitted(signal: np.ndarray, gradients: Gradients) -> Arrays:
    """Maps of a fit of a series (x, y, z, n), as `scan` gives them."""
    shape = signal.shape[:3]
    estimate = tensor.estimate_by(tensor.Config(), design_matrix(gradients))
    maps = tensor.fit_maps(
        signal.astype(np.float32),
        np.ones(shape, bool),
        gradients,
        estimate,
        used=np.ones(signal.shape[3], bool),
    ).maps
    names = ("fa", "md", "ad", "rd", "s0", "residual", "eigenvalues", "nonpositive")
    arrays = {name: maps[name] for name in names}
    return arrays | {"noise_sigma": np.ones(shape, np.float32), "mask": np.ones(shape, np.uint8)}


def nerve(gradients: Gradients) -> np.ndarray:
    """Signal (n,) of a nerve of FA 0.402 and MD 1.3, 1 at b=0, along an oblique direction."""
    direction = np.array([[0.3], [0.2], [0.93]])
    direction /= np.linalg.norm(direction)
    return attenuation(np.array([0.402]), np.array([1.3e-3]), direction, gradients)[0]


def by_signal(fraction: float, gradients: Gradients) -> np.ndarray:
    """The nerve with this part of its b=0 signal from CSF of 3.0."""
    return (1 - fraction) * nerve(gradients) + fraction * np.exp(-gradients.bvals * 3.0e-3)


def by_volume(fraction: float, gradients: Gradients) -> np.ndarray:
    """The nerve with this part of its volume CSF as the phantom has it, at the phantom's echo time."""
    bright, dim = CSF.brightness(scheme.TE_MS), NERVE.brightness(scheme.TE_MS)
    fluid = bright * np.exp(-gradients.bvals * CSF.md)
    return (1 - fraction) * dim * nerve(gradients) + fraction * fluid


@pytest.mark.parametrize(
    ("mixed", "values", "tolerance"),
    [(by_signal, (0.367, 0.333, 0.264), 5e-4), (by_volume, (0.28, 0.21, 0.12), 5e-3)],
)
def test_fluid_in_a_root_lowers_fa_and_the_variants_show_it(
    tmp_path: Path, mixed: object, values: tuple[float, float, float], tolerance: float
) -> None:
    """Roots of 5 x 5 voxels, pure within and with 10, 20 and 40 % of fluid in their outermost voxels."""
    assert callable(mixed)
    gradients = scheme.lumbar()
    signal = np.tile(by_signal(1.0, gradients), (30, 9, 4, 1))
    labels = np.zeros((30, 9, 4), np.int32)
    for number, fraction in enumerate((0.1, 0.2, 0.4)):
        first = 1 + 10 * number
        signal[first : first + 5, 2:7] = mixed(fraction, gradients)
        signal[first + 1 : first + 4, 3:6] = mixed(0.0, gradients)
        labels[first : first + 5, 2:7] = number + 1
    arrays = fitted(1000 * signal, gradients) | {"labels_dwi": labels}
    table = "index\tname\n1\ta\n2\tb\n3\tc\n"
    rows, _ = measure(tmp_path, arrays, table=table)
    found = variants(tmp_path)
    found = found[(found["metric"] == "fa") & (found["statistic"] == "mean")]
    for name, value in zip("abc", values, strict=True):
        own = found[found["region"] == name].set_index("variant")
        full = (9 * 0.402 + 16 * value) / 25
        assert float(of(rows, name)["value"]) == pytest.approx(full, abs=tolerance)
        assert own.loc["eroded", "value"] == pytest.approx(0.402, abs=5e-4)
        assert own.loc["border_half", "value"] == pytest.approx((9 * 0.402 + 8 * value) / 17, abs=tolerance)
        assert own.loc["eroded", "difference"] == pytest.approx(0.402 - full, abs=tolerance)
        assert own.loc["eroded", "affected_fraction"] == pytest.approx(16 / 25)
        assert (own.loc["eroded", "n_voxels"], own.loc["border_half", "n_voxels"]) == (36, 100)
        assert own.loc["border_half", "n_effective"] == pytest.approx((36 + 32) ** 2 / (36 + 16))


def test_doubtful_voxels_are_kept_and_left_out_beside(tmp_path: Path) -> None:
    arrays = scan()
    canal = np.argwhere(arrays["labels_dwi"] == 9)
    low, high, odd = (tuple(canal[i]) for i in (0, 1, 2))
    arrays["md"][low], arrays["md"][high], arrays["nonpositive"][odd] = 0.7e-3, 2.3e-3, 1
    rows, _ = measure(tmp_path, arrays)
    found = variants(tmp_path)
    one = found.query(
        "region == 'canal' and metric == 'md' and statistic == 'mean' and variant == 'physical'"
    )
    kept = arrays["labels_dwi"] == 9
    all_of_them = 1e3 * arrays["md"][kept].astype(float).mean()
    for index in (low, high, odd):
        kept[index] = False
    left = 1e3 * arrays["md"][kept].astype(float).mean()
    row = one.iloc[0]
    assert row["value"] == pytest.approx(left, rel=1e-8)
    assert row["full_value"] == pytest.approx(all_of_them, rel=1e-8)
    assert row["full_value"] == float(of(rows, "canal", "md")["value"])
    assert row["difference"] == pytest.approx(left - all_of_them, abs=1e-8)
    assert row["affected_fraction"] == pytest.approx(3 / 90)


def test_a_segment_that_erosion_takes_away_says_so(tmp_path: Path) -> None:
    arrays = scan()
    measure(tmp_path, arrays)
    found = variants(tmp_path)
    gone = found.query("region == 'nerve_root' and side == 'R' and variant == 'eroded'")
    assert gone["value"].isna().all()
    assert gone["reason"].str.contains("min_voxels is 3").all()


def test_sensitivity_does_not_depend_on_the_order_of_storage(tmp_path: Path) -> None:
    arrays = scan()
    arrays["tract_density"] = density(arrays)
    measure(tmp_path / "plain", arrays, texts={"tract_table": TRACTS})
    affine = OBLIQUE.copy()
    affine[:, :3] = OBLIQUE[:, (2, 0, 1)]
    turned = {name: np.flip(a.transpose(2, 0, 1, *range(3, a.ndim)), 1) for name, a in arrays.items()}
    affine[:, 3] += affine[:, 1] * (turned["fa"].shape[1] - 1)
    affine[:, 1] *= -1
    measure(tmp_path / "turned", turned, affine=affine, texts={"tract_table": TRACTS})
    for name in ("segments.tsv", "sensitivity.tsv"):
        assert (tmp_path / "plain" / name).read_text() == (tmp_path / "turned" / name).read_text()


def test_a_session_without_segments_has_one_row_of_variants(tmp_path: Path) -> None:
    arrays = scan()
    del arrays["labels_dwi"]
    measure(tmp_path, arrays, table=None)
    rows: list[Row] = read(tmp_path / "sensitivity.tsv", SENSITIVE)
    assert [row["reason"] for row in rows] == ["no segment is measured again"]


def test_real_tracts_have_the_means_of_scipy(real_data: Path, tmp_path: Path) -> None:
    names = ("CST_left", "CST_right", "CC")
    folder = real_data / "atlas-test"
    fa, grid = images.read_float(folder / "FA.nii.gz")
    masks = [images.read_float(folder / f"{name}.nii.gz")[0] > 0 for name in names]
    shape = fa.shape
    eigenvalues = np.full((*shape, 3), 1e-3, np.float32)
    same = {name: np.full(shape, 1e-3, np.float32) for name in ("md", "ad", "rd", "s0", "residual")}
    labels = np.zeros(shape, np.int32)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    arrays = same | {
        "fa": fa,
        "eigenvalues": eigenvalues,
        "nonpositive": np.zeros(shape, np.uint8),
        "noise_sigma": np.ones(shape, np.float32),
        "mask": np.ones(shape, np.uint8),
        "labels_dwi": labels,
        "tract_density": np.stack(masks, -1).astype(np.float32),
    }
    table = "index\tname\n" + "".join(f"{i}\t{name}\n" for i, name in enumerate(names, start=1))
    rows, _ = measure(tmp_path, arrays, {"metrics": ["fa"]}, grid.affine, table, texts={"tract_table": table})
    means = ndimage.mean(fa.astype(float), labels, range(1, 4))
    deviations = ndimage.standard_deviation(fa.astype(float), labels, range(1, 4))
    for name, mask, mean, deviation in zip(names, masks, means, deviations, strict=True):
        label, tract = (r for r in rows if r["region"] == name and r["statistic"] == "mean")
        assert float(label["value"]) == pytest.approx(mean, abs=1e-6)
        assert float(tract["value"]) == pytest.approx(fa[mask].mean(dtype=float), abs=1e-6)
        n = int(label["n_voxels"])
        assert float(label["se"]) * np.sqrt(n - 1) == pytest.approx(deviation, abs=1e-6)
