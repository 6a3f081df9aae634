// Pictures and candidates are drawn here; what is decided goes to Python, which writes it down and
// answers with the next image.

function packed(mask) {
  const out = new Uint8Array(Math.ceil(mask.length / 8));
  for (let i = 0; i < mask.length; i += 1) if (mask[i]) out[i >> 3] |= 128 >> (i & 7);
  return out;
}

// Sets all pixels within `radius` of the line between two points, in pixels of the image.
function sweep(mask, height, width, from, to, radius, value) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy;
  const [top, bottom] = [Math.min(from.y, to.y) - radius, Math.max(from.y, to.y) + radius];
  const [left, right] = [Math.min(from.x, to.x) - radius, Math.max(from.x, to.x) + radius];
  for (let y = Math.max(0, Math.floor(top)); y < Math.min(height, bottom); y += 1) {
    for (let x = Math.max(0, Math.floor(left)); x < Math.min(width, right); x += 1) {
      const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
      const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      if (Math.hypot(px - along * dx, py - along * dy) <= radius) mask[y * width + x] = value;
    }
  }
}

// What the mask encloses becomes part of it: all that no path outside of it reaches from the border.
function filled(mask, height, width) {
  const outside = new Uint8Array(mask.length);
  const stack = [];
  const visit = (y, x) => {
    const at = y * width + x;
    if (y < 0 || x < 0 || y >= height || x >= width || mask[at] || outside[at]) return;
    outside[at] = 1;
    stack.push([y, x]);
  };
  for (let x = 0; x < width; x += 1) { visit(0, x); visit(height - 1, x); }
  for (let y = 0; y < height; y += 1) { visit(y, 0); visit(y, width - 1); }
  while (stack.length) {
    const [y, x] = stack.pop();
    visit(y - 1, x); visit(y + 1, x); visit(y, x - 1); visit(y, x + 1);
  }
  return outside.map((v) => 1 - v);
}

