// The list: only what is near the window exists as elements; heights are estimated until they are measured.

const NEAR = 600; // pixels above and below the window that are drawn too
const GAP = 22; // between items

function listOf(view, box, list) {
  let items = [];
  let tops = new Float64Array(1);
  let heights = new Map(); // item -> measured
  const drawn = new Map(); // item -> element
  const estimate = (item) => {
    const columns = paired(item) && view.wide() ? 2 : 1;
    const across = Math.max(20, list.clientWidth / columns / view.width("m") - 4);
    const height = (r) => Math.ceil((view.table.size(r) * 5.5) / across);
    const sum = (numbers) => numbers.reduce((a, b) => a + b);
    const lines = item.lines.map((rows) => (columns === 2 ? Math.max(...rows.map(height)) : sum(rows.map(height))));
    return 74 + 34 * sum(lines) + 40 * (lines.length - 1);
  };
  const place = () => {
    tops = new Float64Array(items.length + 1);
    items.forEach((item, i) => {
      tops[i + 1] = tops[i] + (heights.get(item) ?? (item.guess ??= estimate(item))) + GAP;
    });
    box.style.height = `${tops[items.length]}px`;
  };
  const at = (y) => {
    let low = 0;
    let high = items.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (tops[middle] <= y) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  };
  const offset = () => box.getBoundingClientRect().top + window.scrollY;
  const upper = () => view.bar(); // what the bar covers
  const fill = () => {
    const top = window.scrollY - offset();
    const [first, last] = [at(top - NEAR), at(top + window.innerHeight + NEAR)];
    const wanted = new Set(items.slice(first, last + 1));
    for (const [item, node] of drawn)
      if (!wanted.has(item)) {
        node.remove();
        drawn.delete(item);
      }
    let before = null;
    for (const item of wanted) {
      if (!drawn.has(item)) {
        const node = drawItem(view, item);
        if (before) before.after(node);
        else box.prepend(node);
        drawn.set(item, node);
      }
      before = drawn.get(item);
    }
    let changed = false;
    for (const [item, node] of drawn) {
      const height = node.offsetHeight;
      if (heights.get(item) !== height) {
        heights.set(item, height);
        changed = true;
      }
    }
    return changed;
  };
  const settle = () => {
    for (const [item, node] of drawn) node.style.transform = `translateY(${tops[item.index]}px)`;
  };
  const render = () => {
    for (let pass = 0; pass < 4; pass++) {
      const top = window.scrollY - offset() + upper();
      const anchor = at(top);
      const into = top - tops[anchor];
      const changed = items.length > 0 && fill();
      if (!changed) break;
      place();
      const moved = tops[anchor] + into - top;
      settle();
      if (top > 0 && Math.abs(moved) >= 1) window.scrollBy(0, moved);
    }
    settle();
  };
  const redraw = () => {
    for (const node of drawn.values()) node.remove();
    drawn.clear();
    render();
  };
  return {
    items: () => items,
    render,
    redraw,
    show(found) {
      items = found;
      items.forEach((item, i) => (item.index = i));
      place();
      redraw();
    },
    // Heights are no longer true: other widths, other layout.
    forget() {
      const top = window.scrollY - offset() + upper();
      const anchor = at(top);
      const into = top - tops[anchor];
      heights = new Map();
      for (const item of items) item.guess = undefined;
      place();
      if (top > 0 && items.length > 0) window.scrollBy(0, tops[anchor] + into - top);
      redraw();
    },
    top() {
      window.scrollTo(0, Math.min(window.scrollY, offset() - upper() - 20));
    },
    first: () => at(window.scrollY - offset() + upper() + 8),
    // Bring a token into view, drawing its item first.
    reach(index, id) {
      const item = items[index];
      if (!drawn.has(item)) {
        window.scrollTo(0, offset() + tops[index] - upper() - 40);
        render();
      }
      const node = $(id) ?? drawn.get(item);
      if (!node) return;
      const { top, bottom } = node.getBoundingClientRect();
      const low = window.innerHeight - 40;
      const high = upper() + 70;
      if (top < high) window.scrollBy(0, top - high);
      else if (bottom > low) window.scrollBy(0, bottom - low);
      render();
    },
  };
}
