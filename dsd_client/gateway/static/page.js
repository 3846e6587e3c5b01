// The page: a chat on one side, the swarm on the other.

import * as chat from "./chat.js";
import { get } from "./gateway.js";
import * as swarm from "./swarm.js";

const RETRY_MILLISECONDS = 3000;
const ready = document.getElementById("ready");

function say(state, text) {
  ready.className = state;
  ready.textContent = text;
}

/** Until the gateway tells what it serves: it may still want its key. */
async function connect() {
  try {
    const { data } = await get("/v1/models");
    document.getElementById("model").textContent = data[0].id;
    chat.start(data[0].id);
    watchReadiness();
    swarm.watch();
  } catch (error) {
    say("no", error.message);
    setTimeout(connect, RETRY_MILLISECONDS);
  }
}

async function watchReadiness() {
  if (!document.hidden) await askReadiness();
  setTimeout(watchReadiness, 3 * RETRY_MILLISECONDS);
}

async function askReadiness() {
  try {
    await get("/ready");
    say("yes", "ready");
  } catch (error) {
    say("no", "not ready");
    ready.title = error.message;
  }
}

connect();
