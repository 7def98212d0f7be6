"""What pipes, schedulers, terminals and pasting do to a log before anybody reads it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable

STAMPS = {
    "vllm": "(Worker_TP1 pid=2573) ERROR 11-22 14:28:37 [multiproc_executor.py:101] ",
    "docker compose": "vllm-1  | ",
    "docker logs -t": "2026-11-22T14:28:37.123456789Z ",
    "CRI": "2026-11-22T14:28:37.123456789Z stderr F ",
    "journald": "Nov 22 14:28:37 spark1 docker[1234]: ",
    "journald -o short-iso": "2026-11-22T14:28:37+0000 spark1 vllm-run.sh[1234]: ",
    "srun -l": "12: ",
    "slurmd": "[2026-11-22T14:28:37.165] [77.0] ",
    "Ray": "(RayWorkerWrapper pid=4009, ip=10.0.0.2) ",
    "mpirun --tag-output": "[1,2]<stderr>: ",
    "torchrun": "[default0]:",
    "torch": "[rank3]: ",
    "kubectl logs --prefix": "[pod/vllm-0/vllm] ",
    "clock": "[14:28:37] ",
    "logging": "2026-11-22 14:28:37,123 - vllm - ERROR - ",
    "pm2": "0|vllm  | ",
    "colour": "\x1b[1;36m(Worker_TP1 pid=2573)\x1b[0;0m ",
    "colour and time": "\x1b[31m2026-11-22T14:28:37Z\x1b[0m ",
}
_HEALTHY = (
    "INFO 11-22 14:28:37 [loggers.py:127] Engine 000: Avg prompt throughput: 10.0 tokens/s, Running: 3 reqs",
    "INFO 11-22 14:28:38 [gpu_model_runner.py:1953] Starting to load model",
    'INFO:     10.0.0.9:51234 - "POST /v1/completions HTTP/1.1" 200 OK',
)
COLUMNS = 80


def _stamped(stamp: str) -> Callable[[str], str]:
    return lambda log: "\n".join(stamp + line for line in log.split("\n"))


def _cut(log: str) -> str:
    lines = log.split("\n")
    return "\n".join(line[at : at + COLUMNS] for line in lines for at in range(0, max(1, len(line)), COLUMNS))


def _between_words(log: str) -> str:
    wrapped = (textwrap.wrap(line, COLUMNS, break_long_words=False, break_on_hyphens=False) for line in log.split("\n"))
    return "\n".join("\n".join(lines) for lines in wrapped)


def _json_file(log: str) -> str:
    time = "2026-11-22T14:28:37.123456789Z"
    return "\n".join(
        json.dumps({"log": f"{line}\n", "stream": "stderr", "time": time}, ensure_ascii=False)
        for line in log.split("\n")
    )


def _interleaved(mine: str, other: str) -> Callable[[str], str]:
    """Every line with a healthy one of another rank before it."""

    def mutate(log: str) -> str:
        numbered = enumerate(log.split("\n"))
        return "\n".join(f"{other}{_HEALTHY[number % len(_HEALTHY)]}\n{mine}{line}" for number, line in numbered)

    return mutate


def _on_both(log: str) -> str:
    return "\n".join(f"(Worker_TP{rank} pid=257{rank}) {line}" for line in log.split("\n") for rank in (1, 0))


MUTATIONS: dict[str, Callable[[str], str]] = {
    **{name: _stamped(stamp) for name, stamp in STAMPS.items()},
    "CRLF": lambda log: log.replace("\n", "\r\n"),
    "json-file": _json_file,
    "cut at 80": _cut,
    "wrapped at 80": _between_words,
    "wrapped at 80, then docker compose": lambda log: _stamped(STAMPS["docker compose"])(_between_words(log)),
    "two ranks": _interleaved("(Worker_TP1 pid=2573) ", "(Worker_TP0 pid=2572) "),
    "two tasks of srun -l": _interleaved("1: ", "0: "),
    "both ranks alike": _on_both,
}

SYMPTOMS = {
    "EngineDeadError": "ERROR 11-22 09:00:00 [core.py:1] vllm.v1.engine.exceptions.EngineDeadError: EngineCore "
    "encountered an issue. See stack trace (above) for the root cause.",
    "failed core": "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    "shm_broadcast": "\n".join(
        f"INFO 11-22 09:0{minute}:00 [shm.py:1] No available shared memory broadcast block found in 60 seconds."
        for minute in range(9)
    ),
    "watchdog": "[rank0]:[E1122 09:00:00.5 ProcessGroupNCCL.cpp:683] [Rank 0] Watchdog caught collective operation "
    "timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600096 milliseconds before timing out.",
    "NCCL": "spark1:48:65 [0] misc/socket.cc:49 NCCL WARN socketProgress: Connection closed by remote peer n2<42830>",
    "raylet": "(raylet) A worker died or was killed while executing a task by an unexpected system error. Worker "
    "exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2.",
    "Gloo": "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [n2]:431",
    "exit": "ERROR 11-22 09:00:00 [multiproc_executor.py:1] Worker proc VllmWorker-0 died unexpectedly (exit code: "
    "-15), shutting down executor.",
    "Slurm": "srun: error: n1: task 0: Exited with exit code 1\n"
    "slurmstepd: error: *** STEP 77.0 ON n1 CANCELLED AT 2026-11-22T09:00:00 ***",
}
"""What a rank says that only saw another one die, stamped earlier than any report."""
