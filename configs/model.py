"""The configuration: frozen models, one section per step, made from the steps themselves.

The sections that belong to no step (which runs, which labels, what is kept) are written here. Every other
section is the Config of the step of that name, so a new step has its section without a line in this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from somite.analysis.model import AnalysisConfig, Cohort, analyses_type
from somite.configs.cluster import Cluster
from somite.configs.forms import CommandLine, Form, Words
from somite.label_sources.naming import NameRule
from somite.label_sources.source import SourceName
from somite.registry import Step, StepConfig


def _several(value: object) -> object:
    """One label stands for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


BidsLabel = Annotated[str, Form("[0-9A-Za-z]+", "letters and digits only, as in the names of BIDS files")]
Name = Annotated[
    str, Form("[0-9A-Za-z][0-9A-Za-z_.-]*", "letters, digits, - _ and . only, a letter or digit first")
]
_SomeLabels = Annotated[tuple[BidsLabel, ...], Field(min_length=1)]
BidsLabels = Annotated[
    _SomeLabels,
    BeforeValidator(_several, json_schema_input_type=BidsLabel | _SomeLabels),
]
"""One label or a list of labels in the YAML; always a tuple here."""


class RunFilter(StepConfig):
    """Which diffusion series are taken. An entity without a value is not looked at."""

    acq: BidsLabels | None = None
    """Values of the entity `acq` that are taken: one, or a list. Default: any, also files without it."""
    dir: BidsLabels | None = None
    """Values of the entity `dir` that are taken, such as [AP, PA]. Default: any."""
    run: BidsLabels | None = None
    """Values of the entity `run` that are taken, in quotes: "01". Default: any."""


class Runs(StepConfig):
    """Which diffusion series of a session are used, and which of them are joined."""

    combine: Literal["none", "same_pe", "all_pe"] = "none"
    """What makes one group. none: every series alone. same_pe: all series of one phase-encoding direction
    (split shells, repeats). all_pe: all series of the session, an AP/PA pair being one group of two
    directions."""
    filter: RunFilter = RunFilter()
    """Which series are taken at all."""


class ImageFilter(StepConfig):
    """Which label images or masks are taken. An entity without a value is not looked at."""

    acq: BidsLabels | None = None
    """Values of the entity `acq` that are taken: one, or a list. Default: any."""
    run: BidsLabels | None = None
    """Values of the entity `run` that are taken, in quotes: "01". Default: any."""
    space: BidsLabels | None = None
    """Values of the entity `space` that are taken, such as dwi or T2w. Default: any."""
    res: BidsLabels | None = None
    """Values of the entity `res` that are taken. Default: any."""
    label: BidsLabels | None = None
    """Values of the entity `label` that are taken. Default: any."""
    seg: BidsLabels | None = None
    """Values of the entity `seg` that are taken, such as lumbar. Default: any."""
    desc: BidsLabels | None = None
    """Values of the entity `desc` that are taken, such as manual. Default: any."""


class AtlasSource(StepConfig):
    """An atlas whose labels or probabilities are brought to sessions that have none of their own."""

    name: Annotated[Words, Field(min_length=1)]
    """JHU-ICBM-DTI-81 or JHU-tracts, found in $FSLDIR; or the path of an image of labels, or of probabilities
    (4D), relative to the dataset or absolute."""
    sha256: Words = ""
    """Checksum of the image, SHA-256: another file is refused. Without it, the plan says what it is."""
    template: Path | None = None
    """FA template in the space of the atlas, relative to the dataset or absolute. Default: for the atlases
    of FSL, the template beside them."""
    template_sha256: Words = ""
    """Checksum of the template."""
    table: Path | None = None
    """What the values or volumes mean (TSV), relative to the dataset or absolute. Default: the TSV of the
    same name beside the image, or the published numbering of an atlas of FSL."""


_SomeAtlases = tuple[AtlasSource, ...]


