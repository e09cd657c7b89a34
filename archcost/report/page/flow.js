/* The operations of a module in order, one a row, with lines from each to those that read its output. */
DRAW.flow = (picture) => {
  const { operations, modules, shapes, fed_by: fedBy, names, first, end } = picture;
  const ROW = 24, LANE = 12, MOST = 400;
  const size = (at) => end[at] - first[at];
  /* An operation that reads nothing and that nobody reads, such as an empty tensor of batch statistics. */
  const isRead = new Set(fedBy.flat());
  const isIdle = (at) => !fedBy[at].length && !isRead.has(at);
  /* At first: the smallest module that joins branches, since that shows where a residual joins. */
  function joins(at) {
    for (let i = first[at]; i < end[at]; i += 1) if (fedBy[i].length > 1) return true;
    return false;
  }
  let chosen = 0;
  names.forEach((_, at) => { if (size(at) > 2 && joins(at) && (chosen === 0 || size(at) < size(chosen))) chosen = at; });
  const select = make("select", { "aria-label": "Module", change: () => { chosen = select.selectedIndex; paint(); } },
    names.map((name, at) => make("option", {}, `${name} (${size(at)})`)));
  select.selectedIndex = chosen;
  const box = make("div", { class: "flow scroll", tabindex: "0", role: "region", "aria-label": "Data flow" });
  const note = make("p", { class: "readout" });

  function rows() {
    const inside = [], outside = new Set();
    for (let at = first[chosen]; at < end[chosen] && inside.length < MOST; at += 1) {
      if (isIdle(at)) continue;
      inside.push(at);
      for (const source of fedBy[at]) if (source < first[chosen]) outside.add(source);
    }
    return [[...outside].sort((a, b) => a - b), inside];
  }
  function paint() {
    const [outside, inside] = rows(), list = [...outside, ...inside];
    const place = new Map(list.map((at, row) => [at, row]));
    const spans = [], steps = [];
    list.forEach((at, row) => {
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
    const width = 20 + LANE * (ends.length + 1), height = list.length * ROW, x = width - 10;
    const y = (row) => row * ROW + ROW / 2;
    const image = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const row of steps) image.append(draw("path", { class: "edge", d: `M${x},${y(row - 1)}V${y(row)}` }));
    for (const { source, row, lane } of spans) {
      const left = x - LANE * (lane + 1), a = y(source), b = y(row), bend = ROW / 2;
      image.append(draw("path", { class: "edge skip", d: `M${x},${a}Q${left},${a} ${left},${a + bend}V${b - bend}Q${left},${b} ${x},${b}` }));
    }
    list.forEach((at, row) => {
      const kind = row < outside.length ? "source" : fedBy[at].length > 1 ? "join" : "node";
      image.append(draw("circle", { class: kind, cx: x, cy: y(row), r: kind === "join" ? 5.5 : 4 }));
    });
    const whole = names[chosen];
    const words = (at) => {
      const name = names[modules[at]];
      const inner = name.startsWith(`${whole}.`) ? name.slice(whole.length + 1) : name === whole ? "" : name;
      return `${operations[at]}${inner && ` of ${inner}`}`;
    };
    box.replaceChildren(image, make("ol", {}, list.map((at, row) => {
      const from = row < outside.length ? [] : fedBy[at].filter((source) => place.get(source) !== row - 1 || fedBy[at].length > 1);
      const reads = from.length ? `reads ${from.map(words).join(" and ")}` : "";
      return make("li", {}, row < outside.length ? "from outside: " : "", make("b", {}, operations[at]),
        words(at).slice(operations[at].length), make("small", {}, ` ${shapes[at]} ${reads}`));
    })));
    const last = inside[inside.length - 1];
    say(note, inside.length === MOST ? `The operations after number ${last + 1} are not drawn; choose a smaller module.` : "");
  }
  paint();
  return [make("div", { class: "controls" }, make("label", {}, "Module ", select)), box, note];
};
