// Talks to the browser's WebAuthn, looks now and then whether a page has changed, and starts what keeps the first page
// for when there is no network. Without it everything can be read and chosen; only a passkey needs it.
"use strict";

const say = document.body.dataset;
const fromText = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

async function post(path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": say.csrf },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error(say.noNetwork);
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.message || say.sorry);
  return content;
}

const decoded = (list) => (list || []).map((one) => ({ ...one, id: fromText(one.id) }));

async function create({ publicKey }) {
  publicKey.challenge = fromText(publicKey.challenge);
  publicKey.user.id = fromText(publicKey.user.id);
  publicKey.excludeCredentials = decoded(publicKey.excludeCredentials);
  return written(await navigator.credentials.create({ publicKey }), ["clientDataJSON", "attestationObject"]);
}

async function get({ publicKey }) {
  publicKey.challenge = fromText(publicKey.challenge);
  publicKey.allowCredentials = decoded(publicKey.allowCredentials);
  const names = ["clientDataJSON", "authenticatorData", "signature"];
  return written(await navigator.credentials.get({ publicKey }), names);
}

function written(credential, names) {
  const response = Object.fromEntries(names.map((name) => [name, toText(credential.response[name])]));
  return { id: credential.id, rawId: toText(credential.rawId), type: credential.type, response };
}

async function run(form) {
  const message = form.querySelector(".message");
  const button = form.querySelector("button");
  const label = button.querySelector("span");
  const text = label.textContent;
  message.hidden = true;
  button.disabled = true;
  label.textContent = button.dataset.busy;
  try {
    if (!window.PublicKeyCredential) throw new Error(say.noPasskeys);
    const options = await post(form.dataset.options, {});
    const response = await (form.dataset.ceremony === "register" ? create(options) : get(options));
    const { next } = await post(form.dataset.finish, { response });
    location.assign(next);
  } catch (error) {
    // What the browser itself says is in its own language, and for programmers.
    message.textContent = error instanceof DOMException ? say.cancelled : error.message || say.sorry;
    message.hidden = false;
    button.disabled = false;
    label.textContent = text;
    button.focus();
  }
}

for (const form of document.querySelectorAll("form[data-ceremony]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(form);
  });
}

// A part of a page that changes by itself: asked for anew, and exchanged only if it says something else.
async function poll(part) {
  try {
    const answer = await fetch(location.href, { headers: { "X-Poll": "1" } });
    if (answer.redirected) return location.assign(answer.url);
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(part.id);
      if (!fresh) return location.reload();
      if (fresh.innerHTML !== part.innerHTML) part.replaceChildren(...fresh.childNodes);
      if (!fresh.dataset.poll) return undefined;
    }
  } catch {
    // No network: the next time.
  }
  return setTimeout(poll, part.dataset.poll * 1000, part);
}

for (const part of document.querySelectorAll("[data-poll]")) setTimeout(poll, part.dataset.poll * 1000, part);

if (document.documentElement.dataset.kept) {
  for (const line of document.querySelectorAll("[data-offline]")) line.hidden = false;
}

if ("serviceWorker" in navigator && "inside" in say) {
  navigator.serviceWorker.register(say.worker).catch(() => undefined);
}
