// The sample browser: the viewer, with the drawn voxels as marks over its slices and the patch of one of them as a frame.

const NEAR_PIXELS = 9;

function sampleBrowser({ model, el, store }) {
  const get = (name) => model.get(name);
  let viewer = null; // while it is being made, it is heard already
  let samples = null;
  let pointed = -1;
  const hidden = new Set(); // reasons whose marks are not shown
  const schemes = make("select", { "aria-label": "sampling scheme", onchange: () => viewer.update({ scheme: schemes.value }) });
  const scans = make("select", { "aria-label": "scan", onchange: () => viewer.update({ scan: scans.value }) });
  const legend = make("span", { className: "kit-bar", role: "group", "aria-label": "marks" });
  const status = make("div", { className: "kit-saved", role: "status" });
  const head = make("div", { className: "kit-card" },
    make("div", { className: "kit-bar" },
      make("label", {}, "scheme", schemes),
      make("label", {}, "scan", scans),
      make("span", { className: "kit-group" },
        button("previous", "previous sample (p)", () => jump(-1), icon("previous")),
        button("next", "next sample (n)", () => jump(1), icon("next"))),
      legend),
    status);

  viewer = sliceViewer({ model, el, store }, { jump, heard, refresh, overlay, hover, press });
  viewer.root.prepend(head);
  viewer.root.setAttribute("aria-label", "Sample browser: n and p go from sample to sample. Press ? for more keys.");
  if (store.samples) heard(store.samples.content);

  function heard(content) {
    if (content.type !== "samples") return;
    const [where, kind, angle, pair] = store.samples.buffers.map((view) =>
      view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)); // aligned, as typed arrays want it
    samples = { ...content, where: new Int16Array(where), kind: new Int16Array(kind), angle: new Float32Array(angle), pair: new Int32Array(pair) };
    samples.count = samples.kind.length;
    pointed = -1;
    schemes.replaceChildren(...content.schemes.map((name) => make("option", { value: name }, name)));
    scans.replaceChildren(...content.scans.map((name) => make("option", { value: name }, name)));
    legend.replaceChildren(...content.whys.map(legendEntry));
    refresh();
  }

  const colour = (why) => store.scan.colours[why] ?? "#ffffff";
  const at = (i) => Array.from(samples.where.subarray(3 * i, 3 * i + 3));
  const shown = (i) => !hidden.has(samples.whys[samples.kind[i]]);

  function legendEntry(why, number) {
    const count = samples.kind.reduce((sum, kind) => sum + (kind === number), 0);
    const box = make("input", { type: "checkbox", onchange: () => {
      if (box.checked) hidden.delete(why);
      else hidden.add(why);
      viewer.refresh();
    } });
    box.checked = !hidden.has(why);
    const swatch = make("span", { className: "kit-swatch" });
    swatch.dataset.why = why;
    return make("label", {}, box, swatch, `${why} (${count})`);
  }

  function jump(towards) {
    if (!samples?.count) return;
    let next = get("sample");
    if (next < 0) next = firstFrom(viewer.cursor()[0]) - (towards > 0 ? 1 : 0);
    for (let tried = 0; tried < samples.count; tried++) {
      next = (next + towards + samples.count) % samples.count;
      if (shown(next)) return viewer.centreOn(at(next), { sample: next });
    }
  }

  function firstFrom(slice) {
    for (let i = 0; i < samples.count; i++) if (samples.where[3 * i] >= slice) return i;
    return 0;
  }

  // The mark nearest to a place on the canvas, or -1
  function nearest(panel, x, y) {
    const { axis } = PLANES[panel.plane];
    const index = viewer.cursor()[axis];
    let [best, least] = [-1, NEAR_PIXELS * (window.devicePixelRatio || 1)];
    for (let i = 0; i < samples.count; i++) {
      if (samples.where[3 * i + axis] !== index || !shown(i)) continue;
      const [cx, cy] = toCanvas(store.scan, panel.plane, panel.view, at(i));
      const apart = Math.hypot(cx - x, cy - y);
      if (apart < least) [best, least] = [i, apart];
    }
    return best;
  }

  function hover(panel, x, y) {
    if (!samples || !panel?.view) return;
    const found = nearest(panel, x, y);
    if (found === pointed) return;
    pointed = found;
    viewer.refresh();
  }

  function press(panel, x, y) {
    const found = samples ? nearest(panel, x, y) : -1;
    if (found >= 0) viewer.moveTo(at(found), { sample: found });
    return found >= 0;
  }

  function overlay(context, panel, cursor, ratio) {
    if (!samples || samples.scan !== get("scan")) return;
    const { axis } = PLANES[panel.plane];
    const radius = clamp(panel.view.scaleX * 0.4, 2 * ratio, 4 * ratio);
    samples.whys.forEach((why, kind) => {
      if (hidden.has(why)) return;
      context.fillStyle = colour(why);
      context.beginPath();
      for (let i = 0; i < samples.count; i++) {
        if (samples.kind[i] !== kind || samples.where[3 * i + axis] !== cursor[axis]) continue;
        const [x, y] = toCanvas(store.scan, panel.plane, panel.view, at(i));
        context.moveTo(x + radius, y);
        context.arc(x, y, radius, 0, 2 * Math.PI);
      }
      context.fill();
    });
    const chosen = pointed >= 0 ? pointed : get("sample");
    if (panel.plane === "axial" && chosen >= 0 && chosen < samples.count) drawPatch(context, panel, chosen, cursor, ratio);
  }

  function drawPatch(context, panel, i, cursor, ratio) {
    const [slice, row, column] = at(i);
    const [depth, height] = samples.shape;
    if (Math.abs(slice - cursor[0]) > depth / 2) return;
    context.strokeStyle = colour(samples.whys[samples.kind[i]]);
    context.lineWidth = 2 * ratio;
    context.setLineDash(slice === cursor[0] ? [] : [5 * ratio, 4 * ratio]); // one of the patch's other slices
    context.beginPath();
    for (const [r, c] of patchCorners(row, column, height, samples.angle[i])) {
      context.lineTo(...toCanvas(store.scan, panel.plane, panel.view, [slice, r, c]));
    }
    context.closePath();
    context.stroke();
    context.setLineDash([]);
    const partner = samples.pair[i] < 0 ? -1 : samples.pair.findIndex((pair, other) => pair === samples.pair[i] && other !== i);
    if (partner < 0) return;
    context.beginPath();
    context.moveTo(...toCanvas(store.scan, panel.plane, panel.view, at(i)));
    context.lineTo(...toCanvas(store.scan, panel.plane, panel.view, at(partner)));
    context.stroke();
  }

  function refresh() {
    if (!samples || !store.scan) return;
    schemes.value = get("scheme");
    scans.value = get("scan");
    legend.querySelectorAll(".kit-swatch").forEach((swatch) => (swatch.style.background = colour(swatch.dataset.why)));
    const here = samples.kind.reduce((sum, _, i) => sum + (samples.where[3 * i] === get("cursor")[0]), 0);
    const chosen = pointed >= 0 ? pointed : get("sample");
    const about = chosen >= 0 && chosen < samples.count
      ? `; ${samples.whys[samples.kind[chosen]]} voxel ${at(chosen).join(", ")}, patch of ${samples.shape.join(" × ")} turned by ${samples.angle[chosen].toFixed(1)}°`
      : "; point at a mark to see its patch";
    status.textContent = `${here} of ${samples.count} drawn voxels are in axial slice ${get("cursor")[0]}${about}`;
  }

  return viewer;
}
