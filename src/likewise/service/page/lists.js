// The views of unknown and of known items, newest first.

import { ask } from "./api.js";
import { attempt, clock, count, labelForm, make, named, newId, number, picture, refusalPlace } from "./elements.js";
import { addItem, isOneSided, ItemInput, knownOf, knownRow, whyNothingChanges } from "./items.js";

const SHOWN = 20;

export function unknownsView(context) {
  const heading = make("h2", { tabindex: -1 }, "Unknowns");
  if (!context.model.keeps_unknowns) {
    const note = make("p", { class: "note" }, "Unknowns are not kept. Start the service with --keep DIR to see them here.");
    return { heading, element: make("section", {}, heading, note) };
  }
  const list = new Pages(context, {
    path: () => "v1/unknowns",
    itemsOf: (told) => told.unknowns,
    summary: (total) => (total ? `${count(total, "item")} matched nothing.` : "Nothing was matched as unknown."),
    group: (unknown) => dayOf(unknown.time),
    row: (unknown) => unknownRow(context, unknown, (row, sentence) => list.leave(row, heading, sentence)),
  });
  return {
    heading,
    element: make("section", {}, heading, whyNothingEnrolls(context.model) ?? "", list.element),
    show: () => list.load(),
  };
}

function whyNothingEnrolls(model) {
  return isOneSided(model)
    ? whyNothingChanges(model)
    : make(
        "p",
        { class: "quiet" },
        "What is asked about and what is known have different encoders, so an unknown cannot become known. " +
          "Add what it should find under Known.",
      );
}

export function knownView(context) {
  const heading = make("h2", { tabindex: -1 }, "Known");
  const id = newId("class");
  const label = make("input", { id, list: "classes", autocomplete: "off" });
  const list = new Pages(context, {
    path: () => (label.value.trim() ? `v1/items?label=${encodeURIComponent(label.value.trim())}` : "v1/items"),
    itemsOf: (told) => told.items,
    summary: (total) => (total ? `${count(total, "known item")}.` : "No such item is known."),
    group: () => "",
    row: (item) => {
      const changed = async (now, sentence) => {
        const other = rowOf(now);
        row.replaceWith(other);
        row = other;
        context.say(sentence);
        other.relabel.focus();
        await context.refresh();
      };
      const rowOf = (each) =>
        knownRow(context, each, {
          onChanged: changed,
          onRemoved: (gone, sentence) => list.leave(gone, heading, sentence),
        });
      let row = rowOf(item);
      return row;
    },
  });
  const form = make(
    "form",
    { class: "field" },
    make("label", { for: id }, "Only those of a class"),
    make("div", { class: "row" }, label, make("button", { class: "plain" }, "Show")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    list.load();
  });
  return {
    heading,
    element: make(
      "section",
      {},
      heading,
      whyNothingChanges(context.model) ?? adding(context, () => list.load()),
      form,
      list.element,
    ),
    show: () => list.load(),
  };
}

/** A form that makes an item known. */
function adding(context, onAdded) {
  const side = knownOf(context.model);
  const noun = side.takes === "image" ? "Picture" : side.takes === "text" ? "Text" : "Vector";
  const place = make("div");
  const renew = () => {
    const input = new ItemInput(side, `${noun} to add`);
    const form = labelForm(context, {
      question: "Its label",
      button: "Add",
      onLabel: async (label) => {
        const added = await addItem(input.given(), label);
        renew();
        await context.refresh();
        await onAdded();
        context.say(`Added as ${named(label)}, item ${added.ids[0]}. ${count(added.indexed, "known item")} now.`);
        place.querySelector("input, textarea").focus();
      },
    });
    form.prepend(input.element);
    place.replaceChildren(form);
  };
  renew();
  return make("details", {}, make("summary", {}, "Add a known item"), place);
}

