"use strict";
// What each kind of prediction shows: classes, sentences, documents; and their examples, row by row.

const PAGE = 25;
const VIEWS = { classes: classesView, sentences: sentencesView, documents: documentsView };
const MOST_IN_A_MATRIX = 20;

function classesView(both, data) {
  const labels = data.columns.label;
  const classes = Math.max(
    data.labels.length,
    1 + labels.reduce((most, label) => Math.max(most, label), 0),
    ...both.pairs
      .flat()
      .map(run => 1 + data.values.get(run).reduce((most, value) => Math.max(most, value), 0)),
  );
  const names = Array.from({ length: classes }, (_, k) => data.labels[k] ?? `class ${k}`);
  const counts = [0, 1].map(side => {
    const sum = new Float64Array(classes * classes);
    for (const pair of both.pairs)
      confusion(labels, data.values.get(pair[side]), classes).forEach((count, i) => {
        sum[i] += count / both.pairs.length;
      });
    return sum;
  });
  const list = exampleList(both, data, names);
  const right = (predictions, rows) =>
    rows.reduce((sum, i) => sum + (predictions[i] === labels[i] ? 1 : 0), 0) / rows.length;
  return [
    churn(both, data),
    confusions(counts, classes, names, both.pairs.length, list.cell),
    classTable(both, data, classes, names),
    byLength(
      both,
      data,
      right,
      "right (%)",
      (share, difference) => (difference ? points(share) : percent(share)),
      true,
    ),
    consistency(both, data),
    list.element,
  ];
}

/** In how many seeds a row was fixed or broken, beside what chance would give. */
function consistency(both, data) {
  const pairs = both.pairs.map(pair => pair.map(run => data.values.get(run)));
  if (pairs.length < 2) return null;
  const labels = data.columns.label;
  const found = flips(labels, pairs);
  const chance = fixedByChance(labels, pairs);
  const rows = pairs.map((_, i) => [
    plural(i + 1, "seed"),
    ...["fixed", "broken"].map(name => thousands(found[name].filter(count => count === i + 1).length)),
    countText(chance[i], true),
  ]);
  return make(
    "div",
    { id: "consistency" },
    make("h3", {}, "Fixed and broken rows by the seeds that agree"),
    make(
      "p",
      { className: "muted" },
      "Seeds differ among themselves: the last column is what there would be of each if A and B were one and the " +
        "same, the mean over all other ways to call one run of each pair A.",
    ),
    grid("fixed and broken rows by seeds", ["in", "fixed", "broken", "by chance"], rows),
  );
}

/** A count of rows; a mean of counts has one decimal. */
const countText = (count, several) =>
  count.toLocaleString("en-US", {
    minimumFractionDigits: several ? 1 : 0,
    maximumFractionDigits: several ? 1 : 0,
  });

