"use strict";
// Starts the page: what it says first, the table, and what follows from what is ticked or picked.

function sayWhatIsThere() {
  const by = name => unique(INDEX.runs.map(run => run[name]));
  const tasks = unique(INDEX.groups.map(group => group.task));
  const finished = finishedRuns.length,
    all = INDEX.runs.length;
  document.getElementById("answer").textContent =
    `${plural(all, "run")} of ${plural(tasks.length, "task")}, ${plural(by("variant").length, "variant")}, ` +
    `${plural(by("seed").length, "seed")}; ` +
    (finished === all ? "all finished" : `${thousands(finished)} finished`);
  const read = INDEX.runs.filter(run => run.set !== null).length;
  document.getElementById("state").textContent = [
    INDEX.folder,
    `predictions of ${plural(read, "run")}`,
    INDEX.texts ? "with texts of the data set: mind to whom you pass it on" : "without texts",
  ].join(" · ");
  document.getElementById("about").textContent =
    "Made by finetune view from records and predictions; the page fetches nothing.";
  if (INDEX.problems.length) {
    document.querySelector("footer").prepend(
      make("h3", {}, "What could not be read"),
      make(
        "ul",
        {},
        INDEX.problems.map(problem => make("li", {}, problem)),
      ),
    );
  }
}

function begin() {
  sayWhatIsThere();
  showFilters();
  showTable();
  watchers.push(showCurves, followTicks);
  showCurves();
  followSize();
  onTheme(showCurves);
  for (const id of ["choice", "filters"])
    document.getElementById(id).addEventListener("submit", event => event.preventDefault());
  const real = GROUPS.find(each => !each.group.sample && each.variants.includes(INDEX.baseline)) ?? GROUPS[0];
  choice.group = real?.number ?? null;
  if (!real) choice.mode = "runs";
  showChoice();
  compare();
}

begin();
