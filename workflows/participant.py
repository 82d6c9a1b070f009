"""The sessions of a cohort as units of the engine: their nodes, files, and where results go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from somite import __version__, bids, containers
from somite.configs.model import Settings
from somite.dataset.sessions import Plan, Session
from somite.derivatives import Derivative
from somite.workflows.given import GIVEN, every_kind, given_files, given_texts
from somite.workflows.graph import Node, join
from somite.workflows.session import Unit
from somite.workflows.steps import STEPS


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
        return join(uses, given, settings.step, "workflows/steps.py")

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
