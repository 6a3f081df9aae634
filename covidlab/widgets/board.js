// The run board: a table of trainings, their curves, and what one of them gets wrong.

const [FOUND, EXTRA, MISSED] = ["#f0f0f0", "#d55e00", "#56b4e9"];
const NAMES = { best_epoch: "best epoch", seconds: "seconds", pr_auc: "PR-AUC", roc_auc: "ROC-AUC", mcc: "MCC" };
const told = (name) => {
  const bare = name.replace(/^test /, "");
  return (bare === name ? "" : "test ") + (NAMES[bare] ?? bare.replaceAll("_", " "));
};

// ---- a chart: lines over whole numbers ----------------------------------------------------------

function ticks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) out.push(i * step);
  return { out, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// 1, 2, 5, 10 and so on between two powers of ten; only the tens where there are many.
function decades(low, high) {
  const marks = high - low > 3 ? [1] : [1, 2, 5];
  const out = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    out.push(...marks.map((m) => Number(`${m}e${power}`)).filter((v) => Math.log10(v) >= low && Math.log10(v) <= high));
  }
  return { out };
}

class Chart {
  constructor(label, test, height = "17em") {
    this.canvas = el("canvas", {
      class: "chart", tabindex: 0, role: "img", "aria-label": label, "data-test": test, style: `height: ${height}`,
    });
    [this.lines, this.cursor, this.about] = [[], null, { x: "", y: "" }];
    this.onCursor = () => {};
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.move(null));
    this.canvas.addEventListener("keydown", (event) => {
      const last = this.longest();
      const to = { ArrowLeft: (this.cursor ?? last + 1) - 1, ArrowRight: (this.cursor ?? 0) + 1, Home: 1, End: last }[event.key];
      if (to === undefined || !last) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(Math.min(last, Math.max(1, to)));
    });
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.canvas);
  }

  longest() {
    return Math.max(0, ...this.lines.map((line) => line.values.length));
  }

  point(px) {
    const last = this.longest();
    if (!this.place || !last) return;
    const x = Math.round(1 + ((px - this.place.left) / this.place.width) * Math.max(1, last - 1));
    this.move(Math.min(last, Math.max(1, x)));
  }

  move(x) {
    if (x === this.cursor) return;
    this.cursor = x;
    this.draw();
    this.onCursor(x);
  }

  show(lines, about) {
    [this.lines, this.about] = [lines, about];
    if (this.cursor > this.longest()) this.cursor = null;
    this.draw();
    this.onCursor(this.cursor);
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const c = canvas.getContext("2d");
    c.scale(ratio, ratio);
    const size = parseFloat(getComputedStyle(canvas).fontSize) * 0.86;
    c.font = `${size}px system-ui, sans-serif`;
    const values = this.lines.flatMap((line) => line.values).filter((v) => v !== null);
    if (!values.length) return;
    let [low, high] = this.about.range ?? [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    const log = this.about.log && low > 0;
    const up = log ? Math.log10 : (v) => v;
    [low, high] = [up(low), up(high)];
    if (!this.about.range) [low, high] = [low - 0.04 * (high - low), high + 0.04 * (high - low)];
    const vertical = log ? decades(low, high) : ticks(low, high, Math.max(2, Math.floor(height / (size * 3))));
    const texts = vertical.out.map((v) => (log ? String(v) : v.toFixed(vertical.digits)));
    const left = size * 2 + Math.max(...texts.map((t) => c.measureText(t).width));
    const place = { left, top: size * 0.8, width: width - left - size, height: height - size * 3.8 };
    this.place = place;
    const last = Math.max(2, this.longest());
    const x = (i) => place.left + ((i - 1) / (last - 1)) * place.width;
    const y = (v) => place.top + (1 - (up(v) - low) / (high - low)) * place.height;
    c.lineWidth = 1;
    c.textBaseline = "middle";
    vertical.out.forEach((v, i) => {
      c.strokeStyle = "#e4e4e4";
      c.beginPath();
      c.moveTo(place.left, y(v));
      c.lineTo(place.left + place.width, y(v));
      c.stroke();
      c.fillStyle = "#555";
      c.textAlign = "right";
      c.fillText(texts[i], place.left - size * 0.4, y(v));
    });
    c.textAlign = "center";
    c.textBaseline = "top";
    const across = ticks(1, last, Math.max(2, Math.floor(place.width / (size * 4)))).out;
    for (const i of new Set([1, ...across.filter((v) => v % 1 === 0 && v > 1)])) {
      c.fillText(String(i), x(i), place.top + place.height + size * 0.5);
    }
    c.fillText(this.about.x, place.left + place.width / 2, height - size * 1.4);
    c.save();
    c.translate(size * 0.2, place.top + place.height / 2);
    c.rotate(-Math.PI / 2);
    c.fillText(this.about.y, 0, 0);
    c.restore();
    if (this.cursor) {
      c.strokeStyle = "#777";
      c.beginPath();
      c.moveTo(x(this.cursor), place.top);
      c.lineTo(x(this.cursor), place.top + place.height);
      c.stroke();
    }
    for (const line of this.lines) {
      c.strokeStyle = c.fillStyle = line.colour;
      c.lineWidth = line.strong ? 3 : 1.6;
      c.setLineDash(line.dashed ? [5, 4] : []);
      c.globalAlpha = line.dashed ? 0.75 : 1;
      c.beginPath();
      let pen = false;
      line.values.forEach((v, i) => {
        if (v === null) pen = false;
        else {
          c[pen ? "lineTo" : "moveTo"](x(i + 1), y(v));
          pen = true;
        }
      });
      c.stroke();
      c.setLineDash([]);
      c.globalAlpha = 1;
      const dots = line.points ? line.values.map((_, i) => i + 1) : [line.best, line.values.length === 1 ? 1 : 0];
      for (const i of dots) {
        const v = line.values[i - 1];
        if (!i || v == null) continue;
        c.beginPath();
        c.arc(x(i), y(v), line.points ? 2.2 : 4, 0, 7);
        c.fill();
      }
    }
  }
}

