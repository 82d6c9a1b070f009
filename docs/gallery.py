"""Makes the gallery: phantoms through the pipeline, and pictures of the pages that come of them.

    python docs/gallery.py FOLDER [NAME ...]

The phantoms and their outputs are made in FOLDER, which is kept: what is there is not made again. Pictures
go to docs/gallery/, their captions to docs/gallery.md. Needs Debian's `chromium`, and playwright, which the
development requirements have.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

DOCS = Path(__file__).resolve().parent
WIDTH, HEIGHT, MARGIN = 1200, 800, 8
LARGEST_BYTES, LARGEST_OF_ALL = 250_000, 2_500_000
# As in tests/browser.py.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
REVIEW = "review"


@dataclass(frozen=True)
class Shot:
    """One picture of a page: its file name, what it is cut out by, and what it shows."""

    name: str
    page: str
    """File in the output, or `review`."""
    parts: tuple[str, ...]
    """CSS selectors of what is in the picture; none: what is seen when the page opens."""
    title: str
    alt: str
    caption: str
    swap: bool = False
    """Of two pictures that take turns, show the second."""


@dataclass(frozen=True)
class Run:
    """A phantom, how it is made, and the pictures of its pages."""

    name: str
    title: str
    phantom: tuple[str, ...]
    """Options of `somite phantom`."""
    config: Callable[[Path], str]
    """The YAML, given the dataset."""
    shots: tuple[Shot, ...]


def extends(protocol: str) -> Callable[[Path], str]:
    """The shipped protocol as it is."""
    return lambda _: f"extends: {protocol}\n"


def brain_config(dataset: Path) -> str:
    """The protocol of the brain, with the atlas that the phantom has beside its scans."""
    folder = Path("derivatives") / "atlas"
    files = {"name": "tpl-phantom_dseg.nii.gz", "template": "tpl-phantom_param-fa_dwimap.nii.gz"}
    lines = ["extends: brain-als", "labels:", "  atlas:"]
    for key, name in files.items():
        checksum = hashlib.sha256((dataset / folder / name).read_bytes()).hexdigest()
        lines += [
            f"    {key}: {folder / name}",
            f"    {'sha256' if key == 'name' else 'template_sha256'}: {checksum}",
        ]
    return "\n".join(lines) + "\n"


def cohort_config(_: Path) -> str:
    """Patients against controls in the roots; without the steps that take long, since the scans are sound."""
    return """\
extends: lumbar
denoise: {method: none, noise_floor: keep}
degibbs: {method: none}
eddy: {method: none}
cohort:
  controls: {group: control}
analyses:
  roots_by_group:
    kind: compare
    group: group
    groups: [patient, control]
    select: {region: nerve_root, level: L5, segment: foraminal_drg, metric: [fa, md, rd]}
