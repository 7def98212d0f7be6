"""The root before its symptoms; across ranks; what is unknown is said to be."""

from __future__ import annotations

import pytest

from overspan.doctor.context import RunContext
from support.doctor import ask, ask_all, failed, failed_rules, root_of

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
WRAPPERS = [
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': 1}",
    "(raylet) A worker died or was killed while executing a task by an unexpected system error.",
    "ncclRemoteError: socketProgress: Connection closed by remote peer",
    "No available shared memory broadcast block found in 60 seconds.\n"
    "No available shared memory broadcast block found in 60 seconds.",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=78, OpType=BROADCAST)",
]
PREFIXES = [
    "(Worker_TP1 pid=2573) ERROR 11-22 14:28:37 [file.py:101] ",
    "(EngineCore_DP0 pid=5) (Worker_TP0 pid=9) ERROR 11-22 14:28:37 [multiproc_executor.py:852] ",
    "2026-11-22T14:28:37.070102Z stderr F ",
    "Nov 22 14:28:37 spark1 docker[812]: ",
    "vllm-head-1  | \x1b[36m(RayWorkerWrapper pid=77, ip=10.0.0.2)\x1b[0m \x1b[1;31mERROR\x1b[0m 11-22 14:28:37 ",
    "3: ",
    "[rank1]:[E1122 14:28:37.061727749 Foo.cpp:683] ",
    "0.559 ",
    "# ",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_never_wins_over_a_cause_on_any_rank(wrapper: str) -> None:
    assert ask_all({"rank0": wrapper, "rank1": OOM})[0].rule == "cuda-oom-load"
    assert root_of(f"{wrapper}\n{OOM}") == "cuda-oom-load"
    assert root_of(f"{OOM}\n{wrapper}") == "cuda-oom-load"
    assert root_of(wrapper) not in (None, "cuda-oom-load")


def test_across_ranks_the_earliest_cause_is_the_root_and_the_rest_follow() -> None:
    findings = ask_all(
        {
            "rank0": "ERROR 11-22 14:28:39 [a.py:1] OSError: [Errno 28] No space left on device",
            "rank1": f"ERROR 11-22 14:28:37 [a.py:1] {OOM}",
        }
    )
    assert failed(findings)[:2] == ["cuda-oom-load", "disk-full"]
    assert findings[0].role == "root" and findings[1].role == "consequence"
    assert findings[0].evidence is not None
    assert (findings[0].evidence.file, findings[0].evidence.line) == ("logs/rank1.log", 1)


def test_without_times_the_process_that_died_first_has_the_root() -> None:
    logs = {"rank0": "OSError: [Errno 28] No space left on device", "rank1": OOM}
    context = RunContext(deaths={"rank1": 1.0, "rank0": 2.0})
    assert ask_all(logs, context)[0].rule == "cuda-oom-load"


@pytest.mark.parametrize("escape", ["\x1b", "ESC", "^[", "", "\\x1b", "\\u001b"])
def test_colour_whose_escape_was_lost_or_written_out_is_no_part_of_a_message(escape: str) -> None:
    stamp = "INFO 2025-03-30T23:51:21.299840450Z "
    log = f"{stamp}{escape}[1;36m(VllmWorkerProcess pid=63){escape}[0;0m ERROR 03-30 23:51:21 [a.py:243] {OOM}"
    findings = ask_all({"rank0": log})
    assert findings[0].rule == "cuda-oom-load"
    assert findings[0].evidence is not None and findings[0].evidence.text == OOM


def test_the_area_of_an_unknown_exception_is_told_and_never_hides_a_cause() -> None:
    frame = '  File "/x/vllm/model_executor/layers/fused_moe/a.py", line 3, in f\n    raise ValueError(s)\n'
    assert ask_all({"rank0": f"{frame}ValueError: something new"})[0].rule == "kernel-layer-failed"
    findings = ask_all({"rank0": f"{frame}ValueError: something new", "rank1": OOM})
    assert findings[0].rule == "cuda-oom-load"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_message_is_known_behind_any_prefix_and_wrapped(prefix: str) -> None:
    assert root_of(prefix + OOM) == "cuda-oom-load"
    wrapped = f"{prefix}RuntimeError: Every node should have a\n{prefix}   unique IP address. Got 2 nodes"
    assert root_of(wrapped) == "ray-unique-ip"


def test_a_wrapped_message_is_found_between_the_lines_of_other_ranks() -> None:
    lines = []
    for rank in [*range(5), *range(6, 16)]:
        lines.append(f"(Worker_TP{rank} pid={rank}) INFO 11-22 14:28:37 [a.py:1] step")
    lines.insert(3, "(Worker_TP5 pid=5) ERROR 11-22 14:28:37 [a.py:1] Timed out waiting for object")
    lines.insert(9, "(Worker_TP5 pid=5) ERROR 11-22 14:28:37 [a.py:1]   available to read. ObjectID: 00")
    finding = ask("\n".join(lines))[0]
    assert finding.rule == "ray-compiled-dag-timeout"
    assert finding.evidence is not None and finding.evidence.line == 4 and finding.evidence.rank == 5


def test_a_server_that_became_ready_has_got_over_what_was_logged_before() -> None:
    assert failed_rules(f"{OOM}\nINFO:     Application startup complete.") == []
    assert failed_rules(f"INFO:     Application startup complete.\n{OOM}") == ["cuda-oom-load"]


def test_the_fix_names_what_the_log_and_the_run_know_and_nothing_unsafe() -> None:
    port = "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8123): address already in use"
    assert "sport = :8123" in (ask(port)[0].fix or "")
    conflict = 'Conflict. The container name "/vllm-7" is already in use by container "abc"'
    assert "docker rm -f vllm-7" in (ask(conflict)[0].fix or "")
    option = conflict.replace("vllm-7", "--volumes")
    assert "docker rm -f <container>" in (ask(option)[0].fix or "")
    evil = "Unable to find address for: eth0;rm"
    assert "rm" not in (ask(evil)[0].fix or "").split()
    known = ask(OOM, context=RunContext(facts={"model": "acme/big"}))[0]
    assert "overspan plan acme/big" in (known.fix or "")
    assert "overspan plan <model>" in (ask(OOM)[0].fix or "")


def test_an_unknown_failure_shows_the_earliest_anomaly_of_each_rank() -> None:
    logs = {
        "rank0": "INFO fine\nERROR 11-22 14:28:40 [a.py:1] frobnication failed",
        "rank1": "Traceback (most recent call last):\n  File x\nFooError: the widget is bent",
        "rank2": "all quiet here",
    }
    found = next(finding for finding in ask_all(logs) if finding.rule == "unknown-failure")
    assert found.status == "not_evaluated" and failed(ask_all(logs)) == []
    texts = [item.text for item in [found.evidence, *found.more] if item]
    assert "frobnication failed" in texts[0] and "FooError: the widget is bent" in texts[1]
    assert "all quiet here" in texts[2]
    assert ask_all(logs, RunContext(failed=True))[0].rule == "unknown-failure"


def test_every_rule_says_passed_failed_or_not_evaluated() -> None:
    findings = ask(OOM)
    assert {finding.status for finding in findings} == {"failed", "passed", "not_evaluated"}
    assert len({finding.rule for finding in findings}) == len(findings) > 150
    assert {finding.status for finding in ask("")} == {"not_evaluated"}
    reason = next(finding for finding in findings if finding.rule == "moe-backend-not-marlin")
    assert reason.status == "not_evaluated" and reason.cause


def test_a_line_that_says_it_does_no_harm_is_believed() -> None:
    line = "ERROR NCCL WARN Call to ibv_modify_qp failed with 22 Invalid argument"
    assert failed_rules(line) == ["rdma-gid-mismatch"]
    assert failed_rules(f"{line}; this can be safely ignored") == []
