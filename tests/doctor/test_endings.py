"""An end in good order is no failure; who killed whom is told by time, and by what Overspan itself saw."""

from __future__ import annotations

import pytest

from overspan.doctor.context import RunContext
from support.doctor import ask, ask_all, failed, failed_rules

DEAD = "(APIServer pid=1) ERROR 07-15 18:00:0{} [async_llm.py:705] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."  # noqa: E501
STOP = "(APIServer pid=1) INFO 07-15 18:00:00 [launcher.py:110] Shutting down FastAPI HTTP server."
OFFLINE = (
    "ERROR 01-07 20:00:59 [core_client.py:564] Engine core proc EngineCore_DP0 died unexpectedly, shutting down client."
)
NOT_CALLED = "[rank0]:[W107 20:00:59.02 ProcessGroupNCCL.cpp:1524] Warning: WARNING: destroy_process_group() was not called before program exit, which can leak resources."  # noqa: E501
NEVER = "(Worker pid=213) ERROR 08-03 13:35:33 [m.py:912] torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined."  # noqa: E501
BEGIN = "(APIServer pid=1) INFO 07-15 18:20:00 [api_server.py:1000] vLLM API server version 0.32.0"


@pytest.mark.parametrize("end", [STOP, "KeyboardInterrupt", "INFO Received SIGTERM", "INFO:     Shutting down"])
def test_what_is_said_after_an_end_in_good_order_is_no_failure(end: str) -> None:
    assert failed_rules(f"{end}\n{DEAD.format(1)}") == []


def test_a_death_before_the_server_shut_down_is_one() -> None:
    assert failed_rules(f"{DEAD.format(0)}\n{STOP}") == ["engine-dead"]


def test_a_cause_stays_whatever_followed() -> None:
    assert failed_rules(f"{STOP}\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert failed_rules(f"{STOP}\n{DEAD.format(1)}\n{BEGIN}\n{DEAD.format(9)}") == ["engine-dead"], "another start"


def test_the_other_ranks_log_is_judged_by_time() -> None:
    lost = "(Worker_TP1 pid=2) ERROR 07-15 18:00:0{} [a.py:1] RuntimeError: Connection closed by peer [10.0.0.1]:4444"
    assert failed(ask_all({"rank0": STOP, "rank1": lost.format(3)})) == []
    assert failed(ask_all({"rank0": STOP.replace("18:00:00", "18:00:05"), "rank1": lost.format(3)})) != []


def test_an_offline_program_that_did_its_work_ended_well_and_one_with_an_error_did_not() -> None:
    assert failed_rules(f"{NOT_CALLED}\n{OFFLINE}") == []
    assert failed_rules(f"Traceback (most recent call last):\nFooError: x\n{NOT_CALLED}\n{OFFLINE}") == ["engine-dead"]
    assert failed_rules(OFFLINE) == ["engine-dead"]


@pytest.mark.parametrize(
    ("other", "root"),
    [
        ("run.sh: line 12: vllm: command not found", "command-missing"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "permission-denied"),
    ],
)
def test_who_waits_for_a_rank_is_the_consequence_in_any_order(other: str, root: str) -> None:
    for text in (f"{NEVER}\n{other}", f"{other}\n{NEVER}"):
        assert failed_rules(text)[:2] == [root, "rendezvous-timeout"]
    assert failed(ask_all({"a": NEVER, "b": other}))[0] == failed(ask_all({"a": other, "b": NEVER}))[0] == root


def test_never_came_and_went_away_are_two_things() -> None:
    gone = "[rank1]:[W1118 17:30:24.2 TCPStore.cpp:125] [c10d] recvValue failed on SocketImpl(fd=7): got 0 bytes"
    assert failed_rules(gone) == ["store-peer-gone"] and failed_rules(NEVER) == ["rendezvous-timeout"]


def test_what_a_watchdog_kills_is_its_consequence() -> None:
    watchdog = "[2026-08-26 21:15:12 TP0] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)"
    killed = "[2026-08-26 21:15:17] Rank 0 scheduler died (exit code: -9)."
    assert failed_rules(f"{killed}\n{watchdog}")[0] == failed_rules(f"{watchdog}\n{killed}")[0] == "sglang-watchdog"
    assert failed_rules(killed) == ["process-killed"]


def test_a_panic_behind_a_transfer_error_is_not_in_front_of_it() -> None:
    text = "thread 'tokio' panicked at lib/x.rs:1:9:\nnixl_cu12._bindings.nixlBackendError: NIXL_ERR_BACKEND"
    assert failed_rules(text)[0] == "nixl-ucx-no-cuda" and "rust-panic" in failed_rules(text)
    lost = "2026-06-01T10:00:01Z ERROR nixl: NIXL_ERR_REMOTE_DISCONNECT"
    panic = "2026-06-01T10:00:02Z thread 'tokio' panicked at lib/x.rs:1:9:"
    assert (
        failed_rules(f"{panic}\n{lost}") == failed_rules(f"{lost}\n{panic}") == ["nixl-remote-disconnect", "rust-panic"]
    )


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        ("api (pid 5499) on spark2 was ended by signal 9 (rank 1); ending the others", "run-process-killed"),
        ("api (pid 5499) on spark2 was ended by signal 15 (rank 1); ending the others", "run-process-told-to-end"),
        ("VLLM::EngineCore (pid 5) on spark2 is gone (rank 1); ending the others", "run-process-gone"),
        ("rank1 on spark2 was ended by signal 11 (rank 1); ending the others", "run-process-crashed"),
    ],
)
def test_what_overspan_itself_saw_is_named_with_host_and_rank(event: str, rule: str) -> None:
    root = ask(f"2026-11-30T19:14:34.000001Z {event}", context=RunContext(failed=True))[0]
    assert (root.rule, root.status, root.role) == (rule, "failed", "root")
    assert root.evidence is not None and (root.evidence.host, root.evidence.rank) == ("spark2", 1)
    assert "spark2" in (root.cause or "")


def test_a_cause_in_a_log_is_before_what_overspan_saw() -> None:
    logs = {"overspan": "2026-11-30T19:14:34Z api (pid 5) on a was ended by signal 9 (rank 0)",
            "kernel": "Nov 30 19:14:33 a kernel: Out of memory: Killed process 5 (vllm) total-vm:1kB"}  # fmt: skip
    findings = ask_all(logs, RunContext(failed=True))
    assert findings[0].rule == "kernel-oom-kill"
    assert "memory was used up" in (next(one for one in findings if one.rule == "run-process-killed").cause or "")


def test_a_failed_run_whose_logs_hold_only_a_warning_is_a_failure_that_is_not_known() -> None:
    text = '(APIServer pid=1) INFO: 127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 401 Unauthorized'
    findings = ask(text, context=RunContext(failed=True))
    assert any(one.rule == "unknown-failure" and one.is_error for one in findings)
