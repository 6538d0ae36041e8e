// The controls under the panels: native elements, so that they can be reached and used by keyboard and read aloud.

const HELP = [
  ["↑ ↓", "next slice up or down (also ← →, mouse wheel)"],
  ["Page Up, Page Down", "ten slices; Home and End: last and first"],
  ["Shift + arrows", "move the cross-hair by a voxel (also click, drag)"],
  ["n p", "next, previous lesion or error"],
  ["Space", "play, stop"],
  ["1 2 3 4", "axial, coronal, sagittal, all three planes"],
  ["[ ]", "threshold of the heat lower, higher"],
  [", .", "opacity of the heat less, more"],
  ["w W", "window narrower, wider (also right-drag, Shift-drag)"],
  ["b B", "brighter, darker"],
  ["+ −", "zoom in, out (also Ctrl + wheel)"],
  ["l h x", "label, heat, cross-hair on or off"],
  ["r", "window and zoom as at first"],
  ["?", "this list"],
];
const PLANE_NAMES = [["axial", "Axial"], ["coronal", "Coronal"], ["sagittal", "Sagittal"], ["three", "Three planes"]];

function makeControls(viewer) {
  const { model, store, root, update } = viewer;
  const get = (name) => model.get(name);

  const slider = make("input", { type: "range", className: "kit-slice", "aria-label": "slice", min: 0, oninput: slide });
  const ticks = make("canvas", { className: "kit-ticks", height: 8, "aria-hidden": "true" });
  const count = make("output", {});
  const playButton = button("play", "play (Space)", () => viewer.play());
  const back = button("previous", "previous lesion or error (p)", () => viewer.jump(-1), icon("previous"));
  const on = button("next", "next lesion or error (n)", () => viewer.jump(1), icon("next"));
  const placeCount = make("output", {});
  const kinds = make("select", { "aria-label": "jump to which", onchange: () => viewer.setKinds(kinds.value) });
  const planes = PLANE_NAMES.map(([name, words], i) =>
    button(words, `${words} (${i + 1})`, () => viewer.setPlane(name)));
  const threshold = range("threshold", "heat from this probability ( [ and ] )", 0.01, "kit-heat");
  const opacity = range("opacity", "opacity of the heat ( , and . )", 0.05, "");
  const boxes = [["show_label", "label", "l"], ["show_map", "heat", "h"], ["show_cross", "cross-hair", "x"]].map(([name, words, key]) =>
    make("label", { title: key }, make("input", { type: "checkbox", name, onchange: () => viewer.toggle(name) }), words));
  const help = make("dl", { className: "kit-help", hidden: "" },
    ...HELP.flatMap(([key, does]) => [make("dt", {}, key), make("dd", {}, does)]));
  const helpButton = button("?", "keys (?)", () => toggleHelp(), "?");
  helpButton.setAttribute("aria-expanded", "false");

  const jumps = make("span", { className: "kit-group" }, back, on, placeCount, kinds);
  root.append(
    make("div", { className: "kit-bar" },
      make("span", { className: "kit-group kit-grow" }, playButton, make("span", { className: "kit-track" }, ticks, slider), count),
      jumps,
      make("span", { className: "kit-group", role: "group", "aria-label": "planes" }, ...planes)),
    make("div", { className: "kit-bar" }, threshold.box, opacity.box, ...boxes,
      button("reset", "window and zoom as at first (r)", () => viewer.keys.r()), helpButton),
    help,
  );

  function range(name, title, step, className) {
    const input = make("input", { type: "range", min: 0, max: 1, step, className, title, "aria-label": title, name,
      oninput: () => update({ [name]: Number(input.value) }) });
    const value = make("output", {});
    return { box: make("label", { className: "kit-group" }, name, input, value), input, value };
  }

  function slide() {
    const voxel = viewer.cursor();
    voxel[viewer.axisOf()] = Number(slider.value);
    viewer.moveTo(voxel);
  }

  function toggleHelp() {
    help.hidden = !help.hidden;
    helpButton.setAttribute("aria-expanded", String(!help.hidden));
  }

  function newScan() {
    const names = [...new Set(store.scan.places.map((place) => place.kind))];
    kinds.replaceChildren(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
    kinds.hidden = names.length < 2;
    jumps.hidden = viewer.ownJump || !store.scan.places.length;
    threshold.box.hidden = opacity.box.hidden = boxes[1].hidden = !store.scan.maps.length;
    boxes[0].hidden = !store.scan.label;
    viewer.setKinds("");
    ticks.drawn = "";
  }

  // Marks where the lesions or errors are, along the slider
  function drawTicks() {
    const [axis, width] = [viewer.axisOf(), ticks.clientWidth];
    if (ticks.drawn === `${axis} ${width}` || !width) return;
    ticks.drawn = `${axis} ${width}`;
    ticks.width = width; // also clears it
    const context = ticks.getContext("2d");
    const last = Math.max(store.scan.shape[axis] - 1, 1);
    for (const place of store.scan.places) {
      context.fillStyle = store.scan.colours[place.kind] ?? "#888";
      context.fillRect(7 + ((width - 14) * place[AXIS_NAMES[axis]]) / last - 1, 0, 2, 8); // 7: half a thumb
    }
  }

  function refresh() {
    playButton.replaceChildren(icon(viewer.playing() ? "stop" : "play"));
    playButton.setAttribute("aria-label", viewer.playing() ? "stop (Space)" : "play (Space)");
    if (!store.scan) return;
    const axis = viewer.axisOf();
    slider.max = store.scan.shape[axis] - 1;
    slider.value = viewer.cursor()[axis];
    count.textContent = `${slider.value} / ${slider.max}`;
    const places = store.scan.places.length;
    placeCount.textContent = get("place") >= 0 ? `${get("place") + 1} of ${places}` : `${places}`;
    planes.forEach((one, i) => one.setAttribute("aria-pressed", String(get("plane") === PLANE_NAMES[i][0])));
    for (const { input, value } of [threshold, opacity]) {
      input.value = get(input.name);
      value.textContent = get(input.name).toFixed(2);
    }
    boxes.forEach((box) => (box.firstChild.checked = get(box.firstChild.name)));
    drawTicks();
  }

  return { refresh, newScan, toggleHelp };
}
