"""Analyses as the YAML declares them: what every kind has in common, and which kinds there are."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from somite.errors import ConfigError, Problem
from somite.registry import StepConfig
from somite.review.verdicts import Rule

if TYPE_CHECKING:
    from somite.analysis.results import Result
    from somite.analysis.selection import Selected

Place = Literal["region", "side", "level", "segment"]
Factor = Literal["region", "side", "level", "segment", "session_id", "run", "site", "rater"]
"""What may vary within one participant."""


def _several(value: object) -> object:
    """One text stands for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Text = Annotated[str, Field(min_length=1)]
_SomeTexts = Annotated[tuple[Text, ...], Field(min_length=1)]
Texts = Annotated[_SomeTexts, BeforeValidator(_several, json_schema_input_type=Text | _SomeTexts)]
"""One text or a list of texts in the YAML; always a tuple here."""


class Select(StepConfig):
    """Which rows of the table of segments an analysis takes. `*` stands for any text, `?` for any letter."""

    metric: Texts = ("*",)
    """Metrics: fa, md, ad, rd, fa_of_mean_eigenvalues, s0, residual; or patterns."""
    statistic: Texts = ("mean",)
    """Statistics over the voxels: mean, sd, median, iqr; or patterns."""
    region: Texts = ("*",)
    """Regions; or patterns: nerve_*."""
    side: Texts = ("*",)
    """Sides: L, R, midline; or affected and unaffected, by the clinical table."""
    level: Texts = ("*",)
    """Levels; or patterns; or affected, by the clinical table."""
    segment: Texts = ("*",)
    """Parts of the structure; or patterns. n/a: the whole."""
    session: Texts = ("*",)
    """Sessions; or patterns. n/a: no session."""
    run: Texts = ("*",)
    """Runs; or patterns. n/a: none."""
    rater: Texts = ("*",)
    """Raters; or patterns."""
    site: Texts = ("*",)
    """Sites; or patterns."""
    extraction: Texts = ("label",)
    """How the voxels were chosen: label, prob or tract. FA by one and by another are not the same measure."""


class Aggregate(StepConfig):
    """Several rows of a participant made one, before anything is tested."""

    over: Annotated[tuple[Factor, ...], Field(min_length=1)]
    """What is joined: [level], [side, level], [segment], [session_id]."""
    by: Literal["mean", "median", "min", "max", "weighted"] = "mean"
    """How. weighted: the mean weighted by the number of voxels."""
    need: Literal["all", "any"] = "all"
    """all: who lacks one of the values is left out; any: what there is counts."""


FamilyPart = Literal["metric", "statistic", "region", "side", "level", "segment", "contrast"]


class Family(StepConfig):
    """Which tests are corrected for multiple comparisons together, and how."""

    name: str = ""
    """Analyses that name the same family are corrected together. Default: every analysis is its own."""
    method: Literal["fdr_bh", "fdr_by", "bonferroni", "holm", "none"] = "fdr_bh"
    """False discovery rate of Benjamini and Hochberg or Benjamini and Yekutieli; Bonferroni; Holm; none."""
    by: tuple[FamilyPart, ...] | None = None
    """Splits the family: [metric] corrects the tests of each metric by themselves, [] all together. Default:
    [contrast] where compare has three groups or more, and the family has no name; otherwise []."""


class Affected(StepConfig):
    """Clinical columns of what is affected; looked at only here, never while segments are measured."""

    side: str = "affected_side"
    """Column of the affected side: L, R, left, right, both or n/a."""
    level: str = "affected_level"
    """Column of the affected level, as in the table; several joined by ; such as L4;L5."""


class Exclude(StepConfig):
    """Who and what is left out, and is counted."""

    qc: Literal["none", "fail", "warn"] = "fail"
    """Sessions by the overall verdict of their quality: fail: those that failed; warn: those with a warning
    too; none: all stay."""
    rows: Literal["none", "fail", "warn"] = "fail"
    """The same of single segments, by the column qc_status of the table."""


