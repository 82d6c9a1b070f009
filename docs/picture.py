"""Draws the README's picture from the demo's output: python docs/picture.py demo docs/lumbar.png

Needs matplotlib, which Somite itself does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd

BLUE, ORANGE = "#0072B2", "#E69F00"
ZONES = ["intraspinal", "foraminal_drg", "extraforaminal"]


def planes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels turned to RAS, and voxel sizes in mm."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), np.array(image.header.get_zooms()[:3])


def draw_slice(axes: plt.Axes, back: np.ndarray, labels: np.ndarray, extent: list[float], title: str) -> None:
    """A slice, right on the left as radiologists look at it, with the outlines of the segments."""
    axes.imshow(back.T[:, ::-1], cmap="gray", origin="lower", extent=extent, vmin=0, vmax=0.6)
    for index in np.unique(labels[labels > 0]):
        inside = (labels == index).astype(float)
        axes.contour(
            inside.T[:, ::-1], levels=[0.5], colors=[plt.cm.tab20(index % 20)], linewidths=0.9, extent=extent
        )
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    for x, side in ((0.04, "R"), (0.93, "L")):
        axes.text(
            x,
            0.5,
            side,
            transform=axes.transAxes,
            color="white",
            fontsize=9,
            va="center",
            bbox={"facecolor": "black", "pad": 1.5, "edgecolor": "none"},
        )


def main(demo: Path, out: Path) -> None:
    """Draw slices of FA with the segments, and FA of the L5 root by zone and side in patient and control."""
    maps = demo / "derivatives" / "sub-02" / "dwi" / "sub-02_space-dwi_model-tensor_param-fa_dwimap.nii.gz"
    truth = demo / "bids" / "derivatives" / "labels" / "sub-02" / "dwi"
    fa, voxel = planes(maps)
    labels, _ = planes(next(truth.glob("*_dseg.nii.gz")))
    labels = np.where(labels > 100, 0, labels)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), width_ratios=[1, 1, 1.15], layout="constrained")
    k = int(np.argmax([len(np.unique(labels[..., z])) for z in range(labels.shape[2])]))
    nx, ny, nz = np.array(fa.shape) * voxel
    draw_slice(axes[0], fa[:, :, k], labels[:, :, k], [0, nx, 0, ny], "FA, axial, with segments")
    roots = np.isin(labels, np.unique(labels)[(np.unique(labels) > 0) & (np.unique(labels) <= 24)])
    j = int(np.argmax([len(np.unique(labels[:, y][roots[:, y]])) for y in range(labels.shape[1])]))
    draw_slice(axes[1], fa[:, j], labels[:, j], [0, nx, 0, nz], "FA, coronal, through the roots")
    draw_roots(axes[2], demo / "derivatives" / "group" / "segments.tsv")
    figure.savefig(out, dpi=110)


def draw_roots(axes: plt.Axes, table_path: Path) -> None:
    """Mean FA of the L5 root with its interval: zones along it, both sides, a patient and a control."""
    table = pd.read_csv(table_path, sep="\t", na_values="n/a", keep_default_na=False)
    rows = table[
        (table["region"] == "nerve_root")
        & (table["level"] == "L5")
        & (table["metric"] == "fa")
        & (table["statistic"] == "mean")
    ]
    for person, name, marker in (("sub-01", "control", "o"), ("sub-02", "patient", "s")):
        for side, colour, shift in (("L", BLUE, -0.06), ("R", ORANGE, 0.06)):
            chosen = rows[(rows["participant_id"] == person) & (rows["side"] == side)].set_index("segment")
            chosen = chosen.loc[ZONES]
            x = np.arange(3) + shift + (0.02 if name == "patient" else -0.02)
            error = [chosen["value"] - chosen["ci_low"], chosen["ci_high"] - chosen["value"]]
            style = "-" if name == "control" else "--"
            axes.errorbar(
                x, chosen["value"], error, color=colour, fmt=marker + style, ms=5, label=f"{name}, {side}"
            )
    axes.set_xticks(range(3), ["intraspinal", "foraminal\n(ganglion)", "extraforaminal"])
    axes.set_ylabel("FA of the L5 root (mean, 95 % interval)")
    axes.set_ylim(0.2, 0.45)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_title("L5 root: lesion on the right of the patient", fontsize=9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
