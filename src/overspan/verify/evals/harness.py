"""The one command that points a well-known evaluation harness at an endpoint. Pure."""

from __future__ import annotations

import shlex
from typing import Final

from overspan.endpoint.client import Addressed

HARNESSES: Final = ("lm-eval", "evalscope")
TASK: Final = "gsm8k"
"""Both harnesses know it by this name."""


def command(harness: str, endpoint: Addressed, key_file: str | None = None) -> str:
    """A line for a shell. A key is read from its file when the line runs, and stands in no argument.

    Sources: lm_eval 0.4.13 (_cli/run.py, models/openai_completions.py: key in OPENAI_API_KEY), evalscope 1.14.1
    (arguments.py, models/openai_compatible.py: an empty --api-key makes it read EVALSCOPE_API_KEY).

    Args:
        harness: one of HARNESSES.
        endpoint: what is evaluated, by chat.
        key_file: the run's secrets.json, if it has a key.
    """
    if harness == "lm-eval":
        url = f"{endpoint.base_url}/chat/completions"
        model = f"model={endpoint.model},base_url={url},num_concurrent=16,max_retries=3"
        words = ["lm_eval", "--model", "local-chat-completions", "--model_args", model]
        words += ["--tasks", TASK, "--apply_chat_template", "--output_path", "eval-lm_eval"]
        variable = "OPENAI_API_KEY"
    else:
        words = ["evalscope", "eval", "--model", endpoint.model, "--api-url", endpoint.base_url]
        words += ["--eval-type", "openai_api", "--datasets", TASK, "--eval-batch-size", "16"]
        words += ["--api-key", "" if key_file else "EMPTY", "--work-dir", "eval-evalscope"]
        variable = "EVALSCOPE_API_KEY"
    line = shlex.join(words)
    if key_file is None:
        return line
    read = 'import json,sys; print(json.load(open(sys.argv[1]))["VLLM_API_KEY"])'
    return f'{variable}="$(python3 -c {shlex.quote(read)} {shlex.quote(key_file)})" {line}'
