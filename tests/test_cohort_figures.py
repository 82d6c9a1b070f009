"""Figures of a cohort and of analyses: the numbers in them are read back from what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from pages import tsv

from somite.report import (
    analysis_figures,
    analysis_files,
    analysis_pictures,
    cohort_figures,
    cohort_pictures,
    distributions,
    style,
)
from somite.report.analysis_figures import Agreement, Estimate, Roc, Scale
from somite.report.analysis_files import Analysis
from somite.report.cohort_data import Groups
from somite.report.cohort_figures import BoxPanel, Place, Stage

RNG = np.random.default_rng(1)


def marked(figure: Figure, gid: str) -> list[object]:
    """The artists of a figure that bear a mark."""
    return [artist for artist in figure.findobj() if artist.get_gid() == gid]


def segments(people: int = 40) -> pd.DataFrame:
    """A table of roots: the left is lower than the right."""
    index = pd.MultiIndex.from_product(
        [[f"sub-{i:02d}" for i in range(people)], ["L", "R"], ["L4", "L5"], ["fa", "md"]],
        names=["participant_id", "side", "level", "metric"],
    )
    rows = index.to_frame(index=False)
    lower = np.where(rows["side"] == "L", 0.3, 0.5)
    return rows.assign(
        session_id="", run="", region="nerve_root", segment="", extraction="label", weighting="uniform",
        rater="", statistic="mean", value=lower + RNG.normal(0, 0.02, len(rows)),
    )  # fmt: skip


def test_medians_of_boxes_are_those_of_pandas_and_left_stands_left_in_the_colour_of_left() -> None:
    frame = segments()
    fa = frame[frame["metric"] == "fa"]
    groups = Groups("dx", {(f"sub-{i:02d}", "", ""): "ab"[i % 2] for i in range(40)})
    drawn = next(iter(cohort_pictures.segments(frame, groups)))
    assert drawn.figure is not None
    assert drawn.name == "segments-fa-nerve-root"
    group = fa["participant_id"].str[-2:].astype(int).mod(2).map({0: "a", 1: "b"})
    for side, beyond in (("L", -1), ("R", 1)):
        lines = marked(drawn.figure, f"median-{side}")
        assert len(lines) == 4
        own = fa[fa["side"] == side]
        expected = own.groupby(["level", group[own.index]])["value"].median().tolist()
        assert [line.get_ydata()[0] for line in lines] == pytest.approx(expected)  # type: ignore[attr-defined]
        middles = [float(np.mean(line.get_xdata())) for line in lines]  # type: ignore[attr-defined]
        assert all(np.sign(x - round(x)) == beyond for x in middles)
    axes = drawn.figure.axes[0]
    edges = {to_hex(patch.get_edgecolor()).upper() for patch in axes.patches}
    assert edges == {style.SIDES["L"].colour, style.SIDES["R"].colour}
    assert axes.get_xticklabels()[0].get_text() == "L4\na\nn 20 | 20"


def test_few_values_are_all_points_and_no_box() -> None:
    place = Place("L5", "", {"L": np.array([1.0, 2.0, 4.0]), "R": RNG.normal(2, 1, 12)})
    figure = cohort_figures.boxes([BoxPanel("root", [place])], "FA (unitless)")
    axes = figure.axes[0]
    assert len(axes.patches) == 1  # the right side has a box, the left points and a median
    points = {len(line.get_ydata()): line for line in axes.lines if line.get_linestyle() == "None"}
    assert set(points) >= {3, 12}
    (median,) = marked(figure, "median-L")
    assert median.get_ydata()[0] == 2.0  # type: ignore[attr-defined]


def test_more_than_four_groups_are_not_told_apart() -> None:
    groups = Groups("site", {(f"sub-{i:02d}", "", ""): f"site{i % 5}" for i in range(40)})
    assert cohort_pictures.shown_groups(groups) == []
    drawn = next(iter(cohort_pictures.segments(segments(), groups)))
    assert drawn.figure is not None
    assert "site" not in drawn.figure.axes[0].get_xticklabels()[0].get_text()


def test_a_profile_has_the_mean_and_students_interval_of_people() -> None:
    values = RNG.normal(0.3, 0.05, (9, 4))
    values[2, 1] = np.nan
    line = cohort_figures.mean_profile("a", style.GROUPS[0], np.arange(4.0), values)
    assert line.n.tolist() == [9, 8, 9, 9]
    column = values[:, 1][np.isfinite(values[:, 1])]
    assert line.mean[1] == pytest.approx(column.mean())
    assert line.half[1] == pytest.approx(2.364624 * column.std(ddof=1) / np.sqrt(8), rel=1e-5)  # t, 7 df
    alone = cohort_figures.mean_profile("a", style.GROUPS[0], np.arange(4.0), values[:1])
    assert np.isnan(alone.half).all()


def test_sessions_of_a_person_count_once_in_a_profile() -> None:
    rows = pd.DataFrame(
        {"participant_id": ["a", "a", "b"], "session_id": ["1", "2", ""], "value": [1.0, 3.0, 5.0]}
    ).assign(region="CC", side="L", level="", segment="", extraction="label", weighting="central",
             metric="fa", node=0.0, position_mm=0.0, position_frac=np.nan)  # fmt: skip
    drawn = next(iter(cohort_pictures.profiles(rows, Groups())))
    assert drawn.figure is not None
    (line,) = drawn.figure.axes[0].lines
    assert line.get_ydata().tolist() == [3.5]
    assert line.get_color() == style.SIDES["L"].colour
    assert "left 2" in drawn.figure.axes[0].get_title()


def test_roc_points_are_those_of_counting_and_the_area_that_of_pairs() -> None:
    score = np.round(RNG.normal(0, 1, 60), 1)  # with ties
    event = RNG.random(60) < 0.4
    false, true, levels = analysis_figures.roc_points(score, event)
    for x, y, level in zip(false, true, levels, strict=True):
        called = score >= level
        assert (x, y) == pytest.approx((called[~event].mean(), called[event].mean()))
    pairs = score[event][:, None] - score[~event][None, :]
    area = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert analysis_figures.area_under(false, true) == pytest.approx(area)
    one = Roc("fa", score, event, Estimate("", area, 0.4, 0.9), 0.25, "cut-off above 0.25")
    figure = analysis_figures.roc([one])
    (curve,) = marked(figure, "curve")
    assert curve.get_xdata().tolist() == false.tolist()  # type: ignore[attr-defined]
    (cut,) = marked(figure, "cut-off")
    called = score > 0.25
    expected = (called[~event].mean(), called[event].mean())
    assert (cut.get_xdata()[0], cut.get_ydata()[0]) == pytest.approx(expected)  # type: ignore[attr-defined]


def test_limits_of_agreement_stand_where_they_are() -> None:
    first, second = RNG.normal(1, 0.1, 20), RNG.normal(1, 0.1, 20)
    lines = [Estimate("", 0.1, 0.05, 0.15), Estimate("", -0.2, -0.3, -0.1), Estimate("", 0.4, 0.3, 0.5)]
    figure = analysis_figures.bland_altman(
        [Agreement("a", first, second, lines, ("A", "B"))], "FA (unitless)"
    )
    drawn = [line.get_ydata()[0] for line in marked(figure, "line")]  # type: ignore[attr-defined]
    assert drawn == [0.1, -0.2, 0.4]
    (people,) = marked(figure, "people")
    assert people.get_ydata() == pytest.approx(first - second)  # type: ignore[attr-defined]
    assert people.get_xdata() == pytest.approx((first + second) / 2)  # type: ignore[attr-defined]
    assert figure.axes[0].get_ylabel() == "A - B"


def test_a_forest_plot_has_its_intervals_and_what_is_found_looks_different() -> None:
    rows = [
        Estimate("a" * 300, 0.5, 0.2, 0.8, "9/9", 0.0001, found=True),
        Estimate("b", 0, -1, 1, "9/9", 0.9),
    ]
    figure = analysis_figures.forest([(Scale("difference", 0.0), rows)])
    spans = [line.get_xdata() for line in marked(figure, "interval")]  # type: ignore[attr-defined]
    assert [tuple(span) for span in spans] == [(0.2, 0.8), (-1, 1)]
    looks = [(m.get_marker(), m.get_color()) for m in marked(figure, "estimate")]  # type: ignore[attr-defined]
    assert looks[0] != looks[1]
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert "< 0.001" in texts
    assert "0.900" in texts
    assert max(len(label.get_text()) for label in figure.axes[0].get_yticklabels()) < 50
    style.settle(figure)
    box = figure.axes[-1].get_tightbbox()
    assert box is not None
    assert box.x1 <= figure.bbox.x1 + 1  # nothing is cut at the right


def quality_rows(values: list[float]) -> dict[str, list[dict[str, str]]]:
    """Tables of sessions whose SNR is judged by limits of 15 and 8."""
    return {
        f"sub-{i:02d}": [
            {"metric": "snr_b0", "value": str(value), "unit": "1", "warn": "15", "fail": "8",
             "verdict": "fail" if value < 8 else "warn" if value < 15 else "pass"}
        ]
        for i, value in enumerate(values)
    }  # fmt: skip


def test_outliers_are_named_by_both_rules() -> None:
    values = [20.0, 21, 22, 23, 24, 25, 26, 7, 14, 90]
    (spread,) = distributions.spreads(quality_rows(values))
    middle = np.median(values)
    expected = 0.6745 * (np.array(values) - middle) / np.median(np.abs(values - middle))
    assert spread.z == pytest.approx(expected)
    found = {one.label: one.words for one in distributions.outliers([spread])}
    assert set(found) == {"sub-07", "sub-08", "sub-09"}
    assert found["sub-07"].startswith("fails by the limit (8); below most sessions")
    assert found["sub-08"] == "warns by the limit (15)"
    assert found["sub-09"].startswith("above most sessions (modified z +")
    figure = cohort_figures.quality([spread])
    named = {text.get_text() for text in figure.axes[0].texts}
    assert named == set(found)
    assert [line.get_xdata()[0] for line in marked(figure, "limit-warn")] == [15]  # type: ignore[attr-defined]
    assert [line.get_xdata()[0] for line in marked(figure, "limit-fail")] == [8]  # type: ignore[attr-defined]
    red = to_rgba(style.OKABE_ITO["vermilion"])[:3]
    (fails,) = [c for c in figure.axes[0].collections if c.get_label() == "fail"]
    assert tuple(fails.get_facecolor()[0][:3]) == pytest.approx(red)
    assert fails.get_offsets()[:, 0].tolist() == [7.0]


@pytest.mark.parametrize("values", [[1.0] * 20 + [9.0], [1.0, 2.0, 90.0]])
def test_the_robust_rule_names_nobody_without_spread_or_of_few(values: list[float]) -> None:
    assert np.isnan(distributions.modified_z(np.array(values))).all()


def test_a_flow_has_every_count_and_reason() -> None:
    stages = [Stage("People", 20), Stage("Selected", 15, [("withdrew", 2), ("x" * 300, 3)])]
    texts = " ".join(text.get_text() for text in cohort_figures.flow(stages, "people").axes[0].texts)
    for words in ("People: 20", "Selected: 15", "2: withdrew", "3: xxx"):
        assert words in texts


def profile_results(folder: Path) -> Analysis:
    """FA of 12 nodes of two roots: one lower in the middle, with two clusters, one as in controls."""
    rows: list[dict[str, object]] = []
    for side, depth in (("L", 0.08), ("R", 0.0)):
        place = {"analysis": "nerve", "kind": "profile", "region": "nerve_root", "side": side, "level": "L5",
                 "metric": "fa", "statistic": "mean", "n": "40"}  # fmt: skip
        for k in range(12):
            value = -depth * (4 <= k <= 7)
            numbers = {"estimate": value, "ci_low": value - 0.02, "ci_high": value + 0.02}
            rows.append(place | {"segment": f"node_{k}", "contrast": "patient - control",
                                 "estimate_name": "mean difference", **numbers})  # fmt: skip
        for where, p in (("node_4..node_7", 0.002), ("node_10", 0.4)) if depth else (("*", "n/a"),):
            rows.append(place | {"segment": where, "contrast": "cluster: patient - control",
                                 "estimate_name": "cluster mass", "p": p})  # fmt: skip
    tsv(folder / "nerve.tsv", rows)
    (folder / "nerve.json").write_text('{"Analysis": {"Options": {"kind": "profile", "along": "segment"}}}')
    (analysis,) = analysis_files.read(folder)
    return analysis


def test_clusters_stand_under_their_nodes_and_are_red_where_found(tmp_path: Path) -> None:
    (drawn,) = analysis_pictures.pictures(profile_results(tmp_path))
    assert drawn.name == "nerve-along-fa"
    assert "red below 0.05" in drawn.caption
    assert drawn.figure is not None
    left, right = drawn.figure.axes
    assert left.get_title().startswith("nerve_root L L5 patient - control\nn = 40")
    bars = {
        tuple(np.asarray(line.get_xdata())): to_hex(line.get_color())
        for line in left.lines
        if line.get_linewidth() == 4
    }
    assert bars == {(3.6, 7.4): analysis_figures.FOUND.lower(), (9.6, 10.4): style.GREY}
    assert not [line for line in right.lines if line.get_linewidth() == 4]
    curve = next(line for line in left.lines if np.size(line.get_xdata()) == 12)
    assert list(np.asarray(curve.get_ydata())) == [-0.08 if 4 <= k <= 7 else 0.0 for k in range(12)]
    assert left.get_ylim() == right.get_ylim()
    low, high = left.get_ylim()
    assert (-0.10 - low) / (high - low) > 0.15  # no bar upon the lowest interval
    assert [text.get_text() for text in left.get_xticklabels()][:2] == ["0", "2"]
