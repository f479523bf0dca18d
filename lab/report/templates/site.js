"use strict";

// The page is complete without this script, which hides the tools and cases of other kinds.
// Text from a run is only compared, never inserted.

const choices = document.querySelector(".filter");

function has(place, kind) {
  return !kind || !("kinds" in place.dataset) || place.dataset.kinds.split(" ").includes(kind);
}

function choose(kind) {
  let shown = 0;
  for (const table of document.querySelectorAll(".verdicts")) {
    const columns = [...table.tHead.rows[0].cells].map((head) => has(head, kind));
    for (const row of table.rows) {
      row.hidden = !has(row, kind);
      [...row.cells].forEach((cell, number) => { cell.hidden = !columns[number]; });
    }
    const lines = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
    table.closest("section").hidden = !lines;
    shown += lines;
  }
  choices.querySelector("output").textContent = kind ? `${shown} ${shown === 1 ? "line" : "lines"}` : "";
}

// The findings of a linked case may be right ones, which are folded.
function unfold() {
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const values = place && place.matches(".case") && !place.querySelector(":scope > .scroll") && place.querySelector("details");
  if (values) values.open = true;
}

if (choices) {
  choices.hidden = false;
  const select = choices.querySelector("select");
  select.addEventListener("change", () => choose(select.value));
  choose(select.value);  // a browser keeps the choice when the page is loaded again
}
window.addEventListener("hashchange", unfold);
unfold();
document.body.dataset.ready = "";
