// The view that says which known thing an item is, or which known items are nearest.

import { ask, Refused } from "./api.js";
import { attempt, count, facts, labelForm, make, named, newId, number, refusalPlace, share } from "./elements.js";
import { addItem, bodyOf, isOneSided, ItemInput, knownRow, queryOf, questionFor, whyNothingChanges } from "./items.js";
import { gauge, notCalibrated, pointChoice, pointFacts, pointsOf } from "./points.js";

export function matchView(context) {
  const { model } = context;
  const points = pointsOf(model, false);
  const heading = make("h2", { tabindex: -1 }, "Match");
  const decides = points.length > 0; // else it only looks up
  const place = refusalPlace();
  const answer = make("div", { class: "answer" });
  const submit = make("button", {}, decides ? "Match" : "Look up");
  const input = new ItemInput(queryOf(model), questionFor(model), () => form.requestSubmit());
  const point = pointChoice(points, "nearest");
  const k = make("input", { id: newId("k"), type: "number", min: decides ? 0 : 1, max: model.limits.most_neighbors, value: 5, required: true });
  const where = make("input", { id: newId("where"), autocomplete: "off", spellcheck: "false", placeholder: '{"shop": "north"}' });
  const form = make(
    "form",
    { class: "card" },
    decides ? null : notCalibrated("matching", "Until then only the nearest known items are shown."),
    input.element,
    point.element,
    make(
      "details",
      {},
      make("summary", {}, "More"),
      make("div", { class: "field" }, make("label", { for: k.id }, "Neighbors to show"), k),
      model.exported
        ? null
        : make(
            "div",
            { class: "field" },
            make("label", { for: where.id }, "Only among known items with this metadata (JSON)"),
            where,
          ),
    ),
    submit,
    place,
  );
  let working = null;

  // The newest question counts: an older one that is still being answered is given up.
  async function match(item, note = "") {
    working?.abort();
    const mine = (working = new AbortController());
    answer.setAttribute("aria-busy", "true");
    try {
      const fields = { k: k.valueAsNumber, where: filterOf(where.value) };
      if (decides) fields.point = point.select.value;
      const path = decides ? "v1/match" : "v1/lookup";
      const told = await ask("POST", path, { ...bodyOf(item, fields), signal: mine.signal });
      (decides ? show : showNear)(item, told, note);
    } finally {
      if (mine === working) answer.removeAttribute("aria-busy");
    }
  }

  async function again(item, sentence) {
    await context.refresh();
    await match(item, sentence);
  }

  function rowsOf(item, neighbors) {
    const rows = neighbors.map((near) =>
      knownRow(context, near, {
        onChanged: async (now, sentence) => {
          await again(item, sentence);
          const row = [...answer.querySelectorAll(".thing")].find((each) => each.itemId === now.id);
          (row?.relabel ?? answer.querySelector("h3"))?.focus();
        },
      }),
    );
    rows.forEach((row, at) => (row.itemId = neighbors[at].id));
    return rows;
  }

  function showNear(item, { answers: [found] }, note) {
    const rows = rowsOf(item, found.neighbors);
    answer.replaceChildren(
      ...(note ? [make("p", { class: "note" }, note)] : []),
      make("h3", { tabindex: -1 }, "Nearest known items"),
      make("ul", { class: "things" }, ...rows),
    );
    const nearest = found.neighbors[0];
    context.say(
      `${note} ${count(rows.length, "neighbor")}.`.trim() +
        (nearest ? ` Nearest: ${named(nearest.label)}, distance ${number(nearest.distance)}.` : ""),
    );
  }

  function show(item, { answers: [found], point: used }, note) {
    const isKnown = found.label !== null;
    const title = make("h3", { class: isKnown ? "known" : "unknown", tabindex: -1 }, isKnown ? found.label : "UNKNOWN");
    const rows = rowsOf(item, found.neighbors);
    const near = isKnown ? "Accepted: the distance is within the threshold." : why(found);
    answer.replaceChildren(
      ...[
        note ? make("p", { class: "note" }, note) : null,
        title,
        make("p", {}, near),
        gauge(found.distance, found.threshold, isKnown),
        facts([
          ["Distance", found.distance === null ? "none" : number(found.distance)],
          ["Threshold", number(found.threshold)],
          [isKnown ? "Probability" : "Probability of the neighbors’ label", found.probability === null ? null : share(found.probability)],
        ]),
        pointFacts(used),
        enroll(item, found),
        rows.length ? make("h4", {}, "Nearest known items") : null,
        rows.length ? make("ul", { class: "things" }, ...rows) : null,
      ].filter(Boolean),
    );
    context.say(
      [
        note,
        isKnown ? `Match: ${found.label}.` : "Unknown.",
        `Distance ${number(found.distance)}, threshold ${number(found.threshold)}.`,
        found.probability === null ? "" : `Probability ${share(found.probability)}.`,
        `${count(rows.length, "neighbor")}.`,
      ]
        .filter(Boolean)
        .join(" "),
    );
  }

  function enroll(item, found) {
    if (!context.model.writes) return whyNothingChanges(context.model);
    if (!isOneSided(context.model)) return null; // known items are added in their own view
    const isKnown = found.label !== null;
    const form = labelForm(context, {
      question: isKnown ? "What is it really?" : "What is it?",
      button: isKnown ? "Add as this" : "Enroll",
      onLabel: async (label) => {
        const added = (await enrollKept(found.unknown_id, label)) ?? (await addItem(item, label));
        await again(item, `Enrolled as ${named(label)}, item ${added.ids[0]}. ${count(added.indexed, "known item")} now.`);
        answer.querySelector("h3")?.focus();
      },
    });
    return isKnown
      ? make("details", {}, make("summary", {}, "Is this wrong?"), form)
      : make("div", { class: "enroll" }, form);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(place, async () => {
      answer.replaceChildren();
      await match(input.given());
    });
  });
  const take = (files) => {
    if (input.take([...(files ?? [])].find((file) => file.type.startsWith("image/")))) form.requestSubmit();
  };
  return {
    heading,
    element: make("section", { class: "two" }, heading, form, answer),
    take,
  };
}

/** Enroll an item out of the queue; null where it is not there, or not any more. */
async function enrollKept(id, label) {
  if (id === null) return null;
  try {
    return await ask("POST", `v1/unknowns/${encodeURIComponent(id)}/enroll`, { json: { label } });
  } catch (error) {
    if (error.code === "not_found") return null;
    throw error;
  }
}

function why({ distance }) {
  return distance === null
    ? "No known item had a vote."
    : "Rejected: the nearest known things are farther than the threshold.";
}

function filterOf(text) {
  if (!text.trim()) return undefined;
  try {
    const where = JSON.parse(text);
    if (where !== null && typeof where === "object" && !Array.isArray(where)) return where;
  } catch {
    // told below
  }
  throw new Refused('The metadata must be a JSON object as {"shop": "north"}, got something else.');
}
