"""Checks the models in docs/model/ exhaustively: the models hold, and Spin finds the error of each mutation."""

import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "docs" / "model"
DEADLOCK = "invalid end state"


def check(directory, model, flags, cycles=False):
    """Returns the output of the verifier, and the error that it found, or None."""
    kind = ["-DNP"] if cycles else ["-DSAFETY"]
    steps = [
        ["spin", "-a", *(f"-D{flag}" for flag in flags.split()), MODELS / f"{model}.pml"],
        # Compiling with optimization takes longer than it saves.
        ["gcc", "-O0", "-w", "-DCOLLAPSE", "-DMEMLIM=1500", *kind, "-o", "pan", "pan.c"],
        ["./pan", "-n", "-m100000", *(["-l"] if cycles else [])],
    ]
    for step in steps:
        done = subprocess.run(step, cwd=directory, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    for sign in ("max search depth too small", "Search not completed", "out of memory"):
        assert "errors: 1" in text or sign not in text, text
    found = [line for line in text.splitlines() if line.startswith("pan:1: ")]
    assert ("errors: 0" in text) != bool(found), text
    return text, found[0] if found else None


@pytest.mark.parametrize("model, flags", [
    ("resume", "BREAKS=1"),
    ("resume", "BREAKS=1 WINDOW=3 SOCKET=4"),
    ("resume", "BREAKS=2 COMMANDS=2"),
    ("resume", "BREAKS=3 COMMANDS=1"),
    ("resume", "BREAKS=1 ANSWERS=1 DUPLEX"),
    ("ring", ""),
    ("ring", "DEPTH_0=9 DEPTH_1=9"),
    ("ring", "SIGNAL_SHARE=12"),
    ("ring", "DEPTH_0=12 DEPTH_1=8 MESSAGES=5"),
    ("rails", ""),
    ("rails", "MESSAGES=4"),
    ("rails", "WINDOW=1"),
    ("rails", "BREAKS"),
    ("negotiate", ""),
    ("negotiate", "TCP_HOLDS"),
    ("memory", ""),
    ("memory", "RING=1"),
    ("memory", "BYTES=4 BELLS=2"),
    ("memory", "BYTES=4 KILLS=2"),
    ("reduce", ""),
    ("reduce", "FAULTS=1"),
    ("reduce", "FAULTS=2 REDUCTIONS=2 READS=0"),
    ("reduce", "FAULTS=1 ABSENT=1 REDUCTIONS=2 READS=0"),
    ("reduce", "RANKS=3 REDUCTIONS=2 READS=0 ABSENT=1"),
    ("reduce", "RANKS=3 REDUCTIONS=3 READS=0 PIECES=1 LINK=2"),
    ("reduce", "RANKS=3 REDUCTIONS=2 READS=0 PIECES=1 FAULTS=1"),
    ("reduce", "RANKS=4 REDUCTIONS=2 READS=0 PIECES=1"),
    ("reduce", "DOUBLING RANKS=3 REDUCTIONS=2 READS=0 FAULTS=1"),
    ("reduce", "DOUBLING RANKS=4 REDUCTIONS=2 ABSENT=1"),
    ("reduce", "SCATTER RANKS=3 REDUCTIONS=2 READS=0 ABSENT=1"),
    ("reduce", "SCATTER RANKS=3 REDUCTIONS=1 READS=0 FAULTS=1"),
    ("reduce", "SCATTER RANKS=4 REDUCTIONS=1 READS=0"),
    ("reduce", "CONTEXTS=2 REDUCTIONS=2 READS=0"),
    ("reduce", "CONTEXTS=2 REDUCTIONS=2 READS=0 COPIES"),
    ("reduce", "CONTEXTS=2 REDUCTIONS=2 READS=0 COPIES RELAYS"),
    ("reduce", "CLIENTS=2 REDUCTIONS=1 READS=0"),
    ("reduce", "RENEW FAULTS=1"),
    ("reduce", "RENEW ABSENT=1"),
])
def test_model_holds(tmp_path, model, flags):
    text, found = check(tmp_path, model, flags)
    assert found is None, text


@pytest.mark.parametrize("model, flags", [("resume", "BREAKS=1"), ("memory", "KILLS=1"), ("reduce", "FAULTS=1 REDUCTIONS=2")])
def test_there_is_no_livelock(tmp_path, model, flags):
    text, found = check(tmp_path, model, flags, cycles=True)
    assert found is None, text


@pytest.mark.parametrize("model, flags, fault", [
    ("resume", "BREAKS=0 NO_STASH", DEADLOCK),
    ("resume", "BREAKS=0 ANSWERS=1 DUPLEX PROMISE_BEYOND_ROOM", DEADLOCK),
    ("resume", "BREAKS=1 KEEP_STASH", "first[1]==(taken[1]+stashed[1])"),
    ("resume", "BREAKS=2 COMMANDS=2 LATE_RESUME", "replay_begin[1]<=received"),
    ("resume", "BREAKS=2 COMMANDS=2 CLOSE_GIVEN_UP", "closed[conn[1]]"),
    ("ring", "NO_CREDIT_MESSAGES", DEADLOCK),
    ("ring", "RESERVED=1", "posted_receives[e]>0"),
    ("rails", "WINDOW=1 NO_CREDIT_MESSAGES", DEADLOCK),
    ("rails", "SHARED_CREDITS", "credits["),
    ("rails", "CREDITS_ON_ANY MESSAGES=4", "credits["),
    ("rails", "NO_REORDER", "number=="),
    ("negotiate", "TCP_HOLDS NO_VERDICT", "client_uses=="),
    ("negotiate", "TCP_HOLDS NAME_ACCEPTED", "verified"),
    ("negotiate", "LATE_ANSWER", "assertion violated"),
    ("negotiate", "TCP_HOLDS NO_REASON", "told"),
    ("negotiate", "TCP_HOLDS ADMIT_UNCONFIRMED", DEADLOCK),
    ("memory", "NO_LOOK", DEADLOCK),
    ("memory", "RESET_LATE", DEADLOCK),
    ("reduce", "FLUSH_ONE", DEADLOCK),
    ("reduce", "FLUSH_IN_TURN", DEADLOCK),
    ("reduce", "SEND_ONLY", DEADLOCK),
    ("reduce", "CONTEXTS=2 REDUCTIONS=1 READS=0 NO_ORDER", DEADLOCK),
    ("reduce", "CONTEXTS=2 REDUCTIONS=1 READS=0 COPIES COPY_UNORDERED", DEADLOCK),
    ("reduce", "CONTEXTS=2 REDUCTIONS=1 READS=0 COPIES RELAYS COPY_UNORDERED", DEADLOCK),
    ("reduce", "PER_DEVICE", DEADLOCK),
    ("reduce", "CLIENTS=2 REDUCTIONS=1 READS=0 HOLD_DEVICE", DEADLOCK),
    ("reduce", "SEND_FIRST", DEADLOCK),
    ("reduce", "RANKS=3 TAKE_ANY", "number==reductions["),
    ("reduce", "RANKS=3 ADD_BEFORE_SENT", "value==(1<<"),
    ("reduce", "FAULTS=1 LEND", "value==(1<<"),
    ("reduce", "RANKS=3 ADD_ON_ARRIVAL", "==bits"),
    ("reduce", "ABSENT=1 SKIP_ABSENT", "had_fault["),
    ("reduce", "RANKS=3 FAULTS=1 KEEP_LINKS", DEADLOCK),
    ("reduce", "FAULTS=1 NO_GRACE", DEADLOCK),
    ("reduce", "DROP_ON_FREE", "had_fault["),
    ("reduce", "RENEW FAULTS=1 KEEP_MARKS", "sum==((1<<2)-1)"),
    ("reduce", "RENEW ABSENT=1 KEEP_MARKS", "sum==((1<<2)-1)"),
])
def test_mutation_is_detected(tmp_path, model, flags, fault):
    text, found = check(tmp_path, model, flags)
    assert found is not None and fault in found, text


@pytest.mark.parametrize("model, flags, goal", [
    ("resume", "BREAKS=2 COMMANDS=2 REACH_END", "newest<2"),
    ("ring", "REACH_END", "assertion violated 0"),
    ("rails", "REACH_END", "breaks>0"),
    ("rails", "REACH_EARLY", "number==taken[e]"),
    ("negotiate", "REACH_END", "client_pairs!="),
    ("memory", "REACH_END", "assertion violated"),
    ("reduce", "REACH_END", "had_fault["),
    ("reduce", "RANKS=3 FAULTS=1 REACH_FAILURE", "reductions[c]<"),
    ("reduce", "DOUBLING RANKS=4 ABSENT=1 REACH_ABSENT", "sum!=0"),
    ("reduce", "RENEW FAULTS=1 REACH_RENEWAL", "c==0"),
])
def test_end_is_reached(tmp_path, model, flags, goal):
    text, found = check(tmp_path, model, flags)
    assert found is not None and goal in found, text
