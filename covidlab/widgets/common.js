// Helpers of all widgets. Text is only ever set as textContent: what data says is never markup.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

// The widget's outermost element; it follows the trait `large`.
function panel(model, host, name) {
  const root = el("div", { class: `covidlab ${name}`, role: "group" });
  const follow = () => root.classList.toggle("large", Boolean(model.get("large")));
  follow();
  model.on("change:large", follow);
  host.append(root);
  return root;
}

function labelled(text, control, value = null) {
  return el("label", { class: "control" }, el("span", {}, text), control, value ?? []);
}

// A slider bound to a number trait; `show` makes the text beside it.
function slider(model, trait, text, { min, max, step, show = String }) {
  const value = el("output", {}, show(model.get(trait)));
  const input = el("input", { type: "range", min, max, step, "aria-label": text });
  input.value = model.get(trait);
  input.addEventListener("input", () => {
    model.set(trait, Number(input.value));
    value.textContent = show(Number(input.value));
    model.save_changes();
  });
  model.on(`change:${trait}`, () => {
    input.value = model.get(trait);
    value.textContent = show(model.get(trait));
  });
  return labelled(text, input, value);
}

// A drop-down bound to a text trait, with the choices of a list trait.
function dropdown(model, trait, text, choices) {
  const select = el("select", { "aria-label": text });
  const fill = () => {
    select.replaceChildren(...model.get(choices).map((c) => el("option", { value: c }, c)));
    select.value = model.get(trait);
  };
  fill();
  select.addEventListener("change", () => {
    model.set(trait, select.value);
    model.save_changes();
  });
  model.on(`change:${choices}`, fill);
  model.on(`change:${trait}`, () => { select.value = model.get(trait); });
  return labelled(text, select);
}

// A check box bound to a boolean trait.
function checkbox(model, trait, text) {
  const box = el("input", { type: "checkbox", "aria-label": text });
  box.checked = model.get(trait);
  box.addEventListener("change", () => {
    model.set(trait, box.checked);
    model.save_changes();
  });
  model.on(`change:${trait}`, () => { box.checked = model.get(trait); });
  return el("label", { class: "control" }, box, el("span", {}, text));
}

function bytesOf(view) {
  return view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array();
}

// A grey picture of height × width bytes on a canvas of that size.
function drawGrey(canvas, bytes, height, width) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  for (let i = 0, j = 0; i < bytes.length; i += 1, j += 4) {
    pixels.data[j] = pixels.data[j + 1] = pixels.data[j + 2] = bytes[i];
    pixels.data[j + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// A mask from packed bits.
function unpacked(packed, size) {
  const out = new Uint8Array(size);
  for (let i = 0; i < size; i += 1) out[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
  return out;
}

// The edges of a mask's pixels as a path, in pixels of the image.
function outline(mask, height, width) {
  const path = new Path2D();
  const at = (y, x) => (y < 0 || x < 0 || y >= height || x >= width ? 0 : mask[y * width + x]);
  const along = (lines, steps, differs, draw) => {
    for (let a = 0; a <= lines; a += 1) {
      let start = -1;
      for (let b = 0; b <= steps; b += 1) {
        const edge = b < steps && differs(a, b);
        if (edge && start < 0) start = b;
        if (!edge && start >= 0) { draw(a, start, b); start = -1; }
      }
    }
  };
  along(height, width, (y, x) => at(y - 1, x) !== at(y, x), (y, from, to) => {
    path.moveTo(from, y);
    path.lineTo(to, y);
  });
  along(width, height, (x, y) => at(y, x - 1) !== at(y, x), (x, from, to) => {
    path.moveTo(x, from);
    path.lineTo(x, to);
  });
  return path;
}
