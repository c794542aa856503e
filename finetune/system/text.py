"""Text from outside made safe for a terminal, a report or a plot: one line, no invisible characters."""


def clean(words: object) -> str:
    """Puts ``words`` on one line and marks invisible characters, such as those that reverse the direction.

    >>> clean("two\\nlines \\u202e")
    'two lines \ufffd'
    """
    return visible(" ".join(str(words).split()))


def visible(words: str) -> str:
    """Marks each invisible character of ``words`` and keeps its white space and lines."""
    # The name of a folder may be bytes that are no text, which no file and no terminal takes.
    text = words.encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\t\n" else "\ufffd" for char in text)


def say(line: str) -> None:
    """Prints one line that holds names from outside: of files, folders, labels, models."""
    print(visible(line.replace("\n", " ")), flush=True)