// ---- the table ----------------------------------------------------------------------------------

class Runs {
  constructor(model, set) {
    [this.model, this.set, this.at] = [model, set, null];
    this.head = el("tr", {});
    this.body = el("tbody", {});
    this.shown = el("span", { class: "quiet", "data-test": "shown", "aria-live": "polite" });
    this.empty = el("p", { class: "quiet hidden" }, "No run has all of that: search for less, or choose all again.");
    this.node = el("div", { class: "wide" },
      el("table", { class: "runs", role: "grid", "aria-multiselectable": "true", "aria-label": "runs" }, el("thead", {}, this.head), this.body),
      this.empty);
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("keydown", (event) => this.typed(event));
    this.body.addEventListener("focusin", (event) => {
      const row = event.target.closest("tr");
      if (row) this.rove(row.dataset.run);
    });
    this.draw();
  }

  // As Python's `listed`.
  order() {
    const { model } = this;
    const [rows, columns, only] = [model.get("rows"), model.get("columns"), model.get("only")];
    const words = model.get("search").toLowerCase().split(/\s+/).filter(Boolean);
    const filters = Object.entries(only).map(([name, level]) => [columns.findIndex((c) => c.name === name), level]);
    const there = rows.map((_, i) => i).filter((i) => words.every((word) => rows[i].text.includes(word))
      && filters.every(([at, level]) => rows[i].cells[at] === level));
    const by = model.get("sort_by");
    if (!by) return there;
    const [ranks, sign] = [model.get("ranks")[by], model.get("descending") ? -1 : 1];
    return there.sort((a, b) => (ranks[a] < 0) - (ranks[b] < 0) || sign * (ranks[a] - ranks[b]) || a - b);
  }

  sort(column) {
    const { model } = this;
    const large = column.kind === "number" && !/loss|seconds|epoch|images/.test(column.name);
    const turns = [large, !large];
    const now = model.get("sort_by") === column.name ? turns.indexOf(model.get("descending")) : -1;
    if (now === 1) this.set({ sort_by: "", descending: false });
    else this.set({ sort_by: column.name, descending: turns[now + 1] });
    const again = [...this.head.querySelectorAll("button")].find((b) => b.dataset.column === column.name);
    again?.focus();
  }

