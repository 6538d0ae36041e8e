// The error browser: the viewer, and over it a curve to choose a point on, and a card with the error and its verdict.

const CURVE = { width: 320, height: 236, left: 46, right: 10, top: 10, bottom: 38 };
const VERDICT_KEYS = { "true error": "t", "label fault": "f", unsure: "u" };

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function errorBrowser({ model, el, store }) {
  const get = (name) => model.get(name);
  const rows = () => store.errors?.content.rows ?? [];
  const curveBox = make("div", { className: "kit-curve" });
  const title = make("div", { className: "kit-title", role: "status", "aria-live": "polite" });
  const facts = make("div", { className: "kit-facts" });
  const note = make("textarea", { rows: 2, placeholder: "note, saved when you leave the field", "aria-label": "note",
    onchange: () => mark({ note: note.value }) });
  const saved = make("div", { className: "kit-saved", role: "status" });
  const kinds = make("select", { "aria-label": "which errors", onchange: () => viewer.update({ kinds: kinds.value }) });
  const axes = make("select", { "aria-label": "which curve", onchange: () => viewer.update({ axes: axes.value }) },
    ...["precision and recall", "FROC"].map((name) => make("option", { value: name }, name)));
  const verdicts = Object.entries(VERDICT_KEYS).map(([name, key]) => button(name, `${name} (${key})`, () => judge(name), `${name} (${key})`));
  const card = make("div", { className: "kit-card" },
    make("div", { className: "kit-bar" },
      button("previous", "previous error (p)", () => page(-1), icon("previous")),
      button("next", "next error (n)", () => page(1), icon("next")),
      title, kinds),
    facts,
    make("div", { className: "kit-bar", role: "group", "aria-label": "verdict" }, ...verdicts),
    note, saved);
  const head = make("div", { className: "kit-head" }, make("div", {}, curveBox, axes), card);

  let viewer = null; // while it is being made, it is heard already
  viewer = sliceViewer({ model, el, store }, {
    jump: page,
    heard,
    refresh,
    keys: Object.fromEntries(Object.entries(VERDICT_KEYS).map(([name, key]) => [key, () => judge(name)])),
    overlay,
  });
  viewer.root.prepend(head);
  viewer.root.setAttribute("aria-label", "Error browser: n and p page, t, f and u judge. Press ? for more keys.");

  function page(towards) {
    if (!rows().length) return;
    open((get("error") + towards + rows().length) % rows().length);
  }

  function open(error) {
    const row = rows()[error];
    if (row.scan_id === store.scan?.caption) return viewer.centreOn(voxelOf(row, store.scan), { error });
    viewer.update({ error }); // the kernel sends the other scan
    saved.textContent = `loading ${row.scan_id} …`;
  }

  function judge(name) {
    const row = rows()[get("error")];
    if (row) mark({ verdict: row.verdict === name ? "" : name });
  }

  // A message, not a trait: it stays with its error whatever is clicked next
  function mark(change) {
    const [error, row] = [get("error"), rows()[get("error")]];
    if (!row) return;
    Object.assign(row, change);
    saved.textContent = "saving …";
    model.send({ type: "mark", error, scan_id: row.scan_id, verdict: row.verdict, note: row.note });
    showCard();
  }

  function heard(content) {
    if (content.type === "errors") {
      kinds.replaceChildren(...content.kinds.map((name) => make("option", { value: name }, name)));
      curveBox.drawn = "";
      tally(content.count);
    }
    if (content.type === "marked") {
      Object.assign(rows()[content.error] ?? {}, { verdict: content.verdict, note: content.note });
      tally(content.count, `saved in ${content.file}; `);
    }
    const row = rows()[get("error")];
    if (content.type === "volumes" && row?.scan_id === store.scan.caption) {
      viewer?.centreOn(voxelOf(row, store.scan));
      tally(store.errors.content.count);
    }
    if (viewer) refresh();
  }

  function tally(count, before = "") {
    if (store.errors) store.errors.content.count = count;
    const words = Object.entries(count).filter(([, n]) => n).map(([name, n]) => `${n} ${name}`);
    saved.textContent = before + (words.length ? `judged so far: ${words.join(", ")}` : "nothing judged yet");
  }

  function refresh() {
    if (!store.errors) return;
    drawCurve();
    showCard();
  }

  function showCard() {
    const row = rows()[get("error")];
    kinds.value = get("kinds");
    axes.value = get("axes");
    verdicts.forEach((one, i) => {
      one.disabled = !row;
      one.setAttribute("aria-pressed", String(row?.verdict === Object.keys(VERDICT_KEYS)[i]));
    });
    note.disabled = !row;
    if (document.activeElement !== note) note.value = row?.note ?? "";
    title.textContent = row ? `${row.kind === "FN" ? "missed lesion" : "false positive"} ${get("error") + 1} of ${rows().length}, ${row.scan_id}` : "no error at this point";
    if (!row) return facts.replaceChildren();
    const number = (value, digits, unit) => (value == null ? null : `${Number(value).toFixed(digits)}${unit}`);
    const items = [
      ["at", AXIS_NAMES.map((name) => number(row[name], 0, "")).join(", ")],
      ["volume", number(row.volume_mm3, 0, " mm³")],
      ["diameter", number(row.diameter_mm, 1, " mm")],
      ["highest probability", number(row.peak, 3, "")],
      [row.kind === "FN" ? "nearest prediction" : "nearest lesion", number(row.nearest_mm, 1, " mm")],
      ["rule", row.rule],
    ];
    facts.replaceChildren(...items.filter(([, value]) => value != null && value !== "").map(([name, value]) =>
      make("span", {}, make("b", {}, name), ` ${value}`)));
  }

  // A ring around the error, so that one sees at once what is meant
  function overlay(context, panel, at, ratio) {
    const row = rows()[get("error")];
    if (!row || row.scan_id !== store.scan.caption) return;
    const place = AXIS_NAMES.map((name) => row[name]);
    const { axis, across } = PLANES[panel.plane];
    const radius = ((row.diameter_mm ?? 4) / 2 + 5) / store.scan.spacing_mm[across];
    if (Math.abs(place[axis] - at[axis]) * store.scan.spacing_mm[axis] > (row.diameter_mm ?? 4) / 2 + 2) return;
    const [x, y] = toCanvas(store.scan, panel.plane, panel.view, place);
    context.strokeStyle = store.scan.colours[row.kind];
    context.lineWidth = 2 * ratio;
    context.setLineDash([6 * ratio, 5 * ratio]);
    context.beginPath();
    context.arc(x, y, radius * panel.view.scaleX, 0, 2 * Math.PI);
    context.stroke();
    context.setLineDash([]);
  }

  // ---- the curve -------------------------------------------------------------------------------------------------
  function points() {
    const { curve } = store.errors.content;
    const froc = get("axes") === "FROC";
    const most = froc ? Math.max(1, ...curve.map((point) => point.fp_per_scan ?? 0)) : 100;
    const across = CURVE.width - CURVE.left - CURVE.right;
    const up = CURVE.height - CURVE.top - CURVE.bottom;
    const place = (x, y) => [CURVE.left + (x / most) * across, CURVE.height - CURVE.bottom - (y / 100) * up];
    const values = curve.map((point) => (froc ? [point.fp_per_scan, point.recall] : [point.recall, point.precision]));
    const known = ([x, y]) => x != null && y != null;
    return { curve, most, froc, place, at: values.map((pair) =>
      known(pair) ? place(froc ? pair[0] : 100 * pair[0], 100 * pair[1]) : null) };
  }

  function drawCurve() {
    const key = [get("axes"), get("point"), store.errors.content.rows.length].join();
    if (curveBox.drawn === key) return;
    curveBox.drawn = key;
    const { curve, most, froc, place, at } = points();
    const chosen = curve[get("point")];
    const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(0)} %`);
    const words = `threshold ${chosen.threshold}: recall ${percent(chosen.recall)}, precision ${percent(chosen.precision)}, ${chosen.fp_per_scan?.toFixed(1)} false positives a scan`;
    const picture = svg("svg", { viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, tabindex: 0, role: "slider",
      "aria-label": "operating point", "aria-valuemin": 0, "aria-valuemax": curve.length - 1,
      "aria-valuenow": get("point"), "aria-valuetext": words });
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const [x, bottom] = place(share * most, 0);
      const [left, y] = place(0, 100 * share);
      const label = (at, text, anchor) => svg("text", { ...at, "text-anchor": anchor }, text);
      picture.append(
        svg("line", { x1: left, x2: CURVE.width - CURVE.right, y1: y, y2: y, class: "grid" }),
        svg("line", { x1: x, x2: x, y1: CURVE.top, y2: bottom, class: "grid" }),
        label({ x, y: bottom + 14 }, String(Math.round(share * most)), "middle"),
        label({ x: left - 5, y: y + 4 }, String(100 * share), "end"));
    }
    const middle = [(CURVE.left + CURVE.width - CURVE.right) / 2, (CURVE.top + CURVE.height - CURVE.bottom) / 2];
    picture.append(
      svg("text", { x: middle[0], y: CURVE.height - 6, "text-anchor": "middle" }, froc ? "false positives a scan" : "recall (%)"),
      svg("text", { transform: `translate(12 ${middle[1]}) rotate(-90)`, "text-anchor": "middle" }, froc ? "recall (%)" : "precision (%)"),
      svg("polyline", { points: at.filter(Boolean).join(" "), class: "curve" }));
    const order = [...at.keys()].sort((a, b) => (a === get("point")) - (b === get("point"))); // the chosen one on top
    order.forEach((i) => {
      const place = at[i];
      if (!place) return;
      const dot = svg("circle", { cx: place[0], cy: place[1], r: i === get("point") ? 7 : 4.5, class: i === get("point") ? "chosen" : "" },
        svg("title", {}, `threshold ${curve[i].threshold}`));
      picture.append(dot);
    });
    picture.addEventListener("click", (event) => choose(event, picture, at));
    picture.addEventListener("keydown", alongCurve);
    const focused = curveBox.contains(document.activeElement);
    curveBox.replaceChildren(picture, make("div", { className: "kit-chosen" }, words));
    if (focused) picture.focus();
  }

  // The point nearest to a click: points may lie one over the other
  function choose(event, picture, at) {
    const box = picture.getBoundingClientRect();
    const scale = CURVE.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const apart = at.map((place) => (place ? Math.hypot(place[0] - x, place[1] - y) : Infinity));
    const point = apart.indexOf(Math.min(...apart));
    if (apart[point] < 20) viewer.update({ point });
  }

  function alongCurve(event) {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const { at } = points();
    let point = get("point") + by;
    while (at[point] === null) point += by; // a threshold at which nothing is predicted has no place
    if (at[point]) viewer.update({ point });
  }

  heardAlready();
  function heardAlready() {
    if (store.errors) heard(store.errors.content); // displayed a second time
  }
  return viewer;
}
