"""Atlases: the file that the configuration means, found by name or path, its names and sides checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from somite.errors import DatasetError, Problem
from somite.label_sources.atlas import find_atlas
from somite.label_sources.shipped import read_shipped

FSL = "data/atlases/JHU/JHU-ICBM-labels-1mm.nii.gz"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atlas(path: Path, *, mirrored: bool = False, flipped: bool = True) -> Path:
    """All 48 labels, a voxel each: right ones at x > 0, in FSL's storage order (x flipped) or another."""
    data = np.zeros((21, 49, 3), np.int16)
    for label in read_shipped("jhu_icbm_dti_81"):
        x = {"R": 6, "L": -6}.get(label.segment.side, 0) * (-1 if mirrored else 1)
        data[10 - x if flipped else 10 + x, label.index, 1] = label.index
    affine = np.diag([-1.0 if flipped else 1.0, 1, 1, 1])
    affine[0, 3] = 10 if flipped else -10
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def fails(name: str, sha256: str, table: Path | None = None) -> Problem:
    with pytest.raises(DatasetError) as error:
        find_atlas(name, sha256, table)
    (problem,) = error.value.problems
    assert problem.where and problem.found and problem.expected and problem.do
    return problem


@pytest.fixture
def fsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    return write_atlas(tmp_path / "fsl" / FSL)


def xml(folder: Path, change: tuple[str, str] = ("", "")) -> Path:
    """FSL's file of names: entries with index, place and text."""
    names = {0: "Unclassified", **{label.index: label.name for label in read_shipped("jhu_icbm_dti_81")}}
    entries = "\n".join(f'<label index="{i}" x="1" y="2" z="3">{name} </label>' for i, name in names.items())
    path = folder / "JHU-labels.xml"
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?><atlas><data>{entries}</data></atlas>'
    path.write_text(text.replace(*change) if change[0] else text)
    return path


@pytest.mark.parametrize("flipped", [True, False])
def test_an_atlas_is_found_by_name_in_fsl(fsl: Path, flipped: bool) -> None:
    write_atlas(fsl, flipped=flipped)
    xml(fsl.parents[1])
    atlas = find_atlas("JHU-ICBM-DTI-81", digest(fsl).upper())
    assert (atlas.image, atlas.sha256, atlas.probabilities) == (fsl, digest(fsl), False)
    assert atlas.labels == read_shipped("jhu_icbm_dti_81")


def test_by_path_the_published_numbering_or_the_table_beside_it(tmp_path: Path) -> None:
    image = write_atlas(tmp_path / "JHU-ICBM-labels-1mm.nii.gz")
    assert len(find_atlas(str(image), digest(image)).labels) == 48
    table = tmp_path / "JHU-ICBM-labels-1mm.tsv"
    table.write_text("index\tname\tside\n7\tCST\tR\n")
    (label,) = find_atlas(str(image), digest(image)).labels
    assert (label.index, label.segment.region, label.segment.side) == (7, "CST", "R")
    other = image.rename(tmp_path / "mine.nii.gz")
    assert fails(str(other), digest(other)).code == "ATLAS_NO_TABLE"
    assert find_atlas(str(other), digest(other), table).labels == (label,)


def test_another_file_than_the_configuration_means_is_refused_with_both_sums(fsl: Path) -> None:
    problem = fails("JHU-ICBM-DTI-81", "0" * 64)
    assert (problem.code, problem.found, problem.expected) == ("ATLAS_CHECKSUM", digest(fsl), "0" * 64)
    problem = fails("JHU-ICBM-DTI-81", "")
    assert problem.code == "ATLAS_CHECKSUM" and problem.found == digest(fsl) and "64" in problem.expected


def test_a_mirrored_atlas_is_refused(fsl: Path) -> None:
    write_atlas(fsl, mirrored=True)
    problem = fails("JHU-ICBM-DTI-81", digest(fsl))
    assert problem.code == "ATLAS_SIDES"
    assert "CST R (7, Corticospinal tract R) at x = -6.0 mm" in problem.found


def test_an_issue_with_other_names_is_refused(fsl: Path) -> None:
    xml(fsl.parents[1], ("Uncinate fasciculus R", "Inferior fronto-occipital fasciculus R"))
    problem = fails("JHU-ICBM-DTI-81", digest(fsl))
    assert problem.code == "ATLAS_NAMES"
    assert problem.found == "45: Inferior fronto-occipital fasciculus R"
    assert problem.expected == "45: Uncinate fasciculus R"
    xml(fsl.parents[1]).write_text("<atlas>")
    assert fails("JHU-ICBM-DTI-81", digest(fsl)).code == "ATLAS_NAMES"


def test_tract_probabilities_are_volumes_counted_from_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLDIR", str(tmp_path))
    path = tmp_path / "data/atlases/JHU/JHU-ICBM-tracts-prob-1mm.nii.gz"
    path.parent.mkdir(parents=True)
    data = np.zeros((21, 5, 5, 20), np.int16)
    for label in read_shipped("jhu_tracts"):
        data[10 + {"R": -6, "L": 6}.get(label.segment.side, 0), 2, 2, label.index - 1] = 80
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 10
    nib.save(nib.Nifti1Image(data, affine), path)
    atlas = find_atlas("JHU-tracts", digest(path))
    assert atlas.probabilities and len(atlas.labels) == 20
    nib.save(nib.Nifti1Image(data[::-1], affine), path)
    assert fails("JHU-tracts", digest(path)).code == "ATLAS_SIDES"


def test_an_atlas_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSLDIR", raising=False)
    assert fails("JHU-ICBM-DTI-81", "0" * 64).found == "$FSLDIR is not set"
    monkeypatch.setenv("FSLDIR", str(tmp_path))
    problem = fails("JHU-ICBM-DTI-81", "0" * 64)
    assert problem.code == "ATLAS_NOT_FOUND" and "JHU-ICBM-labels-1mm.nii.gz" in problem.found
    assert fails(str(tmp_path / "no.nii.gz"), "0" * 64).code == "ATLAS_NOT_FOUND"
