"""Somite: BIDS diffusion MRI in, segment-level DTI tables out."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def as_pydra(step: str) -> Any:
    """A step as a Pydra task class, for other people's workflows: files in, files out, options as fields.

    >>> Denoise = somite.as_pydra("denoise")
    >>> outputs = Denoise(dwi="dwi.nii.gz", patch_voxels=5)(cache_root="cache")

    Raises:
        GraphError: `STEP_UNKNOWN`.
    """
    from somite.workflows import engine

    return engine.as_pydra(step)


def as_nipype(step: str) -> Any:
    """A step as a Nipype interface, for other people's workflows: files in, files out, options as traits.

    >>> node = nipype.Node(somite.as_nipype("denoise"), name="denoise")
    >>> node.inputs.dwi = "dwi.nii.gz"

    Raises:
        GraphError: `STEP_UNKNOWN`.
    """
    from somite.nipype_node import interface_of
    from somite.workflows.graph import step_named

    return interface_of(step_named(step))()
