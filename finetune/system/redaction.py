"""Passwords and tokens, removed from records, logs, messages and tracebacks."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

HIDDEN = "***"
# In the name of an environment variable that holds a secret: a word between underscores, or a part of a word.
NAMES = re.compile(
    r"(^|_)(KEYS?|PASS|PWD|PW|PAT|AUTH|BEARER|COOKIE|SIGNATURE|CREDS?|CONNECTION_STRING|DSN)(_|$)"
    r"|TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|APIKEY|AUTHORIZATION",
    re.IGNORECASE,
)
SHORTEST, SHORTEST_WORD = 8, 12
"""Characters of the shortest secret, and of the shortest of letters alone: others occur in too many texts."""
ADDRESS = re.compile(r"://(?P<user>[^\s/@:'\"]*)(?::(?P<password>[^\s/@'\"]*))?@")
# Not the special tokens of a tokenizer: pad_token=...
KIND = (
    r"(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!cls_)(?<!sep_)(?<!mask_)"
    r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|account)[_-]?key)"
)
MIXED = r"(?=[^\s'\"]*\d)(?=[^\s'\"]*[A-Za-z])\w"  # letters and digits, as no word of a sentence has
MADE = r"hf_|api_org_|gh[pousr]_|github_pat_|glpat-|sk-|xox[a-z]-|npm_|pypi-|AIza|ya29\.|AKIA|ASIA|eyJ"
SHAPES = tuple(
    (re.compile(shape, re.IGNORECASE | re.DOTALL), shown)
    for shape, shown in (
        # user:password@ or token@ of an address, also where the address is a part of another
        (r"(?<=://)[^\s/@'\"]+(?=@)", HIDDEN),
        (r"(?<=%3A%2F%2F)[^\s/@'\"&]+?(?=%40)", HIDDEN),
        # ?token=..., {'api_key': '...'}, password: ...
        (rf"({KIND}=)[^\s&'\",;]{{8,}}", rf"\1{HIDDEN}"),
        (rf"({KIND}['\"]?\s*[:=]\s*['\"]?){MIXED}[^\s&'\",;]{{7,}}", rf"\1{HIDDEN}"),
        (rf"([?&](?:key|sig(?:nature)?|x-amz-\w+|auth)=){MIXED}[^\s&'\"]{{7,}}", rf"\1{HIDDEN}"),
        # --x.api_key ..., Authorization: Bearer ...
        (r"(--[\w.-]*(?:token|key|secret|passw(?:or)?d)[\s=]+['\"]?)[^\s'\"]{8,}", rf"\1{HIDDEN}"),
        (rf"\b((?:bearer|basic)\s+){MIXED}[^\s'\",;]{{7,}}", rf"\1{HIDDEN}"),
        # as the Hub, GitHub, GitLab, OpenAI, Slack, npm, Google and Amazon make them, and signed web tokens
        (rf"\b(?-i:({MADE}))[A-Za-z0-9._-]{{12,}}", rf"\1{HIDDEN}"),
        (r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|$)", rf"\1{HIDDEN}\2"),
    )
)


def redact(text: str) -> str:
    """Writes ``***`` for secrets.

    Secrets are values of environment variables with the name of one, the token that ``hf auth login`` keeps,
    and whatever has the shape of a token or password.

    >>> redact("git clone https://me:pass@example.org/x?token=0123456789")
    'git clone https://***@example.org/x?token=***'
    """
    secrets = {
        spelling
        for value in map(str.strip, _candidates())
        # neither too short nor a folder, as in SSH_AUTH_SOCK
        if len(value) >= (SHORTEST_WORD if value.isalpha() else SHORTEST) and value[0] != "/"
        for spelling in (value, quote(value, safe=""), unquote(value))  # also as an address writes it
    }
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, HIDDEN)
    for shape, shown in SHAPES:
        text = shape.sub(shown, text)
    return text


def _candidates() -> Iterator[str]:
    """Yields possible secrets: values of variables, passwords of addresses in them, the login's token."""
    for name, value in os.environ.items():
        if NAMES.search(name):
            yield value
        for address in ADDRESS.finditer(value):  # HF_ENDPOINT, https_proxy, DATABASE_URL ...
            yield address["password"] or address["user"]
    # The place where the Hub's client keeps its token.
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    file = os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"))
    try:
        # A login while the program runs changes one of these, so that the token is read anew.
        status = os.stat(file)
        yield _read(file, (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    except OSError:
        return  # nobody has logged in


@lru_cache(maxsize=1)
def _read(file: str, version: tuple[int, ...]) -> str:
    """The text of ``file``, read once for each ``version`` of it, since every line of a log asks for it."""
    return Path(file).read_text(encoding="utf-8", errors="replace")
