"""Is the text right? A model whose weights were split or converted wrongly still talks; a known answer tells."""

from __future__ import annotations

from typing import Final

from overspan.endpoint.client import Client, NoAnswer
from overspan.schema.finding import Evidence, Finding
from overspan.schema.recipe import KnownAnswer
from overspan.verify.subject import DRAWN

RULE = "verify.known-answer"


_OF_DRAWN: Final = Finding(rule=RULE, status="not_evaluated", severity="info", cause=DRAWN)
"""What is found in place of answers where the weights were drawn: none is known."""


def ask(client: Client, questions: list[KnownAnswer], *, drawn: bool = False) -> list[Finding]:
    """Ask each question; one finding each, or one `not_evaluated` where the recipe knows no answer. Of drawn weights
    nothing is asked."""
    if drawn:
        return [_OF_DRAWN]
    if not questions:
        cause = "the recipe has no known answer; the endpoint gives tokens, whether they are right nobody asked"
        try:
            body = {"model": client.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
            client.post("/chat/completions", body)
        except NoAnswer as error:
            cause = f"the endpoint completes texts and refuses a chat: {error.in_one_line}"
        return [
            Finding(
                rule=RULE,
                status="not_evaluated",
                severity="warning",
                cause=cause,
                fix="add known_answers to the recipe: a prompt and what must stand in the reply",
            )
        ]
    return [_ask(client, question) for question in questions]


def _ask(client: Client, question: KnownAnswer) -> Finding:
    try:
        reply = client.chat(question.prompt, question.max_tokens).text
    except NoAnswer as error:
        return Finding(rule=RULE, status="failed", cause=error.what, evidence=Evidence(text=error.quote or error.what))
    whole = reply.encode("utf-8", "backslashreplace").decode("utf-8")
    evidence = Evidence(text=f"{question.prompt} -> {whole}")
    if question.expect.casefold() in reply.casefold():
        return Finding(rule=RULE, status="passed", evidence=evidence)
    return Finding(
        rule=RULE,
        status="failed",
        evidence=evidence,
        cause=f"the reply does not hold '{question.expect}': the weights, their layout or a kernel is wrong",
        fix="start with enforce_eager=true and tp=1: if that is right, the layout or a compiled kernel is at fault",
    )
