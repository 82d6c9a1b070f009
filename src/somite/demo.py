"""`make demo`: a phantom cohort through the whole pipeline, and its numbers beside the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from somite import cli
from somite.show import columns

PLACE = ["region", "side", "level", "segment"]
FA_TOLERANCE = 0.03
"""After motion correction."""
MD_TOLERANCE = {"canal": 0.03}
"""Relative; of a region that is not named, 0.01."""


def compare(measured: Path, truth: Path) -> pd.DataFrame:
    """Means of FA and MD in each segment beside the truth, over participants with the same truth.

    Returns a row per segment and truth: voxels pooled, truth and measurement (weighted by voxels), the
    difference, and whether it is within the tolerance.
    """
    keys = ["participant_id", *PLACE, "metric"]
    both = [_means(path).set_index(keys)[["value", "n_voxels"]] for path in (measured, truth)]
    joined = both[0].join(both[1][["value"]], rsuffix="_truth").reset_index()
    # Lesions differ between participants: their truth is a row of its own.
    joined["case"] = joined["value_truth"].round(2)
    rows = []
    for (*place, metric, _), group in joined.groupby([*PLACE, "metric", "case"], dropna=False):
        weights = group["n_voxels"] / group["n_voxels"].sum()
        true, found = (float((group[name] * weights).sum()) for name in ("value_truth", "value"))
        rows.append([*place, metric, int(group["n_voxels"].sum()), true, found])
    table = pd.DataFrame(rows, columns=[*PLACE, "metric", "n_voxels", "truth", "measured"])
    table["difference"] = table["measured"] - table["truth"]
    allowed = table["region"].map(MD_TOLERANCE).fillna(0.01) * table["truth"]
    allowed = allowed.where(table["metric"] == "md", FA_TOLERANCE)
    table["within"] = table["difference"].abs() <= allowed
    return table


def _means(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False, dtype={"segment": str})
    table[PLACE] = table[PLACE].fillna("")
    chosen = table["metric"].isin(["fa", "md"]) & (table["statistic"] == "mean")
    return table[chosen & table["value"].notna()]


def _lines(table: pd.DataFrame) -> list[str]:
    rows = [("region", "side", "level", "segment", "voxels", "metric", "truth", "measured", "difference", "")]
    for row in table.itertuples():
        digits = 3
        rows.append(
            (
                str(row.region),
                str(row.side),
                str(row.level),
                str(row.segment),
                str(row.n_voxels),
                str(row.metric),
                f"{row.truth:.{digits}f}",
                f"{row.measured:.{digits}f}",
                f"{row.difference:+.{digits}f}",
                "" if row.within else "OUTSIDE",
            )
        )
    return list(columns(rows))


def main(folder: Path) -> int:
    """Make the cohort if it is not there, run both levels on it, and print the table; returns the exit code."""
    dataset, out_dir = folder / "bids", folder / "derivatives"
    if not (dataset / "dataset_description.json").is_file():
        cli.main(["phantom", "lumbar", str(dataset), "--participants", "4", "--seed", "1"])
    command = ["run", str(dataset), str(out_dir), "participant", "group", "-c", "lumbar"]
    sys.stdout.write(f"$ somite {' '.join(command)}\n")
    if (code := cli.main(command)) != cli.DONE:
        return code
    table = compare(out_dir / "group" / "segments.tsv", dataset / "derivatives" / "truth" / "segments.tsv")
    outside = int((~table["within"]).sum())
    for line in [
        "",
        *_lines(table),
        "",
        f"{len(table)} means over all participants, {outside} outside the tolerance "
        "(FA 0.03; MD 1 %, canal 3 %)",
        f"table:      {out_dir / 'group' / 'segments.tsv'}",
        f"wide table: {out_dir / 'group' / 'segments_wide.tsv'}",
        f"maps:       {out_dir / 'sub-01' / 'dwi'}",
        f"records:    {out_dir / 'log'}",
    ]:
        sys.stdout.write(line + "\n")
    return cli.SOME_FAILED if outside else cli.DONE


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
