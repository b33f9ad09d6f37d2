// What the list shows: pairs and single texts, filtered and in order.

// {rows, sides: [rows of a side, …], lines: [rows shown beside each other, …], order}. Rows of one side of a pair that
// follow one another are its steps: runs of a pipeline of models.
function itemsOf(table) {
  const items = [];
  const waiting = new Map();
  for (const [first, end] of sidesOf(table)) {
    const rows = Array.from({ length: end - first }, (_, k) => first + k);
    const [pair, side] = [table.pair(first), table.side(first)];
    const placed = pair !== null && side !== null;
    const other = placed ? waiting.get(pair) : undefined;
    if (other && table.side(other.rows[0]) !== side) {
      Object.assign(other, itemOf(table, side === "chosen" ? [rows, other.rows] : [other.rows, rows], other.order));
      waiting.delete(pair);
      continue;
    }
    const item = itemOf(table, [rows], first);
    if (placed) waiting.set(pair, item);
    items.push(item);
  }
  return items;
}

// [first row, after the last] of each side of a pair; a text of no pair stands alone.
function sidesOf(table) {
  const found = [];
  for (let r = 0; r < table.rows; r++) {
    const last = found[found.length - 1];
    const [pair, side] = [table.pair(r), table.side(r)];
    if (last && pair !== null && side !== null && table.pair(r - 1) === pair && table.side(r - 1) === side) last[1] = r + 1;
    else found.push([r, r + 1]);
  }
  return found;
}

function itemOf(table, sides, order) {
  const lines = linesOf(table, sides);
  return { rows: lines.flat(), sides, lines, order };
}

// Step k of one side beside step k of the other where one model wrote both; other steps stand alone.
function linesOf(table, sides) {
  const found = [];
  const most = Math.max(...sides.map((rows) => rows.length));
  for (let k = 0; k < most; k++) {
    const here = sides.map((rows) => rows[k]).filter((r) => r !== undefined);
    const together = most === 1 || here.every((r) => writer(table, r) === writer(table, here[0]));
    found.push(...(together ? [here] : here.map((r) => [r])));
  }
  return found;
}

// The model of a text's first token that a model wrote, or −1.
function writer(table, r) {
  for (let t = 0; t < table.size(r); t++) if (table.actor(r, t) >= 0) return table.actor(r, t);
  return -1;
}

const paired = (item) => item.sides.length > 1;

// The name whose sums make the margin of a pair.
function mainName(table) {
  const places = ["credit", "ratio", "reward", "logp"].map((name) => table.names.findIndex((n) => n.name === name));
  return places.find((place) => place >= 0) ?? 0;
}

// Of a side that is shown alone: the margin of its pair.
const marginOf = (table, item) => {
  const pair = item.pair ?? item;
  if (!paired(pair) || table.names.length === 0) return NaN;
  const [one, other] = pair.sides.map((rows) => sumOf(table, mainName(table), rows));
  return one - other;
};

// The sum (or mean) of a name over all steps of a side.
function sumOf(table, k, rows) {
  if (rows.length === 1) return table.sum(k, rows[0]);
  const known = rows.filter((r) => !Number.isNaN(table.sum(k, r)));
  const mean = table.names[k].whole === "mean";
  const weight = known.map((r) => (mean ? table.known(k, r) : 1));
  const sum = known.reduce((all, r, i) => all + weight[i] * table.sum(k, r), 0);
  return known.length === 0 ? NaN : mean ? sum / weight.reduce((a, b) => a + b) : sum;
}

// A total of a side: sums of tokens add up over its steps, what is known of the whole (a score) stands at each of them.
function totalOf(table, k, rows, adds) {
  const found = rows.map((r) => table.total(k, r)).filter((value) => !Number.isNaN(value));
  if (found.length === 0) return NaN;
  return adds ? found.reduce((a, b) => a + b) : found[0];
}

