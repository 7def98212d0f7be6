"""What an engine that the user installed takes: its own parser is asked once, and its flags are kept by version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from overspan.catalog import flags
from overspan.provision import environments
from overspan.schema.errors import InputError, OverspanError
from overspan.store.locks import Say, quiet
from overspan.transport.docker import run_once
from overspan.transport.local import Local

# Importing vLLM took 14 s on a CPU here; a slow disk takes minutes the first time.
_LIMIT_S: Final = 600.0
_QUIET: Final = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
_NEXT: Final = "name an environment that holds vLLM, or a container image with --image"


def of_environment(folder: Path, *, say: Say = quiet) -> str:
    """Ask the vLLM in a Python environment for its flags, and keep them. Returns its version.

    Raises:
        InputError: there is no Python in that folder.
        OverspanError: its vLLM does not tell; quotes the last line.
    """
    python = environments.python_in(folder)
    if python is None:
        raise InputError(f"{folder} is not a Python environment: {folder / 'bin' / 'python'} is not there", next=_NEXT)
    return _ask([str(python), "-"], str(folder), say)


def once(folder: Path, version: str, *, say: Say = quiet) -> None:
    """The same, where the flags of that version are not known yet. What cannot be read is told, and refuses nothing."""
    if flags.VLLM.exact(version) is not None or environments.python_in(folder) is None:
        return
    try:
        of_environment(folder, say=say)
    except OverspanError as error:
        why = f"{error.what}{f': {error.quote}' if error.quote else ''}"
        say(f"{why}; arguments are checked against vLLM {flags.LATEST}")


def of_image(image: str, *, say: Say = quiet) -> str:
    """Ask the vLLM in a container image on this machine for its flags, and keep them. Returns its version.

    Raises:
        OverspanError: docker or the vLLM in it does not tell; quotes the last line.
    """
    named = [f"--env={name}={value}" for name, value in _QUIET.items()]
    return _ask(run_once(image, "python3", "-", options=["--interactive", *named]), image, say)


def _ask(argv: list[str], where: str, say: Say) -> str:
    say(f"reading the flags of vLLM in {where}, once for its version (about 12 s)")
    script = (Path(__file__).parent / "engine_side" / "dump_flags.py").read_bytes()
    done = Local().run(argv, stdin=script, env=_QUIET, timeout_s=_LIMIT_S)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    try:
        if done.code:
            raise ValueError
        found: dict[str, Any] = json.loads(done.stdout)
        version = flags.VLLM.keep(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        quote = said[-1] if said else done.stdout[-200:] or None
        raise OverspanError(f"vLLM in {where} did not print its flags", quote=quote, next=_NEXT) from None
    say(f"vLLM {version}: {len(found['flags'])} flags")
    return version
