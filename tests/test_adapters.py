"""Every step runs alone, in a bare Pydra workflow and in a bare Nipype node, with no BIDS in sight."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype import Node
from pydra.compose import workflow

import somite
from somite.analysis.model import Cohort
from somite.clinical import cohort_text
from somite.errors import GraphError
from somite.images import open_image, read_labels, write
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid
from somite.registry import discover


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small phantom as the files that the first steps need."""
    root = tmp_path_factory.mktemp("files") / "bids"
    write_dataset(root, participants=1, snr=math.inf, grid=lumbar_grid(4.5))
    series = root / "sub-01" / "dwi" / "sub-01_dwi"
    labels = root / "derivatives/labels/sub-01/dwi/sub-01_space-dwi_seg-lumbar_desc-manual_dseg"
    about = json.loads(series.with_suffix(".json").read_text())
    reverse = {
        "name": "reverse",
        "phase_encoding_direction": "j",
        "total_readout_time_s": about["TotalReadoutTime"],
        "b0_volumes": [0],
    }
    (root / "pairing.json").write_text(json.dumps({"opposed": [reverse]}))
    drawn, grid = read_labels(labels.with_suffix(".nii.gz"))
    likely = write(root / "likely.nii", (drawn == 1).astype(np.float32), grid)
    (root / "likely.tsv").write_text("index\tname\tside\n1\ttract\tR\n")
    about_cohort = root / "cohort.json"
    declared = Cohort.model_validate({"controls": {"group": "control"}})
    about_cohort.write_text(cohort_text(declared, "controls", "age", "sex", "affected"))
    (root / "protocol.txt").write_text("lumbar")
    return {
        "anatomy": likely,
        "probabilities": likely,
        "probability_table": root / "likely.tsv",
        "dwi": series.with_suffix(".nii.gz"),
        "bval": series.with_suffix(".bval"),
        "bvec": series.with_suffix(".bvec"),
        "sidecar": series.with_suffix(".json"),
        "pairing": root / "pairing.json",
        "opposed": series.with_suffix(".nii.gz"),
        "labels": labels.with_suffix(".nii.gz"),
        "label_table": labels.with_suffix(".tsv"),
        "fat_given": labels.with_suffix(".nii.gz"),
        "clinical": root / "participants.tsv",
        "controls": about_cohort,
        "age_sex": about_cohort,
        "affected_side": about_cohort,
        "protocol": root / "protocol.txt",
    }


# Steps in an order in which they can run, with the product that meets a need of another name, and options.
CHAIN: dict[str, dict[str, Any]] = {
    "load": {"wires": {}},
    "denoise": {"wires": {"dwi": "dwi_loaded", "bval": "bval_loaded"}},
    "degibbs": {"wires": {"dwi": "dwi_denoised"}},
    "susceptibility": {"wires": {"dwi": "dwi_degibbs", "bval": "bval_loaded", "bvec": "bvec_loaded"}},
    "eddy": {"wires": {"dwi": "dwi_degibbs", "bval": "bval_loaded", "bvec": "bvec_loaded"}},
    "bias": {"wires": {"dwi": "dwi_corrected", "bval": "bval_loaded"}, "options": {"method": "n4"}},
    "anatomy_transform": {
        "wires": {"dwi": "dwi_corrected", "bval": "bval_loaded"},
        "options": {"method": "header"},
    },
    "transfer": {"wires": {"dwi": "dwi_corrected"}},
    "carve": {"wires": {}},
    "probabilities": {"wires": {"dwi": "dwi_corrected"}},
    "mask": {"wires": {"dwi": "dwi_unbiased", "bval": "bval_loaded"}, "options": {"method": "body"}},
    "tensor": {"wires": {"dwi": "dwi_unbiased", "bval": "bval_loaded", "bvec": "bvec_corrected"}},
    "gradient_orientation": {"wires": {}},
    "qc": {"wires": {"bval": "bval_loaded", "bvec": "bvec_corrected"}},
    "perfusion": {"wires": {"dwi": "dwi_unbiased", "bval": "bval_loaded", "bvec": "bvec_corrected"}},
    "fat_fraction": {"wires": {"dwi": "dwi_corrected"}},
    "atlas": {"wires": {"atlas_template": "fa"}, "options": {"method": "affine"}},
    "track": {"wires": {}, "options": {"method": "deterministic", "seeds_per_voxel": 1}},
    "profile": {"wires": {}},
    "roi": {"wires": {"bval": "bval_used", "labels_dwi": "segments_dwi", "label_table": "segment_table"}},
    "derived": {"wires": {}},
    "pictures": {"wires": {"bval": "bval_loaded", "bvec": "bvec_loaded"}},
    "table": {"wires": {"stats": "segments"}},
    "profile_table": {"wires": {}},
    "norms": {"wires": {}},
    "reference": {"wires": {}},
    "affected": {"wires": {}},
    "qc_table": {"wires": {}},
}
OF_THE_COHORT = ("table", "qc_table", "profile_table", "norms", "reference", "affected")


