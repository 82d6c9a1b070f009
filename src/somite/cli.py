"""The command line: the only place that prints for a person or chooses an exit code.

0 all done; 1 some sessions failed, or tables differ; 2 a mistake of use, configuration or dataset; 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from somite import __version__
from somite.errors import ConfigError, DatasetError, Problem, SomiteError, file_error
from somite.phantom import NAMES as PHANTOMS
from somite.stdout import say

# Commands import what they need when they are called: `somite --help` answers at once.
if TYPE_CHECKING:
    from somite.record import Record
    from somite.workflows.participant import Place

DONE, SOME_FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    options.called_as = shlex.join(["somite", *arguments])
    try:
        return command(options)
    except SomiteError as error:
        _say_problems(error.problems)
        return MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is finished is kept; the same command goes on from here\n")
        return INTERRUPTED
    except OSError as error:
        _say_problems([file_error(error)])
        return MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="somite", description="BIDS diffusion MRI in, segment-level DTI tables out."
    )
    parser.add_argument("--version", action="version", version=f"somite {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="print a protocol's YAML, to be edited")
    init.add_argument("protocol", help="for example lumbar")
    init.set_defaults(command=_init)

    plan = commands.add_parser("plan", help="check the dataset and say what would run; computes nothing")
    _add_dataset(plan)
    plan.add_argument("--deep", action="store_true", help="read the voxels too, of every series")
    plan.add_argument("--estimate", action="store_true", help="core-hours, memory and disk of the cohort too")
    plan.set_defaults(command=_plan)

    run = commands.add_parser("run", help="run the participant level, the group level, or both")
    _add_dataset(run, levels=True)
    run.add_argument("--mem-gb", type=_positive, metavar="G", help="memory that the run may use")
    run.add_argument(
        "--stop-on-first-crash", action="store_true", help="end the other sessions when one fails"
    )
    run.add_argument("--only", nargs="+", metavar="SESSION", help="sessions by name, as `status` has them")
    run.add_argument("--job", default="", help=argparse.SUPPRESS)  # its element, in the scripts of `submit`
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="say how the sessions of an output dataset stand")
    status.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="make the pages of an output dataset again")
    report.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    report.set_defaults(command=_report)

    review = commands.add_parser("review", help="look at the sessions in a browser and judge them by keys")
    _add_review(review)
    review.set_defaults(command=_review)

    submit = commands.add_parser("submit", help="give what is missing or failed to a Slurm cluster")
    _add_dataset(submit)
    submit.add_argument("--retry-memory", type=_times, metavar="2x", help="after an end for want of memory")
    submit.add_argument("--chunk", type=_count, metavar="N", help="sessions of one element of the array")
    instead = submit.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="print the scripts; write and send nothing")
    instead.add_argument(
        "--print-commands", action="store_true", help="print a list for another scheduler; send nothing"
    )
    submit.set_defaults(command=_submit)

    cancel = commands.add_parser("cancel", help="end the jobs of an output dataset")
    cancel.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    cancel.set_defaults(command=_cancel)

    diff = commands.add_parser("diff", help="say what changed between two freezes of a table")
    diff.add_argument("table_a", type=Path, metavar="TABLE_A", help="segments or results, TSV or Parquet")
    diff.add_argument("table_b", type=Path, metavar="TABLE_B")
    diff.add_argument("--all", action="store_true", help="show every change")
    diff.add_argument("--tsv", type=Path, metavar="FILE", help="write every change to a table")
    diff.set_defaults(command=_diff)

    _add_care(commands)

    phantom = commands.add_parser("phantom", help="write a BIDS dataset whose truth is known")
    _add_phantom(phantom)
    phantom.set_defaults(command=_phantom)

    schema = commands.add_parser("schema", help="print the JSON Schema of the YAML, for editors")
    schema.set_defaults(command=_schema)
    return parser


def _add_care(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What is done with a finished output: repeat it, and clear its caches."""
    rerun = commands.add_parser("rerun", help="repeat a finished run from its record, and say what differs")
    rerun.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    rerun.add_argument("--into", type=Path, metavar="DIR", help="keep the rerun here; a new or empty folder")
    rerun.add_argument("--bids-dir", type=Path, metavar="BIDS_DIR", help="where the input lies, if it moved")
    rerun.add_argument("--check", action="store_true", help="say what has changed since; run nothing")
    rerun.add_argument("--image", action="store_true", help="inside of the container image of the record")
    rerun.add_argument("--n-procs", type=_count, metavar="N", help="cores that may be used")
    rerun.add_argument("--mem-gb", type=_positive, metavar="G", help="memory that the rerun may use")
    rerun.set_defaults(command=_rerun)

    cache = commands.add_parser("cache", help="size of the work folder, and clearing it while others run")
    cache.add_argument("what", choices=["size", "prune"])
    cache.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    cache.add_argument("--work-dir", type=Path, metavar="DIR", help="OUT_DIR/.work unless given")
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
    cache.set_defaults(command=_cache)


