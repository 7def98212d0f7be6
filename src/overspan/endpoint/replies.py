"""What a model said, read out of the documents of an OpenAI endpoint: whole, streamed, or an error."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

STRANGE: Final = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError)
"""What reading a document raises that is none of those that were asked for."""

_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True)
class ModelReply:
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


def reply_of(document: dict[str, Any]) -> ModelReply:
    """The reply in a whole answer of chat or completions.

    Raises:
        one of STRANGE: the document is none.
    """
    choice = document["choices"][0]
    message = choice["message"] if "text" not in choice else choice.get("message") or {}
    called = [call["function"] for call in message.get("tool_calls") or []]
    listed = (choice.get("logprobs") or {}).get("tokens")
    reply = ModelReply(
        text=_text(message.get("content")) or _text(choice.get("text")),
        reasoning=_reasoning(message),
        finish=_text(choice.get("finish_reason")) or None,
        tool_calls=tuple((_text(each["name"]), _text(each["arguments"])) for each in called),
        counted_tokens=None if listed is None else len(listed),
    )
    return _counted(reply, document.get("usage"))


class StreamedReply:
    """A streamed answer while it comes."""

    def __init__(self) -> None:
        self._text, self._reasoning = "", ""
        self._calls: dict[int, list[str]] = {}
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Take one event.

        Raises:
            one of STRANGE: it is none of chat or completions.
        """
        self._usage = event.get("usage") or self._usage
        for choice in event["choices"]:
            delta = choice.get("delta", choice)
            self._text += _text(delta.get("content")) or _text(delta.get("text"))
            self._reasoning += _reasoning(delta)
            for call in delta.get("tool_calls") or []:
                function = call.get("function") or {}
                said = self._calls.setdefault(call.get("index", 0), ["", ""])
                said[0] += _text(function.get("name"))
                said[1] += _text(function.get("arguments"))
            self._finish = _text(choice.get("finish_reason")) or self._finish

    def reply(self) -> ModelReply:
        """The whole of it."""
        calls = tuple((name, arguments) for _, (name, arguments) in sorted(self._calls.items()))
        return _counted(ModelReply(self._text, self._reasoning, self._finish, tool_calls=calls), self._usage)


def text_of(delta: dict[str, Any]) -> str:
    """What one event of a chat adds to what a person reads: content, else reasoning.

    Raises:
        one of STRANGE: it is no delta of a chat.
    """
    return _text(delta.get("content")) or _reasoning(delta)


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


def _reasoning(message: dict[str, Any]) -> str:
    """vLLM calls it `reasoning`; older versions and others call it `reasoning_content`."""
    return _text(message.get("reasoning")) or _text(message.get("reasoning_content"))


def _counted(reply: ModelReply, usage: dict[str, Any] | None) -> ModelReply:
    told = ((name, (usage or {}).get(name)) for name in _COUNTS)
    counts: dict[str, Any] = {name: int(count) for name, count in told if count is not None}
    return replace(reply, **counts)


def is_of_others(name: bytes, document: dict[str, Any]) -> bool:
    """Whether an event of a stream is no part of the answer: a named one, or a ping, without choices, usage or error.

    Args:
        name: of the event; empty for an ordinary one. Source: html.spec.whatwg.org, server-sent events.
    """
    if not {"choices", "usage", "error"}.isdisjoint(document) or document.get("object") == "error":
        return False
    return name not in (b"", b"message") or document.get("type") in ("ping", "keepalive", "heartbeat")


def error_text(document: Any, limit: int = 300) -> str:
    """The message of an OpenAI error, of FastAPI's `detail`, or the document itself, in `limit` characters at most."""
    found = document
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    text = found if isinstance(found, str) else json.dumps(found)
    return " ".join(text.split())[:limit]
