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