def _add_dataset(parser: argparse.ArgumentParser, *, levels: bool = False) -> None:
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    if levels:
        parser.add_argument("levels", nargs="+", choices=["participant", "group"], metavar="LEVEL")
    parser.add_argument(
        "-c", "--config", default="default", metavar="YAML", help="a file, or the name of a shipped protocol"
    )
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="with or without sub-")
    parser.add_argument("--session-label", nargs="+", metavar="LABEL", help="with or without ses-")
    parser.add_argument("--n-procs", type=_count, metavar="N", help="cores that may be used")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="cache; OUT_DIR/.work unless given")
    parser.add_argument("--verify", action="store_true", help="read every file again for its checksum")


def _add_review(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--rater", metavar="NAME", help="who looks; your login name unless given")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="a free one unless given")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")


def _add_phantom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", choices=PHANTOMS)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
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


def _say_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        sys.stderr.write(f"{problem.severity} {problem}\n")


def _init(options: argparse.Namespace) -> int:
    from somite.configs import reader

    say(reader.shipped_text(options.protocol).rstrip())
    return DONE


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001
    from somite.configs.model import json_schema
    from somite.registry import discover

    say(json.dumps(json_schema(discover()), indent=2))
    return DONE


def _phantom(options: argparse.Namespace) -> int:
    from somite.phantom import change, dataset
    from somite.phantom.cohort import Cohort
    from somite.phantom.scan import ALL_FAULTS

    lesion = None
    if options.lesion is not None:
        effect = {"delta_fa": options.delta_fa, "delta_md": options.delta_md * 1e-3}
        lesion = (change.at(options.lesion, **effect),)
    cohort = None
    if options.patients or options.controls:
        cohort = Cohort(
            options.patients or 0,
            options.controls or 0,
            d=options.d,
            md_d=-options.d if options.md_d is None else options.md_d,
            fa_sd=options.fa_sd,
            r=options.r,
        )
    about = {"protocol": options.protocol, "variant": options.variant, "lesion": lesion}
    if options.table_only:
        dataset.write_cohort_table(options.out_dir, cohort or Cohort(0, 0), options.seed, **about)
    else:
        dataset.write_dataset(
            options.out_dir,
            options.participants,
            options.seed,
            options.snr,
            faults=ALL_FAULTS if options.faults else None,
            labels=options.labels,
            cohort=cohort,
            **about,
        )
    people = options.participants if cohort is None else cohort.patients + cohort.controls
    say(f"phantom cohort of {people} in {options.out_dir}")
    return DONE


def _plan(options: argparse.Namespace) -> int:
    from somite import resources, show
    from somite.plan import deep_check
    from somite.workflows import participant

    place = _place(options)
    participant.check(place.settings)
    clinical = _clinical_problems(place)
    _say_problems(clinical)
    if options.deep:
        place = replace(place, plan=deep_check(place.plan, options.n_procs or resources.cores()))
    for line in show.plan(place):
        say(line)
    if options.estimate:
        _say_estimate(place)
    wrong = [bool(session.errors) for session in place.plan.sessions]
    return MISTAKE if all(wrong) or clinical else SOME_FAILED if any(wrong) else DONE


