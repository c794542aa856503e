"use strict";
// Two variants over all their seeds, or two runs: everything below the mean.

const choice = { mode: "variants", group: null, a: null, b: null, runA: null, runB: null };
const finishedRuns = INDEX.runs.filter(run => run.status === "finished");
const GROUPS = INDEX.groups
  .map((group, number) => ({
    group,
    number,
    variants: unique(finishedRuns.filter(run => run.group === number).map(run => run.variant)),
  }))
  .filter(each => each.variants.length > 1);
let compared = 0;

/** What is compared: two names, their runs, and the pairs of runs, one a seed, that predict the same test rows. */
function sides() {
  if (choice.mode === "runs") {
    const [a, b] = [choice.runA, choice.runB].map(id => INDEX.runs[id]);
    const name = run =>
      choice.runA === choice.runB || titleOf(a) === titleOf(b)
        ? `${titleOf(run)} (${run.folder})`
        : titleOf(run);
    return {
      a: { name: name(a), variant: a.variant, runs: [a] },
      b: { name: name(b), variant: b.variant, runs: [b] },
      pairs: [[a, b]],
    };
  }
  const bySeed = variant => {
    const runs = new Map();
    for (const run of finishedRuns) {
      if (run.group === choice.group && run.variant === variant && !runs.has(run.seed))
        runs.set(run.seed, run);
    }
    return runs;
  };
  const [a, b] = [bySeed(choice.a), bySeed(choice.b)];
  const fair = seed => !a.get(seed).unlike && !b.get(seed).unlike;
  const common = [...a.keys()].filter(seed => b.has(seed)).sort((one, other) => one - other);
  const seeds = common.filter(fair);
  return {
    a: { name: choice.a, variant: choice.a, runs: [...a.values()] },
    b: { name: choice.b, variant: choice.b, runs: [...b.values()] },
    pairs: seeds.map(seed => [a.get(seed), b.get(seed)]),
    unlike: common
      .filter(seed => !fair(seed))
      .map(seed => `seed ${seed}: ${b.get(seed).unlike || a.get(seed).unlike}`),
  };
}

function showChoice() {
  const form = document.getElementById("choice");
  const radio = (mode, text) => {
    const input = make("input", { type: "radio", name: "mode", value: mode, checked: choice.mode === mode });
    input.addEventListener("change", () => {
      choice.mode = mode;
      showChoice();
      compare();
    });
    return make("label", {}, input, ` ${text}`);
  };
  const modes = make(
    "fieldset",
    {},
    radio("variants", "two variants, over all seeds"),
    radio("runs", "two runs"),
  );
  modes.setAttribute("aria-label", "What to compare");
  const pick = name => value => {
    choice[name] = typeof choice[name] === "number" ? Number(value) : value;
    showChoice();
    compare();
  };
  const controls = choice.mode === "variants" ? variantSelects(pick) : runSelects(pick);
  const swap = make("button", { type: "button", id: "swap" }, "Swap A and B");
  swap.addEventListener("click", () => {
    [choice.a, choice.b, choice.runA, choice.runB] = [choice.b, choice.a, choice.runB, choice.runA];
    showChoice();
    compare();
  });
  const focused = document.activeElement?.id;
  form.replaceChildren(modes, ...controls, ...(controls.length ? [swap] : []));
  if (focused && form.querySelector(`#${focused}`)) form.querySelector(`#${focused}`).focus();
}

function identified(id, label) {
  label.querySelector("select").id = id;
  return label;
}

function variantSelects(pick) {
  if (!GROUPS.length) return [];
  const group = GROUPS.find(each => each.number === choice.group);
  for (const side of ["a", "b"]) if (!group.variants.includes(choice[side])) choice[side] = null;
  choice.a ??=
    group.variants.find(name => name === INDEX.baseline && name !== choice.b) ??
    group.variants.find(name => name !== choice.b);
  choice.b ??= group.variants.find(name => name !== choice.a);
  const names = group.variants.map(name => ({ value: name, text: name }));
  return [
    identified(
      "choose-group",
      selectOf(
        "in",
        GROUPS.map(each => ({ value: each.number, text: settingOf(each.group) })),
        choice.group,
        pick("group"),
      ),
    ),
    identified("choose-a", selectOf("A", names, choice.a, pick("a"))),
    identified("choose-b", selectOf("B", names, choice.b, pick("b"))),
  ];
}

