"""The command line: the only place that prints for a person or chooses an exit code.

0 all done; 1 some sessions failed, or tables differ; 2 a mistake of use, configuration or dataset; 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from somite.arguments import parser
from somite.errors import ConfigError, DatasetError, Problem, SomiteError, file_error
from somite.files import read_json
from somite.stdout import say

# Commands import what they need when they are called: `somite --help` answers at once.
if TYPE_CHECKING:
    from somite.record import Record
    from somite.workflows.participant import Place

DONE, SOME_FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(arguments)
    options.called_as = shlex.join(["somite", *arguments])
    try:
        return COMMANDS[options.command](options)
    except SomiteError as error:
        _say_problems(error.problems)
        return MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is finished is kept; the same command goes on from here\n")
        return INTERRUPTED
    except OSError as error:
        _say_problems([file_error(error)])
        return MISTAKE


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
        if not options.only:  # an element of an array leaves what is of the cohort to the group level
            pages += cohort.write_pages(place)
        _say_problems(pages)
    if "group" in options.levels:
        if options.participant_label or options.session_label or options.only:
            sys.stderr.write("warning: the tables hold only the participants and sessions asked for\n")
        members, made = cohort.run_group(place, may_use)
        records += made
        _say_problems(cohort.write_pages(place))
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

    if options.image is None and not options.check:
        server.start()
    from somite import rerun
    from somite.derivatives import write_dataset_files
    from somite.workflows import cohort, participant

    finished = rerun.read(options.out_dir.absolute(), options.bids_dir)
    if options.image is not None:
        passed_on = _passed_on(options)
        return _rerun_inside(rerun.container_command(finished, into, passed_on, options.image))
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
        makers = read_json(description).get("GeneratedBy", [])
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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "plan": _plan,
    "run": _run,
    "status": _status,
    "report": _report,
    "review": _review,
    "submit": _submit,
    "cancel": _cancel,
    "diff": _diff,
    "phantom": _phantom,
    "schema": _schema,
    "rerun": _rerun,
    "cache": _cache,
}
