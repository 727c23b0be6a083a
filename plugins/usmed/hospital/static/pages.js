// Asks now and then how the enrolment stands and shows the page anew when it moves on; writes times as the clock on the
// wall has them; prints. Without it the pages work too: they load themselves anew.
"use strict";

const POLL_MS = 2000;
const mark = document.querySelector("[data-poll]");
const words = document.querySelector("[data-problem]");

function say(good) {
  if (words) words.textContent = good ? words.dataset.usual : words.dataset.problem;
}

async function look() {
  try {
    const answer = await fetch(mark.dataset.poll, { headers: { Accept: "application/json" }, cache: "no-store" });
    const now = await answer.json();
    if (answer.ok && now.State !== mark.dataset.state) {
      location.reload();
      return;
    }
    say(answer.ok && !now.Problem);
  } catch (error) {
    say(false);
  }
  setTimeout(look, POLL_MS);
}

if (mark) setTimeout(look, POLL_MS);

for (const one of document.querySelectorAll("time[datetime]")) {
  one.textContent = new Date(one.dateTime).toLocaleString(document.documentElement.lang, {
    dateStyle: "medium",
    timeStyle: "short",
  });
}

for (const one of document.querySelectorAll("[data-print]")) {
  one.hidden = false;
  one.addEventListener("click", () => window.print());
}

// A second click must not send a form twice.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => {
    setTimeout(() => form.querySelectorAll("button").forEach((one) => (one.disabled = true)), 0);
  });
}

// A form with a file. Orthanc keeps what is called multipart/form-data for itself, so it is sent under another name; what
// comes back is the next page, or this one with what is wrong.
async function send(form) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    // Of the packed form and not of its blob, which writes the boundary small.
    const packed = new Response(new FormData(form));
    const type = packed.headers.get("Content-Type").replace("multipart/form-data", "multipart/x-usmed-form");
    const body = await packed.blob();
    const answer = await fetch(form.action, { method: "POST", headers: { "Content-Type": type }, body });
    if (answer.redirected) return location.assign(answer.url);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    if (!fresh) throw new Error("no page");
    document.querySelector("main").replaceWith(fresh);
    watchForms();
    const message = document.querySelector(".message");
    if (message) message.scrollIntoView({ block: "center" });
  } catch {
    form.querySelector("[data-failed]").hidden = false;
    button.disabled = false;
  }
}

function watchForms() {
  for (const form of document.querySelectorAll("form[data-file]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(form);
    });
  }
}

watchForms();

// A part of the page that changes by itself is loaded anew, now and then. Only rows that are others are exchanged, never the one
// that somebody is in, so that nobody loses a place, a focus or a selection.
const LIVE_MS = 3000;

function exchange(rows, fresh) {
  const old = new Map([...rows.children].map((one) => [one.dataset.key, one]));
  let place = rows.firstElementChild;
  for (const one of [...fresh.children]) {
    const known = old.get(one.dataset.key);
    old.delete(one.dataset.key);
    const keep = known && (known.outerHTML === one.outerHTML || known.contains(document.activeElement));
    const shown = keep ? known : document.importNode(one, true);
    if (shown === place) place = place.nextElementSibling;
    else rows.insertBefore(shown, place);
    if (known && !keep) {
      if (known === place) place = place.nextElementSibling;
      known.remove();
    }
  }
  for (const one of old.values()) one.remove();
}

async function refresh() {
  const live = document.querySelector("[data-live]");
  try {
    if (!document.hidden) {
      const answer = await fetch(location.href, { cache: "no-store" });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-live]");
      const names = (part) => [...part.querySelectorAll("[data-rows]")].map((one) => one.dataset.rows).join();
      if (answer.ok && fresh && names(live) === names(fresh)) {
        for (const rows of live.querySelectorAll("[data-rows]")) {
          exchange(rows, fresh.querySelector(`[data-rows="${rows.dataset.rows}"]`));
        }
      } else if (answer.ok && fresh) live.replaceWith(document.importNode(fresh, true));
    }
  } catch {
    // The next time.
  }
  setTimeout(refresh, LIVE_MS);
}

if (document.querySelector("[data-live]")) setTimeout(refresh, LIVE_MS);