function runSelects(pick) {
  if (finishedRuns.length < 2) return [];
  choice.runA ??= finishedRuns[0].id;
  choice.runB ??= finishedRuns[1].id;
  const options = INDEX.groups
    .map((group, number) => ({
      text: settingOf(group),
      options: finishedRuns
        .filter(run => run.group === number)
        .map(run => ({ value: run.id, text: titleOf(run) })),
    }))
    .filter(each => each.options.length);
  return [
    identified("choose-run-a", selectOf("A", options, choice.runA, pick("runA"))),
    identified("choose-run-b", selectOf("B", options, choice.runB, pick("runB"))),
  ];
}

/** Two ticked runs are compared, the baseline as A. */
function followTicks() {
  const runs = tickedRuns().filter(run => run.status === "finished");
  if (runs.length !== 2) return;
  if (runs[1].variant === INDEX.baseline && runs[0].variant !== INDEX.baseline) runs.reverse();
  choice.mode = "runs";
  [choice.runA, choice.runB] = runs.map(run => run.id);
  showChoice();
  compare();
}

async function compare() {
  const order = ++compared;
  const place = document.getElementById("comparison");
  delete place.dataset.shown;
  const possible = choice.mode === "variants" ? GROUPS.length > 0 : finishedRuns.length > 1;
  if (!possible) {
    place.replaceChildren(
      make(
        "p",
        { className: "muted" },
        choice.mode === "variants"
          ? "No setting has two finished variants."
          : "There are not two finished runs.",
      ),
    );
    return;
  }
  const both = sides();
  const parts = [heading(both)];
  const readable = both.pairs.length && both.pairs.every(([a, b]) => a.set !== null && a.set === b.set);
  if (readable) {
    const data = await load(both);
    if (order !== compared) return; // something else was picked meanwhile
    parts.push(scores(both, data), ...VIEWS[data.view](both, data));
  } else {
    parts.push(scores(both, null), make("p", { className: "muted" }, whyNoRows(both)));
  }
  place.replaceChildren(...parts.filter(Boolean));
  place.dataset.shown = String(order);
}

function whyNoRows(both) {
  if (!both.pairs.length) return "The two have no seed in common that has finished.";
  if (both.pairs.some(pair => pair.some(run => run.set === null))) {
    return "There are no predictions beside the records of these runs: only their scores can be compared.";
  }
  return "The two were tested on different rows: only their scores can be compared.";
}

function heading(both) {
  const groups = unique([...both.a.runs, ...both.b.runs].map(run => run.group)).map(
    number => INDEX.groups[number],
  );
  const other = choice.mode === "runs" && both.pairs[0][0].seed !== both.pairs[0][1].seed;
  return make(
    "div",
    {},
    make("h3", {}, `A: ${both.a.name}  ·  B: ${both.b.name}`),
    make("p", { className: "muted" }, groups.map(settingOf).join("  against  ")),
    groups.some(group => group.sample) ? make("p", { className: "stamp" }, "SAMPLE") : null,
    ...(both.unlike ?? []).map(why => make("p", { className: "warning" }, `No pair, ${why}`)),
    groups.length > 1
      ? make(
          "p",
          { className: "warning" },
          "The two differ in more than attention and seed: this is no fair pair.",
        )
      : null,
    other
      ? make(
          "p",
          { className: "muted" },
          "The seeds differ too, which changes predictions by itself: the bars below say how much.",
        )
      : null,
  );
}

/** Everything that the page needs of both sides, taken out of its columns. */
async function load(both) {
  const [first] = both.pairs[0];
  const set = setOf(first);
  const name = { classes: "prediction", sentences: "same", documents: "nats" }[set.view];
  const all = unique([...both.a.runs, ...both.b.runs, ...both.pairs.flat()]).filter(
    run => run.set === first.set,
  );
  const values = new Map(await Promise.all(all.map(async run => [run, await own(run, name)])));
  const columns = Object.fromEntries(
    await Promise.all(set.columns.map(async key => [key, await shared(first, key)])),
  );
  if (set.view === "classes") {
    for (const run of all) values.set(run, decoded(values.get(run), columns.label));
  }
  const sentences = {};
  if (set.view === "sentences") {
    for (const each of ["bleu", "chrf", "text"]) {
      if (!has(first, each)) continue;
      sentences[each] = new Map(await Promise.all(all.map(async run => [run, await own(run, each)])));
    }
  }
  return { ...set, ...sentences, first, values, columns, rowOf: i => (columns.row ? columns.row[i] : i) };
}

