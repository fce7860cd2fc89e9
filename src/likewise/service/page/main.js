// The page: its views, the key, and what everything in it knows of the model.

import { ask, forgetKey, hasKey, whenKeyIsWanted } from "./api.js";
import { attempt, count, make } from "./elements.js";
import { compareView } from "./compare.js";
import { knownView, unknownsView } from "./lists.js";
import { matchView } from "./match.js";
import { timeView } from "./time.js";

const VIEWS = { match: matchView, compare: compareView, unknowns: unknownsView, known: knownView, time: timeView };
const byId = (id) => document.getElementById(id);
const main = byId("main");
const views = {};
let current = null;
let isMoved = false; // whether a view was asked for since the page is there

const context = {
  model: null,
  say(sentence) {
    byId("said").textContent = sentence;
  },
  async refresh() {
    context.model = await ask("GET", "v1/model");
    const { name, indexed, class_count: classes } = context.model;
    byId("name").textContent = name;
    byId("card").textContent = `${count(indexed, "item")} of ${count(classes, "class", "classes")}`;
    byId("forget").hidden = !hasKey();
    for (const link of document.querySelectorAll("nav a")) link.parentElement.hidden = !offers(link.hash.slice(1));
    byId("classes").replaceChildren(
      ...Object.keys(context.model.classes).map((value) => make("option", { value })),
    );
  },
};

/** Whether there is a view of this name: an exported model keeps no unknowns and sees no drift. */
function offers(name) {
  return Object.hasOwn(VIEWS, name) && !(context.model.exported && ["unknowns", "time"].includes(name));
}

whenKeyIsWanted(
  (why) =>
    new Promise((resolve) => {
      const dialog = byId("key");
      const input = byId("key-value");
      byId("key-why").textContent = why;
      input.value = "";
      let given = null;
      const use = (event) => {
        event.preventDefault();
        given = input.value.trim();
        // A header holds nothing else, and no key of the service has it.
        if (/^[\x21-\x7e]+$/.test(given)) dialog.close();
        else byId("key-why").textContent = "A key must have visible characters of ASCII, got others.";
      };
      const cancel = () => {
        given = null;
        dialog.close();
      };
      const done = () => {
        dialog.firstElementChild.removeEventListener("submit", use);
        byId("key-cancel").removeEventListener("click", cancel);
        input.value = "";
        resolve(given);
      };
      dialog.firstElementChild.addEventListener("submit", use);
      byId("key-cancel").addEventListener("click", cancel);
      dialog.addEventListener("cancel", () => (given = null), { once: true });
      dialog.addEventListener("close", done, { once: true });
      dialog.showModal();
    }),
);

function show(isAsked) {
  const asked = location.hash.slice(1);
  const name = offers(asked) ? asked : current ?? "match";
  if (asked && !offers(asked) && current !== null) return; // as the link to the content
  current = name;
  views[name] ??= VIEWS[name](context);
  const view = views[name];
  for (const section of main.querySelectorAll(":scope > section")) section.hidden = section !== view.element;
  if (!view.element.isConnected) main.append(view.element);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.heading.textContent} · ${context.model.name} · likewise`;
  if (isAsked) view.heading.focus();
  view.show?.();
}

function start() {
  return attempt(byId("trouble"), async () => {
    byId("again").hidden = false;
    await context.refresh();
    byId("again").hidden = true;
    show(isMoved); // perhaps while the model was on its way
  });
}

byId("again").addEventListener("click", start);
byId("forget").addEventListener("click", () => {
  forgetKey();
  location.reload(); // so that nothing stays that the key has shown
});
addEventListener("hashchange", () => {
  isMoved = true;
  if (context.model !== null) show(true);
});
// A file that is dropped beside its place must not replace the page.
const hasFiles = (event) => event.dataTransfer.types.includes("Files");
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  if (!event.defaultPrevented && current === "match") views.match.take?.(event.dataTransfer.files);
  event.preventDefault();
});
addEventListener("paste", (event) => {
  if (current === "match") views.match.take?.(event.clipboardData.files);
});
start();
