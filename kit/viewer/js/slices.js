// How a slice is cut out of a volume and drawn: plain functions over typed arrays, without any DOM but a canvas context.
// Volumes lie flat in memory as (slice, row, column), the last fastest: slices from the neck upwards, rows from front
// to back, columns from the patient's right to left. Axial slices show the nose up; the others, the head up.

// axis: what slices are counted along; down, across: the axes of the picture; up: the first line is at the bottom
const PLANES = {
  axial: { axis: 0, down: 1, across: 2, up: false, ends: { left: "R", right: "L", top: "A", bottom: "P" } },
  coronal: { axis: 1, down: 0, across: 2, up: true, ends: { left: "R", right: "L", top: "S", bottom: "I" } },
  sagittal: { axis: 2, down: 0, across: 1, up: true, ends: { left: "A", right: "P", top: "S", bottom: "I" } },
};
const AXIS_NAMES = ["slice", "row", "column"];
const OUTLINE = "#56B4E9"; // the label, as in the figures
const CROSS = "#F0E442";
// stops of the colour map "inferno" at 0, 1/8, ... 1, as in the figures; it stays readable without colour vision
const INFERNO = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10],
  [249, 201, 50], [252, 255, 164],
];

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function inferno(share) {
  const at = clamp(share, 0, 1) * (INFERNO.length - 1);
  const below = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[below].map((value, i) => value + (INFERNO[below + 1][i] - value) * (at - below));
}

const HEAT = Array.from({ length: 256 }, (_, step) => inferno(step / 255));

// The part of a plane that is shown at zoom 1: the scan's frame around the head, in pixels of the slice and in mm
function framed(scan, plane) {
  const { down, across, up } = PLANES[plane];
  const [[left, right], [first, stop]] = [scan.frame[across], scan.frame[down]];
  const [width, height, top] = [right - left, stop - first, up ? scan.shape[down] - stop : first];
  return { left, top, width, height, widthMm: width * scan.spacing_mm[across], heightMm: height * scan.spacing_mm[down] };
}

// 256 steps of the stored intensities -> opaque grey pixels, for a window of intensities (low, high)
function greyTable(scan, [low, high]) {
  const [first, last] = scan.intensity;
  return Uint32Array.from({ length: 256 }, (_, step) => {
    const intensity = first + (step / 255) * (last - first);
    const grey = clamp(Math.round((255 * (intensity - low)) / (high - low)), 0, 255);
    return 0xff000000 | (grey << 16) | (grey << 8) | grey;
  });
}

// Fill `pixels` (Uint32, one a voxel) with a slice; `heat` is {map, threshold, opacity} or null.
function composeSlice(pixels, scan, plane, index, grey, heat) {
  const { axis, down, across, up } = PLANES[plane];
  const [width, height] = [scan.shape[across], scan.shape[down]];
  const step = scan.strides[across];
  const least = heat ? Math.max(1, Math.ceil(heat.threshold * 255 - 1e-6)) : 256; // a probability of 0 is never heat
  let out = 0;
  for (let y = 0; y < height; y++) {
    let at = index * scan.strides[axis] + (up ? height - 1 - y : y) * scan.strides[down];
    for (let x = 0; x < width; x++, at += step) {
      const pixel = grey[scan.image[at]];
      pixels[out++] = heat && heat.map[at] >= least ? blend(pixel & 255, HEAT[heat.map[at]], heat.opacity) : pixel;
    }
  }
}

function blend(grey, [red, green, blue], opacity) {
  const under = grey * (1 - opacity);
  return (
    0xff000000 | ((under + blue * opacity) << 16) | ((under + green * opacity) << 8) | ((under + red * opacity) | 0)
  );
}

// The edges between label and other voxels of a slice as a path in canvas pixels; `view` is {x, y, scaleX, scaleY}.
function outlinePath(scan, plane, index, view) {
  const { axis, down, across, up } = PLANES[plane];
  const [width, height] = [scan.shape[across], scan.shape[down]];
  const start = index * scan.strides[axis];
  const inside = (x, y) =>
    x >= 0 && y >= 0 && x < width && y < height &&
    scan.label[start + (up ? height - 1 - y : y) * scan.strides[down] + x * scan.strides[across]];
  const path = new Path2D();
  const edge = (x0, y0, x1, y1) => {
    path.moveTo(view.x + x0 * view.scaleX, view.y + y0 * view.scaleY);
    path.lineTo(view.x + x1 * view.scaleX, view.y + y1 * view.scaleY);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(x, y)) continue;
      if (!inside(x - 1, y)) edge(x, y, x, y + 1);
      if (!inside(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
      if (!inside(x, y - 1)) edge(x, y, x + 1, y);
      if (!inside(x, y + 1)) edge(x, y + 1, x + 1, y + 1);
    }
  }
  return path;
}

