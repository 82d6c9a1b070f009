"""The FA that noise makes of isotropic tissue, against simulation by other code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from somite.gradients import Gradients
from somite.interfaces import tensor
from somite.noise_floor import SNR_MAX, NoiseFloor, Scheme, noise_floor
from somite.phantom import noise, scheme
from somite.tensorfit import design_matrix

LUMBAR = scheme.lumbar()


@pytest.mark.parametrize("snr", [5.5, 15.0, 25.0, 47.0])
@pytest.mark.parametrize("md", [0.75e-3, 1.3e-3, 2.0e-3])
def test_it_is_that_of_the_phantoms_simulator(snr: float, md: float) -> None:
    truth = noise.expected(0.0, md, snr, LUMBAR, n=6000, seed=1).fa
    assert noise_floor(Scheme.of(LUMBAR), snr, md) == pytest.approx(truth, rel=0.02)


def test_the_canal_of_the_phantom() -> None:
    """Published with the phantom's design: about 0.04 and 0.024 at a nerve SNR of 15 and 25."""
    csf = 2 * math.exp(-73.7 / 1500) / math.exp(-73.7 / 80)
    for snr, floor in ((15, 0.04), (25, 0.024)):
        assert noise_floor(Scheme.of(LUMBAR), snr * csf, 2.72e-3) == pytest.approx(floor, abs=0.003)


def test_the_method_of_the_fit_matters() -> None:
    gradients = scheme.lumbar(b=1500.0)
    for method in ("ols", "wls"):
        truth = noise.expected(0.0, 1.3e-3, 15.0, gradients, n=6000, method=method).fa
        found = noise_floor(Scheme.of(gradients, ols=method == "ols"), 15.0, 1.3e-3)
        assert found == pytest.approx(truth, rel=0.02)


def test_it_falls_with_the_snr_without_steps() -> None:
    floors = [noise_floor(Scheme.of(LUMBAR), snr, 1.3e-3) for snr in np.geomspace(1, 1000, 60)]
    assert (np.diff(floors) <= 1e-12).all()
    assert floors[-1] < 0.003
    at = [noise_floor(Scheme.of(LUMBAR), SNR_MAX * x, 1.3e-3) for x in (0.999, 1.001)]
    assert at[1] == pytest.approx(at[0], rel=0.005)


@pytest.mark.parametrize(("snr", "md"), [(0, 1e-3), (20, 0), (20, -1e-3), (math.nan, 1e-3), (20, math.nan)])
def test_without_snr_or_md_there_is_none(snr: float, md: float) -> None:
    assert math.isnan(noise_floor(Scheme.of(LUMBAR), snr, md))


def test_the_residual_of_a_fit_tells_the_same_floor() -> None:
    """Simulated isotropic voxels: the floor by their residual is the FA that they show."""
    snr, md, n = 25.0, 1.3e-3, 4000
    signal = np.tile((snr * np.exp(-LUMBAR.bvals * md)).astype(np.float32), (n, 1))
    noise.add_rician(signal, 1.0, np.random.default_rng(7))
    estimate = tensor.estimate_by(tensor.Config(), design_matrix(LUMBAR))
    used = np.ones(len(LUMBAR.bvals), np.bool_)
    maps = tensor.fit_maps(
        signal.reshape(n, 1, 1, -1), np.ones((n, 1, 1), np.bool_), LUMBAR, estimate, used=used
    ).maps
    residual = float(np.sqrt((maps["residual"].astype(float) ** 2).mean()))
    floor = NoiseFloor(Scheme.of(LUMBAR))
    assert floor.at_residual(residual, md) == pytest.approx(float(maps["fa"].mean()), rel=0.04)
    assert floor.at_residual(residual, md) == pytest.approx(floor.at_snr(snr, md), rel=0.04)
    assert math.isnan(floor.at_residual(0.0, md))


def test_it_is_known_which_gradients_determine_a_tensor() -> None:
    assert Scheme.of(LUMBAR).determined
    assert not Scheme.of(Gradients(LUMBAR.bvals[:6], LUMBAR.bvecs[:6])).determined
    plane = np.where(np.arange(3) == 2, 0, LUMBAR.bvecs)
    assert not Scheme.of(Gradients(LUMBAR.bvals, plane)).determined