  draw() {
    const { model } = this;
    const [all, visible, rows] = [model.get("columns"), new Set(model.get("visible")), model.get("rows")];
    const order = this.order();
    const some = (i) => order.some((row) => !["", "–"].includes(rows[row].cells[i]));
    const columns = all.map((c, i) => ({ ...c, i })).filter((c) => visible.has(c.name) && (some(c.i) || !order.length));
    const [by, down] = [model.get("sort_by"), model.get("descending")];
    this.head.replaceChildren(el("th", { class: "tick", scope: "col" }, el("span", { class: "unseen" }, "curve")), ...columns.map((c) => el("th", {
      scope: "col", class: c.kind, "aria-sort": by === c.name ? (down ? "descending" : "ascending") : "none",
    }, el("button", {
      type: "button", "data-test": `sort-${c.name}`, "data-column": c.name, title: `sort by ${told(c.name)}`,
      onclick: () => this.sort(c),
    }, told(c.name), el("span", { class: "arrow", "aria-hidden": "true" }, by === c.name ? (down ? " ▼" : " ▲") : "")))));
    const focused = this.body.contains(this.root().activeElement);
    this.body.replaceChildren(...order.map((i) => this.row(rows[i], columns)));
    this.keys = order.map((i) => rows[i].key);
    if (!this.keys.includes(this.at)) this.at = this.keys[0] ?? null;
    this.rove(this.at);
    if (focused) this.line(this.at)?.focus();
    this.shown.textContent = order.length === rows.length ? `${rows.length} runs` : `${order.length} of ${rows.length} runs`;
    this.empty.classList.toggle("hidden", order.length > 0);
    this.mark();
  }

  row(row, columns) {
    const box = el("input", { type: "checkbox", tabindex: -1, "aria-label": `draw the curves of ${row.name}`, "data-test": "tick" });
    return el("tr", { "data-run": row.key, "data-test": "run", class: row.state, title: row.state === "done" ? false : row.cells.at(-2) },
      el("td", { class: "tick" }, box, el("span", { class: "swatch", "aria-hidden": "true" })),
      columns.map((c) => el("td", { class: `${c.kind}${c.name === "state" ? " state" : ""}${c.name === "error" || c.name === "folder" ? " long" : ""}` }, row.cells[c.i])));
  }

  root() {
    return this.body.getRootNode();
  }

  line(key) {
    return [...this.body.children].find((tr) => tr.dataset.run === key);
  }

  rove(key) {
    this.at = key;
    for (const tr of this.body.children) tr.tabIndex = tr.dataset.run === key ? 0 : -1;
  }

  mark() {
    const [ticked, opened] = [new Set(this.model.get("selected")), this.model.get("opened")];
    const colours = Object.fromEntries(this.model.get("curves").map((c) => [c.key, c.colour]));
    for (const tr of this.body.children) {
      const key = tr.dataset.run;
      tr.setAttribute("aria-selected", ticked.has(key));
      tr.setAttribute("aria-current", key === opened);
      tr.querySelector("input").checked = ticked.has(key);
      tr.querySelector(".swatch").style.background = ticked.has(key) ? colours[key] ?? "" : "";
    }
  }

  tick(key) {
    const ticked = this.model.get("selected");
    this.set({ selected: ticked.includes(key) ? ticked.filter((k) => k !== key) : [...ticked, key] });
  }

  open(key) {
    this.set({ opened: this.model.get("opened") === key ? "" : key });
  }

  clicked(event) {
    const row = event.target.closest("tr");
    if (!row) return;
    this.rove(row.dataset.run);
    if (event.target.closest(".tick")) {
      if (event.target.tagName !== "INPUT") event.preventDefault();
      this.tick(row.dataset.run);
    } else this.open(row.dataset.run);
  }

  typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = this.keys.indexOf(this.at);
    const go = { ArrowUp: here - 1, ArrowDown: here + 1, Home: 0, End: this.keys.length - 1, PageUp: here - 10, PageDown: here + 10 }[event.key];
    if (go !== undefined) {
      this.rove(this.keys[Math.min(this.keys.length - 1, Math.max(0, go))]);
      this.line(this.at).focus();
    } else if (event.key === "Enter") this.open(this.at);
    else if (event.key === " ") this.tick(this.at);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has keys of its own
  }
}

