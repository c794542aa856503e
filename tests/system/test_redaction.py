"""Passwords and tokens in texts."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune.system.redaction import redact

SECRET = "hf_abcdefghijklmnop0123456789"
PLAIN = "Zx9secretVALUE77qq"  # of no shape that gives it away


@pytest.mark.parametrize(
    "text",
    [
        f"--model https://me:{SECRET}@host/x", f"--train.api_key {PLAIN}", f"?token={PLAIN}&x=1",
        f"HTTPError of https://host/?api_key={PLAIN}", SECRET, f"http://{PLAIN}@proxy:80",
        f"--api-key {PLAIN}", f"--hf-token='{PLAIN}'", f"password: {PLAIN}", f"Authorization: Bearer {PLAIN}",
        f"authorization=Basic {PLAIN}", f"https://h/x?sig={PLAIN}", f"&X-Amz-Signature={PLAIN}",
        f"{{'token': '{PLAIN}'}}", f'{{"api_key": "{PLAIN}"}}', f"AccountKey={PLAIN};", f"glpat-{PLAIN}",
        f"npm_{PLAIN}", f"sk-proj-{PLAIN}", f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.{PLAIN}",
        f"-----BEGIN PRIVATE KEY-----\n{PLAIN}\n-----END PRIVATE KEY-----", f"https%3A%2F%2Fa%3A{PLAIN}%40h",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert SECRET not in redact(text) and PLAIN not in redact(text) and "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "the end token: choose another", "pad token embeddings of 012", "a@b.c", "Basic classification",
        "--train.include_num_input_tokens_seen true", "--batches.cache_tokens false",
        "special token: [unused123]",
        "pad_token=tokenizer.pad_token", "unknown token: 128009001", "sorted(x, key=lambda1234)",
        "eos_token: '</s>'", "org/name@main",
    ],
)  # fmt: skip
def test_other_texts_are_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_a_new_login_s_token_is_hidden_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is read once for each version of it."""
    file, reads, read_text = tmp_path / "token", Counter[Path](), Path.read_text

    def counted(path: Path, **options: Any) -> str:
        reads[path] += 1
        return read_text(path, **options)

    monkeypatch.setenv("HF_TOKEN_PATH", str(file))
    monkeypatch.setattr(Path, "read_text", counted)
    text = f"{PLAIN} and {PLAIN[::-1]}"
    assert redact(text) == text
    for number, token in enumerate((PLAIN, PLAIN[::-1], PLAIN), start=1):  # of one length
        file.write_text(token)
        os.utime(file, (number, number))  # as if an hour lay between them, and not a tick of the clock
        for _ in range(3):
            assert redact(text) == text.replace(token, "***")
        assert reads[file] == number
    file.unlink()
    assert redact(text) == text
