"""`overspan engine`: the engine environments of this user."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import click

from overspan.cli.options import AS_JSON, PATH
from overspan.cli.output import Ticker, say
from overspan.schema.errors import InputError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def engine() -> None:
    """Install, list and remove engines. Each has an environment of its own."""


@engine.command()
@click.argument("name")
@click.option("--python", metavar="PATH", help="Python for the engine's environment.")
@AS_JSON
def install(name: str, python: str | None, as_json: bool) -> None:
    """Install an engine. An engine that is installed already stays as it is."""
    from overspan.provision import engines, locked

    ticker = Ticker()

    def line(text: str) -> None:
        ticker.clear()
        say(text)

    env = engines.install(locked.load(name), python=python, say=line, detail=ticker.show)
    if as_json:
        click.echo(env.model_dump_json(indent=2))


@engine.command()
@click.argument("folder", required=False, type=PATH)
@click.option("--image", metavar="NAME", help="Ask the engine in this container image, in place of a folder.")
@AS_JSON
def learn(folder: Path | None, image: str | None, as_json: bool) -> None:
    """Ask the vLLM in an environment's FOLDER for its flags. Recipes are then checked against these."""
    from overspan.provision import learned

    if (folder is None) == (image is None):
        raise InputError("one engine is needed: FOLDER or --image NAME", next="overspan engine learn --help")
    version = learned.of_environment(folder, say=say) if folder else learned.of_image(str(image), say=say)
    if as_json:
        click.echo(json.dumps({"engine": "vllm", "version": version}))


@engine.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List the installed engines, those that can be installed, and those that cannot be on this machine."""
    from overspan.provision import engines, locked, space

    found = engines.installed()
    missing = [name for name in locked.known() if not any(env.name == name and env.current for env in found)]
    refused = {name: why for name in missing if (why := locked.load(name).refusal) is not None}
    if as_json:
        document = {
            "installed": [env.model_dump(mode="json") for env in found],
            "can_install": [name for name in missing if name not in refused],
            "cannot_install": refused,
        }
        click.echo(json.dumps(document, indent=2))
        return
    width = max(map(len, [*(env.name for env in found), *missing]), default=0)
    for env in found:
        other = platform.machine() != env.machine
        note = "" if env.current else f"  (for {env.machine})" if other else "  (made by another version of Overspan)"
        where = f"{env.version}  Python {env.python_version}  {space.size(env.size_bytes)}  {env.path}"
        click.echo(f"{env.name:<{width}}  {where}{note}")
    for name in missing:
        why = f"not for this machine: {refused[name]}" if name in refused else None
        click.echo(f"{name:<{width}}  {why or f'not installed: overspan engine install {name}'}")


@engine.command()
@click.argument("name")
@AS_JSON
def remove(name: str, as_json: bool) -> None:
    """Delete an engine's environment."""
    from overspan.provision import engines

    gone = engines.remove(name, say=say)
    for env in gone:
        say(f"removed {env.path}")
    if as_json:
        click.echo(json.dumps({"removed": [str(env.path) for env in gone]}))
