"""A fix may be pasted into a shell as it stands: what a host, an image or a log says in it is text, never a command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from overspan.schema.paste import command
from support.doctor import ask
from support.sparks import interface
from support.two_sparks import CABLE, DETAILS, INSIDE, Two, healthy

HOSTILE = [
    "$(: > pwned)",
    "`: > pwned`",
    "'; : > pwned; '",
    '"; : > pwned; "',
    "it's $(: > pwned)",
    "a\n: > pwned\n",
    "a\r: > pwned\r",
    "| : > pwned",
]


def runs(text: str, folder: Path) -> bool:
    """Whether a shell that is given the text, with no program at hand, does what is hidden in it."""
    subprocess.run(["/bin/bash", "-c", text], cwd=folder, env={"PATH": "/nowhere"}, capture_output=True, check=False)
    return (folder / "pwned").exists()


def test_the_shell_of_this_test_would_do_what_a_careless_quote_lets_through(tmp_path: Path) -> None:
    assert runs(f"overspan doctor - <<< {HOSTILE[4]!r}", tmp_path)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_pasted_word_is_one_word(hostile: str, tmp_path: Path) -> None:
    line = command("printf", "%s", hostile)
    assert "\n" not in line and "\r" not in line
    said = subprocess.run(["/bin/bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == "".join(char if char.isprintable() else " " for char in hostile)
    assert not (tmp_path / "pwned").exists()


def written_by(line: str) -> list[tuple[str, dict[str, object]]]:
    """Replies of a host, each with a line that somebody else wrote where the checks read it."""
    renamed = json.dumps([interface(line, ["10.10.10.2/24"], mtu=1500, up=False)])
    line = line.replace("\n", " ").replace("\r", " ")
    return [
        ("import", {"stderr": f"ImportError: {line}\n", "code": 1}),
        ("inside", {"stdout": "", "stderr": f"docker: Error response from daemon: {line}\n", "code": 125}),
        ("inside", {"stdout": INSIDE.replace("plugin  ", f"plugin {line}").replace("/usr/bin/cc", "")}),
        ("docker", {"stdout": "", "stderr": f"{line}\n", "code": 1}),
        ("ip", {"stdout": renamed}),
        ("ip", {"stdout": json.dumps([interface(CABLE, ["10.10.9.2/24"]), interface(line, ["10.10.10.2/24"])])}),
        ("rdma", {"stdout": f"/sys/class/infiniband/{line}/ports/1/state\n"}),
        ("small", {"stdout": "", "stderr": f"unreachable: {line}\n", "code": 2}),
        ("disk", {"stdout": f"Filesystem 1-blocks Used Available Capacity Mounted on\nx 99 98 1 99% /{line}\n"}),
        ("ss", {"stdout": f'LISTEN 0 1 0.0.0.0:8888 0.0.0.0:* users:(("{line}",pid=7,fd=3))\n'}),
        ("requires", {"stdout": f"NVIDIA_REQUIRE_CUDA=cuda>=99.0,{line}\n"}),
        ("details", {"stdout": DETAILS.replace("N/A", line)}),
        ("gids", {"stdout": "", "stderr": line, "code": 2}),
        ("image", {"stdout": "", "stderr": f"Error: No such image: {line}\n", "code": 1}),
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_fix_runs_what_a_host_or_an_image_wrote(hostile: str, two: Two, tmp_path: Path) -> None:
    fixes: dict[str, None] = {}
    for reply, changes in written_by(hostile):
        two.replies = {"spark1": healthy(1), "spark2": healthy(2)}
        for name in two.replies:
            two.change(name, reply, **changes)
        fixes.update((one.fix, None) for one in two.check() if one.fix)
    assert sum("pwned" in fix for fix in fixes) >= 3, "an image's own line, an interface's name and a mount's"
    assert [fix for fix in fixes if runs(fix, tmp_path)] == []


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_fix_of_the_doctor_runs_what_a_log_wrote(hostile: str, tmp_path: Path) -> None:
    for line in (
        f'Conflict. The container name "/{hostile}" is already in use by container "abc"',
        f"Unable to find address for: {hostile}",
        f"error while attempting to bind on address ('{hostile}', 8123): address already in use",
        f"OSError: {hostile} does not appear to have a file named config.json",
    ):
        assert not any("pwned" in (one.fix or "") or runs(one.fix or "", tmp_path) for one in ask(line) if one.evidence)
