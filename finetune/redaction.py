"""Passwords and tokens, taken out of what is written down: records, logs, messages, tracebacks."""

import os
import re

HIDDEN = "***"
# Names of environment variables that hold a secret, as whole words between underscores.
NAMES = re.compile(r"(^|_)(TOKEN|KEY|APIKEY|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)(_|$)", re.IGNORECASE)
SHORTEST = 8  # characters of a value that is looked for; a shorter one is found in too many words
SHAPES = (
    # user:password@ or token@ of an address
    (re.compile(r"(?<=://)[^\s/@'\"]+(?=@)"), HIDDEN),
    # ?token=..., --x.api_key ...
    (re.compile(r"((?:token|api_?key|secret|passw(?:or)?d)=)[^\s&'\",;]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(--[\w.]*(?:token|key|secret|password)\s+)[^\s'\"]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # as the Hub, GitHub, OpenAI and Amazon make them
    (re.compile(r"\b(hf_|gh[pousr]_|github_pat_|sk-|xox[bap]-|AKIA|ASIA)[A-Za-z0-9_-]{12,}"), rf"\1{HIDDEN}"),
)  # fmt: skip


def redact(text: str) -> str:
    """``text`` with ``***`` for the values of environment variables named as secrets are, and for what looks
    like one.

    >>> redact("git clone https://me:pass@example.org/x?token=0123456789")
    'git clone https://***@example.org/x?token=***'
    """
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    for shape, shown in SHAPES:
        text = shape.sub(shown, text)
    return text


def _secrets() -> list[str]:
    """The longest first, as one may be a part of another. Words and numbers alone are no secret."""
    values = {value.strip() for name, value in os.environ.items() if NAMES.search(name)}
    return sorted(
        (value for value in values if len(value) >= SHORTEST and not value.isalpha() and value[0] != "/"),
        key=len,
        reverse=True,
    )
