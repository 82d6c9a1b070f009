"""Gibbs ringing against objects drawn finely, against the method written out, mrdegibbs, and at the edges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from somite import gibbs, images
from somite.errors import DatasetError
from somite.gibbs import Cut
from somite.images import Grid
from somite.interfaces import degibbs
from somite.registry import Context

FINE = 8
"""Points per voxel of what the objects are drawn on."""

OBLIQUE = np.array([[0.0, 1.9, 0.3, -40], [-2.0, 0.1, 0.2, 30], [0.1, -0.3, 3.1, -9], [0, 0, 0, 1]])


def scanned(fine: np.ndarray, fraction: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """What a scanner makes of an object (x, y), and the mean of the object in each voxel.

    Of k-space along the first axis the part `fraction` is measured, the rest is zeros; the object has a phase
    that varies smoothly.
    """
    shape = tuple(n // FINE for n in fine.shape)
    x, y = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in fine.shape), indexing="ij")
    kspace = np.fft.fft2(fine * np.exp(1j * (np.sin(x) - 0.7 * np.cos(y) + 0.5 * np.sin(x + y))))
    for axis, n in enumerate(shape):
        k = np.fft.fftfreq(n, 1 / n).astype(int)
        half_voxel = np.exp(2j * np.pi * k * (FINE - 1) / 2 / fine.shape[axis])
        if axis == 0:
            half_voxel[k < -(fraction - 0.5) * n] = 0
        kspace = np.take(kspace, k, axis) * np.expand_dims(half_voxel, 1 - axis)
    image = np.abs(np.fft.ifft2(kspace)) / FINE**2
    return image.astype("f4"), fine.reshape(shape[0], FINE, shape[1], FINE).mean((1, 3))


def box(offset: int, n: int = 48) -> np.ndarray:
    """A bright box in tissue, its edges at any place within the voxels."""
    fine = np.full((n * FINE, n * FINE), 300.0)
    fine[12 * FINE + offset : 33 * FINE + offset, 15 * FINE : 36 * FINE + 2 * offset] = 1000
    return fine


def thin_line(offset: int, n: int = 48) -> np.ndarray:
    """A line one voxel wide, anywhere within the voxels, that ends in the image."""
    fine = np.full((n * FINE, n * FINE), 300.0)
    fine[10 * FINE : 38 * FINE, 22 * FINE + offset : 23 * FINE + offset] = 1000
    return fine


def head(seed: int = 0, n: int = 64) -> np.ndarray:
    """Something like a head: discs with edges in every direction, dark outside."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*2 * [np.linspace(-1, 1, n * FINE)], indexing="ij")
    fine = np.where(x**2 + 1.3 * y**2 < 0.75, 600.0, 0.0)
    for u, v, radius, value in zip(
        *rng.uniform(-0.5, 0.5, (2, 12)), *rng.uniform(0.05, 1, (2, 12)), strict=True
    ):
        fine[(x - u) ** 2 + (y - v) ** 2 < (0.2 * radius) ** 2] = 300 + 700 * value
    return fine


