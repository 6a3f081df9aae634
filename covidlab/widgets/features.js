// The feature space explorer: a map on a canvas, and the pictures of what is selected.

const REACH = 9; // pixels around the pointer in which a point is found
const HANDS = [
  ["click", "select a point; with Ctrl, add it or take it away"],
  ["shift and drag", "draw a lasso around points; with Ctrl, add them"],
  ["drag, wheel", "move the map, zoom"],
  ["arrows, Enter", "go from point to point, select; + and − zoom, 0 shows all, Escape clears"],
  ["legend", "hide or show a class"],
];
const MARKS = 5; // shapes of parts: circle, triangle, square, diamond, plus

function marker(context, shape, x, y, r) {
  context.beginPath();
  const polygon = (corners) => {
    corners.forEach(([u, v], i) => context[i ? "lineTo" : "moveTo"](x + u * r, y + v * r));
    context.closePath();
  };
  if (shape === 0) context.arc(x, y, r, 0, 2 * Math.PI);
  if (shape === 1) polygon([[0, -1.25], [1.15, 0.85], [-1.15, 0.85]]);
  if (shape === 2) polygon([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]);
  if (shape === 3) polygon([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]);
  if (shape === 4) {
    const [a, b] = [0.45, 1.3];
    polygon([[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]]);
  }
}

// Cells of a grid over the points, so that the one under the pointer is found without a search.
class Grid {
  constructor(points) {
    this.points = points;
    const n = points.length / 2;
    this.low = [Infinity, Infinity];
    this.high = [-Infinity, -Infinity];
    for (let i = 0; i < 2 * n; i += 1) {
      this.low[i % 2] = Math.min(this.low[i % 2], points[i]);
      this.high[i % 2] = Math.max(this.high[i % 2], points[i]);
    }
    this.side = Math.max(1, Math.ceil(Math.sqrt(n / 2)));
    this.step = [0, 1].map((a) => (this.high[a] - this.low[a]) / this.side || 1);
    this.starts = new Uint32Array(this.side * this.side + 1);
    const cell = new Uint32Array(n);
    for (let i = 0; i < n; i += 1) {
      cell[i] = this.at(points[2 * i], 0) + this.side * this.at(points[2 * i + 1], 1);
      this.starts[cell[i] + 1] += 1;
    }
    for (let c = 0; c < this.side * this.side; c += 1) this.starts[c + 1] += this.starts[c];
    this.rows = new Uint32Array(n);
    const next = this.starts.slice();
    for (let i = 0; i < n; i += 1) this.rows[next[cell[i]]++] = i;
  }

  at(value, axis) {
    const cell = Math.floor((value - this.low[axis]) / this.step[axis]);
    return Math.min(this.side - 1, Math.max(0, cell));
  }

  // The row nearest to (x, y) within a radius among those that `seen` lets through, or -1.
  nearest(x, y, radius, seen) {
    let [best, least] = [-1, radius * radius];
    for (let v = this.at(y - radius, 1); v <= this.at(y + radius, 1); v += 1) {
      for (let u = this.at(x - radius, 0); u <= this.at(x + radius, 0); u += 1) {
        const c = u + this.side * v;
        for (let j = this.starts[c]; j < this.starts[c + 1]; j += 1) {
          const i = this.rows[j];
          const far = (this.points[2 * i] - x) ** 2 + (this.points[2 * i + 1] - y) ** 2;
          if (far <= least && seen(i)) [best, least] = [i, far];
        }
      }
    }
    return best;
  }
}

