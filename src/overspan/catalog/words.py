"""Words of which prompts are made."""

from __future__ import annotations

from typing import Final

_NOUNS: Final = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education
"""
WORDS: Final = tuple(_NOUNS.split())
"""Common English nouns: with a space before it each is one token in the vocabularies of GPT-2, Llama 3, Qwen and
SmolLM2. Whether that holds on the server at hand is seen from its own count, not assumed."""
