# SPDX-License-Identifier: Apache-2.0
"""Journals, record logs and files after a process was killed."""

import json
import subprocess
import sys

import pytest
from commands import run_python

from tvm.contrib.cprune.files import append_lines, recover_lines, write_text
from tvm.contrib.cprune.loop import journal as journal_module
from tvm.contrib.cprune.loop.history import iterations, phase_seconds
from tvm.contrib.cprune.loop.journal import Journal, open_run
from tvm.contrib.cprune.loop.lock import locked
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.measuring.records import RecordLog, parse
from tvm.contrib.cprune.stopwatch import Stopwatch
from tvm.contrib.cprune.types import CPruneError


def candidate(verdict, accuracy=0.9, widths=None, checkpoint="c", retry=False):
    event = {"event": "candidate", "accepted": verdict == "accepted", "verdict": verdict, "seconds": 1}
    event |= {"latency_s": [0.5, 0.4, 0.6], "old_latency_s": [1.0, 1.0, 1.1], "speedup": 2.0}
    event |= {"accuracy_val": accuracy, "checkpoint": checkpoint, "retry_smaller": retry}
    return {**event, "widths": widths or {"a": [64, 32]}}


def test_the_loop_state_follows_from_the_events():
    events = [
        {"event": "baseline", "accuracy_val": 0.95},
        candidate("latency", widths={"a": [64, 48]}),
        candidate("accuracy", widths={"b": [32, 16]}),
    ]
    state = LoopState()
    for event in events:
        state = state.after(event)
    assert state == LoopState(2, 0.95, 1.0, 2, dropped=frozenset({"b"}), reached={"a": 48})
    state = state.after(candidate("accepted", 0.94, checkpoint="x"))
    assert state == LoopState(3, 0.94, 2.0, 3, "x", dropped=frozenset({"b"}))


def test_a_candidate_that_is_accepted_later_stays_one_iteration():
    facts = {"task": "a alone", "layers": ["a"], "reason": "a alone"}
    tried = [{**candidate("measured", 0.9 + n / 100), **facts, "iteration": n} for n in (1, 2)]
    chosen = {"event": "accepted", "iteration": 1, "accepted": True, "verdict": "accepted", "seconds": 4.0}
    chosen |= {"reason": "the best", "accuracy_val": 0.91, "speedup": 2.0, "checkpoint": "iteration-001"}
    plan = {"event": "plan", "widths": {}, "seconds": 3.0}
    events = [{"event": "baseline", "accuracy_val": 0.95, "seconds": 9.0}, plan, *tried, chosen]
    state = LoopState()
    for event in events:
        state = state.after(event)
    assert state == LoopState(2, 0.91, 2.0, 3 + 2 * 1 + 4, "iteration-001")
    assert phase_seconds(events) == {"first_tuning": 9.0, "pruning": 9.0}
    first, second = iterations(events)
    assert (first["verdict"], first["accepted"], first["reason"]) == ("accepted", True, "the best")
    assert (first["iteration"], first["seconds"]) == (1, 1)
    assert (second["verdict"], second["accepted"], second["reason"]) == ("measured", False, "a alone")


def test_groups_that_cost_too_much_accuracy_are_separated_then_limited():
    state = LoopState().after({"event": "baseline", "accuracy_val": 0.95})
    together = {"a": [64, 32], "b": [64, 48]}
    state = state.after(candidate("accuracy", widths=together, retry=True))
    assert (state.separated, state.limits, state.dropped) == ({"a", "b"}, {}, frozenset())
    state = state.after(candidate("accuracy", widths={"a": [64, 32]}, retry=True))
    assert (state.limits, state.dropped) == ({"a": 32}, frozenset())
    state = state.after(candidate("accepted", 0.94, widths={"b": [64, 48]}, checkpoint="x"))
    assert (state.separated, state.limits) == ({"a", "b"}, {"a": 32})
    assert state.after(candidate("accuracy", widths={"a": [64, 48]}, retry=True)).dropped == {"a"}
    # A candidate that cannot be built has no smaller one.
    state = state.after(candidate("impossible", widths={"b": [48, 32]}, retry=True))
    assert state.dropped == {"b"}


