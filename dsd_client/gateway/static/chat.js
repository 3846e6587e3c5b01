// The chat: what was said, and where each token of it came from.

import { stream } from "./gateway.js";

const element = (id) => document.getElementById(id);
const ORIGINS = new Set(["accepted", "relaxed", "recovered", "bonus"]);

const messages = [];
let model = null;
let asking = null; // the AbortController of the answer that is under way

export function start(servedModel) {
  model = servedModel;
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking) asking.abort();
  else ask(element("said").value.trim());
});

element("said").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!asking) element("ask").requestSubmit();
});

element("forget").addEventListener("click", () => {
  asking?.abort();
  messages.length = 0;
  element("turns").replaceChildren();
});

async function ask(said) {
  if (!said || !model) return;
  element("said").value = "";
  turn("user").textContent = said;
  messages.push({ role: "user", content: said });
  const answer = new Answer(turn("assistant"));
  asking = new AbortController();
  element("send").textContent = "Stop";
  try {
    for await (const event of stream("/v1/chat/completions", request(), asking.signal)) answer.take(event);
  } catch (error) {
    if (error.name !== "AbortError") turn("error").textContent = error.message;
  } finally {
    asking = null;
    element("send").textContent = "Send";
  }
  if (messages.at(-1)?.content !== said) return; // forgotten meanwhile
  if (answer.text) messages.push({ role: "assistant", content: answer.text });
  else messages.pop();
}

function request() {
  const number = (id) => (element(id).value === "" ? undefined : Number(element(id).value));
  return {
    model,
    messages,
    stream: true,
    temperature: number("temperature"),
    seed: number("seed"),
    max_tokens: number("max-tokens"),
    dsd: { tokens: true },
  };
}

function turn(kind) {
  const item = document.createElement("li");
  item.className = kind;
  element("turns").append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

/** One answer on the page, and its figures while it comes. */
class Answer {
  constructor(item) {
    this.text = "";
    this.item = item;
    this.counts = { accepted: 0, relaxed: 0, recovered: 0, bonus: 0 };
    this.askedAt = performance.now();
    this.firstAt = null;
  }

  take(event) {
    const content = event.choices[0]?.delta.content ?? "";
    this.text += content;
    let told = 0;
    for (const token of event.dsd?.tokens ?? []) {
      this.show(token);
      told += token.text.length;
    }
    // Text of earlier tokens that was held back until the answer ended.
    if (content.length > told) (this.item.lastChild ?? this.item).append(content.slice(told));
    this.measure(event.dsd);
    this.item.scrollIntoView({ block: "end" });
  }

  show(token) {
    const piece = document.createElement("span");
    if (ORIGINS.has(token.origin)) {
      piece.className = piece.title = token.origin;
      this.counts[token.origin] += 1;
    }
    piece.textContent = token.text;
    this.item.append(piece);
  }

  measure(dsd) {
    const now = performance.now();
    const { accepted, relaxed, recovered, bonus } = this.counts;
    const tokens = accepted + relaxed + recovered + bonus;
    const judged = accepted + relaxed + recovered;
    if (tokens && this.firstAt === null) this.firstAt = now;
    const speed = dsd?.tokens_per_second ?? (tokens > 1 ? (1000 * tokens) / (now - this.askedAt) : null);
    element("speed").textContent = speed === null ? "–" : speed.toFixed(1);
    element("acceptance").textContent = judged ? `${Math.round((100 * (accepted + relaxed)) / judged)} %` : "–";
    element("tokens").textContent = tokens || "–";
    element("first").textContent = this.firstAt === null ? "–" : `${Math.round(this.firstAt - this.askedAt)} ms`;
  }
}
