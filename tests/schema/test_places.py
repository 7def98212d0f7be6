from pathlib import Path

import pytest

from overspan.schema import places


def test_a_variable_moves_a_whole_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "s"))
    assert places.cache_dir() == tmp_path / "c"
    assert places.runs_dir() == tmp_path / "s" / "runs"


def test_without_the_variables_the_users_own_folders_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OVERSPAN_CACHE", "OVERSPAN_STATE", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.cache_dir() == tmp_path / ".cache" / "overspan"
    assert places.state_dir() == tmp_path / ".local" / "state" / "overspan"


def test_a_relative_folder_is_pinned_to_where_it_was_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVERSPAN_CACHE", "here")
    assert places.cache_dir() == tmp_path / "here"
