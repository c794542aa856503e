"""The style sheet of ``report.html``: system fonts, one accent, light and dark, phone and print."""

LIGHT = """
  --surface: #ffffff; --raised: #f5f6f8; --ink: #1b1f24; --muted: #59626d; --line: #d9dee4; --accent: #0b5cad;
  --arm-0: #5c6672; --arm-1: #0b66c3; --arm-2: #c2410c; --arm-3: #0f7b4f; --arm-4: #a21caf; --arm-5: #8a5c00;
  --arm-6: #0e7490; --arm-7: #be185d; --shallow: #6b97c9; --deep: #06264f;
"""
DARK = """
  --surface: #14171b; --raised: #1d2127; --ink: #e8ebef; --muted: #a3adb8; --line: #363d46; --accent: #7db8ff;
  --arm-0: #aab4c0; --arm-1: #6cb1ff; --arm-2: #ff9d66; --arm-3: #4fd09a; --arm-4: #e48bf0; --arm-5: #e3b341;
  --arm-6: #5fc9de; --arm-7: #ff8fb3; --shallow: #4c78ad; --deep: #e3efff;
"""
SCREEN = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1140px; padding: 24px 16px 64px; background: var(--surface); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.15rem; font-weight: 600; color: var(--muted); margin: 0 0 8px; }
h2 {
  font-size: 1.4rem; line-height: 1.25; margin: 56px 0 8px; padding-top: 24px;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1.05rem; margin: 32px 0 8px; }
p { margin: 8px 0; max-width: 76ch; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
.answer {
  font-size: 1.4rem; line-height: 1.4; font-weight: 500; margin: 0 0 12px; max-width: 60ch; text-wrap: pretty;
}
.muted, figcaption { color: var(--muted); font-size: 0.875rem; }
.stamp {
  display: inline-block; border: 1px solid currentColor; border-radius: 4px; padding: 4px 10px;
  font-weight: 600;
}
.contents { columns: 320px; padding: 0; margin: 16px 0; list-style: none; }
.contents li { padding: 2px 0; break-inside: avoid; }
.scroll { overflow-x: auto; margin: 12px 0; max-width: 100%; }
table {
  border-collapse: separate; border-spacing: 0; font-size: 0.875rem; font-variant-numeric: tabular-nums;
  line-height: 21px; /* whole pixels: at broken heights a cell that sticks paints over the line above it */
}
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 500; }
#glance th:first-child { white-space: normal; min-width: 9rem; }
thead th {
  color: var(--muted); font-size: 0.8125rem; border-bottom: 1px solid var(--muted); vertical-align: bottom;
}
.text, tbody th { text-align: left; }
th:first-child { padding-left: 0; position: sticky; left: 0; background: var(--surface); }
.figures {
  display: grid; gap: 28px 32px; align-items: start; margin: 12px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr));
}
figure { margin: 0; min-width: 0; break-inside: avoid; }
h4 { font-size: 0.9375rem; margin: 0 0 4px; }
figure svg { display: block; width: 100%; max-width: 420px; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text {
  font-family: inherit; font-variant-numeric: tabular-nums;
  stroke: var(--surface); stroke-width: 3px; paint-order: stroke;
}
figcaption { margin-top: 4px; line-height: 1.45; max-width: 420px; }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; padding: 0; margin: 12px 0;
  font-size: 0.875rem;
}
.legend svg { width: 36px; height: 12px; vertical-align: middle; margin-right: 6px; }
ul { padding-left: 20px; margin: 8px 0; }
li { max-width: 100ch; }
.facts { list-style: none; padding: 0; font-size: 0.9375rem; }
.facts li { padding: 3px 0; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: 10px 0; font-weight: 500; }
details details { margin-left: 18px; }
details details summary { font-weight: 400; padding: 6px 0; font-variant-numeric: tabular-nums; }
pre {
  margin: 4px 0 8px; padding: 10px 12px; background: var(--raised); border-radius: 6px;
  font: 0.8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; user-select: all;
}
.folder { margin: 4px 0 12px; overflow-wrap: anywhere; }
footer { margin-top: 64px; border-top: 1px solid var(--line); padding-top: 16px; }
@media (max-width: 600px) {
  body { padding-top: 16px; }
  .answer { font-size: 1.2rem; }
  h2 { font-size: 1.2rem; }
}
"""
PRINT = """
@media print {
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3, h4 { break-after: avoid; }
  .contents { display: none; }
  .figures { grid-template-columns: repeat(2, 1fr); }
  .scroll { overflow: visible; }
  th, td { white-space: normal; padding: 3px 5px; font-size: 8pt; }
  th:first-child { position: static; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
STYLE = (
    f":root {{ color-scheme: light dark; {LIGHT} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}\n{SCREEN}{PRINT}"
)
