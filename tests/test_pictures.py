"""The album of a session: what is there is a picture, what is not is told in words; equal bytes each time."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from somite import images, norms
from somite.errors import DatasetError
from somite.gradients import Gradients, write_fsl
from somite.images import Grid
from somite.interfaces import pictures
from somite.registry import Context
from somite.report import album, picture_files, plots, session_pictures, session_plots, style
from somite.report.album import SECTIONS, Picture
from somite.segments import Label, Segment, label_table_text

BVALS = np.array([0.0] * 3 + [800.0] * 8)


@dataclass
class Made:
    """A session of tiny images in a folder, and the album made of them."""

    given: dict[str, Any]
    folder: Path

    def album(self, threads: int = 1, name: str = "out", **options: Any) -> Path:
        out = self.folder / name
        out.mkdir(exist_ok=True)
        context = Context(out, threads)
        return Path(pictures.run(**self.given, config=pictures.Config(**options), context=context))

    def index(self, **options: Any) -> dict[str, dict[str, Any]]:
        with zipfile.ZipFile(self.album(**options)) as found:
            listed = json.loads(found.read("index.json"))
        assert len({one["name"] for one in listed}) == len(listed)
        return {one["name"]: one for one in listed}


def session(folder: Path, shape: tuple[int, int, int] = (20, 16, 8), *, nan: bool = False) -> Made:
    """A box of tissue on an oblique, flipped grid; every step changed something."""
    rng = np.random.default_rng(3)
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (8, -12, 20), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 3.0])
    grid = Grid(shape, affine)
    inside = np.zeros(shape, bool)
    inside[shape[0] // 5 : -(shape[0] // 5) or None, shape[1] // 5 : -(shape[1] // 5) or None] = True
    n = len(BVALS)
    vectors = rng.normal(size=(n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[BVALS == 0] = 0
    gradients = Gradients(BVALS, vectors)
    write_fsl(gradients, folder / "a.bval", folder / "a.bvec", affine)
    turned = Gradients(BVALS, vectors @ Rotation.from_euler("z", 4, degrees=True).as_matrix().T)
    write_fsl(turned, folder / "b.bval", folder / "b.bvec", affine)
    signal = np.where(inside[..., None], np.exp(-BVALS * 1e-3) * 500, 5.0) * np.ones((*shape, 1))

    def image(name: str, data: np.ndarray) -> Path:
        return images.write(folder / f"{name}.nii", data.astype(np.float32), grid)

    given: dict[str, Any] = {
        "bval": folder / "a.bval",
        "bvec": folder / "a.bvec",
        "bvec_corrected": folder / "b.bvec",
        "mask": images.write(folder / "mask.nii", inside, grid),
    }
    for name in ("dwi_loaded", "dwi_denoised", "dwi_degibbs", "dwi_corrected", "dwi_unbiased"):
        data = signal + rng.normal(scale=4, size=signal.shape)
        if nan:
            data[shape[0] // 2, shape[1] // 2] = np.nan
        given[name] = image(name, data)
    fa = np.where(inside, 0.4, np.nan if nan else 0.0)
    vector = np.zeros((*shape, 9))
    vector[..., 0] = 1
    given |= {
        "noise_sigma": image("noise_sigma", np.full(shape, 4.0)),
        "residual": image("residual", np.where(inside, 0.02, 0)),
        "fa": image("fa", fa),
        "md": image("md", fa * 2.5e-3),
        "eigenvectors": image("eigenvectors", vector),
        "bias_field": image("bias_field", np.linspace(0.9, 1.1, np.prod(shape)).reshape(shape)),
    }
    volumes = [{"series": 0, "total_readout_time_s": 0.05} for _ in BVALS]
    (folder / "scan.json").write_text(json.dumps({"series": [{}], "volumes": volumes}))
    given["scan"] = folder / "scan.json"
    head = [
        "volume",
        "trans_x_mm",
        "trans_y_mm",
        "trans_z_mm",
        "rot_x_deg",
        "rot_y_deg",
        "rot_z_deg",
        "displacement_mm",
    ]
    rows = [[v, *(rng.normal(size=7).round(3)), int(v == 4), shape[2]] for v in range(n)]
    given["motion"] = tsv(folder / "motion.tsv", [*head, "lost_slices", "slices"], rows)
    given["outliers"] = tsv(folder / "outliers.tsv", ["volume", "slice", "z", "replaced"], [[4, 0, 2.0, 1]])
    given["distortion"] = tsv(
        folder / "distortion.tsv", ["volume", "rms_mm"], [[v, 0.1 * v] for v in range(n)]
    )
    return Made(given, folder)


def tsv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    lines = ["\t".join(header), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def with_segments(made: Made) -> Made:
    """Left and right, as the affine has it, on the grid; and an anatomy twice as fine."""
    mask, grid = images.read_float(made.given["mask"])
    labels = np.zeros(grid.shape, np.int32)
    labels[4:7, 5:9, 2:6], labels[13:16, 5:9, 2:6] = 2, 1  # the first axis leads to the left
    table = (Label(1, "a", Segment("nerve_root", "L", "L5")), Label(2, "b", Segment("nerve_root", "R", "L5")))
    (made.folder / "labels.tsv").write_text(label_table_text(table))
    fine = grid.affine.copy()
    fine[:3, :3] /= 2
    anatomy = np.kron(mask, np.ones((2, 2, 2))).astype(np.float32)
    made.given |= {
        "segments_dwi": images.write(made.folder / "labels.nii", labels, grid),
        "segment_table": made.folder / "labels.tsv",
        "anatomy": images.write(made.folder / "t2.nii", anatomy, Grid(anatomy.shape, fine)),
    }
    return made


def test_what_a_session_lacks_is_told_in_words(tmp_path: Path) -> None:
    index = session(tmp_path).index()
    words = {name: one["caption"] for name, one in index.items() if not one["files"]}
    assert set(words) == {"susceptibility", "segments", "profiles"}
    assert "opposite phase encoding" in words["susceptibility"]
    assert "no label image" in words["segments"]
    assert all(text.endswith(".") and index[name]["alt"] for name, text in words.items())


def test_in_the_place_of_a_picture_that_was_not_made_stands_why() -> None:
    why = "Nobody looked for slices that lost signal."
    archive = picture_files.Archive((album.unmade("lost", "motion", "Lost slices", why),), {})
    shown = picture_files.shown(archive, 1000, "figures")["lost"]
    assert (shown.missing, shown.caption, shown.uri) == (why, "", "")


def test_every_section_is_there_and_every_file_is_in_the_album(tmp_path: Path) -> None:
    made = with_segments(session(tmp_path))
    path = made.album()
    with zipfile.ZipFile(path) as found:
        listed = json.loads(found.read("index.json"))
        names = {name for one in listed for name in one["files"]}
        assert names | {"index.json"} == set(found.namelist())
        for name in names:
            if name.endswith(".png"):
                Image.open(io.BytesIO(found.read(name))).verify()
    assert {one["section"] for one in listed} == set(SECTIONS)
    assert set(listed[0]) == {"name", "section", "title", "alt", "caption", "files", "pair"}
    assert path.stat().st_size < album.LIMIT_BYTES
    plots_of = [one for one in listed if one["section"] in ("scheme", "motion") and one["files"]]
    assert all(len(one["files"]) == 3 for one in plots_of)


def test_pairs_have_the_same_size_and_greys(tmp_path: Path) -> None:
    made = with_segments(session(tmp_path))
    with zipfile.ZipFile(made.album()) as found:
        listed = {one["name"]: one for one in json.loads(found.read("index.json"))}
        pairs = [(one["name"], one["pair"]) for one in listed.values() if one["pair"]]

        def size(name: str) -> tuple[int, int]:
            return Image.open(io.BytesIO(found.read(listed[name]["files"][0]))).size

        assert len(pairs) >= 6
        assert all(size(name) == size(pair) for name, pair in pairs)


def test_equal_bytes_on_each_run_and_thread_count(tmp_path: Path) -> None:
    made = with_segments(session(tmp_path))
    first = made.album(1, "one").read_bytes()
    assert made.album(3, "two").read_bytes() == first


def test_a_step_that_did_not_run_has_no_picture(tmp_path: Path) -> None:
    made = session(tmp_path)
    same = made.given["dwi_loaded"]
    made.given |= dict.fromkeys(("dwi_denoised", "dwi_degibbs", "dwi_corrected", "dwi_unbiased"), same)
    index = made.index()
    for name in ("denoise", "degibbs", "eddy", "bias"):
        assert index[name]["files"] == []
        assert "as it was" in index[name]["caption"] or "not corrected" in index[name]["caption"]


def test_a_field_has_its_unit(tmp_path: Path) -> None:
    made = session(tmp_path)
    shape = (20, 16, 8)
    grid = images.read_float(made.given["mask"])[1]
    field = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    made.given["field"] = images.write(tmp_path / "field.nii", field, grid)
    made.given["b0_undistorted"] = images.write(tmp_path / "b0.nii", field + 100, grid)
    index = made.index()
    assert index["susceptibility-after"]["pair"] == "susceptibility-before"
    assert index["susceptibility-field"]["files"] == ["susceptibility-field.png"]
    assert session_pictures.unit_of_field(made.given["scan"]) == "Hz"
    made.given["scan"].write_text(json.dumps({"volumes": [{"total_readout_time_s": None}]}))
    assert session_pictures.unit_of_field(made.given["scan"]) == "voxels of displacement"


@pytest.mark.parametrize("shape", [(20, 16, 1), (1, 16, 8), (20, 1, 8)])
def test_one_slice(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    index = session(tmp_path, shape).index()
    assert index["maps-fa"]["files"]


def test_nan_voxels_are_unknown_and_harm_nothing(tmp_path: Path) -> None:
    assert session(tmp_path, nan=True).index()["denoise-after"]["files"]


def test_a_series_of_b0_only(tmp_path: Path) -> None:
    made = session(tmp_path)
    np.savetxt(made.given["bval"], np.zeros((1, len(BVALS))))
    index = made.index()
    assert index["scheme-sphere"]["files"] == []
    assert "no diffusion-weighted volume" in index["scheme-sphere"]["caption"]


def test_labels_without_a_voxel_and_tables_of_nothing(tmp_path: Path) -> None:
    made = with_segments(session(tmp_path))
    labels, grid = images.read_labels(made.given["segments_dwi"])
    images.write(made.given["segments_dwi"], labels * 0, grid)
    index = made.index()
    assert "No voxel" in index["segments"]["caption"]


def test_without_an_anatomy_segments_are_on_b0_and_fa(tmp_path: Path) -> None:
    made = with_segments(session(tmp_path))
    del made.given["anatomy"]
    index = made.index(planes={"axial": 1, "coronal": 1, "sagittal": 0})
    assert index["segments-anatomy"]["files"] == []
    assert {f"segments-{p}-{b}" for p in ("axial", "coronal") for b in ("b0", "fa")} <= set(index)
    assert not [name for name in index if "sagittal" in name]


def test_a_map_of_another_grid_is_refused(tmp_path: Path) -> None:
    made = session(tmp_path)
    made.given["fa"] = images.write(
        tmp_path / "x.nii", np.zeros((3, 3, 3), np.float32), Grid((3, 3, 3), np.eye(4))
    )
    with pytest.raises(DatasetError) as caught:
        made.album()
    assert caught.value.problems[0].code == "IMAGE_GRID"


UNITS = {"fa": "1", "md": "1e-3 mm2/s"}


def profile_rows(value: str = "0.4", region: str = "nerve_root", level: str = "L5") -> list[dict[str, str]]:
    return [
        {
            "region": region, "side": side, "level": level, "segment": "n/a", "extraction": "label",
            "node": str(k), "position_mm": str(1.5 * k), "position_frac": str(k / 20), "metric": metric,
            "value": value, "se": "0.01", "n_voxels": "9", "reason": "n/a" if value != "n/a" else "no exit",
            "unit": UNITS[metric],
        }
        for side in "LR" for k in range(20) for metric in ("fa", "md")
    ]  # fmt: skip


def panel_of(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Metric -> what is drawn of it, with the published values."""
    drawn = {}
    whole = plots.profiles

    def look(panels: Any, along: str, measure: str) -> Any:
        drawn[measure[:2].lower()] = panels[0]
        return whole(panels, along, measure)

    monkeypatch.setattr(plots, "profiles", look)
    list(session_plots.profiles(rows, norms.shipped(), pictures.Config().zones))
    return drawn


