"""Text of anybody's on one line and in letters that can be seen: for a terminal, a report, a plot."""


def clean(words: object) -> str:
    """``words`` on one line, without characters that no one can see, such as those that turn text around.

    >>> clean("two\\nlines \\u202e")
    'two lines \ufffd'
    """
    return visible(" ".join(str(words).split()))


def visible(words: str) -> str:
    """``words`` with white space and lines as they are, and a mark for each character that cannot be seen."""
    # A folder's name may be no text; no file and no terminal takes it as it is.
    text = words.encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\t\n" else "\ufffd" for char in text)


def say(line: str) -> None:
    """Print one line that names what somebody else has named: files, folders, labels, models."""
    print(visible(line.replace("\n", " ")), flush=True)