def rmse(image: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square error where there is tissue: outside, a magnitude hides the ringing's sign."""
    return float(np.sqrt(((image - truth)[truth > 100] ** 2).mean()))


def error_ratio(draw: Callable[[int], np.ndarray], fraction: float, cut: Cut | None) -> float:
    """Error after over error before, over all places of an object within its voxels."""
    before, after = 0.0, 0.0
    for offset in range(FINE):
        image, truth = scanned(draw(offset), fraction)
        before += rmse(image, truth) ** 2
        after += rmse(gibbs.unring_plane(image, cut), truth) ** 2
    return float(np.sqrt(after / before))


# Against the truth


@pytest.mark.parametrize(("draw", "at_most"), [(box, 0.65), (thin_line, 0.52), (head, 0.62)])
def test_a_box_a_thin_line_and_a_head_lose_their_ringing(draw: Any, at_most: float) -> None:
    assert error_ratio(draw, 1.0, None) < at_most


@pytest.mark.parametrize("fraction", [0.75, 0.875])
@pytest.mark.parametrize("draw", [box, thin_line, head])
def test_partial_fourier_is_undone(draw: Any, fraction: float) -> None:
    corrected = error_ratio(draw, fraction, Cut(0, fraction))
    assert corrected < 0.75
    assert corrected < 0.96 * error_ratio(draw, fraction, None)


def published_rpg(image: np.ndarray, fraction: float) -> np.ndarray:
    """The method of Lee et al. (2021): once as usual, once at the distance of the wider ringing."""
    up, down = {0.75: (1, 2), 0.875: (3, 4)}[fraction]
    lines = np.repeat(gibbs.unring_plane(image).T, up, 1)
    for start in range(down):
        lines[:, start::down] = gibbs.unring_lines(np.ascontiguousarray(lines[:, start::down]))
    return np.asarray(lines[:, up // 2 :: up].T)


@pytest.mark.parametrize("fraction", [0.75, 0.875])
def test_partial_fourier_is_undone_better_than_by_the_published_method(fraction: float) -> None:
    image, truth = scanned(head(), fraction)
    ours = rmse(gibbs.unring_plane(image, Cut(0, fraction)), truth)
    assert ours < 0.75 * rmse(published_rpg(image, fraction), truth)


def test_what_varies_little_is_left_as_it_is() -> None:
    x, y = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
    smooth = (500 + 200 * np.sin(2 * np.pi * x / 40) * np.cos(2 * np.pi * y / 30)).astype("f4")
    np.testing.assert_allclose(gibbs.unring_plane(smooth), smooth, atol=2)
    constant = np.full((9, 11), 7.0, "f4")
    np.testing.assert_allclose(gibbs.unring_plane(constant), constant, rtol=1e-5)


# Against other implementations


def plain_unring(image: np.ndarray) -> np.ndarray:
    """Kellner et al. written out: shift by shift, voxel by voxel, in float64 and complex numbers."""
    spectrum = np.fft.fft2(image.astype("f8"))
    k = [2 * np.pi * np.fft.fftfreq(n) for n in image.shape]
    along = [1 + np.cos(k[0])[:, None], 1 + np.cos(k[1])[None]]
    total = np.broadcast_to(along[0] + along[1], image.shape)
    result = np.zeros(image.shape)
    for axis in (0, 1):
        share = np.divide(along[1 - axis], total, out=np.full(image.shape, 0.5), where=total > 1e-9)
        lines = np.fft.ifft2(spectrum * share).real
        lines = lines if axis == 1 else lines.T
        n = lines.shape[1]
        shifts = [0.0] + [s * sign for s in np.arange(1, 21) / 40 for sign in (1, -1)]
        turned = np.fft.fft(lines)
        shifted = np.stack([np.fft.ifft(turned * np.exp(1j * k[axis] * s)).real for s in shifts])
        out = np.empty(lines.shape)
        for line, x in np.ndindex(lines.shape):
            values = [shifted[:, line, (x + d) % n] for d in range(-4, 5)]
            left = sum(abs(values[4 - t] - values[3 - t]) for t in (1, 2, 3))
            right = sum(abs(values[4 + t] - values[5 + t]) for t in (1, 2, 3))
            best = int(np.argmin(np.minimum(left, right)))
            s = shifts[best]
            out[line, x] = (1 - abs(s)) * values[4][best] + abs(s) * values[3 if s > 0 else 5][best]
        result += out if axis == 1 else out.T
    return result


@pytest.mark.parametrize("shape", [(24, 31), (31, 24), (7, 5), (4, 18)])
def test_equals_the_paper_written_out(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    image = rng.uniform(100, 900, shape).astype("f4")
    image[shape[0] // 2 :] += 500
    ours, plain = gibbs.unring_plane(image), plain_unring(image)
    # Two shifts that serve equally may be told apart by rounding.
    assert np.quantile(np.abs(ours - plain), 0.99) < 0.02
    assert np.sqrt(((ours - plain) ** 2).mean()) < 5


def test_agrees_with_mrdegibbs_and_is_no_worse(need_tool: Any, tmp_path: Path) -> None:
    need_tool("mrdegibbs")
    drawn = [scanned(head(seed=seed)) for seed in range(3)]
    data = np.stack([image for image, _ in drawn], -1)[..., None]  # three slices
    truth = np.stack([mean for _, mean in drawn], -1)[..., None]
    ours, theirs = (output(data, tmp_path, method=method)[0] for method in ("builtin", "mrdegibbs"))
    assert rmse(ours, truth) <= 1.02 * rmse(theirs, truth)
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 0.4 * rmse(data, truth)


@pytest.mark.parametrize("along", [1, 2])
def test_mrdegibbs_is_told_the_plane_and_its_limit(need_tool: Any, along: int, tmp_path: Path) -> None:
    need_tool("mrdegibbs")
    data = np.stack([scanned(head(seed))[0] for seed in range(3)], along)[:, :50, :, None]
    known = entry(slice_encoding_direction="ijk"[along], partial_fourier=0.75)
    theirs, context = output(data, tmp_path, known, method="mrdegibbs")
    ours = gibbs.unring(data, (0, 3 - along))
    assert np.sqrt(((ours - theirs) ** 2).mean()) < 0.3 * np.sqrt(((ours - data) ** 2).mean())
    assert [problem.code for problem in context.warnings] == ["DEGIBBS_PARTIAL_FOURIER"]
    assert degibbs._tools(degibbs.Config(method="mrdegibbs"))["mrdegibbs"]


def test_mrdegibbs_takes_one_plane(tmp_path: Path) -> None:
    data = np.ones((4, 4, 4, 2), "f4")
    with pytest.raises(DatasetError, match="DEGIBBS_PLANES"):
        output(data, tmp_path, entry(), entry(slice_encoding_direction="i"), method="mrdegibbs")


def test_mrdegibbs_is_refused_for_partial_fourier() -> None:
    with pytest.raises(ValueError, match="6/8 with method mrdegibbs"):
        degibbs.Config(method="mrdegibbs", partial_fourier="6/8")


# Of any shape, in any plane


SHAPES = [(5, 7, 3, 2), (1, 9, 2, 1), (9, 1, 1, 2), (2, 2, 2, 2), (3, 3, 1, 1), (1, 1, 1, 1), (17, 6, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("fraction", [None, 0.75, 0.875])
def test_every_shape_can_be_worked_on(shape: Any, plane: Any, fraction: float | None) -> None:
    data = np.random.default_rng(0).uniform(0, 100, shape).astype("f4")
    cut = None if fraction is None else Cut(plane[1], fraction)
    result = gibbs.unring(data, plane, cut)
    assert result.shape == shape
    assert np.isfinite(result).all()
    # The mean of a plane is in no ringing.
    np.testing.assert_allclose(result.mean(plane), data.mean(plane), atol=25)


def test_each_plane_is_worked_on_by_itself_along_any_axes() -> None:
    image = scanned(head(), 0.75)[0][:, 8:-8]
    expected = gibbs.unring_plane(image, Cut(0, 0.75))
    for plane in ((0, 1), (0, 2), (1, 2), (1, 0), (2, 0)):
        data = np.zeros((*image.shape, 2), "f4")
        data[..., 0] = image
        data[..., 1] = 50
        turned = np.moveaxis(data, (0, 1), plane)[..., None]
        result = gibbs.unring(turned, plane, Cut(plane[0], 0.75))
        back = np.moveaxis(result[..., 0], plane, (0, 1))
        assert np.quantile(np.abs(back[..., 0] - expected), 0.99) < 0.1
        np.testing.assert_allclose(back[..., 1], 50, rtol=1e-4)


def test_flipped_storage_gives_the_flipped_result() -> None:
    image = scanned(head())[0]
    expected = gibbs.unring_plane(image)
    for flip in ((slice(None, None, -1), slice(None)), (slice(None), slice(None, None, -1))):
        flipped = gibbs.unring_plane(np.ascontiguousarray(image[flip]))[flip]
        assert np.quantile(np.abs(flipped - expected), 0.98) < 0.1


def test_the_number_of_threads_changes_no_bit() -> None:
    data = np.random.default_rng(0).uniform(0, 1000, (21, 18, 5, 4)).astype("f4")
    before = data.copy()
    one = gibbs.unring(data, threads=1)
    for threads in (2, 7):
        assert gibbs.unring(data, threads=threads).tobytes() == one.tobytes()
    assert np.array_equal(data, before)


# The step, and what it is told of the acquisition


def entry(**known: Any) -> dict[str, Any]:
    """An entry of `scan["series"]`."""
    return {
        "name": "dwi",
        "phase_encoding_direction": "i-",
        "slice_encoding_direction": "k",
        "partial_fourier": None,
        "partial_fourier_direction": None,
    } | known


def output(
    data: np.ndarray, folder: Path, *series: dict[str, Any], **options: Any
) -> tuple[np.ndarray, Context]:
    """The series that the step makes of `data`, whose volumes are shared out evenly among `series`."""
    series = series or (entry(),)
    grid = Grid(data.shape[:3], OBLIQUE)
    dwi = images.write(folder / "dwi.nii", data.astype("f4"), grid)
    of_volume = np.arange(data.shape[3]) * len(series) // data.shape[3]
    scan = folder / "scan.json"
    scan.write_text(json.dumps({"volumes": [{"series": int(s)} for s in of_volume], "series": series}))
    made = folder / f"made{len(list(folder.iterdir()))}"
    made.mkdir()
    context = Context(made, threads=2)
    path = degibbs.run(dwi, scan, degibbs.Config(**options), context)
    result, made_grid = images.read_float(path)
    assert path.parent == made
    assert made_grid.matches(grid)
    return result, context


def facts(context: Context) -> dict[str, str]:
    return {fact.name: fact.value for fact in context.facts}


def test_the_sidecar_tells_plane_and_partial_fourier(tmp_path: Path) -> None:
    image, truth = scanned(head(), 0.75)
    data = np.moveaxis(image[..., None, None], 2, 1)  # slices along j, phase encoding along i
    known = entry(slice_encoding_direction="j-", partial_fourier=0.75, partial_fourier_direction="PHASE")
    result, context = output(data, tmp_path, known)
    assert rmse(result[:, 0, :, 0], truth) < 0.75 * rmse(image, truth)
    assert facts(context) == {"degibbs.plane of dwi": "ik", "degibbs.partial_fourier of dwi": "6/8"}
    assert not context.warnings
    told, context = output(data, tmp_path, entry(), plane="ik", partial_fourier="6/8")
    assert np.array_equal(told, result)
    assert not context.facts


def test_without_a_word_on_partial_fourier_it_is_full_and_said(tmp_path: Path) -> None:
    image, _ = scanned(head())
    result, context = output(image[..., None, None], tmp_path)
    np.testing.assert_array_equal(result[..., 0, 0], gibbs.unring_plane(image.T).T)
    assert facts(context) == {"degibbs.plane of dwi": "ij", "degibbs.partial_fourier of dwi": "full"}


def test_zeros_that_the_scanner_filled_in_are_not_filled_in_again(tmp_path: Path) -> None:
    image, _ = scanned(head())
    data = image[..., None, None]
    full, _ = output(data, tmp_path)
    result, context = output(data, tmp_path, entry(partial_fourier=0.75))
    assert np.array_equal(result, full)
    assert "no zeros are in k-space" in context.facts[-1].reason
    _, context = output(data, tmp_path, entry(), partial_fourier="7/8")
    assert [problem.code for problem in context.warnings] == ["DEGIBBS_NO_ZEROS"]


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"partial_fourier": 0.6}, "PartialFourier 0.6"),
        ({"partial_fourier": 0.75, "phase_encoding_direction": None}, "not given"),
        ({"partial_fourier": 0.75, "phase_encoding_direction": "k"}, "PhaseEncodingDirection k"),
        ({"partial_fourier": 0.75, "partial_fourier_direction": "SLICE_SELECT"}, "SLICE_SELECT"),
    ],
)
def test_partial_fourier_that_cannot_be_corrected_is_said(known: Any, found: str, tmp_path: Path) -> None:
    image, _ = scanned(head(), 0.75)
    data = image[..., None, None]
    result, context = output(data, tmp_path, entry(**known))
    assert np.array_equal(result, output(data, tmp_path)[0])
    (problem,) = context.warnings
    assert problem.code == "DEGIBBS_PARTIAL_FOURIER"
    assert found in problem.found


def test_partial_fourier_along_frequency_is_across_the_phase_encoding(tmp_path: Path) -> None:
    image, truth = scanned(head(), 0.75)
    known = entry(partial_fourier=0.75, partial_fourier_direction="FREQUENCY", phase_encoding_direction="j")
    result, _ = output(image[..., None, None], tmp_path, known)
    assert rmse(result[..., 0, 0], truth) < 0.75 * rmse(image, truth)


def test_joined_series_are_each_corrected_as_acquired(tmp_path: Path) -> None:
    partial, full = scanned(head(), 0.75)[0], scanned(head(seed=1))[0]
    data = np.stack([partial, partial, full, full], -1)[:, :, None]
    result, _ = output(data, tmp_path, entry(partial_fourier=0.75), entry(partial_fourier=1))
    first, _ = output(data[..., :2], tmp_path, entry(partial_fourier=0.75))
    second, _ = output(data[..., 2:], tmp_path, entry(partial_fourier=1))
    assert np.array_equal(result, np.concatenate([first, second], 3))


def test_an_interpolated_image_is_warned_of(tmp_path: Path) -> None:
    image, _ = scanned(head())
    kspace = np.fft.fftshift(np.fft.fft2(image))
    finer = np.abs(np.fft.ifft2(np.fft.ifftshift(np.pad(kspace, ((16, 16), (0, 0))))))
    _, context = output(finer[..., None, None], tmp_path)
    (problem,) = context.warnings
    assert problem.code == "DEGIBBS_INTERPOLATED"
    assert problem.found.endswith("along i")


def test_method_none_passes_the_series(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(0, 9, (4, 5, 3, 2)).astype("f4")
    result, context = output(data, tmp_path, method="none")
    assert np.array_equal(result, data)
    assert facts(context) == {"dwi_degibbs": "the series as it was given"}


def test_a_real_scan_keeps_its_anatomy(real_data: Path, tmp_path: Path) -> None:
    data, _ = images.read_float(real_data / "cord-bids/sub-02/dwi/sub-02_dwi.nii.gz")
    result, _ = output(data, tmp_path)
    assert np.isfinite(result).all()
    assert np.corrcoef(result.ravel(), data.ravel())[0, 1] > 0.97
    assert abs(result.mean() / data.mean() - 1) < 0.01
