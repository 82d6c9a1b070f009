// What pages do: theme, tables that sort and filter, pictures that take turns. Without it all is still there.
"use strict";
(() => {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // Theme: as the system, light, dark. A browser that keeps nothing for files forgets it.
  const theme = document.getElementById("theme");
  const words = { "": "as the system", light: "light", dark: "dark" };
  const kept = () => { try { return localStorage.getItem("somite-theme") || ""; } catch { return ""; } };
  const show = (value) => {
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    theme.textContent = `Theme: ${words[value]}`;
  };
  if (theme) {
    theme.hidden = false;
    show(kept() in words ? kept() : "");
    theme.addEventListener("click", () => {
      const order = Object.keys(words);
      const now = document.documentElement.dataset.theme || "";
      const next = order[(order.indexOf(now) + 1) % order.length];
      try { localStorage.setItem("somite-theme", next); } catch { /* nothing is kept */ }
      show(next);
    });
  }

  // Tables. A cell sorts by its data-sort where it has one, else by its text; what lacks comes last.
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keyOf = (cell, numeric) => {
    const text = cell.dataset.sort ?? cell.textContent.trim();
    if (!numeric) return text === "" ? null : text;
    const number = parseFloat(text);
    return Number.isNaN(number) ? null : number;
  };
  const sortBy = (table, column, direction) => {
    const head = table.tHead.rows[0].cells;
    const numeric = head[column].classList.contains("number");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row, index) => ({ row, index, key: keyOf(row.cells[column], numeric) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
      const order = numeric ? a.key - b.key : collator.compare(a.key, b.key);
      return direction * order || a.index - b.index;
    });
    body.append(...keyed.map((item) => item.row));
    for (const [i, cell] of [...head].entries()) {
      if (i === column) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
  };
  const addSorting = (table) => {
    for (const [column, cell] of [...table.tHead.rows[0].cells].entries()) {
      const button = make("button", { type: "button" });
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        sortBy(table, column, cell.getAttribute("aria-sort") === "ascending" ? -1 : 1);
      });
    }
  };
  const addFilters = (holder, table) => {
    const rows = [...table.tBodies[0].rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const search = make("input", { type: "search", spellcheck: false, autocomplete: "off" });
    const told = make("output", {});
    told.setAttribute("aria-live", "polite");
    const choices = [];
    for (const [column, cell] of [...table.tHead.rows[0].cells].entries()) {
      if (!("choose" in cell.dataset)) continue;
      const select = make("select", {}, make("option", { value: "", textContent: "all" }));
      const values = new Set(rows.map((row) => row.cells[column].textContent.trim()));
      for (const value of [...values].sort(collator.compare)) {
        select.append(make("option", { value: value === "" ? " " : value, textContent: value || "(none)" }));
      }
      choices.push([column, select]);
    }
    const apply = () => {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const [i, row] of rows.entries()) {
        const fits = wanted.every((word) => texts[i].includes(word)) && choices.every(([column, select]) =>
          select.value === "" || row.cells[column].textContent.trim() === select.value.trim());
        row.hidden = !fits;
        count += fits;
      }
      told.textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
    };
    const bar = make("div", { className: "bar" }, make("label", {}, "Filter", search));
    for (const [column, select] of choices) {
      bar.append(make("label", {}, table.tHead.rows[0].cells[column].textContent.trim(), select));
      select.addEventListener("change", apply);
    }
    bar.append(told);
    holder.prepend(bar);
    search.addEventListener("input", apply);
    apply();
  };
  for (const holder of document.querySelectorAll(".table[data-tools]")) {
    const table = holder.querySelector("table");
    addFilters(holder, table);
    addSorting(table);
  }

  // Pairs of pictures: a button swaps them, another lets them take turns, a slider cuts one open.
  const pair = (figure) => {
    const stack = figure.querySelector(".stack");
    if (stack.querySelectorAll("img").length !== 2) return;
    const swap = make("button", { type: "button", textContent: "Swap" });
    const turns = make("button", { type: "button", textContent: "Flicker" });
    const slider = make("input", { type: "range", min: 0, max: 100, step: 1 });
    const [first, second] = [...stack.querySelectorAll(".which")].map((label) => label.textContent);
    let timer = 0;
    const cut = (percent) => {
      slider.value = percent;
      stack.style.setProperty("--cut", `${percent}%`);
      const shown = percent >= 100 ? first : percent <= 0 ? second : `${first} | ${second}`;
      slider.setAttribute("aria-valuetext", shown);
      swap.setAttribute("aria-pressed", String(percent <= 0));
    };
    const other = () => cut(slider.value > 0 ? 0 : 100);
    const halt = () => {
      clearInterval(timer);
      timer = 0;
      turns.setAttribute("aria-pressed", "false");
    };
    swap.addEventListener("click", () => { halt(); other(); });
    stack.addEventListener("click", () => { halt(); other(); });
    slider.addEventListener("input", () => { halt(); cut(slider.value); });
    turns.addEventListener("click", () => {
      if (timer) { halt(); return; }
      timer = setInterval(other, 700);
      turns.setAttribute("aria-pressed", "true");
    });
    const controls = make("div", { className: "controls" }, swap, turns,
      make("label", {}, "Slider", slider));
    controls.setAttribute("role", "group");
    controls.setAttribute("aria-label", `${first} against ${second}`);
    stack.before(controls);
    stack.classList.add("live");
    halt();
    cut(100);
  };
  for (const figure of document.querySelectorAll("[data-pair]")) pair(figure);

  // The section in sight is marked in the contents.
  const links = new Map();
  for (const link of document.querySelectorAll(".contents a[href^='#']")) {
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (target) links.set(target, link);
  }
  if (links.size) {
    const inSight = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) inSight[entry.isIntersecting ? "add" : "delete"](entry.target);
      const top = [...links.keys()].find((target) => inSight.has(target));
      for (const [target, link] of links) {
        if (target === top) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "0px 0px -40% 0px" });
    for (const target of links.keys()) observer.observe(target);
  }
})();
