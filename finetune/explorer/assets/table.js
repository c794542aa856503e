"use strict";
// The run table: one row a run, with search, filters, sorting and tick boxes.

const ticked = new Set();
const boxes = new Map();
const watchers = [];
let runTable = null;

const lineOf = run => {
  const group = groupOf(run);
  return {
    ...run,
    task: group.task,
    model: group.model,
    setting: group.setting,
    sample: group.sample,
    metric: group.metric,
    words: [
      group.task,
      group.model,
      run.variant,
      `seed ${run.seed}`,
      run.status,
      group.setting,
      run.device,
      run.started,
      run.folder,
      run.reason,
      group.sample ? "SAMPLE" : "",
    ]
      .join(" ")
      .toLowerCase(),
  };
};
const LINES = INDEX.runs.map(lineOf);

function tick(id, on) {
  if (on) ticked.add(id);
  else ticked.delete(id);
  if (boxes.has(id)) boxes.get(id).checked = on;
  watchers.forEach(watcher => watcher());
}

const tickedRuns = () => INDEX.runs.filter(run => ticked.has(run.id));

function tickBox(cell) {
  const run = cell.getData();
  const box = make("input", { type: "checkbox", checked: ticked.has(run.id) });
  box.setAttribute("aria-label", `draw and compare ${run.task}, ${run.model}, ${titleOf(run)}`);
  box.addEventListener("change", () => tick(run.id, box.checked));
  boxes.set(run.id, box);
  return box;
}

/** A formatter of Tabulator, which would put a string in as markup: an element with text. */
const asText = word => cell => {
  const text = word(cell.getData());
  return make("span", { title: text }, text);
};

function statusOf(run) {
  return run.status + (run.sample ? " SAMPLE" : "");
}

function differenceCell(cell) {
  const run = cell.getData();
  if (run.difference === null)
    return make("span", { className: "muted" }, run.variant === INDEX.baseline ? "baseline" : "");
  return make(
    "span",
    { className: toneOf(run.metric, run.difference) },
    differenceOf(run.metric, run.difference),
  );
}

/** On a phone the variant stands with its task and model: their columns are out of sight, to the right. */
function variantCell(cell) {
  const run = cell.getData();
  const dot = make("i", { className: "dot" });
  dot.style.background = `var(${colourOf(run.variant)})`;
  const below = NARROW ? make("small", {}, [`seed ${run.seed}`, run.task, run.model].join(" · ")) : null;
  return make("span", { title: run.variant }, dot, run.variant, below);
}

const NARROW = matchMedia("(max-width: 700px)").matches;
const FIRST_ON_A_PHONE = ["id", "variant", "score", "difference"];

function runColumns() {
  const heading = text => () => make("button", { type: "button", className: "heading" }, text);
  const words = (title, field, word, more = {}) => ({
    title,
    field,
    titleFormatter: heading(title),
    formatter: asText(word),
    ...more,
  });
  const number = {
    hozAlign: "right",
    headerHozAlign: "right",
    sorter: "number",
    sorterParams: { alignEmptyValues: "bottom" },
  };
  const columns = [
    {
      title: "",
      field: "id",
      formatter: tickBox,
      headerSort: false,
      width: NARROW ? 36 : 44,
      hozAlign: "center",
    },
    words("task", "task", run => run.task, { minWidth: 84, widthGrow: 1 }),
    words("model", "model", run => run.model, { minWidth: 150, widthGrow: 2 }),
    words("variant", "variant", run => run.variant, {
      formatter: variantCell,
      minWidth: NARROW ? 150 : 112,
      widthGrow: 1,
    }),
    words("seed", "seed", run => String(run.seed), { ...number, width: 66 }),
    words("status", "status", statusOf, { minWidth: 84, widthGrow: 0.5 }),
    words("score", "score", run => (run.score === null ? "" : valueOf(run.metric, run.score)), {
      ...number,
      width: NARROW ? 72 : 84,
    }),
    words(`\u00b1 ${INDEX.baseline}`, "difference", () => "", {
      ...number,
      formatter: differenceCell,
      width: NARROW ? 96 : 98,
    }),
    words("setting", "setting", run => run.setting, { minWidth: 120, widthGrow: 2 }),
    words("device", "device", run => run.device, { minWidth: 90, widthGrow: 1 }),
    words("time", "seconds", run => duration(run.seconds), { ...number, width: 92 }),
    words("started", "started", run => run.started.slice(0, 16).replace("T", " "), { width: 150 }),
  ];
  // A column in which no run says anything is left out.
  const said = columns.filter(
    each => each.field === "id" || LINES.some(run => run[each.field] !== "" && run[each.field] !== null),
  );
  const rank = each => (NARROW && FIRST_ON_A_PHONE.includes(each.field) ? 0 : 1);
  return said.sort((one, other) => rank(one) - rank(other));
}

function showTable() {
  runTable = new Tabulator("#runs", {
    data: LINES,
    index: "id",
    layout: "fitColumns",
    maxHeight: "min(62vh, 560px)",
    columns: runColumns(),
    placeholder: "no run is left by the search and the filters",
    columnDefaults: { headerSortTristate: true, resizable: "header" },
  });
  runTable.on("dataFiltered", (_, rows) => count(rows.length));
  runTable.on("tableBuilt", () => {
    document.getElementById("runs").dataset.ready = "yes";
    filterRuns();
  });
  document
    .getElementById("untick")
    .addEventListener("click", () => [...ticked].forEach(id => tick(id, false)));
}

function count(rows) {
  const all = LINES.length;
  document.getElementById("count").textContent =
    rows === all ? plural(all, "run") : `${thousands(rows)} of ${plural(all, "run")}`;
}

const chosen = { task: "", model: "", variant: "", status: "" };

function filterRuns() {
  const words = document.getElementById("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const picked = Object.entries(chosen).filter(([, value]) => value);
  runTable.setFilter(
    run =>
      picked.every(([field, value]) => run[field] === value) && words.every(word => run.words.includes(word)),
  );
}

function showFilters() {
  const form = document.getElementById("filters");
  for (const field of Object.keys(chosen)) {
    const values = unique(LINES.map(run => run[field]));
    if (values.length < 2) continue;
    const options = [{ value: "", text: "all" }, ...values.map(value => ({ value, text: value }))];
    const label = selectOf(field, options, "", value => {
      chosen[field] = value;
      filterRuns();
    });
    label.querySelector("select").id = `filter-${field}`;
    form.append(label);
  }
  document.getElementById("search").addEventListener("input", filterRuns);
  form.addEventListener("submit", event => event.preventDefault());
}
