"""Tensor fits against dipy and dwi2tensor: time, agreement, and the error with dropouts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import head
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from harness import THREADS, Row, absent, best_seconds, command
from threadpoolctl import threadpool_limits

from somite import tensorfit
from somite.interfaces import tensor
from somite.registry import Context

NAME = "tensor"


def rows() -> list[Row]:
    """Rows of this benchmark."""
    scan = head.make()
    return [*_against_dipy(scan), *_against_dwi2tensor(scan), *_robust(scan)]


def _fit(scan: head.Head, series: np.ndarray, threads: int) -> dict[str, np.ndarray]:
    config = tensor.Config()
    estimate = tensor.estimate_by(config, tensorfit.design_matrix(scan.gradients))
    used = np.ones(len(scan.gradients.bvals), bool)
    return tensor.fit_maps(series, scan.mask, scan.gradients, estimate, used=used, threads=threads).maps


def _against_dipy(scan: head.Head) -> list[Row]:
    table = gradient_table(scan.gradients.bvals, bvecs=scan.gradients.bvecs)
    # Each gets the series as it likes it: ours as it lies in a NIfTI file, dipy's in double precision.
    series, as_dipy = np.asfortranarray(scan.noisy), scan.noisy.astype(np.float64)
    made: dict[str, np.ndarray] = {}

    def dipy() -> None:
        fit = TensorModel(table, fit_method="WLS").fit(as_dipy, mask=scan.mask)
        made.update(fa=fit.fa, md=fit.md, ad=fit.ad, rd=fit.rd, values=fit.evals)

    ours: dict[str, np.ndarray] = {}
    calls = {
        "one": lambda: ours.update(_fit(scan, series, 1)),
        "more": lambda: ours.update(_fit(scan, series, THREADS)),
        "dipy": dipy,
    }
    seconds = best_seconds(calls)
    positive = scan.mask & (made["values"] > 2e-9).all(-1)
    apart = float(np.abs(ours["fa"] / np.where(positive, made["fa"], 1) - 1)[positive].max())
    voxels = f"{scan.mask.sum()} voxels of {scan.noisy.shape[3]} volumes"
    return [
        Row(
            NAME, f"WLS and maps, {voxels}, one thread", "s", seconds["one"], "dipy WLS", seconds["dipy"], 0.1
        ),
        Row(NAME, f"the same, {THREADS} threads", "s", seconds["more"], "dipy WLS", seconds["dipy"], 0.1),
        Row(NAME, "largest relative difference in FA to dipy WLS", "", apart, at_most=1e-6),
    ]


def _against_dwi2tensor(scan: head.Head) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = scan.write(folder)
        context = Context(folder, threads=THREADS)
        calls = {
            "wls": lambda: tensor.run(**files, config=tensor.Config(), context=context),
            "iwls": lambda: tensor.run(**files, config=tensor.Config(method="iwls"), context=context),
        }
        note = "files to files, 2 reweightings each; ours writes 10 maps, theirs 7"
        if absent(["dwi2tensor", "tensor2metric"]):
            note = "dwi2tensor is not installed"
        else:
            calls["mrtrix"] = _mrtrix(files, folder)
        seconds = best_seconds(calls, repeats=5)
    peer = seconds.get("mrtrix")
    return [
        Row(NAME, "IWLS and maps", "s", seconds["iwls"], "dwi2tensor + tensor2metric", peer, 1.0, note),
        Row(NAME, "WLS and maps", "s", seconds["wls"], "dwi2tensor + tensor2metric", peer, 1.0, note),
    ]


def _mrtrix(files: dict[str, Path], folder: Path) -> Callable[[], object]:
    fixed = ("-quiet", "-force", "-nthreads", THREADS)
    fit = command(
        "dwi2tensor", *fixed, "-fslgrad", files["bvec"], files["bval"], "-mask", files["mask"],
        files["dwi"], folder / "dt.nii",
    )  # fmt: skip
    outputs = ("fa", "adc", "ad", "rd", "value", "vector")
    maps = command(
        "tensor2metric", *fixed, "-mask", files["mask"], "-num", "1,2,3",
        *(word for name in outputs for word in (f"-{name}", folder / f"{name}.nii")), folder / "dt.nii",
    )  # fmt: skip
    return lambda: (fit(), maps())


def _robust(scan: head.Head) -> list[Row]:
    """FA of white matter with 5 % of the signals dropped to a tenth or up to seven tenths."""
    rng = np.random.default_rng(0)
    inside = scan.white & (rng.random(scan.white.shape) < 0.3)
    signal = scan.noisy[inside].astype(np.float64)
    signal *= np.where(rng.random(signal.shape) < 0.05, rng.uniform(0.1, 0.7, signal.shape), 1)
    design = tensorfit.design_matrix(scan.gradients)
    log_signal = np.log(np.maximum(signal, 1e-4)).T
    table = gradient_table(scan.gradients.bvals, bvecs=scan.gradients.bvecs)
    restore = TensorModel(table, fit_method="RESTORE", sigma=head.SIGMA)
    fits: dict[str, np.ndarray] = {}

    def ours(name: str, parameters: np.ndarray) -> None:
        fits[name] = tensorfit.fractional_anisotropy(tensorfit.eigen(parameters[:6])[0])

    ours("truth", tensorfit.fit_wls(np.log(scan.clean[inside].astype(np.float64)).T, design))
    calls = {
        "wls": lambda: ours("wls", tensorfit.fit_wls(log_signal, design)),
        "robust": lambda: ours("robust", tensorfit.fit_robust(log_signal, design, 3)[0]),
        "restore": lambda: fits.update(restore=restore.fit(signal).fa),
    }
    with threadpool_limits(1):
        seconds = best_seconds(calls, repeats=1)
    error = {name: float(np.sqrt(((fa - fits["truth"]) ** 2).mean())) for name, fa in fits.items()}
    case = f"5 % dropout, {inside.sum()} voxels of white matter"
    return [
        Row(NAME, f"FA RMSE, robust, {case}", "", error["robust"], "dipy RESTORE", error["restore"]),
        Row(NAME, f"FA RMSE, robust, {case}", "", error["robust"], "our WLS", error["wls"]),
        Row(NAME, f"time, robust, {case}", "s", seconds["robust"], "dipy RESTORE", seconds["restore"]),
    ]
