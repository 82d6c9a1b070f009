"""What is measured in a segment, and how its voxels are summed up: names, units and descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MetricName = Literal[
    "fa",
    "md",
    "ad",
    "rd",
    "fa_of_mean_eigenvalues",
    "fa_noise_floor",
    "fa_noise_floor_of_fit",
    "s0",
    "snr",
    "residual",
    "perfusion_fraction",
    "nonpositive_fraction",
    "outlier_fraction",
    "lost_slice_fraction",
    "fat_suspect_fraction",
]
StatisticName = Literal["mean", "sd", "median", "iqr"]


@dataclass(frozen=True)
class Metric:
    """A metric of the table."""

    description: str
    unit: str
    """As written in the table."""
    scale: float = 1.0
    """Value in the table / value in the map: the maps of diffusivity are in mm2/s."""
    statistics: tuple[StatisticName, ...] = ("mean", "sd", "median", "iqr")
    """The statistics that the metric has."""


DIFFUSIVITY = "1e-3 mm2/s"
"""Unit of the diffusivities in the table: water at 37 C has about 3."""

_FRACTION = "interval after Wilson (1927)"
METRICS: Mapping[MetricName, Metric] = {
    "fa": Metric("Fractional anisotropy", "1"),
    "md": Metric("Mean diffusivity (apparent diffusion coefficient, trace/3)", DIFFUSIVITY, 1e3),
    "ad": Metric("Axial diffusivity, the largest eigenvalue", DIFFUSIVITY, 1e3),
    "rd": Metric("Radial diffusivity, the mean of the two smaller eigenvalues", DIFFUSIVITY, 1e3),
    "fa_of_mean_eigenvalues": Metric(
        "Fractional anisotropy of the three eigenvalues, each averaged over the segment: not the mean of the "
        "voxels' fractional anisotropy, which noise raises more",
        "1",
        statistics=("mean",),
    ),
    "fa_noise_floor": Metric(
        "Fractional anisotropy that isotropic tissue of the segment's mean MD would show on average at the "
        "segment's SNR with these gradients: simulated, for noise that no denoising has lowered. An FA near "
        "it tells no anisotropy",
        "1",
        statistics=("mean",),
    ),
    "fa_noise_floor_of_fit": Metric(
        "The same for the noise that the residual of the fit shows, what denoising has left: an FA near it "
        "tells no anisotropy even where the series was denoised. Where the tensor does not describe the "
        "tissue the residual is more than noise, and the floor too high",
        "1",
        statistics=("mean",),
    ),
    "s0": Metric("Signal at b=0 from the fit, in the units of the scanner", "arbitrary"),
    "snr": Metric("Signal at b=0 from the fit over the standard deviation of the noise, by voxel", "1"),
    "residual": Metric("Residual of the tensor fit: root mean square over the volumes, over S0", "1"),
    "perfusion_fraction": Metric(
        "Part of the signal at b=0 that the tensor fit without the low b-values does not foretell: blood "
        "that moves (IVIM). Negative values are noise, and kept",
        "1",
    ),
    "nonpositive_fraction": Metric(
        f"Fraction of the fitted voxels with an eigenvalue that is not positive; {_FRACTION}",
        "1",
        statistics=("mean",),
    ),
    "outlier_fraction": Metric(
        "Fraction of the fitted voxels whose residual lies more than 3 robust standard deviations (1.4826 "
        "times the median absolute deviation) above the segment's median residual, and more than 0.001 of "
        f"S0 above it; none below 10 voxels; {_FRACTION}",
        "1",
        statistics=("mean",),
    ),
    "lost_slice_fraction": Metric(
        "Fraction of the segment's signals (fitted voxels times volumes) that lie in slices found to have "
        "lost their signal, whether or not they were replaced by their prediction",
        "1",
        statistics=("mean",),
    ),
    "fat_suspect_fraction": Metric(
        "Fraction of the fitted voxels whose MD is below the limit fat_md_max of the configuration, as that "
        f"of fat that was not suppressed is; {_FRACTION}",
        "1",
        statistics=("mean",),
    ),
}

STATISTICS: Mapping[StatisticName, str] = {
    "mean": "Arithmetic mean over the voxels; interval from Student's t",
    "sd": "Standard deviation over the voxels (n - 1); interval from chi-square, for a normal distribution",
    "median": "Median over the voxels; standard error after McKean and Schrader (1984), interval between "
    "order statistics (binomial, at least 95 %, none below 6 voxels)",
    "iqr": "Third minus first quartile (linear interpolation); standard error from those of the quartiles "
    "and their asymptotic correlation of 1/3",
}
"""For weighted voxels each is the weighted statistic, with their effective number in place of the number."""
