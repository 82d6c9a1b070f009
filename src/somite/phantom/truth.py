"""What a fit without noise should find in each segment of a phantom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.phantom import tissue
from somite.phantom.tissue import Floats
from somite.segments import METRICS, Label, MetricName, Segment


@dataclass(frozen=True)
class Truth:
    """Truth of one segment: over its pure voxels, the mean and the standard deviation (n - 1)."""

    segment: Segment
    n_voxels: int
    mean: dict[MetricName, float]
    """Metric -> value in the units of the maps: diffusivities in mm2/s."""
    sd: dict[MetricName, float]


def of_labels(
    labels: Sequence[Label], image: NDArray[np.int16], fa: NDArray[np.float32], md: NDArray[np.float32]
) -> Iterator[Truth]:
    """Truth of each label from the voxels (x, y, z) that wholly are of it."""
    for label in labels:
        inside = image == label.index
        yield segment_truth(label.segment, fa[inside].astype(np.float64), md[inside].astype(np.float64))


def segment_truth(segment: Segment, fa: Floats, md: Floats) -> Truth:
    """Truth of a segment from the FA and MD of its pure voxels (n,).

    The mean of FA is that of the voxels' own; `fa_of_mean_eigenvalues` is the FA of mean AD and RD. NaN where
    there are no voxels.
    """
    ad, rd = tissue.eigenvalues(fa, md)
    n = len(fa)
    values: dict[MetricName, Floats] = {"fa": fa, "md": md, "ad": ad, "rd": rd}
    mean = {name: float(v.mean()) if n else math.nan for name, v in values.items()}
    sd = {name: float(v.std(ddof=1)) if n > 1 else math.nan for name, v in values.items()}
    mean["fa_of_mean_eigenvalues"] = float(tissue.anisotropy(np.array(mean["ad"]), np.array(mean["rd"])))
    return Truth(segment, n, mean, sd)


def rows(truths: Iterable[Truth], voxel_mm3: float) -> list[dict[str, object]]:
    """Truths as rows of the long table (`somite.segments.COLUMNS`), without the participant's name."""
    rows: list[dict[str, object]] = []
    for truth in truths:
        s = truth.segment
        for metric in truth.mean:
            about = METRICS[metric]
            for statistic, values in (("mean", truth.mean), ("sd", truth.sd)):
                if statistic not in about.statistics:
                    continue
                rows.append(
                    {
                        "region": s.region,
                        "side": s.side,
                        "level": s.level,
                        "segment": s.segment,
                        "metric": metric,
                        "statistic": statistic,
                        "value": values[metric] * about.scale,
                        "unit": about.unit,
                        "n_voxels": truth.n_voxels,
                        "volume_mm3": truth.n_voxels * voxel_mm3,
                        "weighting": "uniform",
                        "extraction": "label",
                        "space": "dwi",
                    }
                )
    return rows
