// The page itself: reads the texts, wires the controls and the keys.

const KEYS = [
  ["← →", "token before, token after"],
  ["↑ ↓  or  k j", "text before, text after"],
  ["Home End", "first and last token of the text"],
  ["g G", "first and last text"],
  ["o", "the token opposite, in the other text of the pair"],
  ["e E", "next and previous token that is wrong"],
  ["c C", "next and previous color"],
  ["1 … 9", "color by its place"],
  ["a", "align pairs, or not"],
  ["/", "search"],
  ["?", "these keys"],
  ["Esc", "back to the texts"],
];

const canvas = document.createElement("canvas").getContext("2d");

function viewOf(table) {
  const alignment = alignmentOf(table);
  const partner = new Map();
  const widths = new Map();
  const split = new Map();
  const matches = new Map();
  const steps = new Map(); // text -> [its number among the steps of its side, how many these are]
  for (const item of itemsOf(table)) {
    for (const [first, second] of item.lines)
      if (second !== undefined) [first, second].forEach((r, k) => partner.set(r, { first, second, k }));
    for (const rows of item.sides) if (rows.length > 1) rows.forEach((r, k) => steps.set(r, [k + 1, rows.length]));
  }
  const view = {
    table,
    alignment,
    steps,
    name: 0,
    align: true,
    open: new Set(),
    pairs: partner.size > 0,
    current: null,
    wanted: "",
    alternatives: Array.from({ length: table.rows }, (_, r) => r).some((r) => table.size(r) > 0 && table.alternatives(r, 0)),
    wide: () => $("list").clientWidth >= 640,
    bar: () => $("bar").offsetHeight,
    blocks(r) {
      if (!split.has(r)) split.set(r, blocks(table, r));
      return split.get(r);
    },
    matches(r) {
      if (!matches.has(r)) matches.set(r, matching(table, r, view.wanted));
      return matches.get(r);
    },
    seek(wanted) {
      view.wanted = wanted;
      matches.clear();
    },
    width(text) {
      if (!widths.has(text)) widths.set(text, Math.ceil(canvas.measureText(text).width * 4) / 4);
      return widths.get(text);
    },
    // The same place of the pair's other text, or the nearest before it that has one.
    beside(r, t) {
      const known = partner.get(r);
      if (!known) return null;
      for (let at = t; at >= 0; at--) if (view.across(r, at)) return view.across(r, at);
      return { r: known.k === 0 ? known.second : known.first, t: 0 };
    },
    across(r, t) {
      const known = partner.get(r);
      if (!known) return null;
      const other = alignment(known.first, known.second).across[known.k][t];
      return other < 0 ? null : { r: known.k === 0 ? known.second : known.first, t: other };
    },
  };
  const probe = el("div", { class: "tokens" }, "m");
  $("rows").append(probe);
  const { fontSize, fontFamily } = getComputedStyle(probe);
  canvas.font = `${fontSize} ${fontFamily}`;
  probe.remove();
  return view;
}

function start(table) {
  const view = viewOf(table);
  const all = itemsOf(table);
  const ways = measures(table, all);
  const state = { side: "any", text: "", wrong: false, against: false, least: null, most: null,
                  range: ways[0][0], sort: "order", descending: false, name: 0 };
  const list = listOf(view, $("rows"), $("list"));
  const page = { table, view, all, ways, state, list };
  $("message").hidden = true;
  $("bar").hidden = false;
  fillControls(page);
  showLegend(page);
  choose(page);
  wireControls(page);
  wirePointer(page);
  wireKeys(page);
  let waiting = false;
  const soon = (work) => () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
  window.addEventListener("scroll", soon(() => list.render()), { passive: true });
  const measure = () => document.documentElement.style.setProperty("--bar", `${view.bar()}px`);
  new ResizeObserver(measure).observe($("bar"));
  let width = $("list").clientWidth;
  new ResizeObserver(() => {
    if ($("list").clientWidth !== width) {
      width = $("list").clientWidth;
      list.forget();
    }
  }).observe($("list"));
  measure();
}

