"""The steps of one session, by name. The order is found from what each needs and makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from somite import __version__, bids, containers
from somite.configs.model import Settings
from somite.corrected import DISTORTION, MOTION, OUTLIERS
from somite.dataset.sessions import Plan, Session
from somite.derivatives import Derivative
from somite.interfaces import gradient_orientation
from somite.profiles import SCHEMA_OF_PROFILES
from somite.segments import SCHEMA, Column
from somite.sensitivity import SENSITIVITY_SCHEMA
from somite.workflows.given import GIVEN, every_kind, given_files, given_texts
from somite.workflows.graph import UNMET, Node, Use, join
from somite.workflows.session import Unit

MM2_PER_S = "mm^2/s"


def preproc(extension: str = ".nii.gz") -> Derivative:
    """The corrected series, or one of the text files beside it."""
    metadata = {"Description": "Preprocessed DWI", "SkullStripped": False} if extension == ".nii.gz" else {}
    return Derivative("dwi", {"desc": "preproc"}, extension, metadata)


def tensor_map(parameter: str, description: str, units: str = "arbitrary") -> Derivative:
    """A map of the diffusion tensor model, named as in BEP016."""
    return Derivative(
        "dwimap",
        {"space": "dwi", "model": "tensor", "param": parameter},
        metadata={"Description": description, "Units": units, "OrientationEncoding": {"Reference": "xyz"}},
    )


def table(name: str, columns: Sequence[Column]) -> Derivative:
    """A table of the session, with what its columns mean beside it."""
    return Derivative("stats", {"desc": name}, ".tsv", columns=columns)


ANY_LABELS = ("labels", "atlas_labels")
LABELS_DWI = {
    "labels_dwi": Derivative(
        "dseg",
        {"space": "dwi", "desc": "transferred"},
        metadata={"Description": "Labels on the grid of the series: edit, and give back with the TSV"},
    ),
    "labels_dwi_table": Derivative("dseg", {"space": "dwi", "desc": "transferred"}, ".tsv"),
}
PROBABILITIES_DWI = {
    "probabilities_dwi": Derivative(
        "probseg",
        {"space": "dwi", "desc": "transferred"},
        metadata={"Description": "Probabilities on the grid of the series, a volume for each row of the TSV"},
    ),
    "probabilities_dwi_table": Derivative("probseg", {"space": "dwi", "desc": "transferred"}, ".tsv"),
}
MASK = {
    "mask": Derivative(
        "mask", {"space": "dwi"}, metadata={"Type": "ROI", "Description": "Where the tensor was fitted"}
    )
}

STEPS = (
    Use("load", deliver={"bval_loaded": preproc(".bval")}),
    Use(
        "denoise",
        {"dwi": "dwi_loaded", "bval": "bval_loaded"},
        {
            "noise_sigma": Derivative(
                "dwimap",
                {"space": "dwi", "param": "sigma"},
                metadata={"Description": "Noise standard deviation (MP-PCA)", "Units": "arbitrary"},
            )
        },
    ),
    Use("degibbs", {"dwi": "dwi_denoised"}),
    Use(
        "susceptibility",
        {"dwi": "dwi_degibbs", "bval": "bval_loaded", "bvec": "bvec_loaded"},
        {
            "field": Derivative(
                "fieldmap",
                {"space": "dwi"},
                metadata={"Description": "Off-resonance, in the undistorted space", "Units": "Hz"},
                told={"Units": "unit of the field"},
            ),
            "b0_undistorted": Derivative(
                "dwiref",
                {"space": "dwi", "desc": "undistorted"},
                metadata={"Description": "Mean b=0 volume of both phase-encoding directions"},
            ),
        },
        only_with="pairing",
    ),
    Use(
        "eddy",
        {"dwi": "dwi_degibbs", "bval": "bval_loaded", "bvec": "bvec_loaded"},
        {
            "bvec_corrected": preproc(".bvec"),
            "motion": Derivative("motion", extension=".tsv", columns=MOTION),
            "outliers": Derivative("outliers", extension=".tsv", columns=OUTLIERS),
            "distortion": Derivative("distortion", extension=".tsv", columns=DISTORTION),
        },
        unless_none=("motion", "outliers", "distortion"),
    ),
    Use(
        "bias",
        {"dwi": "dwi_corrected", "bval": "bval_loaded"},
        {
            "dwi_unbiased": preproc(),
            "bias_field": Derivative(
                "dwimap",
                {"space": "dwi", "param": "bias"},
                metadata={
                    "Description": "Receive field that the series was divided by",
                    "Units": "unitless",
                },
            ),
        },
        unless_none=("bias_field",),
    ),
    Use(
        "anatomy_transform",
        {"dwi": "dwi_corrected", "bval": "bval_loaded"},
        {"anatomy_transform": Derivative("xfm", {"from": "anat", "to": "dwi", "mode": "image"}, ".h5")},
        only_with="anatomy",
    ),
    Use("transfer", {"dwi": "dwi_corrected", "atlas_transform": UNMET}, LABELS_DWI, only_with="labels"),
    # The template is registered to FA: labels of an atlas come after the tensor fit.
    Use(
        "transfer",
        {
            "labels": "atlas_labels",
            "dwi": "dwi_corrected",
            "labels_transform": UNMET,
            "anatomy_transform": UNMET,
            "anatomy_doubts": UNMET,
            "within": "mask",
        },
        LABELS_DWI,
        only_with="atlas_labels",
    ),
    Use(
        "carve",
        {"label_table": "labels_dwi_table"},
        {
            "segments_dwi": Derivative(
                "dseg",
                {"space": "dwi", "desc": "segments"},
                metadata={"Description": "Segments that were measured, cut from the labels"},
            ),
            "segment_table": Derivative("dseg", {"space": "dwi", "desc": "segments"}, ".tsv"),
        },
        only_with=ANY_LABELS,
    ),
    Use("mask", {"dwi": "dwi_unbiased", "bval": "bval_loaded"}, MASK, unless_with="atlas_labels"),
    Use(
        "mask",
        {"dwi": "dwi_unbiased", "bval": "bval_loaded", "labels_dwi": UNMET},
        MASK,
        only_with="atlas_labels",
    ),
    Use(
        "atlas",
        deliver={
            "atlas_transform": Derivative("xfm", {"from": "template", "to": "dwi", "mode": "image"}, ".h5")
        },
        only_with="atlas_template",
    ),
    Use(
        "probabilities",
        {"dwi": "dwi_corrected", "transform": "probabilities_transform"},
        PROBABILITIES_DWI,
        only_with="probabilities",
    ),
    Use(
        "probabilities",
        {
            "probabilities": "atlas_probabilities",
            "dwi": "dwi_corrected",
            "transform": "atlas_transform",
            "anatomy_transform": UNMET,
            "anatomy_doubts": UNMET,
            "within": "mask",
        },
        PROBABILITIES_DWI,
        only_with="atlas_probabilities",
    ),
    Use(
        "fat_fraction",
        {"dwi": "dwi_corrected", "labels_transform": "fat_transform"},
        {
            "fat_fraction": Derivative(
                "dwimap",
                {"space": "dwi", "param": "fat"},
                metadata={"Description": "Fat fraction; -1 where it is not known", "Units": "unitless"},
            )
        },
        only_with="fat_given",
    ),
    Use(
        "tensor",
        {"dwi": "dwi_unbiased", "bval": "bval_loaded", "bvec": "bvec_corrected"},
        {
            "fa": tensor_map("fa", "Fractional anisotropy", "unitless"),
            "md": tensor_map("md", "Mean diffusivity", MM2_PER_S),
            "ad": tensor_map("ad", "Axial diffusivity: the largest eigenvalue", MM2_PER_S),
            "rd": tensor_map("rd", "Radial diffusivity: the mean of the two smaller eigenvalues", MM2_PER_S),
            "s0": tensor_map("s0", "Fitted signal at b=0"),
            "tensor": tensor_map("tensor", "Dxx Dxy Dyy Dxz Dyz Dzz in world RAS+ axes", MM2_PER_S),
            "eigenvectors": tensor_map(
                "evecs", "x, y, z of the first, second and third eigenvector", "unitless"
            ),
            "residual": tensor_map("residual", "Root mean square of the fit's residual over S0", "unitless"),
            "nonpositive": tensor_map("nonpositive", "1 where an eigenvalue is not positive", "unitless"),
        },
    ),
    Use(
        "gradient_orientation",
        deliver={"gradient_orientation": table("bveccheck", gradient_orientation.COLUMNS)},
        unless_none=("gradient_orientation",),
    ),
    Use(
        "qc",
        {"bval": "bval_loaded", "bvec": "bvec_corrected"},
        {
            "qc": Derivative("stats", {"desc": "qc"}, ".tsv"),
            "qc_dictionary": Derivative("stats", {"desc": "qc"}, ".json"),
        },
    ),
    Use(
        "perfusion",
        {"dwi": "dwi_unbiased", "bval": "bval_loaded", "bvec": "bvec_corrected"},
        {
            "perfusion_fraction": Derivative(
                "dwimap",
                {"space": "dwi", "param": "perfusion"},
                metadata={"Description": "Perfusion fraction", "Units": "unitless"},
                told={"Description": "perfusion_fraction"},
            )
        },
        when_asked=True,
    ),
    Use(
        "track",
        {"label_table": "labels_dwi_table"},
        {
            "tracts": Derivative("tractogram", {"space": "dwi"}, ".trk"),
            "tract_density": Derivative(
                "probseg",
                {"space": "dwi", "desc": "tracts"},
                metadata={"Description": "Part of a tract's streamlines in each voxel, a volume per tract"},
            ),
            "tract_table": Derivative("probseg", {"space": "dwi", "desc": "tracts"}, ".tsv"),
        },
        only_with=ANY_LABELS,
        when_asked=True,
    ),
    Use(
        "profile",
        {"label_table": "labels_dwi_table", "probability_table": "probabilities_dwi_table"},
        {"profiles": table("profiles", SCHEMA_OF_PROFILES)},
        only_with=(*ANY_LABELS, "probabilities", "atlas_probabilities"),
    ),
    Use(
        "roi",
        {
            "bval": "bval_used",
            "labels_dwi": "segments_dwi",
            "label_table": "segment_table",
            "probability_table": "probabilities_dwi_table",
        },
        {
            "segments": table("segments", SCHEMA),
            "sensitivity": table("sensitivity", SENSITIVITY_SCHEMA),
        },
    ),
    Use("derived", deliver={"derived": table("derived", SCHEMA)}),
    Use(
        "pictures",
        {"bval": "bval_loaded", "bvec": "bvec_loaded"},
        {"pictures": Derivative("pictures", extension=".zip", folder="figures")},
    ),
)


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes, and how."""

    plan: Plan
    settings: Settings
    out_dir: Path
    work_dir: Path
    verify: bool = False
    command: str = ""
    job: str = ""
    """Job and element of the cluster, for the records."""


