"""Rules on what the engine reads out of a model's text: tool calls and reasoning."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from overspan.endpoint.replies import ModelReply
from overspan.schema.finding import Finding
from overspan.verify.subject import Asker, Parsing, Subject, failed, not_evaluated, passed, shown

TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_NAME: Final = TOOL["function"]["name"]
_ASKED: Final = "What is the weather in Paris right now? Use the tool."
_MARKUP: Final = re.compile(
    r"<\W{0,2}\w*(tool|invoke|function)\w*|\[TOOL_CALLS\]|\{\s*\"name\"\s*:\s*\"get_weather", re.I
)
_THOUGHT: Final = re.compile(r"</?\W?(think|thinking|reasoning)\W?>|<\|channel\|>", re.I)
_TOKENS: Final = 512
"""Models that think aloud do so before they call."""


def tool_calls(ask: Asker, subject: Subject) -> Finding:
    """A tool that is asked for is called with JSON arguments; nothing of the call is left in the text."""
    skipped = _skipped("tool-calls", subject.tools, "tool calls (enable_auto_tool_choice, tool_call_parser)")
    if skipped:
        return skipped
    forced = {"type": "function", "function": {"name": _NAME}}
    called = False
    for choice, stream in ((forced, False), ("auto", False), ("auto", True)):
        reply = ask.chat(_ASKED, _TOKENS, stream=stream, tools=[TOOL], tool_choice=choice)
        how = f"tool_choice {'auto' if choice == 'auto' else 'named'}{', streamed' if stream else ''}"
        problem = _wrong_call(reply, forced=choice != "auto")
        if problem:
            calls = ", ".join(f"{name}({shown(arguments)})" for name, arguments in reply.tool_calls)
            return failed(
                f"{how}: {shown(reply.text)} {calls}".rstrip(),
                problem,
                "the parser must be the one for this model's markup: --set tool_call_parser=NAME",
            )
        called = called or (choice == "auto" and bool(reply.tool_calls))
    if not called:
        return not_evaluated("the named tool is called; left to itself the model called none")
    return passed(f"{_NAME} is called by name and by the model's own choice, with JSON arguments")


def _wrong_call(reply: ModelReply, *, forced: bool) -> str | None:
    if _MARKUP.search(reply.text):
        return "the markup of a tool call stands in the text: it was not parsed"
    if forced and not reply.tool_calls:
        return "the tool that the request names is not called"
    for name, arguments in reply.tool_calls:
        if name != _NAME:
            return f"a tool is called that was not offered: {name!r}"
        if not _is_object(arguments):
            return "the arguments of a tool call are no JSON object"
    return None


def reasoning(ask: Asker, subject: Subject) -> Finding:
    """What the model thinks stands in a field of its own, whole and streamed."""
    skipped = _skipped("reasoning", subject.reasoning, "reasoning (reasoning_parser)")
    if skipped:
        return skipped
    fix = "the parser must be the one for this model's markup: --set reasoning_parser=NAME"
    for stream in (False, True):
        reply = ask.chat("What is 17 times 3?", _TOKENS, stream=stream)
        seen = (
            f"{'streamed' if stream else 'whole'}: reasoning {shown(reply.reasoning, 60)}, text {shown(reply.text, 60)}"
        )
        if _THOUGHT.search(reply.text):
            return failed(seen, "marks of reasoning stand in the answer: it was not parsed", fix)
        if not reply.reasoning:
            return failed(seen, "a reasoning parser is on and no answer has reasoning", fix)
        if not reply.text and not reply.cut:
            return failed(seen, "the whole answer is taken for reasoning", fix)
    return passed("reasoning and answer are separate, whole and streamed")


def _skipped(name: str, asked: Parsing, what: str) -> Finding | None:
    if asked == "asked":
        return None
    if asked == "not_asked":
        return not_evaluated(f"the recipe does not switch on {what}")
    return not_evaluated(f"nobody said whether this endpoint has {what}", f"--expect {name}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
