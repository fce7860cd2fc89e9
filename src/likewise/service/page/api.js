// Questions to the service, and its refusals.

const NAME = "likewise key";

/** What the service, or this page, does not answer; its message is a sentence for people. */
export class Refused extends Error {
  constructor(sentence, code = "") {
    super(sentence);
    this.code = code;
  }
}

let inMemory = null; // where the browser lets nothing be stored
let prompting = null;
let askForKey = async () => null;

export function whenKeyIsWanted(ask) {
  askForKey = ask;
}

export function hasKey() {
  return currentKey() !== null;
}

export function forgetKey() {
  inMemory = null;
  try {
    sessionStorage.removeItem(NAME);
  } catch {
    // nothing was stored
  }
}

function currentKey() {
  try {
    return sessionStorage.getItem(NAME) ?? inMemory;
  } catch {
    return inMemory;
  }
}

function keepKey(key) {
  inMemory = key;
  try {
    sessionStorage.setItem(NAME, key);
  } catch {
    // it stays in memory
  }
}

/** The answer to a question, as JSON. */
export async function ask(method, path, options = {}) {
  const response = await request(method, path, options);
  try {
    return await response.json();
  } catch (error) {
    throw readable(error);
  }
}

export async function askText(path) {
  return (await request("GET", path)).text();
}

export async function askBlob(path) {
  return (await request("GET", path)).blob();
}

async function request(method, path, { json, form, headers = {}, signal } = {}) {
  for (;;) {
    const key = currentKey();
    const sent = { ...headers };
    if (key !== null) sent.Authorization = `Bearer ${key}`;
    if (json !== undefined) sent["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method,
        headers: sent,
        body: json === undefined ? form : JSON.stringify(json),
        signal,
      });
    } catch (error) {
      throw readable(error);
    }
    if (response.ok) return response;
    const refusal = await refusalOf(response);
    if (response.status !== 401) throw refusal;
    // Another question may have brought a key meanwhile.
    if (currentKey() === key && !(await promptFor(refusal.message))) throw refusal;
  }
}

async function promptFor(sentence) {
  prompting ??= askForKey(hasKey() ? sentence : "The service wants a key.").finally(() => {
    prompting = null;
  });
  const given = await prompting;
  if (given !== null) keepKey(given);
  return given !== null;
}

async function refusalOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // whoever stands between may answer anything
  }
  const sentence =
    typeof told?.sentence === "string"
      ? told.sentence
      : `The service must answer, got the status ${response.status} from what stands before it.`;
  return new Refused(sentence, told?.code);
}

function readable(error) {
  if (error.name === "AbortError") return error;
  return new Refused("The service must be reachable, got no answer. Try again.", "unreachable");
}
