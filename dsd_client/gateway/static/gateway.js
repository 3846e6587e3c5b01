// The gateway's HTTP interface.

const keyField = document.getElementById("key");
keyField.value = sessionStorage.getItem("key") ?? "";
keyField.addEventListener("change", () => sessionStorage.setItem("key", keyField.value));

function headers() {
  const key = keyField.value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function failureOf(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the gateway answered ${response.status}`);
}

/** The JSON at a path. Throws an Error with the gateway's own words. */
export async function get(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw await failureOf(response);
  return response.json();
}

/** The events of a streamed answer. Throws an Error with the gateway's own words, in the middle of it too. */
export async function* stream(path, body, signal) {
  const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw await failureOf(response);
  for await (const data of eventsOf(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    yield event;
  }
  throw new Error("the connection to the gateway broke before the answer had ended");
}

async function* eventsOf(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) yield event.slice(6);
  }
}