// What texts can be sorted by, and what a range can be asked of: [key, label, number of a side of an item].
function measures(table, items) {
  const found = [];
  if (items.some(paired))
    found.push(["margin", `margin (${table.names[mainName(table)]?.label ?? ""})`, null]);
  table.names.forEach((name, k) => found.push([`sum:${k}`, wholeName(name), (rows) => sumOf(table, k, rows)]));
  const known = new Set(table.names.map((name) => name.name));
  table.totals.forEach((name, k) => {
    if (name.name === "length") return; // the tokens themselves are counted below
    const label = known.has(name.name) ? `total ${name.label}` : name.label;
    found.push([`total:${k}`, label, (rows) => totalOf(table, k, rows, known.has(name.name))]);
  });
  found.push(["length", "length (tokens)", (rows) => rows.reduce((sum, r) => sum + table.own(r), 0)]);
  return found;
}

function chosenItems(table, all, ways, state) {
  let found = all;
  if (state.side !== "any")
    found = all.flatMap((item) =>
      item.sides
        .filter(([r]) => table.side(r) === state.side)
        .map((rows) => ({ ...itemOf(table, [rows], item.order), pair: item })));
  const wanted = state.text.toLowerCase();
  const anywhere = (item, test) => item.rows.some(test);
  if (wanted) found = found.filter((item) => anywhere(item, (r) => lowered(table, r).includes(wanted)));
  if (state.wrong) found = found.filter((item) => anywhere(item, (r) => hasError(table, r)));
  if (state.against) found = found.filter((item) => marginOf(table, item) < 0);
  const [least, most] = [state.least, state.most];
  if (least !== null || most !== null) {
    const way = ways.find(([key]) => key === state.range);
    const inside = (value) => !Number.isNaN(value) && (least === null || value >= least) && (most === null || value <= most);
    found = found.filter((item) =>
      way[2] === null ? inside(marginOf(table, item)) : item.sides.some((rows) => inside(way[2](rows))));
  }
  return sorted(table, found, ways, state);
}

// A pair stands where its side with the smallest number stands, or the largest when the largest come first.
function sorted(table, items, ways, state) {
  const sign = state.descending ? -1 : 1;
  if (state.sort === "order") return state.descending ? [...items].reverse() : [...items];
  const number =
    state.sort === "lowest"
      ? (rows) => least(rows.map((r) => table.lowest(state.name, r)))
      : state.sort === "margin" ? null : ways.find(([key]) => key === state.sort)[2];
  const place = (item) => {
    if (number === null) return marginOf(table, item);
    const values = item.sides.map(number).filter((value) => !Number.isNaN(value));
    return values.length === 0 ? NaN : sign > 0 ? Math.min(...values) : Math.max(...values);
  };
  const keyed = items.map((item) => [place(item), item]);
  keyed.sort(([x, a], [y, b]) => {
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.order - b.order;
    return sign * (x - y) || a.order - b.order;
  });
  return keyed.map(([, item]) => item);
}

function least(values) {
  const known = values.filter((value) => !Number.isNaN(value));
  return known.length === 0 ? NaN : Math.min(...known);
}

// The tokens of a text in which what was searched for stands.
function matching(table, r, wanted) {
  const found = new Set();
  if (wanted === "") return found;
  const starts = [0];
  let joined = "";
  for (let t = 0; t < table.size(r); t++) {
    joined += table.token(r, t).toLowerCase();
    starts.push(joined.length);
  }
  let t = 0;
  for (let at = joined.indexOf(wanted); at >= 0; at = joined.indexOf(wanted, at + 1)) {
    while (starts[t + 1] <= at) t++;
    for (let inside = t; starts[inside] < at + wanted.length; inside++) found.add(inside);
  }
  return found;
}

const lowerTexts = new Map();
function lowered(table, r) {
  if (!lowerTexts.has(r)) lowerTexts.set(r, `${table.prompt(r)}\n${table.text(r)}\n${table.where(r) ?? ""}`.toLowerCase());
  return lowerTexts.get(r);
}

function hasError(table, r) {
  for (let t = 0; t < table.size(r); t++) if (table.wrong(r, t) !== "") return true;
  return false;
}
