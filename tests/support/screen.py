"""What a terminal shows of what it is sent: enough of one for lines that are drawn again and again."""

import re

STEP = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[\?\d+[hl]|[^\x1b]")


def screen(sent: str, width: int) -> list[str]:
    """The lines on a screen of ``width`` columns, which never scrolls, without blanks at their ends."""
    lines: dict[int, dict[int, str]] = {}
    row = column = 0
    for match in STEP.finditer(sent):
        if match[2] == "A":
            row -= int(match[1] or 1)
        elif match[2] == "K":
            lines.pop(row, None)
        elif match[0] == "\r":
            column = 0
        elif match[0] == "\n":
            row, column = row + 1, 0
        elif len(match[0]) == 1:
            if column == width:
                row, column = row + 1, 0
            lines.setdefault(row, {})[column] = match[0]
            column += 1
    return [
        "".join(lines.get(i, {}).get(j, " ") for j in range(width)).rstrip()
        for i in range(max(lines, default=-1) + 1)
    ]
