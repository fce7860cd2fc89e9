// Operating points: which may be asked for, what they guarantee, and where a distance lies.

import { drawn, facts, make, newId, number, share } from "./elements.js";

/** The operating points of one kind. */
export function pointsOf(model, isOfPairs) {
  return model.points.filter((point) => (point.rule === "pairs") === isOfPairs);
}

/** A choice among operating points; it is hidden where there is only one. */
export function pointChoice(points, usual) {
  const id = newId("point");
  const select = make(
    "select",
    { id },
    ...points.map(({ name, goal }) =>
      make("option", { value: name, selected: name === usual }, `${name}: ${goal}`),
    ),
  );
  const element = make("div", { class: "field" }, make("label", { for: id }, "Operating point"), select);
  element.hidden = points.length < 2;
  return { element, select };
}

export function notCalibrated(kind, meanwhile = "") {
  return make(
    "p",
    { class: "note" },
    `The model is not calibrated for ${kind}. Run likewise calibrate, then start the service again. ${meanwhile}`.trim(),
  );
}

/** A bar up to the distance with a mark at the threshold; the numbers stand beside it. */
export function gauge(distance, threshold, isAccepted) {
  const most = Math.max(distance ?? 0, threshold, 1e-12) * 1.25;
  const at = (value) => Math.max(0, Math.min(100, (100 * value) / most));
  return make(
    "div",
    { class: "gauge", "aria-hidden": "true" },
    drawn(
      "svg",
      { viewBox: "0 0 100 10", preserveAspectRatio: "none" },
      drawn("rect", { class: "ground", x: 0, y: 3, width: 100, height: 4 }),
      drawn("rect", { class: isAccepted ? "near" : "far", x: 0, y: 3, width: at(distance ?? most), height: 4 }),
      drawn("line", { class: "threshold", x1: at(threshold), x2: at(threshold), y1: 0, y2: 10 }),
    ),
    make("span", { class: "quiet" }, "same"),
    make("span", { class: "quiet" }, "different"),
  );
}

/** What a point guarantees, or what was measured where it guarantees nothing. */
export function pointFacts(point) {
  const { guarantee } = point;
  return make(
    "details",
    { class: "point" },
    make("summary", {}, guarantee ? `Guaranteed error rate: ${share(guarantee.rate)}` : "How sure is that?"),
    make(
      "p",
      {},
      guarantee
        ? guarantee.sentence
        : "This operating point guarantees nothing. Below is what was measured when it was calibrated.",
    ),
    guarantee?.outgrown ? make("p", { class: "note" }, guarantee.outgrown) : null,
    facts([
      ["Operating point", point.name],
      ["Chosen for", point.goal],
      ["Unknowns accepted", rate(point.unknowns_accepted)],
      ["Known things missed", rate(point.knowns_missed)],
      ["Different pairs accepted", rate(point.different_accepted)],
      ["Same pairs rejected", rate(point.same_rejected)],
    ]),
  );
}

function rate(measured) {
  if (measured === null) return null;
  const { value, low, high } = measured;
  if (value === null) return "not measured";
  return low === null ? share(value) : `${share(value)} (${share(low)} to ${share(high)})`;
}
