"use strict";
// Learning curves of the ticked runs, over each other.

const curvesState = { key: null, log: false, plot: null, shown: 0 };
const CURVES_FIRST = ["eval_loss", "loss"];

async function showCurves() {
  const place = document.getElementById("curves");
  const order = ++curvesState.shown; // what is ticked meanwhile makes this one stale
  const runs = tickedRuns();
  const drawn = runs.filter(run => has(run, "curves"));
  const curves = await Promise.all(drawn.map(run => own(run, "curves")));
  if (order !== curvesState.shown) return;
  curvesState.plot?.destroy();
  curvesState.plot = null;
  place.replaceChildren();
  if (!drawn.length) {
    place.append(
      make(
        "p",
        { className: "muted" },
        runs.length
          ? "The records of the ticked runs hold no curve."
          : "Tick runs in the table: their curves come here, one over the other.",
      ),
    );
    return;
  }
  const keys = unique(curves.flatMap(Object.keys)).sort((one, other) => rankOfKey(one) - rankOfKey(other));
  if (!keys.includes(curvesState.key)) curvesState.key = keys[0];
  const kept = drawn.map((run, i) => ({ run, curve: curves[i][curvesState.key] })).filter(each => each.curve);
  const log = make("input", { type: "checkbox", checked: curvesState.log });
  log.addEventListener("change", () => {
    curvesState.log = log.checked;
    showCurves();
  });
  const readout = make(
    "p",
    { className: "muted readout" },
    `${plural(kept.length, "run")}; point at a line to read it`,
  );
  const figure = make("div", { className: "plot", role: "img" });
  figure.setAttribute(
    "aria-label",
    `${titleOfKey(curvesState.key)} by step of ${kept.map(each => titleOf(each.run)).join("; ")}`,
  );
  place.append(
    make(
      "div",
      { className: "bar" },
      selectOf(
        "Quantity",
        keys.map(key => ({ value: key, text: titleOfKey(key) })),
        curvesState.key,
        key => {
          curvesState.key = key;
          showCurves();
        },
      ),
      make("label", {}, log, " logarithmic"),
    ),
    figure,
    readout,
    legendOf(kept.map(each => each.run)),
    make("details", {}, make("summary", {}, "The last and the best values"), lastValues(kept)),
  );
  curvesState.plot = drawCurves(figure, readout, kept);
}

function rankOfKey(key) {
  const metric = INDEX.metrics[key.replace("eval_", "")];
  if (metric) return 0;
  return CURVES_FIRST.includes(key) ? 1 + CURVES_FIRST.indexOf(key) : 9;
}

function titleOfKey(key) {
  const bare = key.replace("eval_", "");
  const name = INDEX.metrics[bare]?.label ?? bare.replaceAll("_", " ");
  return key.startsWith("eval_") ? `validation ${name}` : name;
}

const numberText = value => Number(value.toPrecision(5)).toString().replace("-", MINUS);

function legendOf(runs) {
  const variants = unique(runs.map(run => run.variant));
  return make(
    "ul",
    { className: "legend" },
    variants.map(variant => {
      const swatch = make("i", { className: "swatch" });
      swatch.style.background = `var(${colourOf(variant)})`;
      const seeds = runs.filter(run => run.variant === variant).length;
      return make("li", {}, swatch, `${variant} (${plural(seeds, "run")})`);
    }),
  );
}

function lastValues(kept) {
  const higher = INDEX.metrics[curvesState.key.replace("eval_", "")]?.higher ?? false;
  return grid(
    "last and best values",
    ["run", "task", "last", "at step", "best", "at step"],
    kept.map(({ run, curve: [steps, values] }) => {
      const best = values.indexOf(higher ? Math.max(...values) : Math.min(...values));
      const last = values.length - 1;
      return [
        titleOf(run),
        groupOf(run).task,
        numberText(values[last]),
        thousands(steps[last]),
        numberText(values[best]),
        thousands(steps[best]),
      ];
    }),
    2,
  );
}

function drawCurves(figure, readout, kept) {
  const data = uPlot.join(kept.map(({ curve: [steps, values] }) => [steps, values]));
  const ink = themed("--muted"),
    line = themed("--line");
  const axis = {
    stroke: ink,
    grid: { stroke: line, width: 1 },
    ticks: { stroke: line, width: 1 },
    font: "12px system-ui, sans-serif",
  };
  const seeds = unique(kept.map(each => each.run.seed));
  const plot = new uPlot(
    {
      width: figure.clientWidth,
      height: Math.min(360, Math.max(240, figure.clientWidth * 0.5)),
      scales: { x: { time: false }, y: { distr: curvesState.log ? 3 : 1 } },
      axes: [
        {
          ...axis,
          label: "optimizer step",
          labelFont: axis.font,
          values: (_, ticks) => ticks.map(tick => (tick === null ? "" : thousands(tick))),
        },
        {
          ...axis,
          size: 64,
          values: (_, ticks) => ticks.map(tick => (tick === null ? "" : numberText(tick))),
        },
      ],
      series: [
        {},
        ...kept.map(({ run }) => ({
          label: titleOf(run),
          stroke: themed(colourOf(run.variant)),
          width: 1.5,
          dash: [[], [7, 4], [2, 3], [8, 3, 2, 3]][seeds.indexOf(run.seed) % 4],
          spanGaps: true,
          points: { show: data[0].length < 30, size: 5, fill: themed(colourOf(run.variant)) },
        })),
      ],
      legend: { show: false },
      focus: { alpha: 0.25 },
      cursor: { focus: { prox: 24 }, drag: { x: true, y: false } },
      hooks: {
        setSeries: [
          (self, i) => {
            if (i === null) return;
            readAt(self, i);
          },
        ],
        setCursor: [
          self => {
            if (self.focused) readAt(self, self.focused);
          },
        ],
      },
    },
    data,
    figure,
  );
  function readAt(self, i) {
    self.focused = i;
    const at = self.cursor.idx;
    if (at === null || at === undefined) return;
    const value = self.data[i][at];
    const { run } = kept[i - 1];
    const what = value === null || value === undefined ? "" : `: ${numberText(value)}`;
    readout.textContent = `${groupOf(run).task} · ${titleOf(run)}, step ${thousands(self.data[0][at])}${what}`;
  }
  return plot;
}

function followSize() {
  const place = document.getElementById("curves");
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (curvesState.plot && Math.abs(place.clientWidth - width) > 1) {
      width = place.clientWidth;
      curvesState.plot.setSize({ width, height: curvesState.plot.height });
    }
  }).observe(place);
}
