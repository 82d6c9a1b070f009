"""`make demo`: a phantom cohort through the whole pipeline, and its numbers beside the truth.

The cohort goes through twice: by the lumbar protocol, and as it was acquired, without what changes the
noise: denoising, the removal of ringing, and motion correction. The second can be held against what theory
expects: noise biases FA, and a simulation with the tissue's own signal-to-noise ratio and the same gradients
says by how much.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from somite import cli
from somite.phantom import noise, scheme
from somite.show import columns
from somite.stdout import say

AS_ACQUIRED = """\
# The lumbar protocol without what changes the noise: its numbers can be told in advance.
extends: lumbar
denoise: {method: none, noise_floor: keep}
degibbs: {method: none}
eddy: {method: none}
"""

FA_NEAR = 0.01
"""Measured FA may be this far from the expected one."""
MD_NEAR, MD_NEAR_CSF = 0.01, 0.03
"""The same for MD, relative."""

TISSUE = ["region", "segment", "lesion"]


def pooled(table: Path, truth: Path) -> pd.DataFrame:
    """Means of FA and MD, pooled over participants, sides and levels whose truth is the same, by voxels.

    Returns a row per tissue: voxels, signal-to-noise ratio, true and measured FA, true and measured MD in
    1e-3 mm2/s.
    """
    keys = ["participant_id", "region", "side", "level", "segment", "metric"]
    found, true = (_means(path).set_index(keys) for path in (table, truth))
    rows = found[["value", "n_voxels", "snr"]].join(true["value"].rename("value_true")).reset_index()
    lesion = rows["participant_id"].isin(_with_lesion(true)) & (rows["level"] == "L5") & (rows["side"] == "R")
    rows["lesion"] = lesion & (rows["region"] == "nerve_root")
    rows.loc[rows["lesion"], "segment"] = "L5 R lesion"
    summary = []
    for names, group in rows.groupby([*TISSUE, "metric"]):
        weights = group["n_voxels"] / group["n_voxels"].sum()
        means = [(group[name] * weights).sum() for name in ("snr", "value_true", "value")]
        summary.append([*names, group["n_voxels"].sum(), *means])
    long = pd.DataFrame(summary, columns=[*TISSUE, "metric", "voxels", "snr", "true", "measured"])
    wide = long.pivot(index=[*TISSUE, "voxels", "snr"], columns="metric", values=["true", "measured"])
    wide.columns = ["_".join(names) for names in wide.columns.to_flat_index()]
    return wide.reset_index()


def _with_lesion(truth: pd.DataFrame) -> set[str]:
    """Participants whose right L5 root is the lesion of the phantom."""
    root = truth.xs(("nerve_root", "R", "L5"), level=("region", "side", "level")).xs("fa", level="metric")
    whole = root.groupby("participant_id")["value"].max()
    return set(whole[whole < 0.3].index)


def _means(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False)
    table[["side", "level", "segment"]] = table[["side", "level", "segment"]].fillna("")
    chosen = table["metric"].isin(["fa", "md"]) & (table["statistic"] == "mean")
    return table[chosen & table["value"].notna()]


def beside_the_truth(acquired: pd.DataFrame, protocol: pd.DataFrame) -> pd.DataFrame:
    """What was measured beside the truth and what theory expects, and whether it is near enough."""
    table = acquired.copy()
    known = table[["true_fa", "true_md", "snr"]].to_numpy(float).tolist()
    simulated = [noise.expected(fa, md * 1e-3, snr, scheme.lumbar()) for fa, md, snr in known]
    table["expected_fa"] = [means.fa for means in simulated]
    table["expected_md"] = [means.md * 1e3 for means in simulated]
    csf = table["region"] == "canal"
    table["near"] = ((table["measured_fa"] - table["expected_fa"]).abs() <= FA_NEAR) & (
        (table["measured_md"] / table["expected_md"] - 1).abs()
        <= csf.map({True: MD_NEAR_CSF, False: MD_NEAR})
    )
    table["protocol_fa"] = protocol["measured_fa"]
    table["protocol_md"] = protocol["measured_md"]
    return table


def _lines(table: pd.DataFrame) -> Sequence[str]:
    head = ("tissue", "voxels", "SNR")
    kinds = ("true", "expected", "measured", "protocol")
    rows = [(*head, *(f"{metric} {kind}" for metric in ("FA", "MD") for kind in kinds), "")]
    for row in table.to_dict("records"):
        numbers = [f"{row[f'{kind}_{metric}']:.3f}" for metric in ("fa", "md") for kind in kinds]
        name = f"{row['region']} {row['segment']}".strip()
        verdict = "" if row["near"] else "NOT NEAR"
        rows.append((name, str(row["voxels"]), f"{row['snr']:.0f}", *numbers, verdict))
    return list(columns(rows))


def main(folder: Path) -> int:
    """Make the cohort if it is not there, run it, and print the comparison; returns the exit code."""
    dataset = folder / "bids"
    if not (dataset / "dataset_description.json").is_file():
        _call("phantom", "lumbar", str(dataset), "--participants", "4", "--seed", "1")
    acquired = folder / "as_acquired.yaml"
    acquired.write_text(AS_ACQUIRED, encoding="utf-8")
    for out, config in (("derivatives", "lumbar"), ("as_acquired", str(acquired))):
        code = _call(
            *("run", str(dataset), str(folder / out), "participant", "group", "-c", config),
            *("--work-dir", str(folder / "work")),
        )
        if code != cli.DONE:
            return code
    truth = dataset / "derivatives" / "truth" / "segments.tsv"
    tables = [
        pooled(folder / out / "group" / "segments.tsv", truth) for out in ("as_acquired", "derivatives")
    ]
    table = beside_the_truth(*tables)
    say(
        "",
        *_lines(table),
        "",
        "true: of the phantom; expected: with the bias that noise of this SNR gives; measured: as acquired;",
        "protocol: after all that the protocol corrects. MD in 1e-3 mm2/s; SNR of the tissue at b=0.",
        f"{table['near'].sum()} of {len(table)} tissues measured within FA {FA_NEAR} and MD 1 % (canal 3 %) "
        "of what is expected",
        "",
        f"table:      {folder / 'derivatives' / 'group' / 'segments.tsv'}",
        f"wide table: {folder / 'derivatives' / 'group' / 'segments_wide.tsv'}",
        f"maps:       {folder / 'derivatives' / 'sub-01' / 'dwi'}",
        f"records:    {folder / 'derivatives' / 'logs'}",
    )
    return cli.DONE if table["near"].all() else cli.SOME_FAILED


def _call(*arguments: str) -> int:
    say(f"$ somite {' '.join(arguments)}")
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
