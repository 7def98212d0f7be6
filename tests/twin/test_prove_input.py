"""What `prove` refuses before it starts anything."""

import pytest

from overspan.catalog import recipes
from overspan.runs import prove
from overspan.schema.errors import InputError

RECIPE = recipes.find("minimax-m2.5-nvfp4")


def free(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    class Memory:
        available = gib * 2**30

    monkeypatch.setattr("psutil.virtual_memory", Memory)


def test_layouts_that_do_not_fit_this_machine_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 2.0)
    with pytest.raises(InputError, match=r"proving pp2dp2 takes about 3.1 GiB, and 2.0 GiB are free") as refused:
        next(prove.prove(RECIPE, prove.layouts_of("all", RECIPE), print))
    assert refused.value.next == "--layouts tp1,tp2,tep2,pp2,dp2,dep2"
    assert refused.value.exit_code == 2


def test_where_none_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0.5)
    with pytest.raises(InputError, match="not enough memory") as refused:
        next(prove.prove(RECIPE, prove.layouts_of(None, RECIPE), print))
    assert "end something that takes memory" in (refused.value.next or "")
