// The slice viewer: panels, mouse, keys and controls over the functions of slices.js. It draws in the event's own task,
// so that a slice is there at the next frame, and tells the kernel afterwards.

const FRAMES_PER_S = 12;
const LARGEST_HEIGHT = 560; // of all panels together, in CSS pixels
const GAP = 6; // between panels

// `extras` lets other tools build on the viewer: keys (name -> action), overlay(context, panel), jump(step), and
// heard(content), called after a message of the kernel was taken in.
function sliceViewer({ model, el, store }, extras = {}) {
  const get = (name) => model.get(name);
  const panelsBox = make("div", { className: "kit-panels" });
  const waiting = "waiting for the scan; run the cell if it does not come …";
  const readingBox = make("div", { className: "kit-reading", role: "status", "aria-live": "polite" }, waiting);
  const root = make(
    "div",
    { className: "kit-viewer", tabindex: "0", role: "application", "aria-label": "Slice viewer. Press ? for its keys." },
    panelsBox,
    readingBox,
  );
  el.append(root);

  let panels = [];
  let centre = null; // voxel that a zoomed view lies around
  let first = null; // window at the start, for r
  let timer = null;
  let held = false;
  let kinds = ""; // of places to jump to; empty: all
  let grey = null;

  // ---- state ---------------------------------------------------------------------------------------------------
  const axisOf = () => PLANES[get("plane")]?.axis ?? 0;
  const cursor = () => get("cursor").map((at, axis) => clamp(at, 0, store.scan.shape[axis] - 1));

  function update(changes) {
    held = true; // several traits, one drawing
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    held = false;
    refresh();
    model.save_changes();
  }

  // a step away leaves the place that was jumped to, here at once and not when Python says so
  const moveTo = (voxel, more = {}) => update({ place: -1, ...more, cursor: voxel, slice: voxel[axisOf()] });

  function step(count) {
    const [voxel, axis] = [cursor(), axisOf()];
    voxel[axis] = clamp(voxel[axis] + count, 0, store.scan.shape[axis] - 1);
    moveTo(voxel);
  }

  function nudge(right, up) {
    const { across, down, up: headUp } = PLANES[get("plane")] ?? PLANES.axial;
    const voxel = cursor();
    voxel[across] = clamp(voxel[across] + right, 0, store.scan.shape[across] - 1);
    voxel[down] = clamp(voxel[down] + (headUp ? up : -up), 0, store.scan.shape[down] - 1);
    moveTo(voxel);
  }

  function jump(towards) {
    if (extras.jump) return extras.jump(towards);
    const { places } = store.scan;
    const wanted = places.map((_, i) => i).filter((i) => !kinds || places[i].kind === kinds);
    if (!wanted.length) return;
    const now = cursor()[0];
    const here = wanted.indexOf(get("place"));
    let next = (here + towards + wanted.length) % wanted.length;
    if (here < 0) {
      // from wherever the cross-hair is
      const ahead = wanted.map((i) => places[i].slice * towards > now * towards);
      next = towards > 0 ? Math.max(ahead.indexOf(true), 0) : (ahead.lastIndexOf(true) + wanted.length) % wanted.length;
    }
    centreOn(voxelOf(places[wanted[next]], store.scan), { place: wanted[next] });
  }

  const share = (name, by) => update({ [name]: Math.round(clamp(get(name) + by, 0, 1) * 100) / 100 });
  const toggle = (name) => update({ [name]: !get(name) });
  const zoomBy = (factor) => {
    centre = cursor();
    update({ zoom: clamp(Math.round(get("zoom") * factor * 100) / 100, 1, 16) });
  };

  function changeWindow(wider, brighter) {
    const [low, high] = get("window");
    const [middle, half] = [(low + high) / 2, (high - low) / 2];
    const unit = (store.scan.intensity[1] - store.scan.intensity[0]) / 400;
    const [newMiddle, newHalf] = [middle - brighter * unit, Math.max(half + wider * unit, unit)];
    update({ window: [newMiddle - newHalf, newMiddle + newHalf] });
  }

  function play(on = timer === null) {
    clearInterval(timer);
    timer = null;
    if (on && store.scan) {
      const axis = axisOf();
      timer = setInterval(() => step(cursor()[axis] + 1 < store.scan.shape[axis] ? 1 : -Infinity), 1000 / FRAMES_PER_S);
    }
    controls.refresh();
  }

  // ---- keys ----------------------------------------------------------------------------------------------------
  const keys = {
    ArrowUp: () => step(1), ArrowRight: () => step(1), ArrowDown: () => step(-1), ArrowLeft: () => step(-1),
    PageUp: () => step(10), PageDown: () => step(-10), Home: () => step(Infinity), End: () => step(-Infinity),
    n: () => jump(1), p: () => jump(-1), " ": () => play(),
    "[": () => share("threshold", -0.05), "]": () => share("threshold", 0.05),
    ",": () => share("opacity", -0.1), ".": () => share("opacity", 0.1),
    w: () => changeWindow(-10, 0), W: () => changeWindow(10, 0), b: () => changeWindow(0, 10), B: () => changeWindow(0, -10),
    "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8),
    l: () => toggle("show_label"), h: () => toggle("show_map"), x: () => toggle("show_cross"),
    r: () => update({ window: first, zoom: 1 }),
    "?": () => controls.toggleHelp(),
    ...extras.keys,
  };
  PLANE_NAMES.forEach(([name], i) => (keys[i + 1] = () => setPlane(name)));
  const shifted = {
    ArrowUp: () => nudge(0, 1), ArrowDown: () => nudge(0, -1), ArrowLeft: () => nudge(-1, 0), ArrowRight: () => nudge(1, 0),
  };

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // JupyterLab's and the browser's own
    const field = event.target.closest("input, select, textarea, button");
    const typed = field?.matches("textarea, input[type=text]");
    const ownKey = field && /^(Arrow|Page|Home|End|Enter| )/.test(event.key) && !field.matches("[type=checkbox]");
    // JupyterLab would take arrows and letters as commands to its cells
    if (event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
    if (typed || ownKey || (field?.matches("[type=checkbox]") && event.key === " ") || !store.scan) return;
    const action = (event.shiftKey && shifted[event.key]) || keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  function setPlane(plane) {
    update({ plane, slice: cursor()[PLANES[plane]?.axis ?? 0] });
  }

  // ---- panels --------------------------------------------------------------------------------------------------
  function layPanels() {
    const planes = get("plane") === "three" ? Object.keys(PLANES) : [get("plane")];
    const maps = store.scan.maps.length ? store.scan.maps : [{ name: "", values: null }];
    const wanted = maps.flatMap((map) => planes.map((plane) => ({ map, plane })));
    const same = panels.length === wanted.length && panels.every((p, i) => p.map === wanted[i].map && p.plane === wanted[i].plane);
    if (!same) {
      panels = wanted.map(({ map, plane }) => makePanel(map, plane));
      panelsBox.replaceChildren(...panels.map((panel) => panel.canvas));
    }
    const sizes = panels.map((panel) => framed(store.scan, panel.plane));
    const { perMm } = arrange(sizes, planes.length > 1 ? planes.length : panels.length);
    const ratio = window.devicePixelRatio || 1;
    panels.forEach((panel, i) => {
      const [width, height] = [Math.floor(sizes[i].widthMm * perMm), Math.floor(sizes[i].heightMm * perMm)];
      panel.canvas.style.width = `${width}px`;
      panel.canvas.style.height = `${height}px`;
      // to set a canvas' size clears it, even to the same
      if (panel.canvas.width !== Math.round(width * ratio)) panel.canvas.width = Math.round(width * ratio);
      if (panel.canvas.height !== Math.round(height * ratio)) panel.canvas.height = Math.round(height * ratio);
    });
  }

  // How many panels a line, and how large: as large as fits; a full line is preferred where it costs little.
  function arrange(sizes, full) {
    const room = Math.max(panelsBox.clientWidth, 120);
    const tallest = clamp(window.innerHeight * 0.68, 200, LARGEST_HEIGHT);
    let best = { perMm: 0 };
    for (let count = full; count >= 1; count--) {
      let [widest, tall, lines] = [0, 0, 0];
      for (let i = 0; i < sizes.length; i += count, lines++) {
        const line = sizes.slice(i, i + count);
        widest = Math.max(widest, line.reduce((sum, size) => sum + size.widthMm, 0));
        tall += Math.max(...line.map((size) => size.heightMm));
      }
      const wide = (room - GAP * (count - 1) - 1) / widest;
      const perMm = Math.min(wide, Math.max((tallest - GAP * (lines - 1)) / tall, 0.35));
      if (perMm > best.perMm * 1.4) best = { perMm };
    }
    return best;
  }

  function makePanel(map, plane) {
    const [width, height] = [store.scan.shape[PLANES[plane].across], store.scan.shape[PLANES[plane].down]];
    const canvas = make("canvas", { className: "kit-panel", role: "img", "aria-label": `${plane} plane ${map.name}` });
    const slice = make("canvas", { width, height });
    const data = new ImageData(width, height);
    const panel = { map, plane, canvas, slice, data, pixels: new Uint32Array(data.data.buffer), drawn: "" };
    canvas.addEventListener("pointerdown", (event) => press(event, panel));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => roll(event, panel), { passive: false });
    canvas.addEventListener("pointermove", (event) => extras.hover?.(panel, ...canvasPoint(event, panel)));
    canvas.addEventListener("pointerleave", () => extras.hover?.(null));
    return panel;
  }

  function canvasPoint(event, panel) {
    const box = panel.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * panel.canvas.width) / box.width,
      ((event.clientY - box.top) * panel.canvas.height) / box.height,
    ];
  }

  function press(event, panel) {
    event.preventDefault();
    root.focus({ preventScroll: true });
    const windowing = event.button === 2 || event.shiftKey;
    if (event.button === 1) return;
    let [lastX, lastY] = [event.clientX, event.clientY];
    const drag = (move) => {
      if (windowing) changeWindow(move.clientX - lastX, lastY - move.clientY);
      else moveTo(toVoxel(store.scan, panel.plane, panel.view, ...canvasPoint(move, panel), cursor()));
      [lastX, lastY] = [move.clientX, move.clientY];
    };
    const release = () => {
      panel.canvas.removeEventListener("pointermove", drag);
      panel.canvas.removeEventListener("pointerup", release);
      panel.canvas.removeEventListener("pointercancel", release);
    };
    panel.canvas.setPointerCapture(event.pointerId);
    panel.canvas.addEventListener("pointermove", drag);
    panel.canvas.addEventListener("pointerup", release);
    panel.canvas.addEventListener("pointercancel", release);
    if (!windowing && !extras.press?.(panel, ...canvasPoint(event, panel))) drag(event);
  }

  let rolled = 0; // a touch pad sends many small steps, a wheel one large
  function roll(event, panel) {
    event.preventDefault();
    event.stopPropagation();
    const delta = event.deltaY * (event.deltaMode === 1 ? 33 : 1);
    rolled = Math.abs(delta) >= 50 ? Math.sign(delta) * 50 : rolled + delta;
    if (Math.abs(rolled) < 50) return;
    const towards = -Math.sign(rolled);
    rolled = 0;
    if (event.ctrlKey) return zoomBy(towards > 0 ? 1.25 : 0.8);
    const [voxel, { axis }] = [cursor(), PLANES[panel.plane]];
    voxel[axis] = clamp(voxel[axis] + towards, 0, store.scan.shape[axis] - 1);
    moveTo(voxel);
  }

  // ---- drawing -------------------------------------------------------------------------------------------------
  function refresh() {
    // between the kernel's word of another scan and its arrival, the old picture stands still
    if (!store.scan || held || store.scan.version !== get("version")) return;
    grey = greyTable(store.scan, get("window"));
    if (panels[0]?.scan !== store.scan || panels.layout !== get("plane")) {
      panels = panels[0]?.scan === store.scan ? panels : [];
      layPanels();
      panels.layout = get("plane");
      panels.forEach((panel) => (panel.scan = store.scan));
    }
    const at = cursor();
    follow(at);
    panels.forEach((panel) => drawPanel(panel, at));
    controls.refresh();
    showReading(at);
    extras.refresh?.();
  }

  // A zoomed view moves along when the cross-hair leaves it
  function follow(at) {
    if (!centre) centre = at;
    if (get("zoom") === 1) return;
    const lost = panels.some((panel) => {
      const view = placeSlice(store.scan, panel.plane, panel.canvas, get("zoom"), centre);
      const [x, y] = toCanvas(store.scan, panel.plane, view, at);
      return x < 0 || y < 0 || x > panel.canvas.width || y > panel.canvas.height;
    });
    if (lost) centre = at;
  }

  function drawPanel(panel, at) {
    const { scan } = store;
    const index = at[PLANES[panel.plane].axis];
    const [threshold, opacity] = [get("threshold"), get("opacity")];
    const heat = get("show_map") && panel.map.values ? { map: panel.map.values, threshold, opacity } : null;
    const wanted = [index, get("window"), heat && [threshold, opacity]].join();
    if (wanted !== panel.drawn) {
      composeSlice(panel.pixels, scan, panel.plane, index, grey, heat);
      panel.slice.getContext("2d").putImageData(panel.data, 0, 0);
      panel.drawn = wanted;
    }
    panel.view = placeSlice(scan, panel.plane, panel.canvas, get("zoom"), centre);
    const { x, y, scaleX, scaleY } = panel.view;
    const context = panel.canvas.getContext("2d");
    context.imageSmoothingEnabled = Math.min(scaleX, scaleY) < 6; // so near, voxels are shown as they are
    context.drawImage(panel.slice, x, y, panel.slice.width * scaleX, panel.slice.height * scaleY);
    const ratio = window.devicePixelRatio || 1;
    if (scan.label && get("show_label")) {
      context.strokeStyle = OUTLINE;
      context.lineWidth = 1.5 * ratio;
      context.stroke(outlinePath(scan, panel.plane, index, panel.view));
    }
    if (get("show_cross")) drawCross(context, scan, panel, at, ratio);
    extras.overlay?.(context, panel, at, ratio);
    const several = scan.maps.length > 1;
    const title = [get("caption"), several && panel.map.name].filter(Boolean).join(", ");
    drawWords(context, scan, panel, title, `${panel.plane} ${index}`, ratio);
  }

  // ---- read-out: at once what the page knows, exact when the kernel has answered --------------------------------
  function showReading(at) {
    const { scan } = store;
    const exact = get("reading");
    const known = exact.cursor?.every((place, axis) => place === at[axis]);
    const flat = at.reduce((sum, place, axis) => sum + place * scan.strides[axis], 0);
    const [low, high] = scan.intensity;
    const rough = low + (scan.image[flat] / 255) * (high - low);
    const intensity = known ? exact.intensity : rough;
    const items = [
      ["voxel", at.join(", "), "slice, row, column"],
      ...(scan.in_mm ? [["mm", worldMm(scan, at).map((mm) => mm.toFixed(1)).join(", "), "world x, y, z in mm"]] : []),
      ["intensity", `${known ? "" : "≈ "}${Math.abs(intensity) < 10 ? intensity.toFixed(3) : Math.round(intensity)}`, ""],
      ...scan.maps.map(({ name, values }) => [name, (known ? exact.probability[name] : values[flat] / 255)?.toFixed(3), "probability"]),
    ];
    if (scan.label) items.push(["label", scan.label[flat] ? "lesion" : "–", ""]);
    const place = scan.places[get("place")];
    if (place && voxelOf(place, scan).every((where, axis) => where === at[axis])) items.push(["at", place.text, "jumped to"]);
    readingBox.replaceChildren(
      ...items.map(([name, value, title]) => make("span", { title }, make("b", {}, name), ` ${value}`)),
    );
  }

  // ---- controls ------------------------------------------------------------------------------------------------
  const controls = makeControls({ model, store, root, update, setPlane, step, jump, play, toggle, share, cursor, moveTo, axisOf,
    ownJump: Boolean(extras.jump), playing: () => timer !== null, setKinds: (kind) => (kinds = kind), keys });

  const observer = new ResizeObserver(() => {
    if (!store.scan) return;
    layPanels();
    refresh();
  });
  observer.observe(root);
  model.on("change", refresh);

  function heard(content) {
    if (content.type === "volumes") {
      first = get("window");
      centre = null;
      play(false);
      controls.newScan();
    }
    extras.heard?.(content);
    refresh();
  }
  if (store.scan) heard({ type: "volumes" });

  function close() {
    clearInterval(timer);
    observer.disconnect();
    model.off("change", refresh);
  }
  function centreOn(voxel, more = {}) {
    centre = voxel;
    moveTo(voxel, more);
  }

  return { root, heard, close, refresh, moveTo, centreOn, update, get, cursor };
}
