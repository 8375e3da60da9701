"use strict";
// What a report answers: values under the pointer and by the arrow keys, methods switched on and off, sorted columns.
(() => {
  const data = JSON.parse(document.getElementById("answers").textContent);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const drawn = (svg, name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return svg.appendChild(element);
  };
  const off = new Set();
  const changed = [];

  // Switches
  const names = document.querySelector(".names");
  const boxes = [...names.children].map((entry, i) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      box.checked ? off.delete(i) : off.add(i);
      for (const part of document.querySelectorAll(`.of-${i}`)) part.style.display = box.checked ? "" : "none";
      changed.forEach((tell) => tell());
    });
    entry.replaceChildren(make("label", {}, box, ...entry.childNodes));
    return box;
  });
  const all = (on) => () => boxes.filter((box) => box.checked !== on).forEach((box) => box.click());
  if (boxes.length > 2) {
    for (const [text, on] of [["All", true], ["None", false]]) {
      const button = make("button", { type: "button", textContent: text });
      button.addEventListener("click", all(on));
      names.append(make("li", {}, button));
    }
  }
  document.documentElement.classList.add("live");

  // Sorted columns: by a head's button, and where there is no head by a list; what is missing stays last.
  for (const table of document.querySelectorAll("table.summary")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], first = [...body.rows];
    const value = (row, column) => {
      const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
      return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
    };
    const sort = (column, descending) => {
      const sign = descending ? -1 : 1;
      const rows = first.slice().sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      body.append(...rows);
      heads.forEach((head, i) => {
        if (i === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      choice.value = `${column}${descending ? "d" : "a"}`;
    };
    const choice = make("select", {}, make("option", { value: "", textContent: "as given" }));
    heads.forEach((head, column) => {
      const title = head.textContent;
      const button = make("button", { type: "button", textContent: title });
      button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
      head.replaceChildren(button);
      for (const [key, way] of [["a", "upwards"], ["d", "downwards"]]) {
        choice.append(make("option", { value: `${column}${key}`, textContent: `${title}, ${way}` }));
      }
    });
    choice.addEventListener("change", () => {
      if (choice.value) sort(parseInt(choice.value), choice.value.endsWith("d"));
      else {
        body.append(...first);
        heads.forEach((head) => head.removeAttribute("aria-sort"));
      }
    });
    table.before(make("label", { className: "sorting" }, "Sorted by ", choice));
  }

  // Values under the pointer, and by the arrow keys
  for (const [name, told] of Object.entries(data.figures)) {
    const plot = document.getElementById(`plot-${name}`), svg = plot.querySelector("svg");
    const [left, top, right, bottom] = told.box, along = told.along;
    const guide = drawn(svg, "line", { class: "guide" });
    const rings = told.lines.map(({ of }) =>
      drawn(svg, "circle", { class: "ring", r: 4.5, style: `fill:${of < 0 ? "none" : data.colours[of]}` }));
    const tip = plot.appendChild(make("div", { className: "tip", hidden: true }));
    tip.setAttribute("role", "status");
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${plot.closest("figure").querySelector("h3").textContent}: arrow keys tell values`);
    let place = null;

    const shown = ({ of }) => !off.has(of);
    const at = (line) => {
      let found = -1;
      line[along].forEach((x, k) => {
        if (told.step ? x <= place + 0.05 : Math.abs(x - place) < 0.05) found = k;
      });
      return found;
    };
    const places = () => {
      const there = new Set(told.lines.filter(shown).flatMap((line) => line[along]));
      return told.at.filter((x) => there.has(x));
    };
    const hide = () => {
      place = null;
      plot.classList.remove("asked");
      tip.hidden = true;
    };
    const show = (x) => {
      place = x;
      const rows = [];
      told.lines.forEach((line, i) => {
        const k = shown(line) ? at(line) : -1;
        rings[i].style.display = k < 0 || line.of < 0 || line.x[k] < left + 0.05 ? "none" : "";
        if (k < 0) return;
        rings[i].setAttribute("cx", line.x[k]);
        rings[i].setAttribute("cy", line.y[k]);
        rows.push({ line, say: line.say[k], up: along === "x" ? line.y[k] : -line.x[k] });
      });
      if (told.step || along === "y") rows.sort((a, b) => a.up - b.up);
      const ends = along === "x" ? { x1: x, x2: x, y1: top, y2: bottom } : { x1: left, x2: right, y1: x, y2: x };
      for (const [key, value] of Object.entries(ends)) guide.setAttribute(key, value);
      plot.classList.add("asked");
      const list = rows.map(({ line, say }) => {
        const key = line.of < 0 ? "" : boxes[line.of].parentElement.querySelector(".swatch").cloneNode(true);
        return make("li", {}, key, make("span", { textContent: line.name }), make("b", { textContent: say }));
      });
      tip.replaceChildren(make("p", { textContent: told.head[told.at.indexOf(x)] }), make("ul", {}, ...list));
      tip.hidden = false;
      // Beside the guide, on the side with more room, and never off the page.
      const frame = plot.getBoundingClientRect(), box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const room = Math.min(frame.width, document.documentElement.clientWidth - frame.left) - tip.offsetWidth;
      const aside = along === "x" ? x * scale + (x < (left + right) / 2 ? 12 : -12 - tip.offsetWidth) : right * scale;
      tip.style.left = `${Math.max(0, Math.min(room, aside))}px`;
      const low = along === "x" ? top * scale : Math.min(x * scale + 14, box.height - tip.offsetHeight);
      tip.style.top = `${Math.max(0, low)}px`;
    };
    const nearest = (event) => {
      const matrix = svg.getScreenCTM();
      const x = along === "x" ? (event.clientX - matrix.e) / matrix.a : (event.clientY - matrix.f) / matrix.d;
      const there = places();
      if (there.length) show(there.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a)));
    };
    plot.addEventListener("pointermove", nearest);
    plot.addEventListener("pointerdown", nearest);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const there = places(), now = there.indexOf(place), last = there.length - 1;
      const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now < 0 ? last : now - 1,
        ArrowUp: now < 0 ? last : now - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined || last < 0) return;
      event.preventDefault();
      show(there[Math.max(0, Math.min(last, next))]);
    });
    changed.push(() => place !== null && (places().includes(place) ? show(place) : hide()));
  }
})();
