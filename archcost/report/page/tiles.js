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
  const last = (name) => name.slice(name.lastIndexOf(".") + 1);
  const one = (at) => ({ at, count: 1, value: value(at) });
  /* Several modules as one tile: equal ones, or ones that are too thin to draw. */
  const several = (list, same) => ({
    at: list[0], list, same, count: list.length, value: list.reduce((sum, at) => sum + value(at), 0),
  });
  const label = (node) => {
    if (!node.list) return last(names[node.at]);
    const end = last(names[node.list[node.list.length - 1]]);
    const ends = `${last(names[node.at])}${/^\d+$/.test(end) ? "–" : " … "}${end}`;
    return node.same ? `${ends} ×${node.count}` : ends;
  };
  /* The tiles below a node in a width of so many pixels. */
  function below(node, width, zoomed) {
    if (node.list && !node.same && !zoomed) return [];
    /* Below a tile of equal modules each tile stands for that many, at every level. */
    const opened = node.list && zoomed, times = (node.times || 1) * (node.list && !zoomed ? node.count : 1);
    return grouped(opened ? node.list : children[node.at], node.value / times, width, collapse && !opened)
      .map((tile) => ({ ...tile, value: tile.value * times, times }));
  }
  function grouped(list, whole, width, folds) {
    const scale = whole ? width / whole : 0, tiles = [];
    for (let i = 0; i < list.length;) {
      let end = i + 1;
      if (folds) while (end < list.length && alike[list[end]] === alike[list[i]]) end += 1;
      if (end - i > 1) { tiles.push(several(list.slice(i, end), true)); i = end; continue; }
      if (value(list[i]) * scale >= THIN) { tiles.push(one(list[i])); i += 1; continue; }
      let sum = 0;
      for (end = i; end < list.length && value(list[end]) * scale < THIN && sum * scale < 4 * THIN; end += 1) {
        if (folds && end > i && end + 1 < list.length && alike[list[end]] === alike[list[end + 1]]) break;
        sum += value(list[end]);
      }
      end = Math.max(end, i + 1);
      if (sum) tiles.push(end - i > 1 ? several(list.slice(i, end), false) : one(list[i]));
      i = end;
    }
    return tiles;
  }
  /* Part of a type's name, class of its tiles, its name in the legend. */
  const KINDS = [
    ["conv", "conv", "convolution"], ["norm", "norm", "normalisation"], ["linear", "linear", "linear"],
    ["attention", "mix", "attention"], ["pool", "pool", "pooling"], ["", "other", "other layers"],
  ];
  const kind = (at) => KINDS.find(([part]) => types[at].toLowerCase().includes(part));
  const colour = (node) => (children[node.at].length || (node.list && !node.same) ? "group" : kind(node.at)[1]);
  const leaves = new Set(names.map((_, at) => at).filter((at) => !children[at].length).map(kind));
  const legend = make("p", { class: "legend" }, ...KINDS.filter((each) => leaves.has(each)).flatMap(([, name, text]) => [
    make("span", { class: `swatch ${name}`, "aria-hidden": "true" }), `${text} `,
  ]));

  const box = make("div", { class: "icicle", role: "group", "aria-label": `${picture.title} Arrow keys move, Enter zooms in, Escape zooms out.` });
  const crumbs = make("nav", { class: "crumbs", "aria-label": "Zoomed into" });
  const readout = make("p", { class: "readout", role: "status" });
  const root = one(0);
  let path = [root], rows = [], whole = 1;

  function tell(node) {
    const total = measures[measure].values[0] || 0;
    const own = measures.map((each) => {
      const sum = node.list ? node.list.reduce((n, at) => n + (each.values[at] || 0), 0) : each.values[node.at];
      const all = (sum || 0) * (node.times || 1);
      return `${amount(sum === null ? null : all, each.unit)}${each.unit === "bytes" ? " of activations" : each.unit === "parameters" ? " parameters" : ""}`;
    });
    const share = total ? `, ${percent(node.value / total)} of ${measures[measure].name}` : "";
    const name = node.list ? `${names[node.at]} to ${last(names[node.list[node.list.length - 1]])}, ${node.count} ${node.same ? "equal modules" : "modules"}` : names[node.at];
    const times = (node.times || 1) > 1 ? ` (${node.times} of them, here as one)` : "";
    say(readout, `${name}${times}: ${own.join(", ")}${share}. ${types[node.at]}${details[node.at] ? `(${details[node.at]})` : ""}`);
  }
  function zoom(trail) {
    path = trail;
    focus = path[path.length - 1];
    fit.again();
    tell(focus);
    rows[0][0].element.focus({ preventScroll: true });
  }
  function paint(width) {
    path = path.map((node) => ({ ...node, value: (node.list || [node.at]).reduce((sum, at) => sum + value(at), 0) * (node.times || 1) }));
    focus = path[path.length - 1];
    rows = [];
    whole = width;
    box.replaceChildren();
    place(focus, 0, width, 0, path, null);
    box.style.height = `${rows.length * ROW}px`;
    rows[0][0].element.tabIndex = 0;
    crumbs.replaceChildren(...path.slice(0, -1).flatMap((node, at) => [
      make("button", { type: "button", click: () => zoom(path.slice(0, at + 1)) }, label(node) || names[0]), " › ",
    ]), path.length > 1 ? make("span", {}, label(focus)) : "");
  }
  function place(node, left, width, depth, trail, above) {
    if (depth >= MOST_ROWS) return;
    const tile = make("button", {
      type: "button", class: `tile ${colour(node)}`, tabindex: "-1",
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
  return [bar, crumbs, box, legend, readout];
};