function confusions(counts, classes, names, seeds, pick) {
  const several = seeds > 1;
  const difference = counts[1].map((count, i) => count - counts[0][i]);
  const box = make(
    "div",
    { id: "confusions" },
    make("h3", {}, "Confusion"),
    make(
      "p",
      { className: "muted" },
      "Rows: the label; columns: the prediction. " +
        (several ? `Means over ${seeds} seeds. ` : "") +
        "A cell shows its examples below.",
    ),
  );
  if (classes > MOST_IN_A_MATRIX) {
    const order = [...difference.keys()]
      .sort((one, other) => Math.abs(difference[other]) - Math.abs(difference[one]))
      .slice(0, MOST_IN_A_MATRIX);
    box.append(
      grid(
        "the largest changes of the confusion matrix",
        ["label", "prediction", "A", "B", `B ${MINUS} A`],
        order.map(i => [
          names[Math.floor(i / classes)],
          names[i % classes],
          countText(counts[0][i], several),
          countText(counts[1][i], several),
          signed(difference[i], several ? 1 : 0),
        ]),
        2,
      ),
    );
    return box;
  }
  const wrong = Math.max(
    ...[...counts[0], ...counts[1]].filter(
      (_, i) => Math.floor((i % (classes * classes)) / classes) !== i % classes,
    ),
    1,
  );
  const most = Math.max(...difference.map(Math.abs), 1);
  const matrix = (label, values, cellOf) =>
    make(
      "div",
      {},
      make("h4", {}, label),
      grid(
        label,
        ["", ...names],
        names.map((name, i) => [
          name,
          ...names.map((prediction, j) => {
            const value = values[i * classes + j];
            const { text, colour, strength } = cellOf(value, i, j);
            const button = make(
              "button",
              { type: "button", title: `label ${name}, prediction ${prediction}` },
              text,
            );
            button.addEventListener("click", () => pick(i, j));
            const cell = make("td", {}, text && button);
            cell.style.background = `color-mix(in srgb, var(${colour}) ${Math.round(strength)}%, transparent)`;
            return cell;
          }),
        ]),
      ),
    );
  const plain = (value, i, j) => ({
    text: value ? countText(value, several) : "",
    colour: i === j ? "--variant-0" : "--bad",
    strength: i === j ? 12 : Math.min(60, (60 * value) / wrong),
  });
  const changes = (value, i, j) => {
    const good = value > 0 === (i === j);
    return {
      text: Math.abs(value) < 0.05 ? "" : signed(value, several ? 1 : 0),
      colour: good ? "--good" : "--bad",
      strength: (60 * Math.abs(value)) / most,
    };
  };
  const tables = [matrix("A", counts[0], plain), matrix("B", counts[1], plain)];
  const third = matrix(`B ${MINUS} A`, difference, changes);
  for (const [name, each] of [
    ["a", tables[0]],
    ["b", tables[1]],
    ["difference", third],
  ]) {
    each.id = `confusion-${name}`;
    each.querySelector("table").classList.add("matrix");
  }
  if (classes > 8) box.append(third, make("details", {}, make("summary", {}, "The two matrices"), ...tables));
  else box.append(make("div", { className: "side-by-side" }, third, ...tables));
  return box;
}

function classTable(both, data, classes, names) {
  const answers = side => both.pairs.map(pair => data.values.get(pair[side]));
  const [a, b] = [0, 1].map(side => perClassOver(data.columns.label, answers(side), classes));
  const cells = name => k => [percent(a[k][name]), percent(b[k][name]), toneSpan(b[k][name] - a[k][name])];
  const rows = names.map((name, k) => [
    name,
    thousands(Math.round(a[k].support)),
    ...cells("f1")(k),
    ...cells("precision")(k),
    ...cells("recall")(k),
  ]);
  return make(
    "div",
    { id: "per-class" },
    make("h3", {}, "Per class"),
    grid(
      "per class",
      [
        "class",
        "rows",
        ...["F1", "precision", "recall"].flatMap(name => [`${name}, A`, "B", `B ${MINUS} A`]),
      ],
      rows,
    ),
  );
}

const toneSpan = share =>
  make("span", { className: Math.abs(share) < 5e-5 ? "" : share > 0 ? "good" : "bad" }, points(share));

const toneOfFlips = (found, i) => ["bad", "", "good"][1 + Math.sign(found.fixed[i] - found.broken[i])];

