"""`overspan chat`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click

from overspan.cli.options import COUNT, RUN, Finite
from overspan.cli.output import say
from overspan.endpoint.identify import at_url
from overspan.runs.chat import Conversation, of_run
from overspan.schema.errors import InputError
from overspan.store.run_folder import open_run


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--base-url", help="Chat with this OpenAI endpoint, such as http://127.0.0.1:8000/v1.")
@click.option("--model", help="With --base-url: name of the model. Default: the only one that is served.")
@click.option("--prompt", "-p", multiple=True, help="Send this and end. Give it several times for a conversation.")
@click.option("--max-tokens", type=COUNT, default=512, help="Longest answer.")
@click.option("--temperature", type=Finite(0, 2), default=0.0, help="0: always the likeliest token.")
def chat(  # noqa: PLR0917 - click gives them by name
    run: str | None,
    base_url: str | None,
    model: str | None,
    prompt: tuple[str, ...],
    max_tokens: int,
    temperature: float,
) -> None:
    """Chat with RUN (default: the active run). The answer is shown as it arrives. An empty line or Ctrl-D ends.

    OVERSPAN_API_KEY holds the key of the endpoint at --base-url.
    """
    if base_url and run:
        raise InputError("RUN and --base-url exclude each other", next="give one of them")
    if model and not base_url:
        raise InputError("--model is for --base-url", next="give --base-url, or leave --model out")
    endpoint, key = at_url(base_url, model) if base_url else of_run(open_run(run))
    conversation = Conversation(endpoint, key, max_tokens, temperature)
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