class Cohort(StepConfig):
    """Clinical data of the group level: where they are, and who is left out of every analysis."""

    participants: Path = Path("participants.tsv")
    """Table of the participants: relative to the dataset (BIDS_DIR), or absolute."""
    phenotype: Path = Path("phenotype")
    """Folder of further clinical tables (*.tsv): relative to the dataset, or absolute."""
    exclusions: Path | None = None
    """TSV of who or what is left out, with a reason: participant_id, reason, and session_id, run, region,
    side, level, segment, metric where less than a person is meant. Relative to the dataset, or absolute."""
    exclude: Exclude = Exclude()
    """Who and what is left out for its quality."""
    review: Rule = "any"
    """Which sessions the verdicts of raters leave out (`somite review`, OUT_DIR/qc/review.tsv), of the tables
    too. any: those that one rater failed; all: those that every rater failed who judged them; ignore: none.
    A rater's last verdict counts; unsure is no fail."""
    affected: Affected = Affected()
    """The clinical columns of the affected side and level."""
    controls: Mapping[str, Texts] = Field(default_factory=dict)
    """Who the controls are, by clinical columns: {group: control}. From them come the cohort's own norms.
    Default: nobody."""
    age: Text = "age"
    """Clinical column of the age in years; norms are adjusted for it where every control has one."""
    sex: Text = "sex"
    """Clinical column of the sex, M or F; norms are adjusted for it in the same way."""
    norms: Path | None = None
    """Reference values that measures are compared with beside the published ones and the cohort's own, TSV or
    YAML: relative to the dataset, or absolute."""


@dataclass(frozen=True)
class Requirement:
    """A clinical column that an analysis needs; checked, with the nearest name, before anything runs."""

    name: str
    option: str
    """Option of the analysis that names it, for messages: `group`, `covariates`."""
    holds: Literal["any", "numbers", "groups"] = "any"
    """numbers: float64 in the frame, else an error. groups: text as written in the file, `1` or `patient`.
    any: numbers where all values are, text otherwise."""
    levels: tuple[str, ...] = ()
    """Values that must occur in it, where it holds groups."""
    names: str = ""
    """Option of the analysis that names these values, where it is another: `groups`, `event`."""
    may_lack: bool = False
    """Whether people without a value stay: NaN for numbers, "" for text."""


Table = Literal["segments", "profiles"]


class AnalysisConfig(StepConfig):
    """What every kind of analysis has. A kind adds `kind: Literal["<file name>"]` and its own options.

    A kind overrides `requirements`, `within` and `group_column` where it needs to: the measures that it then
    gets hold the columns, are unique, and have no missing value.
    """

    name: str = ""
    """Name of the analysis: its key in the YAML."""
    kind: str
    """Kind of the analysis."""
    select: Select = Select()
    """Which rows of the table are taken."""
    aggregate: Aggregate | None = None
    """Rows of one participant that are made one. Default: none."""
    only: Mapping[str, Texts] = Field(default_factory=dict)
    """People who take part, by clinical columns: {sex: F, diagnosis: [ALS, control]}."""
    exclude: Exclude | None = None
    """Who is left out. Default: as the cohort says."""
    missing: Literal["per_measure", "complete", "error"] = "per_measure"
    """People without a value or a covariate. per_measure: left out where they lack one; complete: left out
    of all measures of the analysis when they lack one of any; error: nobody may lack one."""
    covariates: tuple[Text, ...] = ()
    """Columns of participants.tsv or phenotype/*.tsv, quality numbers (snr_b0, motion_relative_mean_mm) or
    columns of the table (snr) that the model adjusts for. `file.column` where a name stands in two files."""
    family: Family = Family()
    """Correction for multiple comparisons."""
    data: Literal["auto", "none", "wide", "long"] = "auto"
    """Whether the data that the analysis rests on are written too, with the clinical columns, for figures and
    other software. wide: a row per person and a column per measure; long: a row per value; auto: long, where
    there are at most 100,000 values."""
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Intervals have the level 1 - alpha")
    seed: int = Field(1, ge=0, description="Seed of random numbers, where any are drawn")

    def requirements(self) -> tuple[Requirement, ...]:
        """The clinical columns that the analysis needs; a kind adds its own to `super().requirements()`."""
        return tuple(Requirement(name, "covariates") for name in self.covariates)

    def within(self) -> tuple[Factor, ...]:
        """What varies within a participant in one measure: `("side",)` for paired sides, `()` for one row
        per participant. These columns of the identity are `*`, and vary in the frame instead."""
        return ()

    def family_by(self, contrasts: Collection[str]) -> tuple[FamilyPart, ...]:  # noqa: ARG002
        """What splits the family where the YAML does not say; `contrasts` are those of the results."""
        return ()

    def table(self) -> Table:
        """The table of the group level whose rows are selected."""
        return "segments"

    def in_cohort(self, cohort: Cohort) -> AnalysisConfig:  # noqa: ARG002
        """With what the analysis leaves to the section `cohort` filled in. Raises ConfigError."""
        return self

    def group_column(self) -> str | None:
        """The column of groups whose SNR and motion are compared for a warning, if there are groups."""
        return None