def test_bands_are_the_published_mean_and_sd_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = panel_of(monkeypatch, profile_rows())
    # nerve_root L5, FA of the left alone in two zones; MD of the whole root, by level and at any level.
    assert [(b.start, b.end, b.mean, b.sd, b.side) for b in drawn["fa"].bands] == [
        (0, 10, 0.201, 0.027, "L"), (20, 30, 0.203, 0.026, "L"),
    ]  # fmt: skip
    assert [(b.start, b.end, b.mean, b.sd, b.side) for b in drawn["md"].bands] == [
        (0, 28.5, 1.297, 0.087, ""), (0, 28.5, 1.33, 0.123, ""),
    ]  # fmt: skip
    right = [row for row in profile_rows() if row["side"] == "R"]
    assert [(b.mean, b.sd) for b in panel_of(monkeypatch, right)["fa"].bands] == [
        (0.39, 0.122),
        (0.332, 0.051),
    ]
    assert panel_of(monkeypatch, profile_rows(level="L4"))["fa"].bands[1].sd == 0.068


def test_there_is_no_band_without_norms_nor_in_another_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert panel_of(monkeypatch, profile_rows(region="sciatic_nerve"))["fa"].bands == []
    other = [row | {"unit": "1e-6 mm2/s"} for row in profile_rows()]
    assert panel_of(monkeypatch, other)["md"].bands == []
    # A published mean without a standard deviation makes no band.
    assert panel_of(monkeypatch, profile_rows(region="PLIC", level="n/a"))["md"].bands == []


