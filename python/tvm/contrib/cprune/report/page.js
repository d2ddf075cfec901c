// SPDX-License-Identifier: Apache-2.0
// Tooltips, links between charts and the decision log, sorting and filtering. Without it the page is complete.
"use strict";

const tooltip = document.getElementById("tooltip");
const marks = [...document.querySelectorAll(".mark")];
const log = document.querySelector("#log tbody");

function showTooltip(mark) {
  const box = mark.getBoundingClientRect();
  tooltip.textContent = mark.getAttribute("aria-label");
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = Math.min(Math.max(12, box.left + box.width / 2 - width / 2), innerWidth - width - 12);
  const above = box.top - height - 8;
  tooltip.style.left = `${left}px`;
  tooltip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
}

function rowOf(mark) {
  return mark.dataset.row ? document.getElementById(mark.dataset.row) : null;
}

function select(row, on) {
  row?.classList.toggle("active", on);
  for (const mark of marks) if (row && mark.dataset.row === row.id) mark.classList.toggle("active", on);
}

for (const mark of marks) {
  const enter = () => { showTooltip(mark); select(rowOf(mark), true); };
  const leave = () => { tooltip.hidden = true; select(rowOf(mark), false); };
  mark.addEventListener("pointerenter", enter);
  mark.addEventListener("focus", enter);
  mark.addEventListener("pointerleave", leave);
  mark.addEventListener("blur", leave);
  mark.addEventListener("click", () => rowOf(mark)?.scrollIntoView({ block: "center" }));
}

// One tab stop for each chart; arrow keys move between its marks, from left to right.
for (const chart of document.querySelectorAll(".plot")) {
  const own = [...chart.querySelectorAll(".mark")].sort((a, b) => parseFloat(a.getAttribute("x")) - parseFloat(b.getAttribute("x")));
  own.forEach((mark, index) => {
    mark.setAttribute("tabindex", index ? -1 : 0);
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = own[index + step];
      if (event.key === "Escape") tooltip.hidden = true;
      if (!next) return;
      event.preventDefault();
      mark.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

function compare(a, b) {
  const [one, two] = [a, b].map((cell) => cell.dataset.value ?? cell.textContent);
  if (a.dataset.value === undefined) return one.localeCompare(two, "en", { numeric: true });
  return one - two;
}

if (log) {
  const heads = [...document.querySelectorAll("#log thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    // Rows without a value come last in both directions.
    const empty = (row) => row.cells[column].dataset.value === "";
    const rows = [...log.rows].sort((a, b) =>
      empty(a) - empty(b) || compare(a.cells[column], b.cells[column]) * (descending ? -1 : 1));
    log.append(...rows);
  }));

  const form = document.getElementById("filter");
  const filter = () => {
    const text = form.querySelector("[type=search]").value.toLowerCase();
    const verdicts = new Set([...form.querySelectorAll(":checked")].map((box) => box.value));
    for (const row of log.rows) {
      row.hidden = !verdicts.has(row.dataset.verdict) || !row.textContent.toLowerCase().includes(text);
    }
    const shown = [...log.rows].filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${log.rows.length} shown`;
    for (const mark of marks) mark.classList.toggle("faded", Boolean(rowOf(mark)?.hidden));
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  for (const row of log.rows) {
    row.addEventListener("pointerenter", () => select(row, true));
    row.addEventListener("pointerleave", () => select(row, false));
  }
}
