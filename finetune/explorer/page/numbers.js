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

/** The share of rows in which two columns differ. */
function changed(one, other) {
  let count = 0;
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) count++;
  return count / one.length;
}

/** The shares of every two of several columns. */
function changedAmong(columns) {
  return columns.flatMap((one, i) => columns.slice(i + 1).map(other => changed(one, other)));
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

/** Up to `most` ranges of lengths, about equally full: [{low, high, rows}], rows by their places. */
function lengthBuckets(lengths, most = 5) {
  const order = Uint32Array.from(lengths.keys()).sort((one, other) => lengths[one] - lengths[other]);
  const buckets = [];
  let from = 0;
  for (let k = 1; k <= most && from < order.length; k++) {
    let to = Math.max(from + 1, Math.round((k * order.length) / most));
    while (to < order.length && lengths[order[to]] === lengths[order[to - 1]]) to++; // one length, one bucket
    const rows = order.slice(from, to);
    buckets.push({ low: lengths[rows[0]], high: lengths[rows[rows.length - 1]], rows });
    from = to;
  }
  return buckets;
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
