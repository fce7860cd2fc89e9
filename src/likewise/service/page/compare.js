// The view that says whether two items are the same.

import { ask, Refused } from "./api.js";
import { attempt, facts, make, newId, number, refusalPlace, share } from "./elements.js";
import { ItemInput, knownOf, queryOf } from "./items.js";
import { gauge, notCalibrated, pointChoice, pointFacts, pointsOf } from "./points.js";

export function compareView(context) {
  const { model } = context;
  const points = pointsOf(model, true);
  const heading = make("h2", { tabindex: -1 }, "Compare");
  if (!points.length) return { heading, element: make("section", {}, heading, notCalibrated("pairs")) };

  const sides = [
    ["First", queryOf(model)],
    ["Second", knownOf(model)],
  ].map(([which, side]) => new ItemInput(side, `${which} ${side.takes === "image" ? "picture" : side.takes}`));
  const point = pointChoice(points, "pairs");
  const prior = make("input", { id: newId("prior"), type: "number", min: 0.000001, max: 0.999999, step: "any", value: 0.5, required: true });
  const place = refusalPlace();
  const answer = make("div", { class: "answer" });
  const submit = make("button", {}, "Compare");
  const form = make(
    "form",
    { class: "card" },
    make("div", { class: "pair" }, ...sides.map((side) => side.element)),
    point.element,
    make(
      "details",
      {},
      make("summary", {}, "More"),
      make(
        "div",
        { class: "field" },
        make("label", { for: prior.id }, "Share of such pairs that are the same, for the probability"),
        prior,
      ),
    ),
    submit,
    place,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(
      place,
      async () => {
        answer.replaceChildren();
        const [a, b] = sides.map((side) => side.given());
        const fields = { point: point.select.value, prior: prior.valueAsNumber };
        show(await ask("POST", "v1/verify", await bodyOfPair(a, b, fields, model)));
      },
      submit,
    );
  });

  function show({ answers: [found], point: used }) {
    answer.replaceChildren(
      make("h3", { class: found.same ? "known" : "unknown" }, found.same ? "SAME" : "DIFFERENT"),
      gauge(found.distance, found.threshold, found.same),
      facts([
        ["Distance", number(found.distance)],
        ["Threshold", number(found.threshold)],
        ["Probability to be the same", found.probability === null ? null : share(found.probability)],
      ]),
      pointFacts(used),
    );
    context.say(
      `${found.same ? "The same" : "Different"}. Distance ${number(found.distance)}, threshold ` +
        `${number(found.threshold)}.` +
        (found.probability === null ? "" : ` Probability to be the same ${share(found.probability)}.`),
    );
  }

  return { heading, element: make("section", { class: "two" }, heading, form, answer) };
}

async function bodyOfPair(a, b, fields, model) {
  if (a.image === undefined || b.image === undefined)
    return { json: { pairs: [{ a: await inJson(a), b: await inJson(b) }], ...fields } };
  if (a.image.size + b.image.size > model.limits.most_bytes)
    throw new Refused("Two pictures must fit into one request, got larger ones. Make them smaller.");
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("a", a.image);
  form.append("b", b.image);
  return { form };
}

/** An item as JSON holds it: a picture in base64. */
async function inJson(item) {
  if (item.image === undefined) return item;
  const reader = new FileReader();
  await new Promise((resolve, reject) => {
    reader.addEventListener("load", resolve);
    reader.addEventListener("error", () => reject(new Refused("The picture must be readable, got none. Choose it again.")));
    reader.readAsDataURL(item.image);
  });
  return { image: reader.result.slice(reader.result.indexOf(",") + 1) };
}