function fillControls({ table, all, ways }) {
  table.names.forEach((name, k) => {
    const radio = el("input", { type: "radio", name: "name", value: k, id: `name${k}`, checked: k === 0 });
    $("names").append(radio, el("label", { for: `name${k}` }, name.label));
  });
  const option = (value, label) => el("option", { value }, label);
  $("range").append(...ways.map(([key, label]) => option(key, label)));
  $("sort").append(option("order", "order of the file"), ...ways.map(([key, label]) => option(key, label)));
  if (table.names.length > 0) $("sort").append(option("lowest", "lowest token of the color"));
  const pairs = all.some(paired);
  const sides = Array.from({ length: table.rows }, (_, r) => table.side(r)).some((side) => side !== null);
  $("names").hidden = table.names.length === 0;
  $("side-label").hidden = !sides;
  $("wrong-label").hidden = !table.has.wrong;
  $("against-label").hidden = $("align-label").hidden = !pairs;
  $("help-keys").append(...KEYS.flatMap(([keys, what]) => [el("dt", {}, keys), el("dd", {}, what)]));
}

function showLegend({ table, view }) {
  const name = table.names[view.name];
  $("legend").replaceChildren(...(name ? legend(name) : []));
  $("caption").textContent = name ? caption(name) : "";
}

// Filter and sort anew.
function choose(page) {
  const { table, view, all, ways, state, list } = page;
  const found = chosenItems(table, all, ways, state);
  if (view.current && !found.some((item) => item.rows.includes(view.current.r))) view.current = null;
  view.seek(state.text.toLowerCase());
  list.show(found);
  list.top();
  list.render();
  drawPanelOf(page, view.current);
  const texts = found.reduce((sum, item) => sum + item.rows.length, 0);
  const pairs = found.filter(paired).length;
  const several = (count, word) => `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
  const counted = `${grouped(texts)} of ${several(table.rows, "text")}`;
  $("count").textContent = pairs ? `${counted} (${several(pairs, "pair")})` : counted;
  $("message").hidden = texts > 0;
  $("message").textContent = table.rows === 0 ? "The file holds no texts." : "No text is left: loosen the search.";
}

function drawPanelOf({ view }, place) {
  $("panel").replaceChildren(...drawPanel(view, place));
  document.querySelectorAll(".opposite-token").forEach((node) => node.classList.remove("opposite-token"));
  const across = place && view.across(place.r, place.t);
  if (across) $(`t${across.r}-${across.t}`)?.classList.add("opposite-token");
}

function setName(page, k) {
  page.view.name = page.state.name = k;
  $(`name${k}`).checked = true;
  showLegend(page);
  if (page.state.sort === "lowest") choose(page);
  else page.list.redraw();
  drawPanelOf(page, page.view.current);
}

function setAlign(page, on) {
  page.view.align = $("align").checked = on;
  page.list.forget();
}

// Go to a token: it is marked, shown in the panel and, by keyboard, spoken.
function go(page, r, t, speak) {
  const { table, view, list } = page;
  const before = view.current && $(`t${view.current.r}-${view.current.t}`);
  before?.classList.remove("current");
  view.current = { r, t };
  const id = `t${r}-${t}`;
  if (speak) $("list").focus({ preventScroll: true });
  if (speak) list.reach(list.items().findIndex((item) => item.rows.includes(r)), id);
  $(id)?.classList.add("current");
  drawPanelOf(page, view.current);
  if (speak && t < table.size(r)) $("live").textContent = spoken(view, view.current);
}

async function begin() {
  if (typeof DecompressionStream === "undefined") {
    $("message").textContent = "This browser is too old for the page: it needs Firefox 113, Chrome 80 or Safari 16.4.";
    return;
  }
  const blob = $("blob");
  try {
    const table = tableOf(await unpacked(blob.textContent));
    blob.remove();
    start(table);
  } catch (error) {
    $("message").hidden = false;
    $("message").textContent = `The page cannot be read: ${error.message}`;
    throw error;
  }
}

begin();