"""


SESSION, COHORT = "sub-01.html", "index.html"

LUMBAR = Run(
    "lumbar",
    "Lumbar spine",
    ("lumbar", "--participants", "1", "--seed", "1", "--labels", "anatomy", "--faults"),
    extends("lumbar"),
    (
        Shot(
            "summary",
            SESSION,
            (".top", "#summary"),
            "The page of a session",
            "Top of a page: the quality verdict, volumes, SNR, motion, outlier slices, segments measured, "
            "and a list of warnings.",
            "A scan with motion, distortion, eddy currents, lost slices and ringing. Each warning says what "
            "was found and what to do.",
        ),
        Shot(
            "motion",
            SESSION,
            ("#motion",),
            "Motion and lost slices",
            "Traces of shift, rotation, displacement, eddy currents and lost slices over the volumes, and a "
            "chart of slices by volumes in which the replaced ones are marked.",
            "What the scan went through, volume by volume.",
        ),
        Shot(
            "segments",
            SESSION,
            ("#picture-segments-axial-anatomy",),
            "Segments on the anatomy",
            "Three axial slices of a T2-weighted image with the outlines of nerve roots, discs, canal and "
            "muscles; R on the left, L on the right.",
            "Labels were drawn on the T2w image, brought to the distorted diffusion series and cut into "
            "segments; here the segments are on the T2w image again. Left is drawn in full, right dashed.",
        ),
        Shot(
            "segments-fa",
            SESSION,
            ("#picture-segments-axial-b0",),
            "Segments on FA",
            "The same axial slices of fractional anisotropy with the outlines of the segments, and buttons "
            "that swap them for b=0.",
            "The segments where they are measured. Pictures in pairs swap, flicker, or open by a slider.",
            swap=True,
        ),
        Shot(
            "roots",
            SESSION,
            ("#picture-segments-coronal-b0",),
            "Roots, coronal",
            "Coronal slices of the b=0 image: roots that leave the bright canal on both sides in steps of "
            "voxels, and slabs of the muscles behind.",
            "Each root from the canal outwards.",
        ),
        Shot(
            "profiles",
            SESSION,
            ("#profiles",),
            "Profiles along the roots",
            "Curves of FA and MD along the roots L3 to S1 by the distance from the dural exit, left and "
            "right, with their 95 % intervals.",
            "FA and MD along each root, left against right. A root without a dural exit has no profile.",
        ),
        Shot(
            "quality",
            SESSION,
            ("#quality",),
            "Quality",
            "A table of quality numbers with their limits and verdicts.",
            "Every quality number with its limits, and what it is.",
        ),
        Shot(
            "review",
            REVIEW,
            (),
            "The review page",
            "A list of sessions, pictures of the one in sight, three planes of a viewer with "
            "coloured segments, "
            "and buttons for pass, fail and unsure.",
            "`somite review`: a verdict by one key, pictures that matter first, layers in an "
            "interactive viewer.",
        ),
    ),
)

THIGH = Run(
    "thigh",
    "Thigh",
    ("thigh", "--participants", "4"),
    extends("thigh"),
    (
        Shot(
            "summary",
            SESSION,
            (".top", "#summary"),
            "The page of a session",
            "Top of a page: the quality verdict, volumes, SNR, motion, outlier slices, segments measured, "
            "and a list of warnings.",
            "Segments that the scan does not reach are told by name, and stay in the table with the reason.",
        ),
        Shot(
            "segments",
            SESSION,
            ("#picture-segments-axial-b0",),
            "Segments on FA",
            "An axial slice of fractional anisotropy through each third of both thighs, with the outlines of "
            "twelve muscles and the femur.",
            "Whole muscles cut into thirds; a layer of voxels that they share with fat is taken off.",
            swap=True,
        ),
        Shot(
            "motion",
            SESSION,
            ("#picture-eddy-course-before",),
            "Before and after",
            "Signal along a line through the body over the volumes, before the correction of motion.",
            "A line through the body over time: what moved is seen as a step.",
        ),
        Shot(
            "cohort",
            COHORT,
            ("#picture-segments-fa-structures",),
            "Muscles of four people",
            "Box plots of FA of muscles, left and right, in three panels for the thirds; the right adductor "
            "magnus spreads to low values.",
            "Two of the four have a lesion of the right adductor magnus.",
        ),
    ),
)

BRAIN = Run(
    "brain-als",
    "Brain",
    ("brain-als", "--participants", "1", "--seed", "1"),
    brain_config,
    (
        Shot(
            "maps",
            SESSION,
            ("#picture-maps-colour-fa",),
            "Colour FA",
            "Axial, coronal and sagittal slices coloured by the direction of the fibres.",
            "Red is left to right, green back to front, blue foot to head.",
        ),
        Shot(
            "segments",
            SESSION,
            ("#picture-segments-coronal-b0",),
            "Segments on FA",
            "Coronal slices of fractional anisotropy with the outlines of tracts.",
            "The regions of an atlas, brought to the scan by its FA template.",
            swap=True,
        ),
        Shot(
            "scheme",
            SESSION,
            ("#scheme",),
            "Gradient scheme",
            "Directions of the gradients on a sphere, and the b-values in the order of the volumes.",
            "The scheme as it was read.",
        ),
    ),
)

PEOPLE = Run(
    "cohort",
    "A cohort",
    ("lumbar", "--patients", "3", "--controls", "3", "--seed", "1"),
    cohort_config,
    (
        Shot(
            "summary",
            COHORT,
            (".top", "#sessions"),
            "The page of a cohort",
            "Numbers of sessions by verdict, the flow of sessions, and the table of sessions with quality "
            "verdicts and filters.",
            "Six made-up people, three with a lesion of the right L5 root.",
        ),
        Shot(
            "quality",
            COHORT,
            ("#quality",),
            "Quality of all sessions",
            "Distributions of quality numbers over the sessions, with limits, and a table of those apart.",
            "Every quality number over all sessions; who stands apart is named and linked.",
        ),
        Shot(
            "segments",
            COHORT,
            ("#picture-segments-fa-nerve-root",),
            "Segments by level, side and group",
            "Box plots of FA of the nerve roots, left and right, by level, of patients and controls.",
            "Left against right, patients against controls.",
        ),
        Shot(
            "profiles",
            COHORT,
            ("#picture-profiles-fa",),
            "Profiles by group",
            "Mean FA along each root with its interval, patients and controls, left and right.",
            "Where along a root the groups part.",
        ),
        Shot(
            "analysis",
            COHORT,
            ("#analyses h3", "#picture-roots-by-group-forest-mean-difference-md"),
            "An analysis",
            "Forest plots of the differences in FA and MD between patients and controls with their "
            "intervals, n and p.",
            "Differences between the groups. With three people in each, it shows what the page is "
            "like, no more.",
        ),
    ),
)

RUNS = (LUMBAR, THIGH, BRAIN, PEOPLE)


def somite(*arguments: str | Path) -> None:
    """Run a command of Somite in a process of its own."""
    subprocess.run([sys.executable, "-m", "somite", *map(str, arguments)], check=True)


def make(run: Run, folder: Path) -> Path:
    """The output of a run: what is there already is not computed again."""
    dataset, out = folder / "bids", folder / "out"
    if not (dataset / "dataset_description.json").is_file():
        somite("phantom", run.phantom[0], dataset, *run.phantom[1:])
    config = folder / f"{run.name}.yaml"
    config.write_text(run.config(dataset), encoding="utf-8")
    somite(
        *("run", dataset, out, "participant", "group", "-c", config),
        *("--n-procs", "1", "--work-dir", folder / "work"),
    )
    return out


@contextmanager
def reviewing(out_dir: Path) -> Iterator[str]:
    """The address of `somite review`, while it runs."""
    command = [sys.executable, "-m", "somite", "review", str(out_dir), "--rater", "AB", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
            if found is None:
                raise RuntimeError("somite review gave no address")
            yield found[0]
        finally:
            process.terminate()


def photograph(browser: Browser, out_dir: Path, shot: Shot) -> bytes:
    """A picture as PNG."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    try:
        if shot.page == REVIEW:
            with reviewing(out_dir) as url:
                page.set_viewport_size({"width": 1366, "height": 850})
                page.goto(url)
                page.wait_for_selector("#pictures[data-of]")
                page.wait_for_selector("#canvas[data-shown~=segments]")
                page.wait_for_load_state("networkidle")
                return page.screenshot()
        page.goto((out_dir / shot.page).absolute().as_uri())
        if shot.swap:
            page.locator(shot.parts[0]).get_by_role("button", name="Swap").click()
        return cut_out(page, shot.parts)
    finally:
        page.close()


