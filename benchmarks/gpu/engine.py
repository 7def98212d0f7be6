"""A vLLM server as a subprocess of a benchmark on GPUs, and how it is asked. Standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

LAYOUTS: dict[str, list[str]] = {
    "tp": ["--tensor-parallel-size={n}"],
    "tep": ["--tensor-parallel-size={n}", "--enable-expert-parallel"],
    "pp": ["--pipeline-parallel-size={n}"],
    "dep": ["--data-parallel-size={n}", "--enable-expert-parallel"],
}
ENVIRONMENT = {
    # NVLink multicast stays off: a program that fails while it uses it can take the host's GPUs out of service.
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CACHE_ROOT": "/tmp/overspan-vllm-cache",
}
COMMON = ["--disable-custom-all-reduce", "--moe-backend=marlin", "--generation-config=vllm", "--disable-log-stats"]


class EngineFailed(RuntimeError):
    """The server ended, or was not ready in time; holds the last lines of its log."""


def layout_flags(name: str) -> list[str]:
    """`tep2` as vLLM's flags."""
    kind = name.rstrip("0123456789")
    return [flag.format(n=name[len(kind) :]) for flag in LAYOUTS[kind]]


@contextmanager
def quiet(*, alone: bool) -> Iterator[None]:
    """Measuring waits until no other case runs on these GPUs, and cases wait while it measures."""
    with Path(tempfile.gettempdir(), "overspan-gpu.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextmanager
def serving(
    model: Path, flags: Sequence[str], port: int, log: Path, ready_s: float, env: dict[str, str] | None = None
) -> Iterator[str]:
    """A server, ended with all its children at the end. Gives its base URL.

    Raises:
        EngineFailed: it ended, or was not ready in time.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), *COMMON, *flags]
    command += ["--host=127.0.0.1", f"--port={port}"]
    with log.open("wb") as out:
        out.write((" ".join(command) + "\n").encode())
        out.flush()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=ENVIRONMENT | os.environ | (env or {}), process_group=0
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", time.monotonic() + ready_s, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, deadline: float, log: Path) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineFailed(f"ended with {process.returncode}: {tail(log)}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise EngineFailed(f"not ready in time: {tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group: the server, its engine cores and their workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        for _ in range(16):
            if process.poll() is not None and number == signal.SIGKILL:
                break
            time.sleep(0.25)
    process.wait(30)


def tail(log: Path, lines: int = 10) -> str:
    """The lines of a log that name an error, else its last ones; each cut to 300 characters."""
    text = [line[-300:] for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in text if "Error:" in line or "CUDA error" in line or "illegal memory" in line]
    return "\n".join(list(dict.fromkeys(errors))[:lines] or text[-lines:])


def ask(base_url: str, body: dict[str, Any], timeout_s: float = 120.0) -> Any:
    """One completion.

    Raises:
        EngineFailed: it was refused or broke off.
    """
    request = urllib.request.Request(
        f"{base_url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise EngineFailed(f"HTTP {error.code}: {error.read()[:500].decode(errors='replace')}") from None
    except OSError as error:
        raise EngineFailed(f"{type(error).__name__}: {error}") from None


def versions() -> dict[str, Any]:
    """What a measurement must be kept with; nothing heavy is imported for it."""
    ask_driver = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus = subprocess.run(ask_driver, capture_output=True, text=True, check=True).stdout.splitlines()
    packages = ("vllm", "torch", "transformers", "triton", "nvidia-nccl-cu13")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpus": gpus,
        **{name: metadata.version(name) for name in packages},
    }
