"""The arguments of the command line: what each command takes."""

from __future__ import annotations

import argparse
import math
import unicodedata
from pathlib import Path

from somite import __version__
from somite.phantom import NAMES as PHANTOMS


def parser() -> argparse.ArgumentParser:
    """The parser; `command` of what it gives is the command's name."""
    parser = argparse.ArgumentParser(
        prog="somite", description="BIDS diffusion MRI in, segment-level DTI tables out."
    )
    parser.add_argument("--version", action="version", version=f"somite {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    init = commands.add_parser("init", help="print a protocol's YAML, to be edited")
    init.add_argument("protocol", help="for example lumbar")

    plan = commands.add_parser("plan", help="check the dataset and say what would run; computes nothing")
    _add_dataset(plan)
    plan.add_argument("--deep", action="store_true", help="read the voxels too, of every series")
    plan.add_argument("--estimate", action="store_true", help="core-hours, memory and disk of the cohort too")

    run = commands.add_parser("run", help="run the participant level, the group level, or both")
    _add_dataset(run, levels=True)
    run.add_argument("--mem-gb", type=_positive, metavar="G", help="memory that the run may use")
    run.add_argument(
        "--stop-on-first-crash", action="store_true", help="end the other sessions when one fails"
    )
    run.add_argument("--only", nargs="+", metavar="SESSION", help="sessions by name, as `status` has them")
    run.add_argument("--job", default="", help=argparse.SUPPRESS)  # its element, in the scripts of `submit`

    status = commands.add_parser("status", help="say how the sessions of an output dataset stand")
    status.add_argument("out_dir", type=_path, metavar="OUT_DIR")

    report = commands.add_parser("report", help="make the pages of an output dataset again")
    report.add_argument("out_dir", type=_path, metavar="OUT_DIR")

    review = commands.add_parser("review", help="look at the sessions in a browser and judge them by keys")
    _add_review(review)

    submit = commands.add_parser("submit", help="give what is missing or failed to a Slurm cluster")
    _add_dataset(submit)
    submit.add_argument("--retry-memory", type=_times, metavar="2x", help="after an end for want of memory")
    submit.add_argument("--chunk", type=_count, metavar="N", help="sessions of one element of the array")
    instead = submit.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="print the scripts; write and send nothing")
    instead.add_argument(
        "--print-commands", action="store_true", help="print a list for another scheduler; send nothing"
    )

    cancel = commands.add_parser("cancel", help="end the jobs of an output dataset")
    cancel.add_argument("out_dir", type=_path, metavar="OUT_DIR")

    diff = commands.add_parser("diff", help="say what changed between two freezes of a table")
    diff.add_argument("table_a", type=_path, metavar="TABLE_A", help="segments or results, TSV or Parquet")
    diff.add_argument("table_b", type=_path, metavar="TABLE_B")
    diff.add_argument("--all", action="store_true", help="show every change")
    diff.add_argument("--tsv", type=_path, metavar="FILE", help="write every change to a table")

    _add_care(commands)

    phantom = commands.add_parser("phantom", help="write a BIDS dataset whose truth is known")
    _add_phantom(phantom)

    commands.add_parser("schema", help="print the JSON Schema of the YAML, for editors")
    return parser


