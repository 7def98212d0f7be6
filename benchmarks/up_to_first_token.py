"""`overspan up` to its first token beside bare `vllm serve` with the same arguments to its first token, in one run.

    python benchmarks/up_to_first_token.py [--rounds 3]

Both start from a warm page cache (one start of each kind is thrown away) and take turns. The engine must be installed.
Target of issue 2: at most 1.15x.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from first_token import first_token, overspan, ready_at, tell

from overspan.store.run_folder import open_run

NAME = "bench-up"


def by_overspan() -> float:
    """Seconds from calling `overspan up` to the event of the first token."""
    started = time.time()
    overspan("up", "smollm2-135m", "--name", NAME, "--set", "port=0", "--json")
    seconds = ready_at(open_run(NAME)) - started
    overspan("stop", NAME)
    return seconds


def by_hand(spec: dict[str, Any]) -> float:
    """Seconds from starting the same argv and environment to the first token."""
    argv, environment = spec["argv"], {**os.environ, **spec["env"]}
    base, model = f"http://127.0.0.1:{spec['ports']['api']}/v1", argv[argv.index("--served-model-name") + 1]
    started = time.time()
    with Path(os.devnull).open("w") as sink:
        engine = subprocess.Popen(argv, env=environment, stdout=sink, stderr=sink, start_new_session=True)
    try:
        while not first_token(base, model):
            if engine.poll() is not None:
                raise SystemExit("bare vllm ended before its first token")
            time.sleep(0.05)
        return time.time() - started
    finally:
        engine.send_signal(signal.SIGTERM)
        engine.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    by_overspan()
    spec = json.loads((open_run(NAME).path / "processes.json").read_text())[0]
    by_hand(spec)
    ours, bare = [], []
    for number in range(rounds):
        ours.append(by_overspan())
        bare.append(by_hand(spec))
        print(f"round {number + 1}: overspan up {ours[-1]:.1f} s, bare vllm serve {bare[-1]:.1f} s", flush=True)
    tell(ours, bare)


if __name__ == "__main__":
    main()
