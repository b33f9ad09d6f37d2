// Pointer, controls and keys.

function wireControls(page) {
  const { state, view } = page;
  const change = (id, event, apply) =>
    $(id).addEventListener(event, () => {
      apply($(id));
      choose(page);
    });
  change("text", "input", (node) => (state.text = node.value));
  change("side", "change", (node) => (state.side = node.value));
  change("wrong", "change", (node) => (state.wrong = node.checked));
  change("against", "change", (node) => (state.against = node.checked));
  change("range", "change", (node) => (state.range = node.value));
  change("sort", "change", (node) => (state.sort = node.value));
  for (const id of ["least", "most"])
    change(id, "input", (node) => {
      const text = node.value.trim().replace("−", "-");
      const number = text === "" ? null : Number(text);
      node.setAttribute("aria-invalid", String(Number.isNaN(number)));
      state[id] = Number.isNaN(number) ? null : number;
    });
  $("direction").addEventListener("click", () => {
    state.descending = !state.descending;
    $("direction").textContent = state.descending ? "↓" : "↑";
    $("direction").setAttribute("aria-label", `direction: ${state.descending ? "largest" : "smallest"} first`);
    choose(page);
  });
  $("align").addEventListener("change", () => setAlign(page, $("align").checked));
  $("names").addEventListener("change", (event) => setName(page, Number(event.target.value)));
  $("keys").addEventListener("click", () => $("help").showModal());
  $("close").addEventListener("click", () => $("help").close());
  $("rows").addEventListener("click", (event) => {
    const open = event.target.closest("[data-open]");
    if (!open) return;
    const r = Number(open.dataset.open);
    if (!view.open.delete(r)) view.open.add(r);
    page.list.redraw();
    document.querySelector(`[data-open="${r}"]`)?.focus({ preventScroll: true });
  });
}

function placeOf(event) {
  const node = event.target.closest("[data-t]");
  return node && { r: Number(node.closest("[data-r]").dataset.r), t: Number(node.dataset.t) };
}

function wirePointer(page) {
  const { view } = page;
  let hovered = null;
  let last = null;
  const hover = (place) => {
    if (hovered?.r === place?.r && hovered?.t === place?.t) return;
    hovered = place;
    drawPanelOf(page, place ?? view.current);
  };
  // What moves under a pointer at rest, when the page scrolls by keyboard, does not count.
  $("rows").addEventListener("pointermove", (event) => {
    const here = `${event.screenX} ${event.screenY}`;
    if (here !== last) hover(placeOf(event));
    last = here;
  });
  $("rows").addEventListener("pointerleave", () => hover(null));
  $("rows").addEventListener("click", (event) => {
    const place = placeOf(event);
    if (place) go(page, place.r, place.t, false);
  });
}

function wireKeys(page) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const into = event.target;
    if (event.key === "Escape") {
      $("list").focus({ preventScroll: true });
      return;
    }
    const typing = into.matches("input, select, textarea") && !into.matches("[type=checkbox], [type=radio]");
    const arrows = into.matches("[type=radio]") && event.key.startsWith("Arrow");
    if (typing || arrows || (into.matches("#panel") && event.key.startsWith("Arrow"))) return;
    const act = keyAct(page, event.key, into);
    if (!act) return;
    event.preventDefault();
    act();
  });
  $("list").addEventListener("focus", () => {
    if (!page.view.current) step(page, 0);
  });
}

function keyAct(page, key, into) {
  const { table, view } = page;
  const inList = into === document.body || into.closest("#list");
  const names = table.names.length;
  const turn = (by) => () => setName(page, (view.name + by + names) % names);
  const acts = {
    j: () => step(page, 1),
    k: () => step(page, -1),
    o: () => opposite(page),
    e: () => nextError(page, 1),
    E: () => nextError(page, -1),
    a: () => setAlign(page, !view.align),
    g: () => edge(page, 0),
    G: () => edge(page, -1),
    "/": () => $("text").focus(),
    "?": () => $("help").showModal(),
  };
  if (names > 0) Object.assign(acts, { c: turn(1), C: turn(-1) });
  if (/^[1-9]$/.test(key) && Number(key) <= names) return () => setName(page, Number(key) - 1);
  if (inList)
    Object.assign(acts, {
      ArrowLeft: () => along(page, -1),
      ArrowRight: () => along(page, 1),
      ArrowUp: () => step(page, -1),
      ArrowDown: () => step(page, 1),
      Home: () => along(page, -Infinity),
      End: () => along(page, Infinity),
    });
  return acts[key];
}

const order = (page) => page.list.items().flatMap((item) => item.rows);

// To the text before or after; by 0 to the first that is in view.
function step(page, by) {
  const { view, list, table } = page;
  const rows = order(page);
  if (rows.length === 0) return;
  const at = view.current ? rows.indexOf(view.current.r) : -1;
  const next = at < 0 || by === 0 ? rows.indexOf(list.items()[list.first()].rows[0]) : at + by;
  const r = rows[Math.min(rows.length - 1, Math.max(0, next))];
  go(page, r, Math.max(0, Math.min(view.current?.t ?? 0, table.size(r) - 1)), true);
}

function along(page, by) {
  const { view, table } = page;
  if (!view.current || !order(page).includes(view.current.r)) return step(page, 0);
  const { r, t } = view.current;
  return go(page, r, Math.max(0, Math.min(table.size(r) - 1, t + by)), true);
}

function edge(page, place) {
  const rows = order(page);
  if (rows.length > 0) go(page, rows.at(place), 0, true);
}

function opposite(page) {
  const { view } = page;
  if (!view.current) return;
  const across = view.beside(view.current.r, view.current.t);
  if (across && order(page).includes(across.r)) go(page, across.r, across.t, true);
}

function nextError(page, by) {
  const { view, table } = page;
  const rows = order(page);
  let at = Math.max(0, view.current ? rows.indexOf(view.current.r) : 0);
  let t = view.current && rows[at] === view.current.r ? view.current.t + by : 0;
  for (; at >= 0 && at < rows.length; at += by, t = by > 0 ? 0 : table.size(rows[at] ?? 0) - 1)
    for (; t >= 0 && t < table.size(rows[at]); t += by)
      if (table.wrong(rows[at], t) !== "") return go(page, rows[at], t, true);
  $("live").textContent = "no further token is wrong";
}
