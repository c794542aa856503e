"""The colors of plots: those of the page's light theme, and the classes by which a page gives its own."""

import re
from pathlib import Path

THEME = Path(__file__).parents[1] / "html" / "page.css"
# The first block of variables is the light theme.
LIGHT: dict[str, str] = dict(
    re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", THEME.read_text(encoding="utf-8").partition("}")[0])
)
INK, MUTED, LINE, SURFACE = (LIGHT[name] for name in ("ink", "muted", "line", "surface"))
VERDICTS = {name: LIGHT[name] for name in ("better", "worse", "equivalent")}  # others are in MUTED
SERIES = [LIGHT[f"variant-{number}"] for number in range(8)]  # the baseline's, and those of other variants
COLORS = len(SERIES) - 1  # of variants but the baseline; further ones take them again with other dashes
STEPS = 20  # of the way from the first layer to the last


def _mixed(share: float) -> str:
    """What ``color-mix(in srgb, ...)`` makes of this much of --deep, and --shallow for the rest."""
    parts = ((int(LIGHT["deep"][i : i + 2], 16), int(LIGHT["shallow"][i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * deep + (1 - share) * shallow):02x}" for deep, shallow in parts)


_DEPTHS = [_mixed(step / STEPS) for step in range(STEPS + 1)]
# Color -> its class in a page, and what the page's style says it is.
_CLASSES = {
    INK: ("i", "var(--ink)"),
    MUTED: ("m", "var(--muted)"),
    LINE: ("g", "var(--line)"),
    **{color: (f"is-{name}", f"var(--{name})") for name, color in VERDICTS.items()},
    **{color: (f"v{number}", f"var(--variant-{number})") for number, color in enumerate(SERIES)},
    **{
        color: (f"d{step}", f"color-mix(in srgb, var(--deep) {100 * step // STEPS}%, var(--shallow))")
        for step, color in enumerate(_DEPTHS)
    },
}


def depth(share: float) -> str:
    """The color of a layer, 0 for the first to 1 for the last."""
    return _DEPTHS[round(STEPS * min(1.0, max(0.0, share)))]


def class_of(color: str) -> str:
    """The class that has this color of the light theme in a page."""
    return _CLASSES[color][0]


def rules() -> str:
    """The style of the plots in a page.

    A path is a line unless it is filled (``f``) or a row of dots (``o``); a text begins at its point unless
    its middle (``c``) or its end (``e``) is there.
    """
    lines = [f".{name}{{color:{value}}}" for name, value in _CLASSES.values()]
    return "\n".join(
        [
            ".plot{display:block;width:100%;max-width:420px;height:auto;font-size:10px}",
            ".legend svg{fill:currentColor;stroke:currentColor}",
            ".plot path{fill:none;stroke:currentColor;stroke-linejoin:round}",
            ".plot .f{fill:currentColor;stroke:none}",
            ".plot .o{stroke-linecap:round}",
            ".plot text{fill:currentColor;stroke:var(--surface);stroke-width:3px;paint-order:stroke;"
            "font-variant-numeric:tabular-nums}",
            ".plot .c{text-anchor:middle}.plot .e{text-anchor:end}.plot .b{font-weight:700}",
            *lines,
        ]
    )
