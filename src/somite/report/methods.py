"""The methods text: what ran, with its options, numbers and versions, and a citation of every method.

Each step has words of its own in `methods/<step>.md.j2`, Markdown with Pandoc's citations
(`[@veraart2016]`, or `@otsu1979` in the run of a sentence), and every citation is in
`methods/references.bib`. Only steps that ran are told, in the order of `CHAPTERS`. Sessions that were treated
alike are told together, with the range of what differs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateNotFound, UndefinedError
from markupsafe import Markup

from somite import __version__
from somite.record import Record, StepRecord
from somite.registry import Fact
from somite.report.acquisition import Acquisition
from somite.report.pages import number, slug
from somite.report.references import Reference, bibtex, read_bib

CHAPTERS: Mapping[str, tuple[str, ...]] = {
    "Data": ("load",),
    "Preprocessing": ("denoise", "degibbs", "susceptibility", "eddy", "bias", "mask"),
    "Diffusion measures": ("tensor", "perfusion"),
    "Segments": (
        "anatomy_transform",
        "atlas",
        "transfer",
        "probabilities",
        "fat_fraction",
        "carve",
        "track",
        "profile",
        "roi",
        "derived",
    ),
    "Quality control": ("gradient_orientation", "qc"),
    "Figures": ("pictures",),
    "Cohort": ("table", "profile_table", "qc_table", "norms", "reference", "affected"),
}
"""Chapter -> its steps, as they are told."""
_CITATION = re.compile(r"(\[@\w+(?:; @\w+)*\]|(?<![\\\w])@\w+)")


_LINK = Markup('<a href="#ref-{}">{}</a>')


@dataclass(frozen=True)
class Spread:
    """A number of one session or of several."""

    values: tuple[float, ...]

    def to(self, digits: int) -> str:
        """`4`, or `4 to 6`, with so many significant digits."""
        ends = list(dict.fromkeys(number(value, digits) for value in (min(self.values), max(self.values))))
        return " to ".join(ends)

    @property
    def count(self) -> str:
        """The same of whole numbers."""
        return " to ".join(dict.fromkeys(f"{value:.0f}" for value in (min(self.values), max(self.values))))

    @property
    def any(self) -> bool:
        """Whether it is above 0 somewhere."""
        return max(self.values) > 0


@dataclass(frozen=True)
class Told:
    """A methods text."""

    markdown: str
    references: Sequence[Reference]
    html: Markup

    @property
    def with_references(self) -> str:
        """The text followed by its references in words, for readers without Pandoc."""
        lines = [
            f"- [@{entry.key}]: {entry.in_words}" + (f" https://doi.org/{entry.doi}" if entry.doi else "")
            for entry in self.references
        ]
        return "\n".join(["# Methods", "", self.markdown, "## References", "", *lines]) + "\n"

    @property
    def bibtex(self) -> str:
        """The entries that are cited."""
        return bibtex(self.references)


@dataclass(frozen=True)
class Analysed:
    """An analysis of the cohort as it ran."""

    name: str
    options: Mapping[str, Any]
    """As in the YAML, defaults included."""
    tests: Sequence[str] = ()
    """That gave its p-values."""
    intervals: Sequence[str] = ()
    """How its intervals were made."""


@dataclass(frozen=True)
class _Ran:
    """A step as it ran in a session."""

    step: StepRecord
    facts: Sequence[Fact]
    acquisition: Acquisition


def tell(
    records: Sequence[Record],
    acquisitions: Mapping[str, Acquisition],
    group: Sequence[Record] = (),
    analyses: Sequence[Analysed] = (),
) -> Told:
    """The methods of these sessions and of their cohort; steps that did not run are not told.

    Args:
        records: of sessions.
        acquisitions: label of a session -> its series, where it is known.
        group: records of the group level.
        analyses: of the cohort.
    """
    blocks: list[str] = [_opening(records)]
    ran = _by_step(records, acquisitions) | _by_step(group, {})
    ran.pop("analyse", None)  # told from what each has written: the step itself has no options
    known = {step for steps in CHAPTERS.values() for step in steps}
    chapters = {**CHAPTERS, "Further steps": tuple(step for step in ran if step not in known)}
    for chapter, steps in chapters.items():
        told = [text for step in steps if step in ran for text in _paragraphs(step, ran[step])]
        if told:
            blocks += [f"## {chapter}", *told]
    if analyses:
        blocks += ["## Statistics", *map(_say_analysis, analyses)]
    markdown = "\n\n".join(blocks) + "\n"
    cited = list(dict.fromkeys(key for group in _CITATION.findall(markdown) for key in _keys(group)))
    entries = library()
    return Told(markdown, [entries[key] for key in cited], _as_html(markdown, entries))


@cache
def library() -> Mapping[str, Reference]:
    """Every reference of `methods/references.bib`, by key."""
    text = resources.files("somite.report").joinpath("methods", "references.bib").read_text(encoding="utf-8")
    return read_bib(text)


@cache
def environment() -> Environment:
    """The templates of steps. They make Markdown: what is not theirs is written by the filter `plain`."""
    made = Environment(
        loader=PackageLoader("somite.report", "methods"),
        autoescape=False,
        undefined=StrictUndefined,
    )
    made.filters.update(plain=plain, listed=listed, n=lambda value: f"{value:g}")
    return made


def plain(text: object) -> str:
    """A text that is not ours as Markdown that means itself: no markup, no HTML, no citation."""
    return re.sub(r"([\\`*_{}\[\]<>#@|~^$])", r"\\\1", " ".join(str(text).split()))


def listed(items: Iterable[object]) -> str:
    """`a, b and c`."""
    texts = [str(item) for item in items]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))) if texts else ""


def _opening(records: Sequence[Record]) -> str:
    versions = sorted({plain(item.software.get("somite", __version__)) for item in records}) or [__version__]
    pythons = sorted({plain(item.software["python"]) for item in records if "python" in item.software})
    python = f" under Python {listed(pythons)}" if pythons else ""
    values = {"version": listed(versions), "python": python, "sessions": len(records)}
    return " ".join(environment().get_template("opening.md.j2").render(values).split())


def _by_step(records: Sequence[Record], acquisitions: Mapping[str, Acquisition]) -> dict[str, list[_Ran]]:
    """Step -> how it ran, in every session where it ended well."""
    found: dict[str, list[_Ran]] = {}
    for record in records:
        acquisition = acquisitions.get(record.label, Acquisition())
        for step in record.steps or record.before:
            if step.state in ("run", "cached"):
                found.setdefault(step.step, []).append(_Ran(step, record.facts, acquisition))
    return found


def _paragraphs(step: str, ran: Sequence[_Ran]) -> list[str]:
    """What is said of a step: once for each set of options, the most frequent first."""
    groups: dict[str, list[_Ran]] = {}
    for one in ran:
        groups.setdefault(json.dumps(one.step.config, sort_keys=True), []).append(one)
    ordered = sorted(groups.values(), key=len, reverse=True)
    texts = []
    for group in ordered:
        text = _say(step, group)
        share = f"In {len(group)} of {len(ran)} sessions: " if len(ordered) > 1 else ""
        if text:
            texts.append(share + text)
    return texts


def _say(step: str, group: Sequence[_Ran]) -> str:
    config = group[0].step.config
    try:
        text = (
            environment()
            .get_template(f"{step}.md.j2")
            .render(
                config=config,
                numbers=_spreads(group),
                fact=lambda name: _fact(group, name),
                version=lambda name: _version(group, name),
                shells=listed(sorted({one.acquisition.in_words for one in group if one.acquisition.shells})),
                voxels=listed(sorted({one.acquisition.voxels_in_words for one in group} - {""})),
                sessions=len(group),
            )
        )
    except (TemplateNotFound, UndefinedError):
        # A record of another version, or a step of the reader's own: its options are told as they are.
        options = ", ".join(f"{key}: {value}" for key, value in config.items())
        text = f"The step {plain(step)} ran" + (f" with {plain(options)}." if options else ".")
    return " ".join(text.split())


def _say_analysis(one: Analysed) -> str:
    kind = str(one.options.get("kind", ""))
    values = {"name": one.name, "kind": kind, "config": one.options}
    try:
        template = environment().get_template("analyse.md.j2")
        text = template.render(values, tests=one.tests, intervals=one.intervals)
    except (KeyError, TypeError, UndefinedError):  # written by another version
        options = ", ".join(f"{key}: {value}" for key, value in one.options.items())
        text = f"Analysis {plain(one.name)}: {plain(options)}."
    return " ".join(text.split())


def _spreads(group: Sequence[_Ran]) -> dict[str, Spread]:
    values: dict[str, list[float]] = {}
    for one in group:
        for name, value in one.step.numbers.items():
            values.setdefault(name, []).append(value)
    return {name: Spread(tuple(found)) for name, found in values.items()}


def _fact(group: Sequence[_Ran], name: str) -> list[str]:
    """The values of a fact over the sessions, most frequent first; `name of x` counts as `name`."""
    found = Counter(
        fact.value
        for one in group
        for fact in one.facts
        if fact.name == name or fact.name.startswith(f"{name} of ")
    )
    return [value for value, _ in found.most_common()]


def _version(group: Sequence[_Ran], name: str) -> str:
    """The version of a package or tool that the step stood on, as `1.2`; empty where it is not known."""
    return listed(sorted({one.step.versions[name] for one in group if name in one.step.versions}))


def _keys(citation: str) -> list[str]:
    """The keys of `[@a; @b]`, or of `@a` in the run of a sentence."""
    return [key.strip().removeprefix("@") for key in citation.strip("[]").split(";")]


def _as_html(markdown: str, entries: Mapping[str, Reference]) -> Markup:
    """Our own Markdown as HTML: headings, paragraphs, citations; everything else is text."""
    blocks = markdown.strip().split("\n\n")
    return Markup("\n").join(
        Markup("<h3>{}</h3>").format(block[3:])
        if block.startswith("## ")
        else Markup("<p>{}</p>").format(_with_links(block, entries))
        for block in blocks
    )


def _with_links(text: str, entries: Mapping[str, Reference]) -> Markup:
    parts = _CITATION.split(text)  # by turns text, and the keys of a citation
    shown = Markup()
    for i, part in enumerate(parts):
        if i % 2 == 0:
            shown += re.sub(r"\\([^\w\s])", r"\1", part.replace("\\_", "_"))
            continue
        cited = [entries[key] for key in _keys(part)]
        if part.startswith("["):
            links = [_LINK.format(slug(entry.key), entry.short) for entry in cited]
            shown += Markup("({})").format(Markup("; ").join(links))
        else:
            shown += _LINK.format(slug(cited[0].key), cited[0].in_text)
    return shown
