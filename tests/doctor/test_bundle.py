"""The support bundle holds what another engineer needs, and no secret that was planted."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import pytest

from overspan.checks.doctor.bundle import write_bundle
from overspan.checks.doctor.redact import Redactor, secrets_in
from overspan.schema.errors import InputError

PLANTED = {
    "hf_AbCdEfGhIjKlMnOpQr": "HF_TOKEN=hf_AbCdEfGhIjKlMnOpQr vllm serve",
    "hf_ZzYyXxWwVvUu1234": "loading with token hf_ZzYyXxWwVvUu1234 from env",
    "opaque-bearer-99": "> Authorization: Bearer opaque-bearer-99",
    "b3BhcXVlOnBhc3M=": '"authorization": "Basic b3BhcXVlOnBhc3M="',
    "sk-proj-aaaabbbbcccc": "OPENAI_API_KEY: sk-proj-aaaabbbbcccc",
    "plainpassword1": "https://alice:plainpassword1@registry.example/v2/",
    "sig-in-a-url-77": "GET https://bucket.example/x?X-Amz-Signature=sig-in-a-url-77&b=1",
    "key-as-argument": "argv: ['vllm', 'serve', '--api-key', 'key-as-argument']",
    "key-as-flag": "+ vllm serve m --api-key key-as-flag --port 8000",
    "nvapi-1234567890": "login nvapi-1234567890",
    "jsonsecret42": '{"env": {"MY_SECRET": "jsonsecret42", "PORT": "8000"}}',
    "from-my-environment": "a line with from-my-environment in it",
    "MIIEvAIBADANBg": "-----BEGIN PRIVATE KEY-----\nMIIEvAIBADANBg\n-----END PRIVATE KEY-----",
}
KEPT = ["max_tokens: 32", "tokenizer=/models/x", "RuntimeError: CUDA error", "--port 8000", "10.0.0.2:8000"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "demo-20261122-100000-abcd"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "vllm.log").write_text("\n".join([*PLANTED.values(), *KEPT]) + "\n")
    (folder / "plan.json").write_text('{"env": {"HF_TOKEN": "hf_AbCdEfGhIjKlMnOpQr"}}\n')
    (folder / "api.key").write_text("the-key-file")
    (folder / "away").symlink_to("/etc/hostname")
    return folder


def _texts(bundle: Path) -> dict[str, str]:
    with tarfile.open(bundle) as packed:
        return {member.name: (packed.extractfile(member) or pytest.fail()).read().decode() for member in packed}


def test_no_planted_secret_is_in_the_bundle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "from-my-environment")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_bundle(run, '[\n{"text": "HF_TOKEN=hf_AbCdEfGhIjKlMnOpQr"}\n]', tmp_path / "out.tar.gz")
    texts = _texts(tmp_path / "out.tar.gz")
    everything = "\n".join(texts.values())
    assert [secret for secret in PLANTED if secret in everything] == []
    assert [kept for kept in KEPT if kept not in texts[f"{run.name}/logs/vllm.log"]] == []
    assert set(texts) == {f"{run.name}/{name}" for name in ("logs/vllm.log", "plan.json", "doctor.json", "BUNDLE.txt")}
    assert (tmp_path / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_bundle_overwrites_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out.tar.gz").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_bundle(run, "[]", tmp_path / "out.tar.gz")
    assert (tmp_path / "out.tar.gz").read_text() == "mine"


@pytest.mark.parametrize("piece", [b"a-", b"eyJ-", b"token ", b"://a:", b"key=", b"--token-"])
def test_a_hostile_line_costs_no_more_than_its_length(piece: bytes) -> None:
    small, large = piece * 2000, piece * 16000
    began = time.perf_counter()
    Redactor().line(small)
    middle = time.perf_counter()
    Redactor().line(large)
    # Eight times the bytes; quadratic would be 64 times.
    assert time.perf_counter() - middle < 40 * (middle - began) + 0.05


def test_secrets_are_known_by_their_names_in_documents_and_tokenizers_are_none() -> None:
    document = {
        "env": {"HF_TOKEN": "aaaaaa1", "TOKENIZERS_PARALLELISM": "false"},
        "argv": ["vllm", "--api-key", "bbbbbb2", "--tokenizer", "/models/x", "--max-tokens", "256"],
        "rows": [{"password": "cccccc3", "tokenizer": "acme/x", "max_tokens": 7}],
    }
    assert secrets_in(document) == {"aaaaaa1", "bbbbbb2", "cccccc3"}
