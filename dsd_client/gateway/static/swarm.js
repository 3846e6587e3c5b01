// The swarm: who holds which layers, how far they are, and how busy.

import { get } from "./gateway.js";

const element = (id) => document.getElementById(id);
const POLL_MILLISECONDS = 3000;

/** Draw the swarm now, and again every few seconds while anybody looks. */
export async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, POLL_MILLISECONDS);
}

async function look() {
  try {
    draw(await get("/v1/dsd/swarm"));
  } catch (error) {
    element("coverage-text").textContent = error.message;
  }
}

function draw(swarm) {
  drawCoverage(swarm);
  element("load-speed").textContent = swarm.load.tokens_per_second.toFixed(1);
  element("load-running").textContent = swarm.load.running;
  element("load-waiting").textContent = swarm.load.waiting;
  element("peers").replaceChildren(...swarm.peers.map((peer) => peerItem(peer, swarm.coverage.length)));
}

function drawCoverage({ coverage, is_covered }) {
  const holes = coverage.filter((count) => !count).length;
  const text = is_covered
    ? `All ${coverage.length} layers are served, each by ${Math.min(...coverage)} or more.`
    : holes
      ? `${holes} of ${coverage.length} layers are served by nobody.`
      : "Nobody serves this model.";
  element("coverage-text").textContent = text;
  element("coverage").setAttribute("aria-label", text);
  element("coverage").replaceChildren(...coverage.map(layerCell));
}

function layerCell(count, layer) {
  const cell = document.createElement("span");
  cell.className = count > 1 ? "often" : count ? "once" : "never";
  cell.title = `layer ${layer}: ${count} ${count === 1 ? "peer" : "peers"}`;
  return cell;
}

function peerItem(peer, layers) {
  const item = document.createElement("li");
  item.className = peer.state;
  item.append(row("title", text("span", "address", peer.address), text("span", "state", peer.state)));
  if (peer.layers) item.append(spanBar(peer.layers, Math.max(layers, peer.num_layers)));
  const facts = factsOf(peer);
  if (facts) item.append(text("div", "facts", facts));
  if (peer.problem) item.append(text("div", "problem", peer.problem));
  return item;
}

function spanBar([first, end], layers) {
  const bar = row("span", document.createElement("i"));
  bar.firstChild.style.left = `${(100 * first) / layers}%`;
  bar.firstChild.style.width = `${(100 * (end - first)) / layers}%`;
  return bar;
}

function factsOf(peer) {
  const facts = [];
  if (peer.layers) facts.push(`layers ${peer.layers[0]}–${peer.layers[1] - 1}`);
  if (peer.round_trip_seconds !== null) facts.push(`${(1000 * peer.round_trip_seconds).toFixed(1)} ms away`);
  if (peer.tokens_per_second !== null) facts.push(`${peer.tokens_per_second.toFixed(0)} tokens/s`);
  if (peer.total_positions) facts.push(`${Math.round(100 * (1 - peer.free_positions / peer.total_positions))} % full`);
  if (peer.dtype) facts.push(peer.dtype);
  return facts.join(" · ");
}

function row(kind, ...children) {
  const made = document.createElement("div");
  made.className = kind;
  made.append(...children);
  return made;
}

function text(tag, kind, content) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = content;
  return made;
}