/** The rows on which the two differ, the most consistent first; its `cell` shows those of a cell. */
function exampleList(both, data, names) {
  const labels = data.columns.label;
  const pairs = both.pairs.map(pair => pair.map(run => data.values.get(run)));
  const found = flips(labels, pairs);
  const state = { kind: "fixed", label: "", least: 1, cell: null, shown: PAGE };
  const kinds = {
    fixed: "fixed: A wrong, B right",
    broken: "broken: A right, B wrong",
    changed: "any change",
    wrong: "both wrong in every pair",
  };
  const always = i => pairs.every(([a, b]) => a[i] !== labels[i] && b[i] !== labels[i]);
  const element = make("div", { id: "examples" });

  function rows() {
    const weight = i => (state.kind === "wrong" ? (always(i) ? pairs.length : 0) : found[state.kind][i]);
    const kept = [];
    for (let i = 0; i < labels.length; i++) {
      if (state.cell) {
        const [label, prediction] = state.cell;
        if (
          labels[i] === label &&
          pairs.some(
            ([a, b]) =>
              (a[i] === prediction || b[i] === prediction) &&
              (a[i] !== b[i] || label === prediction || a[i] === prediction),
          )
        )
          kept.push(i);
      } else if (weight(i) >= state.least && (state.label === "" || labels[i] === Number(state.label)))
        kept.push(i);
    }
    if (state.cell) return kept.sort((one, other) => found.changed[other] - found.changed[one]);
    // Of equally frequent changes the one that is not also undone in another pair comes first.
    const net = i =>
      state.kind === "fixed"
        ? found.fixed[i] - found.broken[i]
        : state.kind === "broken"
          ? found.broken[i] - found.fixed[i]
          : weight(i);
    return kept.sort((one, other) => net(other) - net(one) || one - other);
  }

  function show() {
    const kept = rows();
    const texts = data.columns.text ? data.columns.text : null;
    const of = pairs.length > 1 ? ` of ${pairs.length} seeds` : "";
    const items = kept.slice(0, state.shown).map(i => {
      const verdict =
        pairs.length === 1
          ? found.fixed[i]
            ? "fixed"
            : found.broken[i]
              ? "broken"
              : found.changed[i]
                ? "changed, wrong"
                : "unchanged"
          : [
              ["fixed", found.fixed[i]],
              ["broken", found.broken[i]],
            ]
              .filter(([, n]) => n)
              .map(([word, n]) => `${word} in ${n}${of}`)
              .join(", ") || (found.changed[i] ? `changed in ${found.changed[i]}${of}` : "unchanged");
      return make(
        "li",
        {},
        make(
          "div",
          { className: "facts" },
          make(
            "span",
            {
              className: `verdict ${toneOfFlips(found, i)}`,
            },
            verdict,
          ),
          make("span", {}, `row ${thousands(data.rowOf(i))}`),
          make("span", {}, `label ${names[labels[i]]}`),
          make(
            "span",
            {},
            `A ${said(
              pairs.map(([a]) => a[i]),
              names,
            )}`,
          ),
          make(
            "span",
            {},
            `B ${said(
              pairs.map(([, b]) => b[i]),
              names,
            )}`,
          ),
        ),
        texts?.[i] ? make("p", {}, texts[i]) : null,
      );
    });
    const clear = make("button", { type: "button" }, "Leave the cell");
    clear.addEventListener("click", () => {
      state.cell = null;
      show();
    });
    const pick = name => value => {
      state[name] = name === "least" ? Number(value) : value;
      state.cell = null;
      state.shown = PAGE;
      show();
    };
    const focused = document.activeElement?.id;
    refill(
      element,
      make("h3", {}, "Examples"),
      make(
        "form",
        { className: "bar" },
        identified(
          "example-kind",
          selectOf(
            "Show",
            Object.entries(kinds).map(([value, text]) => ({ value, text })),
            state.kind,
            pick("kind"),
          ),
        ),
        identified(
          "example-label",
          selectOf(
            "label",
            [{ value: "", text: "any" }, ...names.map((text, value) => ({ value, text }))],
            state.label,
            pick("label"),
          ),
        ),
        pairs.length > 1
          ? identified(
              "example-least",
              selectOf(
                "in at least",
                pairs.map((_, i) => ({ value: i + 1, text: plural(i + 1, "seed") })),
                state.least,
                pick("least"),
              ),
            )
          : null,
      ),
      make(
        "p",
        { className: "muted", id: "example-count", role: "status" },
        state.cell
          ? `${plural(kept.length, "row")} with label ${names[state.cell[0]]} that A or B calls ` +
              `${names[state.cell[1]]} `
          : plural(kept.length, "row"),
        state.cell ? clear : null,
      ),
      make("ol", { className: "examples" }, items),
      moreButton(kept.length, state, show),
      texts
        ? null
        : make(
            "p",
            { className: "muted" },
            "This page holds no texts: finetune view --with-texts puts those of rows that a run got wrong " +
              "into it.",
          ),
    );
    if (focused) element.querySelector(`#${CSS.escape(focused)}`)?.focus();
  }
  show();
  return {
    element,
    cell: (label, prediction) => {
      state.cell = [label, prediction];
      state.shown = PAGE;
      show();
      element.scrollIntoView({ block: "start" });
    },
  };
}