// Where a slice lies on a canvas of (width, height) pixels: its frame at zoom 1, else around `centre`, never off the frame.
function placeSlice(scan, plane, canvas, zoom, centre) {
  const { down, across, up } = PLANES[plane];
  const { left, top, width, height } = framed(scan, plane);
  const scaleX = (canvas.width / width) * zoom;
  const scaleY = (canvas.height / height) * zoom;
  const line = up ? scan.shape[down] - 1 - centre[down] : centre[down];
  return {
    scaleX,
    scaleY,
    x: clamp(canvas.width / 2 - (centre[across] + 0.5) * scaleX, canvas.width - (left + width) * scaleX, -left * scaleX),
    y: clamp(canvas.height / 2 - (line + 0.5) * scaleY, canvas.height - (top + height) * scaleY, -top * scaleY),
  };
}

// A voxel position -> canvas pixels, its centre; and back, to whole voxels inside the scan
function toCanvas(scan, plane, view, position) {
  const { down, across, up } = PLANES[plane];
  const line = up ? scan.shape[down] - 1 - position[down] : position[down];
  return [view.x + (position[across] + 0.5) * view.scaleX, view.y + (line + 0.5) * view.scaleY];
}

function toVoxel(scan, plane, view, x, y, cursor) {
  const { down, across, up } = PLANES[plane];
  const column = clamp(Math.floor((x - view.x) / view.scaleX), 0, scan.shape[across] - 1);
  const line = clamp(Math.floor((y - view.y) / view.scaleY), 0, scan.shape[down] - 1);
  const voxel = [...cursor];
  voxel[across] = column;
  voxel[down] = up ? scan.shape[down] - 1 - line : line;
  return voxel;
}

// The voxel of a row of a table with slice, row and column, which may be fractions
function voxelOf(place, scan) {
  return AXIS_NAMES.map((name, axis) => clamp(Math.round(place[name]), 0, scan.shape[axis] - 1));
}

function worldMm(scan, voxel) {
  return scan.affine.slice(0, 3).map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
}

// The four corners of a patch `size` voxels wide around a voxel of an axial slice, turned by `angle` degrees: the
// inverse of how the sampler reads it, from (row, column) of the patch to (row, column) of the scan.
function patchCorners(row, column, size, angle) {
  const [half, turn] = [size / 2, (angle * Math.PI) / 180];
  return [[-half, -half], [-half, half], [half, half], [half, -half]].map(([r, c]) => [
    row + r * Math.cos(turn) + c * Math.sin(turn),
    column + c * Math.cos(turn) - r * Math.sin(turn),
  ]);
}

// The cross-hair through a voxel, open around it
function drawCross(context, scan, panel, at, ratio) {
  const [x, y] = toCanvas(scan, panel.plane, panel.view, at);
  const { width, height } = panel.canvas;
  const gap = 9 * ratio; // so that it hides nothing
  context.strokeStyle = CROSS;
  context.globalAlpha = 0.65;
  context.lineWidth = ratio;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
  context.globalAlpha = 1;
}

// Directions, title and slice, and a bar for the scale
function drawWords(context, scan, panel, title, place, ratio) {
  const { ends } = PLANES[panel.plane];
  const [{ width, height }, edge] = [panel.canvas, 6 * ratio];
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.fillStyle = "rgba(255, 255, 255, 0.85)";
  const word = (text, x, y, align, baseline) => {
    context.textAlign = align;
    context.textBaseline = baseline;
    context.fillText(text, x, y);
  };
  word(ends.left, edge, height / 2, "left", "middle");
  word(ends.right, width - edge, height / 2, "right", "middle");
  word(ends.top, width / 2, edge, "center", "top");
  word(ends.bottom, width / 2, height - edge, "center", "bottom");
  word(title, edge, edge, "left", "top");
  word(place, edge, height - edge, "left", "bottom");
  drawScaleBar(context, scan, panel, ratio, width - edge, height - edge);
}

function drawScaleBar(context, scan, panel, ratio, right, bottom) {
  const perMm = panel.view.scaleX / scan.spacing_mm[PLANES[panel.plane].across];
  const length = [100, 50, 20, 10, 5, 2].find((mm) => mm * perMm < panel.canvas.width / 4) ?? 1;
  context.fillRect(right - length * perMm, bottom - 2 * ratio, length * perMm, 2 * ratio);
  context.textAlign = "right";
  context.fillText(`${length} mm`, right, bottom - 5 * ratio);
}

async function inflate(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function unpackBits(packed, count) {
  const bits = new Uint8Array(count);
  for (let i = 0; i < count; i++) bits[i] = (packed[i >> 3] >> (i & 7)) & 1;
  return bits;
}

// The kernel's message -> a scan as the functions above take it
async function readVolumes(header, buffers) {
  const parts = await Promise.all(buffers.map(inflate));
  const [slices, rows, columns] = header.shape;
  const scan = { ...header, strides: [rows * columns, columns, 1], image: parts.shift(), label: null };
  if (header.has_label) scan.label = unpackBits(parts.shift(), slices * rows * columns);
  scan.maps = header.maps.map((name, i) => ({ name, values: parts[i] }));
  return scan;
}
