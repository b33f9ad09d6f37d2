// One item of the list as elements: a text, or a pair side by side, step by step where its sides have several.

const MODELS = 4; // bars of models differ in color and line; further ones repeat

function drawItem(view, item) {
  const { table } = view;
  const [first] = item.rows;
  const same = (of) => item.rows.every((r) => of(r) === of(first));
  const article = el("article", { class: "item" });
  const head = el("div", { class: "head" }, el("b", {}, itemName(table, item)));
  if (same(table.where) && table.where(first) !== null) head.append(el("span", { class: "where" }, table.where(first)));
  if (paired(item) && table.names.length > 0) {
    const margin = marginOf(table, item);
    const label = `margin of ${table.names[mainName(table)].label} `;
    head.append(el("span", { class: margin < 0 ? "margin against" : "margin" }, label, el("b", {}, brief(margin, true))));
  }
  article.append(head);
  for (const rows of item.lines) article.append(...drawLine(view, rows, paired(item), same(table.where)));
  return article;
}

// Texts beside each other: both of a pair, or one step of each side; one that stands alone keeps to its side.
function drawLine(view, rows, two, where) {
  const { table } = view;
  const [first, second] = rows;
  const shared = (of) => (of === table.where ? where : second === undefined || of(first) === of(second));
  const found = shared(table.prompt) ? drawPrompt(view, first) : [];
  const sides = el("div", { class: two && view.wide() ? "sides two" : "sides" });
  if (second !== undefined && view.align && view.wide()) drawAligned(view, rows, sides, shared);
  else {
    if (two && second === undefined && view.wide() && table.side(first) === "rejected") sides.append(el("div", {}));
    for (const r of rows) sides.append(drawSide(view, r, shared));
  }
  return [...found, sides];
}

function itemName(table, item) {
  const pair = table.pair(item.rows[0]);
  const range = (rows) => [...new Set([rows[0], rows.at(-1)])].map((r) => grouped(r + 1)).join("–");
  const numbers = item.sides.map(range).join(" and ");
  const texts = `text${item.rows.length > 1 ? "s" : ""} ${numbers}`;
  return pair === null ? texts : `pair ${grouped(pair)} · ${texts}`;
}

function drawPrompt(view, r) {
  const prompt = view.table.prompt(r).trim();
  if (prompt === "") return [];
  const open = view.open.has(r);
  const text = el("div", { class: open ? "prompt open" : "prompt", dir: "auto" }, prompt);
  if (prompt.length < 320 && prompt.split("\n").length <= 4) return [text];
  const label = open ? "shorten the prompt" : `whole prompt (${grouped(prompt.length)} characters)`;
  const button = el("button", { type: "button", class: "more", "data-open": r }, label);
  return [text, button];
}

function sideHead(view, r) {
  const { table } = view;
  const name = table.names[view.name];
  const line = el("div", { class: "side-head" });
  const side = table.side(r);
  if (side !== null) line.append(el("span", { class: `side ${side}` }, side));
  const step = view.steps.get(r);
  if (step) line.append(el("span", {}, `step ${step.join(" of ")}`));
  if (name) line.append(el("span", {}, `${wholeName(name)} `, el("b", {}, brief(table.sum(view.name, r), signed(name)))));
  const [own, all] = [table.own(r), table.size(r)];
  line.append(el("span", {}, `${grouped(own)} tokens${own < all ? `, ${grouped(all - own)} of others` : ""}`));
  return line;
}

function drawSide(view, r, shared) {
  const { table } = view;
  const box = el("div", { class: "text", "data-r": r, role: "group", "aria-label": rowName(table, r) }, sideHead(view, r));
  if (!shared(table.where) && table.where(r) !== null) box.append(el("span", { class: "where" }, table.where(r)));
  if (!shared(table.prompt)) box.append(...drawPrompt(view, r));
  for (const [from, to] of blocks(table, r)) {
    const part = partOf(view, r, from, true);
    drawLoose(view, r, Array.from({ length: to - from }, (_, k) => from + k), part.tokens);
    box.append(part.box);
  }
  return box;
}

const rowName = (table, r) => `${table.side(r) ?? ""} text ${r + 1}`.trim();

// [first, after the last] of each run of tokens of one segment and one model.
function blocks(table, r) {
  const found = [];
  let from = 0;
  for (let t = 1; t <= table.size(r); t++)
    if (t === table.size(r) || begins(table, r, t)) {
      found.push([from, t]);
      from = t;
    }
  return found;
}

const begins = (table, r, t) =>
  t === 0 || table.segment(r, t) !== table.segment(r, t - 1) || table.actor(r, t) !== table.actor(r, t - 1);

// Whether a text has several segments or a model that wrote it.
const parted = (view, r) => view.blocks(r).length > 1 || (view.table.size(r) > 0 && view.table.actor(r, 0) >= 0);

// The box of a run of tokens, with its bar and, at its start, its name and its sum.
function partOf(view, r, from, start) {
  const { table } = view;
  const tokens = el("div", { class: "tokens", dir: "auto" });
  const parts = view.blocks(r);
  const actor = table.actor(r, from);
  if (!parted(view, r)) return { box: tokens, tokens };
  const box = el("div", { class: actor < 0 ? "part none" : `part model${actor % MODELS}` });
  if (start) {
    const [, to] = parts.find(([at]) => at === from);
    const words = [];
    if (actor >= 0) words.push(`model ${actor}`);
    else if (table.has.actor) words.push("no model");
    if (table.has.segment) words.push(`segment ${table.segment(r, from)}`);
    const name = table.names[view.name];
    const line = el("div", { class: "part-head" }, words.join(" · "));
    if (name) line.append(" · ", wholeName(name), " ", el("b", {}, brief(table.part(view.name, r, from, to), signed(name))));
    box.append(line);
  }
  box.append(tokens);
  return { box, tokens };
}

