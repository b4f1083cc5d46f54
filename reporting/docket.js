"use strict";
// Filters and sorts the rows, and fills the panels that compare two runs. Everything it shows is in the page.

const form = document.querySelector(".filters");
const body = document.querySelector("section[aria-labelledby=runs] tbody");
const rows = [...body.rows];
const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));

function filter() {
  const verdicts = new Set([...form.querySelectorAll("[name=verdict]:checked")].map(box => box.value));
  const [script, dataset] = [form.elements.script.value, form.elements.dataset.value];
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const fits = verdicts.has(row.dataset.verdict) && (!script || row.dataset.script === script) &&
      (!dataset || row.dataset.dataset.split(", ").includes(dataset)) &&
      words.every(word => texts.get(row).includes(word));
    row.hidden = !fits;
    shown += fits;
  }
  form.querySelector("output").textContent =
    shown === rows.length ? `${shown} ${shown === 1 ? "run" : "runs"}` : `${shown} of ${rows.length} runs`;
  document.getElementById("nothing").hidden = shown > 0;
}

form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));  // the fields have their values afterwards
document.querySelector("#nothing button").addEventListener("click", () => {
  form.reset();
  form.elements.text.focus();
});

const collator = new Intl.Collator("en", { numeric: true });

function sort(button) {
  const head = button.closest("th");
  const column = [...head.parentNode.children].indexOf(head);
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  const key = row => row.children[column].dataset.sort;
  const compare = button.dataset.kind === "number" ? (a, b) => a - b : collator.compare;
  rows.sort((a, b) => (ascending ? 1 : -1) * compare(key(a), key(b)));
  for (const other of head.parentNode.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  body.append(...rows);
}

for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sort(button));

// -- two runs side by side

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function line(table, head, cells) {
  const row = table.insertRow();
  const first = element("th", head);
  first.scope = "row";
  row.append(first);
  for (const cell of cells) row.insertCell().append(cell);
}

function badge(run) {
  const made = element("span", "", `badge ${run.outcome}`);
  const sign = element("b", run.sign);
  sign.setAttribute("aria-hidden", "true");
  made.append(sign, ` ${run.word}`);
  return made;
}

function title(run) {
  if (!run.href) return run.name;
  const made = element("a", run.name);
  made.href = run.href;
  return made;
}

// The keys of both objects, each once, in their order.
const keys = (...objects) => [...new Set(objects.flatMap(Object.keys))];

function compare(panel) {
  const runs = JSON.parse(panel.querySelector("script").textContent);
  const pair = [...panel.querySelectorAll("select")].map(select => runs[select.value]);
  const table = panel.querySelector("table");
  table.replaceChildren();
  line(table, "Run", pair.map(title));
  line(table, "Verdict", pair.map(badge));
  let same = 0;
  const differing = (head, values) => {
    if (values[0] === values[1]) same += 1;
    else line(table, head, values.map(value => value === undefined ? "–" : value));
  };
  if (pair.some(run => run.reason)) differing("Reason", pair.map(run => run.reason || "–"));
  const groups = pair.map(run => Object.fromEntries(run.groups.map(([label, ...said]) => [label, said.join(": ")])));
  for (const label of keys(...groups)) differing(label || "Measured", groups.map(group => group[label]));
  for (const name of keys(...pair.map(run => run.facts))) differing(name, pair.map(run => run.facts[name]));
  for (const name of keys(...pair.map(run => run.flags))) differing(`--${name}`, pair.map(run => run.flags[name]));
  panel.querySelector(".same").textContent =
    pair[0] === pair[1] ? "This is the same run twice." : `${same} other facts and flags are the same.`;
}

for (const panel of document.querySelectorAll(".panel")) {
  panel.addEventListener("change", () => compare(panel));
  compare(panel);
}