class LabelSource(StepConfig):
    """Where the label images (`*_dseg.nii.gz`) are, and what says what their values mean."""

    folder: Path = Path("derivatives/labels")
    """Folder of the label images: relative to the dataset (BIDS_DIR), or absolute."""
    filter: ImageFilter = ImageFilter()
    """Which label images are taken, where a session has several."""
    transforms: Path | None = None
    """Folder of the ITK transforms that bring labels drawn on another grid onto the DWI: relative to the
    dataset, or absolute. Default: beside the label images."""
    atlas: Annotated[
        _SomeAtlases,
        BeforeValidator(_several, json_schema_input_type=AtlasSource | _SomeAtlases),
    ] = ()
    """Atlas for the sessions without a label image of their own; a list of two where one holds labels and
    the other probabilities of tracts. Default: none."""
    source: SourceName | dict[BidsLabel, SourceName] = "auto"
    """What says what the values of a label image mean. auto: what lies beside it or above it: the table
    `*_dseg.tsv`, else label descriptions of ITK-SNAP (`*_dseg.txt` or `.label`), else the `dataset.json` of
    nnU-Net. bids, itksnap, nnunet: that one. Any other: the published numbering of that tool or atlas.
    Where a session has several label images, each `seg` -> source: {discs: totalspineseg}; others: auto."""
    table: Path | None = None
    """The file that says it, where it does not lie beside the label images, such as the `dataset.json` of a
    model: relative to the dataset, or absolute. Default: beside the label images."""
    names: tuple[NameRule, ...] = ()
    """For itksnap and nnunet: which segments the names of the labels mean. A name that no rule matches is a
    region of that name, without side, level or segment."""
    roi_source: Words = ""
    """How the labels were made, for the column `roi_source` of the table. Default: the entity `desc` of
    the label image, else the tool whose numbering it has."""
    rater: Words = ""
    """Who drew the labels, for the column `rater` of the table."""

    def path(self, dataset: Path) -> Path:
        """The folder of the labels of `dataset`."""
        return dataset / self.folder


class MaskSource(StepConfig):
    """Where masks made beforehand (`*_mask.nii.gz` on the grid of the DWI) are, if there are any."""

    folder: Path | None = None
    """Folder of the masks: relative to the dataset (BIDS_DIR), or absolute. Default: no masks are given."""
    filter: ImageFilter = ImageFilter()
    """Which masks are taken, where a session has several."""

    def path(self, dataset: Path) -> Path | None:
        """The folder of the masks of `dataset`, or None where none are given."""
        return None if self.folder is None else dataset / self.folder


class ToolSuite(StepConfig):
    """Where the command-line tools of one suite come from."""

    container: CommandLine | None = None
    """Command that runs a tool inside of a container, the image last: `apptainer exec --nv /images/fsl.sif`,
    `docker run --rm fsl:6.0.7`. The tool's own command follows. It is split into words as a shell does, and
    nothing else is expanded but ~ before the image. The step's folder and its input files are shown to it
    without options of yours. Any other command is used as it stands: `conda run -n fsl`. Default: the tools
    of this machine."""


class Tools(StepConfig):
    """Where the command-line tools come from that a step's method may call."""

    fsl: ToolSuite = ToolSuite()
    """FSL: bet, dtifit, eddy, topup, applytopup."""
    mrtrix3: ToolSuite = ToolSuite()
    """MRtrix3: dwidenoise, mrdegibbs, dwi2mask, dwi2tensor, dwibiascorrect."""

    def containers(self) -> dict[str, str]:
        """Suite -> the command of its container, of those that have one."""
        suites = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: suite.container for name, suite in suites.items() if suite.container}


