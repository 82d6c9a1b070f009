"""The engine over Pydra: joining, caching, and each defect of Pydra 1.0a12 that it holds off."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from toysteps import STEPS, TOY, Toy

from somite import fingerprint, record
from somite.derivatives import Derivative
from somite.errors import GraphError
from somite.workflows import session
from somite.workflows.engine import Event
from somite.workflows.graph import Use, join

ALL = ["scale", "shift", "collect"]


def test_steps_run_in_the_order_of_their_needs_and_deliver(toy: Toy, number: Path) -> None:
    assert toy.ran(number) == ALL
    assert toy.result == "3 7.0 positive"


def test_nothing_runs_again_when_nothing_changed(toy: Toy, number: Path) -> None:
    toy.ran(number)
    assert toy.ran(number) == []


def test_touched_copied_and_moved_inputs_hit(toy: Toy, number: Path, tmp_path: Path) -> None:
    toy.ran(number)
    os.utime(number)
    assert toy.ran(number) == []
    elsewhere = tmp_path / "elsewhere" / "other_name.txt"
    elsewhere.parent.mkdir()
    shutil.copy(number, elsewhere)
    number.unlink()
    assert toy.ran(elsewhere) == []


def test_a_moved_work_folder_hits(toy: Toy, number: Path, tmp_path: Path) -> None:
    toy.ran(number)
    (tmp_path / "work").rename(tmp_path / "moved")
    assert toy.ran(number, work_dir=tmp_path / "moved") == []
    shutil.rmtree(tmp_path / "out")
    assert toy.ran(number, work_dir=tmp_path / "moved") == []
    assert toy.result == "3 7.0 positive"


def test_a_changed_option_reruns_its_step_and_what_follows_and_back_again_nothing(
    toy: Toy, number: Path
) -> None:
    toy.ran(number)
    toy.settings["shift"] = {"by": 5.0}
    assert toy.ran(number) == ["shift", "collect"]
    assert toy.result == "3 11.0 positive"
    toy.settings.clear()
    assert toy.ran(number) == []
    assert toy.result == "3 7.0 positive"


def test_two_nodes_of_one_function_do_not_share_a_result(toy: Toy, number: Path) -> None:
    """Defect 3: closures are not hashed; here the options are a hashed field."""
    toy.ran(number)
    toy.settings["scale"] = {"factor": 3.0}
    assert toy.ran(number) == ALL
    assert toy.result == "3 10.0 positive"


def test_an_equal_result_ends_the_rerun_early(toy: Toy, number: Path) -> None:
    toy.ran(number)
    number.write_text("3.0")
    assert toy.ran(number) == ["scale", "collect"]


def test_code_of_a_helper_counts_and_comments_do_not(toy: Toy, number: Path) -> None:
    """Defect 4: only the function's own tree is hashed by Pydra."""
    toy.ran(number)
    toy.write("helper", TOY["helper"].replace("def", "# A comment.\ndef"))
    assert toy.ran(number) == []
    toy.write("helper", TOY["helper"].replace("2 * x", "x + x"))
    assert toy.ran(number) == ["scale"]


def test_tool_version_counts(toy: Toy, number: Path) -> None:
    """Defect 5: versions of tools are not hashed by Pydra."""
    toy.ran(number)
    (toy.root / "toy" / "version").write_text("1.1")
    assert toy.ran(number) == ["scale"]


def test_the_same_inputs_run_well_after_a_failure(toy: Toy, number: Path) -> None:
    """Defect 1: Pydra reads the errored result of the first run."""
    (toy.root / "toy" / "broken").touch()
    failed = toy.run(number)
    assert failed.verdict == "failed"
    assert [step.state for step in failed.steps] == ["run", "failed", "not reached"]
    (toy.root / "toy" / "broken").unlink()
    assert toy.ran(number) == ["shift", "collect"]


def test_a_failure_brings_up_the_tools_own_words(toy: Toy, number: Path) -> None:
    """Defect 11: an error reaches Pydra's user as a location."""
    number.write_text("-3")
    failed = toy.run(number)
    assert failed.failed_step == "shift"
    assert "TOOL_FAILED" in failed.reason
    assert "its own last words" in failed.reason
    assert not (toy.root / "out" / "sub-01").exists()


def test_an_unforeseen_error_is_a_failure_with_its_place(toy: Toy, number: Path) -> None:
    number.write_text("three")
    failed = toy.run(number)
    assert failed.problems[0].code == "STEP_CRASHED"
    assert "could not convert string to float" in failed.reason


