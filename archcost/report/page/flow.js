/* The operations of a module in order, one a row, with lines from each to those that read its output.
   Views of a tensor feed nobody, since what reads them reads the tensor: they are left out at first. */
DRAW.flow = (picture) => {
  const { operations, modules, shapes, fed_by: fedBy, views, names, first, end } = picture;
  const LANE = 12, MOST = 400;
  const size = (at) => end[at] - first[at];
  /* An operation that reads nothing and that nobody reads, such as an empty tensor of batch statistics. */
  const isRead = new Set(fedBy.flat());
  const isIdle = (at) => !fedBy[at].length && !isRead.has(at);
  /* At first: the smallest module that joins branches, since that shows where a residual joins. */
  function joins(at) {
    for (let i = first[at]; i < end[at]; i += 1) if (fedBy[i].length > 1) return true;
    return false;
  }
  let chosen = 0, withViews = false;
  names.forEach((_, at) => { if (size(at) > 2 && joins(at) && (chosen === 0 || size(at) < size(chosen))) chosen = at; });
  const select = make("select", { "aria-label": "Module", change: () => { chosen = select.selectedIndex; fit.again(); } },
    names.map((name, at) => make("option", {}, `${name} (${size(at)})`)));
  select.selectedIndex = chosen;
  const image = draw("svg", { "aria-hidden": "true" }), list = make("ol", {});
  const box = make("div", { class: "flow scroll", tabindex: "0", role: "region", "aria-label": "Data flow" }, image, list);
  const note = make("p", { class: "readout" });

  function rows() {
    const inside = [], outside = new Set();
    for (let at = first[chosen]; at < end[chosen] && inside.length < MOST; at += 1) {
      if (isIdle(at) || (views[at] && !withViews)) continue;
      inside.push(at);
      for (const source of fedBy[at]) if (source < first[chosen]) outside.add(source);
    }
    return [[...outside].sort((a, b) => a - b), inside];
  }
  /* A row is as high as its text needs, which breaks where the screen is narrow. */
  function paint(whole) {
    const [outside, inside] = rows(), drawn = [...outside, ...inside];
    const place = new Map(drawn.map((at, row) => [at, row]));
    const spans = [], steps = [];
    drawn.forEach((at, row) => {
      if (row < outside.length) return;
      for (const from of fedBy[at]) {
        const source = place.get(from);
        if (source === row - 1) steps.push(row); else if (source !== undefined) spans.push({ source, row });
      }
    });
    /* Lines that skip rows run in the first lane that is free. */
    const ends = [];
    spans.sort((a, b) => a.source - b.source || b.row - a.row);
    for (const span of spans) {
      let lane = ends.findIndex((last) => last <= span.source);
      if (lane < 0) lane = ends.length;
      ends[lane] = span.row;
      span.lane = lane;
    }
    const lane = Math.min(LANE, 0.25 * whole / (ends.length + 1));
    const width = 20 + lane * (ends.length + 1), x = width - 10;
    write(outside, drawn, place);
    list.style.width = `${Math.max(whole - width - 26, 120)}px`;
    filled(image, { width, height: 0 }, []);
    const tops = [...list.children].map((one) => one.offsetTop), height = list.offsetHeight;
    const y = (row) => tops[row] + 12;
    filled(image, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
    image.replaceChildren();
    for (const row of steps) image.append(draw("path", { class: "edge", d: `M${x},${y(row - 1)}V${y(row)}` }));
    for (const span of spans) {
      const left = x - lane * (span.lane + 1), a = y(span.source), b = y(span.row), bend = 12;
      image.append(draw("path", { class: "edge skip", d: `M${x},${a}Q${left},${a} ${left},${a + bend}V${b - bend}Q${left},${b} ${x},${b}` }));
    }
    drawn.forEach((at, row) => {
      const kind = row < outside.length ? "source" : fedBy[at].length > 1 ? "join" : "node";
      image.append(draw("circle", { class: kind, cx: x, cy: y(row), r: kind === "join" ? 5.5 : 4 }));
    });
    const last = inside[inside.length - 1];
    note.hidden = inside.length < MOST;
    say(note, `The operations after number ${last + 1} are not drawn; choose a smaller module.`);
  }
  function write(outside, drawn, place) {
    const module = names[chosen];
    const words = (at) => {
      const name = names[modules[at]];
      const inner = name.startsWith(`${module}.`) ? name.slice(module.length + 1) : name === module ? "" : name;
      return `${operations[at]}${inner && ` of ${inner}`}`;
    };
    list.replaceChildren(...drawn.map((at, row) => {
      const from = row < outside.length ? [] : fedBy[at].filter((source) => place.get(source) !== row - 1 || fedBy[at].length > 1);
      const reads = from.length ? `reads ${from.map(words).join(" and ")}` : "";
      return make("li", {}, row < outside.length ? "from outside: " : "", make("b", {}, soft(operations[at])),
        soft(words(at).slice(operations[at].length)), make("small", {}, soft(` ${shapes[at]} ${reads}`)));
    }));
  }
  const fit = fitted(box, paint);
  const shown = make("label", { class: "check" }, make("input", { type: "checkbox", change: (event) => { withViews = event.target.checked; fit.again(); } }), "with views (transpose, reshape ...)");
  shown.hidden = !views.includes(1);
  return [make("div", { class: "controls" }, make("label", {}, "Module ", select), shown), scrolling(box), note];
};
