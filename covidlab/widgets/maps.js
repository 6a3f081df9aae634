// The map viewer: pictures and maps come as bytes and are blended here; all numbers are Python's.

const PART = 4 << 20; // bytes of an upload in one message
const BUDGETS = [8, 16, 32, 64, 128, 256];
const percent = (value) => {
  if (value === null || value === undefined) return "–";
  return `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;
};
const decimal = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace("-", "−"));

// A grey image under a map of the same size, as `explain.overlay`: as opaque as it is hot.
function blended(image, heat, { height, width }, colours, opacity) {
  const canvas = el("canvas", { width, height });
  const pixels = new ImageData(width, height);
  for (let i = 0, j = 0; i < image.length; i += 1, j += 4) {
    const hot = heat.length ? heat[i] : 0;
    const cover = (opacity * hot) / 255;
    for (let c = 0; c < 3; c += 1) {
      pixels.data[j + c] = (1 - cover) * image[i] + cover * colours[3 * hot + c];
    }
    pixels.data[j + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// A picture as large as the page gives it room, with lines that are as fine at any size.
function place(canvas, picture, lines = []) {
  const screen = window.devicePixelRatio || 1;
  canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
  const width = Math.max(1, Math.round(canvas.clientWidth * screen));
  const height = Math.max(1, Math.round((width * picture.height) / picture.width));
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, width, height);
  context.lineJoin = "round";
  for (const [points, colour] of lines) {
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) context.lineTo(points[i] * width, points[i + 1] * height);
    for (const [style, fine] of [["#0000008c", 3.2], [colour, 1.7]]) {
      context.strokeStyle = style;
      context.lineWidth = fine * screen;
      context.stroke();
    }
  }
}

function set(model, changes) {
  for (const [trait, value] of Object.entries(changes)) model.set(trait, value);
  model.save_changes();
}

// A drop-down of [value, text] pairs, which `choices` says anew whenever one of the traits changes.
function choose(model, trait, text, test, traits, choices, now = () => model.get(trait)) {
  const select = el("select", { "aria-label": text, "data-test": test });
  const fill = () => {
    const options = choices();
    select.replaceChildren(...options.map(([value, words]) => el("option", { value }, words)));
    select.value = String(now());
  };
  fill();
  for (const name of new Set([trait, ...traits])) model.on(`change:${name}`, fill);
  select.addEventListener("change", () => {
    const number = typeof model.get(trait) === "number";
    set(model, { [trait]: number ? Number(select.value) : select.value });
  });
  return labelled(text, select);
}

function press(text, test, onclick, style = "") {
  return el("button", { type: "button", class: style, "data-test": test, onclick }, text);
}

// Check boxes of a list trait; `most` of them at once.
function boxes(model, trait, entries, test, most = Infinity) {
  const inputs = entries.map(([key]) => {
    const input = el("input", { type: "checkbox", value: key, "data-test": `${test}-${key}` });
    input.addEventListener("change", () => {
      set(model, { [trait]: inputs.filter((one) => one.checked).map((one) => one.value) });
    });
    return input;
  });
  const follow = () => {
    const on = model.get(trait);
    for (const input of inputs) {
      input.checked = on.includes(input.value);
      input.disabled = !input.checked && on.length >= most;
    }
  };
  model.on(`change:${trait}`, follow);
  follow();
  return entries.map(([, text, mark], i) => el("label", { class: "control" }, inputs[i], mark ?? [], el("span", {}, text)));
}

// ---- which image ---------------------------------------------------------------------------------

function picking(model, about) {
  const go = (by) => {
    const rows = model.get("listed");
    const at = rows.indexOf(model.get("row")) + by;
    if (at >= 0 && at < rows.length) set(model, { row: rows[at] });
  };
  const words = (row) => {
    const { name, label, said, right } = model.get("items")[row];
    const seen = [label, said && `→ ${said}`].filter(Boolean).join(" ");
    return [name, seen && ` · ${seen}`, right === false ? " ✗" : ""].join("");
  };
  const [previous, next] = [press("‹ previous", "previous", () => go(-1)), press("next ›", "next", () => go(1))];
  const count = el("span", { class: "quiet", "data-test": "count", role: "status" });
  const follow = () => {
    const rows = model.get("listed");
    const at = rows.indexOf(model.get("row"));
    previous.disabled = at <= 0;
    next.disabled = at < 0 || at >= rows.length - 1;
    const all = model.get("items").length;
    const what = model.get("only") === "all" ? "" : `, ${rows.length} predicted ${model.get("only")}`;
    count.textContent = at < 0 ? `none of ${all}${what}` : `${at + 1} of ${rows.length || all}${what && ` of ${all}${what}`}`;
  };
  for (const trait of ["listed", "row", "items", "only"]) model.on(`change:${trait}`, follow);
  follow();
  const node = el("div", { class: "row" }, previous,
    choose(model, "row", "image", "image", ["listed", "items"], () => model.get("listed").map((row) => [row, words(row)])),
    next, count,
    about.judged ? choose(model, "only", "show", "only", [], () => [["all", "all"], ["wrong", "only wrong"], ["right", "only right"]]) : [],
    about.network ? uploading(model, about) : []);
  return { node, go };
}

// The file goes in parts: a server ends a connection that sends more than 10 MiB in one message.
function uploading(model, about) {
  const input = el("input", { type: "file", "data-test": "upload", "aria-label": "upload a picture of your own" });
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    const send = (at, part) => model.send({ do: "upload", name: file.name, at, size: file.size }, undefined, [part]);
    if (file.size > about.limit) {
      send(0, new ArrayBuffer(0)); // Python refuses it, by name and size
    } else {
      const bytes = await file.arrayBuffer();
      for (let at = 0; at === 0 || at < file.size; at += PART) send(at, bytes.slice(at, at + PART));
    }
    input.value = "";
  });
  return el("label", { class: "control upload", title: "PNG, JPEG, TIFF or DICOM, at most 25 MiB. It goes to the kernel of this page alone; its file is deleted once it is read." },
    input, el("span", {}, "upload a picture …"));
}

// ---- which maps ----------------------------------------------------------------------------------

function asking(model, about) {
  if (!about.network) return [];
  const total = () => (about.layers.find(([name]) => name === model.get("layer")) ?? [])[1] ?? 0;
  const layer = choose(model, "layer", "layer", "layer", [],
    () => about.layers.map(([name, c, h, w]) => [name, `${name} (${c} maps of ${h} × ${w})`]));
  const classes = about.classes.map((name, i) => [i, name]);
  const target = choose(model, "target", "class explained", "class", [],
    () => (about.segmenter ? classes : [[-1, "the predicted one"], ...classes]));
  const budget = choose(model, "channels", "Score-CAM and Ablation-CAM look at", "channels", ["layer"], () => {
    const some = new Set([...BUDGETS, model.get("channels")].filter((n) => n && n < total()));
    return [...[...some].sort((a, b) => a - b).map((n) => [n, `the ${n} strongest of ${total()} channels`]), [0, `all ${total()} channels`]];
  }, () => (model.get("channels") < total() ? model.get("channels") : 0));
  const weighting = choose(model, "weighting", "Score-CAM weighs by", "weighting", [],
    () => about.weightings.map((name) => [name, name]));
  const hide = () => {
    const on = model.get("methods_on");
    budget.classList.toggle("hidden", !on.some((method) => about.budgeted.includes(method)));
    weighting.classList.toggle("hidden", !on.includes("scorecam"));
  };
  model.on("change:methods_on", hide);
  hide();
  return el("div", { class: "row" }, layer, target, budget, weighting);
}

function working(model) {
  const text = el("span", { class: "quiet", role: "status", "data-test": "running" });
  const bar = el("progress", { "data-test": "progress", "aria-label": "how far it is" });
  const stop = press("stop", "stop", () => model.send({ do: "stop" }));
  const problem = el("span", { class: "warning", role: "alert", "data-test": "problem" });
  const follow = () => {
    const { text: words, done, total } = model.get("running");
    const busy = words !== undefined;
    text.textContent = busy ? `${words} …` : "";
    [bar.max, bar.value] = busy ? [total, done] : [1, 0];
    for (const node of [bar, stop]) node.classList.toggle("unseen", !busy);
    problem.textContent = model.get("problem");
  };
  model.on("change:running", follow);
  model.on("change:problem", follow);
  follow();
  return el("div", { class: "status" }, text, bar, stop, problem);
}

// ---- pictures ------------------------------------------------------------------------------------

function swatch(colour) {
  return el("span", { class: "swatch", style: `border-color: ${colour}` });
}

// Under a map: of its heat and of the area, how much lies inside each mask; and is its peak there?
function numbers(about, card) {
  const names = Object.keys(card.shares);
  if (!names.length) return [];
  const cell = (name, what, value, text) => el("td", {
    "data-test": `${what}-${card.key}-${name}`, "data-number": value ?? "",
  }, text);
  const peak = (value) => (value === null ? "–" : value === 1 ? "in" : value === 0 ? "out" : percent(value));
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "inside"),
    el("th", { title: "share of the map's heat inside" }, "heat"),
    el("th", { title: "the mask's share of the area: what evenly spread heat would give" }, "area"),
    el("th", { title: "pointing game: does the highest pixel lie inside?" }, "peak"))),
  el("tbody", {}, names.map((name) => {
    const { heat, area, peak: hit } = card.shares[name];
    return el("tr", {}, el("th", { scope: "row" }, swatch(about.masks[name]), name),
      cell(name, "heat", heat, percent(heat)), cell(name, "area", area, percent(area)), cell(name, "peak", hit, peak(hit)));
  })));
}

function showing(model, about) {
  const title = el("p", { class: "name" }, el("b", { "data-test": "name" }), el("span", { "data-test": "said" }));
  const node = el("div", { class: "pictures", tabindex: 0, role: "group", "aria-label": "the image and its maps: arrow keys change the image" });
  let drawn = [];

  function paint() {
    const shown = model.get("shown");
    const image = bytesOf(shown.image);
    const on = model.get("outlines");
    const lines = Object.entries(shown.outlines).filter(([name]) => on.includes(name))
      .flatMap(([name, some]) => some.map((points) => [points, about.masks[name]]));
    for (const [canvas, heat] of drawn) {
      place(canvas, blended(image, bytesOf(heat), shown, about.colours, model.get("opacity")), lines);
    }
  }

  function figure(card, shown) {
    const test = card ? "map" : "picture";
    const canvas = el("canvas", {
      class: card && !card.heat.byteLength ? "waiting" : "", role: "img", "data-test": test, "data-method": card?.key,
      "data-row": shown.row, "aria-label": card ? `${card.name} over the image` : "the image",
    });
    drawn.push([canvas, card?.heat]);
    if (!card) return el("figure", {}, el("h4", {}, "image as the network sees it"), canvas);
    return el("figure", { "data-test": `card-${card.key}` }, el("h4", {}, card.name),
      canvas, shown.maps.some((one) => one.note) ? el("div", { class: "note", "data-test": `note-${card.key}` }, card.note) : [],
      card.problem ? el("div", { class: "warning" }, card.problem) : [], numbers(about, card));
  }

  function draw() {
    const shown = model.get("shown");
    if (!shown.image) return;
    title.children[0].textContent = shown.name;
    title.children[1].replaceChildren(
      shown.label ? ` label ${shown.label}` : " no label",
      shown.prediction ? `; predicted ${shown.prediction}` : "",
      shown.right === null ? "" : el("span", { class: shown.right ? "right" : "warning" }, shown.right ? " ✓" : " ✗ wrong"));
    if (!about.network) title.children[1].textContent = "";
    drawn = [];
    node.replaceChildren(figure(null, shown), ...shown.maps.map((card) => figure(card, shown)));
    if (!about.network) node.querySelector("h4").textContent = "image";
    node.style.setProperty("--n", drawn.length);
    paint();
  }
  model.on("change:shown", draw);
  for (const trait of ["opacity", "outlines"]) model.on(`change:${trait}`, paint);
  return { node, title, draw, paint };
}

function scale(model, about) {
  const some = about.colours.filter((_, i) => i % 48 < 3);
  const stops = Array.from({ length: some.length / 3 }, (_, i) => `rgb(${some.slice(3 * i, 3 * i + 3).join(", ")})`);
  const opacity = slider(model, "opacity", "opacity", { min: 0, max: 1, step: 0.05, show: (v) => `${Math.round(100 * v)} %` });
  opacity.querySelector("input").setAttribute("data-test", "opacity");
  return el("div", { class: "row" }, opacity,
    Object.keys(about.masks).length ? el("span", { class: "quiet" }, "outlines:") : [],
    boxes(model, "outlines", Object.entries(about.masks).map(([name, colour]) => [name, name, swatch(colour)]), "outline"),
    el("span", { class: "control quiet" }, "no evidence", el("span", { class: "ramp", style: `background: linear-gradient(90deg, ${stops.join(", ")})` }), "the most in each map"));
}

// ---- can it be believed? -------------------------------------------------------------------------

// Curves of the class's probability over the share of the pixels.
function drawLines(canvas, belief, which, ink) {
  const screen = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * screen);
  canvas.height = Math.round(height * screen);
  const c = canvas.getContext("2d");
  c.scale(screen, screen);
  c.font = `${0.8 * ink}px system-ui, sans-serif`;
  const [left, right, top, bottom] = [2.6 * ink, width - 1.5 * ink, 0.6 * ink, height - 2.6 * ink];
  const x = (value) => left + value * (right - left);
  const y = (value) => bottom - value * (bottom - top);
  c.fillStyle = "#555";
  c.strokeStyle = "#dcdcdc";
  for (const tick of [0, 0.5, 1]) {
    c.beginPath();
    c.moveTo(left, y(tick));
    c.lineTo(right, y(tick));
    c.stroke();
    c.textAlign = "right";
    c.fillText(String(tick), left - 0.4 * ink, y(tick) + 0.3 * ink);
    c.textAlign = "center";
    c.fillText(`${100 * tick} %`, x(tick), bottom + 1.1 * ink);
  }
  c.fillText(which === "deletion" ? "pixels taken away, hottest first" : "pixels put back, hottest first", (left + right) / 2, height - 0.4 * ink);
  for (const line of belief.lines) {
    c.strokeStyle = line.colour;
    c.lineWidth = 2;
    c.setLineDash(line.key === "random order" ? [5, 4] : []);
    c.beginPath();
    belief.fractions.forEach((at, i) => c.lineTo(x(at), y(line[which][i])));
    c.stroke();
  }
}

function charts(belief, drawings, ink) {
  const chart = (which) => {
    const canvas = el("canvas", {
      class: "curves", role: "img", "data-test": `curves-${which}`,
      "aria-label": `${which} curves; areas: ${belief.lines.map((l) => `${l.name} ${l[`${which}_area`].toFixed(3)}`).join(", ")}`,
    });
    drawings.push(() => drawLines(canvas, belief, which, ink()));
    const better = which === "deletion" ? "should fall fast" : "should rise fast";
    return el("figure", { class: "chart" }, el("figcaption", {}, `probability of ${belief.target}: ${better}`), canvas);
  };
  const area = (line, which) => el("td", { "data-test": `area-${which}-${line.key}`, "data-number": line[`${which}_area`] }, line[`${which}_area`].toFixed(3));
  const legend = el("table", { class: "areas" },
    el("thead", {}, el("tr", {}, el("th", {}, "area under the curve"), el("th", {}, "deletion"), el("th", {}, "insertion"))),
    el("tbody", {}, belief.lines.map((line) => el("tr", {},
      el("th", { scope: "row" }, el("span", { class: line.key === "random order" ? "swatch dashed" : "swatch", style: `border-color: ${line.colour}` }), line.name),
      area(line, "deletion"), area(line, "insertion")))),
    el("tfoot", {}, el("tr", {}, el("td", {}, "good is"), el("td", {}, "small"), el("td", {}, "large"))));
  return el("div", { class: "columns" }, chart("deletion"), chart("insertion"), legend);
}

// A line for each method, a column for each stage: the map, and how alike it is to the first.
function checked(model, about, belief, drawings) {
  const shown = model.get("shown");
  const size = shown.height * shown.width;
  const [image, look] = [bytesOf(shown.image), "ρ is the rank correlation of the pixels, SSIM the structural similarity, both with the trained network's map: 1 is the same map."];
  const header = (stage) => el("th", { scope: "col" }, stage.renewed
    ? [el("div", {}, `${stage.renewed} of ${belief.layers} layers new`), el("div", { class: "quiet small" }, `down to ${stage.layer}`)] : "as trained");
  const line = (row) => {
    const heats = bytesOf(row.heat);
    const cell = ({ spearman, ssim }, i) => {
      const canvas = el("canvas", { class: "stage", role: "img", "aria-label": `${row.name}, stage ${i}` });
      drawings.push(() => place(canvas, blended(image, heats.subarray(i * size, (i + 1) * size), shown, about.colours, model.get("opacity"))));
      return el("td", {
        "data-test": `check-${row.key}-${i}`, "data-spearman": spearman ?? "", "data-ssim": ssim ?? "",
      }, canvas, i ? el("div", {}, spearman === null ? "a constant map" : `ρ ${decimal(spearman)}, SSIM ${decimal(ssim)}`) : []);
    };
    const { between } = row;
    return el("tr", {}, el("th", { scope: "row" }, row.name), row.cells.map(cell),
      el("td", { class: "between", "data-test": `between-${row.key}` }, between && between.n
        ? [el("div", {}, `ρ ${decimal(between.spearman)}, SSIM ${decimal(between.ssim)}`), el("div", { class: "quiet small" }, `mean of ${between.n}`)] : "–"));
  };
  return el("div", {}, el("h4", {}, "Does the map change when the network forgets?"),
    el("p", { class: "quiet" }, "Weights are drawn anew from the last layer back to the first. A map that stays as it is does not show what was learnt. ", look,
      " Beside it: how alike the map is to the same network's maps of other images. A map that has fallen to this is as good as lost."),
    el("div", { class: "wide" }, el("table", { class: "check", "data-test": "check" },
      el("thead", {}, el("tr", {}, el("td", {}), belief.stages.map(header), el("th", { scope: "col" }, "maps of other images"))),
      el("tbody", {}, belief.rows.map(line)))));
}

function believing(model, about, root) {
  if (!about.network) return { node: [], paint: () => {} };
  const button = press("Put these maps to the test", "believe", () => model.send({ do: "believe" }), "primary");
  const body = el("div", { "data-test": "belief" });
  const ink = () => parseFloat(getComputedStyle(root).fontSize);
  let drawings = [];
  const paint = () => drawings.forEach((draw) => draw());
  const draw = () => {
    const belief = model.get("belief");
    drawings = [];
    button.disabled = Boolean(belief.lines) || !model.get("methods_on").length;
    body.replaceChildren(...(belief.lines ? [
      el("h4", {}, "Does the score follow the map?"),
      el("p", { class: "quiet" }, "Pixels are taken away from the hottest to the coldest (deletion), or put back in this order on a blurred image (insertion). A map that does no better than pixels in random order says nothing of the score."),
      charts(belief, drawings, ink), checked(model, about, belief, drawings)] : []));
    paint();
  };
  model.on("change:belief", draw);
  model.on("change:methods_on", draw);
  model.on("change:opacity", paint);
  const words = `Insertion and deletion, and maps of the same network with new weights${about.segmenter ? "" : ", for the class explained"}. It takes a while; the page goes on working.`;
  const node = el("section", {}, el("h3", {}, "Can it be believed?"), el("div", { class: "row" }, button, el("span", { class: "quiet" }, words)), body);
  return { node, paint, draw };
}

export default {
  render({ model, el: host }) {
    const about = model.get("about");
    const root = panel(model, host, "maps");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab leaves our keys to us
    root.setAttribute("aria-label", "map viewer");
    const picker = picking(model, about);
    const pictures = showing(model, about);
    const belief = believing(model, about, root);
    pictures.node.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      picker.go(by);
    });
    root.append(picker.node,
      el("div", { class: "row", role: "group", "aria-label": "maps" }, el("span", { class: "quiet" }, `maps, up to ${about.most}:`),
        boxes(model, "methods_on", about.methods, "method", about.most)),
      asking(model, about), scale(model, about), el("div", { class: "row titled" }, pictures.title, working(model)), pictures.node, belief.node);
    pictures.draw();
    belief.draw?.();
    const resized = new ResizeObserver(() => { pictures.paint(); belief.paint(); });
    resized.observe(root);
    return () => resized.disconnect();
  },
};