def controls_of(cohort: Cohort, config: AnalysisConfig) -> tuple[str, tuple[str, ...]]:
    """The clinical column of the cohort's controls, and its values.

    Raises:
        ConfigError: `CONTROLS`, there are none, or several columns tell them.
    """
    if len(cohort.controls) == 1:
        ((column, values),) = cohort.controls.items()
        return column, tuple(values)
    raise ConfigError(
        Problem(
            "CONTROLS",
            f"{config.name} does not say who the reference people are",
            where=f"analyses.{config.name}.group",
            found=f"cohort.controls has {len(cohort.controls)} columns",
            expected="one column with its values",
            do="write group and reference, or cohort: {controls: {group: control}}",
        )
    )


def in_cohort(analyses: Mapping[str, AnalysisConfig], cohort: Cohort) -> dict[str, AnalysisConfig]:
    """The analyses with what they leave to the section `cohort` filled in.

    Raises:
        ConfigError: every `CONTROLS`.
    """
    found: dict[str, AnalysisConfig] = {}
    problems: list[Problem] = []
    for name, config in analyses.items():
        try:
            found[name] = config.in_cohort(cohort)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError.of(problems)
    return found


Run = Callable[[Sequence["Selected"], Any], list["Result"]]


@dataclass(frozen=True)
class Kind:
    """A kind of analysis: its options, and the function from measures to rows."""

    name: str
    config: type[AnalysisConfig]
    run: Run


@cache
def discover() -> Mapping[str, Kind]:
    """All kinds of analysis by name: the modules of `somite.analysis` that have a Config of their own.

    The other modules are left to those that need them: some take a second to import, which planning has not.
    """
    import somite.analysis as package

    kinds = {}
    for found in pkgutil.iter_modules(package.__path__):
        if not _has_config(Path(package.__path__[0]) / f"{found.name}.py"):
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        if issubclass(module.Config, AnalysisConfig):
            kinds[found.name] = Kind(found.name, module.Config, module.run)
    return kinds


def _has_config(path: Path) -> bool:
    return path.is_file() and "\nclass Config(" in path.read_text(encoding="utf-8")


def _named(analyses: dict[str, AnalysisConfig]) -> dict[str, AnalysisConfig]:
    """Each analysis with its key as its name."""
    for key, config in analyses.items():
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]*", key):
            raise ValueError(f"{key}: the name of an analysis has letters, digits, - and _ only")
        if config.name not in ("", key):
            raise ValueError(f"{key}: an analysis has its key as its name; leave name out")
    return {key: config.model_copy(update={"name": key}) for key, config in analyses.items()}


def analyses_type() -> Any:
    """Type of the section `analyses`: name -> the options of its kind, told apart by `kind`."""
    kinds: list[Any] = [kind.config for _, kind in sorted(discover().items())]
    one: Any = Annotated[reduce(or_, kinds), Field(discriminator="kind")]
    return Annotated[dict[str, one], AfterValidator(_named)]