def _clinical_problems(place: Place) -> tuple[Problem, ...]:
    """What is wrong between the analyses and the clinical data."""
    from somite.analysis.clinical import check

    return check(place.plan.bids_dir, place.settings.cohort, place.settings.analyses)


def _run(options: argparse.Namespace) -> int:
    from somite.workflows import server

    server.start()
    from somite import show
    from somite.derivatives import write_dataset_files
    from somite.report.writing import Written
    from somite.review import verdicts
    from somite.workflows import cohort, group, participant, pool

    if options.job:
        pool.die_with_parent()  # the script of the job: where it is killed, nothing of it runs on
    place = _place(options)
    participant.check(place.settings)
    verdicts.read(place.out_dir)  # what is wrong with it is told before anything runs
    clinical = _clinical_problems(place)
    if clinical and "group" in options.levels:
        raise DatasetError.of(clinical)
    _say_problems([replace(problem, severity="warning") for problem in clinical])
    may_use = cohort.limits(options.n_procs, options.mem_gb)
    write_dataset_files(
        place.out_dir, place.plan.bids_dir, command=place.command, config=place.settings.to_yaml()
    )
    _say_problems(place.plan.problems)
    records: list[Record] = []
    if "participant" in options.levels:
        _say_problems(cohort.check_disk(place, may_use))
        ran, pages = cohort.run_participants(
            place, may_use, stop_on_first_failure=options.stop_on_first_crash
        )
        records += ran
        _say_problems(pages.problems)
    if "group" in options.levels:
        if options.participant_label or options.session_label or options.only:
            sys.stderr.write("warning: the tables hold only the participants and sessions asked for\n")
        members, made = cohort.run_group(place, may_use)
        records += made
        pages = Written()
        cohort.write_pages(place, pages)
        _say_problems(pages.problems)
        lines = show.cohort(place, members, made)
    else:
        members = group.members(place)
        lines = show.failures(members)
    for line in lines:
        say(line)
    say(show.totals(members, records))
    failed = any(item.verdict == "failed" for item in records)
    lacking = any(not member.is_finished for member in members)
    return SOME_FAILED if failed or lacking else DONE


def _report(options: argparse.Namespace) -> int:
    from somite.report import writing

    _check_has_run(options.out_dir)
    written = writing.write_all(options.out_dir.absolute())
    _say_problems(written.problems)
    say(
        f"pages in {options.out_dir}: {len(written.new)} written, {written.unchanged} unchanged, "
        f"{len(written.removed)} removed"
    )
    return SOME_FAILED if written.problems else DONE


def _check_has_run(out_dir: Path) -> None:
    """Refuse a folder that is not the output of a run.

    Raises:
        DatasetError: `NOT_AN_OUTPUT`.
    """
    if not (out_dir / "logs").is_dir():
        raise DatasetError(
            Problem(
                "NOT_AN_OUTPUT",
                "this folder holds no records of a run",
                where=str(out_dir),
                expected="the OUT_DIR of `somite run` or `somite submit`",
                do="check the path, or run the participant level first",
            )
        )


def _submit(options: argparse.Namespace) -> int:
    from somite import show
    from somite.workflows import participant, submission

    place = _place(options)
    if options.chunk:
        cluster = place.settings.cluster.model_copy(update={"chunk": options.chunk})
        place = replace(place, settings=place.settings.model_copy(update={"cluster": cluster}))
    participant.check(place.settings)
    submission.check(place)
    _say_problems([*place.plan.problems, *_clinical_problems(place)])
    asked = submission.Asked(
        options.retry_memory or 1.0,
        options.n_procs,
        narrowed=bool(options.participant_label or options.session_label),
    )
    if options.dry_run or options.print_commands:
        sending = submission.prepare(place, asked)
        if options.dry_run:
            say(*show.scripts(sending))
            return DONE
        submission.write(sending)
        *sessions, group = submission.commands(sending)
        if sessions:
            say(*sessions)
        sys.stderr.write(f"when all of these have ended, whatever their exit codes:\n{group}\n")
        return DONE
    for line in show.sent(*submission.submit(place, asked)):
        say(line)
    return DONE


