"""Ask an endpoint in both of its forms, and keep what it said for the rules that look at all of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from overspan.endpoint.client import STRANGE, Addressed, Client, NoAnswer


@dataclass(frozen=True)
class Reply:
    """One whole answer.

    Attributes:
        text: the content; of a chat, without what a reasoning parser took out of it.
        reasoning: what a reasoning parser took out.
        finish: `finish_reason`: why it ended.
        prompt_tokens: as the server counts them; None where it does not.
        completion_tokens: the same.
        total_tokens: the same.
        tool_calls: name and arguments (text, as sent) of each call.
        counted_tokens: tokens that the server listed with their log probabilities; None where it was not asked.
    """

    text: str
    reasoning: str = ""
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    counted_tokens: int | None = None

    @property
    def whole(self) -> str:
        """Everything that the model said."""
        return self.reasoning + self.text

    @property
    def cut(self) -> bool:
        """Whether it ended because it had all its tokens, which may be inside of a character."""
        return self.finish == "length"


@dataclass
class _Gathered:
    """A streamed answer while it comes."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    def add(self, event: dict[str, Any]) -> None:
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            delta = choice.get("delta", choice)
            self.text.append(_text(delta.get("content")) or _text(delta.get("text")))
            self.reasoning.append(_reasoning(delta))
            for call in delta.get("tool_calls") or []:
                name, arguments = self.calls.setdefault(call.get("index", 0), ["", ""])
                function = call.get("function") or {}
                self.calls[call.get("index", 0)] = [
                    name + _text(function.get("name")),
                    arguments + _text(function.get("arguments")),
                ]
            self.finish = _text(choice.get("finish_reason")) or self.finish

    def reply(self) -> Reply:
        calls = tuple((name, arguments) for _, (name, arguments) in sorted(self.calls.items()))
        return Reply("".join(self.text), "".join(self.reasoning), self.finish, *_counts(self.usage), calls)


class Asker:
    """Asks greedily. `said` holds every answer so far; several threads may ask at once.

    A request of a burst may wait for all the others before its first token, so that it gets longer than a lone one.
    """

    def __init__(self, endpoint: Addressed, api_key: str | None = None, timeout_s: float = 300.0) -> None:
        self.client = Client(endpoint, api_key, timeout_s)
        self.said: list[Reply] = []
        self._model = endpoint.model
        self._base_url = endpoint.base_url
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def chat(self, prompt: str, max_tokens: int, *, stream: bool = False, **more: Any) -> Reply:
        """The answer to one message.

        Raises:
            NoAnswer: the endpoint refused or broke off, or what it sent is no chat answer.
        """
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, **more}
        return self._ask("/chat/completions", body, stream=stream)

    def complete(self, prompt: str, max_tokens: int, *, stream: bool = False, **more: Any) -> Reply:
        """How the model goes on after a text.

        Raises:
            NoAnswer: as of `chat`.
        """
        return self._ask("/completions", {"prompt": prompt, "max_tokens": max_tokens, **more}, stream=stream)

    def _ask(self, path: str, body: dict[str, Any], *, stream: bool) -> Reply:
        body = {"model": self._model, "temperature": 0, **body}
        try:
            if stream:
                body["stream_options"] = {"include_usage": True}
                reply = _gather(self.client.events(path, body))
            else:
                reply = _read(self.client.post(path, body))
        except STRANGE as error:
            what = f"{self._base_url}{path} answered with a document that is no answer"
            raise NoAnswer(what, quote=f"{type(error).__name__}: {error}") from None
        with self._lock:
            self.said.append(reply)
        return reply


def _text(value: Any) -> str:
    """A text, or nothing where there is none.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def _gather(events: Iterable[dict[str, Any]]) -> Reply:
    gathered = _Gathered()
    for event in events:
        gathered.add(event)
    return gathered.reply()


def _read(document: dict[str, Any]) -> Reply:
    choice = document["choices"][0]
    message = choice.get("message") or {}
    called = [call["function"] for call in message.get("tool_calls") or []]
    calls = tuple((_text(each["name"]), _text(each["arguments"])) for each in called)
    listed = (choice.get("logprobs") or {}).get("tokens")
    return Reply(
        _text(message.get("content")) or _text(choice.get("text")),
        _reasoning(message),
        _text(choice.get("finish_reason")) or None,
        *_counts(document.get("usage") or {}),
        calls,
        None if listed is None else len(listed),
    )


def _reasoning(message: dict[str, Any]) -> str:
    """vLLM calls it `reasoning`; older versions and others call it `reasoning_content`."""
    return _text(message.get("reasoning")) or _text(message.get("reasoning_content"))


def _counts(usage: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    def count(name: str) -> int | None:
        return None if usage.get(name) is None else int(usage[name])

    return count("prompt_tokens"), count("completion_tokens"), count("total_tokens")


def is_object(text: str) -> bool:
    """Whether a text is one JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
