/* An icicle: the tree of modules, each as wide as its share of the chosen measure. */
DRAW.tiles = (picture) => {
  const { names, parents, types, details, alike, measures } = picture;
  const THIN = 6, ROW = 26, MOST_ROWS = 12;
  const children = names.map(() => []);
  parents.forEach((parent, at) => { if (parent >= 0) children[parent].push(at); });
  let measure = measures.findIndex((one) => one.values[0]);
  if (measure < 0) measure = 0;
  let focus = null, collapse = true;

  const value = (at) => measures[measure].values[at] || 0;
  const sum = (list, of) => list.reduce((n, at) => n + (of(at) || 0), 0);
  /* A SPEC, the name of the root, may have dots of its own. */
  const last = (name) => name.includes(":") ? name : name.slice(name.lastIndexOf(".") + 1);
  /* A tile stands for one or several neighbours, its columns. A column is a module, or below a tile of
     equal modules the same module of each of them. Neighbours in one tile are equal, or too thin to draw. */
  const tileOf = (columns, same) => ({ columns, same, at: columns[0][0], all: columns.flat() });
  const label = (node) => {
    const { columns } = node, end = last(names[columns[columns.length - 1][0]]);
    if (columns.length === 1) return last(names[node.at]);
    const ends = `${last(names[node.at])}${/^\d+$/.test(end) ? "–" : " … "}${end}`;
    return node.same ? `${ends} ×${columns.length}` : ends;
  };
  /* The tiles below a node in a width of so many pixels. */
  function below(node, width, zoomed) {
    if (!node.same && !zoomed) return [];
    const opened = node.columns.length > 1 && zoomed;
    const columns = opened ? node.columns : children[node.at].map((_, at) => node.all.map((one) => children[one][at]));
    return grouped(columns, node.value, width, collapse && !opened);
  }
  function grouped(columns, whole, width, folds) {
    const scale = whole ? width / whole : 0, tiles = [], values = columns.map((column) => sum(column, value));
    const same = (a, b) => alike[columns[a][0]] === alike[columns[b][0]];
    const add = (from, to, equal) => tiles.push({ ...tileOf(columns.slice(from, to), equal), value: values.slice(from, to).reduce((n, one) => n + one, 0) });
    for (let i = 0; i < columns.length;) {
      let end = i + 1;
      if (folds) while (end < columns.length && same(end, i)) end += 1;
      if (end - i > 1 || values[i] * scale >= THIN) { add(i, end, true); i = end; continue; }
      let thin = 0;
      for (end = i; end < columns.length && values[end] * scale < THIN && thin * scale < 4 * THIN; end += 1) {
        if (folds && end > i && end + 1 < columns.length && same(end, end + 1)) break;
        thin += values[end];
      }
      end = Math.max(end, i + 1);
      if (thin) add(i, end, end - i === 1);
      i = end;
    }
    return tiles;
  }
  /* Part of a type's name, class of its tiles, its name in the legend. */
  const KINDS = [
    ["conv", "conv", "convolution"], ["norm", "norm", "normalisation"], ["linear", "linear", "linear"],
    ["attention", "mix", "attention"], ["pool", "pool", "pooling"], ["", "other", "other layers"],
  ];
  const kinds = types.map((type) => KINDS.find(([part]) => type.toLowerCase().includes(part)));
  /* A module has the colour of its kind where nothing is drawn below it. */
  const colour = (node) => (!node.same || children[node.at].some(value) ? "group" : kinds[node.at][1]);
  const legend = make("p", { class: "legend" });
  function explain() {
    const drawn = new Set(names.map((_, at) => at).filter((at) => value(at) && !children[at].some(value)).map((at) => kinds[at]));
    legend.replaceChildren(...KINDS.filter((each) => drawn.has(each)).flatMap(([, name, text]) => [
      make("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${text} `,
    ]));
  }

  const box = make("div", { class: "icicle", role: "group", "aria-label": `${picture.title} Arrow keys move, Enter zooms in, Escape zooms out.` });
  const crumbs = make("nav", { class: "crumbs", "aria-label": "Zoomed into" });
  const readout = make("p", { class: "readout", role: "status" });
  let path = [tileOf([[0]], true)], rows = [], whole = 1;

  function tell(node) {
    const total = measures[measure].values[0] || 0;
    const own = measures.map((each) => {
      const known = node.all.filter((at) => each.values[at] !== null);
      const text = amount(known.length ? sum(known, (at) => each.values[at]) : null, each.unit);
      return `${text}${each.unit === "bytes" ? " of activations" : each.unit === "parameters" ? " parameters" : ""}`;
    });
    const share = total ? `, ${percent(node.value / total)} of ${measures[measure].name.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase())}` : "";
    const { columns } = node, times = columns[0].length;
    const end = columns.length > 1 ? ` to ${last(names[columns[columns.length - 1][0]])}, ${columns.length} ${node.same ? "equal modules" : "modules"}` : "";
    say(readout, `${names[node.at]}${end}${times > 1 ? ` (${times} of them, here as one)` : ""}: ${own.join(", ")}${share}. ${types[node.at]}${details[node.at] ? `(${details[node.at]})` : ""}`);
  }
  function zoom(trail) {
    path = trail;
    focus = path[path.length - 1];
    fit.again();
    tell(focus);
    rows[0][0].element.focus({ preventScroll: true });
  }
  function paint(width) {
    path = path.map((node) => ({ ...node, value: sum(node.all, value) }));
    focus = path[path.length - 1];
    rows = [];
    whole = width;
    explain();
    box.replaceChildren();
    place(focus, 0, width, 0, path, null);
    box.style.height = `${rows.length * ROW}px`;
    rows[0][0].element.tabIndex = 0;
    crumbs.hidden = path.length === 1;
    crumbs.replaceChildren(...path.slice(0, -1).flatMap((node, at) => [
      make("button", { type: "button", click: () => zoom(path.slice(0, at + 1)) }, label(node) || names[0]), " › ",
    ]), path.length > 1 ? make("span", {}, label(focus)) : "");
  }
  function place(node, left, width, depth, trail, above) {
    if (depth >= MOST_ROWS) return;
    const tile = make("button", {
      type: "button", class: `tile ${colour(node)}${width > 26 ? "" : " thin"}`, tabindex: "-1",
      "aria-label": `${label(node)}, ${types[node.at]}, ${amount(node.value, measures[measure].unit)}`,
      click: () => zoom(depth ? trail : path.length > 1 ? path.slice(0, -1) : path),
      pointerenter: () => tell(node), focus: () => tell(node),
    }, width > 26 ? make("span", {}, label(node) || names[0]) : "");
    Object.assign(tile.style, { left: `${100 * left / whole}%`, top: `${depth * ROW}px`, width: `max(1px, ${100 * width / whole}% - 1px)` });
    box.append(tile);
    (rows[depth] = rows[depth] || []).push({ element: tile, above, left });
    const mine = rows[depth][rows[depth].length - 1];
    let x = left;
    for (const child of below(node, width, depth === 0)) {
      const wide = node.value ? width * child.value / node.value : 0;
      if (wide >= THIN / 2) place(child, x, wide, depth + 1, [...trail, child], mine);
      x += wide;
    }
  }
  box.addEventListener("keydown", (event) => {
    const row = rows.findIndex((list) => list.some((each) => each.element === event.target));
    if (row < 0) return;
    const at = rows[row].findIndex((each) => each.element === event.target);
    let next = null;
    if (event.key === "ArrowRight") next = rows[row][at + 1];
    if (event.key === "ArrowLeft") next = rows[row][at - 1];
    if (event.key === "ArrowUp") next = rows[row][at].above;
    if (event.key === "ArrowDown" && rows[row + 1]) next = rows[row + 1].find((each) => each.above === rows[row][at]);
    if (event.key === "Escape" && path.length > 1) { zoom(path.slice(0, -1)); event.preventDefault(); }
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    if (!next) return;
    event.target.tabIndex = -1;
    next.element.tabIndex = 0;
    next.element.focus();
  });
  const fit = fitted(box, paint);
  const folds = make("label", { class: "check" }, make("input", {
    type: "checkbox", checked: true,
    change: (event) => { collapse = event.target.checked; path = path.slice(0, 1); fit.again(); },
  }), "equal neighbours as one");
  folds.hidden = new Set(alike).size === alike.length;
  const bar = make("div", { class: "controls" },
    switches("Measure", measures.map((each) => each.name), measure, (at) => { measure = at; fit.again(); tell(focus); }), folds);
  say(readout, "Point at a module for its numbers.");
  return [bar, legend, box, crumbs, readout];
};
