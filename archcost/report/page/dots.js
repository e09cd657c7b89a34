/* Dots on logarithmic axes, with a colour and a shape for each group: a roofline, or joined as curves. */
DRAW.dots = (picture) => {
  const { names, groups, x: xs, y: ys, texts, slope, ceiling, steeper, joined } = picture;
  const HEIGHT = 300, LEFT = 64, RIGHT = 14, TOP = 14, BOTTOM = 40;
  const kinds = [...new Set(groups)];
  const image = draw("svg", { "aria-hidden": "true", focusable: "false" });
  const slider = make("div", { class: "chart", role: "slider", tabindex: "0", "aria-label": picture.title, "aria-valuemin": 1, "aria-valuemax": names.length }, image);
  const readout = make("p", { class: "readout" });
  const order = xs.map((_, at) => at).sort((a, b) => xs[a] - xs[b]);
  let place = 0, marks = [];
  const text = (at) => `${names[at]} by ${groups[at]}: ${texts[at]}`;
  function point(to) {
    marks.forEach((one) => one.classList.remove("chosen"));
    place = clamp(to, 0, names.length - 1);
    const at = order[place];
    if (marks[at]) { marks[at].classList.add("chosen"); marks[at].parentNode.append(marks[at]); }
    slider.setAttribute("aria-valuenow", place + 1);
    slider.setAttribute("aria-valuetext", text(at));
    say(readout, text(at));
  }
  let spots = [];
  function paint(width) {
    const inner = width - LEFT - RIGHT, slopes = slope === null ? [] : [...steeper, slope];
    const margin = slopes.length ? 1.3 : 1.1;
    const low = Math.min(...xs, ...slopes.map((one) => ceiling / one / (one === slope ? 3 : 1.5))) / margin;
    const high = Math.max(...xs, ...slopes.slice(-1).map((one) => 3 * ceiling / one)) * margin;
    const least = Math.min(...ys, ...slopes.slice(-1).map((one) => one * low * margin)) / 1.5, most = Math.max(ceiling || 0, ...ys) * 1.6;
    const log = (value, from, to) => Math.log(value / from) / Math.log(to / from);
    const sx = (value) => LEFT + inner * log(value, low, high);
    const sy = (value) => TOP + HEIGHT * (1 - log(value, least, most));
    const height = TOP + HEIGHT + BOTTOM;
    filled(image, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
    image.replaceChildren();
    for (const tick of powers(least, most)) image.append(draw("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: sy(tick), y2: sy(tick) }), draw("text", { x: LEFT - 6, y: sy(tick) + 4, "text-anchor": "end" }, tickText(tick, "")));
    for (const tick of powers(low, high)) image.append(draw("line", { class: "rule", x1: sx(tick), x2: sx(tick), y1: TOP, y2: TOP + HEIGHT }), draw("text", { x: sx(tick), y: TOP + HEIGHT + 16, "text-anchor": "middle" }, String(tick)));
    image.append(draw("text", { x: LEFT + inner / 2, y: height - 6, "text-anchor": "middle" }, picture.x_label), draw("text", { x: 2, y: TOP - 3 }, picture.y_label));
    for (const one of slopes) {
      const from = Math.max(low, least / one), to = ceiling / one, level = one === slope ? `H${width - RIGHT}` : "";
      if (to > from) image.append(draw("path", { class: level ? "roof" : "roof thin", d: `M${sx(from)},${sy(one * from)}L${sx(to)},${sy(ceiling)}${level}` }));
    }
    if (joined) for (const kind of kinds) {
      const places = order.filter((at) => groups[at] === kind).map((at) => `${sx(xs[at])},${sy(ys[at])}`);
      image.append(draw("path", { class: `curve c${kinds.indexOf(kind) % 6}`, d: `M${places.join("L")}` }));
    }
    marks = names.map((name, at) => draw("path", { class: `dot k${kinds.indexOf(groups[at]) % 6}`, d: shape(kinds.indexOf(groups[at])), transform: `translate(${sx(xs[at])},${sy(ys[at])})` }));
    spots = names.map((_, at) => [sx(xs[at]), sy(ys[at])]);
    image.append(draw("g", {}, marks));
  }
  function powers(from, to) {
    const found = [];
    const steps = to / from < 300 ? [1, 2, 5] : [1];
    for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power += 1) {
      for (const step of steps) found.push(+(step * 10 ** power).toPrecision(3));
    }
    return found.filter((one) => one >= from && one <= to);
  }
  fitted(slider, paint);
  slider.addEventListener("pointermove", (event) => {
    const box = slider.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let near = 0, best = Infinity;
    spots.forEach(([a, b], at) => { const far = (a - x) ** 2 + (b - y) ** 2; if (far < best) { best = far; near = at; } });
    if (best < 900) point(order.indexOf(near));
  });
  slider.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -names.length, End: names.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    point(place + steps[event.key]);
  });
  slider.setAttribute("aria-valuenow", 1);
  slider.setAttribute("aria-valuetext", text(order[0]));
  say(readout, "Point at a dot, or move with the arrow keys.");
  const key = make("ul", { class: "key" }, kinds.map((kind, at) => make("li", {}, draw("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, draw("path", { class: `dot k${at % 6}`, d: shape(at) })), kind)));
  return [slider, readout, key];
};
function shape(at) {
  return ["M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z", "M-4.5,-4.5H4.5V4.5H-4.5Z", "M0,-6L5.5,4.5H-5.5Z", "M0,-6L6,0L0,6L-6,0Z", "M0,6L5.5,-4.5H-5.5Z", "M-5,-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z"][Math.max(at, 0) % 6];
}