def test_a_width_between_limits_that_was_too_slow_is_not_tried_after_each_acceptance():
    state = LoopState(limits={"a": 32}, reached={"a": 48, "b": 48})
    other = state.after(candidate("accepted", widths={"c": [64, 48]}))
    assert other.reached == {"a": 48}
    assert other.after(candidate("accepted", widths={"a": [64, 40]})).reached == {}


def test_steps_double_while_accuracy_is_to_spare_and_start_again_after_a_miss():
    def after(state, verdict, **facts):
        return state.after({**candidate(verdict, retry=True), **facts})

    state = LoopState()
    assert state.stride == 1
    state = after(state, "accepted", stride=1, spare=True)
    assert state.stride == 2
    slow = after(state, "latency", stride=2)
    assert (slow.stride, slow.reached) == (1, {})
    assert after(slow, "latency", stride=1).reached == {"a": 32}
    assert after(state, "accepted", stride=2, spare=True).stride == 4
    # A step that could not be as long does not count as one.
    assert after(state, "accepted", stride=1, spare=True).stride == 2
    assert after(state, "accepted", stride=2, spare=False).stride == 1
    for verdict in ("accuracy", "impossible"):
        missed = after(state, verdict, stride=2)
        # The group gets its smallest step before it is limited or excluded.
        assert (missed.stride, missed.limits, missed.dropped) == (1, {}, frozenset())
        assert missed.missed == ({"a": 32} if verdict == "accuracy" else {})
    assert after(after(state, "accuracy", stride=2), "accepted", stride=1).missed == {}
    assert after(missed, "accuracy", stride=1).limits == {"a": 32}
    assert after(missed, "impossible", stride=1).dropped == {"a"}
    # Events of earlier versions.
    assert after(state, "accepted").stride == 1


def test_an_incomplete_line_is_dropped(tmp_path):
    path = tmp_path / "journal.jsonl"
    append_lines(path, ['{"event": "a"}', '{"event": "b"}'])
    with path.open("a") as file:
        file.write('{"event": "c", "tor')
    assert [event["event"] for event in Journal(path).events] == ["a", "b"]
    Journal(path).append({"event": "d"})
    assert [event["event"] for event in Journal(path).events] == ["a", "b", "d"]


def test_a_damaged_journal_is_refused(tmp_path):
    append_lines(tmp_path / "j", ["nonsense"])
    with pytest.raises(CPruneError, match="is damaged"):
        Journal(tmp_path / "j")


