"""The entry point: finds the command, and turns an error into a message and an exit code."""

from __future__ import annotations

import builtins
import gc
import importlib
import json
import sys
from types import ModuleType

import click

from overspan import __version__
from overspan.schema.errors import OverspanError, UnknownName

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module that holds a click command of that name, with `_` for `-`; the line in `overspan --help`).
    # Named here and imported when called, so that `overspan --help` costs no more than click.
    "detect": ("overspan.cli.detect", "what this machine or others are and how they are joined, as an inventory"),
    "up": ("overspan.cli.up", "start a recipe or model; wait for a real token and a known answer"),
    "join": (
        "overspan.cli.join",
        "start this host's ranks of a run whose head waits for them",
    ),
    "plan": ("overspan.cli.plan", "what would run, where, and the exact commands; starts nothing"),
    "predict": ("overspan.cli.predict", "what layouts would give on machines at hand or not, and why; starts nothing"),
    "calibrate": ("overspan.cli.calibrate", "five numbers of this machine, or what its runs teach, for the planner"),
    "simulate": ("overspan.cli.simulate", "a fleet on paper: every request through thousands of GPUs; SLO and cost"),
    "prove": ("overspan.cli.prove", "a twin of the model in each layout, token for token, before machines are booked"),
    "twin": ("overspan.cli.twin", "a model small enough for a laptop that is split like a real one"),
    "status": ("overspan.cli.status", "how a run is; exit code 0 ready, 3 not ready, 4 a host does not answer"),
    "logs": ("overspan.cli.logs", "the logs of a run, of one process with -p, as they come with -f"),
    "verify": ("overspan.cli.verify", "ask a run, or any OpenAI endpoint, whether its answers are right"),
    "chat": ("overspan.cli.chat", "talk with a run; the answer is shown as it arrives"),
    "report": ("overspan.cli.report", "one HTML file of a run, or of several laid over each other"),
    "bench": ("overspan.cli.bench", "measure a run, or any OpenAI endpoint, under load"),
    "sweep": ("overspan.cli.sweep", "measure a matrix of topologies and concurrencies; resumes where it was"),
    "compare": (
        "overspan.cli.compare",
        "how two runs or sweeps differ, with intervals, and what of it is noise",
    ),
    "export": ("overspan.cli.export", "the results of a sweep as CSV or Parquet"),
    "ledger": ("overspan.cli.ledger", "a changelog of sweeps that gates: added entries decide what runs"),
    "doctor": ("overspan.cli.doctor", "the cause and the fix of a failure, from a run or from any log"),
    "stop": ("overspan.cli.stop", "stop a run: streams in flight end, then every process does"),
    "list": ("overspan.cli.list", "the runs of this machine"),
    "recipe": ("overspan.cli.recipe", "list and show recipes, and import those of sparkrun"),
    "engine": ("overspan.cli.engine", "install, list and remove engines, each in an environment of its own"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order that a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = _load(COMMANDS[cmd_name][0])
        name = cmd_name.replace("-", "_")
        command = getattr(module, f"{name}_" if hasattr(builtins, name) else name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; an unknown one tells the nearest."""
        if args and args[0] not in COMMANDS:
            raise UnknownName("command", args[0], COMMANDS, next="overspan --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _load(module: str) -> ModuleType:
    """Import a command's module, without what would take a sixth of the time of `overspan plan`."""
    # Pydantic asks each installed package for plugins, and imports the standard library's e-mail and sockets for it.
    # This process is ours and wants none; another version of pydantic may do without this module.
    no_plugins = ModuleType("pydantic.plugin._loader")
    vars(no_plugins)["get_plugins"] = tuple
    sys.modules.setdefault(no_plugins.__name__, no_plugins)
    gc.disable()  # what modules make as they load stays: there is no garbage among it
    loaded = importlib.import_module(module)
    gc.freeze()
    gc.enable()
    return loaded


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="overspan")
def cli() -> None:
    """One model and any set of machines, to a running, proven and measured endpoint."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error ends with one message on stderr and its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = cli.main(args=arguments, prog_name="overspan", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    except OverspanError as error:
        _show(error, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: OverspanError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(error.as_dict()))
    click.echo(f"error: {error.what}", err=True)
    if error.quote:
        click.echo(f"  | {error.quote}", err=True)
    if error.next:
        click.echo(f"next: {error.next}", err=True)