/** Shows a further part of a list whose `state` says how many of all `count` it shows; none at its end. */
function moreButton(count, state, show) {
  if (count <= state.shown) return null;
  const more = make("button", { type: "button" }, "Show more");
  more.addEventListener("click", () => {
    state.shown += PAGE;
    show();
  });
  return more;
}

/** Chooses what comes first, of the names that `orders` has for the largest changes and each side's gains. */
function orderSelect(orders, chosen, pick) {
  const texts = ["the largest changes", "B better", "A better"];
  const options = orders.map((value, i) => ({ value, text: texts[i] }));
  return identified("example-kind", selectOf("first", options, chosen, pick));
}

/** The predictions of all seeds in words: "Sports" or "Sports 3, World 1". */
function said(predictions, names) {
  const counts = new Map();
  for (const each of predictions) counts.set(each, (counts.get(each) ?? 0) + 1);
  const order = [...counts].sort((one, other) => other[1] - one[1]);
  return order.map(([k, count]) => (order.length > 1 ? `${names[k]} ${count}` : names[k])).join(", ");
}

function sentencesView(both, data) {
  const score = (scores, rows) => rows.reduce((sum, i) => sum + scores[i], 0) / rows.length / 100;
  const show = (value, difference) => (difference ? signed(value, 2) : value.toFixed(2));
  return [
    churn(both, data),
    byLength(both, { ...data, values: data.bleu }, score, "mean BLEU of a sentence", show, true),
    translationList(both, data),
  ];
}

/** Translations side by side; of two variants those of one seed, which can be chosen. */
function translationList(both, data) {
  const element = make("div", { id: "examples" });
  const state = { pair: 0, shown: PAGE, order: "changed" };

  const gainIn = (scores, [a, b], i) => (scores.get(b)[i] - scores.get(a)[i]) / 100;

  function show() {
    const pair = both.pairs[state.pair];
    const [one, other] = pair.map(run => data.values.get(run));
    const gain = i => gainIn(data.bleu, pair, i);
    const orders = { changed: i => -Math.abs(gain(i)), fixed: i => -gain(i), broken: gain };
    const rank = orders[state.order];
    const kept = [...one.keys()].filter(i => one[i] !== other[i]).sort((i, j) => rank(i) - rank(j) || i - j);
    const texts = data.text ? pair.map(run => data.text.get(run)) : null;
    const items = kept.slice(0, state.shown).map(i => {
      const marked = texts ? markedWords(texts[0][i], texts[1][i]) : null;
      const text = side =>
        make(
          "p",
          {},
          make("b", {}, ["A ", "B "][side]),
          marked[side].flatMap(({ word, differs }) => [differs ? make("mark", {}, word) : word, " "]),
        );
      const better = both.pairs.filter(each => gainIn(data.bleu, each, i) > 0).length;
      const scores = name => pair.map(run => (data[name].get(run)[i] / 100).toFixed(1)).join(" \u2192 ");
      const tone = ["bad", "", "good"][1 + Math.sign(gain(i))];
      const facts = [
        make("span", { className: `verdict ${tone}` }, `BLEU ${signed(gain(i), 1)}`),
        make("span", {}, `row ${thousands(data.rowOf(i))}`),
        make("span", {}, `BLEU ${scores("bleu")}`),
        make("span", {}, `chrF ${scores("chrf")}`),
        both.pairs.length > 1
          ? make("span", {}, `B better in ${better} of ${both.pairs.length} seeds`)
          : null,
      ].filter(Boolean);
      return make(
        "li",
        {},
        make("div", { className: "facts" }, facts),
        data.columns.source ? make("p", { className: "muted" }, `source: ${data.columns.source[i]}`) : null,
        data.columns.reference
          ? make("p", { className: "muted" }, `reference: ${data.columns.reference[i]}`)
          : null,
        marked ? make("div", { className: "translations" }, text(0), text(1)) : null,
      );
    });
    const pick = name => value => {
      state[name] = name === "pair" ? Number(value) : value;
      state.shown = PAGE;
      show();
    };
    refill(
      element,
      ...[
        make("h3", {}, "Examples"),
        make(
          "form",
          { className: "bar" },
          both.pairs.length > 1
            ? identified(
                "example-pair",
                selectOf(
                  "of",
                  both.pairs.map(([run], i) => ({ value: i, text: `seed ${run.seed}` })),
                  state.pair,
                  pick("pair"),
                ),
              )
            : null,
          orderSelect(["changed", "fixed", "broken"], state.order, pick("order")),
        ),
        make(
          "p",
          { className: "muted", id: "example-count", role: "status" },
          `${plural(kept.length, "translation")} of ${thousands(one.length)} differ`,
        ),
        make("ol", { className: "examples" }, items),
        moreButton(kept.length, state, show),
        texts
          ? null
          : make(
              "p",
              { className: "muted" },
              "This page holds no texts: finetune view --with-texts puts the translations into it.",
            ),
      ].filter(Boolean),
    );
  }
  show();
  return element;
}

