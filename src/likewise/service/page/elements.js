// Elements of the page. Texts become text nodes, so that no name is ever read as HTML.

import { askBlob, Refused } from "./api.js";

let made = 0;

/** An id that no other element has. */
export function newId(name) {
  made += 1;
  return `${name}-${made}`;
}

/** An element; of its properties `on` holds listeners, the others are attributes. */
export function make(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

export function drawn(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function filled(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value);
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function number(value) {
  if (value === null || value === undefined) return "none";
  return new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value);
}

export function count(value, one, many = `${one}s`) {
  return `${new Intl.NumberFormat("en").format(value)} ${value === 1 ? one : many}`;
}

/** A share in percent, which is 0% or 100% only where it is so exactly. */
export function share(value) {
  if (value === null || value === undefined) return "none";
  if (value > 0 && value < 0.001) return "<0.1%";
  if (value < 1 && value > 0.999) return ">99.9%";
  return new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 }).format(value);
}

export function clock(seconds, options = { dateStyle: "medium", timeStyle: "short" }) {
  return new Intl.DateTimeFormat("en", options).format(new Date(seconds * 1000));
}

export function named(label) {
  return label === null ? "no label" : `“${label}”`;
}

/** Terms and what they are; pairs whose second is null are left out. */
export function facts(pairs) {
  return make(
    "dl",
    { class: "facts" },
    ...pairs
      .filter(([, value]) => value !== null)
      .map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))),
  );
}

/** A picture of the service, which may want a key for it. */
export function picture(path, alt) {
  const frame = make("span", { class: "picture" });
  askBlob(path).then(
    (blob) => {
      const url = URL.createObjectURL(blob);
      const image = make("img", { alt });
      const done = () => URL.revokeObjectURL(url);
      image.addEventListener("load", done);
      image.addEventListener("error", done);
      image.src = url;
      frame.append(image);
    },
    () => frame.classList.add("none"),
  );
  return frame;
}

/** A place where refusals are shown and read aloud. */
export function refusalPlace() {
  return make("p", { class: "refusal", role: "alert" });
}

/** Do what a button or a form asks for, once at a time, and show why where it is refused. */
export async function attempt(place, work, busy = null) {
  if (busy?.getAttribute("aria-disabled") === "true") return;
  place.textContent = "";
  busy?.setAttribute("aria-disabled", "true"); // which keeps the focus, as `disabled` does not
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) {
      place.textContent = "The page must be without faults, got one of ours. Load it again.";
      throw error;
    }
    place.textContent = error.message;
  } finally {
    busy?.removeAttribute("aria-disabled");
  }
}

/** A form that asks for a label, known or new. */
export function labelForm(context, { question, button, value = "", onLabel, onCancel = null }) {
  const id = newId("label");
  const hint = make("small", { id: `${id}-hint`, class: "quiet" });
  const input = make("input", {
    id,
    list: "classes",
    required: true,
    maxlength: 256,
    autocomplete: "off",
    "aria-describedby": hint.id,
    value,
  });
  const tell = () => {
    const { classes, class_count: all } = context.model;
    const label = input.value.trim();
    if (!label) hint.textContent = "A known name, or a new one.";
    else if (Object.hasOwn(classes, label))
      hint.textContent = `Known, with ${count(classes[label], "item")}.`;
    else hint.textContent = all > Object.keys(classes).length ? "" : "New.";
  };
  input.addEventListener("input", tell);
  tell();
  const place = refusalPlace();
  const submit = make("button", {}, button);
  return make(
    "form",
    {
      class: "label",
      on: {
        submit: (event) => {
          event.preventDefault();
          const label = input.value.trim();
          if (!label) return;
          attempt(place, () => onLabel(label), submit);
        },
      },
    },
    make("label", { for: id }, question),
    make(
      "div",
      { class: "row" },
      input,
      submit,
      onCancel &&
        make("button", { type: "button", class: "plain", on: { click: onCancel } }, "Cancel"),
    ),
    hint,
    place,
  );
}