def inputs_of(name: str, made: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a step from what is there so far; a need for several files gets a list."""
    given = {}
    for need in discover()[name].needs:
        product = CHAIN[name]["wires"].get(need.name, need.name)
        if product in made:
            given[need.name] = [made[product]] if need.many else made[product]
    return given


def test_every_step_is_in_the_chain() -> None:
    # Analyses begin with definitions from the configuration: tests/test_analyse.py runs them.
    assert {*CHAIN, "analyse"} == set(discover())


def test_every_step_in_one_bare_pydra_workflow(files: dict[str, Path], tmp_path: Path) -> None:
    tasks = {name: somite.as_pydra(name) for name in CHAIN if name not in OF_THE_COHORT}

    @workflow.define(outputs=["fa", "segments", "qc"])
    def Bare(given: dict) -> tuple[Any, Any, Any]:  # type: ignore[type-arg]
        made: dict[str, Any] = dict(given)
        for name, task in tasks.items():
            out = workflow.add(task(**inputs_of(name, made), **CHAIN[name].get("options", {})), name=name)
            made |= {product: getattr(out, product) for product in discover()[name].makes}
        return made["fa"], made["segments"], made["qc"]

    outputs = Bare(given=files)(cache_root=tmp_path / "cache", worker="debug")
    assert open_image(Path(outputs.fa)).shape == open_image(files["dwi"]).shape[:3]
    # A list of one lazy file is no lazy list of files to Pydra: the cohort's table is a workflow of its own.
    table = somite.as_pydra("table")(stats=[outputs.segments])(cache_root=tmp_path / "cache", worker="debug")
    assert "nerve_root" in Path(table.segments_table).read_text()
    table = somite.as_pydra("qc_table")(qc=[outputs.qc])(cache_root=tmp_path / "cache", worker="debug")
    assert "snr_b0" in Path(table.qc_wide).read_text()


def test_every_step_in_bare_nipype_nodes(files: dict[str, Path], tmp_path: Path) -> None:
    made: dict[str, Any] = dict(files)
    for name in CHAIN:
        node = Node(somite.as_nipype(name), name=name, base_dir=tmp_path)
        for key, value in {**inputs_of(name, made), **CHAIN[name].get("options", {})}.items():
            setattr(node.inputs, key, [str(v) for v in value] if isinstance(value, list) else value)
        outputs = node.run().outputs.get()
        made |= {product: Path(outputs[product]) for product in discover()[name].makes}
    fa = np.asarray(nib.load(made["fa"]).dataobj)
    assert 0.2 < np.percentile(fa[fa > 0], 95) < 1
    assert "nerve_root" in made["segments_table"].read_text()
    assert "snr_b0" in made["qc_wide"].read_text()


@pytest.mark.parametrize("name", sorted(CHAIN))
def test_interfaces_describe_themselves(name: str) -> None:
    interface = somite.as_nipype(name)
    for trait_name, trait in {**interface.inputs.traits(), **interface.output_spec().traits()}.items():
        if not trait_name.startswith("trait_"):
            assert trait.desc, f"{name}.{trait_name}"


def test_a_wrong_option_is_refused_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    node = somite.as_nipype("tensor")
    with pytest.raises(Exception, match="method"):
        node.inputs.method = "wlls"


def test_an_unknown_step_names_the_nearest() -> None:
    with pytest.raises(GraphError, match=r"did you mean denoise\?"):
        somite.as_pydra("denoyse")
    with pytest.raises(GraphError, match=r"did you mean denoise\?"):
        somite.as_nipype("denoyse")
