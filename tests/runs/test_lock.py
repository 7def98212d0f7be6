from collections.abc import Callable

import pytest

from overspan.schema.errors import RunExists
from overspan.store.locks import NameLock, is_held
from support.runs import FakeRun


def test_a_second_run_of_one_name_is_refused_and_names_the_first() -> None:
    first = NameLock("twin")
    first.take("twin-1")
    with pytest.raises(RunExists, match="twin-1"):
        NameLock("twin").take("twin-2")
    first.close()
    second = NameLock("twin")
    second.take("twin-2")
    second.close()


def test_the_name_is_held_by_the_run_and_free_after_it(launch: Callable[..., FakeRun]) -> None:
    run = launch("holder")
    run.wait_for("verified")
    assert is_held("holder")
    with pytest.raises(RunExists, match=run.folder.id):
        NameLock("holder").take("other")
    run.end()
    run.nothing_left()
    assert not is_held("holder")