def joined(settings: Settings) -> Callable[[frozenset[str]], tuple[Node, ...]]:
    """Optional products that are there -> the nodes of a session that has them.

    Raises (when called):
        GraphError, ToolError: as `graph.join`.
    """

    @cache
    def nodes(present: frozenset[str]) -> tuple[Node, ...]:
        given = (*GIVEN, *sorted(present))
        uses = [use for use in STEPS if use.belongs(given, settings.step)]
        return join(uses, given, settings.step, "workflows/participant.py")

    return nodes


def units(place: Place) -> dict[str, Unit]:
    """Label -> unit, for every session without an error in its plan.

    Raises:
        GraphError, ToolError: as `graph.join`.
    """
    nodes = joined(place.settings)
    return {s.label: _unit(s, place, nodes) for s in place.plan.sessions if not s.errors}


def check(settings: Settings) -> None:
    """Join the workflow with all that may be given, to find its mistakes before anything runs.

    Raises:
        GraphError, ToolError: as `graph.join`.
    """
    for given in every_kind():
        joined(settings)(given)


def _unit(session: Session, place: Place, nodes: Callable[[frozenset[str]], tuple[Node, ...]]) -> Unit:
    present = given_files(session)
    texts = given_texts(session)
    identity = identity_of(session, place.settings)
    own = nodes(frozenset(present) | frozenset(texts))
    return Unit(
        label=session.label,
        nodes=own,
        files={
            "dwi": tuple(series.dwi for series in session.series),
            "bval": tuple(series.bval for series in session.series if series.bval),
            "bvec": tuple(series.bvec for series in session.series if series.bvec),
            **present,
        },
        texts={
            "sidecar": tuple(
                json.dumps({"Name": bids.stem(series.dwi), **series.metadata}, sort_keys=True)
                for series in session.series
            ),
            "identity": json.dumps(identity, sort_keys=True),
            **texts,
        },
        targets={
            product: (place.out_dir / target(session, derivative), derivative)
            for product, derivative in delivered(own).items()
        },
        out_dir=place.out_dir,
        work_dir=place.work_dir,
        source_dir=place.plan.bids_dir,
        dwi_gb=sum(voxels(series.shape) * series.n_volumes for series in session.series) * 4 / 1e9,
        identity=identity,
        facts=session.facts,
        warnings=session.warnings,
        containers=containers.used(),
        keep=place.settings.keep,
        verify=place.verify,
        command=place.command,
        job=place.job,
    )