def _cancel(options: argparse.Namespace) -> int:
    from somite.workflows import submission

    _check_has_run(options.out_dir)
    ended = submission.cancel(options.out_dir.absolute())
    say(f"cancelled: jobs {', '.join(map(str, ended))}" if ended else "no job waits or runs")
    return DONE


def _status(options: argparse.Namespace) -> int:
    from somite import show

    _check_has_run(options.out_dir)
    lines, failed = show.status(options.out_dir.absolute())
    for line in lines:
        say(line)
    return SOME_FAILED if failed else DONE


def _review(options: argparse.Namespace) -> int:
    import getpass
    from contextlib import nullcontext, suppress

    from somite.review import launch, server

    _check_has_run(options.out_dir)
    serving = server.open_server(options.out_dir, options.rater or getpass.getuser(), options.port)
    say(f"review by {serving.application.rater}: {serving.url}")
    say("Ctrl+C ends it; every verdict is saved at once")
    with (
        serving,
        nullcontext(False) if options.no_browser else launch.browser(serving.url),
        suppress(KeyboardInterrupt),
    ):
        serving.serve_forever()
    return DONE


def _rerun(options: argparse.Namespace) -> int:
    import tempfile

    _check_has_run(options.out_dir)
    if options.into is not None:
        options.into.mkdir(parents=True, exist_ok=True)
        return _rerun_into(options, options.into.absolute())
    with tempfile.TemporaryDirectory(prefix="somite-rerun-") as folder:
        return _rerun_into(options, Path(folder))


def _rerun_into(options: argparse.Namespace, into: Path) -> int:
    from somite.workflows import server

    if not (options.image or options.check):
        server.start()
    from somite import rerun
    from somite.derivatives import write_dataset_files
    from somite.workflows import cohort, participant

    finished = rerun.read(options.out_dir.absolute(), options.bids_dir)
    if options.image:
        return _rerun_inside(rerun.container_command(finished, into, _passed_on(options)))
    place = rerun.place_of(finished, into, options.called_as)
    participant.check(place.settings)
    changed = list(rerun.changes(finished, place))
    say(f"{len(finished.sessions)} sessions of {options.out_dir}; since the run, this has changed:")
    for line in changed or ["nothing: inputs, options, versions and code are the same"]:
        say(f"  {line}")
    for label in finished.left_out:
        say(f"  {label} was not done: left out")
    if options.check:
        return SOME_FAILED if changed else DONE
    may_use = cohort.limits(options.n_procs, options.mem_gb)
    _say_problems(cohort.check_disk(place, may_use))
    write_dataset_files(into, place.plan.bids_dir, command=place.command, config=place.settings.to_yaml())
    made = rerun.repeat(finished, place, may_use)
    found = list(rerun.outcomes(finished, place, made))
    for line in (line for outcome in found for line in rerun.lines(outcome)):
        say(line)
    differ = sum(not outcome.same for outcome in found)
    say(f"rerun: {len(found) - differ} equal, {differ} differ")
    return SOME_FAILED if differ else DONE


def _say_estimate(place: Place) -> None:
    from somite.workflows import cohort, forecast, participant

    units = list(participant.units(place).values())
    for line in forecast.lines(
        forecast.needs(units, cohort.read_measured(place, units)), place.settings.keep
    ):
        say(line)
    _say_problems(cohort.check_disk(place, cohort.limits(None, None)))


