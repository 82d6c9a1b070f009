"""Tissues of the phantoms and the signal equation: relaxation times an axisymmetric diffusion tensor.

S(b, g) = S0 exp(-TE / T2) exp(-b gᵀDg), with D of fractional anisotropy FA and mean diffusivity MD:
t = FA / sqrt(3 - 2 FA²), axial diffusivity AD = MD (1 + 2t), radial diffusivity RD = MD (1 - t).

In perfused tissue the fraction f of the water flows in capillaries (intravoxel incoherent motion, Le Bihan et
al. 1988, 10.1148/radiology.168.2.3393671), and what fat suppression leaves has the share r of the signal:
S / S(b=0) = (1 - r) ((1 - f) exp(-b gᵀDg) + f exp(-b D*)) + r exp(-b D_fat).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """What a tissue is made of. Where FA and MD vary in space, those given here are not used."""

    name: str
    s0: float
    """Proton density, relative to nerve, muscle or white matter; that of fat after suppression."""
    t2_ms: float
    fa: float = 0.0
    md: float = 0.0
    """mm2/s"""
    perfusion: float = 0.0
    """Fraction of the water that flows in capillaries."""
    pseudo_diffusion: float = 0.0
    """Of that water, mm2/s."""
    fat: float = 0.0
    """Share of fat in the signal at b=0, after suppression."""
    unsuppressed_s0: float | None = None
    """Proton density where fat is not suppressed; None: `s0`."""

    @property
    def mixture(self) -> tuple[float, float, float]:
        """Perfusion, pseudo-diffusion and fat, as `attenuation` takes them."""
        return self.perfusion, self.pseudo_diffusion, self.fat

    def brightness(self, te_ms: float) -> float:
        """Signal at b=0 and this echo time, relative to fully relaxed nerve."""
        return float(self.s0 * np.exp(-te_ms / self.t2_ms))

    def brightness_tse(self, te_ms: float) -> float:
        """Signal of a turbo spin echo without fat suppression, same unit."""
        s0 = self.s0 if self.unsuppressed_s0 is None else self.unsuppressed_s0
        return float(s0 * np.exp(-te_ms / self.t2_ms))


FAT_DIFFUSION = 0.02e-3
"""Diffusivity of the fat within a tissue, mm2/s: next to none."""

AIR = Tissue("air", 0.0, 1.0)
SKIN = Tissue("skin", 0.5, 35.0, 0.0, 0.9e-3)
FAT = Tissue("fat, suppressed", 0.12, 80.0, 0.0, 0.2e-3, unsuppressed_s0=1.3)
ABDOMEN = Tissue("abdominal organs", 0.8, 60.0, 0.0, 1.2e-3)
VESSEL = Tissue("flow void", 0.02, 80.0, 0.0, 1.5e-3)
BONE = Tissue("bone", 0.15, 80.0, 0.0, 0.5e-3, unsuppressed_s0=0.7)
CSF = Tissue("cerebrospinal fluid", 2.0, 1500.0, 0.0, 2.72e-3)
NERVE = Tissue("nerve", 1.0, 80.0, 0.40, 1.3e-3)
NUCLEUS = Tissue("nucleus pulposus", 1.2, 130.0, 0.12, 1.6e-3)
ANNULUS = Tissue("annulus fibrosus", 0.6, 50.0, 0.34, 1.0e-3)
MULTIFIDUS = Tissue("multifidus", 1.0, 35.0, 0.24, 1.50e-3)
ERECTOR_SPINAE = Tissue("erector spinae", 1.0, 35.0, 0.26, 1.45e-3)
PSOAS_MAJOR = Tissue("psoas major", 1.0, 35.0, 0.28, 1.55e-3)
QUADRATUS = Tissue("quadratus lumborum", 1.0, 35.0, 0.25, 1.50e-3)


def eigenvalues(fa: Floats, md: Floats) -> tuple[Floats, Floats]:
    """Axial and radial diffusivity of an axisymmetric tensor, in the unit and shape of `md`."""
    t = fa / np.sqrt(3.0 - 2.0 * fa**2)
    return md * (1.0 + 2.0 * t), md * (1.0 - t)


def anisotropy(ad: Floats, rd: Floats) -> Floats:
    """Fractional anisotropy of a tensor with the eigenvalues AD, RD, RD."""
    return np.asarray(np.abs(ad - rd) / np.sqrt(ad**2 + 2.0 * rd**2), np.float64)


def attenuation(
    fa: Floats,
    md: Floats,
    directions: Floats,
    gradients: Gradients,
    perfusion: float = 0.0,
    pseudo_diffusion: float = 0.0,
    fat: float = 0.0,
) -> Floats:
    """Signal of m tensors over that at b=0, exp(-b gᵀDg) where nothing flows and no fat is: (m, n volumes).

    Args:
        fa: (m,).
        md: (m,), mm2/s.
        directions: principal directions, unit vectors in the frame of the gradients, (3, m).
        gradients: n volumes.
        perfusion: fraction of the water that flows in capillaries.
        pseudo_diffusion: of that water, mm2/s.
        fat: share of fat in the signal at b=0.
    """
    ad, rd = eigenvalues(fa, md)
    along = (gradients.bvecs @ directions) ** 2
    # The b of a volume without a direction (b=0) multiplies nothing but itself: along is 0 there.
    exponent: NDArray[Any] = gradients.bvals[:, None] * (rd + (ad - rd) * along)
    signal = np.asarray(np.exp(-exponent).T, np.float64)
    if perfusion:
        signal = (1.0 - perfusion) * signal + perfusion * np.exp(-gradients.bvals * pseudo_diffusion)
    if fat:
        signal = (1.0 - fat) * signal + fat * np.exp(-gradients.bvals * FAT_DIFFUSION)
    return signal
