"""Which figures a cohort has: its tables made into the panels that `cohort_figures` draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from somite.report import cohort_figures as draw
from somite.report import style
from somite.report.analysis_estimates import measure_of
from somite.report.analysis_files import Analysis
from somite.report.cohort_data import METRICS, Groups, Member
from somite.report.cohort_figures import BoxPanel, Line, LinePanel, Place, Stage
from somite.report.distributions import Spread
from somite.report.figure_files import Drawn, chunks, plain_name

MOST_GROUPS = len(style.GROUPS)
MOST_BOX_FIGURES = 8
MOST_PROFILE_FIGURES = 4
_BOX_PLACES = 14
_BOX_PANELS = 6
_LINE_PANELS = 16
_ALL = "all"


def quality(spreads: Sequence[Spread]) -> Iterator[Drawn]:
    """The distributions of the quality numbers."""
    if not spreads:
        yield Drawn("quality", "Quality numbers", missing="No session has quality numbers yet.")
        return
    for number, part in enumerate(chunks(spreads, 15), start=1):
        words = ", ".join(f"{one.title} (median {np.median(one.values):.3g} {one.unit})" for one in part)
        yield Drawn(
            "quality" + (f"-{number}" if number > 1 else ""),
            "Quality numbers of all sessions",
            "A point per session, coloured by the limits; the black line is the median. Rings stand apart "
            "from the others by the robust rule. Up to three sessions are named in each panel; the table "
            "below names all.",
            f"Strips of {len(part)} quality numbers: {words}",
            draw.quality(part),
        )


def shown_groups(groups: Groups) -> list[str]:
    """The groups that figures tell apart; none where there are more than there are looks."""
    return groups.names if 1 < len(groups.names) <= MOST_GROUPS else []


def with_groups(frame: pd.DataFrame, groups: Groups) -> pd.DataFrame:
    """A table of segments or profiles with the column `group`; rows of nobody's group are left out."""
    shown = shown_groups(groups)
    if not shown:
        return frame.assign(group="")
    visits = frame[["participant_id", "session_id"]].astype(str)
    known = {
        visit: groups.group(visit[0], visit[1], "")
        for visit in visits.drop_duplicates().itertuples(index=False, name=None)
    }
    named = [known[visit] for visit in visits.itertuples(index=False, name=None)]
    found = frame.assign(group=named)
    return found[found["group"] != ""]


def segments(frame: pd.DataFrame, groups: Groups) -> Iterator[Drawn]:
    """Box plots of every segment, left against right, by level and group."""
    left_out = len(frame)
    frame = with_groups(frame, groups)
    left_out -= len(frame)
    if frame.empty:
        yield Drawn("segments", "Segments", missing="The table of segments has no value of FA or MD.")
        return
    for metric in METRICS:
        own = frame[frame["metric"] == metric]
        made = list(_panel_sets(own, shown_groups(groups)))
        for name, panels in made[:MOST_BOX_FIGURES]:
            listed = ", ".join(panel.title for panel in panels)
            caption = (
                "Box: quartiles and median; whiskers: to the last value within 1.5 interquartile ranges; all "
                f"values as points where a box has {draw.FEW} or fewer, else only those beyond. n: sessions, "
                "left | right (or midline). Every value of the table of segments, whatever its quality."
            )
            if left_out:
                caption += f" {left_out} values of people without a group are not drawn."
            title = f"{metric.upper()}: {name}"
            yield Drawn(
                plain_name("segments", metric, name), title, caption,
                f"Box plots of {metric.upper()} left and right: {listed}",
                draw.boxes(panels, measure_of(metric)),
            )  # fmt: skip
        if more := made[MOST_BOX_FIGURES:]:
            words = ", ".join(name for name, _ in more[:20])
            yield Drawn(plain_name("segments", metric, "more"), f"{metric.upper()} of more regions",
                        missing=f"Not drawn, but in the table of segments: {words}.")  # fmt: skip


_PART = ("segment", "extraction", "weighting", "rater")


