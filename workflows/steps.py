"""What runs in a session: each step, what its needs are wired to, and what of it is delivered.

The order is found from what each needs and makes. To add a step is to add a line here, and its file in
`interfaces/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from somite.corrected import DISTORTION, MOTION, OUTLIERS
from somite.derivatives import Derivative
from somite.interfaces import gradient_orientation
from somite.profiles import SCHEMA_OF_PROFILES
from somite.segments import SCHEMA, Column
from somite.sensitivity import SENSITIVITY_SCHEMA
from somite.workflows.graph import UNMET, Use

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
