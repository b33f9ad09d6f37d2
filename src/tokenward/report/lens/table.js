// The texts as columns: read from the compressed blob, never copied into objects of their own.

const MISSING = -32768;
const SIDES = [null, "chosen", "rejected"];

async function unpacked(base64) {
  const text = atob(base64);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

function tableOf(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const kinds = { int8: Int8Array, int16: Int16Array, int32: Int32Array, float64: Float64Array };
  const columns = new Map();
  let at = 4 + length;
  for (const [name, kind, count] of head.columns) {
    const column = new kinds[kind](buffer, at, count);
    columns.set(name, column);
    at += Math.ceil(column.byteLength / 8) * 8;
  }
  const get = (name) => columns.get(name);
  const [start, token, prompt, where, pair, side] =
    ["start", "token", "prompt", "where", "pair", "side"].map(get);
  const [wrong, segment, actor] = ["wrong", "segment", "actor"].map(get);
  const m = head.names.map(({ name }) => get(`m:${name}`));
  const e = head.names.map(({ name }) => get(`e:${name}`));
  const sums = head.names.map(({ name }) => get(`sum:${name}`));
  const totals = head.totals.map(({ name }) => get(`total:${name}`));
  const value = (k, r, t) => {
    const at = start[r] + t;
    return m[k][at] === MISSING ? null : Number(`${m[k][at]}e${e[k][at]}`);
  };
  return {
    rows: head.rows,
    names: head.names,
    totals: head.totals,
    has: { wrong: Boolean(wrong), segment: Boolean(segment), actor: Boolean(actor) },
    size: (r) => start[r + 1] - start[r],
    // Tokens that a model wrote, or all where nobody is named.
    own: (r) => {
      const wrote = actor ? actor.subarray(start[r], start[r + 1]).reduce((sum, who) => sum + (who >= 0), 0) : 0;
      return wrote || start[r + 1] - start[r];
    },
    id: (r, t) => token[start[r] + t],
    token: (r, t) => head.strings[token[start[r] + t]],
    text: (r) => {
      let joined = "";
      for (let at = start[r]; at < start[r + 1]; at++) joined += head.strings[token[at]];
      return joined;
    },
    string: (id) => head.strings[id],
    prompt: (r) => head.strings[prompt[r]],
    where: (r) => (where[r] < 0 ? null : head.strings[where[r]]),
    pair: (r) => (Number.isNaN(pair[r]) ? null : pair[r]),
    side: (r) => SIDES[side[r]],
    wrong: (r, t) => (wrong ? head.kinds[wrong[start[r] + t]] : ""),
    segment: (r, t) => (segment ? segment[start[r] + t] : 0),
    actor: (r, t) => (actor ? actor[start[r] + t] : -1),
    value,
    sum: (k, r) => sums[k][r],
    // How many tokens have the number.
    known: (k, r) => m[k].subarray(start[r], start[r + 1]).reduce((sum, value) => sum + (value !== MISSING), 0),
    total: (k, r) => totals[k][r],
    lowest: (k, r) => {
      let least = NaN;
      for (let t = 0; t < start[r + 1] - start[r]; t++) {
        const found = value(k, r, t);
        if (found !== null && !(found >= least)) least = found;
      }
      return least;
    },
    part: (k, r, from, to) => {
      let sum = 0;
      let count = 0;
      for (let t = from; t < to; t++) {
        const found = value(k, r, t);
        if (found !== null) {
          sum += found;
          count++;
        }
      }
      return count === 0 ? null : head.names[k].whole === "mean" ? sum / count : sum;
    },
    alternatives: (r, t) => (head.alternatives[r] ? head.alternatives[r][t] : null),
  };
}