/** Classes, from their differences from the label modulo the size of the type. */
function decoded(codes, labels) {
  const predictions = new Uint16Array(codes.length);
  const mask = 2 ** (8 * codes.BYTES_PER_ELEMENT) - 1;
  for (let i = 0; i < codes.length; i++) predictions[i] = (codes[i] + labels[i]) & mask;
  return predictions;
}

const meanOf = (runs, name) => {
  const values = runs.map(run => run.metrics[name]).filter(value => value !== undefined);
  return values.length ? mean(values) : null;
};

/** Scores of each seed, and every other metric of the records. */
function scores(both, data) {
  const metric = groupOf(both.a.runs[0]).metric,
    other = groupOf(both.b.runs[0]).metric;
  const box = make("div", { id: "scores", className: "side-by-side" });
  if (metric === other && both.pairs.length) {
    const flipped =
      data && data.view === "classes"
        ? both.pairs.map(pair => flips(data.columns.label, [pair.map(run => data.values.get(run))]))
        : null;
    const total = counts => counts.reduce((sum, count) => sum + count, 0);
    const rows = both.pairs.map(([a, b], i) => [
      a.seed === b.seed ? `seed ${a.seed}` : `seeds ${a.seed} and ${b.seed}`,
      valueOf(metric, a.score),
      valueOf(metric, b.score),
      toned(metric, b.score - a.score),
      ...(flipped ? [thousands(total(flipped[i].fixed)), thousands(total(flipped[i].broken))] : []),
    ]);
    if (both.pairs.length > 1) {
      const [a, b] = [0, 1].map(side => mean(both.pairs.map(pair => pair[side].score)));
      rows.push([
        "mean",
        valueOf(metric, a),
        valueOf(metric, b),
        toned(metric, b - a),
        ...(flipped
          ? ["fixed", "broken"].map(name => countText(mean(flipped.map(each => total(each[name]))), true))
          : []),
      ]);
    }
    box.append(
      grid(
        "scores by seed",
        [
          "",
          `A, ${INDEX.metrics[metric].label}`,
          "B",
          `B ${MINUS} A`,
          ...(flipped ? ["rows fixed", "rows broken"] : []),
        ],
        rows,
      ),
    );
  }
  const runsOf = side =>
    both.pairs.length ? both.pairs.map(pair => pair[side]) : [both.a, both.b][side].runs;
  const rest = Object.keys(INDEX.metrics).filter(
    name => name !== metric && meanOf(runsOf(0), name) !== null && meanOf(runsOf(1), name) !== null,
  );
  if (rest.length) {
    const lines = rest.map(name => {
      const [a, b] = [0, 1].map(side => meanOf(runsOf(side), name));
      return [INDEX.metrics[name].label, valueOf(name, a), valueOf(name, b), toned(name, b - a)];
    });
    const others = grid("other metrics", ["", "A", "B", `B ${MINUS} A`], lines);
    // Of language models there is one for each context length.
    const fold = () => make("details", {}, make("summary", {}, "Other metrics of the records"), others);
    box.append(rest.length > 6 ? fold() : others);
  }
  return box;
}

const toned = (metric, difference) =>
  make("span", { className: toneOf(metric, difference) }, differenceOf(metric, difference));