// What the table shows: words to search for, levels, columns.
function filters(model, set) {
  const node = el("div", { class: "row filters" });
  const search = el("input", { type: "search", placeholder: "words", "aria-label": "search the runs", "data-test": "search" });
  search.value = model.get("search");
  search.addEventListener("input", () => set({ search: search.value }));
  model.on("change:search", () => { if (search.value !== model.get("search")) search.value = model.get("search"); });
  const draw = () => {
    const only = model.get("only");
    const chosen = model.get("columns").filter((c) => c.levels.length > 1 && c.levels.length <= 30 && c.name !== "fold");
    const selects = chosen.map((c) => {
      const select = el("select", { "data-test": `only-${c.name}`, "aria-label": `only runs with this ${c.name}` },
        el("option", { value: "all" }, "all"), c.levels.map((level, i) => el("option", { value: i }, level || "–")));
      select.value = c.name in only ? c.levels.indexOf(only[c.name]) : "all";
      select.addEventListener("change", () => {
        const { [c.name]: _, ...others } = model.get("only");
        set({ only: select.value === "all" ? others : { ...others, [c.name]: c.levels[select.value] } });
      });
      return labelled(told(c.name), select);
    });
    const visible = new Set(model.get("visible"));
    const boxes = model.get("columns").map((c) => {
      const box = el("input", { type: "checkbox", "data-test": `column-${c.name}` });
      box.checked = visible.has(c.name);
      box.addEventListener("change", () => {
        const now = new Set(model.get("visible"));
        if (box.checked) now.add(c.name);
        else now.delete(c.name);
        set({ visible: model.get("columns").map((one) => one.name).filter((name) => now.has(name)) });
      });
      return el("label", { class: "control" }, box, told(c.name));
    });
    const open = node.querySelector("details")?.open ?? false;
    node.replaceChildren(labelled("Search", search), ...selects,
      el("details", { class: "choose", open }, el("summary", {}, "Columns"), el("div", { class: "boxes" }, boxes)));
  };
  draw();
  model.on("change:columns change:only", draw);
  return node;
}

// ---- curves -------------------------------------------------------------------------------------

function curves(model, set) {
  const chart = new Chart("curves of the ticked runs: arrows go from epoch to epoch", "curves");
  const legend = el("ul", { class: "legend", "data-test": "legend" });
  const empty = el("p", { class: "hint" }, "Tick runs to draw their curves; click a run, or press Enter on it, to open it.");
  const why = el("p", { class: "quiet note" });
  const clear = el("button", { type: "button", "data-test": "clear", onclick: () => set({ selected: [] }) }, "untick all");
  const values = () => {
    const at = chart.cursor;
    [...legend.children].forEach((item) => {
      const { lines, best } = model.get("curves").find((c) => c.key === item.dataset.run) ?? { lines: {} };
      const epoch = at ?? best;
      const texts = Object.entries(lines).map(([line, list]) => [line, list[epoch - 1]])
        .filter(([, v]) => v != null).map(([line, v]) => `${line} ${v.toFixed(3)}`);
      item.querySelector("output").textContent = texts.length ? `${at ? "" : "best "}epoch ${epoch}: ${texts.join(", ")}` : "";
    });
  };
  chart.onCursor = values;
  const draw = () => {
    const [shown, name, opened] = [model.get("curves"), model.get("curve"), model.get("opened")];
    const drawn = shown.filter((c) => Object.keys(c.lines).length);
    const lines = drawn.flatMap((c) => Object.entries(c.lines).map(([line, list]) => ({
      values: list, colour: c.colour, dashed: line === "training", strong: c.key === opened,
      best: line === "validation" ? c.best : 0,
    })));
    legend.replaceChildren(...shown.map((c) => el("li", { "data-run": c.key },
      el("span", { class: "line", style: `border-color: ${c.colour}` }),
      el("span", {}, c.name, c.key === opened ? el("span", { class: "quiet" }, " · opened") : "",
        Object.keys(c.lines).length ? "" : el("span", { class: "quiet" }, ` · no ${told(name)} recorded`)),
      el("output", { class: "quiet" }))));
    for (const node of [chart.canvas, why, clear]) node.classList.toggle("hidden", !drawn.length);
    clear.classList.toggle("hidden", !model.get("selected").length);
    empty.classList.toggle("hidden", shown.length > 0);
    why.textContent = `${name === "loss" ? "Solid: validation, dashed: training" : "Validation"}. The dot is the epoch whose weights were kept.`;
    chart.show(lines, { x: "epoch", y: told(name), log: model.get("log_scale") });
    chart.canvas.dataset.runs = drawn.map((c) => c.key).join(" ");
    values();
  };
  draw();
  model.on("change:curves change:curve change:opened change:log_scale", draw);
  const node = el("div", { class: "curves" },
    el("div", { class: "row" }, el("h4", {}, "Curves"), dropdown(model, "curve", "of", "curve_names"), checkbox(model, "log_scale", "log scale"), clear),
    empty, chart.canvas, why, legend);
  return { node, end: () => chart.watch.disconnect() };
}

