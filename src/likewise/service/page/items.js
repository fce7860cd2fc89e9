// Items: how one is given to the page, and how a known one is shown.

import { ask, Refused } from "./api.js";
import { attempt, count, labelForm, make, named, newId, number, picture, refusalPlace } from "./elements.js";

/** What is asked about, as `ItemInput` takes it. */
export function queryOf({ takes, item_shape: shape, limits }) {
  return { takes, shape, limits };
}

/** What is known, which two towers take by an encoder of its own. */
export function knownOf({ known_takes: takes, known_item_shape: shape, limits }) {
  return { takes, shape, limits };
}

/** Whether what is asked about can become known: with two towers it is of the other side. */
export function isOneSided(model) {
  return model.query_encoder === null;
}

/** Where somebody gives one item: a picture, a text or a vector, as its side takes it. */
export class ItemInput {
  constructor(side, question, onGiven = () => {}) {
    this.side = side;
    this.file = null;
    const id = newId("item");
    if (side.takes === "image") this.element = this.#pictures(id, question, onGiven);
    else this.element = this.#words(id, question);
  }

  /** The item, as the service takes it. */
  given() {
    const { takes, limits } = this.side;
    if (takes === "image") {
      if (this.file === null) throw new Refused("A picture must be given, got none. Choose one.");
      if (this.file.size > limits.most_bytes) {
        throw new Refused(
          `A picture must have at most ${count(limits.most_bytes, "byte")}, got ` +
            `${count(this.file.size, "byte")}. Make it smaller.`,
        );
      }
      return { image: this.file };
    }
    const text = this.input.value;
    if (!text.trim()) throw new Refused(`A ${takes} must be given, got none. Type or paste one.`);
    return takes === "text" ? { text } : { vector: numbersOf(text) };
  }

  take(file) {
    if (this.side.takes !== "image" || !file) return false;
    this.file = file;
    this.told.textContent = file.name;
    const url = URL.createObjectURL(file);
    const image = make("img", { alt: `The picture you gave: ${file.name}` });
    image.addEventListener("load", () => URL.revokeObjectURL(url));
    image.addEventListener("error", () => {
      URL.revokeObjectURL(url);
      image.remove(); // which the service may read all the same
    });
    image.src = url;
    this.preview.replaceChildren(image);
    return true;
  }

  #pictures(id, question, onGiven) {
    const takeAndTell = (file) => this.take(file) && onGiven();
    this.input = make("input", {
      id,
      type: "file",
      accept: "image/*",
      class: "unseen",
      on: { change: () => takeAndTell(this.input.files[0]) },
    });
    this.preview = make("span", { class: "preview" });
    this.told = make("span", { class: "quiet" }, "PNG, JPEG, WebP, GIF, BMP or TIFF");
    const label = make(
      "label",
      { for: id, class: "drop" },
      this.preview,
      make("span", { class: "ask" }, question),
      this.told,
    );
    const over = (event) => {
      event.preventDefault();
      label.classList.add("over");
    };
    label.addEventListener("dragenter", over);
    label.addEventListener("dragover", over);
    label.addEventListener("dragleave", () => label.classList.remove("over"));
    label.addEventListener("drop", (event) => {
      event.preventDefault();
      label.classList.remove("over");
      takeAndTell(event.dataTransfer.files[0]);
    });
    return make("div", { class: "item" }, this.input, label);
  }

  #words(id, question) {
    const { takes, shape, limits } = this.side;
    const size = shape?.reduce((a, b) => a * b, 1);
    const hint =
      takes === "text"
        ? `At most ${count(limits.most_characters, "character")}.`
        : `${size ? count(size, "number") : "Numbers"}, with commas or spaces between.`;
    this.input = make("textarea", {
      id,
      rows: 4,
      class: takes === "vector" ? "numbers" : null,
      spellcheck: takes === "text" ? null : "false",
      "aria-describedby": `${id}-hint`,
      on: {
        keydown: (event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey))
            this.input.form?.requestSubmit();
        },
      },
    });
    return make(
      "div",
      { class: "item" },
      make("label", { for: id }, question),
      this.input,
      make("small", { id: `${id}-hint`, class: "quiet" }, hint),
    );
  }
}