def test_a_band_is_drawn_at_its_mean_and_sd_and_its_caveat_told() -> None:
    zones = pictures.Config().zones
    fa, md = session_plots.profiles(profile_rows(), norms.shipped(), zones)
    for one in (fa, md):
        assert "published, not portable across protocols" in one.caption
        assert set(one.files) == {f"{one.name}.{kind}" for kind in ("svg", "pdf", "png")}
    assert "10.21203/rs.3.rs-7481213/v1 (lumbar)" in md.caption
    assert "10.21203" not in fa.caption
    for other in session_plots.profiles(profile_rows(region="sciatic_nerve"), norms.shipped(), zones):
        assert "not portable" not in other.caption
    band = plots.Band(5.0, 20.0, 0.3, 0.05, "L")
    side = plots.Profile("L", np.arange(4.0), np.arange(4.0), np.ones(4), np.ones(4))
    figure = plots.profiles([plots.ProfilePanel("a", [side], [band])], "mm", "FA")
    (low, high) = figure.axes[0].collections[0].get_datalim(figure.axes[0].transData).get_points()
    assert [*low, *high] == pytest.approx([5.0, 0.202, 20.0, 0.398])
    assert "not portable across protocols" in figure.legends[0].get_texts()[-1].get_text()


def test_profiles_without_a_value_say_why() -> None:
    (only,) = session_plots.profiles(profile_rows("n/a"), [], ())
    assert not only.files
    assert "no exit" in only.caption