def delivered(nodes: Iterable[Node]) -> dict[str, Derivative]:
    """What a session of these nodes delivers, in the order of `STEPS`."""
    options = {node.step: node.config for node in nodes}
    return {
        product: derivative
        for use in STEPS
        if use.step in options
        for product, derivative in use.delivered(options[use.step]).items()
    }


def voxels(shape: tuple[int, ...]) -> int:
    """Voxels of one volume."""
    return shape[0] * shape[1] * shape[2]


def identity_of(session: Session, settings: Settings) -> dict[str, str]:
    """Who a session is: the columns of the table that no image tells."""
    return {
        "participant_id": f"sub-{session.participant}",
        "session_id": f"ses-{session.session}" if session.session else "",
        "run": session.run_label,
        "site": "",
        "protocol": settings.protocol,
        "model": settings.step("tensor").model_dump()["method"],
        "roi_source": session.roi_source,
        "rater": session.rater,
        "pipeline_version": __version__,
    }


def target(session: Session, derivative: Derivative) -> Path:
    """Where a derivative of a session goes, relative to the output.

    Labels keep the `seg` of their source; the transform of an anatomical image is named after that.
    """
    own = {"seg": session.label_entities.get("seg", "")} if derivative.suffix == "dseg" else {}
    name = bids.build_name(
        {
            "sub": session.participant,
            "ses": session.session or "",
            **session.entities,
            **own,
            **derivative.entities,
            **(_from(session) if derivative.entities.get("from") == "anat" else {}),
        },
        derivative.suffix,
        derivative.extension,
    )
    folder = Path(session.folder)
    return (folder.parent / derivative.folder if derivative.folder else folder) / name


def _from(session: Session) -> dict[str, str]:
    """The space of the session's anatomical image, which is its suffix: `T2w`."""
    name = None if session.anatomy is None else bids.parse_name(session.anatomy.name)
    return {} if name is None else {"from": name.suffix}