def test_a_run_with_another_configuration_is_refused_and_unchanged(tmp_path):
    open_run(tmp_path, {"seed": 1, "pair": (1, 2)}, resume=False)
    open_run(tmp_path, {"seed": 1, "pair": (1, 2)}, resume=True)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(CPruneError, match=r"another configuration \(seed: 1 there, 2 now\)"):
        open_run(tmp_path, {"seed": 2, "pair": (1, 2)}, resume=True)
    with pytest.raises(CPruneError, match="continue it with --resume"):
        open_run(tmp_path, {"seed": 1, "pair": (1, 2)}, resume=False)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_measured_under_other_conditions_is_refused_and_unchanged(tmp_path):
    seed, here = {"seed": 1}, {"device": "local", "tvm": "0.17.0"}
    open_run(tmp_path, seed, resume=False, conditions=here)
    open_run(tmp_path, seed, resume=True, conditions=here)
    before = (tmp_path / "config.json").read_bytes()
    other = r"other conditions \(tvm: '0.17.0' there, '0.18.0' now\): continue it under those, or choose"
    with pytest.raises(CPruneError, match=other):
        open_run(tmp_path, seed, resume=True, conditions={**here, "tvm": "0.18.0"})
    with pytest.raises(CPruneError, match=r"another configuration \(seed: 1 there, 2 now\)"):
        open_run(tmp_path, {"seed": 2}, resume=True, conditions={**here, "device": "phone"})
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_of_a_version_that_did_not_record_its_conditions_continues(tmp_path):
    open_run(tmp_path, {"seed": 1}, resume=False).append({"event": "baseline"})
    journal = open_run(tmp_path, {"seed": 1}, resume=True, conditions={"device": "local"})
    assert [event["event"] for event in journal.events] == ["baseline"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new\ud800")
    assert path.read_text() == "old"


FULL_DISK = """
import sys
from pathlib import Path
from tvm.contrib.cprune.files import append_lines, write_text
path = Path(sys.argv[1])
for write in (lambda: append_lines(path, ["new" * 400]), lambda: write_text(path, "new" * 400)):
    try:
        write()
    except OSError as error:
        print(error.filename, error.strerror)
"""


def test_a_full_disk_is_reported_with_the_file_and_keeps_complete_lines(tmp_path):
    path = tmp_path / "journal.jsonl"
    append_lines(path, ["old"])
    done = run_python("-c", FULL_DISK, path, max_file_size=1024)
    assert done.stdout.splitlines() == [f"{path} File too large"] * 2, done.stderr
    assert recover_lines(path) == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_has_no_lines(tmp_path):
    assert recover_lines(tmp_path / "none") == []


def line(key, costs, error=0):
    record = {
        "i": [[json.dumps([key]), "llvm", [], "", 2, []], [[], []]],
        "r": [costs, error, 1, 1],
        "v": "v0.6",
    }
    return json.dumps(record)


def test_a_record_log_returns_the_fastest_valid_record(tmp_path):
    path = tmp_path / "log.json"
    log = RecordLog(path)
    log.append(
        [parse(line("a", [3.0, 5.0, 4.0])), parse(line("a", [1e10], 1)), parse(line("a", [2.0, 2.0, 9.0]))]
    )
    log.append([parse(line("b", [1e10], 4))])
    for reader in (log, RecordLog(path)):
        assert reader.best('["a"]').latency.median == 2.0
        assert reader.best('["b"]') is None
        assert reader.best('["c"]') is None
        assert len(reader.of('["a"]')) == 3


def test_a_log_of_another_format_is_refused(tmp_path):
    path = tmp_path / "log.json"
    path.write_text('{"not": "a record"}\n')
    with pytest.raises(CPruneError, match="not a record of auto_scheduler"):
        RecordLog(path)


def test_a_folder_in_use_is_refused_and_a_killed_owner_leaves_no_lock(tmp_path):
    code = f"""
import time
from pathlib import Path
from tvm.contrib.cprune.loop.lock import locked
with locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(CPruneError, match=f"is in use by process {owner.pid}"), locked(tmp_path):
            pass
    finally:
        owner.kill()
        owner.wait()
    with locked(tmp_path):
        pass


def test_the_time_of_all_processes_adds_up(tmp_path, monkeypatch):
    clock = [0.0]
    path = tmp_path / "journal.jsonl"
    first = Journal(path, Stopwatch(lambda: clock[0]))
    with first.stopwatch("search"):
        clock[0] += 5
    clock[0] += 2
    first.append({"event": "baseline"})
    # Lost: the process is killed before it appends another event.
    clock[0] += 100
    second = Journal(path, Stopwatch(lambda: clock[0]))
    with second.stopwatch("search"):
        clock[0] += 3
        second.append_time()
        assert len(second.events) == 1, "the last event is recent"
        monkeypatch.setattr(journal_module, "TIME_INTERVAL", 0)
        second.append_time()
        clock[0] += 4
    second.append({"event": "candidate"})
    assert [event["work"] for event in second.events] == [
        {"search": 5, "other": 2},
        {"search": 3},
        {"search": 4},
    ]
    assert Journal(path).seconds_by_work() == {"search": 12, "other": 2}
