// Keeps the moving parts of a page up to date and loads what a page leaves for later. Every page works
// without it. Copyright: vGrid's authors, AGPL-3.0-or-later.
//
//   id="…" data-live     a part that is brought up to date from a fresh copy of the same page
//   data-moving          something moves: look again soon
//   data-load="url"      filled with the element that has the id `data-part` on the page at `url`, again
//                        when `data-for` changes
//   data-keep            its content is not touched by a fresh copy
//   data-end             scrolled to its end
"use strict";
(() => {
  const PERIOD = 2000;
  const SLOWEST = 10000;
  const TIME_LIMIT = 15000;

  let delay = PERIOD;
  let timer = 0;
  let busy = false;
  let stopped = false;
  // What the last fresh copy was made of. The server says 304 while that is the same.
  let tag = "";

  const moving = () => document.querySelector("[data-moving]") !== null;

  async function fetchPage(url, known = "") {
    const headers = { Accept: "text/html" };
    if (known) headers["If-None-Match"] = known;
    const response = await fetch(url, {
      cache: "no-store",
      headers,
      signal: AbortSignal.timeout(TIME_LIMIT),
    });
    if (response.status === 304) return { status: 304, page: null, tag: known };
    const text = await response.text();
    const page = new DOMParser().parseFromString(text, "text/html");
    return { status: response.status, page, tag: response.headers.get("ETag") ?? "" };
  }

  // What makes a child the same one in a fresh copy: its id, or the link that a table's row begins with.
  function key(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    if (node.id) return `#${node.id}`;
    if (node.nodeName !== "TR") return "";
    return node.querySelector("th a")?.getAttribute("href") ?? "";
  }

  // Makes `old` like `fresh` with as few changes as possible: focus, selection and scrolling stay.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (fresh.hasAttribute("data-keep")) return;

    const wanted = [...fresh.childNodes];
    const wantedKeys = new Set(wanted.map(key));
    const known = new Map();
    for (const child of [...old.childNodes]) {
      const name = key(child);
      if (!name) continue;
      if (wantedKeys.has(name)) known.set(name, child);
      else child.remove();
    }
    let at = old.firstChild;
    for (const want of wanted) {
      const name = key(want);
      let have = null;
      if (name) have = known.get(name) ?? null;
      else if (at !== null && key(at) === "") have = at;
      if (have !== null && have.nodeName !== want.nodeName) have = null;
      if (have === null) {
        old.insertBefore(document.importNode(want, true), at);
        continue;
      }
      if (have === at) at = at.nextSibling;
      else old.insertBefore(have, at);
      morph(have, want);
    }
    while (at !== null) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  // Sentences for screen readers, and a line for everybody when the page can't be kept up to date.
  function line(className) {
    const element = document.createElement("p");
    element.className = className;
    element.setAttribute("role", "status");
    document.body.append(element);
    return element;
  }
  const news = line("unseen");
  const trouble = line("trouble");
  trouble.hidden = true;

  function complain(text) {
    if (trouble.textContent !== text) trouble.textContent = text;
    trouble.hidden = text === "";
  }

  function states() {
    const found = new Map();
    for (const row of document.querySelectorAll("tbody tr")) {
      const state = row.querySelector(".s");
      const name = row.querySelector("th a");
      if (state && name) found.set(name.textContent, state.textContent);
    }
    return found;
  }

  function update(page) {
    const before = states();
    const focused = document.activeElement;
    for (const old of document.querySelectorAll("[data-live][id]")) {
      const fresh = page.getElementById(old.id);
      if (fresh) morph(old, fresh);
    }
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
    if (document.title !== page.title) document.title = page.title;
    const said = [];
    for (const [name, state] of states()) {
      if (before.has(name) && before.get(name) !== state) said.push(`${name}: ${state}.`);
    }
    if (said.length > 0) news.textContent = said.join(" ");
    complete();
  }

  async function poll() {
    timer = 0;
    if (busy || stopped || document.hidden || !moving()) return;
    busy = true;
    try {
      const { status, page, tag: fresh } = await fetchPage(location.href, tag);
      if (status === 304) {
        delay = PERIOD;
        complain("");
      } else if (status === 200 && page.querySelector("[data-live]")) {
        delay = PERIOD;
        tag = fresh;
        complain("");
        update(page);
      } else if (status >= 400 && status < 500) {
        // Gone, or no longer ours: asking again would not help.
        stopped = true;
        complain("This page can’t be brought up to date any more. Please reload it.");
      } else {
        throw new Error(`status ${status}`);
      }
    } catch {
      delay = Math.min(delay * 2, SLOWEST);
      complain("The server does not answer. Trying again…");
    } finally {
      busy = false;
      schedule();
    }
  }

  function schedule() {
    if (timer !== 0 || busy || stopped || document.hidden || !moving()) return;
    timer = setTimeout(poll, delay);
  }

  function scrollToEnd(root) {
    for (const element of root.querySelectorAll("[data-end]")) element.scrollTop = element.scrollHeight;
  }

  function sentence(text) {
    const element = document.createElement("p");
    element.className = "quiet";
    element.textContent = text;
    return element;
  }

  const loaded = new WeakMap();

  async function load(box) {
    const wanted = `${box.dataset.load} ${box.dataset.for}`;
    if (loaded.get(box) === wanted) return;
    loaded.set(box, wanted);
    box.setAttribute("aria-busy", "true");
    if (box.childNodes.length === 0) box.append(sentence("Asking the host…"));
    let content;
    try {
      const { page } = await fetchPage(box.dataset.load);
      const part = page.getElementById(box.dataset.part);
      if (part) {
        content = [...part.childNodes].map((node) => document.importNode(node, true));
      } else {
        const why = page.querySelector("main p:not(.code)")?.textContent;
        content = [sentence(why || "It can’t be shown now.")];
      }
    } catch {
      content = [sentence("The host did not answer in time.")];
    }
    box.removeAttribute("aria-busy");
    if (loaded.get(box) !== wanted) return;
    const again = document.createElement("button");
    again.type = "button";
    again.className = "again";
    again.textContent = "Load again";
    again.addEventListener("click", async () => {
      again.disabled = true;
      loaded.delete(box);
      await load(box);
      box.querySelector("button.again")?.focus({ preventScroll: true });
    });
    box.replaceChildren(...content, again);
    scrollToEnd(box);
  }

  function complete() {
    for (const box of document.querySelectorAll("[data-load]")) load(box);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      timer = 0;
    } else {
      poll();
    }
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) poll();
  });

  scrollToEnd(document);
  complete();
  schedule();
})();