def cut_out(page: Page, parts: tuple[str, ...]) -> bytes:
    """What is in sight, or the rectangle around the first elements of some selectors."""
    if not parts:
        return page.screenshot()
    # A whole page is larger than what Chromium draws at once (8192 pixels): it repeats itself below that.
    # So the window is made as high as the part, and the part brought into it.
    page.set_viewport_size({"width": WIDTH, "height": math.ceil(around(page, parts)["height"])})
    page.evaluate("y => window.scrollBy({top: y, behavior: 'instant'})", around(page, parts)["y"])
    return page.screenshot(clip=around(page, parts))


def around(page: Page, parts: tuple[str, ...]) -> FloatRect:
    """The rectangle around the first elements of some selectors, in the window."""
    boxes = [box for part in parts if (box := page.locator(part).first.bounding_box(timeout=5000))]
    if len(boxes) < len(parts):
        raise RuntimeError(f"{page.url} lacks one of {', '.join(parts)}")
    left, top = (min(box[axis] for box in boxes) - MARGIN for axis in ("x", "y"))
    width = max(box["x"] + box["width"] for box in boxes) + MARGIN - left
    height = max(box["y"] + box["height"] for box in boxes) + MARGIN - top
    return {"x": left, "y": top, "width": width, "height": height}


def squeeze(png: bytes) -> tuple[str, bytes]:
    """File ending and bytes: PNG with a palette, or JPEG where that would be too large."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    out = io.BytesIO()
    # Rare colours are those that matter: limits, verdicts, outlines. The median cut would blend them; the
    # means after it keep greys grey.
    method, plain = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    palette = image.quantize(256, method=method, kmeans=2, dither=plain)
    palette.save(out, "PNG", optimize=True)
    if len(out.getvalue()) <= LARGEST_BYTES:
        return "png", out.getvalue()
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85, optimize=True, progressive=True)
    if len(out.getvalue()) > LARGEST_BYTES:
        raise RuntimeError(f"a picture of {len(out.getvalue())} bytes is larger than {LARGEST_BYTES}")
    return "jpg", out.getvalue()


def file_of(run: Run, shot: Shot) -> Path:
    """The picture as it lies in docs/gallery."""
    return next((DOCS / "gallery").glob(f"{run.name}-{shot.name}.*"))


def write_captions() -> None:
    """Write docs/gallery.md."""
    lines = [
        "# Gallery",
        "",
        "Pages of phantoms, as they open from the disk. `make gallery` runs the pipeline on the phantoms and "
        "takes these pictures anew; texts and pictures are those of `docs/gallery.py`. The people "
        "are made up.",
    ]
    for run in RUNS:
        lines += [
            "",
            f"## {run.title}",
            "",
            f"`somite phantom {' '.join([run.phantom[0], 'DIR', *run.phantom[1:]])}`",
        ]
        for shot in run.shots:
            where = file_of(run, shot).relative_to(DOCS)
            lines += ["", f"### {shot.title}", "", f"![{shot.alt}]({where})", "", shot.caption]
    (DOCS / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(folder: Path, names: list[str]) -> None:
    """Make the runs, or those that are named, and their pictures."""
    gallery = DOCS / "gallery"
    gallery.mkdir(exist_ok=True)
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("The pictures need Debian's chromium: apt-get install chromium")
    for run in [run for run in RUNS if not names or run.name in names]:
        out = make(run, folder / run.name)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            taken = {shot.name: squeeze(photograph(browser, out, shot)) for shot in run.shots}
            browser.close()
        for old in gallery.glob(f"{run.name}-*"):
            old.unlink()
        for name, (ending, data) in taken.items():
            (gallery / f"{run.name}-{name}.{ending}").write_bytes(data)
    total = sum(file.stat().st_size for file in gallery.iterdir())
    if total > LARGEST_OF_ALL:
        raise SystemExit(f"The pictures have {total} bytes, more than {LARGEST_OF_ALL}.")
    write_captions()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
