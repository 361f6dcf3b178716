
"use strict";
// Heads become buttons: once up, once down, once more as it was. What has no value stays at the end.
for (const table of document.querySelectorAll("table.ablation, table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") head.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? original : sorted(original, place, next === "descending" ? -1 : 1)));
    });
  });
}

function sorted(rows, place, sign) {
  const keyed = rows.map((row) => {
    const cell = row.cells[place];
    return [(cell.dataset.value ?? cell.textContent).trim(), row];
  });
  const known = keyed.filter(([key]) => key !== "" && key !== "–");
  const numeric = known.every(([key]) => Number.isFinite(Number(key)));
  const compare = numeric ? (a, b) => a - b : new Intl.Collator("en", { numeric: true }).compare;
  known.sort(([a], [b]) => sign * compare(a, b));
  return [...known, ...keyed.filter(([key]) => key === "" || key === "–")].map(([, row]) => row);
}
