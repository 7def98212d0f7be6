"""The scripted host."""

from __future__ import annotations

import pytest

from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.transport.fake import Fake, Reply


def test_answers_come_from_the_script_in_order_and_calls_are_kept() -> None:
    fake = Fake(
        "spark1",
        [
            Reply(argv=["docker", "ps", "**"], stdout="first\n"),
            Reply(argv=["docker", "ps", "**"], stdout="later\n", code=1, stderr="oops\n"),
            Reply(argv=["echo", "[x]"], stdout="literal"),
            Reply(argv=["cat", "/proc/*"], stdout="pattern"),
        ],
    )
    assert fake.run(["docker", "ps"]).stdout == "first\n"
    assert [fake.run(["docker", "ps", "-a"]).code for _ in range(2)] == [1, 1]
    assert fake.run(["echo", "[x]"]).stdout == "literal"
    assert fake.run(["cat", "/proc/meminfo"], stdin=b"s", env={"A": "b"}, cwd="/").stdout == "pattern"
    assert (fake.calls[-1].stdin, fake.calls[-1].env, fake.calls[-1].cwd) == (b"s", {"A": "b"}, "/")
    with pytest.raises(OverspanError, match="no answer is scripted on spark1 for: cat /etc/passwd x"):
        fake.run(["cat", "/etc/passwd", "x"])


def test_lines_end_with_the_commands_failure() -> None:
    fake = Fake("spark1", [Reply(argv=["logs"], stdout="a\nb\n", stderr="dead\n", code=2)])
    seen = []
    with pytest.raises(OverspanError, match="ended with 2") as caught:
        for line in fake.lines(["logs"]):
            seen.append(line)
    assert (seen, caught.value.quote) == (["a", "b", "dead"], "dead")


def test_a_missing_program_and_an_unreachable_host() -> None:
    fake = Fake("spark1", [Reply(argv=["a"], missing="not there"), Reply(argv=["**"], unreachable="No route to host")])
    with pytest.raises(OverspanError, match="a is not installed on spark1"):
        fake.run(["a"])
    with pytest.raises(HostUnreachable) as caught:
        fake.run(["b", "c"])
    assert caught.value.quote == "No route to host"