def test_a_failed_session_leaves_the_others_alone(toy: Toy, number: Path) -> None:
    """Defect 2: a failed element of a split blocks what combines."""
    bad = number.with_name("bad.txt")
    bad.write_text("-1")
    assert toy.run(bad, "sub-02").verdict == "failed"
    assert toy.run(number, "sub-01").verdict == "done"


def test_locks_and_leftovers_of_a_dead_run_do_not_block(toy: Toy, number: Path) -> None:
    """Defect 6: a lock that names another host waits for ever; half a result is never read."""
    toy.ran(number)
    cache = toy.unit(number).cache_root
    for folder in [p for p in cache.iterdir() if p.is_dir()]:
        folder.with_suffix(".lock").write_text("4242\nanother-host\n")
    truncated = next(p for p in cache.glob("*/_result.pklz"))
    truncated.write_bytes(truncated.read_bytes()[:100])
    (cache / "python-0123").mkdir()
    assert len(toy.ran(number)) == 1
    assert toy.ran(number) == []
    assert not list(cache.glob("*.lock"))


def test_an_edit_that_keeps_the_time_is_seen(toy: Toy, number: Path) -> None:
    """Defect 9: Pydra's cache of checksums goes by path and modification time."""
    toy.ran(number)
    stat = number.stat()
    number.write_text("4")
    os.utime(number, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert toy.ran(number) == ALL


def test_verify_finds_a_damaged_cache_entry_and_a_damaged_output(toy: Toy, number: Path) -> None:
    toy.ran(number)
    scaled = next(toy.unit(number).cache_root.glob("*/scaled.txt"))
    scaled.write_text("9.9")
    (toy.root / "out" / "sub-01" / "collected.txt").write_text("3 7.1 positive")
    assert toy.ran(number, verify=True) == ["scale"]
    assert toy.result == "3 7.0 positive"


def test_a_deleted_output_is_made_again_without_running_a_step(toy: Toy, number: Path) -> None:
    toy.ran(number)
    (toy.root / "out" / "sub-01" / "collected.txt").unlink()
    assert toy.ran(number) == []
    assert toy.result == "3 7.0 positive"


def test_keep_final_empties_the_cache_and_still_runs_nothing_again(toy: Toy, number: Path) -> None:
    toy.ran(number, keep="final")
    assert not list(toy.unit(number).cache_root.glob("*/*.txt"))
    assert toy.ran(number, keep="final") == []
    toy.settings["shift"] = {"by": 5.0}
    assert toy.ran(number, keep="final") == ALL
    assert toy.result == "3 11.0 positive"


def test_keep_final_makes_a_deleted_output_again(toy: Toy, number: Path) -> None:
    toy.ran(number, keep="final")
    (toy.root / "out" / "sub-01" / "collected.txt").unlink()
    assert toy.ran(number, keep="final") == ALL
    assert toy.result == "3 7.0 positive"


def test_an_optional_product_is_wired_where_it_is_given(toy: Toy, number: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra.txt"
    extra.write_text("more")
    toy.ran(number)
    assert toy.ran(number, extra=extra) == ["collect"]
    assert toy.result == "3 7.0 positive more"


def test_an_output_that_is_no_longer_made_is_removed(toy: Toy, number: Path, tmp_path: Path) -> None:
    toy.ran(number)
    renamed = {"collected": (tmp_path / "out" / "sub-01" / "renamed.txt", STEPS[0].deliver["collected"])}
    assert toy.ran(number, targets=renamed) == []
    assert [p.name for p in (tmp_path / "out" / "sub-01").iterdir()] == ["renamed.txt"]


def test_the_record_holds_what_ran_on_what(toy: Toy, number: Path) -> None:
    """Defect 8: Pydra's audit crashes; the record is the project's own."""
    toy.run(number)
    stored = json.loads((toy.root / "out" / "logs" / "sub-01.json").read_text())
    steps = {step["step"]: step for step in stored["steps"]}
    assert stored["inputs"] == {"number.txt": fingerprint.sha256(number)}
    assert stored["outputs"][0]["path"] == "sub-01/collected.txt"
    assert stored["facts"][0] == {"name": "sign", "value": "positive", "reason": "it is not negative"}
    assert steps["scale"]["versions"]["scaler"] == "1.0"
    assert steps["scale"]["config"] == {"factor": 2.0}
    assert steps["shift"]["numbers"] == {"value": 6.0}
    assert steps["shift"]["seconds"] >= 0
    assert steps["shift"]["peak_mb"] > 1
    assert steps["shift"]["inputs"]["scaled"] == [steps["scale"]["outputs"]["scaled"]]


def test_the_plan_says_what_would_run_and_why(toy: Toy, number: Path) -> None:
    def reasons() -> dict[str, list[str]]:
        unit = toy.unit(number)
        last = record.read(record.path_of(unit.out_dir, unit.label))
        return session.why(session.look(unit), last)

    assert reasons() == {
        "scale": ["not run before"],
        "shift": ["not run before"],
        "collect": ["not run before"],
    }
    toy.ran(number)
    assert reasons() == {}
    toy.settings["shift"] = {"by": 5.0}
    assert reasons() == {"shift": ["option shift.by: 1.0 -> 5.0"], "collect": ["follows a step that runs"]}
    toy.settings.clear()
    number.write_text("8")
    toy.run(number)
    number.write_text("9")
    assert reasons()["scale"] == ["input number changed or was not read before"]
    (toy.root / "toy" / "version").write_text("2.0")
    assert "version of scaler: 1.0 -> 2.0" in reasons()["scale"]
    toy.write("shift", TOY["shift"].replace("value + config.by", "config.by + value"))
    assert "code of step shift changed" in reasons()["shift"]


def test_looking_writes_nothing(toy: Toy, number: Path) -> None:
    session.look(toy.unit(number))
    assert not (toy.root / "work").exists()


def test_an_input_that_changes_while_it_is_worked_on_delivers_nothing(toy: Toy, number: Path) -> None:
    unit = toy.unit(number)

    def listen(event: Event) -> None:
        if event.step == "shift":
            number.write_text("5")

    result = session.run(unit, listen)
    assert [p.code for p in result.problems] == ["INPUT_CHANGED"]
    assert not (toy.root / "out" / "sub-01").exists()
    assert len(toy.ran(number)) == 3
    assert toy.result == "5 11.0 positive"


def codes(error: pytest.ExceptionInfo[GraphError]) -> set[str]:
    return {problem.code for problem in error.value.problems}


def test_every_mistake_of_a_graph_is_named_at_once(toy: Toy) -> None:
    with pytest.raises(GraphError) as error:
        join((Use("shifty"), Use("shift", {"skaled": "scaled"}), Use("collect")), ("number",), toy.config)
    assert codes(error) == {"STEP_UNKNOWN", "WIRE_UNKNOWN", "PRODUCT_MISSING"}
    text = str(error.value)
    assert "did you mean shift?" in text
    assert "did you mean scaled?" in text
    assert "step shift needs scaled" in text


def test_a_product_made_twice_names_both_steps(toy: Toy) -> None:
    toy.write("collect", TOY["collect"].replace('"collected"', '"shifted"'))
    with pytest.raises(GraphError, match=r"shifted is made by step collect and by step shift"):
        join((Use("scale"), Use("shift"), Use("collect")), ("number",), toy.config)


def test_a_circle_names_its_steps(toy: Toy) -> None:
    with pytest.raises(GraphError, match=r"scale -> .*shift|shift -> .*scale") as error:
        join((Use("scale", {"number": "shifted"}), Use("shift")), (), toy.config)
    assert codes(error) == {"PRODUCT_CIRCULAR"}


def test_a_derivative_of_a_product_that_is_not_made_is_a_mistake(toy: Toy) -> None:
    with pytest.raises(GraphError, match=r"did you mean scaled\?") as error:
        join((Use("scale", deliver={"scaledd": Derivative("x")}),), ("number",), toy.config)
    assert codes(error) == {"DELIVER_UNKNOWN"}


def test_a_kill_while_results_are_placed_leaves_no_word_for_what_was_replaced(
    toy: Toy, number: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, other contents: a file is trusted by its size and the record, so the record goes first."""
    toy.ran(number)
    toy.settings["shift"] = {"by": 2.0}

    def killed(source: Path, target: Path) -> Path:
        derivatives_place(source, target)
        raise KeyboardInterrupt

    derivatives_place = session.derivatives.place
    monkeypatch.setattr(session.derivatives, "place", killed)
    with pytest.raises(KeyboardInterrupt):
        toy.run(number)
    monkeypatch.undo()
    last = record.read(record.path_of(toy.root / "out", "sub-01"))
    assert last is not None
    assert (last.verdict, last.problems[0].code) == ("failed", "DELIVERY_INTERRUPTED")
    toy.settings.clear()
    monkeypatch.syspath_prepend(str(toy.root))
    assert toy.ran(number) == []
    assert toy.result == "3 7.0 positive"


def test_the_plan_of_an_emptied_cache_says_that_everything_runs(toy: Toy, number: Path) -> None:
    toy.ran(number, keep="final")
    assert [item.state for item in session.look(toy.unit(number))] == ["cached"] * 3
    toy.settings["shift"] = {"by": 5.0}
    assert "cached" not in {item.state for item in session.look(toy.unit(number))}
    assert toy.ran(number, keep="final") == ALL
