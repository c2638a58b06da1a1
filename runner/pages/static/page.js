"use strict";
(() => {
  const LIVE_MS = 2000;
  const steps = () => [...document.querySelectorAll(".step")].filter((step) => step.checkVisibility());
  const announce = (text) => { document.getElementById("status").textContent = text; };

  // Return the index of the current step: the focused one, or else the one before the first in view.
  function currentStep(all) {
    const focused = document.activeElement.closest(".step");
    if (focused) return all.indexOf(focused);
    return all.findIndex((step) => step.getBoundingClientRect().bottom > 80) - 1;
  }

  function go(step) {
    if (!step) return;
    step.focus({ preventScroll: true });
    step.scrollIntoView({ block: "start" });
  }

  function move(by) {
    const all = steps();
    go(all[Math.min(Math.max(currentStep(all) + by, 0), all.length - 1)]);
  }

  function fold() {
    const step = document.activeElement.closest(".step");
    if (!step) return;
    const parts = [...step.querySelectorAll("details")];
    const open = parts.some((part) => !part.open);
    parts.forEach((part) => { part.open = open; });
  }

  const field = document.getElementById("search");
  let matches = [];

  function search() {
    const wanted = field.value.trim().toLowerCase();
    matches = [];
    for (const step of document.querySelectorAll(".step")) {
      const isMatch = wanted !== "" && step.textContent.toLowerCase().includes(wanted);
      step.classList.toggle("is-found", isMatch);
      if (isMatch) {
        matches.push(step);
        const trial = step.closest("details.trial");
        if (trial) trial.open = true;
        for (const part of step.querySelectorAll("details")) {
          if (part.textContent.toLowerCase().includes(wanted)) part.open = true;
        }
      }
    }
    const summary = wanted === "" ? "" : `${matches.length} step${matches.length === 1 ? "" : "s"} found`;
    document.getElementById("found").textContent = summary;
    announce(summary);
  }

  function next() {
    if (matches.length === 0) return;
    const at = matches.indexOf(document.activeElement.closest(".step"));
    go(matches[(at + 1) % matches.length]);
  }

  if (field) {
    field.addEventListener("input", search);
    field.form.addEventListener("submit", (event) => { event.preventDefault(); next(); });
  }

  const keys = document.getElementById("keys");
  for (const button of document.querySelectorAll("[data-keys]")) button.addEventListener("click", () => keys.showModal());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && event.target === field) { field.value = ""; search(); field.blur(); return; }
    if (typing) return;
    const actions = { j: () => move(1), k: () => move(-1), o: fold, n: next, "?": () => keys.showModal(), "/": () => field && field.focus() };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });

  // Open the folded trial that a link leads into.
  function openTarget() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const trial = target.closest("details.trial");
    if (trial) trial.open = true;
    if (target.matches(".step")) go(target); else target.scrollIntoView();
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();

  // While a job runs, load the page's new content. What is open, focused and found stays so.
  async function refresh() {
    const main = document.getElementById("main");
    if (!main.hasAttribute("data-live")) return;
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById("main");
      if (response.ok && fresh && fresh.innerHTML !== main.dataset.last) {
        const open = new Map([...main.querySelectorAll("details[id]")].map((part) => [part.id, part.open]));
        const step = document.activeElement.closest(".step");
        const focused = step ? step.id : document.activeElement.id;
        const before = fresh.innerHTML;
        for (const part of fresh.querySelectorAll("details[id]")) if (open.has(part.id)) part.open = open.get(part.id);
        main.replaceChildren(...fresh.childNodes);
        main.dataset.last = before;
        if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
        if (field) search();
        if (!fresh.hasAttribute("data-live")) { main.removeAttribute("data-live"); announce("The job has finished."); }
      }
    } catch (error) {
      announce("The server does not respond; trying again.");
    }
    if (main.hasAttribute("data-live")) setTimeout(refresh, LIVE_MS);
  }
  setTimeout(refresh, LIVE_MS);
})();