export default {
  render({ model, el: host }) {
    const about = model.get("about");
    const several = about.candidates.length > 1;
    const tint = Object.fromEntries(Object.entries(about.colours).map(([k, hex]) => [k, rgb(hex)]));
    const root = panel(model, host, "review");
    root.setAttribute("aria-label", "Review of masks");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab leaves our keys to us
    root.tabIndex = -1;

    let now = null; // the image at hand: its grey values, candidates and their majority
    let draft = null; // the mask being drawn
    let strokes = [];
    let adding = true;
    let radius = 4;
    let brush = null; // where it is, in pixels of the image

    // ---- drawing --------------------------------------------------------------------------------

    function load() {
      const shown = model.get("shown");
      now = null;
      if (shown.image === undefined) return;
      const size = shown.height * shown.width;
      const bits = bytesOf(model.get("candidates"));
      const each = Math.ceil(size / 8);
      const masks = about.candidates.map((_, k) => unpacked(bits.subarray(k * each, (k + 1) * each), size));
      const majority = new Uint8Array(size);
      for (let i = 0; i < size; i += 1) {
        majority[i] = 2 * masks.reduce((sum, mask) => sum + mask[i], 0) > masks.length ? 1 : 0;
      }
      const lines = masks.map((mask) => outline(mask, shown.height, shown.width));
      now = { ...shown, size, grey: bytesOf(model.get("picture")), masks, majority, lines };
    }

    function paint(canvas, mask, line, seen = true) {
      const { height, width, size, grey, majority } = now;
      const buffer = document.createElement("canvas");
      drawGrey(buffer, grey, height, width);
      const context = buffer.getContext("2d");
      const opacity = model.get("opacity");
      if (mask && seen) {
        const pixels = context.getImageData(0, 0, width, height);
        const compare = model.get("compare") && several && mask !== draft;
        for (let i = 0, j = 0; i < size; i += 1, j += 4) {
          let colour = mask[i] ? tint.predicted : null;
          if (compare && mask[i] !== majority[i]) colour = mask[i] ? tint.extra : tint.missed;
          const strong = colour && colour !== tint.predicted ? Math.max(opacity, 0.75) : opacity;
          for (let k = 0; colour && k < 3; k += 1) {
            pixels.data[j + k] = (1 - strong) * pixels.data[j + k] + strong * colour[k];
          }
        }
        context.putImageData(pixels, 0, 0);
      }
      const screen = window.devicePixelRatio || 1;
      canvas.style.aspectRatio = `${width} / ${height}`;
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * screen));
      canvas.height = Math.max(1, Math.round((canvas.width * height) / width));
      const on = canvas.getContext("2d");
      const scale = canvas.width / width;
      on.setTransform(scale, 0, 0, scale, 0, 0);
      on.drawImage(buffer, 0, 0);
      if (line && seen) stroke(on, line, about.colours.predicted, screen / scale);
      return { on, scale, fine: screen / scale };
    }

    function stroke(on, path, colour, fine) {
      for (const [style, thick] of [["rgba(0,0,0,0.55)", 3.2], [colour, 1.7]]) {
        on.strokeStyle = style;
        on.lineWidth = thick * fine;
        on.lineJoin = "round";
        on.stroke(path);
      }
    }

    const share = (mask) => `${((100 * mask.reduce((a, b) => a + b, 0)) / mask.length).toFixed(1)} %`;

    // ---- the pictures ---------------------------------------------------------------------------

    const pictures = el("div", { class: "pictures" });
    let canvases = [];

    function lay() {
      canvases = [];
      if (now === null) {
        const done = el("p", { class: "finished", "data-test": "finished" },
          "Every image of this stage is decided. Undo takes the last decision back.");
        pictures.style.setProperty("--columns", 1);
        pictures.style.setProperty("--widest", "100%");
        pictures.replaceChildren(done);
        return;
      }
      const columns = draft ? 2 : Math.min(4, 1 + now.masks.length);
      pictures.style.setProperty("--columns", columns);
      pictures.style.setProperty("--widest", columns === 2 ? "36em" : "22em");
      const plain = el("canvas", { role: "img", "aria-label": `${now.image}, without a mask` });
      const parts = [el("figure", {}, plain, el("figcaption", {}, "the image"))];
      canvases.push(() => paint(plain, null, null));
      if (draft) parts.push(editor());
      else now.masks.forEach((mask, k) => parts.push(candidate(mask, k)));
      pictures.setAttribute("role", draft ? "group" : "radiogroup");
      pictures.setAttribute("aria-label", draft ? "The mask being drawn" : "Candidates");
      pictures.replaceChildren(...parts);
    }

    function candidate(mask, k) {
      const name = about.candidates[k];
      const canvas = el("canvas", {});
      const figure = el("figure", {
        role: "radio", tabindex: several ? 0 : -1, "data-test": `candidate-${k}`, "aria-label": `candidate ${k + 1}, ${name}`,
        onclick: () => choose(k),
      }, canvas, el("figcaption", {}, el("span", {}, several ? `${k + 1} · ${name}` : name), el("span", {}, share(mask))));
      canvases.push(() => {
        figure.setAttribute("aria-checked", String(several && model.get("chosen") === k));
        paint(canvas, mask, now.lines[k], model.get("show_mask"));
      });
      return figure;
    }

    function choose(k) {
      if (!several || k < 0 || k >= about.candidates.length || draft) return;
      model.set("chosen", k);
      model.save_changes();
    }

    // ---- the editor -----------------------------------------------------------------------------

    function editor() {
      const canvas = el("canvas", {
        class: "editor", tabindex: 0, "data-test": "editor", role: "application",
        "aria-label": "Mask: drag to draw, arrows to move the brush, space to set it down",
      });
      const size = el("span", {});
      const at = (event) => ({
        x: (event.offsetX / canvas.clientWidth) * now.width, y: (event.offsetY / canvas.clientHeight) * now.height,
      });
      let last = null;
      let value = 1;
      canvas.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        canvas.focus();
        canvas.setPointerCapture(event.pointerId);
        keepStroke();
        value = Number(adding !== (event.shiftKey || event.button === 2));
        last = at(event);
        sweep(draft, now.height, now.width, last, last, radius, value);
        repaint();
      });
      canvas.addEventListener("pointermove", (event) => {
        brush = at(event);
        if (last) {
          sweep(draft, now.height, now.width, last, brush, radius, value);
          last = brush;
        }
        repaint();
      });
      for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
      canvas.addEventListener("pointerleave", () => { brush = null; repaint(); });
      canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      canvases.push(() => {
        const { on, fine } = paint(canvas, draft, outline(draft, now.height, now.width));
        size.textContent = share(draft);
        if (brush) {
          const ring = new Path2D();
          ring.arc(brush.x, brush.y, radius, 0, 2 * Math.PI);
          stroke(on, ring, adding ? "#ffffff" : "#ff8080", fine);
        }
      });
      return el("figure", {}, canvas, el("figcaption", {}, el("span", {}, "your mask"), size));
    }

    function keepStroke() {
      strokes.push(draft.slice());
      if (strokes.length > 60) strokes.shift();
    }

    function edit() {
      if (now === null || draft) return;
      if (!about.edit) { decide("reject"); return; }
      draft = now.masks[model.get("chosen")].slice();
      strokes = [];
      adding = true;
      lay();
      dress();
      pictures.querySelector(".editor").focus();
    }

    function leave() {
      draft = brush = null;
      lay();
      dress();
      root.focus();
    }

    function move(dx, dy) {
      const step = Math.max(1, radius / 2);
      brush = brush ?? { x: now.width / 2, y: now.height / 2 };
      brush = { x: Math.min(now.width, Math.max(0, brush.x + dx * step)), y: Math.min(now.height, Math.max(0, brush.y + dy * step)) };
      repaint();
    }

    // ---- what can be done -----------------------------------------------------------------------

    let waiting = false; // for Python's answer: a second press is not about the next image
    function send(content, buffers) {
      if (waiting) return;
      waiting = true;
      setTimeout(() => { waiting = false; }, 1500);
      model.send(content, undefined, buffers);
    }
    const go = (steps) => model.send({ do: "go", steps });
    function decide(decision, mask = null) {
      if (now === null) return;
      const buffers = mask ? [packed(mask).buffer] : undefined;
      send({ do: "decide", image: now.image, decision, candidate: model.get("chosen") }, buffers);
    }

    const press = (text, key, name, action, style = "") => el("button", {
      type: "button", class: style, "data-test": name, onclick: (event) => { action(); if (event.detail && !draft) root.focus(); },
    }, text, el("kbd", {}, key));
    const deciding = [
      press("Accept", "A", "accept", () => decide("accept"), "primary"),
      press(about.edit ? "Reject and correct" : "None is good", "R", "reject", edit),
      press("Unsure", "U", "unsure", () => decide("unsure")),
      press("Exclude the image", "E", "exclude", () => decide("exclude")),
    ];
    const undo = press("Undo", "Z", "undo", () => send({ do: "undo" }));
    const around = [
      press("Back", "←", "back", () => go(-1)),
      press("Later", "→", "later", () => go(1)),
    ];
    const see = checkbox(model, "show_mask", "mask (M)");
    see.querySelector("input").setAttribute("data-test", "show-mask");
    const differences = several ? checkbox(model, "compare", "colour what the majority does not say (C)") : [];
    const key = el("span", { class: "quiet" },
      [["extra", "only here"], ["missed", "missing here"]].map(([name, text]) => [
        el("span", { class: "swatch", style: `background: ${about.colours[name]}` }), text]).flat());
    const opacity = slider(model, "opacity", "Opacity", { min: 0, max: 1, step: 0.05, show: (v) => `${Math.round(100 * v)} %` });

    const mode = el("button", { type: "button", "data-test": "mode", onclick: () => flip() });
    const flip = () => { adding = !adding; dress(); repaint(); };
    const broad = el("input", { type: "range", min: 1, max: 24, step: 0.5, "aria-label": "Brush, in pixels", "data-test": "brush" });
    const width = el("output", {});
    const resize = (to) => { radius = Math.min(24, Math.max(1, to)); broad.value = radius; width.textContent = `${2 * radius} px`; repaint(); };
    broad.addEventListener("input", () => resize(Number(broad.value)));
    const back = () => { if (strokes.length) { draft = strokes.pop(); repaint(); } };
    const change = (to) => { keepStroke(); draft = to; repaint(); };
    const drawing = [
      press("Save my mask", "Enter", "save", () => decide("reject", draft), "primary"),
      mode,
      labelled("Brush", broad, width),
      press("Fill", "F", "fill", () => change(filled(draft, now.height, now.width))),
      press("Clear", "Del", "clear", () => change(new Uint8Array(now.size))),
      press("Undo stroke", "Z", "undo-stroke", back),
      press("Cancel", "Esc", "cancel", leave),
    ];

    const actions = el("div", { class: "actions" });
    const view = el("div", { class: "row" });
    const title = el("strong", { "data-test": "title" });
    const bar = el("progress", { "aria-label": "Decided" });
    const counted = el("span", { "data-test": "counted" });
    const problem = el("div", { class: "warning", role: "alert", "data-test": "problem" });
    const recent = el("ol", { "data-test": "recent", "aria-label": "Last decisions" });
    const before = el("span", { class: "quiet" });
    root.append(
      el("div", { class: "head" }, title, before, el("span", { class: "quiet" }, `${about.who} · stage ${about.stage}`),
        el("span", { class: "bar" }, counted, bar)),
      pictures, actions, view, problem, recent);

    function dress() {
      mode.replaceChildren(adding ? "Draws" : "Erases", el("kbd", {}, "X"));
      mode.setAttribute("aria-label", adding ? "The brush draws; press to erase" : "The brush erases; press to draw");
      const gap = () => el("span", { class: "gap" });
      actions.replaceChildren(...(draft ? drawing : [...deciding, gap(), undo, ...around]));
      deciding.concat(around).forEach((button) => { button.disabled = now === null; });
      view.replaceChildren(...(now === null ? [] : draft ? [opacity, el("span", { class: "quiet" }, "Shift or the right button erases; [ and ] change the brush.")]
        : [see, opacity, ...(several ? [differences, key] : [])]));
    }
    const explain = () => { key.style.visibility = model.get("compare") ? "visible" : "hidden"; };

    function tell() {
      const p = model.get("progress");
      const said = Object.entries(about.said).filter(([k]) => p[k]).map(([k, text]) => `${p[k]} ${text}`);
      [bar.max, bar.value] = [p.total, p.done];
      counted.textContent = `${p.done} of ${p.total}${said.length ? ` · ${said.join(", ")}` : ""}`;
      title.textContent = now ? now.image : "All decided";
      before.textContent = now && now.before ? `decided before: ${about.said[now.before]}` : "";
      recent.replaceChildren(...model.get("recent").map((line) => el("li", {},
        `${line.time.slice(11, 19)} UTC  ${about.said[line.decision]}  ${line.image}${several && line.candidate ? `  (${line.candidate})` : ""}`)));
    }

    let asked = false;
    let gone = false;
    function repaint() {
      if (asked || gone) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        if (!gone) canvases.forEach((draw) => draw());
      });
    }

    // ---- keys -----------------------------------------------------------------------------------

    const KEYS = {
      a: () => decide("accept"), r: edit, u: () => decide("unsure"), e: () => decide("exclude"),
      z: () => send({ do: "undo" }), ArrowRight: () => go(1), ArrowLeft: () => go(-1),
      m: () => { model.set("show_mask", !model.get("show_mask")); model.save_changes(); },
      c: () => { if (several) { model.set("compare", !model.get("compare")); model.save_changes(); } },
    };
    const EDITING = {
      Enter: () => decide("reject", draft), Escape: leave, z: back, x: flip, f: () => drawing[3].click(), Delete: () => drawing[4].click(),
      "[": () => resize(radius - 1), "]": () => resize(radius + 1),
      ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
      " ": () => {
        if (!brush) move(0, 0);
        keepStroke();
        sweep(draft, now.height, now.width, brush, brush, radius, Number(adding));
        repaint();
      },
    };
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const on = event.target.tagName;
      if (on === "INPUT" && event.key.startsWith("Arrow")) return; // a slider's own
      if ((on === "BUTTON" || on === "INPUT") && (event.key === "Enter" || event.key === " ")) return;
      const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      let action = (draft ? EDITING : KEYS)[name];
      if (!draft && /^[1-9]$/.test(name)) action = () => choose(Number(name) - 1);
      if (!draft && (name === " " || name === "Enter") && event.target.getAttribute("role") === "radio") action = () => event.target.click();
      if (!action) return;
      event.preventDefault();
      event.stopPropagation(); // the notebook has keys of its own
      action();
    });
    root.addEventListener("pointerdown", (event) => {
      if (!event.target.closest("button, input, canvas.editor, figure[tabindex='0']")) root.focus();
    });

    // ---- what changes what ----------------------------------------------------------------------

    function refresh() {
      if (gone) return;
      const page = root.getRootNode();
      const focused = root.contains(page.activeElement) ? page.activeElement : null;
      waiting = false;
      draft = brush = null;
      load();
      lay();
      tell();
      dress();
      repaint();
      if (focused && page.activeElement !== focused) { // what was replaced has lost it
        focused.focus({ preventScroll: true });
        if (page.activeElement !== focused) root.focus({ preventScroll: true });
      }
    }
    let stale = false;
    const soon = () => { // several traits change together
      if (stale) return;
      stale = true;
      requestAnimationFrame(() => { stale = false; refresh(); });
    };
    model.on("change:shown change:recent change:progress", soon);
    model.on("change:message", () => {
      problem.textContent = model.get("message");
      waiting = false;
    });
    model.on("change:chosen change:opacity change:show_mask change:compare", repaint);
    model.on("change:compare", explain);
    explain();
    const watch = new ResizeObserver(repaint);
    watch.observe(pictures);
    problem.textContent = model.get("message");
    resize(radius);
    refresh();
    return () => {
      gone = true;
      watch.disconnect();
    };
  },
};
