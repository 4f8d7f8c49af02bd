"use strict";
// A click on a model sorts the rows of each group by it, a click on a row sorts the models by that row;
// a second click turns the order round.
document.querySelectorAll("table.sortable").forEach((table) => {
  const head = table.tHead.rows[0];
  const value = (cell) => Number(cell.dataset.value);
  const direction = (heading) => {
    const next = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", next);
    return next === "descending" ? -1 : 1;
  };
  const sortRows = (heading) => {
    const sign = direction(heading);
    const column = heading.cellIndex;
    for (const body of table.tBodies) {
      const rows = [...body.querySelectorAll("tr.row")];
      rows.sort((one, other) => sign * (value(one.cells[column]) - value(other.cells[column])));
      body.append(...rows);
    }
  };
  const sortModels = (heading) => {
    const sign = direction(heading);
    const cells = [...heading.parentElement.cells].slice(2);
    const order = cells.map((cell, place) => [value(cell), place]);
    order.sort((one, other) => sign * (one[0] - other[0]));
    for (const row of [head, ...table.querySelectorAll("tr.row")]) {
      const old = [...row.cells].slice(2);
      row.append(...order.map(([, place]) => old[place]));
    }
  };
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const heading = button.parentElement;
    if (heading.scope === "col") sortRows(heading);
    else sortModels(heading);
  });
});
