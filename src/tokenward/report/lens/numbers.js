// How numbers and tokens are written, and which color a number has.

const BLUE = "0 114 178"; // Okabe–Ito, told apart by the color-blind
const ORANGE = "213 94 0";
const DARKEST = 0.72; // of a tint: dark text stays readable on it

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  node.append(...children);
  return node;
}

const $ = (id) => document.getElementById(id);
const grouped = (count) => count.toLocaleString("en-US");

// Four digits that count; `signed` writes + too.
function written(value, signed) {
  if (value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (size === 0) text = "0";
  else if (size >= 1e-4 && size < 1e4) text = size.toPrecision(4);
  else if (size >= 1e4 && size < 1e7) text = Number(size.toPrecision(4)).toLocaleString("en-US");
  else text = size.toExponential(3).replace("e+", "e").replace("e-", "e−");
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}

// Three digits, for sums above texts.
function brief(value, signed) {
  if (value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 ? 1 : size >= 0.01 || size === 0 ? 2 : 4;
  if (size >= 1e6 || (size > 0 && size < 5e-5)) return written(value, signed);
  const text = size.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}

const signed = (name) => name.sign === "both" || name.sign === "minus";
const wholeName = (name) => (name.whole === "mean" ? `mean ${name.label}` : `Σ ${name.label}`);

function tint(name, value, share) {
  if (value === null || name.high === 0) return "transparent";
  const span = name.high - name.low || name.high;
  const strength = Math.min(1, Math.max(0, (Math.abs(value) - (name.high > name.low ? name.low : 0)) / span));
  return `rgb(${value > 0 ? BLUE : ORANGE} / ${(DARKEST * strength * share).toFixed(3)})`;
}

function legend(name) {
  const faint = (color) => `rgb(${color} / 0)`;
  const full = (color) => `rgb(${color} / ${DARKEST})`;
  const bar = el("span", { class: "scale", "aria-hidden": "true" });
  const ends = [];
  if (name.sign === "both") {
    bar.style.background =
      `linear-gradient(90deg, ${full(ORANGE)}, ${faint(ORANGE)} 50%, ${faint(BLUE)} 50%, ${full(BLUE)})`;
    ends.push(`−${written(name.high)}`, `+${written(name.high)}`);
  } else if (name.sign === "plus") {
    bar.style.background = `linear-gradient(90deg, ${faint(BLUE)}, ${full(BLUE)})`;
    ends.push(written(name.low), written(name.high));
  } else {
    bar.style.background = `linear-gradient(90deg, ${full(ORANGE)}, ${faint(ORANGE)})`;
    ends.push(written(-name.high), written(-name.low));
  }
  return [el("span", { class: "end" }, ends[0]), bar, el("span", { class: "end" }, `${ends[1]} ${name.unit}`)];
}

function caption(name) {
  const meaning = name.formula ? `${name.label} = ${name.formula}. ` : `${name.label}. `;
  const colors = {
    both: "Blue is above 0, orange below; the ends are the 95th percentile of the sizes.",
    plus: "The darker, the larger; the dark end is the 95th percentile.",
    minus: "The darker, the further below 0; the dark end is the 5th percentile.",
  };
  return meaning + colors[name.sign];
}

// Tokens with their invisible characters drawn.
function shown(token) {
  if (token === "") return "▯";
  let text = "";
  for (const character of token) {
    const code = character.codePointAt(0);
    if (character === "\n") text += "↵";
    else if (character === "\t") text += "⇥";
    else if (code < 32) text += String.fromCodePoint(0x2400 + code);
    else if (code === 127) text += "␡";
    else if (code === 0x200b || (code >= 0x200e && code <= 0x200f) || (code >= 0x202a && code <= 0x202e) ||
             (code >= 0x2060 && code <= 0x2069) || code === 0xfeff)
      text += `⟨${code.toString(16).toUpperCase()}⟩`;
    else text += character;
  }
  return text;
}

const quoted = (token) => (token === "" ? "▯ (part of a character)" : shown(token).replace(/^ +| +$/g, (s) => "␣".repeat(s.length)));