// `share` of the tint is shown; `breaks`: a line ends where the text has a newline.
function drawToken(view, r, t, { share, breaks }) {
  const { table } = view;
  const token = table.token(r, t);
  const name = table.names[view.name];
  const value = name ? table.value(view.name, r, t) : null;
  const node = document.createElement("span");
  node.id = `t${r}-${t}`;
  node.className = value === null && name ? "t absent" : "t";
  node.dataset.t = t;
  node.textContent = breaks ? shown(token).replace(/↵(?!↵)/g, "↵\n").replace(/^ /, "\u00a0") : shown(token);
  if (value !== null) node.style.backgroundColor = tint(name, value, share);
  const kind = table.wrong(r, t);
  if (kind !== "") {
    node.classList.add("wrong");
    if (labeled(view, r, t)) node.append(el("span", { class: "kind", "aria-hidden": "true" }, kind));
  }
  if (view.matches(r).has(t)) node.classList.add("match");
  if (view.current && view.current.r === r && view.current.t === t) node.classList.add("current");
  return node;
}

// Whether the name of the error stands below: at the first token of a run, unless the name before reaches this far.
function labeled(view, r, t) {
  const { table } = view;
  const kind = (at) => table.wrong(r, at);
  if (t > 0 && kind(t - 1) === kind(t)) return false;
  let columns = 0;
  for (let at = t - 1; at >= 0 && columns < 12; at--) {
    columns += table.token(r, at).length;
    const begins = kind(at) !== "" && (at === 0 || kind(at - 1) !== kind(at));
    if (begins && kind(at).length * 0.75 > columns) return false; // letters of names are narrower
  }
  return true;
}

// Both texts in cells of equal widths, so that tokens that belong together stand at the same place of both columns.
function drawAligned(view, rows, sides, shared) {
  const { table } = view;
  const [first, second] = rows;
  const { pairs, bounded } = view.alignment(first, second);
  if (bounded) sides.append(el("p", { class: "where long" }, "Too long to compare: token stands opposite token."));
  sides.classList.add("aligned");
  const heads = rows.map((r) => {
    const box = el("div", { class: "text", role: "group", "aria-label": rowName(table, r) }, sideHead(view, r));
    if (!shared(table.where) && table.where(r) !== null) box.append(el("span", { class: "where" }, table.where(r)));
    if (!shared(table.prompt)) box.append(...drawPrompt(view, r));
    return box;
  });
  sides.append(...heads);
  for (const band of bands(table, rows, pairs))
    rows.forEach((r, k) => {
      const box = el("div", { class: "text", "data-r": r });
      const places = band.map((cell) => cell[k]).filter((t) => t >= 0);
      if (places.length > 0) {
        const part = partOf(view, r, places[0], begins(table, r, places[0]));
        if (band[0][3]) drawLoose(view, r, places, part.tokens);
        else drawCells(view, rows, k, band, part.tokens);
        box.append(part.box);
      }
      sides.append(box);
    });
}

function drawLoose(view, r, places, into) {
  for (const t of places) {
    // A line may end before a space, so that the box of a token stays in one piece.
    if (/^ /.test(view.table.token(r, t))) into.append(el("wbr"));
    into.append(drawToken(view, r, t, { share: 1, breaks: true }));
  }
}

// Cells stand in words, which begin at the same places on both sides: no line ends within one.
function drawCells(view, rows, k, band, into) {
  into.classList.add("cells");
  let word = null;
  for (const [i, j, same] of band) {
    const texts = [i, j].map((t, side) => (t < 0 ? "" : view.table.token(rows[side], t)));
    if (word === null || texts.some((text) => /^\s/.test(text))) {
      word = el("span", { class: "word" });
      into.append(word);
    }
    const place = [i, j][k];
    const node = place < 0
      ? el("span", { class: "t gap", "aria-hidden": "true" }, "\u00a0")
      : drawToken(view, rows[k], place, { share: same ? 0.35 : 1, breaks: false });
    node.classList.add(same ? "same" : "differs");
    node.style.width = `${Math.max(...texts.map((text) => view.width(text === "" ? "" : shown(text))))}px`;
    word.append(node);
    if (texts.some((text) => text.includes("\n"))) {
      into.append(el("br"));
      word = null;
    }
  }
}

// The cells between the places where a segment begins on either side, or where the texts part or join.
function bands(table, rows, pairs) {
  const found = [];
  pairs.forEach((cell, at) => {
    const starts = [0, 1].some((k) => cell[k] > 0 && begins(table, rows[k], cell[k]));
    const last = found[found.length - 1];
    // Loose parts go to and fro: the second text's first token joins the first one's.
    const joins = last && last.length === 1 && last[0][3] && last[0][1] < 0 && cell[0] < 0;
    if (at === 0 || (starts && !joins) || cell[3] !== pairs[at - 1][3]) found.push([]);
    found[found.length - 1].push(cell);
  });
  return found;
}
