// What the page does beyond links and folding: figures under the pointer, the same target lit up
// everywhere, tables that sort, and everything open on paper. It reads the page's own elements and
// writes text only; without it nothing is missing from the page.
(() => {
  const root = document.currentScript?.closest("main")?.parentNode ?? document;
  const all = (selector, from = root) => [...from.querySelectorAll(selector)];

  // Figures of a mark, at once and for the keyboard too; the mark's own title would come second.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("aria-hidden", "true");
  tip.hidden = true;
  (root.body ?? root).append(tip);

  const light = (number, on) => {
    if (number === undefined) return;
    for (const one of all(`[data-t="${CSS.escape(number)}"]`)) one.classList.toggle("lit", on);
  };
  // Marks that lie under one another are one place for the pointer: it names all of them.
  const middle = (point) => {
    const box = point.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const beneath = (point) => {
    const [x, y] = middle(point);
    return all("a.point", point.ownerSVGElement).filter((other) => {
      const [left, top] = middle(other);
      return other !== point && Math.hypot(left - x, top - y) < 8;
    }).map((other) => other.said[0]);
  };
  const show = (point) => {
    const others = beneath(point);
    const lines = others.length ? [...point.said, `Also here: ${others.join(", ")}`] : point.said;
    tip.replaceChildren(...lines.map((line) => {
      const row = document.createElement("div");
      row.textContent = line;
      return row;
    }));
    tip.hidden = false;
    const mark = point.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = mark.left + mark.width / 2 - own.width / 2;
    const above = mark.top - own.height - 6;
    const wide = document.documentElement.clientWidth;
    tip.style.left = `${scrollX + Math.max(8, Math.min(left, wide - own.width - 8))}px`;
    tip.style.top = `${scrollY + (above > 4 ? above : mark.bottom + 6)}px`;
  };
  for (const point of all("a.point")) {
    const title = point.querySelector("title");
    point.said = (title?.textContent ?? "").split("\n");
    title?.remove();
    const on = () => { show(point); light(point.dataset.t, true); };
    const off = () => { tip.hidden = true; light(point.dataset.t, false); };
    point.addEventListener("pointerenter", on);
    point.addEventListener("focus", on);
    point.addEventListener("pointerleave", off);
    point.addEventListener("blur", off);
    point.addEventListener("keydown", (event) => { if (event.key === "Escape") off(); });
  }

  // Tables: a button in each heading that can order the lines; what is not known comes last.
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const down = was ? was === "ascending" : head.dataset.sort !== "text";
        for (const other of all("th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (line) => {
          const text = line.cells[column].dataset.v ?? "";
          return head.dataset.sort === "text" ? text : text === "" ? NaN : Number(text);
        };
        const known = (value) => value !== "" && !Number.isNaN(value);
        const lines = [...body.rows].map((line) => [key(line), line]);
        lines.sort(([a], [b]) => known(b) - known(a) || (known(a)
          ? (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) : 0));
        body.append(...lines.map(([, line]) => line));
      });
    });
  }

  // On paper nothing can be unfolded.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

  // A mark or link that leads to a target unfolds its account.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const inside = target && target.querySelector(":scope > div > details");
    if (inside) inside.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
