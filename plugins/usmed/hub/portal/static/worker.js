// Keeps the first page as it was last seen, for when there is no network, and says so on it. Nothing else, and nothing
// once somebody has logged out or the session was over.
"use strict";

const PAGES = "pages";
const LOOKS = "looks";
const HOME = new URL(self.registration.scope).pathname;
const LONGEST_MS = 7 * 24 * 60 * 60 * 1000;

async function forget() {
  for (const name of await caches.keys()) await caches.delete(name);
}

async function keepLooks(text) {
  const looks = await caches.open(LOOKS);
  const wanted = [...text.matchAll(/(?:href|src)="([^"]*\/static\/[^"]+)"/g)].map((one) => one[1]);
  await Promise.all([...new Set(wanted)].map((one) => looks.add(one).catch(() => undefined)));
}

async function keep(answer) {
  const text = await answer.text();
  // Only a page of somebody who is inside.
  if (!text.includes("data-inside")) return forget();
  const headers = { "Content-Type": "text/html; charset=utf-8", "X-Kept": String(Date.now()) };
  for (const name of ["Content-Security-Policy", "Referrer-Policy", "X-Content-Type-Options"]) {
    if (answer.headers.has(name)) headers[name] = answer.headers.get(name);
  }
  const offline = text.replace("<html ", '<html data-kept="1" ');
  await (await caches.open(PAGES)).put(HOME, new Response(offline, { headers }));
  return keepLooks(text);
}

async function page(event) {
  const isHome = new URL(event.request.url).pathname === HOME;
  try {
    const answer = await fetch(event.request);
    if (new URL(answer.url || event.request.url).pathname === `${HOME}login`) event.waitUntil(forget());
    else if (isHome && answer.ok) event.waitUntil(keep(answer.clone()));
    return answer;
  } catch (error) {
    const kept = isHome && (await caches.match(HOME, { cacheName: PAGES }));
    if (!kept || Date.now() - Number(kept.headers.get("X-Kept")) > LONGEST_MS) throw error;
    return kept;
  }
}

async function look(request) {
  try {
    return await fetch(request);
  } catch (error) {
    const kept = await caches.match(request, { cacheName: LOOKS });
    if (kept) return kept;
    throw error;
  }
}

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const path = new URL(event.request.url).pathname;
  if (event.request.method === "POST" && path === `${HOME}logout`) event.waitUntil(forget());
  else if (event.request.mode === "navigate") event.respondWith(page(event));
  else if (event.request.method === "GET" && path.startsWith(`${HOME}static/`)) event.respondWith(look(event.request));
});