def _cache(options: argparse.Namespace) -> int:
    from somite import cache

    work_dir = _work_dir(options)
    if not work_dir.is_dir():
        raise DatasetError(Problem("NO_WORK_FOLDER", "there is no work folder", where=str(work_dir)))
    if options.what == "size":
        found = list(cache.read(work_dir))
        for item in found:
            busy = "  in use" if item.in_use else ""
            say(f"{item.label}  {len(item.entries)} results, {cache.size_text(item.bytes)}{busy}")
        say(f"{work_dir}: {cache.size_text(sum(item.bytes for item in found))}")
        return DONE
    if options.unused:
        _check_has_run(options.out_dir)
        choose = cache.unused_by(options.out_dir)
    elif options.older_than is not None:
        choose = cache.older_than(options.older_than)
    else:
        raise ConfigError(
            Problem("PRUNE_WHAT", "nothing says what to remove", do="give --older-than DAYS or --unused")
        )
    freed = 0
    for gone in cache.prune(work_dir, choose, dry=options.dry_run):
        freed += gone.bytes
        words = f"in use by {gone.busy}: left alone" if gone.busy else f"{gone.entries} results"
        say(f"{gone.label}  {words}, {cache.size_text(gone.bytes)}")
    say(f"{'would free' if options.dry_run else 'freed'}: {cache.size_text(freed)}")
    return DONE


def _passed_on(options: argparse.Namespace) -> list[str]:
    """The options that a rerun inside of an image is given too."""
    words = ["--check"] if options.check else []
    for name in ("n_procs", "mem_gb"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return words


def _rerun_inside(words: Sequence[str]) -> int:
    import subprocess

    say(shlex.join(words))
    sys.stdout.flush()
    return subprocess.run(words, check=False).returncode


def _diff(options: argparse.Namespace) -> int:
    from somite.analysis import diff

    found = diff.difference(options.table_a, options.table_b)
    for line in diff.lines(found, 0 if options.all else 40):
        say(line)
    if options.tsv is not None:
        diff.write(found, options.tsv)
    return SOME_FAILED if found.changes else DONE


def _check_output(out_dir: Path, bids_dir: Path) -> None:
    """Refuse to write into a dataset that is not an output of this program.

    Raises:
        DatasetError: `OUT_IS_A_DATASET`.
    """
    description = out_dir / "dataset_description.json"
    try:
        makers = json.loads(description.read_text(encoding="utf-8")).get("GeneratedBy", [])
        foreign = "somite" not in [maker.get("Name") for maker in makers]
    except FileNotFoundError:
        foreign = False
    except (ValueError, AttributeError):
        foreign = True
    if foreign or out_dir.resolve() == bids_dir.resolve():
        raise DatasetError(
            Problem(
                "OUT_IS_A_DATASET",
                "the output folder is a dataset that this program did not make; it would be overwritten",
                where=str(out_dir),
                found=f"{description.name} without GeneratedBy: somite" if foreign else "the input dataset",
                expected="a new folder, an empty one, or the output of an earlier run",
                do=f"name another folder, for example {bids_dir / 'derivatives' / 'somite'}",
            )
        )


def _work_dir(options: argparse.Namespace) -> Path:
    chosen: Path = options.work_dir or options.out_dir / ".work"
    return chosen.absolute()


def _place(options: argparse.Namespace) -> Place:
    """Read configuration and dataset.

    Raises:
        ConfigError: every mistake of the YAML.
        DatasetError: what is wrong with the dataset as a whole.
    """
    from somite import containers
    from somite.configs import reader
    from somite.plan import make_plan
    from somite.registry import discover
    from somite.workflows.participant import Place

    settings = reader.read(options.config, discover())
    containers.use(settings.tools.containers())
    _check_output(options.out_dir, options.bids_dir)
    only: list[str] = getattr(options, "only", None) or []
    participants = options.participant_label or list(dict.fromkeys(item.split("_")[0] for item in only))
    plan = make_plan(options.bids_dir, settings, participants or None, options.session_label)
    plan = plan.only(only) if only else plan
    errors = [problem for problem in plan.problems if problem.severity == "error"]
    if errors:
        raise DatasetError.of(errors)
    return Place(
        plan=plan,
        settings=settings,
        out_dir=options.out_dir.absolute(),
        work_dir=_work_dir(options),
        verify=options.verify,
        command=options.called_as,
        job=getattr(options, "job", ""),
    )