// ---- one run ------------------------------------------------------------------------------------

function copying(code) {
  const text = el("code", {}, code);
  const button = el("button", { type: "button", "aria-label": `copy ${code}` }, "copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
      button.textContent = "copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "marked";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  return [text, button];
}

function opened(model, set) {
  const node = el("div", { class: "opened", "data-test": "opened" });
  const draw = () => {
    const about = model.get("about");
    if (!about.key) {
      node.replaceChildren();
      return;
    }
    const unfolded = new Set([...node.querySelectorAll("details[open]")].map((d) => d.dataset.part));
    const parts = Object.entries(about.parts).filter(([, facts]) => facts.length).map(([part, facts]) => el("details", {
      "data-part": part, open: unfolded.has(part),
    }, el("summary", {}, part), el("table", { class: "facts" }, facts.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value))))));
    node.replaceChildren(
      el("div", { class: "row" }, el("h4", { "data-test": "name" }, about.name),
        el("button", { type: "button", class: "small", "data-test": "close", onclick: () => set({ opened: "" }) }, "close")),
      el("p", { class: "quiet path" }, `run ${about.key}`, about.folder ? el("br") : "", about.folder),
      about.state === "done" ? "" : el("p", { class: about.state === "missing" ? "quiet" : "warning" },
        { missing: "Not trained yet", failed: "Failed", unreadable: "Cannot be read" }[about.state], about.error ? `: ${about.traceback ? about.error.split("\n")[0] : about.error}` : "."),
      about.traceback ? el("details", { open: true, "data-part": "traceback" }, el("summary", {}, "Traceback"), el("pre", { tabindex: 0, "data-test": "traceback" }, about.traceback)) : "",
      about.note ? el("p", { class: "warning" }, about.note) : "",
      about.calls ? el("table", { class: "calls" }, el("caption", {}, "To go on with it in the notebook"),
        about.calls.map(([what, code]) => el("tr", {}, el("th", { scope: "row" }, what), el("td", {}, copying(code))))) : "",
      ...parts);
    const end = node.querySelector("pre");
    if (end) end.scrollTop = end.scrollHeight; // what went wrong stands last
  };
  draw();
  model.on("change:about", draw);
  return node;
}

const percent = (k, n) => (n ? (k / n).toFixed(3) : "–");

