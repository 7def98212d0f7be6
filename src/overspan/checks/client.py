"""A small client of an OpenAI endpoint: one real token, one answer, one stream. The load generator is not this."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from overspan.schema.errors import OverspanError
from overspan.schema.plan import Endpoint

_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
"""The first token of a cold engine may compile for long; a connection on a fabric never takes 5 s."""


class NoAnswer(OverspanError):
    """The endpoint did not answer as an OpenAI endpoint does; `what` tells how."""


class Client:
    """Talks to one endpoint. An API key travels in a header and never reaches an error or a log."""

    def __init__(self, endpoint: Endpoint, api_key: str | None = None) -> None:
        self._model = endpoint.model
        self._base_url = endpoint.base_url
        self._api_key = api_key
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env=False: a proxy of the environment is not between us and our own endpoint.
        self._http = httpx.Client(base_url=endpoint.base_url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def one_token(self) -> str:
        """One real token of the model: what readiness means.

        Raises:
            NoAnswer: not yet, or never.
        """
        body = {"model": self._model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        reply = self._post("/completions", body)
        if not reply.get("choices") or not reply.get("usage", {}).get("completion_tokens"):
            raise NoAnswer(f"{self._base_url} answered without a token", quote=json.dumps(reply)[:300])
        return str(reply["choices"][0].get("text", ""))

    def answer(self, prompt: str, max_tokens: int) -> str:
        """The reply to one question, greedily.

        Raises:
            NoAnswer: the endpoint refused or broke off.
        """
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        reply = self._post("/chat/completions", body)
        try:
            return str(reply["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise NoAnswer(f"{self._base_url} answered without a message", quote=json.dumps(reply)[:300]) from None

    def stream(self, messages: list[dict[str, str]], max_tokens: int, temperature: float = 0.0) -> Iterator[str]:
        """The reply to a conversation, piece by piece as it arrives.

        Raises:
            NoAnswer: the endpoint refused, broke off, or sent an error inside the stream.
        """
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": True,
        }
        done = False
        try:
            with self._http.stream("POST", "/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response)
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        done = True
                    elif line.startswith("data: "):
                        yield from self._delta(line[6:])
        except httpx.HTTPError as error:
            raise NoAnswer(f"{self._base_url} broke off: {_say(error)}") from None
        if not done:
            raise NoAnswer(f"{self._base_url} ended the stream before its end")

    def _delta(self, text: str) -> Iterator[str]:
        try:
            event = json.loads(text)
            if "error" in event:
                raise NoAnswer(f"{self._base_url} sent an error in the stream", quote=text[:300])
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or choice["delta"].get("reasoning") or ""
                if piece:
                    yield piece
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NoAnswer(f"{self._base_url} sent what is no chat event", quote=text[:300]) from None

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise NoAnswer(f"{self._base_url} does not answer: {_say(error)}") from None
        if response.status_code != 200:
            raise self._refused(response)
        try:
            reply = response.json()
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise NoAnswer(f"{self._base_url} answered with what is no JSON object", quote=response.text[:300])
        return reply

    def _refused(self, response: httpx.Response) -> NoAnswer:
        said = response.text.replace(self._api_key, "[removed]") if self._api_key else response.text
        return NoAnswer(f"{self._base_url} answered HTTP {response.status_code}", quote=said[:300])


def _say(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