def _panel_sets(frame: pd.DataFrame, groups: Sequence[str]) -> Iterator[tuple[str, list[BoxPanel]]]:
    """Name and panels of each figure: a region with levels has its own, those without share."""
    varied = [name for name in _PART[1:] if frame[name].nunique() > 1]
    keys = ["region", "level", "segment", *varied, "group", "side"]
    values = {key: some["value"].to_numpy(float) for key, some in frame.groupby(keys, observed=True)}
    places: dict[tuple[str, str, str, tuple[str, ...]], dict[str, dict[str, np.ndarray]]] = {}
    for key, some in values.items():
        region, level, segment, *rest, group, side = map(str, key)
        by_group = places.setdefault((region, level, segment, tuple(rest)), {})
        by_group.setdefault(group, {})[side] = some
    regions: dict[str, list[tuple[str, str, str, tuple[str, ...]]]] = {}
    for place in places:
        regions.setdefault(place[0], []).append(place)
    order = list(groups) or [""]
    single = []
    for region, found in regions.items():
        if len({place[1] for place in found}) < 2:
            single += found
            continue
        panels: list[BoxPanel] = []
        for part in dict.fromkeys((place[2], place[3]) for place in found):
            here = sorted(place for place in found if (place[2], place[3]) == part)
            title = " ".join([region, part[0], *part[1]]).strip()
            panels += _box_panels(title, [(place[1], places[place]) for place in here], order)
        for number, shown in enumerate(chunks(panels, _BOX_PANELS), start=1):
            yield region + (f" {number}" if number > 1 else ""), list(shown)
    panels = []
    for part in dict.fromkeys((place[2], place[3]) for place in single):
        here = sorted(place for place in single if (place[2], place[3]) == part)
        title = " ".join([part[0], *part[1]]).strip() or "structures"
        named = [(" ".join(filter(None, [place[0], place[1]])), places[place]) for place in here]
        panels += _box_panels(title, named, order)
    for number, shown in enumerate(chunks(panels, _BOX_PANELS), start=1):
        yield "structures" + (f" {number}" if number > 1 else ""), list(shown)


