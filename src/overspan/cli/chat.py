"""`overspan chat`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click

from overspan.cli.options import COUNT, RUN, Finite
from overspan.cli.output import say
from overspan.runs.chat import Conversation
from overspan.store.run_folder import open_run


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--prompt", "-p", multiple=True, help="Send this and end. Give it several times for a conversation.")
@click.option("--max-tokens", type=COUNT, default=512, help="Longest answer.")
@click.option("--temperature", type=Finite(0, 2), default=0.0, help="0: always the likeliest token.")
def chat(run: str | None, prompt: tuple[str, ...], max_tokens: int, temperature: float) -> None:
    """Chat with RUN (default: the active run). The answer is shown as it arrives. An empty line or Ctrl-D ends."""
    conversation = Conversation(open_run(run), max_tokens, temperature)
    for question in prompt or _asked():
        for piece in conversation.ask(question):
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()


def _asked() -> Iterator[str]:
    """What a person types, line by line; what is piped in is one question."""
    if not sys.stdin.isatty():
        text = sys.stdin.read().strip()
        if text:
            yield text
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editing
    say("an empty line ends")
    with contextlib.suppress(EOFError):
        while question := input("> ").strip():
            yield question
