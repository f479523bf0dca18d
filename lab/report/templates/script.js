"use strict";

// Text from a run is only inserted as text, never as HTML: the names in it are untrusted.

const STEP = 100;  // rows drawn at once

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...children);
  return created;
}

function bracket([low, high, measured], wrong) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shapes = [["truth", low - 0.4, 2, high - low + 0.8, 6], [wrong ? "bad" : "mark", measured - 0.7, 0, 1.4, 10]];
  for (const [key, value] of Object.entries({
    class: "strip", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img",
    "aria-label": wrong ? "outside the bracket" : "inside the bracket",
  })) svg.setAttribute(key, value);
  for (const [kind, x, y, width, height] of shapes) {
    const rect = document.createElementNS(svg.namespaceURI, "rect");
    for (const [key, value] of Object.entries({ class: kind, x, y, width, height })) rect.setAttribute(key, value);
    svg.append(rect);
  }
  return svg;
}

// The texts of a row, for the search. A long table takes a moment, so this is done when somebody searches.
function searched([, , cells]) {
  return cells.filter((cell) => typeof cell === "string").join("\n").toLowerCase();
}

class Table {
  constructor(place, { columns, rows }) {
    this.columns = columns;
    this.rows = rows;
    this.shown = STEP;
    this.sorted = null;
    this.texts = null;
    this.words = element("input", { type: "search", placeholder: "words", "aria-label": "search" });
    this.choices = new Map();
    this.count = element("output", { "aria-live": "polite" });
    this.body = element("tbody");
    this.next = element("button", { type: "button", class: "next" }, "show more");
    const choices = element("div", { class: "choices" }, element("label", {}, "search", this.words));
    columns.forEach((column, number) => {
      if (!column.choose) return;
      const values = [...new Set(rows.map(([, , cells]) => cells[number]))].filter(Boolean);
      const select = element("select", { "aria-label": column.name }, element("option", { value: "" }, "all"));
      for (const value of values.sort()) select.append(element("option", { value }, value));
      this.choices.set(column.name, [number, select]);
      select.addEventListener("change", () => this.draw(true));
      const label = element("label", {}, column.name, select);
      label.hidden = values.length < 2;
      choices.append(label);
    });
    choices.append(this.count);
    this.heads = columns.map((column, number) => {
      const button = element("button", { type: "button", title: column.hint }, column.name);
      const head = element("th", { scope: "col", class: this.kind(number) }, button);
      if (column.kind === "bracket") button.replaceWith(element("span", { title: column.hint }, column.name));
      else button.addEventListener("click", () => this.sort(number));
      return head;
    });
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...this.heads, element("th", { scope: "col" }))), this.body);
    place.append(choices, element("div", { class: "scroll tall" }, table), this.next);
    this.words.addEventListener("input", () => this.draw(true));
    this.next.addEventListener("click", () => { this.shown += 5 * STEP; this.draw(); });
    this.draw();
  }

  choose(values) {
    for (const [name, [, select]] of this.choices) select.value = values.get(name) ?? "";
    this.words.value = values.get("search") ?? "";
    this.draw(true);
  }

  sort(column) {
    const numbers = this.columns[column].kind === "number";
    // The first click on a column of numbers sorts the largest to the top.
    const up = this.sorted?.column === column ? !this.sorted.up : !numbers;
    this.sorted = { column, up };
    this.heads.forEach((head) => head.removeAttribute("aria-sort"));
    this.heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const collator = new Intl.Collator("en", { numeric: true });
    const before = numbers ? (a, b) => a - b : (a, b) => collator.compare(a, b);
    const value = ([, , cells]) => (numbers ? cells[column][0] : cells[column]);
    this.rows.sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      if (one === null || other === null) return (one === null) - (other === null);  // unknown values come last
      return up ? before(one, other) : before(other, one);
    });
    this.texts = null;
    this.draw(true);
  }

  draw(again = false) {
    if (again) this.shown = STEP;
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...this.choices.values()].filter(([, select]) => select.value).map(([number, select]) => [number, select.value]);
    if (words.length) this.texts ??= this.rows.map(searched);
    const found = this.rows.filter(([, , cells], number) =>
      chosen.every(([column, value]) => cells[column] === value) && words.every((word) => this.texts[number].includes(word)));
    this.body.replaceChildren(...found.slice(0, this.shown).map((row) => this.row(row)));
    this.heads.forEach((head, column) => { head.hidden = this.constant(column); });
    this.count.textContent = `${found.length.toLocaleString("en")} of ${this.rows.length.toLocaleString("en")} lines`;
    this.next.hidden = found.length <= this.shown;
  }

  // The classes of a cell; the few values of a column with a filter are short.
  kind(column) {
    const { name, kind, choose } = this.columns[column];
    return `${kind} is-${name.replaceAll(" ", "-")}${choose ? " short" : ""}`;
  }

  // The column "run" is hidden if there is only one run.
  constant(column) {
    const choice = this.choices.get(this.columns[column].name);
    return this.columns[column].name === "run" && choice[1].parentElement.hidden;
  }

  row([key, wrong, cells]) {
    const line = element("tr", wrong ? { class: "wrong" } : {});
    cells.forEach((cell, column) => {
      const { kind } = this.columns[column];
      const place = element("td", { class: this.kind(column) });
      if (kind === "number") place.append(cell[1]);
      else if (kind === "bracket") { if (cell) place.append(bracket(cell, wrong)); } else place.append(cell);
      place.hidden = this.constant(column);
      line.append(place);
    });
    line.append(element("td", {}, ...(key === null ? [] : [element("a", { href: `#raw:${key}`, class: "raw" }, "raw")])));
    return line;
  }
}

function visible(text) {
  // Escape invisible characters and characters that change the writing direction; the JSON value stays the same.
  return text.replace(/[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function showRaw({ title, file, link, lines, note }) {
  document.getElementById("rows-title").textContent = title;
  document.getElementById("rows-about").replaceChildren("From ", element("a", { href: link }, file), note ? `: ${note}` : "");
  document.getElementById("rows-lines").replaceChildren(...lines.map(([number, line]) =>
    element("li", {}, ...(number === null ? [] : [element("b", {}, `line ${number.toLocaleString("en")}`)]), element("code", {}, visible(line)))));
  document.getElementById("rows").showModal();
}

async function main() {
  for (const button of document.querySelectorAll("button.more")) {
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", open);
      for (const row of [...button.closest("tbody").rows].slice(1)) row.hidden = !open;
    });
  }
  const { tables, raw } = await unpacked(document.getElementById("data").textContent);
  const drawn = new Map([...document.querySelectorAll(".data")].map((place) =>
    [place.dataset.table, new Table(place, tables[place.dataset.table])]));
  const dialog = document.getElementById("rows");
  dialog.addEventListener("close", () => {
    // The dialog may be open again, after a step back in the history.
    if (!dialog.open && location.hash.startsWith("#raw:")) history.replaceState(null, "", location.pathname);
  });

  function go() {
    if (dialog.open) dialog.close();
    const [, key] = location.hash.match(/^#raw:(\d+)$/) ?? [];
    if (key in raw) showRaw(raw[key]);
    const [, name, query] = location.hash.match(/^#(\w+)\?(.*)$/) ?? [];
    if (drawn.has(name)) {
      drawn.get(name).choose(new URLSearchParams(query));
      document.getElementById(name).scrollIntoView();
    }
  }
  window.addEventListener("hashchange", go);
  go();
  document.body.dataset.ready = "";
}

main();
