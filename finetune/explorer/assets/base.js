"use strict";
// What the other scripts share: the index, columns that are taken out when looked at, elements, numbers.

const INDEX = JSON.parse(document.getElementById("index").textContent);
const MINUS = "\u2212";
const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
const taken = new Map();

/** The values of a column: a typed array, or what its JSON says; a promise, the same one each time. */
function column(key) {
  if (!taken.has(key)) taken.set(key, takeOut(key));
  return taken.get(key);
}

async function takeOut(key) {
  const element = document.getElementById(key);
  const letters = atob(element.textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const content = await new Response(stream).arrayBuffer();
  const kind = element.dataset.kind;
  return kind === "json" ? JSON.parse(new TextDecoder().decode(content)) : new ARRAYS[kind](content);
}

const shared = (run, name) => column(`set-${run.set}-${name}`);
const own = (run, name) => column(`run-${run.id}-${name}`);
const has = (run, name) => run.columns.includes(`run-${run.id}-${name}`);
const setOf = run => (run.set === null ? null : INDEX.sets[run.set]);
const groupOf = run => INDEX.groups[run.group];

/** An element. Whatever a user named comes in as a child, which is text and never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  return refill(element, ...children);
}

/** The element with these children instead of its own; ``null`` is no child (``append`` would write the word). */
function refill(element, ...children) {
  element.replaceChildren(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

/** A table with a head and rows of cells; a cell is text, or an element of its own making. */
function grid(label, head, rows, left = 1) {
  const cells = (tag, row, scope) =>
    row.map((cell, i) => {
      if (cell instanceof HTMLTableCellElement) return cell;
      const first = tag === "td" && i === 0;
      return make(
        first ? "th" : tag,
        { scope: first ? "row" : scope, className: i < left ? "text" : "" },
        cell ?? "",
      );
    });
  return make(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", "aria-label": label },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, cells("th", head, "col"))),
      make(
        "tbody",
        {},
        rows.map(row => make("tr", {}, cells("td", row, null))),
      ),
    ),
  );
}

const digits = (value, decimals) => (value < 0 ? MINUS : "") + Math.abs(value).toFixed(decimals);
const thousands = value => value.toLocaleString("en-US");
const percent = (share, decimals = 1) => `${digits(100 * share, decimals)}%`;
const points = (share, decimals = 2) => signed(100 * share, decimals);
const plural = (count, word) => `${thousands(count)} ${word}${count === 1 ? "" : "s"}`;

function signed(value, decimals) {
  const text = Math.abs(value).toFixed(decimals);
  return (value < 0 ? MINUS : "+") + text;
}

/** A value of a metric, as it is reported: accuracy in percent. */
function valueOf(name, value) {
  const metric = INDEX.metrics[name];
  const text =
    metric.decimals === null ? Number(value.toPrecision(4)).toString() : value.toFixed(metric.decimals);
  return text.replace("-", MINUS) + (metric.percent ? "%" : "");
}

/** A difference, without its unit; where the metric has no bound, one that rounds to nothing keeps a digit. */
function differenceOf(name, difference) {
  const metric = INDEX.metrics[name];
  if (metric.decimals === null)
    return signed(difference, Math.max(0, 3 - Math.floor(Math.log10(Math.abs(difference) || 1))));
  let decimals = metric.decimals;
  const vanishes = Math.abs(difference) >= 1e-9 && Number(Math.abs(difference).toFixed(decimals)) === 0;
  if (!metric.bounded && vanishes) decimals = -Math.floor(Math.log10(Math.abs(difference)));
  return signed(difference, decimals);
}

/** "good", "bad" or "" for a difference of a metric, "" if it is shown as 0: its colour, never without its sign. */
function toneOf(name, difference) {
  if (!/[1-9]/.test(differenceOf(name, difference))) return "";
  return difference > 0 === INDEX.metrics[name].higher ? "good" : "bad";
}

const titleOf = run => `${run.variant}, seed ${run.seed}`;

function settingOf(group) {
  return [group.task, group.model, group.setting, group.sample ? "SAMPLE" : ""].filter(Boolean).join(" · ");
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

const unique = values => [...new Set(values)];
const VARIANTS = unique([INDEX.baseline, ...INDEX.runs.map(run => run.variant)]);
const colourOf = variant => {
  const number = VARIANTS.indexOf(variant);
  return `--variant-${number === 0 ? 0 : ((number - 1) % 7) + 1}`;
};
const themed = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const onTheme = call => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", call);

function selectOf(label, options, value, change) {
  const select = make(
    "select",
    {},
    options.map(option => {
      if (!option.options) return make("option", { value: option.value }, option.text);
      return make(
        "optgroup",
        { label: option.text },
        option.options.map(each => make("option", { value: each.value }, each.text)),
      );
    }),
  );
  select.value = value;
  select.addEventListener("change", () => change(select.value));
  return make("label", {}, `${label} `, select);
}