export function questionFor({ takes }) {
  if (takes === "image") return "Drop a picture here, or choose one";
  return takes === "text" ? "A text" : "A vector";
}

function numbersOf(text) {
  const words = text.replace(/[[\](),;]/g, " ").trim().split(/\s+/);
  return words.map((word) => {
    const value = Number(word);
    if (!Number.isFinite(value))
      throw new Refused(`A vector must hold numbers, got “${word.slice(0, 40)}”. Mend it.`);
    return value;
  });
}

/** What `ask` sends for one item with further fields. */
export function bodyOf(item, fields) {
  if (item.image === undefined) return { json: { items: [item], ...fields } };
  const form = new FormData();
  for (const [name, value] of Object.entries(fields))
    if (value !== undefined && value !== null)
      form.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  form.append("image", item.image);
  return { form };
}

/** Make an item known. */
export function addItem(item, label) {
  const headers = { "Idempotency-Key": crypto.randomUUID?.() ?? `page-${Date.now()}-${Math.random()}` };
  if (item.image === undefined)
    return ask("POST", "v1/items", { json: { items: [{ ...item, label }] }, headers });
  return ask("POST", "v1/items", { ...bodyOf(item, { label }), headers });
}

export function itemPath(id) {
  return `v1/items/${encodeURIComponent(id)}`;
}

export function whyNothingChanges(model) {
  return model.writes
    ? null
    : make(
        "p",
        { class: "quiet" },
        model.exported
          ? "An exported model answers, so nothing can be changed here."
          : "This service was started without a gallery, so it changes nothing.",
      );
}

/** A known item in a list, with what can be done to it. */
export function knownRow(context, item, { onChanged, onRemoved = null }) {
  const label = make("strong", {}, item.label ?? "No label");
  if (item.label === null) label.classList.add("quiet");
  const shown = Object.entries(item.metadata)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
  const about = make(
    "div",
    { class: "about" },
    label,
    make(
      "span",
      { class: "quiet" },
      [item.distance === undefined ? null : `distance ${number(item.distance)}`, `item ${item.id}`]
        .filter(Boolean)
        .join(" · "),
    ),
    shown ? make("span", { class: "more quiet" }, shown) : null,
  );
  const isPictured = item.picture ?? (context.model.known_takes === "image" && !context.model.exported);
  const row = make(
    "li",
    { class: "thing" },
    isPictured ? picture(`${itemPath(item.id)}/picture`, `Item ${item.id}: ${item.label ?? "no label"}`) : null,
    about,
  );
  if (!context.model.writes) return row;
  const place = refusalPlace();
  const actions = make("div", { class: "row actions" });
  const relabel = make(
    "button",
    { type: "button", class: "plain", "aria-label": `Relabel item ${item.id}, ${named(item.label)}` },
    "Relabel",
  );
  actions.append(relabel);
  relabel.addEventListener("click", () => {
    const close = () => {
      form.replaceWith(actions);
      relabel.focus();
    };
    const form = labelForm(context, {
      question: `Right label of item ${item.id}`,
      button: "Save",
      value: item.label ?? "",
      onCancel: close,
      onLabel: async (given) => {
        const now = await ask("PATCH", itemPath(item.id), { json: { label: given } });
        close();
        await onChanged(now, `Item ${now.id} is ${named(now.label)} now.`);
      },
    });
    actions.replaceWith(form);
    form.querySelector("input").select();
  });
  if (onRemoved !== null) {
    const remove = make(
      "button",
      { type: "button", class: "plain", "aria-label": `Remove item ${item.id}, ${named(item.label)}` },
      "Remove",
    );
    remove.addEventListener("click", () => {
      if (!confirm(`Remove item ${item.id}, ${named(item.label)}?`)) return;
      attempt(
        place,
        async () => {
          await ask("DELETE", itemPath(item.id));
          await onRemoved(row, `Item ${item.id} was removed.`);
        },
        remove,
      );
    });
    actions.append(remove);
  }
  row.relabel = relabel;
  row.append(actions, place);
  return row;
}
