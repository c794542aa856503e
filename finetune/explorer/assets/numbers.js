"use strict";
// Numbers of two sides of predictions, those of `finetune diff`. Nothing here touches the page.

/** Counts by label and prediction: (classes x classes), row by row. */
function confusion(labels, predictions, classes) {
  const counts = new Float64Array(classes * classes);
  for (let i = 0; i < labels.length; i++) counts[labels[i] * classes + predictions[i]]++;
  return counts;
}

/** Precision, recall and F1 of each class, as shares; 0 where nothing is of it. */
function perClass(counts, classes) {
  return Array.from({ length: classes }, (_, k) => {
    let support = 0,
      predicted = 0;
    for (let j = 0; j < classes; j++) {
      support += counts[k * classes + j];
      predicted += counts[j * classes + k];
    }
    const right = counts[k * classes + k];
    return {
      support,
      predicted,
      precision: predicted ? right / predicted : 0,
      recall: support ? right / support : 0,
      f1: support + predicted ? (2 * right) / (support + predicted) : 0,
    };
  });
}

/** How far two columns of answers are apart, by the name of their view: the mean over rows. */
const DISTANCES = {
  classes: changed,
  sentences: changed,
  documents: (one, other, { length }) =>
    one.reduce((sum, nats, i) => sum + Math.abs(nats - other[i]) / length[i], 0) / one.length,
};

/** The share of rows in which two columns differ. */
function changed(one, other) {
  let count = 0;
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) count++;
  return count / one.length;
}

/** The distances of every two of several columns. */
function among(columns, distance) {
  return columns.flatMap((one, i) => columns.slice(i + 1).map(other => distance(one, other)));
}

const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;

/** By row, in how many pairs A alone is right (broken), B alone is (fixed), and the two differ (changed). */
function flips(labels, pairs) {
  const rows = labels.length;
  const found = {
    fixed: new Uint16Array(rows),
    broken: new Uint16Array(rows),
    changed: new Uint16Array(rows),
  };
  for (const [a, b] of pairs) {
    for (let i = 0; i < rows; i++) {
      if (a[i] === b[i]) continue;
      found.changed[i]++;
      if (b[i] === labels[i]) found.fixed[i]++;
      else if (a[i] === labels[i]) found.broken[i]++;
    }
  }
  return found;
}

/** The means, over several predictions of the same rows, of what `perClass` says. */
function perClassOver(labels, several, classes) {
  const each = several.map(predictions => perClass(confusion(labels, predictions, classes), classes));
  return each[0].map((first, k) => ({
    support: first.support,
    ...Object.fromEntries(
      ["precision", "recall", "f1"].map(name => [name, mean(each.map(one => one[k][name]))]),
    ),
  }));
}

/**
 * Rows that are fixed in 1, 2, ... pairs when the two of a pair change places: the mean over the ways to do so,
 * without the two in which none or all do. Of many pairs the first six change places.
 */
function fixedByChance(labels, pairs) {
  const movable = Math.min(pairs.length, 6);
  const counts = new Array(pairs.length).fill(0);
  let ways = 0;
  for (let way = 1; way < 2 ** movable; way++) {
    const moved = pairs.map((_, i) => i < movable && Boolean(way & (1 << i)));
    if (moved.every(Boolean)) continue;
    ways++;
    const ordered = pairs.map(([a, b], i) => (moved[i] ? [b, a] : [a, b]));
    for (const count of flips(labels, ordered).fixed) if (count) counts[count - 1]++;
  }
  return counts.map(count => count / ways);
}

/** Up to five ranges of lengths, about equally full, of 20 rows or more: [{low, high, rows}], rows by place. */
function lengthBuckets(lengths, most = 5, fewest = 20) {
  const sorted = Float64Array.from(lengths).sort();
  const count = Math.max(1, Math.min(most, Math.floor(lengths.length / fewest)));
  const cuts = Array.from({ length: count - 1 }, (_, k) => (k + 1) / count);
  const edges = unique(cuts.map(cut => sorted[Math.floor(cut * (sorted.length - 1) + 1e-9)]));
  const buckets = Array.from({ length: edges.length + 1 }, () => []);
  lengths.forEach((length, i) => buckets[edges.filter(edge => edge < length).length].push(i));
  return buckets
    .filter(rows => rows.length)
    .map(rows => {
      const of = rows.map(i => lengths[i]).sort((one, other) => one - other);
      return { low: of[0], high: of[of.length - 1], rows };
    });
}

/** Words of two texts, each with whether the other lacks it: a longest common subsequence. */
function markedWords(one, other) {
  const a = one.split(/\s+/).filter(Boolean),
    b = other.split(/\s+/).filter(Boolean);
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] =
        a[i] === b[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const marked = [a.map(word => ({ word, differs: true })), b.map(word => ({ word, differs: true }))];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) marked[0][i++].differs = marked[1][j++].differs = false;
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return marked;
}