def _add_care(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What is done with a finished output: repeat it, and clear its caches."""
    rerun = commands.add_parser("rerun", help="repeat a finished run from its record, and say what differs")
    rerun.add_argument("out_dir", type=_path, metavar="OUT_DIR")
    rerun.add_argument("--into", type=_path, metavar="DIR", help="keep the rerun here; a new or empty folder")
    rerun.add_argument("--bids-dir", type=_path, metavar="BIDS_DIR", help="where the input lies, if it moved")
    rerun.add_argument("--check", action="store_true", help="say what has changed since; run nothing")
    rerun.add_argument(
        "--image", nargs="?", const="", metavar="IMAGE", help="inside of the record's image, or of this one"
    )
    rerun.add_argument("--n-procs", type=_count, metavar="N", help="cores that may be used")
    rerun.add_argument("--mem-gb", type=_positive, metavar="G", help="memory that the rerun may use")

    cache = commands.add_parser("cache", help="size of the work folder, and clearing it while others run")
    cache.add_argument("what", choices=["size", "prune"])
    cache.add_argument("out_dir", type=_path, metavar="OUT_DIR")
    cache.add_argument("--work-dir", type=_path, metavar="DIR", help="OUT_DIR/.work unless given")
    which = cache.add_mutually_exclusive_group()
    which.add_argument(
        "--older-than", type=_positive, metavar="DAYS", help="results that no run made or used for so long"
    )
    which.add_argument(
        "--unused",
        action="store_true",
        help="results that are not behind those of OUT_DIR: of other options",
    )
    cache.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")


def _add_dataset(parser: argparse.ArgumentParser, *, levels: bool = False) -> None:
    parser.add_argument("bids_dir", type=_path, metavar="BIDS_DIR")
    parser.add_argument("out_dir", type=_path, metavar="OUT_DIR")
    if levels:
        parser.add_argument("levels", nargs="+", choices=["participant", "group"], metavar="LEVEL")
    parser.add_argument(
        "-c", "--config", default="default", metavar="YAML", help="a file, or the name of a shipped protocol"
    )
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="with or without sub-")
    parser.add_argument("--session-label", nargs="+", metavar="LABEL", help="with or without ses-")
    parser.add_argument("--n-procs", type=_count, metavar="N", help="cores that may be used")
    parser.add_argument("--work-dir", type=_path, metavar="DIR", help="cache; OUT_DIR/.work unless given")
    parser.add_argument("--verify", action="store_true", help="read every file again for its checksum")


def _add_review(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out_dir", type=_path, metavar="OUT_DIR")
    parser.add_argument("--rater", metavar="NAME", help="who looks; your login name unless given")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="a free one unless given")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")


def _add_phantom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", choices=PHANTOMS)
    parser.add_argument("out_dir", type=_path, metavar="OUT_DIR")
    parser.add_argument(
        "--participants", type=_count, default=4, metavar="N", help="by turns healthy and not"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--snr", type=_positive, help="of nerve, muscle or white matter at b=0, or inf")
    parser.add_argument("--variant", default="", help="of the anatomy or tissue, as L6 or plain")
    parser.add_argument(
        "--labels",
        choices=["segments", "whole", "anatomy", "none"],
        help="what a rater has drawn: segments, whole structures, those on the T2w image, or nothing",
    )
    parser.add_argument(
        "--faults", action="store_true", help="with motion, distortion, eddy currents, lost slices, ringing"
    )
    parser.add_argument(
        "--lesion", metavar="PLACE", help="of patients: REGION[:SIDE[:LEVEL[:SEGMENT]]], as nerve_root:L:S1"
    )
    parser.add_argument("--delta-fa", type=float, default=-0.1, metavar="X", help="effect of --lesion")
    parser.add_argument("--delta-md", type=float, default=0.3, metavar="X", help="the same, 1e-3 mm2/s")
    cohort = parser.add_argument_group("a cohort, in place of --participants")
    cohort.add_argument("--patients", type=_count, metavar="N")
    cohort.add_argument("--controls", type=_count, metavar="N")
    cohort.add_argument("--d", type=float, default=-1.0, help="Cohen's d of the FA of the lesion")
    cohort.add_argument("--md-d", type=float, metavar="D", help="the same of MD; default: minus that of FA")
    cohort.add_argument("--fa-sd", type=_positive, default=0.03, help="of FA between persons")
    cohort.add_argument("--r", type=float, help="correlation of the clinical score with the FA of the lesion")
    cohort.add_argument("--table-only", action="store_true", help="no images: the table of all segments")


def _path(text: str) -> Path:
    """A path. One with control characters is refused: it would break lines of scripts, lists and logs."""
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise argparse.ArgumentTypeError(
            f"{text!r} holds a character that cannot be written to a script; rename it"
        )
    return Path(text)


def _positive(text: str) -> float:
    value = float(text)
    if math.isnan(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def _times(text: str) -> float:
    value = _positive(text.removesuffix("x"))
    if not 1 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a factor above 1, such as 2x")
    return value
