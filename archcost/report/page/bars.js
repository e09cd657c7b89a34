/* Before and after, item by item; and the things compared under a chosen item. */
const FEW_BARS = 12;
function bar(share, side) {
  const inside = make("span", { class: `bar ${side}` });
  inside.style.width = share > 0 ? `max(2px, ${100 * Math.min(share, 1)}%)` : "0";
  return make("span", { class: "track", "aria-hidden": "true" }, inside);
}
DRAW.pairs = (picture) => {
  const { names, remarks, before, after, sides } = picture;
  let measure = 0, all = false;
  const list = make("ol", { class: "pairs" });
  const more = make("button", { type: "button", click: () => { all = true; paint(); } });
  function paint() {
    const a = before[measure], b = after[measure];
    const order = names.map((_, at) => at).filter((at) => (a.values[at] || 0) !== (b.values[at] || 0));
    order.sort((x, y) => Math.abs((b.values[y] || 0) - (a.values[y] || 0)) - Math.abs((b.values[x] || 0) - (a.values[x] || 0)));
    let most = 0;
    for (const at of order) most = Math.max(most, a.values[at] || 0, b.values[at] || 0);
    const part = all ? order : order.slice(0, FEW_BARS);
    list.replaceChildren(...part.map((at) => {
      const x = a.values[at], y = b.values[at];
      const ratio = !x || !y ? "" : a.unit === "ms" ? `, ${amount(x / y, "x")} as fast` : `, ${amount(y / x, "x")}`;
      return make("li", {}, make("span", { class: "name" }, soft(names[at]), remarks[at] ? make("small", {}, " ", soft(remarks[at])) : ""),
        make("span", { class: "values" }, `${x === null ? "-" : amount(x, a.unit)} → ${y === null ? "-" : amount(y, b.unit)}${ratio}`),
        bar((x || 0) / most, "a"), bar((y || 0) / most, "b"));
    }));
    const same = names.length - order.length;
    if (!part.length) list.replaceChildren(make("li", {}, `nothing differs in ${before[measure].name}`));
    else if (same && part.length === order.length) list.append(make("li", {}, make("small", {}, `${same} ${same > 1 ? "others do" : "other does"} not differ in ${before[measure].name}`)));
    more.hidden = part.length === order.length;
    say(more, `show all ${order.length}`);
  }
  paint();
  const key = make("ul", { class: "key" }, sides.map((side, at) => make("li", {}, make("span", { class: `swatch ${"ab"[at]}`, "aria-hidden": "true" }), make("span", {}, soft(side)))));
  return [make("div", { class: "controls" }, switches("Measure", before.map((one) => one.name), 0, (at) => { measure = at; paint(); }), key), list, more];
};
DRAW.choices = (picture) => {
  const { items, groups, bars: all, measures } = picture;
  const list = make("ol", { class: "pairs" });
  let measure = 0, item = 0, every = false;
  const more = make("button", { type: "button", click: () => { every = true; paint(); } });
  const select = make("select", { "aria-label": picture.label, change: () => { item = select.selectedIndex; every = false; paint(); } }, items.map((name) => make("option", {}, name)));
  function paint() {
    const found = [...all[groups[item]]].sort((x, y) => (x[1][measure] ?? Infinity) - (y[1][measure] ?? Infinity));
    const part = found.filter(([name], at) => every || at < FEW_BARS || picture.kept.includes(name));
    const most = Math.max(...part.map((one) => one[1][measure] || 0), 1e-12);
    more.hidden = part.length === found.length;
    say(more, `show all ${found.length}`);
    list.replaceChildren(...part.map(([name, values, remark]) => make("li", {}, make("span", { class: "name" }, name, remark ? make("small", {}, ` ${remark}`) : ""),
      make("span", { class: "values" }, values.map((value, at) => (value === null ? "-" : amount(value, measures[at][1]))).join(", ")),
      bar((values[measure] || 0) / most, "b"))));
  }
  paint();
  return [make("div", { class: "controls" }, make("label", {}, `${picture.label} `, select), switches("Measure", measures.map((one) => one[0]), 0, (at) => { measure = at; paint(); })), list, more];
};
