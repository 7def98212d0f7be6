"""What is handed to ssh, without any connection."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from overspan.schema.errors import InputError
from overspan.schema.inventory import Ssh
from overspan.transport.ssh import Remote, explain, options, remote_text

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine under load is no fault of the code
@given(WORDS.filter(lambda word: word and "=" not in word), st.lists(WORDS))
def test_each_argument_is_one_word_of_the_text(program: str, arguments: list[str]) -> None:
    assert shlex.split(remote_text([program, *arguments], None, None)) == ["exec", "env", "--", program, *arguments]


def test_the_whole_command() -> None:
    remote = Remote("spark1", Ssh(address="10.0.0.1", user="ann", port=2222, known_hosts="/k n/%h"))
    command = remote.command(["echo", "a b"], env={"A": "1 2"}, cwd="/x y", timeout_s=3)
    assert command[command.index("--") :] == [
        "--", "10.0.0.1", "exec timeout -k 2 3 env -C '/x y' -- 'A=1 2' echo 'a b'",
    ]  # fmt: skip
    assert 'UserKnownHostsFile="/k n/%%h"' in command
    assert "StrictHostKeyChecking=yes" in command
    assert "StrictHostKeyChecking=no" not in " ".join(command)
    assert command[command.index("-l") + 1] == "ann"
    assert command[command.index("-p") + 1] == "2222"
    remote.close()


@pytest.mark.parametrize(
    "address",
    ["-oProxyCommand=touch /tmp/x", "a'; touch /tmp/x #", "", "a b", "a;b", "$(x)", "a\n", "@", "-", "ann@a", "a/b"],
)
def test_an_address_that_is_not_one_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        Ssh(address=address)
    with pytest.raises(ValidationError):
        Ssh(address="a", user=address if address != "a b" else "-x")


@pytest.mark.parametrize("address", ["spark1", "spark-1.lan", "10.0.0.1", "fe80::1%enp1s0f1np1", "::1", "host_1"])
def test_addresses_that_are_ones(address: str) -> None:
    assert Ssh(address=address).address == address


def test_what_no_command_line_can_carry_is_refused() -> None:
    for argv in ([], ["A=B"], ["echo", "a\0b"]):
        with pytest.raises(InputError):
            remote_text(argv, None, None)
    with pytest.raises(InputError, match="cannot be given this file name"):
        options(Ssh(address="a", known_hosts='a" b'))


def test_lines_of_ssh_that_are_not_about_keys_are_quoted() -> None:
    said = "ssh: connect to host spark2 port 22: No route to host\r\n"
    error = explain("spark2", Ssh(address="spark2"), said)
    assert error.quote == "ssh: connect to host spark2 port 22: No route to host"
    assert error.next == "ssh -- spark2 true"