class Settings(BaseModel):
    """The whole configuration. Frozen. Made by `settings_model`, which adds a section for every step."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    protocol: Name
    """Name of the protocol, for the column `protocol` of the table: lumbar, thigh, brain-als or your own."""
    runs: Runs = Runs()
    """The diffusion series of a session, and what makes one group of them."""
    labels: LabelSource = LabelSource()
    """Where the label images are."""
    masks: MaskSource = MaskSource()
    """Where masks made beforehand are, if there are any."""
    tools: Tools = Tools()
    """Where the command-line tools come from."""
    cluster: Cluster = Cluster()
    """What `somite submit` asks a Slurm cluster for, and in what its jobs run. No result depends on it."""
    cohort: Cohort = Cohort()
    """Clinical data of the group level, and who is left out of every analysis."""
    analyses: Mapping[str, AnalysisConfig] = Field(default_factory=dict)
    """Statistics of the group level: name of the analysis -> its kind and options."""
    keep: Literal["final", "all"] = "all"
    """What stays in the work folder. all: every intermediate image, so that a later change reruns only what
    depends on it. final: only what is needed to know that a finished session is up to date."""

    def step(self, name: str) -> StepConfig:
        """The options of the step `name`. Raises KeyError where there is no such step."""
        if name in Settings.model_fields or name not in type(self).model_fields:
            raise KeyError(f"{name} is not a step of this configuration")
        config = getattr(self, name)
        assert isinstance(config, StepConfig)
        return config

    def canonical(self) -> dict[str, Any]:
        """Every option with its value, defaults included, as plain lists, dictionaries and scalars."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal: equal for equal settings, however written."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The effective configuration as a YAML file that reads back into equal settings."""
        yaml = YAML(typ="rt")
        yaml.default_flow_style = False
        yaml.representer.add_representer(type(None), _null)
        yaml.width = 100
        stream = StringIO()
        stream.write("# The effective configuration: every option with its value, defaults included.\n")
        stream.write(f"# Digest: {self.digest()}\n")
        yaml.dump(_in_lines(self.canonical()), stream)
        return stream.getvalue()


def _null(representer: Any, value: None) -> Any:  # noqa: ARG001
    """Write null out: an empty value looks like a forgotten one."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _in_lines(value: Any) -> Any:
    """The value with lists of scalars written on one line: [L, R]."""
    if isinstance(value, dict):
        return {key: _in_lines(item) for key, item in value.items()}
    if isinstance(value, list):
        items = CommentedSeq(_in_lines(item) for item in value)
        if not any(isinstance(item, dict | list) for item in value):
            items.fa.set_flow_style()
        return items
    return value


def settings_model(steps: Mapping[str, Step]) -> type[Settings]:
    """The model with a section for each of `steps`, in alphabetical order.

    The same steps give the same class, so that settings read twice are equal.

    Raises:
        TypeError: a step has the name of another section or of a method of the model.
    """
    return _model(tuple(sorted((name, step.config) for name, step in steps.items())))


@cache
def _model(sections: tuple[tuple[str, type[StepConfig]], ...]) -> type[Settings]:
    fields: dict[str, Any] = {}
    for name, config in sections:
        if name == "extends" or hasattr(Settings, name) or name in Settings.model_fields:
            raise TypeError(f"a step cannot be named {name}: the configuration has that name already")
        fields[name] = (config, _section(name, config))
    words = Settings.model_fields["analyses"].description
    fields["analyses"] = (analyses_type(), Field(default_factory=dict, description=words))
    return create_model("Settings", __base__=Settings, __doc__=Settings.__doc__, **fields)


def _section(name: str, config: type[StepConfig]) -> Any:
    """The field of a step: optional, unless the step has an option without a default."""
    words = f"Options of the step {name}."
    try:
        return Field(default=config(), description=words)
    except ValidationError:
        return Field(description=words)


def json_schema(steps: Mapping[str, Step]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file with sections for `steps`, for editors.

    It describes a file as it is written, before `extends` is followed: so no section must be there, and
    `protocol` may come from the file that is extended.
    """
    schema = settings_model(steps).model_json_schema(mode="validation")
    schema.pop("required", None)
    extends = {
        "type": "string",
        "description": "The configuration that this one is built on: the name of a shipped one (default, "
        "lumbar), or the path of a YAML file, relative to this file. Sections are merged key by key; "
        "lists are replaced.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Configuration of Somite",
        "description": "Options of a Somite run. One section per step; every option has a default.",
        "properties": {"extends": extends, **schema["properties"]},
        "anyOf": [{"required": ["protocol"]}, {"required": ["extends"]}],
    }
