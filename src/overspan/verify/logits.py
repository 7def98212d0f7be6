"""How far an endpoint agrees with a stored reference, token by token."""

from __future__ import annotations

import json
from typing import Any, Final

from overspan.endpoint.client import NoAnswer, Refused
from overspan.endpoint.replies import STRANGE
from overspan.schema.finding import Finding
from overspan.verify.reference import Continuation
from overspan.verify.subject import Asker, Subject, failed, not_evaluated, passed

LEAST_AGREEMENT: Final = 0.99
"""Of positions where the reference was sure. Source: issue 4, teacher-forced top-1 agreement."""
SURE: Final = 0.5
"""In nats: by so much a token must beat the next best to count. BF16 moves SmolLM2's log probabilities by 0.03 on
average and 0.12 at most (192 tokens, transformers, 2026-11-22)."""
UNKNOWN: Final = (400, 404, 422)
"""HTTP codes of a server that does not know what it was asked for. With any other it tried, and failed."""
_NONE: Final = "the endpoint gives no log probabilities of a prompt"


def logits(ask: Asker, subject: Subject) -> Finding:
    """Given the reference's own tokens, the endpoint finds each the likeliest, as the reference did."""
    reference = subject.reference
    if reference is None:
        return not_evaluated("no reference is stored for this model", "--reference FILE")
    compared = agreed = 0
    apart: list[float] = []
    for each in reference.continuations:
        try:
            found = _forced(ask, subject, each)
        except Refused as error:
            if error.code not in UNKNOWN:
                raise
            return not_evaluated(f"{_NONE}: HTTP {error.code}: {error.quote}{subject.other_model}")
        if found is None:
            return not_evaluated(f"{_NONE} (`prompt_logprobs`)")
        for (rank, logprob), expected, margin in zip(found, each.logprobs, each.margins, strict=True):
            apart.append(abs(logprob - expected))
            if margin >= SURE:
                compared += 1
                agreed += rank == 1
    if not compared:
        return not_evaluated(f"the reference is sure of none of its tokens ({reference.source})")
    seen = (
        f"{agreed} of {compared} sure tokens agree ({agreed / compared:.1%}); log probabilities differ by "
        f"{sum(apart) / len(apart):.3f} on average, {max(apart):.3f} at most ({reference.source}){subject.other_model}"
    )
    if agreed < LEAST_AGREEMENT * compared:
        return failed(
            seen,
            "the endpoint's logits are not the model's: weights, their layout, a scale or a kernel is wrong",
            "compare with tp=1 and enforce_eager=true; overspan prove tells which layout is wrong without a GPU",
        )
    return passed(seen)


def _forced(ask: Asker, subject: Subject, each: Continuation) -> list[tuple[int, float]] | None:
    """Rank and log probability that the endpoint gives each token of the reference; None where it tells none."""
    body: dict[str, Any] = {
        "model": subject.endpoint.model,
        "prompt": [*each.prompt, *each.tokens],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 1,
    }
    reply = ask.post("/completions", body)
    try:
        listed = reply["choices"][0].get("prompt_logprobs")
        if listed is None:
            return None
        places = listed[len(each.prompt) :]
        return [
            (int(place[str(token)]["rank"]), float(place[str(token)]["logprob"]))
            for place, token in zip(places, each.tokens, strict=True)
        ]
    except STRANGE:
        quote = json.dumps(reply)[:300]
        raise NoAnswer("the log probabilities of a prompt are not those of its tokens", quote=quote) from None
