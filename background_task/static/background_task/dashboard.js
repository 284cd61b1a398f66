// Keeps the dashboard fresh: asks for the part that changes, every few seconds, and
// changes in the page only what differs, so that the focus stays where it is. Sleeps
// while nobody looks. Without it the page is as it was when it was loaded.
(() => {
  "use strict";

  const EVERY = 2500; // ms, from one answer to the next question
  const TOO_LONG = 15000; // ms to wait for an answer
  const RETRIES = [5000, 10000, 20000, 30000]; // ms, after one failure, two, ...

  const live = document.getElementById("bgt-live");
  const status = document.getElementById("bgt-status");
  const hold = document.getElementById("bgt-hold");
  if (!live) return;

  let timer = null; // the next question
  let asking = false;
  let failures = 0;
  let isHeld = false;
  let isOut = false; // logged out, or not allowed any more

  // One of the sentences that the page brought along, or another text.
  function say(what) {
    const text = status.dataset[what] ?? what;
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("bgt-bad", what === "lost" || what === "out");
  }

  function plan(wait) {
    clearTimeout(timer);
    timer = null;
    if (!document.hidden && !isHeld && !isOut) timer = setTimeout(ask, wait);
  }

  async function ask() {
    if (asking) return;
    asking = true;
    try {
      const response = await fetch(live.dataset.address, {
        credentials: "same-origin",
        redirect: "manual",
        signal: AbortSignal.timeout(TOO_LONG),
      });
      if (response.type === "opaqueredirect" || [401, 403, 404].includes(response.status)) {
        isOut = true;
        hold.hidden = true; // there is nothing to be held, nor to go on
        say("out");
      } else if (!response.ok) {
        throw new Error(response.status);
      } else {
        const html = await response.text();
        if (!isHeld) say(show(html) || (failures ? "back" : ""));
        failures = 0;
      }
    } catch {
      failures += 1;
      say("lost");
    } finally {
      asking = false;
      plan(failures ? RETRIES[Math.min(failures, RETRIES.length) - 1] : EVERY);
    }
  }

  // Returns the new state of the whole in words, if it has changed. Throws what is no
  // dashboard.
  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").body;
    // It may be a page of a proxy's, such as one that says "Maintenance".
    if (!stateIn(fresh)) throw new Error("no dashboard");
    const before = health();
    const focused = document.activeElement;
    const section = focused && focused.closest("section");
    follow(live, fresh);
    // What had the focus is gone: its section has it, not the top of the page.
    if (section && !focused.isConnected) section.querySelector("h2")?.focus();
    return health() === before ? "" : health();
  }

  function health() {
    return stateIn(live).textContent;
  }

  function stateIn(part) {
    return part.querySelector("#bgt-health .bgt-state");
  }

  // Make the children of `mine` as those of `fresh`. An element is the same one if its
  // id is, or if it has none and neither has the one in its place.
  function follow(mine, fresh) {
    const known = new Map();
    for (const child of mine.children) if (child.id) known.set(child.id, child);
    let at = mine.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      let same = wanted.id ? known.get(wanted.id) : at;
      if (!same || !isAlike(same, wanted)) {
        mine.insertBefore(wanted, at);
        continue;
      }
      if (same === at) at = at.nextSibling;
      else mine.insertBefore(same, at);
      update(same, wanted);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function isAlike(one, other) {
    return one.nodeType === other.nodeType && one.nodeName === other.nodeName
      && (one.id || "") === (other.id || "");
  }

  function update(mine, fresh) {
    if (mine.nodeType !== Node.ELEMENT_NODE) {
      if (mine.nodeValue !== fresh.nodeValue) mine.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...mine.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") mine.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (mine.getAttribute(name) !== value) mine.setAttribute(name, value);
    }
    follow(mine, fresh);
  }

  document.addEventListener("visibilitychange", () => plan(0));
  hold.hidden = false;
  hold.addEventListener("click", () => {
    isHeld = !isHeld;
    hold.textContent = isHeld ? hold.dataset.go : hold.dataset.hold;
    say(isHeld ? "held" : "on");
    plan(0);
  });
  plan(EVERY);
})();
