/* Values along an order as steps, with a cursor that arrow keys and the pointer move. */
DRAW.along = (picture) => {
  const { items, measures, spans } = picture;
  const HEIGHT = 200, LEFT = 58, RIGHT = 12, TOP = 20, BOTTOM = 24, LANE = 9;
  const marks = picture.marks;
  let measure = 0, cursor = marks.length ? marks[0] : -1;
  const count = items.length;
  const image = draw("svg", { "aria-hidden": "true", focusable: "false" });
  const slider = make("div", {
    class: "chart", role: "slider", tabindex: "0", "aria-label": picture.title,
    "aria-valuemin": 1, "aria-valuemax": count,
  }, image);
  const readout = make("p", { class: "readout" });
  let scale = null, line = null, moved = false;

  const text = (at) => `${at + 1} of ${count}: ${items[at]}, ${amount(measures[measure].values[at], measures[measure].unit)}`;
  function point(at) {
    cursor = clamp(at, 0, count - 1);
    moved = true;
    slider.setAttribute("aria-valuenow", cursor + 1);
    slider.setAttribute("aria-valuetext", text(cursor));
    say(readout, text(cursor));
    if (line && scale) {
      const x = scale(cursor + 0.5);
      line.setAttribute("x1", x); line.setAttribute("x2", x);
      line.setAttribute("visibility", "visible");
    }
  }
  function paint(width) {
    const { values, unit } = measures[measure];
    const lanes = measure === 0 ? spans.length : 0;
    const height = TOP + HEIGHT + BOTTOM + (lanes ? lanes * LANE + 6 : 0);
    const inner = width - LEFT - RIGHT;
    let most = 0;
    for (const value of values) most = Math.max(most, value || 0);
    const level = picture.level !== null && measure === 0 && picture.level <= 4 * most ? picture.level : null;
    most = Math.max(most, level || 0) || 1;
    scale = (at) => LEFT + inner * at / count;
    const y = (value) => TOP + HEIGHT * (1 - value / most);
    filled(image, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
    image.replaceChildren();
    for (const tick of ticks(most, 4)) {
      image.append(
        draw("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
        draw("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick, unit === "MACs" || unit === "pixels" ? "" : unit)),
      );
    }
    /* Few items are named below their steps, others counted. */
    const space = inner / count, isNamed = items.every((one) => one.length * 6.5 < space - 6);
    if (isNamed) items.forEach((one, at) => image.append(draw("text", { x: scale(at + 0.5), y: TOP + HEIGHT + 16, "text-anchor": "middle" }, one)));
    else for (const tick of ticks(count, width > 700 ? 8 : 4)) {
      if (tick && tick === Math.round(tick)) image.append(draw("text", { x: scale(tick), y: TOP + HEIGHT + 16, "text-anchor": tick > 0.95 * count ? "end" : "middle" }, String(tick)));
    }
    let area = `M${LEFT},${y(0)}`;
    values.forEach((value, at) => { area += `V${y(value || 0).toFixed(1)}H${scale(at + 1).toFixed(2)}`; });
    image.append(draw("path", { class: "area", d: `${area}V${y(0)}Z` }));
    if (level !== null) {
      image.append(
        draw("line", { class: "level", x1: LEFT, x2: width - RIGHT, y1: y(level), y2: y(level) }),
        draw("text", { class: "strong", x: LEFT + 4, y: y(level) - 5 }, picture.level_text),
      );
    }
    if (marks.length && measure === 0) {
      const x = scale(marks[0] + 0.5), right = x > width / 2;
      for (const at of marks) image.append(draw("circle", { class: "mark", cx: scale(at + 0.5), cy: y(values[at] || 0), r: at === marks[0] ? 4 : 3 }));
      image.append(draw("text", { class: "strong", x: right ? Math.min(x + 6, width - RIGHT) : Math.max(x - 6, LEFT), y: TOP - 8, "text-anchor": right ? "end" : "start" }, `peak ${amount(values[marks[0]], unit)}`));
    }
    spans.slice(0, lanes).forEach((span, lane) => {
      const top = TOP + HEIGHT + BOTTOM + lane * LANE;
      image.append(draw("rect", {
        class: "span", x: scale(span.first), y: top, height: LANE - 2,
        width: Math.max(scale(span.last + 1) - scale(span.first), 2),
      }));
    });
    line = draw("line", { class: "cursor", y1: TOP, y2: height - (lanes ? 0 : BOTTOM), visibility: "hidden" });
    image.append(line);
    if (moved) point(cursor);
  }
  const fit = fitted(slider, paint);
  slider.addEventListener("pointermove", (event) => {
    const x = event.clientX - slider.getBoundingClientRect().left;
    point(Math.floor((x - LEFT) / (slider.clientWidth - LEFT - RIGHT) * count));
  });
  slider.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(count / 10));
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: far, PageDown: -far, Home: -count, End: count };
    if (!(event.key in steps)) return;
    event.preventDefault();
    point(cursor + steps[event.key]);
  });
  const first = cursor < 0 ? 0 : cursor;
  slider.setAttribute("aria-valuenow", first + 1);
  slider.setAttribute("aria-valuetext", text(first));
  say(readout, marks.length ? picture.mark_text : "Point at the picture, or move with the arrow keys.");
  const bar = switches("Measure", measures.map((each) => each.name), 0, (at) => { measure = at; fit.again(); });
  const listed = spans.length ? make("details", { open: true }, make("summary", {}, picture.spans_title),
    make("ol", { class: "spans" }, spans.map((span) => make("li", {}, make("b", {}, amount(span.amount, picture.spans_unit)),
      " ", soft(`${span.name}, from operation ${span.first + 1} to ${span.last + 1}`))))) : null;
  return [bar && make("div", { class: "controls" }, bar), slider, readout, listed];
};
