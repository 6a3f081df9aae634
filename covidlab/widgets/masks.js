// The threshold, the window and the blending are worked out here, from bytes; with post-processing
// switched on the mask comes from Python.

const KEPT_PIXELS = 12e6; // of slices kept in the browser: 48 of 512 × 512, 5 bytes a pixel

// Typed arrays start at multiples of their own size, which bytes from a socket need not.
function typed(bytes, Kind) {
  return new Kind(bytes.slice().buffer);
}

const signed = (value) => String(Math.round(value)).replace("-", "−");
const ratio = (a, b) => (b > 0 ? a / b : null);

// The numbers of 2 × 2 pixel counts (truth first, lung second), as `_scored` in masks.py.
function scored(predicted, total, about) {
  const [extra, hits] = [predicted[0] + predicted[1], predicted[2] + predicted[3]];
  const [truth, area] = [total[2] + total[3], total[1] + total[3]];
  const found = {
    dice: ratio(2 * hits, truth + hits + extra),
    iou: ratio(hits, truth + extra),
    sensitivity: ratio(hits, truth),
    predicted_share: ratio(predicted[1] + predicted[3], area),
    true_share: ratio(total[3], area),
    true_positives: hits,
    false_positives: extra,
    false_negatives: truth - hits,
    predicted_pixels: hits + extra,
    true_pixels: truth,
    area_pixels: area,
  };
  for (const name of Object.keys(found)) {
    const known = name.startsWith("area") || (name.startsWith("predicted_") ? about.prediction
      : name.startsWith("true_s") || name === "true_pixels" ? about.truth
        : about.prediction && about.truth);
    if (!known) found[name] = null;
  }
  return found;
}

// Pixel counts of each slice at each threshold; `numbers` is what Python makes of the same.
function counter(model, about) {
  const table = typed(bytesOf(model.get("table")), Uint32Array);
  const steps = about.levels + 1;
  const count = table.length / (4 * steps);
  const cells = (row, level) => [0, 1, 2, 3].map((cell) => table[(4 * row + cell) * steps + level]);
  const rows = Array.from({ length: count }, (_, row) => row);
  const totals = rows.map((row) => cells(row, 0));
  const sum = (all) => all.reduce((a, b) => a.map((v, i) => v + b[i]), [0, 0, 0, 0]);
  const whole = sum(totals);
  return {
    totals,
    curve: (level) => ({
      predicted: about.prediction ? rows.map((row) => {
        const seen = cells(row, level);
        return seen[1] + seen[3];
      }) : [],
      true: about.truth ? totals.map((total) => total[3]) : [],
    }),
    numbers(row, level, pixels) {
      const each = rows.map((r) => cells(r, level));
      const positive = each.map((seen) => seen[0] + seen[1] + seen[2] + seen[3] >= pixels);
      const infected = totals.map((total) => total[2] + total[3] > 0);
      const yes = (list) => list.filter(Boolean).length;
      const known = (has, value) => (has ? value : null);
      return {
        here: {
          ...scored(each[row], totals[row], about),
          detected: known(about.prediction, positive[row]),
          infected: known(about.truth, infected[row]),
        },
        whole: {
          ...scored(sum(each), whole, about),
          detected: known(about.prediction, yes(positive)),
          infected: known(about.truth, yes(infected)),
          images: count,
        },
      };
    },
  };
}

