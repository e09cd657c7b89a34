/* A table: a tree that expands, or a list that is sorted and filtered; columns to choose; copied as text. */
function listed(table) {
  const { columns, rows, levels } = table;
  const BATCH = 100, FEW = 40;
  const shown = new Set(columns.filter((one) => one.shown).map((one) => one.name));
  let sort = null, down = true, filter = "", drawn = 0, order = [];
  const text = (column, row) => column.texts[column.at ? column.at[row] : row];
  const value = (column, row) => column.values[column.at ? column.at[row] : row];
  const isParent = (row) => levels !== null && row + 1 < rows && levels[row + 1] > levels[row];
  /* Rows whose children are hidden: all below the deepest level at which the rows are still few. */
  const closed = new Set();
  function close(level) {
    closed.clear();
    for (let row = 0; row < rows; row += 1) if (isParent(row) && levels[row] >= level) closed.add(row);
  }
  if (levels) {
    let deep = 1;
    while (deep < 30 && levels.filter((level) => level <= deep + 1).length <= FEW) deep += 1;
    close(deep);
  }
  const isTree = () => levels !== null && sort === null && !filter;
  const seen = () => columns.filter((one) => shown.has(one.name));

  function ordered() {
    const found = [];
    if (isTree()) {
      for (let row = 0; row < rows; row += 1) {
        found.push(row);
        if (closed.has(row)) while (row + 1 < rows && levels[row + 1] > levels[found[found.length - 1]]) row += 1;
      }
      return found;
    }
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const searched = columns.filter((one) => !one.values || shown.has(one.name));
    for (let row = 0; row < rows; row += 1) {
      if (levels && isParent(row) && !words.length) continue;
      if (words.every((word) => searched.some((one) => text(one, row).toLowerCase().includes(word)))) found.push(row);
    }
    if (sort !== null) {
      const column = columns[sort], key = column.values ? value : text, sign = down ? -1 : 1;
      found.sort((a, b) => {
        const x = key(column, a), y = key(column, b);
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return (x < y ? -sign : x > y ? sign : 0) || a - b;
      });
    }
    return found;
  }

  const head = make("tr", {}), body = make("tbody", {});
  const status = make("p", { class: "readout", role: "status" });
  const more = make("button", { type: "button", click: () => append() }, "more rows");
  function paint() {
    head.replaceChildren(...seen().map((column) => {
      const at = columns.indexOf(column), isSorted = at === sort;
      return make("th", { scope: "col", class: column.right ? "right" : null, "aria-sort": isSorted ? (down ? "descending" : "ascending") : null },
        make("button", { type: "button", title: column.about, click: () => press(at) }, `${column.head}${isSorted ? (down ? " ▼" : " ▲") : ""}`));
    }));
    order = ordered();
    drawn = 0;
    body.replaceChildren();
    append();
    const what = isTree() ? "rows of the tree are open" : levels && !filter ? "layers" : order.length === 1 ? "row" : "rows";
    say(status, `${order.length} ${what}${isTree() ? `, ${rows} modules in all; sort or filter for a list of layers` : filter ? ` of ${rows}` : ""}`);
  }
  function press(at) {
    const first = Boolean(columns[at].values);
    if (sort !== at) { sort = at; down = first; } else if (down === first) down = !first; else sort = null;
    const label = columns[at].name;
    paint();
    const place = seen().findIndex((one) => one.name === label);
    head.children[place].firstChild.focus({ preventScroll: true });
  }
  function append() {
    const list = seen(), part = document.createDocumentFragment();
    for (const row of order.slice(drawn, drawn + BATCH)) part.append(line(row, list));
    body.append(part);
    drawn = Math.min(drawn + BATCH, order.length);
    more.hidden = drawn >= order.length;
  }
  function line(row, list) {
    return make("tr", { class: levels && levels[row] === 0 ? "total" : null }, list.map((column, at) => {
      if (at) return make("td", { class: column.right ? "right" : "text" }, column.right ? text(column, row) : soft(text(column, row)));
      const name = text(column, row) || "(the model)", cell = make("th", { scope: "row", title: name });
      if (!isTree()) { cell.append(...soft(name)); return cell; }
      cell.style.setProperty("--level", levels[row]);
      const last = levels[row] ? name.slice(name.lastIndexOf(".") + 1) : name;
      if (!isParent(row)) { cell.append(make("span", { class: "leaf" }, soft(last))); return cell; }
      const button = make("button", { type: "button", class: "fold", "aria-expanded": String(!closed.has(row)), click: () => fold(row) }, soft(last));
      cell.append(button);
      return cell;
    }));
  }
  function fold(row) {
    if (!closed.delete(row)) closed.add(row);
    const before = drawn;
    paint();
    while (drawn < Math.min(before, order.length)) append();
    const at = order.indexOf(row);
    if (body.children[at]) body.children[at].querySelector("button").focus({ preventScroll: true });
  }

  /* The rows as they are shown, all of them. */
  const cells = (form) => [seen().map((one) => form(one.head, null)), ...order.map((row) => seen().map((one, at) => {
    const said = text(one, row) || (at ? "" : "(the model)");
    return form(said, one.values ? value(one, row) : null);
  }))];
  function markdown() {
    const lines = cells((said) => said.replace(/[\\|<`*_[\]]/g, "\\$&").replace(/\s/g, " "));
    const rule = seen().map((one) => (one.right ? "---:" : "---"));
    return [lines[0], rule, ...lines.slice(1)].map((line) => `| ${line.join(" | ")} |`).join("\n") + "\n";
  }
  function csv() {
    const lines = cells((said, number) => {
      if (number !== null) return String(number);
      const safe = /^\s*[=+\-@]/.test(said) ? `'${said}` : said;
      return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
    });
    return lines.map((line) => line.join(",")).join("\n") + "\n";
  }
  const copies = (label, form) => make("button", { type: "button", click: async () => {
    const made = form();
    say(status, (await copied(made)) ? `${order.length} rows copied` : "the browser refuses to copy");
  } }, label);

  const chooser = make("details", { class: "columns" }, make("summary", {}, "Columns"), make("div", {}, columns.slice(1).map((column) => make("label", { class: "check", title: column.about },
    make("input", { type: "checkbox", checked: column.shown, change: (event) => {
      if (event.target.checked) shown.add(column.name); else shown.delete(column.name);
      paint();
    } }), column.head))));
  const search = make("input", { type: "search", "aria-label": `Filter ${table.name}`, placeholder: levels ? "filter: conv 3x3" : "filter", input: (event) => { filter = event.target.value.trim(); paint(); } });
  const bar = make("div", { class: "controls" }, search,
    levels ? make("button", { type: "button", click: () => { close(Infinity); paint(); } }, "open all") : null,
    levels ? make("button", { type: "button", click: () => { close(1); paint(); } }, "close all") : null,
    copies("copy as markdown", markdown), copies("copy as CSV", csv), chooser);
  paint();
  const box = make("div", { class: "scroll rows", tabindex: "0", role: "region", "aria-label": `Table of ${table.name}` },
    make("table", {}, make("thead", {}, head), body), more);
  const near = { root: box, rootMargin: "400px" };
  new IntersectionObserver(([end]) => { if (end.isIntersecting && !more.hidden) append(); }, near).observe(more);
  return [bar, scrolling(box), status];
}
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