function documentsView(both, data) {
  const tokens = data.columns.length;
  const perToken = (nats, rows) =>
    rows.reduce((sum, i) => sum + nats[i], 0) / rows.reduce((sum, i) => sum + tokens[i], 0);
  return [
    churn(both, data),
    byLength(
      both,
      data,
      perToken,
      "nats a token",
      (value, difference) => (difference ? signed(value, 4) : value.toFixed(4)),
      false,
    ),
    documentList(both, data),
  ];
}

/** Documents by how much their nats differ, summed over tokens; means over the seeds. */
function documentList(both, data) {
  const element = make("div", { id: "examples" });
  const tokens = data.columns.length;
  const pairs = both.pairs.map(pair => pair.map(run => data.values.get(run)));
  const gain = Float64Array.from(tokens, (_, i) => mean(pairs.map(([a, b]) => b[i] - a[i])));
  const state = { order: "largest", shown: PAGE };
  const orders = { largest: i => -Math.abs(gain[i]), better: i => gain[i], worse: i => -gain[i] };

  function show() {
    const kept = [...gain.keys()].sort((i, j) => orders[state.order](i) - orders[state.order](j));
    const rows = kept.slice(0, state.shown).map(i => {
      const better = pairs.filter(([a, b]) => b[i] < a[i]).length;
      return [
        data.columns.document[i],
        thousands(tokens[i]),
        ...[0, 1].map(side => (mean(pairs.map(pair => pair[side][i])) / tokens[i]).toFixed(4)),
        make("span", { className: gain[i] < 0 ? "good" : "bad" }, signed(gain[i] / tokens[i], 4)),
        signed(gain[i], 1),
        pairs.length > 1 ? `${better} of ${pairs.length}` : better ? "yes" : "no",
      ];
    });
    refill(
      element,
      make("h3", {}, "Documents"),
      make(
        "form",
        { className: "bar" },
        orderSelect(["largest", "better", "worse"], state.order, value => {
          state.order = value;
          state.shown = PAGE;
          show();
        }),
      ),
      make("p", { className: "muted", id: "example-count" }, plural(kept.length, "document")),
      grid(
        "documents",
        [
          "document",
          "tokens",
          "A, nats a token",
          "B",
          `B ${MINUS} A`,
          "in all",
          pairs.length > 1 ? "seeds with B better" : "B better",
        ],
        rows,
      ),
      moreButton(kept.length, state, show),
    );
  }
  show();
  return element;
}
