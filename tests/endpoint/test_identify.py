"""Which endpoint answers, and with which model."""

from __future__ import annotations

import pytest

from overspan.endpoint import identify
from overspan.endpoint.target import make_target
from overspan.schema.errors import InputError


def test_names_that_an_endpoint_tells_are_quoted_where_they_may_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "_served", lambda *_, **__: ["acme/small", "x$(touch pwned)"])
    with pytest.raises(InputError) as refused:
        identify.identify(make_target("http://127.0.0.1:9/v1"))
    assert refused.value.next == "--model with one of acme/small, 'x$(touch pwned)'"