// True classes down, predicted across; what is right in blue, what is wrong in orange.
function matrix(names, counts) {
  return el("table", { class: "matrix", "data-test": "matrix" },
    el("thead", {}, el("tr", {}, el("th", {}, "truth ↓  predicted →"), names.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, counts.map((row, i) => {
      const n = row.reduce((a, b) => a + b, 0);
      return el("tr", {}, el("th", { scope: "row" }, names[i], el("span", { class: "quiet" }, ` (${n})`)), row.map((k, j) => el("td", {
        "data-test": `cell-${i}-${j}`,
        style: `background: rgba(${i === j ? "0, 114, 178" : "213, 94, 0"}, ${n ? (0.55 * k) / n : 0})`,
      }, String(k))));
    })));
}

function confusion(model) {
  const node = el("div", { class: "confusion" });
  const rates = el("p", { class: "quiet", "data-test": "rates" });
  const place = el("div", {});
  const cut = slider(model, "threshold", "Threshold", { min: 0, max: 1, step: 0.005, show: (v) => v.toFixed(3) });
  cut.querySelector("input").setAttribute("data-test", "threshold");
  const draw = () => {
    const about = model.get("about");
    if (about.kind !== "classes") return;
    cut.classList.toggle("hidden", !about.cuts);
    if (!about.cuts) {
      const right = about.matrix.reduce((sum, row, i) => sum + row[i], 0);
      place.replaceChildren(matrix(about.classes, about.matrix));
      rates.textContent = `accuracy ${right}/${about.n} = ${percent(right, about.n)}`;
      return;
    }
    const [tp, fn, fp, tn] = about.cuts[Math.round(model.get("threshold") * (about.cuts.length - 1))];
    place.replaceChildren(matrix([about.positive, about.rest], [[tp, fn], [fp, tn]]));
    rates.replaceChildren(...[["sensitivity", tp, tp + fn], ["specificity", tn, tn + fp], ["accuracy", tp + tn, about.n]]
      .map(([name, k, n]) => el("span", {}, `${name} ${k}/${n} = ${percent(k, n)}`)));
  };
  model.on("change:about change:threshold", draw);
  draw();
  node.append(place, cut, rates);
  return node;
}

function dices(model) {
  const chart = new Chart("Dice of each test image, the best first: arrows go from image to image", "dices", "14em");
  const legend = el("ul", { class: "legend" });
  const draw = () => {
    const about = model.get("about");
    if (about.kind !== "masks") return;
    const lines = about.dices.map((values, i) => ({ values, colour: TONES[i % TONES.length], points: true }));
    chart.show(lines, { x: "test image, the best first", y: "Dice", range: [0, 1] });
  };
  chart.onCursor = (at) => {
    const about = model.get("about");
    if (about.kind !== "masks") return;
    legend.replaceChildren(...about.regions.map((region, i) => {
      const list = about.dices[i];
      const middle = list.length ? (list[(list.length - 1) >> 1] + list[list.length >> 1]) / 2 : null;
      const here = at && list[at - 1] != null ? `, no. ${at}: ${list[at - 1].toFixed(3)}` : "";
      return el("li", {}, el("span", { class: "line", style: `border-color: ${TONES[i % TONES.length]}` }), el("span", {}, region),
        el("output", { class: "quiet" }, `${list.length} of ${about.n} images have it in a mask; median ${middle === null ? "–" : middle.toFixed(3)}${here}`));
    }));
  };
  model.on("change:about", draw);
  draw();
  return { node: el("div", { class: "dices" }, chart.canvas, legend), draw, end: () => chart.watch.disconnect() };
}
const TONES = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

function drawPicture(canvas, picture) {
  drawGrey(canvas, bytesOf(picture.grey), picture.height, picture.width);
  if (!picture.masks) return;
  const context = canvas.getContext("2d");
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const tones = [null, rgb(MISSED), rgb(EXTRA), rgb(FOUND)];
  bytesOf(picture.masks).forEach((code, i) => {
    if (code) tones[code].forEach((v, j) => { image.data[4 * i + j] = 0.45 * image.data[4 * i + j] + 0.55 * v; });
  });
  context.putImageData(image, 0, 0);
}

// The worst test images: a table, and on request pictures of the first.
function worst(model) {
  const title = el("h4", { "data-test": "worst-title" });
  const key = el("div", { class: "row quiet key" }, [["found", FOUND], ["not there", EXTRA], ["missed", MISSED]]
    .map(([name, colour]) => el("span", { class: "control" }, el("span", { class: "tone", style: `background: ${colour}` }), name)));
  const cards = el("div", { class: "cards" });
  const table = el("table", { class: "worst", "data-test": "worst" });
  const more = el("p", { class: "quiet" });
  const box = checkbox(model, "pictures", "pictures");
  box.querySelector("input").setAttribute("data-test", "pictures");
  const status = el("span", { class: "quiet", "aria-live": "polite" });
  const draw = () => {
    const [about, wrong] = [model.get("about"), model.get("wrong")];
    if (!about.kind || !wrong.rows) return;
    const masks = about.kind === "masks";
    const cut = about.cuts ? ` at the threshold ${wrong.threshold.toFixed(3)}` : "";
    title.textContent = masks ? `${wrong.n} test images, the worst first`
      : `${wrong.n} of ${about.n} test images taken for another class${cut}`;
    const head = masks
      ? ["image", "patient", ...about.regions.flatMap((r) => [`Dice, ${r}`, "true pixels", "predicted"])]
      : ["image", "patient", "label", "taken for", "probability of its label"];
    const cells = (row) => (masks
      ? row.values.flatMap((v, i) => [v === null ? "–" : v.toFixed(3), row.words[2 * i], row.words[2 * i + 1]])
      : [...row.words, row.value.toFixed(3)]);
    table.replaceChildren(
      el("thead", {}, el("tr", {}, head.map((name, i) => el("th", { scope: "col", class: i > (masks ? 1 : 3) ? "number" : "" }, name)))),
      el("tbody", {}, wrong.rows.map((row) => el("tr", { "data-test": "wrong" }, el("td", { class: "path" }, row.image), el("td", {}, row.patient),
        cells(row).map((text, i) => el("td", { class: masks || i > 1 ? "number" : "" }, text))))));
    more.textContent = wrong.n > wrong.rows.length ? `and ${wrong.n - wrong.rows.length} more: ${masks ? "board.dice()" : "board.errors()"}` : "";
    table.classList.toggle("hidden", !wrong.rows.length);
  };
  const show = () => {
    const { pictures = {}, key: of } = model.get("shown");
    const [about, wrong] = [model.get("about"), model.get("wrong")];
    const rows = of === about.key ? (wrong.rows ?? []).filter((row) => pictures[row.image]) : [];
    cards.replaceChildren(...rows.map((row) => {
      const canvas = el("canvas", { role: "img", "aria-label": `test image ${row.image}` });
      drawPicture(canvas, pictures[row.image]);
      const words = about.kind === "masks" ? `Dice ${row.values.map((v) => (v === null ? "–" : v.toFixed(2))).join(", ")}`
        : `${row.words[0]}, taken for ${row.words[1]}`;
      return el("figure", { "data-test": "picture" }, canvas, el("figcaption", {}, el("b", {}, words), el("span", { class: "name", title: row.image }, row.image.split("/").at(-1))));
    }));
    key.classList.toggle("hidden", !rows.length || about.kind !== "masks");
    status.textContent = model.get("running");
  };
  const both = () => { draw(); show(); };
  model.on("change:wrong", both);
  model.on("change:about", both);
  model.on("change:shown change:running", show);
  both();
  return el("div", { class: "errors" }, el("div", { class: "row" }, title, box, status), key, cards, el("div", { class: "wide low" }, table), more);
}

export default {
  render({ model, el: host }) {
    const root = panel(model, host, "board");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab leaves our keys to us
    root.setAttribute("aria-label", "run board");
    const set = (values) => {
      for (const [name, value] of Object.entries(values)) model.set(name, value);
      model.save_changes();
    };
    const title = el("h3", {});
    const counts = el("span", { class: "counts", "data-test": "counts" });
    const note = el("p", { class: "quiet" });
    const problem = el("p", { class: "warning", role: "alert", "data-test": "problem" });
    const problems = el("ul", { class: "warning", "data-test": "problems" });
    const refresh = el("button", { type: "button", "data-test": "refresh", onclick: () => model.send({ kind: "refresh" }) }, "refresh");
    const table = new Runs(model, set);
    const lines = curves(model, set);
    const masks = dices(model);
    const classes = confusion(model);
    const tested = el("section", { "data-test": "tested" }, el("h4", { class: "head" }, "On its test part"),
      el("div", { class: "sides" }, el("div", {}, classes, masks.node), worst(model)));
    const run = opened(model, set);
    const sides = el("div", { class: "sides" }, lines.node, run);

    const tell = () => {
      const summary = model.get("summary");
      title.textContent = summary.title;
      counts.replaceChildren(...Object.entries(summary.counts).map(([state, n]) => el("span", { class: `state ${state}` }, `${n} ${state}`)));
      note.textContent = summary.note;
      problem.textContent = model.get("problem");
      problem.classList.toggle("hidden", !model.get("problem"));
      problems.replaceChildren(...model.get("problems").map((text) => el("li", {}, text)));
      problems.classList.toggle("hidden", !model.get("problems").length);
    };
    const unfold = () => {
      const { kind, key } = model.get("about");
      sides.classList.toggle("one", !key);
      tested.classList.toggle("hidden", !kind);
      classes.classList.toggle("hidden", kind !== "classes");
      masks.node.classList.toggle("hidden", kind !== "masks");
    };

    root.append(
      el("div", { class: "row" }, title, counts, refresh, table.shown), problems, problem,
      filters(model, set), table.node, note, sides, tested);
    let stale = false;
    const redraw = () => {
      if (stale) return;
      stale = true;
      queueMicrotask(() => { stale = false; table.draw(); });
    };
    model.on("change:rows change:ranks change:columns change:visible change:sort_by change:descending change:search change:only", redraw);
    model.on("change:selected change:opened change:curves", () => table.mark());
    model.on("change:summary change:problem change:problems", tell);
    model.on("change:about", unfold);
    tell();
    unfold();
    return () => { lines.end(); masks.end(); };
  },
};