export default {
  render({ model, el: host }) {
    const about = model.get("about");
    const colours = about.colours;
    const tint = Object.fromEntries(Object.entries(colours).map(([k, hex]) => [k, rgb(hex)]));
    const counts = counter(model, about);
    const several = about.names.length > 1;
    const thing = about.volume ? "slice" : "image";
    const both = about.truth && about.prediction;
    const level = () => Math.round(model.get("threshold") * about.levels);
    const root = panel(model, host, "masks");
    root.setAttribute("aria-label", "Mask inspector");

    // ---- the picture ----------------------------------------------------------------------------

    const canvas = el("canvas", {
      class: "picture", tabindex: 0, role: "img", "data-test": "picture",
      "aria-label": `Image with masks. Arrow keys change the ${thing}, plus and minus zoom, 0 shows all.`,
    });
    const title = el("p", { class: "name", "data-test": "name" });
    const readout = el("div", { class: "readout quiet", "data-test": "readout" });
    const hint = (several ? `Arrow keys: ${thing}. ` : "") + "Wheel on a clicked picture, or + and −: zoom. Drag: move.";
    const buffer = document.createElement("canvas");
    const view = { zoom: 1, x: 0.5, y: 0.5 };
    let now = null; // the slice that is shown
    let [pixels, aspect] = [null, 1];
    let cleaned = null; // its post-processed mask

    function decoded({ slice, height, width }, bytes) {
      const size = height * width;
      let from = 0;
      const take = (n) => bytes.subarray(from, from += n);
      const grey = about.hounsfield ? typed(take(2 * size), Int16Array) : take(size);
      const levels = take(size);
      const [truth, lung] = [0, 1].map(() => unpacked(take(Math.ceil(size / 8)), size));
      const lines = {
        truth: outline(truth, height, width),
        lung: about.lung ? outline(lung, height, width) : new Path2D(),
      };
      return { slice, height, width, size, grey, levels, truth, lung, lines };
    }

    function turnTo(slice) {
      if (now === null || now.height !== slice.height || now.width !== slice.width) {
        buffer.width = slice.width;
        buffer.height = slice.height;
        pixels = new ImageData(slice.width, slice.height);
        const spacing = about.spacing ? about.spacing.slice(-2) : [1, 1];
        aspect = (slice.width * spacing[1]) / (slice.height * spacing[0]);
        canvas.style.aspectRatio = String(aspect);
      }
      now = slice;
    }

    // The slice at hand, then those near it, are fetched one at a time and kept.
    const kept = new Map();
    let asked = null; // since when an answer is awaited
    const away = (slice) => Math.abs(slice - model.get("slice"));

    function keep(shown, bytes) {
      kept.set(shown.slice, decoded(shown, bytes));
      const most = Math.max(3, Math.floor(KEPT_PIXELS / (shown.height * shown.width)));
      while (kept.size > most) {
        kept.delete([...kept.keys()].reduce((a, b) => (away(b) > away(a) ? b : a)));
      }
      const reach = Math.floor((most - 1) / 2);
      const next = about.names.map((_, i) => i).filter((i) => away(i) <= reach && !kept.has(i));
      if (next.length) ask(next.reduce((a, b) => (away(b) < away(a) ? b : a)));
    }

    function ask(slice) {
      if (asked !== null && performance.now() - asked < 3000) return;
      asked = performance.now();
      model.send({ slice });
    }

    model.on("msg:custom", (shown, buffers) => {
      if (gone) return;
      asked = null;
      keep(shown, bytesOf(buffers[0]));
      if (shown.slice === model.get("slice")) refresh("bytes", "numbers");
    });

    // The slice at hand, once its bytes are here; at the start, the one that came with the page.
    function load() {
      const slice = model.get("slice");
      const shown = model.get("shown");
      if (!kept.has(shown.slice) && (shown.slice === slice || now === null)) {
        keep(shown, bytesOf(model.get("picture")));
      }
      if (kept.has(slice)) turnTo(kept.get(slice));
      else ask(slice);
      if (now === null) turnTo(kept.get(shown.slice));
    }

    function decodeMask() {
      const packed = bytesOf(model.get("mask_bits"));
      const of = model.get("numbers").slice;
      cleaned = packed.length && of === now.slice ? unpacked(packed, now.size) : null;
    }

    const cleaning = () => model.get("steps_on").length > 0;
    const refined = () => cleaned !== null && cleaning();
    // Python's mask of this slice is on its way: better the last picture than an uncleaned one.
    const awaited = () => cleaning() && model.get("numbers").slice !== now.slice;

    function greys() {
      if (!about.hounsfield) return now.grey;
      const [centre, width] = [model.get("window_centre"), model.get("window_width")];
      const [low, scale] = [centre - width / 2, 255 / width];
      const out = new Uint8ClampedArray(now.size);
      for (let i = 0; i < now.size; i += 1) out[i] = (now.grey[i] - low) * scale;
      return out;
    }

    function compose() {
      const [mode, opacity, cut] = [model.get("mode"), model.get("opacity"), level()];
      const data = pixels.data;
      const grey = greys();
      const { truth, levels, size } = now;
      const mask = refined() ? cleaned : null;
      const [found, extra, missed, blue] = [tint.found, tint.extra, tint.missed, tint.predicted];
      const rest = 1 - opacity;
      for (let i = 0, j = 0; i < size; i += 1, j += 4) {
        const g = grey[i];
        let [r, v, b] = [g, g, g];
        const predicted = mask ? mask[i] : levels[i] >= cut ? 1 : 0;
        if (mode === "masks" && predicted && about.prediction) {
          r = rest * g + opacity * blue[0];
          v = rest * g + opacity * blue[1];
          b = rest * g + opacity * blue[2];
        } else if (mode === "errors") {
          const colour = predicted ? (truth[i] ? found : extra) : truth[i] ? missed : null;
          r = colour ? colour[0] : rest * g;
          v = colour ? colour[1] : rest * g;
          b = colour ? colour[2] : rest * g;
        }
        data[j] = r;
        data[j + 1] = v;
        data[j + 2] = b;
        data[j + 3] = 255;
      }
      buffer.getContext("2d").putImageData(pixels, 0, 0);
    }

    // The part of the image that is seen: its corner in pixels, and canvas pixels per image pixel.
    function frame() {
      const [across, down] = [canvas.width / now.width, canvas.height / now.height];
      const reach = 0.5 / view.zoom;
      view.x = Math.min(1 - reach, Math.max(reach, view.x));
      view.y = Math.min(1 - reach, Math.max(reach, view.y));
      return {
        left: (view.x - reach) * now.width, top: (view.y - reach) * now.height,
        across: across * view.zoom, down: down * view.zoom,
      };
    }

    function stroke(context, path, colour, f) {
      context.setTransform(f.across, 0, 0, f.down, -f.left * f.across, -f.top * f.down);
      const fine = (window.devicePixelRatio || 1) / f.across;
      for (const [style, width] of [["rgba(0,0,0,0.55)", 3.2 * fine], [colour, 1.7 * fine]]) {
        context.strokeStyle = style;
        context.lineWidth = width;
        context.lineJoin = context.lineCap = "round";
        context.stroke(path);
      }
    }

    function blit() {
      const ratioOfScreen = window.devicePixelRatio || 1;
      const width = Math.max(1, Math.round(canvas.clientWidth * ratioOfScreen));
      const height = Math.max(1, Math.round(width / aspect));
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
      const context = canvas.getContext("2d");
      const f = frame();
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.imageSmoothingEnabled = f.across < 3;
      context.setTransform(f.across, 0, 0, f.down, -f.left * f.across, -f.top * f.down);
      context.drawImage(buffer, 0, 0);
      const mode = model.get("mode");
      if (model.get("show_lung") && mode !== "image") stroke(context, now.lines.lung, colours.lung, f);
      if (model.get("show_truth") && mode === "masks") stroke(context, now.lines.truth, colours.truth, f);
      canvas.classList.toggle("close", view.zoom > 1);
    }

    function paint() {
      compose();
      blit();
      const numbers = model.get("numbers");
      Object.assign(canvas.dataset, {
        slice: now.slice,
        threshold: refined() ? numbers.threshold : model.get("threshold"),
        steps: refined() ? numbers.steps.join(", ") : "",
        mode: model.get("mode"),
        height: now.height,
        width: now.width,
      });
    }

    // ---- the numbers ----------------------------------------------------------------------------

    const pixelsOf = (n) => n.toLocaleString("en");
    const asIs = (value) => value.toFixed(3);
    const percent = (value) => `${(100 * value).toFixed(1)} %`;
    const size = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(1));
    const yes = (value, all) => (typeof value === "boolean"
      ? (value ? "positive" : "negative") : `${value} of ${all}`);
    const area = about.lung ? "Lung" : "Image";
    const of = area.toLowerCase();
    const sized = about.spacing && (!about.volume || about.spacing.length > 1);
    const ROWS = [
      ["dice", "Dice", both, asIs],
      ["iou", "IoU", both, asIs],
      ["sensitivity", "Sensitivity", both, asIs],
      ["predicted_share", `${area} infected, predicted`, about.prediction, percent, "predicted"],
      ["true_share", `${area} infected, truth`, about.truth, percent, "truth"],
      ["predicted_size", "Infected, predicted", sized && about.prediction, size, "predicted"],
      ["true_size", "Infected, truth", sized && about.truth, size, "truth"],
      ["detected", "Detection, predicted", about.prediction, yes, "predicted"],
      ["infected", "Detection, truth", about.truth, yes, "truth"],
    ].filter((row) => row[2]);
    const firsts = ["predicted_share", "predicted_size", "detected"];
    const where = several ? ["here", "whole"] : ["here"];
    const cellsOf = {};
    const swatch = (name, line = false) => el("span", {
      class: line ? "swatch line" : "swatch",
      style: line ? `border-color: ${colours[name]}` : `background: ${colours[name]}`,
    });
    const table = el("table", { class: "numbers", "data-test": "numbers" },
      el("thead", {}, el("tr", {}, el("th", {}, ""), where.map((w) => el("th", { scope: "col" },
        w === "here" ? `this ${thing}` : about.volume ? "whole volume" : `all ${about.names.length}`)))),
      el("tbody", {}, ROWS.map(([key, text, , , colour]) => el("tr", { class: firsts.includes(key) ? "first" : null },
        el("th", { scope: "row" }, colour ? swatch(colour, colour === "truth") : [], text),
        where.map((w) => {
          const cell = el("td", { class: w, "data-test": `${key}-${w}` });
          cellsOf[`${key}-${w}`] = cell;
          return cell;
        })))));

    function sizes(numbers) {
      if (!sized) return numbers;
      const plane = about.spacing.slice(-2).reduce((a, b) => a * b) / 100;
      const body = about.volume && about.spacing.length === 3
        ? about.spacing.reduce((a, b) => a * b) / 1000 : null;
      for (const [part, one] of [["here", plane], ["whole", body]]) {
        for (const which of one === null ? [] : ["predicted", "true"]) {
          const found = numbers[part];
          const share = found[`${which}_share`];
          found[`${which}_size`] = share === null ? null : share * found.area_pixels * one;
        }
      }
      return numbers;
    }

    let latest = null; // what the table shows
    let curve = null;

    function measure() {
      const [slice, numbers] = [model.get("slice"), model.get("numbers")];
      if (!cleaning()) {
        latest = sizes(counts.numbers(slice, level(), model.get("min_pixels")));
        curve = counts.curve(level());
        return { slice, threshold: model.get("threshold"), steps: [], whole: true };
      }
      latest = { here: numbers.here, whole: numbers.whole || (latest && latest.whole) };
      curve = numbers.curve || curve;
      return numbers;
    }

    function fill() {
      const { slice, threshold, steps, whole } = measure();
      table.classList.toggle("waiting", !whole);
      Object.assign(table.dataset, { slice, threshold, steps: steps.join(", ") });
      for (const w of where) {
        const found = latest[w];
        for (const [key, , , show] of ROWS) {
          const cell = cellsOf[`${key}-${w}`];
          const value = found ? found[key] : null;
          const none = value === null || value === undefined;
          const inapplicable = key.endsWith("_size") && value === undefined;
          let text = none ? (inapplicable ? "" : "not defined") : show(value, found.images);
          if (!none && key.endsWith("_size")) text += w === "here" ? " cm²" : " ml";
          cell.textContent = text;
          cell.classList.toggle("undefined", none);
          cell.dataset.number = none ? "" : String(value);
        }
      }
      legends();
      drawCurve();
    }

    // ---- legend and curve -----------------------------------------------------------------------

    const legend = el("div", { class: "row legend", "data-test": "legend" });

    function legends() {
      const mode = model.get("mode");
      const item = (mark, text) => el("span", {}, mark, text);
      const here = latest.here;
      const items = [];
      if (mode === "masks") {
        if (about.truth && model.get("show_truth")) items.push(item(swatch("truth", true), "truth"));
        if (about.prediction) items.push(item(swatch("predicted"), "predicted"));
      } else if (mode === "errors") {
        items.push(
          item(swatch("found"), `found: ${pixelsOf(here.true_positives)}`),
          item(swatch("extra"), `not there (false positive): ${pixelsOf(here.false_positives)}`),
          item(swatch("missed"), `missed (false negative): ${pixelsOf(here.false_negatives)} pixels`),
        );
      }
      if (about.lung && model.get("show_lung") && mode !== "image") {
        items.push(item(swatch("lung", true), "lung"));
      }
      legend.replaceChildren(...items);
    }

    const graph = el("canvas", { class: "curve", role: "img", "data-test": "curve" });
    let place = null; // slice → x of the curve

    function perPixel(row) {
      if (!about.volume) return 100 / (counts.totals[row][1] + counts.totals[row][3]);
      return about.spacing ? about.spacing.slice(-2).reduce((a, b) => a * b) / 100 : 1;
    }
    const unit = about.volume ? (about.spacing ? "cm²" : "pixels") : `% of the ${of}`;

    function drawCurve() {
      if (!several || graph.clientWidth === 0) return;
      const screen = window.devicePixelRatio || 1;
      const [width, height] = [graph.clientWidth, graph.clientHeight];
      graph.width = Math.round(width * screen);
      graph.height = Math.round(height * screen);
      const c = graph.getContext("2d");
      c.scale(screen, screen);
      const em = parseFloat(getComputedStyle(root).fontSize);
      c.font = `${0.8 * em}px system-ui, sans-serif`;
      const n = about.names.length;
      const series = { true: curve.true, predicted: curve.predicted };
      for (const [which, list] of Object.entries(series)) {
        series[which] = list.map((v, row) => v * perPixel(row));
      }
      const high = Math.max(...Object.values(series).flat().filter(Number.isFinite), 1e-9);
      const top = `${high < 10 ? high.toFixed(1) : Math.round(high).toLocaleString("en")} ${unit}`;
      const [left, right, above, below] = [0.5 * em, width - 0.6 * em, 1.5 * em, height - 1.4 * em];
      place = { left, step: (right - left) / Math.max(1, n - 1) };
      const x = (row) => left + row * place.step;
      const y = (value) => below - (value / high) * (below - above);
      c.strokeStyle = "#c8c8c8";
      c.beginPath();
      c.moveTo(left, below + 0.5);
      c.lineTo(right, below + 0.5);
      c.stroke();
      const current = model.get("slice");
      c.strokeStyle = "#8a8a8a";
      c.setLineDash([3, 3]);
      c.beginPath();
      c.moveTo(x(current), above - 0.2 * em);
      c.lineTo(x(current), below);
      c.stroke();
      c.setLineDash([]);
      c.fillStyle = "#555";
      c.textAlign = "left";
      c.fillText(`Infected, up to ${top}`, left, 0.95 * em);
      c.fillText("1", left, height - 0.3 * em);
      c.textAlign = "right";
      c.fillText(String(n), right, height - 0.3 * em);
      c.textAlign = "center";
      c.fillText(thing, (left + right) / 2, height - 0.3 * em);
      for (const [which, colour] of [["true", colours.truth], ["predicted", colours.predicted]]) {
        const values = series[which];
        c.strokeStyle = c.fillStyle = colour;
        c.lineWidth = 1.8;
        if (about.volume) {
          c.beginPath();
          values.forEach((value, row) => c.lineTo(x(row), y(value)));
          c.stroke();
        }
        values.forEach((value, row) => {
          if (!Number.isFinite(value) || (about.volume && row !== current)) return;
          const size = row === current ? 1.5 : 1;
          c.beginPath(); // a ring and a dot: equal values are seen as both
          c.arc(x(row), y(value), size * (which === "true" ? 4 : 2), 0, 7);
          if (which === "true") c.stroke();
          else c.fill();
        });
      }
      const said = Object.entries(series).filter(([, list]) => list.length)
        .map(([which, list]) => `${which} ${list[current].toFixed(1)} ${unit}`).join(", ");
      graph.setAttribute("aria-label", `Infected by ${thing}; at ${current + 1}: ${said}`);
    }

    graph.addEventListener("pointerdown", (event) => {
      const row = Math.round((event.offsetX - place.left) / place.step);
      go(Math.min(about.names.length - 1, Math.max(0, row)));
    });

    // ---- moving about ---------------------------------------------------------------------------

    // While something moves, Python leaves the whole volume for later.
    let resting = null;
    function stir() {
      model.set("moving", true);
      clearTimeout(resting);
      resting = setTimeout(() => {
        model.set("moving", false);
        model.save_changes();
      }, 250);
    }

    function go(slice) {
      stir();
      model.set("slice", Math.min(about.names.length - 1, Math.max(0, slice)));
      model.save_changes();
    }

    function zoom(factor, x = view.x, y = view.y) {
      const before = view.zoom;
      view.zoom = Math.min(32, Math.max(1, view.zoom * factor));
      view.x = x + ((view.x - x) * before) / view.zoom;
      view.y = y + ((view.y - y) * before) / view.zoom;
      blit();
    }

    // Where on the image an event is, as parts of its width and height.
    function under(event) {
      return {
        x: view.x + (event.offsetX / canvas.clientWidth - 0.5) / view.zoom,
        y: view.y + (event.offsetY / canvas.clientHeight - 0.5) / view.zoom,
      };
    }

    function read(event) {
      const { x, y } = under(event);
      const [column, row] = [Math.floor(x * now.width), Math.floor(y * now.height)];
      if (row < 0 || column < 0 || row >= now.height || column >= now.width) return;
      const at = row * now.width + column;
      const reached = now.levels[at];
      const words = [
        `row ${row}, column ${column}`,
        about.hounsfield ? `${signed(now.grey[at])} HU` : `intensity ${(now.grey[at] / 255).toFixed(3)}`,
      ];
      if (about.prediction === "probability") {
        const low = (reached / about.levels).toFixed(3);
        words.push(reached === about.levels ? "probability 1"
          : `probability ${low} – ${((reached + 1) / about.levels).toFixed(3)}`);
      }
      if (about.prediction) {
        const mask = refined() ? cleaned[at] : reached >= level();
        words.push(`predicted: ${mask ? "yes" : "no"}`);
      }
      if (about.truth) words.push(`truth: ${now.truth[at] ? "yes" : "no"}`);
      if (about.lung) words.push(`lung: ${now.lung[at] ? "yes" : "no"}`);
      readout.textContent = words.join(" · ");
    }

    let grip = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (view.zoom === 1) return;
      grip = { x: event.offsetX, y: event.offsetY, at: { x: view.x, y: view.y } };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (grip) {
        view.x = grip.at.x - (event.offsetX - grip.x) / canvas.clientWidth / view.zoom;
        view.y = grip.at.y - (event.offsetY - grip.y) / canvas.clientHeight / view.zoom;
        blit();
      }
      read(event);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { grip = null; });
    }
    canvas.addEventListener("pointerleave", () => { readout.textContent = hint; });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && canvas.getRootNode().activeElement !== canvas) return;
      event.preventDefault();
      const { x, y } = under(event);
      zoom(event.deltaY < 0 ? 1.25 : 0.8, x, y);
    }, { passive: false });
    const KEYS = {
      ArrowLeft: () => go(model.get("slice") - 1), ArrowUp: () => go(model.get("slice") - 1),
      ArrowRight: () => go(model.get("slice") + 1), ArrowDown: () => go(model.get("slice") + 1),
      PageUp: () => go(model.get("slice") - 10), PageDown: () => go(model.get("slice") + 10),
      Home: () => go(0), End: () => go(about.names.length - 1),
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation(); // the notebook has keys of its own
      KEYS[event.key]();
    });

    // ---- controls -------------------------------------------------------------------------------

    const group = (name, ...parts) => el("fieldset", {}, el("legend", {}, name), parts.flat());
    const sliders = (...parts) => el("div", { class: "sliders" }, parts.flat());
    const test = (name, control) => {
      control.querySelector("input").setAttribute("data-test", name);
      return control;
    };

    const named = `mode-${Math.random().toString(36).slice(2)}`;
    const modes = {
      image: "Image",
      masks: both ? "Truth and prediction" : about.truth ? "Truth" : "Prediction",
      ...(both ? { errors: "Errors" } : {}),
    };
    const radios = Object.keys(modes).map((mode) => {
      const radio = el("input", { type: "radio", name: named, value: mode, "data-test": `mode-${mode}` });
      radio.addEventListener("change", () => {
        model.set("mode", mode);
        model.save_changes();
      });
      return radio;
    });
    const chooseMode = () => radios.forEach((r) => { r.checked = r.value === model.get("mode"); });
    const choice = el("div", { class: "choice", role: "radiogroup", "aria-label": "What is shown" },
      radios.map((radio) => el("label", {}, radio, modes[radio.value])));

    const boxes = about.steps.map((name, i) => {
      const box = el("input", { type: "checkbox", "data-test": `step-${i}`, "data-step": name });
      box.addEventListener("change", () => {
        const on = new Set(model.get("steps_on"));
        if (box.checked) on.add(name);
        else on.delete(name);
        model.set("steps_on", about.steps.filter((step) => on.has(step)));
        model.save_changes();
      });
      return box;
    });
    const checkSteps = () => boxes.forEach((box, i) => {
      box.checked = model.get("steps_on").includes(about.steps[i]);
    });

    const least = el("input", { type: "number", min: 1, step: 1, "data-test": "min-pixels" });
    least.addEventListener("change", () => {
      model.set("min_pixels", Math.max(1, Math.round(Number(least.value) || 1)));
      least.value = model.get("min_pixels");
      model.save_changes();
    });
    const setLeast = () => { least.value = model.get("min_pixels"); };

    const presets = Object.entries(about.windows).map(([name, [centre, width]]) => {
      const button = el("button", { type: "button", "data-test": `window-${name}` }, name);
      const press = () => button.setAttribute("aria-pressed",
        model.get("window_centre") === centre && model.get("window_width") === width);
      model.on("change:window_centre change:window_width", press);
      press();
      button.addEventListener("click", () => {
        model.set("window_centre", centre);
        model.set("window_width", width);
        model.save_changes();
      });
      return button;
    });

    const prediction = [
      about.prediction === "probability" ? test("threshold", slider(model, "threshold", "Threshold",
        { min: 0.005, max: 1, step: 1 / about.levels, show: (v) => v.toFixed(3) })) : [],
      test("opacity", slider(model, "opacity", "Opacity",
        { min: 0, max: 1, step: 0.05, show: (v) => `${Math.round(100 * v)} %` })),
    ].flat();
    const [low, high] = about.range;
    const hundreds = (value) => 100 * Math.sign(value) * Math.ceil(Math.abs(value) / 100);
    const windowing = about.hounsfield ? group("Window, HU",
      el("div", { class: "row" }, presets),
      sliders(
        test("window-centre", slider(model, "window_centre", "Centre",
          { min: Math.min(-1000, hundreds(low)), max: Math.max(1000, hundreds(high)), step: 10, show: signed })),
        test("window-width", slider(model, "window_width", "Width",
          { min: 10, max: Math.max(4000, hundreds(high - low)), step: 10, show: signed })))) : [];
    const lines = [
      about.truth ? test("show-truth", checkbox(model, "show_truth", "outline of the truth")) : [],
      about.lung ? test("show-lung", checkbox(model, "show_lung", "outline of the lung")) : [],
    ].flat();
    const steps = about.prediction && about.steps.length ? group("Post-processing, in this order",
      el("div", { class: "row" }, boxes.map((box, i) => el("label", { class: "control" }, box,
        el("span", {}, `${i + 1}. ${about.steps[i]}`))))) : [];
    const detecting = about.prediction ? el("div", { class: "row" },
      labelled("Positive from", least), el("span", { class: "quiet" }, `predicted pixels on, in each ${thing}`)) : [];

    root.append(el("div", { class: "columns" },
      el("div", { class: "stage" },
        title, canvas,
        several ? el("div", { class: "below" }, sliders(test("slice", slider(model, "slice",
          about.volume ? "Slice" : "Image",
          { min: 0, max: about.names.length - 1, step: 1, show: (v) => `${v + 1} of ${about.names.length}` })))) : [],
        legend, readout),
      el("div", { class: "side" },
        el("div", { class: "row" }, choice),
        group("Prediction", sliders(prediction), el("div", { class: "row" }, lines)),
        windowing, steps,
        group("Numbers", table, detecting, several ? graph : []))));
    readout.textContent = hint;

    root.addEventListener("input", (event) => {
      if (event.target.type === "range") stir();
    }, true);

    // ---- what changes what ----------------------------------------------------------------------

    let stale = new Set();
    let gone = false;
    function refresh(...parts) {
      if (gone) return;
      if (stale.size === 0) requestAnimationFrame(draw);
      parts.forEach((part) => stale.add(part));
    }
    function draw() {
      const parts = stale;
      stale = new Set();
      if (parts.has("bytes")) load();
      if (parts.has("bytes") || parts.has("mask")) decodeMask();
      title.textContent = about.names[model.get("slice")];
      if (parts.has("numbers")) fill();
      if (parts.has("legend")) legends();
      if (!awaited()) paint();
    }
    const follow = {
      slice: ["bytes", "numbers"], shown: ["bytes"], mask_bits: ["mask"], numbers: ["mask", "numbers"],
      threshold: ["numbers"], steps_on: ["numbers"], min_pixels: ["numbers"], opacity: ["paint"],
      window_centre: ["paint"], window_width: ["paint"], show_truth: ["legend"],
      show_lung: ["legend"], mode: ["legend"], large: ["numbers"],
    };
    for (const [trait, parts] of Object.entries(follow)) {
      model.on(`change:${trait}`, () => refresh(...parts));
    }
    model.on("change:mode", chooseMode);
    model.on("change:steps_on", checkSteps);
    model.on("change:min_pixels", setLeast);
    chooseMode();
    checkSteps();
    setLeast();
    const watch = new ResizeObserver(() => {
      if (now === null) return;
      blit();
      drawCurve();
    });
    watch.observe(canvas);
    refresh("bytes", "numbers");
    return () => {
      gone = true;
      watch.disconnect();
    };
  },
};
