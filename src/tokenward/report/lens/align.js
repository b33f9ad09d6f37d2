// Which tokens of two texts belong together: the longest common subsequence, without its stray matches.

const MOST_CELLS = 4e6; // of the table of lengths; in longer middles only equal places are compared
const SHORT = 3; // tokens: an end of equal tokens that joins loose ones
const LOOSE = 6; // tokens: what differs at more than these is not set token against token

// [[place in a or −1, place in b or −1, same, loose], …] in order; `bounded`: the middle was too long to compare.
function aligned(a, b) {
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const [n, m] = [a.length - tail - head, b.length - tail - head];
  const bounded = n * m > MOST_CELLS;
  const middle = bounded ? equalPlaces(a, b, head, Math.min(n, m)) : common(a, b, head, n, m);
  const runs = [];
  const add = (i, j) => {
    const last = runs[runs.length - 1];
    if (last && last.i + last.n === i && last.j + last.n === j) last.n++;
    else runs.push({ i, j, n: 1 });
  };
  for (let k = 0; k < head; k++) add(k, k);
  for (const [i, j] of middle) add(i, j);
  for (let k = tail; k > 0; k--) add(a.length - k, b.length - k);
  return { pairs: cells(withoutStray(runs, a.length, b.length), a.length, b.length), bounded };
}

// Runs of equal tokens but for those shorter than what differs on both sides of them: chance, not correspondence.
function withoutStray(runs, endA, endB) {
  let kept = runs;
  for (;;) {
    const gap = (k) => {
      const before = kept[k - 1] ?? { i: 0, j: 0, n: 0 };
      const after = kept[k] ?? { i: endA, j: endB };
      return Math.max(after.i - before.i - before.n, after.j - before.j - before.n);
    };
    const next = kept.filter((run, k) => run.n >= gap(k) || run.n >= gap(k + 1));
    if (next.length === kept.length) return kept;
    kept = next;
  }
}

function cells(runs, endA, endB) {
  const pairs = [];
  let i = 0;
  let j = 0;
  const all = [...runs, { i: endA, j: endB, n: 0 }];
  all.forEach((run, at) => {
    const loose = Math.max(run.i - i, run.j - j) > LOOSE;
    while (i < run.i || j < run.j) {
      const [x, y] = [i < run.i ? i++ : -1, j < run.j ? j++ : -1];
      if (!loose) pairs.push([x, y, false, false]);
      else pairs.push(...[[x, -1, false, true], [-1, y, false, true]].filter(([p, q]) => p >= 0 || q >= 0));
    }
    const next = all[at + 1];
    const parts = next && Math.max(next.i - i - run.n, next.j - j - run.n) > LOOSE;
    const end = at === 0 || at >= all.length - 2;
    const joined = run.n <= SHORT && (loose || parts) && (end || (loose && parts));
    for (let k = 0; k < run.n; k++) pairs.push([i++, j++, true, joined]);
  });
  return pairs;
}

function equalPlaces(a, b, from, count) {
  const found = [];
  for (let k = from; k < from + count; k++) if (a[k] === b[k]) found.push([k, k]);
  return found;
}

function common(a, b, from, n, m) {
  const length = new Uint16Array((n + 1) * (m + 1));
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      length[i * (m + 1) + j] =
        a[from + i] === b[from + j]
          ? length[(i + 1) * (m + 1) + j + 1] + 1
          : Math.max(length[(i + 1) * (m + 1) + j], length[i * (m + 1) + j + 1]);
  const found = [];
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (a[from + i] === b[from + j]) found.push([from + i++, from + j++]);
    else if (length[(i + 1) * (m + 1) + j] >= length[i * (m + 1) + j + 1]) i++;
    else j++;
  }
  return found;
}

// Segment by segment where both texts have as many: what belongs together stands in the same one.
function alignedParts(table, first, second) {
  let [ours, theirs] = [blocks(table, first), blocks(table, second)];
  if (ours.length !== theirs.length) [ours, theirs] = [[[0, table.size(first)]], [[0, table.size(second)]]];
  const pairs = [];
  let bounded = false;
  ours.forEach(([from, to], k) => {
    const [start, end] = theirs[k];
    const ids = (r, a, b) => Array.from({ length: b - a }, (_, t) => table.id(r, a + t));
    const found = aligned(ids(first, from, to), ids(second, start, end));
    bounded ||= found.bounded;
    for (const [i, j, ...how] of found.pairs) pairs.push([i < 0 ? -1 : i + from, j < 0 ? -1 : j + start, ...how]);
  });
  return { pairs, bounded };
}

// The alignment of an item's two texts, made when first shown.
function alignmentOf(table) {
  const known = new Map();
  return (first, second) => {
    if (!known.has(first)) {
      const { pairs, bounded } = alignedParts(table, first, second);
      const across = [new Int32Array(table.size(first)).fill(-1), new Int32Array(table.size(second)).fill(-1)];
      for (const [i, j] of pairs) {
        if (i >= 0) across[0][i] = j;
        if (j >= 0) across[1][j] = i;
      }
      known.set(first, { pairs, across, bounded });
    }
    return known.get(first);
  };
}
