"use strict";
// The slice viewer: NiiVue with the layers of a session, from below to above. The lowest that is switched on
// gives the grid; the others lie on it where they are in the world.

class Viewer {
  constructor(canvas, says) {
    this.canvas = canvas;
    this.says = says;
    this.layers = [];
    this.turn = 0; // of the session that is shown: what loads late for another is dropped
    this.onCursor = () => {};
    this.ready = this.attach();
  }

  async attach() {
    if (!this.canvas.getContext("webgl2")) {
      this.tell("This browser has no WebGL2: slices are not drawn, pictures and verdicts work.");
      return false;
    }
    const { Niivue, MULTIPLANAR_TYPE, SHOW_RENDER } = niivue;
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 0.15, 0.25, 0.8],
      crosshairWidth: 1,
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarLayout: MULTIPLANAR_TYPE.GRID,
      isNearestInterpolation: true,
      loadingText: "",
      logLevel: "silent",
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
    });
    this.nv.onLocationChange = (at) => this.onCursor(this.read(at));
    await this.nv.attachToCanvas(this.canvas);
    return true;
  }

  tell(words) { this.says.textContent = words; }

  async show(label, layers) {
    const turn = ++this.turn;
    if (!(await this.ready) || turn !== this.turn) return;
    const first = layers.find((one) => ["b0", "dwi", "fa"].includes(one.name)) || layers[0];
    this.layers = layers.map((one) => ({
      ...one,
      url: `layer/${encodeURIComponent(label)}/${encodeURIComponent(one.file_name)}`,
      on: one === first || one.name === "segments",
      opacity: one.name === "segments" ? 0.5 : 1,
      image: null,
      failed: "",
    }));
    this.stack([]);
    this.canvas.dataset.shown = "";
    this.tell(layers.length ? "" : "This session has no images to look at.");
    await this.draw();
    const segments = this.layers.flatMap((one) => one.segments);
    if (turn === this.turn && segments.length) this.goTo(middle(segments.map((one) => one.mm)));
  }

  async load(layer) {
    if (layer.image || layer.failed) return;
    try {
      const [low, high] = layer.window || [NaN, NaN];
      const answer = await fetch(layer.url);
      if (!answer.ok) throw new Error(await words(answer));
      const image = await niivue.NVImage.loadFromUrl({
        url: await answer.arrayBuffer(),
        name: layer.file_name,
        colormap: layer.colormap,
        cal_min: low,
        cal_max: high,
      });
      if (layer.name === "segments") image.setColormapLabel(colours(layer.segments));
      layer.image = image;
    } catch (error) {
      layer.failed = String(error.message || error);
    }
  }

  async draw() {
    const turn = this.turn;
    const on = this.layers.filter((one) => one.on);
    await Promise.all(on.map((one) => this.load(one)));
    if (turn !== this.turn) return;
    const there = this.layers.filter((one) => one.on && one.image);
    for (const one of there) one.image.opacity = one.opacity;
    this.stack(there.map((one) => one.image));
    this.canvas.dataset.shown = there.map((one) => one.name).join(" ");
    const lost = this.layers.filter((one) => one.failed).map((one) => `${one.title} cannot be shown: ${one.failed}`);
    if (this.layers.length) this.tell(lost.join("; "));
    if (there.length) this.nv.createOnLocationChange();
  }

  // All at once: adding them one by one would draw each of them for each that lies below.
  stack(images) {
    this.nv.volumes = images;
    this.nv.back = images[0] || null;
    this.nv.overlays = images.slice(1);
    this.nv.updateGLVolume();
  }

  async switchLayer(name, on) {
    const layer = this.layers.find((one) => one.name === name);
    if (!layer) return;
    layer.on = on;
    await this.draw();
  }

  setOpacity(name, opacity) {
    const layer = this.layers.find((one) => one.name === name);
    if (!layer) return;
    layer.opacity = opacity;
    const place = layer.on && layer.image ? this.nv.volumes.indexOf(layer.image) : -1;
    if (place >= 0) this.nv.setOpacity(place, opacity);
  }

  outline(on) {
    if (this.nv) this.nv.setAtlasOutline(on ? 1 : 0);
  }

  setView(name) {
    if (!this.nv) return;
    const { SLICE_TYPE } = niivue;
    const types = { multi: SLICE_TYPE.MULTIPLANAR, axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL,
      sagittal: SLICE_TYPE.SAGITTAL };
    this.nv.setSliceType(types[name]);
  }

  goTo(mm) {
    if (!this.nv || !this.nv.volumes.length) return;
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm);
    this.nv.drawScene();
    this.nv.createOnLocationChange();
  }

  step(right, up) {
    if (this.nv && this.nv.volumes.length) this.nv.moveCrosshairInVox(right, 0, up);
  }

  read(at) {
    const [x, y, z] = Array.from(at.mm).map((value) => value.toFixed(1));
    const said = this.layers.filter((one) => one.on && one.image).map((one) => {
      const value = at.values[this.nv.volumes.indexOf(one.image)]?.value;
      if (value === undefined) return "";
      if (one.name !== "segments") return `${one.title} ${Number(value.toPrecision(3))}`;
      const found = one.segments.find((segment) => segment.value === Math.round(value));
      return found ? found.name : "";
    });
    return [`${x}, ${y}, ${z} mm`, ...said].filter(Boolean).join("  ·  ");
  }
}

// The place (mm) that is nearest to the mean of all.
function middle(places) {
  const mean = [0, 1, 2].map((axis) => places.reduce((sum, mm) => sum + mm[axis], 0) / places.length);
  const far = (mm) => Math.hypot(...mm.map((value, axis) => value - mean[axis]));
  return places.reduce((best, mm) => (far(mm) < far(best) ? mm : best));
}

// Why the server gave no image.
async function words(answer) {
  const text = await answer.text();
  try { return JSON.parse(text).problem; } catch { return text; }
}

function colours(segments) {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["none"] };
  for (const { value, name, colour } of segments) {
    table.R.push(colour[0]);
    table.G.push(colour[1]);
    table.B.push(colour[2]);
    table.A.push(255);
    table.I.push(value);
    table.labels.push(name);
  }
  return table;
}