def _box_panels(
    title: str, named: Sequence[tuple[str, Mapping[str, Mapping[str, np.ndarray]]]], order: Sequence[str]
) -> list[BoxPanel]:
    most = max(1, _BOX_PLACES // len(order))
    nobody: Mapping[str, np.ndarray] = {}
    return [
        BoxPanel(
            title,
            [Place(name, group, by_group.get(group, nobody)) for name, by_group in part for group in order],
        )
        for part in chunks(named, most)
    ]


_STRUCTURE = ["region", "level", "segment", "extraction", "weighting"]


def profiles(frame: pd.DataFrame, groups: Groups) -> Iterator[Drawn]:
    """Mean profiles along nerves and tracts: by group for each side, or left against right."""
    frame = with_groups(frame, groups)
    if frame.empty:
        yield Drawn("profiles", "Profiles", missing="No session that is done has a profile with values.")
        return
    shown = shown_groups(groups)
    kinds: dict[str, list[tuple[str, ...]]] = {}
    by_name = {
        tuple(map(str, key)): some for key, some in frame.groupby(_STRUCTURE, observed=True, sort=False)
    }
    for name, some in by_name.items():
        same = some.groupby("node")["position_mm"].nunique(dropna=False).max() == 1
        kinds.setdefault("mm" if same and some["position_mm"].notna().all() else "frac", []).append(name)
    for kind, names in kinds.items():
        column, along = ("position_mm", "position along the nerve (mm)") if kind == "mm" else (
            "position_frac", "part of the way")  # fmt: skip
        for metric in METRICS:
            panels = [
                panel for name in names for panel in _line_panels(name, by_name[name], metric, column, shown)
            ]
            yield from _profile_figures(panels, metric, kind, along, groups)


def _profile_figures(
    panels: Sequence[LinePanel], metric: str, kind: str, along: str, groups: Groups
) -> Iterator[Drawn]:
    parts = list(chunks(panels, _LINE_PANELS))
    stem = f"profiles-{metric}" + ("" if kind == "mm" else "-tracts")
    what = f"by {groups.column or 'group'}" if shown_groups(groups) else "left against right"
    for number, part in enumerate(parts[:MOST_PROFILE_FIGURES], start=1):
        yield Drawn(
            stem + (f"-{number}" if len(parts) > 1 else ""),
            f"Profiles of {metric.upper()}" + (f", part {number} of {len(parts)}" if len(parts) > 1 else ""),
            f"Mean over people with its 95 % interval (Student's t), {what}; n: people at a node. Several "
            "sessions of a person are averaged first. All sessions that are done, whatever their quality.",
            f"Mean profiles of {metric.upper()}: {', '.join(panel.title for panel in part)}",
            draw.profiles(part, along, measure_of(metric)),
        )
    if left := sum(map(len, parts[MOST_PROFILE_FIGURES:])):
        yield Drawn(f"{stem}-more", "More profiles", missing=f"{left} further profiles are not drawn.")


def _line_panels(
    name: Sequence[str], frame: pd.DataFrame, metric: str, column: str, groups: Sequence[str]
) -> Iterator[LinePanel]:
    own = frame[frame["metric"] == metric]
    words = " ".join(
        part for part in (*name[:3], *(part for part in name[3:] if part not in ("label", "central"))) if part
    )
    sides = [side for side in style.SIDES if (own["side"] == side).any()]
    if groups:
        for side in sides:
            here = own[own["side"] == side]
            lines = [
                _line(group, style.GROUPS[i], here[here["group"] == group], column)
                for i, group in enumerate(groups)
                if (here["group"] == group).any()
            ]
            yield LinePanel(f"{words} {style.SIDE_NAMES[side]}".strip(), lines)
    elif sides:
        lines = [
            _line(style.SIDE_NAMES[side] or _ALL, style.SIDES[side], own[own["side"] == side], column)
            for side in sides
        ]
        yield LinePanel(words, lines)


def _line(name: str, look: style.Look, frame: pd.DataFrame, column: str) -> Line:
    """Mean over people at each node; sessions of a person are averaged first."""
    own = frame.pivot_table(index="participant_id", columns="node", values="value", observed=True, sort=True)
    at = frame.groupby("node")[column].mean().reindex(own.columns)
    positions = at.to_numpy(float) if at.notna().all() else own.columns.to_numpy(float)
    return draw.mean_profile(name, look, positions, own.to_numpy(float))


def sessions_flow(found: Sequence[Member]) -> Drawn:
    """How many sessions there are, how many were done, and how many passed."""
    verdicts = Counter(member.verdict for member in found)
    left: list[tuple[str, int]] = []
    for verdict in ("failed", "outdated", "not finished", "not run"):
        why = Counter(_why(member) for member in found if member.verdict == verdict)
        left += [(f"{verdict}: {words}" if words else verdict, n) for words, n in why.most_common(5)]
        if len(why) > 5:
            left.append((f"{verdict}: other reasons", sum(n for _, n in why.most_common()[5:])))
    done = [member for member in found if member.verdict == "done"]
    judged = Counter(member.judged[0] for member in done)
    stages = [Stage("Sessions of the cohort", len(found)), Stage("Done", verdicts["done"], left)]
    if judged["fail"]:
        stages.append(
            Stage(
                "Done, quality does not fail",
                len(done) - judged["fail"],
                [("fail by their quality", judged["fail"])],
            )
        )
    return Drawn(
        "flow-sessions", "Sessions, and who is left",
        "Sessions that are not done are in no table. Those that fail by their quality are in the tables; "
        "analyses leave them out unless they are told otherwise.",
        f"{len(found)} sessions, {verdicts['done']} done, {judged['fail']} of these fail by their quality",
        draw.flow(stages, "sessions"),
    )  # fmt: skip


def _why(member: Member) -> str:
    """Why a session is not done, as it can be counted: by the code of its first problem."""
    if member.verdict == "failed" and member.last is not None and member.last.problems:
        first = member.last.problems[0]
        step = f" in {member.last.failed_step}" if member.last.failed_step else ""
        return f"{first.code}{step}"
    return "" if member.verdict in ("not finished", "not run") else member.reason.partition(":")[0]


def analysis_flow(analysis: Analysis) -> Drawn:
    """Who was left out of an analysis, and why."""
    name = plain_name(analysis.name, "flow")
    cohort = [row for row in analysis.flow if row.get("step") == "cohort"]
    analysed = [int(row["n_left"]) for row in analysis.flow if row.get("step") == "analysed"]
    if not cohort:
        return Drawn(name, "Who was left out", missing="This analysis has no account of who was left out.")
    first, *others = cohort
    stages = [Stage("In participants.tsv or the table", int(first["n_left"]))]
    left = [(row["reason"], int(row["n_out"])) for row in others]
    if others:
        stages.append(Stage("Selected", int(others[-1]["n_left"]), left))
    if analysed:
        low, high = min(analysed), max(analysed)
        reasons: dict[str, list[int]] = {}
        for row in analysis.flow:
            if row.get("step") == "measure":
                reasons.setdefault(row["reason"], []).append(int(row["n_out"]))
        some = [
            (f"{why} (at most, of a measure)", max(n))
            for why, n in sorted(reasons.items(), key=lambda x: -max(x[1]))
        ]
        words = "Analysed" if low == high else f"Analysed (at most; {low} in the smallest measure)"
        stages.append(Stage(words, high, some[:6]))
    return Drawn(
        name, "Who was left out", f"Participants; {analysis.name}.flow.tsv names them, measure by measure.",
        "; ".join(f"{stage.words}: {stage.n}" for stage in stages), draw.flow(stages, "participants"),
    )  # fmt: skip
