// The panel of exact numbers beside the texts.

function drawPanel(view, place) {
  const { table } = view;
  if (!place) return drawHint(view);
  const { r, t } = place;
  const across = view.across(r, t);
  return [
    el("div", { class: "token-head" }, el("code", { dir: "auto" }, quoted(table.token(r, t)))),
    el("p", { class: "place" }, placeWords(view, r, t).join(" · ")),
    ...drawValues(view, r, t, across),
    ...drawAlternatives(view, r, t),
    ...drawWhole(view, r),
  ];
}

function drawHint(view) {
  const lines = ["Rest the pointer on a token, or move to it with the arrow keys: its numbers stand here. Press ? for all keys."];
  if (view.table.has.wrong) lines.push("A wavy underline marks a token that is wrong, with the name of the error below it.");
  if (view.pairs) lines.push("In aligned pairs, tokens of both texts are pale; what differs is underlined, or stands in paragraphs of its own.");
  if (view.table.has.actor) lines.push("Bars at the left tell the models apart that wrote a text.");
  lines.push("Gray italics: a token without this number, such as one that no model wrote.");
  return lines.map((line) => el("p", { class: "hint" }, line));
}

function placeWords(view, r, t) {
  const { table } = view;
  const words = [`token ${grouped(t + 1)} of ${grouped(table.size(r))}`];
  if (table.has.segment && parted(view, r)) words.push(`segment ${table.segment(r, t)}`);
  if (table.has.actor && parted(view, r)) words.push(table.actor(r, t) < 0 ? "no model" : `model ${table.actor(r, t)}`);
  const side = table.side(r);
  words.push(side === null ? `text ${grouped(r + 1)}` : `${side} text ${grouped(r + 1)}`);
  if (table.wrong(r, t) !== "") words.push(`wrong: ${table.wrong(r, t)}`);
  return words;
}

function drawValues(view, r, t, across) {
  const { table } = view;
  const other = across ? table.side(across.r) ?? "other" : null;
  const rows = table.names.map((name, k) => {
    const value = table.value(k, r, t);
    const cells = [headOf(name.label, name.unit), el("td", {}, written(value, signed(name)))];
    if (across) cells.push(el("td", { class: "across" }, written(table.value(k, across.r, across.t), signed(name))));
    return el("tr", { class: k === view.name ? "active" : null }, ...cells);
  });
  if (rows.length === 0) return [];
  const found = [];
  if (across) {
    const token = quoted(table.token(across.r, across.t));
    found.push(el("p", { class: "opposite" }, `opposite, ${other}: `, el("code", { dir: "auto" }, token)));
    const top = ["", "here", "opposite"].map((word) => el("th", { scope: "col" }, word));
    found.push(el("table", { class: "values" }, el("thead", {}, el("tr", {}, ...top)), el("tbody", {}, ...rows)));
  } else found.push(el("table", { class: "values" }, el("tbody", {}, ...rows)));
  return found;
}

const headOf = (label, unit) => el("th", { scope: "row" }, label, unit && el("span", { class: "unit" }, ` ${unit}`));

function drawAlternatives(view, r, t) {
  const { table } = view;
  const found = table.alternatives(r, t);
  if (!found) return view.alternatives ? [el("p", { class: "hint" }, "No other tokens are kept for this text.")] : [];
  if (found.length === 0) return [];
  const reference = found.some(([, , ref]) => ref !== null);
  const size = ([, logp, ref]) => Math.max(logp ?? -Infinity, ref ?? -Infinity);
  const actual = table.id(r, t);
  const rows = [...found].sort((a, b) => size(b) - size(a)).map(([id, logp, ref]) => {
    const here = id === actual;
    const cells = [el("th", { scope: "row" }, here ? "▸ " : "", el("code", { dir: "auto" }, quoted(table.string(id))))];
    cells.push(barOf(logp, "policy"));
    if (reference) cells.push(barOf(ref, "reference"));
    return el("tr", { class: here ? "active" : null }, ...cells);
  });
  const top = ["", "log π", ...(reference ? ["log π_ref"] : [])].map((word) => el("th", { scope: "col" }, word));
  return [
    el("h2", {}, reference ? "Likeliest under policy and reference" : "Likeliest under the policy"),
    el("table", { class: "alternatives" }, el("thead", {}, el("tr", {}, ...top)), el("tbody", {}, ...rows)),
    el("p", { class: "hint" }, "nats; bars are probabilities; ▸ stands in the text"),
  ];
}

function barOf(logp, whose) {
  const cell = el("td", {}, written(logp, false));
  const bar = el("span", { class: `probability ${whose}`, "aria-hidden": "true" });
  bar.style.width = `${logp === null ? 0 : 100 * Math.exp(Math.min(0, logp))}%`;
  cell.append(bar);
  return cell;
}

function drawWhole(view, r) {
  const { table } = view;
  const rows = [];
  table.names.forEach((name, k) => {
    const sum = table.sum(k, r);
    if (!Number.isNaN(sum)) rows.push([wholeName(name), sum, name.unit, signed(name)]);
  });
  table.totals.forEach((name, k) => {
    const total = table.total(k, r);
    const known = table.names.some((other) => other.name === name.name);
    if (!Number.isNaN(total)) rows.push([known ? `total ${name.label}` : name.label, total, name.unit, true]);
  });
  const lines = rows.map(([label, number, unit, sign]) =>
    el("tr", {}, headOf(label, unit), el("td", {}, written(number, sign))));
  const where = table.where(r);
  return [
    el("h2", {}, "Whole text"),
    ...(where === null ? [] : [el("p", { class: "place" }, where)]),
    el("table", { class: "values" }, el("tbody", {}, ...lines)),
  ];
}

// What the live region says when a token is reached by keyboard.
function spoken(view, { r, t }) {
  const { table } = view;
  const name = table.names[view.name];
  const parts = [quoted(table.token(r, t))];
  if (name) {
    const value = table.value(view.name, r, t);
    parts.push(value === null ? `no ${name.label}` : `${name.label} ${written(value, signed(name))} ${name.unit}`);
  }
  if (table.wrong(r, t) !== "") parts.push(`wrong: ${table.wrong(r, t)}`);
  parts.push(placeWords(view, r, t)[0], rowName(table, r));
  return parts.join(", ");
}
