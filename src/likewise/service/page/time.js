// The view of rates and drift since the service was started.

import { ask, askText } from "./api.js";
import { attempt, clock, count, drawn, facts, make, number, refusalPlace, share } from "./elements.js";
import { notCalibrated, pointChoice, pointsOf } from "./points.js";

const HOUR = 3600;
const AXIS = { month: "short", day: "numeric", hour: "numeric" };

export function timeView(context) {
  const points = pointsOf(context.model, false);
  const heading = make("h2", { tabindex: -1 }, "Over time");
  if (!points.length) return { heading, element: make("section", {}, heading, notCalibrated("matching")) };
  const place = refusalPlace();
  const told = make("div");
  const point = pointChoice(points, "nearest");
  const again = make("button", { type: "button", class: "plain" }, "Refresh");
  const load = () =>
    attempt(
      place,
      async () => {
        const name = point.select.value;
        const [drift, metrics] = await Promise.all([
          ask("GET", `v1/drift?point=${encodeURIComponent(name)}`),
          askText("v1/metrics"),
        ]);
        const { threshold } = points.find((each) => each.name === name);
        told.replaceChildren(...verdict(drift), ...rates(drift, threshold), totals(samplesOf(metrics)));
        context.say(`${verdictOf(drift)} ${drift.advice}`);
      },
      again,
    );
  again.addEventListener("click", load);
  point.select.addEventListener("change", load);
  return {
    heading,
    element: make("section", {}, heading, point.element, again, place, told),
    show: load,
  };
}

function verdictOf(drift) {
  if (drift.drifted === null) return "Not known yet.";
  return drift.drifted ? "Drift." : "No drift is seen.";
}

function verdict(drift) {
  return [
    make("h3", { class: drift.drifted ? "unknown" : "known" }, verdictOf(drift)),
    make("p", {}, drift.advice),
    facts([
      ["Calibrate again", drift.calibrate_again.length ? "yes" : "no"],
      ["Matches looked at", count(drift.seen, "match", "matches")],
      ["Accepted when calibrated", drift.accepted_before === null ? null : share(drift.accepted_before)],
      ["Accepted now", drift.accepted_now === null ? null : share(drift.accepted_now)],
      ["Gap between then and now", drift.gap === null ? null : number(drift.gap)],
      ["Chance of such a gap without drift", drift.p_value === null ? null : share(drift.p_value)],
      ["Chance of a false alarm", `at most ${share(drift.false_alarm)}`],
    ]),
  ];
}

function rates({ hours }, threshold) {
  if (!hours.length) return [];
  const unknown = hours.map(({ time, matched, unknown: of }) => ({ time, value: of / matched }));
  const distances = hours.map(({ time, distance }) => ({ time, value: distance })).filter(({ value }) => value !== null);
  const most = Math.max(threshold, ...distances.map(({ value }) => value)) * 1.15 || 1;
  const head = ["Hour", "Matched", "Unknown", "Mean distance"];
  return [
    chart("Share of unknowns by hour", unknown, 1, "100%"),
    chart("Mean distance by hour, with the threshold", distances, most, number(most), threshold),
    make(
      "details",
      {},
      make("summary", {}, "The same as a table"),
      make(
        "div",
        { class: "wide", tabindex: 0, role: "region", "aria-label": "Rates by hour" },
        make(
          "table",
          {},
          make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
          make(
            "tbody",
            {},
            ...[...hours].reverse().map((hour) =>
              make(
                "tr",
                {},
                make("th", { scope: "row" }, clock(hour.time)),
                make("td", {}, number(hour.matched)),
                make("td", {}, share(hour.unknown / hour.matched)),
                make("td", {}, number(hour.distance)),
              ),
            ),
          ),
        ),
      ),
    ),
  ];
}

/** Bars over time, with a dashed line where one is given. */
function chart(title, values, most, top, line = null) {
  if (!values.length) return "";
  const first = values[0].time;
  const last = values.at(-1).time + HOUR;
  const wide = Math.max(last - first, 12 * HOUR);
  const x = (time) => (100 * (time - (last - wide))) / wide;
  const y = (value) => 100 - (100 * value) / most;
  const { value } = values.at(-1);
  const newest = most === 1 && line === null ? share(value) : number(value);
  return make(
    "figure",
    {},
    make("figcaption", {}, title),
    make(
      "div",
      { class: "chart" },
      make("span", { class: "quiet" }, top),
      drawn(
        "svg",
        {
          viewBox: "0 0 100 100",
          preserveAspectRatio: "none",
          role: "img",
          "aria-label": `${title}: ${count(values.length, "hour")}, ${newest} in the last one.`,
        },
        ...values.map((each) =>
          drawn("rect", {
            class: "column",
            x: x(each.time),
            y: Math.min(y(each.value), 99),
            width: Math.max((90 * HOUR) / wide, 0.3),
            height: Math.max(100 - y(each.value), 1),
          }),
        ),
        line === null ? null : drawn("line", { class: "limit", x1: 0, x2: 100, y1: y(line), y2: y(line) }),
      ),
      make("span", { class: "quiet" }, "0"),
    ),
    make(
      "div",
      { class: "ends quiet" },
      make("span", {}, clock(last - wide, AXIS)),
      make("span", {}, clock(last, AXIS)),
    ),
  );
}

/** The samples of the text that Prometheus reads: name, labels and number. */
function samplesOf(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const parts = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (parts) found.push({ name: parts[1], labels: parts[2] ?? "", value: Number(parts[3]) });
  }
  return found;
}

function totals(samples) {
  const sum = (name, labels = "") =>
    samples
      .filter((each) => each.name === name && each.labels.includes(labels))
      .reduce((total, each) => total + each.value, 0);
  const matches = sum("likewise_request_seconds_count", 'route="/v1/match"');
  const seconds = sum("likewise_request_seconds_sum", 'route="/v1/match"');
  return make(
    "div",
    {},
    make("h3", {}, "Since the start"),
    facts([
      ["Matched as known", number(sum("likewise_matched_total", 'outcome="known"'))],
      ["Matched as unknown", number(sum("likewise_matched_total", 'outcome="unknown"'))],
      ["Requests", number(sum("likewise_requests_total"))],
      ["Refused", number(sum("likewise_refused_total"))],
      ["Mean time of a match", matches ? `${number((1000 * seconds) / matches)} ms` : null],
      ["Known items", number(sum("likewise_items"))],
    ]),
  );
}
