// Talks to the browser's WebAuthn, and nothing else: every form with data-ceremony asks the server for options, has the
// browser sign, and sends back what was signed. Without it the pages can be read, and nothing can be decided.
"use strict";

const fromText = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": document.body.dataset.csrf },
    body: JSON.stringify(body),
  });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.message || `${answer.status}`);
  return content;
}

const decoded = (list) => (list || []).map((one) => ({ ...one, id: fromText(one.id) }));

async function create({ publicKey }) {
  publicKey.challenge = fromText(publicKey.challenge);
  publicKey.user.id = fromText(publicKey.user.id);
  publicKey.excludeCredentials = decoded(publicKey.excludeCredentials);
  const made = await navigator.credentials.create({ publicKey });
  return written(made, ["clientDataJSON", "attestationObject"]);
}

async function get({ publicKey }) {
  publicKey.challenge = fromText(publicKey.challenge);
  publicKey.allowCredentials = decoded(publicKey.allowCredentials);
  const signed = await navigator.credentials.get({ publicKey });
  return written(signed, ["clientDataJSON", "authenticatorData", "signature"]);
}

function written(credential, names) {
  const response = Object.fromEntries(names.map((name) => [name, toText(credential.response[name])]));
  return { id: credential.id, rawId: toText(credential.rawId), type: credential.type, response };
}

async function run(form, submitter) {
  const message = form.querySelector(".message");
  const buttons = [...form.querySelectorAll("button")];
  message.hidden = true;
  buttons.forEach((one) => (one.disabled = true));
  try {
    const given = Object.fromEntries([...form.querySelectorAll("input")].map((one) => [one.name, one.value]));
    if (submitter && submitter.name) given[submitter.name] = submitter.value;
    const options = await post(form.dataset.options, given);
    const response = await (form.dataset.ceremony === "register" ? create(options) : get(options));
    const { next } = await post(form.dataset.finish, { ...given, response });
    location.assign(next);
  } catch (error) {
    message.textContent = error.message;
    message.hidden = false;
    buttons.forEach((one) => (one.disabled = false));
  }
}

for (const form of document.querySelectorAll("form[data-ceremony]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(form, event.submitter);
  });
}
