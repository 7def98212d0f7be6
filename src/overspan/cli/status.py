"""`overspan status`."""

from __future__ import annotations

import shutil
import sys

import click

from overspan.cli.door import draw
from overspan.cli.options import AS_JSON, RUN, Finite
from overspan.cli.output import document, shortened, table
from overspan.runs.live import Live, RankRow, Sight
from overspan.runs.status import RunStatus
from overspan.runs.status import status as status_of
from overspan.schema.errors import HostUnreachable, InputError, NotReady
from overspan.schema.printable import printable
from overspan.schema.units import duration, gib
from overspan.store.run_folder import RunFolder, open_run

_INTERVAL_S = 2.0


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--watch", is_flag=True, help="Show ranks, GPUs and traffic live, until the run ends or Ctrl-C.")
@click.option("--interval", "interval_s", type=Finite(min=0.1), help="Seconds between two views. Default: 2.")
@AS_JSON
def status(run: str | None, watch: bool, interval_s: float | None, as_json: bool) -> int:
    """Show the state of RUN (default: the active run). Exit code: 0 ready, 3 not ready, 4 a host does not answer."""
    if as_json and watch:
        raise InputError("--json and --watch exclude each other", next="leave one of them out; --json can be repeated")
    if interval_s is not None and not watch:
        raise InputError("--interval is for --watch", next="give both")
    if watch:
        return _watch(open_run(run), interval_s or _INTERVAL_S)
    now = status_of(open_run(run))
    if as_json:
        document(now)
        return _code(now)
    lines = _heading(now)
    rows = [
        [each.process, each.host, each.health, str(each.pid or "-"), gib(each.memory_bytes), duration(each.uptime_s)]
        for each in now.processes
    ]
    if rows:
        lines.append(table(["process", "host", "state", "pid", "memory", "up"], rows, names=(0, 1)))
    lines += _gpu_memory(now)
    click.echo("\n".join([*lines, *_unreachable(now)]))
    return _code(now)


def _code(now: RunStatus) -> int:
    return HostUnreachable.exit_code if now.unreachable else 0 if now.ready else NotReady.exit_code


def _heading(now: RunStatus) -> list[str]:
    lines = [f"{now.run}: {now.state} for {duration(now.since_s)}: {now.message}"]
    if now.progress:
        lines.append(f"{now.progress}, for {duration(now.progress_since_s or 0.0)}")
    if now.endpoint:
        lines.append(f"endpoint {now.endpoint}, model {now.model}")
    if now.key_file:
        lines.append(f"it asks for a key, which is in {now.key_file}")
    return lines


def _gpu_memory(now: RunStatus) -> list[str]:
    told = [
        f"GPU {each.index} of {each.host}: {gib(each.used_bytes)} of {gib(each.total_bytes)} used"
        if each.used_bytes is not None
        else f"GPU {each.index} of {each.host}: nvidia-smi does not tell its memory"
        for each in now.gpus
    ]
    return told + [f"GPUs of {host}: their memory is unknown: {why}" for host, why in now.gpus_unknown.items()]


def _unreachable(now: RunStatus) -> list[str]:
    return [f"{host} does not answer: {why}" for host, why in now.unreachable.items()]


def _watch(run: RunFolder, interval_s: float) -> int:
    """Show view after view; in a terminal each takes the place of the one before."""
    terminal = sys.stdout.isatty()
    code = 0
    try:
        with Live(run) as live:
            for sight in live.sights(interval_s):
                code = _code(sight.status)
                text = printable(block(sight))
                if terminal:
                    draw(sys.stdout, _screen(text))
                else:
                    click.echo(f"{text}\n")
    except KeyboardInterrupt:
        return 0
    return code


def _screen(text: str) -> str:
    """Drawn over what was there, from the top and without a blank moment in between; no more than fits."""
    columns, rows = shutil.get_terminal_size()
    lines = [shortened(line, columns - 1) for line in text.splitlines()[: rows - 1]]
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"


def block(sight: Sight) -> str:
    """One view, as text."""
    lines = [*_heading(sight.status), _traffic(sight)]
    if sight.dashboard:
        lines.append(f"Ray dashboard {sight.dashboard} (Ray opens it only to its own host: from here, use ssh -L)")
    if sight.rows:
        lines.append(_rows(sight.rows))
    lines += _unreachable(sight.status)
    return "\n".join([line for line in lines if line] + [f"{of}: {why}" for of, why in sight.problems.items()])


def _traffic(sight: Sight) -> str:
    now = sight.traffic
    if now is None:
        return ""
    use = "-" if now.kv_cache_usage is None else f"{now.kv_cache_usage:.1%}"
    requests = "request" if now.running == 1 else "requests"
    return (
        f"{_number(now.tokens_per_s, '.1f')} tokens/s, {_number(now.running, 'g')} {requests} running, "
        f"{_number(now.waiting, 'g')} waiting, KV cache {use} used"
    )


def _rows(rows: list[RankRow]) -> str:
    header = ["process", "rank", "host", "state", "memory", "up"]
    cells = [
        [row.process, row.ranks or "-", row.host, row.health, gib(row.memory_bytes), duration(row.uptime_s)]
        for row in rows
    ]
    if any(row.gpu is not None for row in rows):
        header += ["GPU", "load", "power", "GPU memory"]
        cells = [[*cell, *_gpu(row)] for cell, row in zip(cells, rows, strict=True)]
    return table(header, cells, names=(0, 2))


def _gpu(row: RankRow) -> list[str]:
    index = "-" if row.gpu is None else str(row.gpu)
    if row.load is None:
        return [index, "-", "-", "-"]
    load, power = row.load.utilization, row.load.power_w
    return [
        index,
        "-" if load is None else f"{load:.0%}",
        "-" if power is None else f"{power:.0f} W",
        gib(row.load.memory_used_bytes),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