function inside(polygon, x, y) {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [[ax, ay], [bx, by]] = [polygon[i], polygon[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

class FeatureMap {
  constructor(model, born) {
    this.model = model;
    this.born = born;
    this.base = el("canvas", { "aria-hidden": "true" });
    this.over = el("canvas", {
      class: "over", tabindex: 0, role: "application", "data-test": "map",
      "aria-label": "map of the feature space: arrows go from point to point, Enter selects, "
        + "shift and drag draws a lasso, plus and minus zoom, 0 shows all, Escape clears",
    });
    this.tip = el("div", { class: "tip hidden", "data-test": "tooltip" });
    this.spoken = el("div", { class: "unseen", "aria-live": "polite" });
    this.axisX = el("div", { class: "axis x" });
    this.axisY = el("div", { class: "axis y" });
    this.lassoButton = this.tool("lasso", "lasso: draw around points", () => this.toggleLasso());
    this.node = el("div", { class: "map" }, this.base, this.over, this.axisX, this.axisY,
      el("div", { class: "tools" }, this.lassoButton,
        this.tool("+", "zoom in", () => this.zoom(1.4), "zoom-in"),
        this.tool("−", "zoom out", () => this.zoom(1 / 1.4), "zoom-out"),
        this.tool("⤢", "show all points", () => this.fit(), "fit")),
      this.tip, this.spoken);
    [this.hover, this.cursor, this.lasso, this.drag] = [-1, -1, null, null];
    this.listen();
    this.load();
  }

  tool(text, title, onclick, name = text) {
    return el("button", { type: "button", title, "aria-label": title, "data-test": name, onclick }, text);
  }

  // data

  load() {
    const bytes = bytesOf(this.model.get("points"));
    this.points = new Float32Array(bytes.slice().buffer);
    this.n = this.points.length / 2;
    this.grid = new Grid(this.points);
    this.hover = -1;
    const [x, y] = this.model.get("axes");
    this.axisX.textContent = x;
    this.axisY.textContent = y;
    this.colour();
    this.mark();
    if (this.width) this.fit();
  }

  colour() {
    this.codes = bytesOf(this.model.get("colours"));
    this.shapes = bytesOf(this.model.get("shapes"));
    this.palette = [...this.model.get("legend").colours, "#9a9a9a"];
    this.mute();
    this.stamps = null;
  }

  mute() {
    const muted = new Set(this.model.get("muted"));
    this.muted = Uint8Array.from({ length: 256 }, (_, code) => muted.has(code));
    this.redraw();
  }

  mark() {
    this.chosen = new Uint8Array(this.n);
    for (const row of this.model.get("selection")) this.chosen[row] = 1;
    this.redraw();
  }

  code(i) {
    return Math.min(this.codes[i], this.palette.length - 1);
  }

  seen = (i) => !this.muted[this.codes[i]];

  // places

  resize() {
    const box = this.node.getBoundingClientRect();
    if (!box.width) return;
    const first = !this.width;
    const before = first ? null : this.toData(this.width / 2, this.height / 2);
    [this.width, this.height] = [box.width, box.height];
    this.ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.round(this.width * this.ratio);
      canvas.height = Math.round(this.height * this.ratio);
    }
    this.stamps = null;
    if (first) this.fit();
    else this.centre(...before);
  }

  fit() {
    const { low, high } = this.grid;
    const room = [this.width - 60, this.height - 60];
    const spans = [0, 1].map((a) => high[a] - low[a] || 1);
    this.scale = Math.min(room[0] / spans[0], room[1] / spans[1]);
    this.least = this.scale / 4;
    this.centre((low[0] + high[0]) / 2, (low[1] + high[1]) / 2);
  }

  centre(x, y) {
    this.left = this.width / 2 - x * this.scale;
    this.top = this.height / 2 + y * this.scale;
    this.redraw();
  }

  place(i) {
    return [this.left + this.points[2 * i] * this.scale, this.top - this.points[2 * i + 1] * this.scale];
  }

  toData(px, py) {
    return [(px - this.left) / this.scale, (this.top - py) / this.scale];
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.toData(px, py);
    this.scale = Math.min(this.least * 4000, Math.max(this.least, this.scale * factor));
    this.left = px - x * this.scale;
    this.top = py + y * this.scale;
    this.redraw();
  }

  // drawing

  redraw() {
    if (this.waiting || !this.width) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      const start = performance.now();
      this.drawPoints();
      this.drawOver();
      this.over.dataset.frame = (performance.now() - start).toFixed(2);
      this.over.dataset.first ??= (performance.now() - this.born).toFixed(0);
    });
  }

  // Points are stamped into the pixels by hand: without a graphics processor that is some ten times
  // as fast as drawing each on the canvas. A margin of one stamp saves clipping.
  drawPoints() {
    if (!this.stamps) this.begin();
    const { pixels, size } = this;
    new Uint32Array(pixels.data.buffer).fill(0xffffffff);
    const rows = this.model.get("selection");
    const faded = rows.length ? 76 : 230;
    for (let i = 0; i < this.n; i += 1) if (!this.chosen[i]) this.stamp(i, 0, faded);
    const ringed = rows.length <= 300 ? 1 : 0; // rings of more would hide the colours
    for (const i of rows) this.stamp(i, ringed, 255);
    this.base.getContext("2d").putImageData(pixels, -size, -size);
  }

  begin() {
    const large = this.node.closest(".large") ? 1.35 : 1;
    this.radius = (this.n > 5000 ? 2.6 : this.n > 1000 ? 3.4 : 4.6) * large;
    this.size = Math.ceil((3.2 * this.radius + 4) * this.ratio);
    this.pixels = new ImageData(this.base.width + 2 * this.size, this.base.height + 2 * this.size);
    this.stamps = [];
  }

  stamp(i, ringed, alpha) {
    if (this.muted[this.codes[i]]) return;
    const { size, pixels: { data, width, height } } = this;
    const x = Math.round((this.left + this.points[2 * i] * this.scale) * this.ratio + size / 2);
    const y = Math.round((this.top - this.points[2 * i + 1] * this.scale) * this.ratio + size / 2);
    if (x < 0 || y < 0 || x > width - size || y > height - size) return;
    const key = (this.code(i) * MARKS + this.shapes[i]) * 2 + ringed;
    const { at, colours } = this.stamps[key] ??= this.drawn(this.code(i), this.shapes[i], ringed);
    const first = 4 * (y * width + x);
    for (let j = 0; j < at.length; j += 1) {
      const q = first + at[j];
      const share = (colours[4 * j + 3] * alpha) / 65025;
      for (let c = 0; c < 3; c += 1) data[q + c] += share * (colours[4 * j + c] - data[q + c]);
    }
  }

  // One marker: where its pixels are from the first of the stamp, and their colours.
  drawn(code, shape, ringed) {
    const { size, ratio } = this;
    const context = el("canvas", { width: size, height: size }).getContext("2d", { willReadFrequently: true });
    marker(context, shape, size / 2, size / 2, this.radius * ratio * (ringed ? 1.15 : 1));
    context.fillStyle = this.palette[code];
    context.fill();
    context.lineWidth = (ringed ? 1.4 : 0.6) * ratio;
    context.strokeStyle = ringed ? "#111" : "#ffffffcc";
    context.stroke();
    const { data } = context.getImageData(0, 0, size, size);
    const inked = Array.from({ length: size * size }, (_, k) => k).filter((k) => data[4 * k + 3]);
    return {
      at: Int32Array.from(inked, (k) => 4 * (Math.floor(k / size) * this.pixels.width + (k % size))),
      colours: Uint8Array.from(inked.flatMap((k) => [...data.subarray(4 * k, 4 * k + 4)])),
    };
  }

  drawOver() {
    if (!this.width) return;
    const context = this.over.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.drawNear(context);
    if (this.cursor >= 0 && this.over.matches(":focus")) this.ring(context, this.cursor, 5, "#111", 2);
    if (this.hover >= 0) this.ring(context, this.hover, 3, "#111", 1.5);
    if (this.lasso) {
      context.beginPath();
      this.lasso.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x, y));
      context.closePath();
      context.fillStyle = "#0072b226";
      context.fill();
      context.strokeStyle = "#0072b2";
      context.lineWidth = 1.5;
      context.stroke();
    }
  }

  ring(context, i, away, colour, width) {
    context.beginPath();
    context.arc(...this.place(i), this.radius + away, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }

  // The image in focus, with a line to each of its nearest among all features.
  drawNear(context) {
    const [focus, ...rows] = (this.model.get("near").cards ?? []).map((card) => card.row);
    if (focus === undefined) return;
    context.strokeStyle = "#111";
    context.lineWidth = 1;
    for (const row of rows) {
      context.beginPath();
      context.moveTo(...this.place(focus));
      context.lineTo(...this.place(row));
      context.stroke();
    }
    this.ring(context, focus, 4, "#0072b2", 3);
  }

  // what is at a point, in words

  facts(i) {
    const codes = this.model.get("fact_codes");
    return this.model.get("facts").map(({ name, values }, f) => {
      const code = codes.getUint32(4 * (f * this.n + i), true);
      return [name, values[code]];
    });
  }

  show(i, px, py) {
    this.tip.classList.toggle("hidden", i < 0);
    if (i < 0) return;
    this.tip.replaceChildren(el("b", {}, this.model.get("names")[i]),
      ...this.facts(i).map(([name, value]) => el("div", {}, `${name}: ${value}`)));
    const x = px > this.width / 2 ? px - this.tip.offsetWidth - 12 : px + 12;
    const y = Math.min(py + 12, this.height - this.tip.offsetHeight - 4);
    Object.assign(this.tip.style, { left: `${Math.max(2, x)}px`, top: `${Math.max(2, y)}px` });
  }

  // by hand

  listen() {
    const over = this.over;
    const at = (event) => {
      const box = over.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    over.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      over.setPointerCapture(event.pointerId);
      const [x, y] = at(event);
      this.drag = { x, y, left: this.left, top: this.top, moved: false };
      if (event.shiftKey || this.lassoMode) this.lasso = [[x, y]];
    });
    over.addEventListener("pointermove", (event) => this.move(event, ...at(event)));
    over.addEventListener("pointerup", (event) => this.release(event, ...at(event)));
    over.addEventListener("pointercancel", () => {
      [this.drag, this.lasso] = [null, null];
      this.drawOver();
    });
    over.addEventListener("pointerleave", () => this.point(-1));
    over.addEventListener("blur", () => { this.show(-1); this.drawOver(); });
    over.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 250), ...at(event));
    }, { passive: false });
    over.addEventListener("keydown", (event) => this.key(event));
  }

  move(event, x, y) {
    if (!this.drag) {
      this.point(this.under(x, y), x, y);
    } else if (this.lasso) {
      this.lasso.push([x, y]);
      this.drawOver();
    } else {
      const [dx, dy] = [x - this.drag.x, y - this.drag.y];
      this.drag.moved ||= Math.hypot(dx, dy) > 3;
      if (!this.drag.moved) return;
      [this.left, this.top] = [this.drag.left + dx, this.drag.top + dy];
      this.point(-1);
      this.redraw();
    }
  }

  release(event, x, y) {
    const { drag, lasso } = this;
    [this.drag, this.lasso] = [null, null];
    const add = event.ctrlKey || event.metaKey;
    if (lasso && lasso.length > 2) this.select(this.within(lasso), add);
    else if (drag && !drag.moved) {
      const i = this.under(x, y);
      if (i >= 0) this.toggle(i, add);
    }
    this.drawOver();
  }

  under(x, y) {
    return this.grid.nearest(...this.toData(x, y), REACH / this.scale, this.seen);
  }

  point(i, x, y) {
    this.show(i, x, y);
    if (i === this.hover) return;
    this.hover = i;
    this.drawOver();
  }

  within(polygon) {
    const [low, high] = [Math.min, Math.max].map((f) => [0, 1].map((a) => f(...polygon.map((p) => p[a]))));
    const rows = [];
    for (let i = 0; i < this.n; i += 1) {
      const [x, y] = this.place(i);
      if (x < low[0] || y < low[1] || x > high[0] || y > high[1]) continue;
      if (this.seen(i) && inside(polygon, x, y)) rows.push(i);
    }
    return rows;
  }

  select(rows, add = false) {
    const chosen = add ? [...new Set([...this.model.get("selection"), ...rows])] : rows;
    this.model.set("selection", chosen);
    this.model.save_changes();
  }

  toggle(i, add) {
    const rows = this.model.get("selection");
    if (add && rows.includes(i)) this.select(rows.filter((row) => row !== i));
    else this.select([i], add);
  }

  toggleLasso() {
    this.lassoMode = !this.lassoMode;
    this.node.classList.toggle("lasso", this.lassoMode);
    this.lassoButton.setAttribute("aria-pressed", this.lassoMode);
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const others = {
      "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4),
      0: () => this.fit(), Escape: () => this.select([]),
      Enter: () => this.cursor >= 0 && this.toggle(this.cursor, event.ctrlKey || event.metaKey),
      " ": () => this.cursor >= 0 && this.toggle(this.cursor, true),
    };
    if (steps[event.key]) this.walk(...steps[event.key]);
    else if (others[event.key]) others[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // To the nearest point that lies more in this direction than across it.
  walk(u, v) {
    const alone = this.cursor < 0 || !this.seen(this.cursor);
    const [x, y] = alone ? [this.width / 2, this.height / 2] : this.place(this.cursor);
    let [best, least] = [-1, Infinity];
    for (let i = 0; i < this.n; i += 1) {
      if (i === this.cursor || !this.seen(i)) continue;
      const [px, py] = this.place(i);
      const [along, across] = [(px - x) * u + (py - y) * v, Math.abs((px - x) * v) + Math.abs((py - y) * u)];
      if (!alone && (along <= 0 || across > along)) continue;
      const far = Math.hypot(px - x, py - y) + across;
      if (far < least) [best, least] = [i, far];
    }
    if (best < 0) return;
    this.cursor = best;
    const [px, py] = this.place(best);
    if (px < 0 || py < 0 || px > this.width || py > this.height) {
      this.centre(this.points[2 * best], this.points[2 * best + 1]);
    }
    this.drawOver();
    this.show(best, ...this.place(best));
    const words = this.facts(best).map(([name, value]) => `${name} ${value}`);
    this.spoken.textContent = [this.model.get("names")[best], ...words].join(", ");
  }
}

// Legends: buttons that mute a class, a scale with its unit, or a note; and the shapes of parts.
function drawLegend(model, node) {
  const legend = model.get("legend");
  const muted = new Set(model.get("muted"));
  const toggle = (code) => {
    if (!muted.delete(code)) muted.add(code);
    model.set("muted", [...muted]);
    model.save_changes();
  };
  const dot = (colour) => el("span", { class: "dot", style: `background: ${colour}` });
  const parts = [];
  for (const { code, name, colour, n } of legend.entries ?? []) {
    parts.push(el("button", {
      type: "button", "aria-pressed": String(!muted.has(code)), "data-test": "legend-entry",
      title: "hide or show", onclick: () => toggle(code),
    }, dot(colour), `${name} (${n.toLocaleString("en")})`));
  }
  if (legend.kind === "scale") {
    const some = legend.colours.filter((_, i) => i % 16 === 0);
    parts.push(String(Number(legend.low.toPrecision(3))),
      el("span", { class: "ramp", style: `background: linear-gradient(90deg, ${some.join(", ")})` }),
      String(Number(legend.high.toPrecision(3))), el("span", { class: "quiet" }, legend.unit));
  }
  if (legend.kind === "many") parts.push(...legend.colours.map(dot));
  if (legend.note) parts.push(el("span", { class: "quiet" }, legend.note));
  model.get("part_names").forEach((name, i) => {
    const icon = el("canvas", { width: 28, height: 28, style: "width: 1em; height: 1em; display: inline-block" });
    const context = icon.getContext("2d");
    marker(context, i % MARKS, 14, 14, 9);
    context.fillStyle = "#555";
    context.fill();
    parts.push(el("span", { class: "control" }, icon, name));
  });
  node.replaceChildren(...parts);
}

// A grey picture with its saliency map and masks on it.
function paint(canvas, model, data, i) {
  const { side } = data;
  const part = (bytes) => bytesOf(bytes).subarray(i * side * side, (i + 1) * side * side);
  const [grey, bits, heat] = [part(data.images), part(data.masks), part(data.maps)];
  drawGrey(canvas, grey, side, side);
  const style = model.get("mask_style");
  const context = canvas.getContext("2d");
  const pixels = context.getImageData(0, 0, side, side);
  const mix = (j, colour, share) => {
    for (let c = 0; c < 3; c += 1) {
      pixels.data[4 * j + c] = (1 - share) * pixels.data[4 * j + c] + share * colour[c];
    }
  };
  if (model.get("show_maps") && data.cards[i].heat) {
    const lut = bytesOf(model.get("heat"));
    for (let j = 0; j < heat.length; j += 1) mix(j, lut.subarray(3 * heat[j], 3 * heat[j] + 3), (0.6 * heat[j]) / 255);
  }
  model.get("mask_legend").forEach(([, colour], bit) => {
    if (style === "none") return;
    const has = (j) => (bits[j] >> bit) & 1;
    for (let j = 0; j < bits.length; j += 1) {
      if (!has(j)) continue;
      const edge = !(has(j - 1) && has(j + 1) && has(j - side) && has(j + side));
      if (style === "tint" || edge) mix(j, rgb(colour), style === "tint" && !edge ? 0.35 : 1);
    }
  });
  context.putImageData(pixels, 0, 0);
}

function drawCards(model, node, data, test) {
  node.replaceChildren(...(data.cards ?? []).map((card, i) => {
    const canvas = el("canvas", { class: bytesOf(data.images).length ? "" : "hidden" });
    if (bytesOf(data.images).length) paint(canvas, model, data, i);
    const said = card.prediction === undefined ? "" : `→ ${card.prediction} ${card.probability}`;
    const right = card.correctness !== "wrong";
    return el("button", {
      type: "button", class: "card", title: card.name, "data-test": test, "data-row": card.row,
      "aria-current": String(card.row === model.get("focus")),
      "aria-label": `${card.name}, ${card.label} ${said}: show its neighbours`,
      onclick: () => { model.set("focus", card.row); model.save_changes(); },
    }, canvas, el("span", { class: "words" },
      card.distance === undefined ? [] : el("span", {}, card.distance ? `distance ${card.distance.toPrecision(3)}` : "this image"),
      el("span", {}, card.label),
      said ? el("span", { class: right ? "" : "wrong" }, right ? said : `${said} ✗`) : [],
      card.problem ? el("span", { class: "warning" }, card.problem) : [],
      el("span", { class: "name" }, card.name.split("/").at(-1))));
  }));
}

function methodButtons(model) {
  const name = `method-${Math.random()}`;
  const node = el("div", { class: "methods", role: "radiogroup", "aria-label": "method" });
  const inputs = model.get("methods").map(([key, text]) => {
    const input = el("input", { type: "radio", name, value: key, "data-test": `method-${key}` });
    input.addEventListener("change", () => { model.set("method", key); model.save_changes(); });
    node.append(el("label", {}, input, text));
    return input;
  });
  const follow = () => { for (const input of inputs) input.checked = input.value === model.get("method"); };
  follow();
  model.on("change:method", follow);
  return node;
}

// Method, its settings, and how a run is getting on.
function computing(model) {
  const n = model.get("names").length;
  const most = Math.min(200, n - 1);
  const settings = {
    tsne: [slider(model, "perplexity", "perplexity", { min: 1, max: most, step: 1 })],
    umap: [slider(model, "n_neighbours", "neighbours", { min: 2, max: most, step: 1 }),
      slider(model, "min_dist", "least distance", { min: 0, max: 1, step: 0.05 })],
    pca: [],
  };
  const act = (text, what, style = "") => el("button", {
    type: "button", class: style, "data-test": what, onclick: () => model.send({ do: what }),
  }, text);
  const [again, stop] = [act("recompute", "recompute", "primary"), act("stop", "stop")];
  const running = el("output", { class: "quiet", "data-test": "running", role: "status" });
  const problem = el("span", { class: "warning", "data-test": "problem", role: "alert" });
  let [started, clock] = [0, null];
  const tick = () => {
    const text = model.get("running");
    running.textContent = text && `${text} … ${Math.round((Date.now() - started) / 1000)} s`;
  };
  const follow = () => {
    const busy = Boolean(model.get("running"));
    if (busy && !clock) [started, clock] = [Date.now(), setInterval(tick, 500)];
    if (!busy) clock = clearInterval(clock) ?? null;
    stop.classList.toggle("hidden", !busy);
    tick();
    problem.textContent = model.get("problem");
  };
  const choose = () => {
    for (const [method, controls] of Object.entries(settings)) {
      for (const node of controls) node.classList.toggle("hidden", method !== model.get("method"));
    }
    again.classList.toggle("hidden", !settings[model.get("method")].length);
  };
  model.on("change:running", follow);
  model.on("change:problem", follow);
  model.on("change:method", choose);
  follow();
  choose();
  const node = el("div", { class: "row" }, methodButtons(model), ...Object.values(settings).flat(),
    again, running, stop, problem);
  return { node, end: () => clearInterval(clock) };
}

function searching(model) {
  const list = el("datalist", { id: `patients-${Math.random()}` },
    model.get("patients").map((id) => el("option", { value: id })));
  const input = el("input", {
    type: "search", list: list.id, placeholder: "patient", "aria-label": "search by patient", "data-test": "search",
  });
  const message = el("span", { class: "quiet", "data-test": "message", role: "status" });
  const follow = () => { message.textContent = model.get("message"); };
  model.on("change:message", follow);
  follow();
  const find = el("button", { type: "submit", "data-test": "find" }, "find");
  return el("form", {
    class: "row",
    onsubmit: (event) => { event.preventDefault(); model.send({ do: "search", text: input.value }); },
  }, input, list, find, message);
}

function titled(model) {
  const title = el("h4", { "data-test": "title" });
  const trust = el("p", { class: "quiet", "data-test": "trust" });
  const follow = () => {
    const s = model.get("shown");
    title.textContent = `${s.title} of ${s.n.toLocaleString("en")} images (seed ${s.seed})`;
    const some = s.judged < s.n ? `, estimated on ${s.judged.toLocaleString("en")} images` : "";
    trust.replaceChildren(el("b", {}, `trustworthiness ${s.trustworthiness.toFixed(2)}`),
      `: 1 means that the ${s.k} nearest of an image on the map are its nearest among all ${s.d} features `
      + `too; a map drawn by chance has about 0.5. The other way round, continuity ${s.continuity.toFixed(2)}${some}.`);
  };
  follow();
  model.on("change:shown", follow);
  return [title, trust];
}

// The pictures of the selection, a page at a time.
function selected(model) {
  const count = el("b", { "data-test": "count" });
  const place = el("span", { class: "quiet", "data-test": "page" });
  const cards = el("div", { class: "cards", "data-test": "gallery" });
  const empty = el("div", { class: "empty" },
    el("p", {}, "Nothing is selected. The pictures of what you select come here."),
    el("table", {}, HANDS.map(([what, does]) => el("tr", {}, el("td", {}, el("b", {}, what)), el("td", {}, does)))));
  const turn = (text, by, test) => el("button", {
    type: "button", "data-test": test,
    onclick: () => { model.set("page", model.get("page") + by); model.save_changes(); },
  }, text);
  const [previous, next] = [turn("‹ previous", -1, "previous"), turn("next ›", 1, "next")];
  const clear = el("button", {
    type: "button", "data-test": "clear",
    onclick: () => { model.set("selection", []); model.save_changes(); },
  }, "clear");
  const masks = dropdown(model, "mask_style", "masks", "mask_styles");
  const maps = checkbox(model, "show_maps", "saliency map");
  const key = el("span", { class: "row quiet" });
  const follow = () => {
    const [page, size] = [model.get("page"), model.get("page_size")];
    const n = model.get("selection").length;
    const { length } = model.get("gallery_shown").cards ?? [];
    count.textContent = `${n.toLocaleString("en")} selected`;
    const first = page * size;
    cards.classList.toggle("few", length <= 6);
    place.textContent = n > size ? `${first + 1}–${first + length}` : "";
    previous.disabled = page === 0;
    next.disabled = first + size >= n;
    for (const node of [previous, next]) node.classList.toggle("hidden", n <= size);
    for (const node of [clear, cards]) node.classList.toggle("hidden", !n);
    masks.classList.toggle("hidden", !n || !model.get("has_masks"));
    maps.classList.toggle("hidden", !n || !model.get("has_maps"));
    empty.classList.toggle("hidden", n > 0);
  };
  const legend = () => {
    const lines = model.get("mask_style") === "none" ? [] : model.get("mask_legend");
    key.replaceChildren(...lines.map(([name, colour]) => el("span", { class: "control" },
      el("span", { class: "dot", style: `background: ${colour}` }), name)),
    model.get("show_maps") ? "saliency map: grey where there is no evidence for the predicted class, bright yellow where there is most" : "");
  };
  const draw = () => { follow(); legend(); drawCards(model, cards, model.get("gallery_shown"), "card"); };
  for (const trait of ["gallery_shown", "mask_style", "mask_legend", "focus", "show_maps"]) model.on(`change:${trait}`, draw);
  model.on("change:selection", follow);
  draw();
  return el("div", { class: "pictures" },
    el("div", { class: "row" }, count, place, previous, next, clear, masks, maps), key, empty, cards);
}

function nearest(model) {
  const title = el("h4", {});
  const note = el("p", { class: "quiet", "data-test": "near-note" });
  const cards = el("div", { class: "cards", "data-test": "near" });
  const node = el("div", { class: "near" }, title, note, cards);
  const draw = () => {
    const near = model.get("near");
    node.classList.toggle("hidden", !near.cards);
    if (!near.cards) return;
    title.textContent = `The ${near.k} nearest of ${near.cards[0].name} among all ${model.get("shown").d} features`;
    note.textContent = `${near.same_label} of ${near.k} have its label; ${near.on_map} of ${near.k} are among its `
      + `${near.k} nearest on this map. Lines on the map go to them: long ones are where it misleads.`;
    drawCards(model, cards, near, "near-card");
  };
  for (const trait of ["near", "mask_style", "mask_legend", "show_maps"]) model.on(`change:${trait}`, draw);
  draw();
  return node;
}

export default {
  render({ model, el: host }) {
    const root = panel(model, host, "explorer");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab leaves our keys to us
    root.setAttribute("aria-label", "feature space explorer");
    const map = new FeatureMap(model, performance.now());
    const legend = el("div", { class: "row legend", "data-test": "legend" });
    const relabel = () => drawLegend(model, legend);
    const { node: controls, end } = computing(model);
    const [title, trust] = titled(model);
    root.append(
      controls,
      el("div", { class: "row" }, dropdown(model, "by", "colour by", "choices"), searching(model)),
      el("div", { class: "sides" }, el("div", {}, title, map.node, legend, trust), selected(model)),
      nearest(model),
    );
    relabel();
    const on = (traits, act) => { for (const trait of traits) model.on(`change:${trait}`, act); };
    on(["points"], () => map.load());
    on(["colours", "legend"], () => { map.colour(); relabel(); });
    on(["muted"], () => { map.mute(); relabel(); });
    on(["selection"], () => map.mark());
    on(["near"], () => map.drawOver());
    on(["large"], () => map.resize());
    const resized = new ResizeObserver(() => map.resize());
    resized.observe(map.node);
    return () => { resized.disconnect(); end(); };
  },
};
