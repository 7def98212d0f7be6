"""The support bundle holds what another engineer needs, and no secret that was planted."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import pytest

from overspan.doctor.bundle import write_bundle
from overspan.doctor.redact import Redactor, secrets_in
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

# Where they hide: documents in strings, colour inside of a token, the next line, a command line, a registry's file.
ODD = {
    "k8s-value-000111": "        - name: API_KEY\n          value: k8s-value-000111\n",
    "yamlmap-1234567": '  env:\n    WANDB_API_KEY: "yamlmap-1234567"\n',
    "jsonesc-abcdefg": 'INFO body={\\"HF_TOKEN\\": \\"jsonesc-abcdefg\\", \\"x\\": 1}\n',
    "dbljson-abcdefg": '{"log":"{\\\\\\"api_key\\\\\\": \\\\\\"dbljson-abcdefg\\\\\\"}\\n"}\n',
    "EfGhIjKlMnOp": "token hf_AbCd\x1b[0mEfGhIjKlMnOp here\n",
    "opaque-wrapped-bearer": "Authorization: Bearer\n  opaque-wrapped-bearer\n",
    "s3cret-curl": "+ curl -u alice:s3cret-curl https://x\n",
    "s3cretbasic": "+ curl --user alice:s3cretbasic https://x\n",
    "sshpw-1": "+ sshpass -p sshpw-12345 ssh host\n",
    "two words here": "{'MY_PASSWORD': 'two words here'}\n",
    "netrc-pass-1": "machine nvcr.io login $oauthtoken password netrc-pass-12345\n",
    "JG9hdXRodG9rZW46Zm9v": '{"auths": {"nvcr.io": {"auth": "JG9hdXRodG9rZW46Zm9v"}}}\n',
    "cookieval123": "Cookie: session=cookieval123; a=b\n",
    "redispass99": "redis://:redispass99@10.0.0.1:6379/0\n",
    "accountkey123": "AccountName=x;AccountKey=accountkey123==;EndpointSuffix=core\n",
    "credsval1": "credentials: credsval12345\n",
    "passphr-1": "passphrase: passphr-12345\n",
    "colorval9": "HF_TOKEN\x1b[0m=\x1b[32mcolorval9999\x1b[0m\n",
    "urlenc-1": "GET /x?a=1&api_key%3Durlenc-12345\n",
    "headerlist-1": "headers=[(b'authorization', b'Bearer headerlist-12345')]\n",
    "headertuple-2": "('x-api-key', 'headertuple-23456')\n",
    "envdump-1": "environ({'HF_TOKEN': 'envdump-12345', 'PATH': '/bin'})\n",
    "gh-1": "https://x-access-token:gh-1234567@github.com/a/b\n",
    "dockerpw": "docker login -u foo -p dockerpw-1234 nvcr.io\n",
    "xmlpw": "<password>xmlpw-12345</password>\n",
    "pwdval": "db pwd=pwdval-1234\n",
    "toml-1": 'token = "toml-12345"\n',
    "export-1": 'declare -x NGC_API_KEY="export-12345"\n',
    "AKIAIOSFODNN7EXAMPLE": "aws_access_key_id=AKIAIOSFODNN7EXAMPLE\n",
    "awssecretvalue": "aws_secret_access_key = awssecretvalue123\n",
    "sasval": "https://x.blob.core.windows.net/a?sv=1&sig=sasval12345%3D\n",
    "longtok": "HF_TOKEN is longtok-1234567 (from env)\n",
    "nospace1": "HF_TOKEN:nospace1-345\n",
    "arrow1": "HF_TOKEN => 'arrow1-2345'\n",
}
NO_SECRET = [
    "max_tokens: 32",
    "tokenizer=/models/x",
    "num_tokens=17, token_ids=[1, 2]",
    "--port 8000",
    "Prompt tokens: 5",
    "next_token_id: 17",
    "Total generated tokens: 0",
    "password authentication is off",
    "the key is missing",
    "session=17",
    "name: PORT\nvalue: 8000",
    "-p 8000:8000",
    "-u root",
    "--user 1000:1000",
    "secrets are mounted",
    "tokens/s: 12.5",
    "Authorization header missing",
    "auth: failed for user",
    "cookie not set",
]


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


@pytest.mark.parametrize("secret", ODD)
def test_a_secret_in_an_odd_place_is_taken_out(secret: str) -> None:
    redactor = Redactor()
    clean = b"".join(redactor.line(line) for line in ODD[secret].encode().splitlines(keepends=True))
    assert secret.encode() not in clean and redactor.removed


@pytest.mark.parametrize("text", NO_SECRET)
def test_what_is_no_secret_is_kept(text: str) -> None:
    redactor = Redactor()
    lines = f"{text}\n".encode().splitlines(keepends=True)
    assert b"".join(redactor.line(line) for line in lines) == b"".join(lines) and not redactor.removed


def test_a_known_secret_is_taken_out_in_base64_too() -> None:
    assert b"bXktc2VjcmV0LXZhbHVl" not in Redactor(("my-secret-value",)).line(b"data: bXktc2VjcmV0LXZhbHVl\n")


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