def test_svg_needs_no_font_and_tells_no_time(tmp_path: Path) -> None:
    paths = style.save(plots.b_values(BVALS, BVALS.astype(int)), tmp_path, "b")
    text = paths[0].read_text()
    assert "<text" not in text
    assert "<dc:date>" not in text
    again = style.save(plots.b_values(BVALS, BVALS.astype(int)), tmp_path / "again", "b")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]


def test_an_album_too_large_is_made_smaller_and_pairs_stay_alike() -> None:
    rng = np.random.default_rng(0)

    def noisy(name: str) -> Picture:
        into = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (120, 90, 3), dtype=np.uint8)).save(into, "PNG")
        return Picture(name, "maps", name, name, name, {f"{name}.png": into.getvalue()})

    made = [noisy("a"), noisy("b")]
    whole = sum(len(d) for one in made for d in one.files.values())
    small = album.within(made, whole // 3)
    assert sum(len(d) for one in small for d in one.files.values()) <= whole // 3
    sizes = {Image.open(io.BytesIO(d)).size for one in small for d in one.files.values()}
    assert len(sizes) == 1
    assert album.within(made, whole) == made


def test_lambert_keeps_areas() -> None:
    z = np.linspace(0, 1, 11)
    edge = np.stack([np.sqrt(1 - z**2), 0 * z, z], 1)
    radius = plots.projected(edge)[:, 0]
    np.testing.assert_allclose(radius**2, 1 - z, atol=1e-12)
