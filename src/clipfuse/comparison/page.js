const get = id => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
function make(tag, text, parent) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}
// The tables: a header sorts by its column, best first, then the other way round; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort"), first = head.firstElementChild.dataset.first || "ascending";
    const order = before === "none" ? first : before === "ascending" ? "descending" : "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", other === head ? order : "none"));
    const body = table.tBodies[0], sign = order === "ascending" ? 1 : -1;
    const key = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      const numbers = "value" in a.cells[place].dataset;
      return sign * (numbers ? key(a) - key(b) : key(a).localeCompare(key(b)));
    };
    body.append(...[...body.rows].sort(compare));
  }));
}
// The images.
const images = Object.keys(data.images);
function fill(select, names, chosen) {
  names.forEach(name => make("option", name, select).value = name);
  if (names.includes(chosen)) select.value = chosen;
}
function show() {
  const shown = data.images[get("image").value];
  for (const [id, side] of [["under", "left"], ["over", "right"]]) {
    const name = get(side).value;
    get(id).src = Object.hasOwn(shown, name) ? shown[name] : "data:,";
    get(id).alt = `${get("image").value}, ${name}`;
  }
  get("strip").replaceChildren();
  for (const [name, uri] of Object.entries(shown)) {
    const figure = make("figure", "", get("strip")), box = make("span", "", figure), image = make("img", "", box);
    figure.className = "crop";
    image.src = uri;
    image.alt = `${get("image").value}, ${name}`;
    make("figcaption", name, figure);
  }
}
function move() {
  const root = document.documentElement.style;
  root.setProperty("--cut", get("cut").value + "%");
  root.setProperty("--zoom", get("zoom").value);
  root.setProperty("--x", get("x").value + "%");
  root.setProperty("--y", get("y").value + "%");
}
if (images.length) {
  get("scripts").remove();
  const names = [...new Set(images.flatMap(image => Object.keys(data.images[image])))];
  const losses = data.losses.filter(name => names.includes(name));
  fill(get("image"), images);
  fill(get("left"), names, losses[1] || names[0]);
  fill(get("right"), names, losses[0]);
  ["image", "left", "right"].forEach(id => get(id).addEventListener("change", show));
  ["cut", "zoom", "x", "y"].forEach(id => get(id).addEventListener("input", move));
  // Dragging moves the cut, or the crop once zoomed.
  get("stage").addEventListener("pointerdown", start => {
    const box = get("stage").getBoundingClientRect(), zoom = Number(get("zoom").value);
    const from = { x: Number(get("x").value), y: Number(get("y").value) };
    const drag = event => {
      if (zoom === 1) get("cut").value = 100 * (event.clientX - box.left) / box.width;
      else {
        get("x").value = from.x - 100 * (event.clientX - start.clientX) / box.width / (zoom - 1);
        get("y").value = from.y - 100 * (event.clientY - start.clientY) / box.height / (zoom - 1);
      }
      move();
    };
    start.preventDefault();
    drag(start);
    get("stage").setPointerCapture(start.pointerId);
    get("stage").addEventListener("pointermove", drag);
    const stop = () => get("stage").removeEventListener("pointermove", drag);
    get("stage").addEventListener("pointerup", stop, { once: true });
    get("stage").addEventListener("pointercancel", stop, { once: true });
  });
  show();
  move();
}
