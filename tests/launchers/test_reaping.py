"""Whose zombies are collected: those that a subreaper inherited, and nobody else's."""

import subprocess
import sys

import psutil

from overspan.launchers import proc
from support.waiting import until

ORPHAN = """
import os, sys, time, psutil
from overspan.launchers import proc
proc.become_subreaper()
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(3)
    os._exit(0)
def zombies():
    return [one.pid for one in psutil.Process().children() if one.status() == psutil.STATUS_ZOMBIE]
while len(zombies()) < 2:
    time.sleep(0.01)
proc.reap()
print(len(psutil.Process().children()))
"""


def test_a_program_that_stops_a_run_keeps_the_exit_codes_of_its_own_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as child:
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "its end")
        proc.reap()
        assert child.wait() == 7


def test_a_subreaper_collects_what_was_left_to_it() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n"
