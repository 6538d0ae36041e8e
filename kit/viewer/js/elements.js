// Elements, icons and buttons, and what anywidget calls.

const ICONS = {
  previous: "M11 3 5 8l6 5z", next: "M5 3l6 5-6 5z", play: "M4 3l9 5-9 5z", stop: "M4 4h8v8H4z",
};

function make(tag, properties = {}, ...children) {
  const { className, ...attributes } = properties;
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svg.namespaceURI, "path"));
  svg.firstChild.setAttribute("d", ICONS[name]);
  return svg;
}

function button(label, title, onclick, shown = label) {
  return make("button", { type: "button", title, "aria-label": title, onclick }, shown);
}

// What anywidget calls: one store a widget, however often it is displayed, so that its volume arrives once.
function widget(createView) {
  const store = { scan: null, asked: false, views: new Set() };
  let newest = 0;
  return {
    initialize({ model }) {
      model.on("msg:custom", async (content, buffers) => {
        if (content.type === "volumes") {
          const number = ++newest;
          const scan = await readVolumes(content, buffers);
          if (number !== newest) return; // another scan has come meanwhile
          store.scan = scan;
        } else {
          store[content.type] = { content, buffers }; // what the tools on top of the viewer send
        }
        store.views.forEach((view) => view.heard(content));
      });
    },
    render({ model, el }) {
      const view = createView({ model, el, store });
      store.views.add(view);
      if (!store.asked) model.send({ type: "ready" });
      store.asked = true;
      return () => {
        store.views.delete(view);
        view.close();
      };
    },
  };
}