/** Churn: how far swapping the variant at the same seed moves the answers, beside what another seed alone does. */
function churn(both, data) {
  const group = groupOf(both.pairs[0][0]);
  const { moved } = INDEX.metrics[group.metric];
  if (!moved) return null;
  const several = choice.mode === "variants";
  const distance = (one, other) => DISTANCES[data.view](one, other, data.columns);
  const answers = side => both.pairs.map(pair => data.values.get(pair[side]));
  const bars = [
    {
      label: several ? "variant swapped, same seed" : "between the two runs",
      distances: both.pairs.map(pair => distance(...pair.map(run => data.values.get(run)))),
      colour: "--ink",
    },
  ];
  if (several) {
    for (const [side, { name, variant }] of [both.a, both.b].entries()) {
      const distances = among(answers(side), distance); // of the same seeds as above
      bars.push({ label: `another seed, within ${name}`, distances, colour: colourOf(variant) });
    }
  }
  const known = several ? knownChurn(both, group) : null;
  known?.shares.forEach((share, i) => (bars[i].share = share));
  const drawn = bars.filter(bar => bar.distances.length);
  const most = Math.max(...drawn.flatMap(bar => bar.distances), 1e-9) * 1.05;
  const rows = thousands(data.rows);
  const note = several
    ? `Of ${rows} test rows; the line goes from the lowest to the highest pair of runs. Where the first bar is ` +
      "no longer than the others, the swap moves predictions no more than another seed does."
    : `Of ${rows} test rows. Compare two variants to see what another seed alone changes.`;
  return make(
    "div",
    {},
    make("h3", {}, "Churn: what changes below the mean"),
    known ? make("p", {}, `${known.sentence[0].toUpperCase()}${known.sentence.slice(1)}.`) : null,
    make("p", { className: "muted" }, note),
    make(
      "div",
      { className: drawn.length > 1 ? "bars" : "bars alone", id: "churn" }, // one bar has nothing to be held against
      drawn.flatMap(bar => churnBar(bar, most, moved)),
    ),
  );
}

/** What was computed with intervals when the page was written: of the baseline against a variant, either way round. */
function knownChurn(both, group) {
  const other = [both.a, both.b].find(side => side.variant !== INDEX.baseline);
  const found = group.churn[other?.variant];
  if (!found || ![both.a, both.b].some(side => side.variant === INDEX.baseline)) return null;
  const within = [found.reseed_baseline, found.reseed_variant];
  if (both.b.variant === INDEX.baseline) within.reverse();
  return { sentence: found.sentence, shares: [found.swap, ...within] };
}

/** The cells of one bar: its label, the bar with the spread of its pairs, and the mean distance. */
function churnBar({ label, distances, colour, share }, most, moved) {
  const middle = mean(distances);
  const [low, high] = [Math.min(...distances), Math.max(...distances)];
  const fill = make("div", { className: "fill" });
  fill.style.width = `${(100 * middle) / most}%`;
  fill.style.background = `var(${colour})`;
  const spread = make("div", { className: "spread" });
  spread.style.left = `${(100 * low) / most}%`;
  spread.style.width = `${(100 * (high - low)) / most}%`;
  const scale = moved.percent ? 100 : 1;
  const text = number => `${number.toFixed(moved.decimals)}${moved.percent ? "%" : ""}`;
  const interval = share ? `95% interval ${share.interval.map(text).join(" to ")}` : "";
  const pairs = distances.length > 1 ? plural(distances.length, "pair") : "";
  const added = [interval, pairs].filter(Boolean).join(", ");
  const value = make("span", { className: "value" }, text(scale * middle) + (added ? ` (${added})` : ""));
  value.dataset.value = String(scale * middle);
  return [
    make("span", {}, label),
    make("div", { className: "track" }, fill, distances.length > 1 ? spread : null),
    value,
  ];
}

/** Scores by length of the test row: five ranges, about equally full. */
function byLength(both, data, scoreOf, title, show, better) {
  if (!data.columns.length) {
    const why = `The lengths of the rows are not known: ${data.note}.`;
    return make("div", {}, make("h3", {}, "By length"), make("p", { className: "muted" }, why));
  }
  const unit =
    data.view === "documents" ? "tokens" : data.view === "sentences" ? "words of the reference" : "words";
  const rows = lengthBuckets(data.columns.length).map(bucket => {
    const [a, b] = [0, 1].map(side =>
      mean(both.pairs.map(pair => scoreOf(data.values.get(pair[side]), bucket.rows))),
    );
    const range =
      bucket.low === bucket.high
        ? `${thousands(bucket.low)}`
        : `${thousands(bucket.low)} to ${thousands(bucket.high)}`;
    const tone = Math.abs(b - a) < 1e-12 ? "" : b > a === better ? "good" : "bad";
    return [
      range,
      thousands(bucket.rows.length),
      show(a),
      show(b),
      make("span", { className: tone }, show(b - a, true)),
    ];
  });
  return make(
    "div",
    { id: "lengths" },
    make("h3", {}, "By length"),
    grid("by length", [unit, "rows", `A, ${title}`, "B", `B ${MINUS} A`], rows),
  );
}
