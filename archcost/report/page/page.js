/* The page itself: what is at the top, then the pictures and tables, the notes last. */
const root = document.documentElement;
function theme() {
  const names = ["system", "light", "dark"], dark = matchMedia("(prefers-color-scheme: dark)");
  let kept = "system";
  try { kept = localStorage.getItem("archcost-theme") || kept; } catch { /* a page from disk may have no storage */ }
  const paint = () => root.setAttribute("data-theme", kept === "system" ? (dark.matches ? "dark" : "light") : kept);
  const use = (name) => {
    kept = name;
    paint();
    try { localStorage.setItem("archcost-theme", name); } catch { /* as above */ }
  };
  if (!names.includes(kept)) kept = "system";
  paint();
  dark.addEventListener("change", paint);
  return switches("Colours", names, names.indexOf(kept), (chosen) => use(names[chosen]));
}
/* A number stays with its unit, and a unit in one piece. */
function joined(text) { return text.replace(/(\d) (?=[kMGTPE]?B?\b)/g, "$1\u00a0").replace(/\//g, "/\u2060"); }
let sections = 0;
function section(title, about, ...inside) {
  sections += 1;
  const id = `section-${sections}`;
  return make("section", { "aria-labelledby": id }, make("h2", { id }, title), about ? make("p", { class: "about" }, soft(about)) : null, inside);
}
function points(title, list) {
  if (!list.length) return null;
  /* Those with a share are ranked and have numbers; what follows them has not. */
  const item = (one) => make("li", {}, make("b", {}, soft(one.head)), make("span", {}, soft(one.text)), one.command ? make("code", { class: "command" }, one.command.split(" ").flatMap((word, at) => [at ? " " : "", make("span", { class: "whole" }, word)])) : null, one.share === null ? null : bar(one.share, "b"));
  const part = (tag, of) => (of.length ? make(tag, {}, of.map(item)) : null);
  return make("section", { class: "points" }, make("h2", {}, title), part("ol", list.filter((one) => one.share !== null)), part("ul", list.filter((one) => one.share === null)));
}
/* A further table, made when it is opened. */
function unfolded(table) {
  const box = make("details", { toggle: () => { if (box.open && box.children.length === 1) box.append(...listed(table).filter(Boolean)); } },
    make("summary", {}, `Show the ${table.rows} rows`));
  return box;
}
function start() {
  const [first, ...others] = DATA.headings;
  const heading = make("header", {}, make("div", {}, make("h1", {}, soft(first ? first[0] : DATA.schema)),
    first && first[1] ? make("p", {}, first[1]) : null, others.map(([name, rest]) => make("p", { class: "second" }, make("b", {}, soft(name)), ` ${rest}`))), theme());
  const parts = [heading];
  if (DATA.warnings.length) parts.push(make("div", { class: "warning", role: "note" }, DATA.warnings.map((line) => make("p", {}, soft(line)))));
  if (DATA.facts.length) parts.push(make("dl", { class: "facts" }, DATA.facts.map((fact) => make("div", { class: fact.remark.length > 70 ? "wide" : null }, make("dt", {}, fact.name), make("dd", {}, joined(fact.text), fact.remark ? make("small", {}, soft(fact.remark)) : null)))));
  for (const line of DATA.lines) parts.push(make("p", {}, soft(line)));
  const top = [points(DATA.costly_title, DATA.costly), points("What to do about it", DATA.advice)].filter(Boolean);
  if (top.length) parts.push(make("div", { class: "top" }, top));
  document.getElementById("page").replaceChildren(...parts);
  /* What is below the first screen is drawn after it. */
  const rest = [];
  for (const picture of DATA.pictures) if (DRAW[picture.kind]) rest.push(() => section(picture.title, picture.about, DRAW[picture.kind](picture)));
  DATA.tables.filter((table) => table.rows).forEach((table, at) => rest.push(() => section(`All ${table.name}`, table.title, at ? unfolded(table) : listed(table))));
  const said = (list) => make("dl", { class: "notes" }, list.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, soft(text)))));
  const more = DATA.footnotes.length ? make("details", {}, make("summary", {}, `${DATA.footnotes.length} more: units, and what was left as it is`), said(DATA.footnotes)) : null;
  if (DATA.notes.length || more) rest.push(() => section("Notes", "", said(DATA.notes), more));
  const saved = document.getElementById("archcost-saved").textContent ? ["The result is inside this file: ", make("code", {}, "archcost.load_result(path)"), " reads it. "] : "";
  rest.push(() => make("footer", {}, make("p", {}, `Made by archcost ${DATA.archcost} with torch ${DATA.torch}, Apache-2.0. `, saved, "Nothing on this page comes from the network.")));
  for (const one of rest) document.getElementById("page").append(one());
  root.setAttribute("data-ready", "");
}
start();
})();
