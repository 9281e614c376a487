"use strict";
// Sorting, filtering and the choice of colours. Without this the page shows the same words and numbers.
const LONG = 8;

function sortBy(table, column, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => {
    const cell = row.cells[column];
    const number = cell.dataset.value === undefined ? NaN : Number(cell.dataset.value.replace("inf", "Infinity"));
    return { number, text: cell.textContent.trim() };
  };
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row) }));
  rows.sort((one, other) => {
    const a = one.key, b = other.key;
    if (!a.text || !b.text) return Number(!a.text) - Number(!b.text);  // empty cells stay at the end
    const order = Number.isNaN(a.number) || Number.isNaN(b.number)
      ? a.text.localeCompare(b.text, "en", { numeric: true })
      : a.number - b.number;
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows.map((each) => each.row));
}

function addFilter(table, number) {
  const box = document.createElement("p");
  box.className = "filter";
  const label = document.createElement("label");
  label.htmlFor = `filter-${number}`;
  label.textContent = "Rows with";
  const input = document.createElement("input");
  input.id = label.htmlFor;
  input.type = "search";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
  box.append(label, input, count);
  table.parentElement.before(box);
}

document.querySelectorAll("table").forEach((table, number) => {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sortBy(table, column, heading));
    heading.replaceChildren(button);
  });
  if (table.tBodies[0].rows.length > LONG) addFilter(table, number);
});

// A link to a folded part unfolds it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", unfold);
unfold();

const theme = document.createElement("button");
theme.className = "theme";
theme.type = "button";
theme.textContent = "Light or dark";
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
document.querySelector("header").prepend(theme);
