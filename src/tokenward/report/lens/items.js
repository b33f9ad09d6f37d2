// What the list shows: pairs and single texts, filtered and in order.

function itemsOf(table) {
  const items = [];
  const waiting = new Map();
  for (let r = 0; r < table.rows; r++) {
    const pair = table.pair(r);
    const side = table.side(r);
    const other = pair === null ? undefined : waiting.get(pair);
    if (pair !== null && side !== null && other && table.side(other.rows[0]) !== side) {
      other.rows = side === "chosen" ? [r, other.rows[0]] : [other.rows[0], r];
      waiting.delete(pair);
      continue;
    }
    const item = { rows: [r], order: r };
    if (pair !== null && side !== null) waiting.set(pair, item);
    items.push(item);
  }
  return items;
}

// The name whose sums make the margin of a pair.
function mainName(table) {
  const places = ["credit", "ratio", "reward", "logp"].map((name) => table.names.findIndex((n) => n.name === name));
  return places.find((place) => place >= 0) ?? 0;
}

const marginOf = (table, item) =>
  item.rows.length < 2 || table.names.length === 0
    ? NaN
    : table.sum(mainName(table), item.rows[0]) - table.sum(mainName(table), item.rows[1]);

// What texts can be sorted by, and what a range can be asked of: [key, label, number of an item's text].
function measures(table, items) {
  const found = [];
  if (items.some((item) => item.rows.length > 1))
    found.push(["margin", `margin (${table.names[mainName(table)]?.label ?? ""})`, null]);
  table.names.forEach((name, k) => found.push([`sum:${k}`, wholeName(name), (r) => table.sum(k, r)]));
  const known = new Set(table.names.map((name) => name.name));
  table.totals.forEach((name, k) => {
    const label = known.has(name.name) ? `total ${name.label}` : name.label;
    found.push([`total:${k}`, label, (r) => table.total(k, r)]);
  });
  found.push(["length", "length (tokens)", (r) => table.size(r)]);
  return found;
}

function chosenItems(table, all, ways, state) {
  let found = all;
  if (state.side !== "any")
    found = all.flatMap((item) =>
      item.rows.filter((r) => table.side(r) === state.side).map((r) => ({ rows: [r], order: item.order })));
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
      way[2] === null ? inside(marginOf(table, item)) : anywhere(item, (r) => inside(way[2](r))));
  }
  return sorted(table, found, ways, state);
}

// A pair stands where its text with the smallest number stands, or the largest when the largest come first.
function sorted(table, items, ways, state) {
  const sign = state.descending ? -1 : 1;
  if (state.sort === "order") return state.descending ? [...items].reverse() : [...items];
  const number =
    state.sort === "lowest"
      ? (r) => table.lowest(state.name, r)
      : state.sort === "margin" ? null : ways.find(([key]) => key === state.sort)[2];
  const place = (item) => {
    if (number === null) return marginOf(table, item);
    const values = item.rows.map(number).filter((value) => !Number.isNaN(value));
    return values.length === 0 ? NaN : sign > 0 ? Math.min(...values) : Math.max(...values);
  };
  const keyed = items.map((item) => [place(item), item]);
  keyed.sort(([x, a], [y, b]) => {
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.order - b.order;
    return sign * (x - y) || a.order - b.order;
  });
  return keyed.map(([, item]) => item);
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
