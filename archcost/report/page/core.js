"use strict";
/* archcost's page, Apache-2.0, without a library. Every text from the data becomes a text node. */
(() => {
const DATA = JSON.parse(document.getElementById("archcost-page").textContent);
const DRAW = {};

/* An element: attributes by name, functions as listeners, children as nodes or text. */
function make(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}
function draw(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined));
  return element;
}

/* A number with three digits and an SI prefix, as archcost writes it elsewhere. */
function amount(value, unit) {
  if (value === null || value === undefined) return unit === "ms" ? "not measured" : "not known";
  if (unit === "ms") return `${value < 100 ? value.toFixed(3) : Math.round(value)} ms`;
  if (unit === "pixels") return `${value.toLocaleString("en")} pixels`;
  if (unit === "x") return `${value.toFixed(2)}x`;
  const word = unit === "bytes" ? "B" : unit === "parameters" ? "" : ` ${unit}`;
  let power = 0, left = Math.abs(value);
  while (left >= 999.5 && power < 6) { left /= 1000; power += 1; }
  const digits = power ? left.toPrecision(3) : String(+left.toPrecision(4));
  return `${value < 0 ? "-" : ""}${digits} ${["", ..."kMGTPE"][power]}${word}`.replace("  ", " ").trimEnd();
}
/* The same for an axis, without zeros at the end. */
function tickText(value, unit) { return amount(value, unit).replace(/^-?\d+\.\d+/, (number) => String(+number)); }
function percent(share) {
  return share === 0 ? "0 %" : share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`;
}

/* Buttons of which one is pressed. */
function switches(label, names, chosen, choose) {
  const buttons = names.map((name, at) => make("button", {
    type: "button", "aria-pressed": String(at === chosen),
    click: () => {
      buttons.forEach((one, i) => one.setAttribute("aria-pressed", String(i === at)));
      choose(at);
    },
  }, name));
  return names.length > 1 ? make("div", { class: "switches", role: "group", "aria-label": label }, buttons) : null;
}

/* Calls `paint(width)` now, when the width changes, and never twice for the same. */
function fitted(element, paint) {
  let width = 0;
  const check = () => {
    const now = element.clientWidth;
    if (now && now !== width) { width = now; paint(now); }
  };
  new ResizeObserver(check).observe(element);
  return { again: () => { width = element.clientWidth; if (width) paint(width); } };
}

/* Round numbers for an axis from 0 to `most`. */
function ticks(most, count) {
  const raw = most / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, i) => i * step);
}
function clamp(value, low, high) { return Math.max(low, Math.min(high, value)); }

function say(element, text) { element.replaceChildren(...soft(text)); }
/* A text whose names break after a dot, an underscore or a slash, not within a word; a number stays with its unit. */
function soft(text) {
  const parts = String(text).replace(/(\d) (?=(?:ms|%|[kMGTPE]?B|[kMGTPE])(?!\w))/g, "$1\u00a0").split(/(?<=[A-Za-z)\]][._/])(?=\w)(?!(?:py|html|pt|json)\b)|(?<=[._/])(?=[A-Za-z])(?!(?:py|html|pt|json)\b)/);
  return parts.flatMap((part, at) => [...(at ? [make("wbr")] : []), ...part.split(/(--[a-z][a-z-]*)/).map((one, i) => (i % 2 ? make("span", { class: "whole" }, one) : one)).filter((one) => one !== "")]);
}
/* A box that scrolls, by keys as well, with a shadow at each edge beyond which there is more. */
function scrolling(box) {
  const frame = make("div", { class: "edges" }, box);
  const check = () => {
    frame.classList.toggle("before", box.scrollLeft > 1);
    frame.classList.toggle("after", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    frame.classList.toggle("below", box.scrollTop + box.clientHeight < box.scrollHeight - 1);
  };
  box.addEventListener("scroll", check, { passive: true });
  const sizes = new ResizeObserver(check);
  [box, ...box.children].forEach((one) => sizes.observe(one));
  return frame;
}