/** A list that comes in parts. */
class Pages {
  constructor(context, { path, itemsOf, summary, group, row }) {
    Object.assign(this, { context, path, itemsOf, summary, group, row });
    this.place = refusalPlace();
    this.total = make("p", { class: "quiet" });
    this.parts = make("div");
    this.more = make("button", { type: "button", class: "plain", hidden: true }, "Show more");
    this.more.addEventListener("click", () => attempt(this.place, () => this.#next(), this.more));
    this.element = make("div", {}, this.total, this.place, this.parts, this.more);
  }

  load() {
    this.before = null;
    this.last = null;
    return attempt(this.place, () => this.#next());
  }

  async #next() {
    const isFirst = this.before === null;
    const path = new URL(this.path(), document.baseURI);
    path.searchParams.set("limit", SHOWN);
    if (!isFirst) path.searchParams.set("before", this.before);
    const mine = (this.asked = {});
    const told = await ask("GET", path.href);
    if (mine !== this.asked) return;
    if (isFirst) this.parts.replaceChildren();
    this.#tell(told.total);
    const rows = this.itemsOf(told).map((item) => {
      const name = this.group(item);
      if (name !== this.last) {
        this.last = name;
        this.list = make("ul", { class: "things" });
        this.parts.append(...(name ? [make("h3", {}, name)] : []), this.list);
      }
      const row = this.row(item);
      this.list.append(row);
      return row;
    });
    this.before = told.next;
    this.more.hidden = told.next === null;
    if (isFirst) this.context.say(this.total.textContent);
    else this.#focus(rows[0]);
  }

  /** Take out a row; the next one has the focus then, or the heading. */
  async leave(row, heading, sentence) {
    const rows = [...this.parts.querySelectorAll(".thing")];
    const at = rows.indexOf(row);
    const next = rows[at + 1] ?? rows[at - 1];
    const list = row.parentElement;
    row.remove();
    if (list && !list.children.length) {
      if (list.previousElementSibling?.tagName === "H3") list.previousElementSibling.remove();
      list.remove();
      if (list === this.list) this.last = null;
    }
    this.#tell(this.count - 1);
    if (next) this.#focus(next);
    else heading.focus();
    this.context.say(sentence);
    await this.context.refresh();
  }

  #tell(total) {
    this.count = total;
    this.total.textContent = this.summary(total);
  }

  #focus(row) {
    row?.querySelector("input, button")?.focus();
  }
}

function unknownRow(context, unknown, onLeft) {
  const path = `v1/unknowns/${encodeURIComponent(unknown.id)}`;
  const at = clock(unknown.time, { timeStyle: "short" });
  const place = refusalPlace();
  const row = make(
    "li",
    { class: "thing" },
    unknown.picture ? picture(`${path}/picture`, `Unknown of ${clock(unknown.time)}`) : null,
    make(
      "div",
      { class: "about" },
      make("strong", {}, unknown.text ?? at),
      make(
        "span",
        { class: "quiet" },
        `${unknown.text === null ? "" : `${at} · `}distance ${number(unknown.distance)}, threshold ${number(unknown.threshold)}`,
      ),
      unknown.nearest === null ? null : make("span", { class: "quiet" }, `nearest: ${unknown.nearest}`),
    ),
  );
  if (context.model.writes && isOneSided(context.model)) {
    row.append(
      labelForm(context, {
        question: `What is the unknown of ${at}?`,
        button: "Enroll",
        onLabel: async (label) => {
          const added = await ask("POST", `${path}/enroll`, { json: { label } });
          await onLeft(row, `Enrolled as ${named(label)}, item ${added.ids[0]}.`);
        },
      }),
    );
  }
  const remove = make("button", { type: "button", class: "plain", "aria-label": `Forget the unknown of ${clock(unknown.time)}` }, "Forget");
  remove.addEventListener("click", () =>
    attempt(
      place,
      async () => {
        await ask("DELETE", path);
        await onLeft(row, "Forgotten.");
      },
      remove,
    ),
  );
  row.append(make("div", { class: "row actions" }, remove), place);
  return row;
}

function dayOf(seconds) {
  const day = clock(seconds, { dateStyle: "full" });
  const now = Date.now() / 1000;
  if (day === clock(now, { dateStyle: "full" })) return "Today";
  return day === clock(now - 86400, { dateStyle: "full" }) ? "Yesterday" : day;
}
