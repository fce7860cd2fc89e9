
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const plane = at("plane"), card = at("card"), picture = at("picture");
  const n = data.x.length;
  const shown = data.classes.map(() => true);
  let matching = data.classes.map(() => true);
  let looking = false; // for a class, so that the others fade
  let pointed = -1, chosen = -1;
  let width = 1, height = 1, ratio = 1;
  const view = { x: 0, y: 0, scale: 1 }; // what stands in the middle, and pixels per unit

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const inks = { paper: "", ink: "" };
  const colors = data.classes.map(() => "");

  function setColors() {
    const style = getComputedStyle(document.documentElement);
    inks.paper = style.getPropertyValue("--card").trim();
    inks.ink = style.getPropertyValue("--ink").trim();
    data.classes.forEach((each, c) => { colors[c] = dark.matches ? lighter(each.color) : each.color; });
  }

  // Dark colors would drown in a dark page; each is mixed with white until it stands out.
  function lighter(color) {
    let rgb = [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
    while (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 125) {
      rgb = rgb.map((value) => value + (255 - value) * 0.1 + 0.5);
    }
    return "rgb(" + rgb.map(Math.round).join(",") + ")";
  }

  // Corners of the marks, on a circle of radius 1; as in the pictures of likewise.plots.
  const cross = [[-.33, -1], [.33, -1], [.33, -.33], [1, -.33], [1, .33], [.33, .33],
    [.33, 1], [-.33, 1], [-.33, .33], [-1, .33], [-1, -.33], [-.33, -.33]];
  const turned = cross.map(([x, y]) => [(x - y) * .72, (x + y) * .72]);
  const star = Array.from({ length: 10 }, (_, k) => {
    const reach = k % 2 ? .5 : 1.2, angle = k * Math.PI / 5;
    return [reach * Math.sin(angle), -reach * Math.cos(angle)];
  });
  const corners = {
    s: [[-.85, -.85], [.85, -.85], [.85, .85], [-.85, .85]],
    D: [[0, -1.15], [1.15, 0], [0, 1.15], [-1.15, 0]],
    "^": [[0, -1], [1, .85], [-1, .85]], v: [[0, 1], [1, -.85], [-1, -.85]],
    "<": [[-1, 0], [.85, 1], [.85, -1]], ">": [[1, 0], [-.85, 1], [-.85, -1]],
    P: cross, X: turned, x: turned, "*": star,
  };

  function mark(pen, kind, x, y, size) {
    if (kind === "o") {
      pen.moveTo(x + size, y);
      pen.arc(x, y, size, 0, 2 * Math.PI);
      return;
    }
    corners[kind].forEach(([dx, dy], k) => {
      if (k) pen.lineTo(x + size * dx, y + size * dy);
      else pen.moveTo(x + size * dx, y + size * dy);
    });
    pen.closePath();
  }

  function ink(pen, c) {
    const hollow = data.classes[c].hollow;
    if (!hollow) { pen.fillStyle = colors[c]; pen.fill(); }
    pen.strokeStyle = hollow ? colors[c] : inks.paper;
    pen.lineWidth = hollow ? 1.4 : 0.6;
    pen.stroke();
  }

  const toScreen = (i) => [
    (data.x[i] - view.x) * view.scale + width / 2,
    (view.y - data.y[i]) * view.scale + height / 2,
  ];

  const members = data.classes.map(() => []);
  data.class.forEach((c, i) => members[c].push(i));

  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawNow(); });
  }

  function drawNow() {
    const pen = plane.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const base = n <= 500 ? 5.5 : n <= 2000 ? 4.2 : 3.2;
    const size = base * Math.min(1.8, Math.max(1, Math.pow(view.scale / fitting(), 0.25)));
    for (const faded of [true, false]) {
      pen.globalAlpha = faded ? 0.12 : 0.88;
      data.classes.forEach((each, c) => {
        if (!shown[c] || faded === (!looking || matching[c])) return;
        pen.beginPath();
        for (const i of members[c]) {
          const [x, y] = toScreen(i);
          if (x > -9 && y > -9 && x < width + 9 && y < height + 9) mark(pen, each.marker, x, y, size);
        }
        ink(pen, c);
      });
    }
    pen.globalAlpha = 1;
    const i = pointed >= 0 ? pointed : chosen;
    if (i >= 0) {
      const [x, y] = toScreen(i);
      pen.beginPath();
      mark(pen, data.classes[data.class[i]].marker, x, y, size * 1.5);
      ink(pen, data.class[i]);
      pen.beginPath();
      pen.arc(x, y, size * 1.5 + 5, 0, 2 * Math.PI);
      pen.strokeStyle = inks.ink;
      pen.lineWidth = 2;
      pen.stroke();
    }
    place(i);
  }

  // The card of the item that is pointed at, or else chosen.
  let told = -1;
  function place(i) {
    card.hidden = i < 0;
    if (i < 0) { told = -1; return; }
    if (told !== i) {
      told = i;
      at("of-class").textContent = data.classes[data.class[i]].name;
      const name = data.names ? data.names[i] : "item " + i;
      at("of-item").textContent = name + (data.classes[data.class[i]].hollow ? " (class not trained on)" : "");
      showPicture(i);
    }
    const [x, y] = toScreen(i), w = card.offsetWidth, h = card.offsetHeight;
    // Beside the mark, or where a phone has no room for that, below or above it.
    let left = x + 16 + w < width ? x + 16 : x - 16 - w, top = y - h / 2;
    if (left < 0) { left = x - w / 2; top = y + 16 + h < height ? y + 16 : y - 16 - h; }
    card.style.left = Math.max(4, Math.min(width - w - 4, left)) + "px";
    card.style.top = Math.max(4, Math.min(height - h - 4, top)) + "px";
  }

  const sheets = [];
  function showPicture(i) {
    const all = data.pictures;
    picture.hidden = !all;
    if (!all) return;
    const [w, h] = all.size, [cw, ch] = all.cell;
    const zoom = Math.max(1, Math.round(128 / Math.max(w, h)));
    picture.width = w;
    picture.height = h;
    picture.className = Math.max(w, h) <= 32 ? "pixels" : ""; // photographs are smoothed
    picture.style.width = w * zoom + "px";
    picture.style.height = h * zoom + "px";
    const k = Math.floor(i / all.each), within = i % all.each;
    if (!sheets[k]) { sheets[k] = new Image(); sheets[k].src = all.files[k]; }
    const sheet = sheets[k];
    const copy = () => {
      if (told !== i) return;
      const left = (within % all.columns) * cw, top = Math.floor(within / all.columns) * ch;
      picture.getContext("2d").drawImage(sheet, left, top, w, h, 0, 0, w, h);
    };
    if (sheet.complete && sheet.naturalWidth) copy();
    else sheet.addEventListener("load", copy, { once: true });
  }

  function extent(points) {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const i of points) {
      left = Math.min(left, data.x[i]); right = Math.max(right, data.x[i]);
      low = Math.min(low, data.y[i]); high = Math.max(high, data.y[i]);
    }
    return [left, right, low, high];
  }
  const everything = extent(data.x.keys());
  const fitScale = ([left, right, low, high]) =>
    Math.min(0.9 * width / (right - left || 1e-9), 0.9 * height / (high - low || 1e-9), 1e9);
  const fitting = () => Math.min(fitScale(everything), 1e8);

  function fit(box) {
    view.x = (box[0] + box[1]) / 2;
    view.y = (box[2] + box[3]) / 2;
    view.scale = Math.min(fitScale(box), fitting() * 40);
    draw();
  }

  function zoom(factor, x = width / 2, y = height / 2) {
    const least = fitting() * 0.5, most = fitting() * 400;
    const scale = Math.min(most, Math.max(least, view.scale * factor));
    const dx = (x - width / 2) * (1 / view.scale - 1 / scale);
    const dy = (y - height / 2) * (1 / view.scale - 1 / scale);
    view.x += dx;
    view.y -= dy;
    view.scale = scale;
    draw();
  }

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      if (!reachable(i)) continue;
      const [px, py] = toScreen(i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  const reachable = (i) => shown[data.class[i]] && (!looking || matching[data.class[i]]);

  function choose(i, move) {
    chosen = i;
    pointed = -1;
    if (i >= 0 && move) {
      const [x, y] = toScreen(i);
      if (x < 30 || y < 30 || x > width - 30 || y > height - 30) { view.x = data.x[i]; view.y = data.y[i]; }
    }
    const mark = i < 0 ? "#" : "#item=" + i;
    try { history.replaceState(null, "", mark); } catch (_) { /* a page in a frame may not */ }
    draw();
  }

  // From item to item: the nearest one within 45 degrees of the arrow.
  function step(dx, dy) {
    if (chosen < 0) { choose(nearest(width / 2, height / 2, Infinity), true); return; }
    const [x, y] = toScreen(chosen);
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (i === chosen || !reachable(i)) continue;
      const [px, py] = toScreen(i);
      const along = (px - x) * dx + (py - y) * dy, across = Math.abs((px - x) * dy - (py - y) * dx);
      const d = along + 2 * across;
      if (along > 0 && across <= along && d < least) { least = d; best = i; }
    }
    if (best >= 0) choose(best, true);
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  plane.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrows[event.key]) step(...arrows[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0" || event.key === "Home") fit(everything);
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });

  const held = new Map(); // pointers that are down
  let moved = 0;
  const place_of = (event) => {
    const box = plane.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  plane.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    plane.setPointerCapture(event.pointerId);
    if (!held.size) moved = 0;
    held.set(event.pointerId, place_of(event));
    plane.classList.add("held");
  });
  plane.addEventListener("pointermove", (event) => {
    const [x, y] = place_of(event), before = held.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") {
        const i = nearest(x, y, 14);
        if (i !== pointed) { pointed = i; draw(); }
      }
      return;
    }
    const apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const pair = held.size === 2 ? [...held.values()] : null;
    const wide = pair && apart(pair);
    held.set(event.pointerId, [x, y]);
    moved += Math.hypot(x - before[0], y - before[1]);
    const share = pair ? 2 : 1;
    view.x -= (x - before[0]) / view.scale / share;
    view.y += (y - before[1]) / view.scale / share;
    if (pair && wide > 0) {
      const [a, b] = [...held.values()];
      zoom(apart([a, b]) / wide, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    }
    draw();
  });
  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    if (!held.size) plane.classList.remove("held");
    if (event.type === "pointerup" && !held.size && moved < 8) {
      choose(nearest(...place_of(event), event.pointerType === "mouse" ? 14 : 26));
    }
  };
  plane.addEventListener("pointerup", release);
  plane.addEventListener("pointercancel", release);
  plane.addEventListener("pointerleave", () => { if (pointed >= 0) { pointed = -1; draw(); } });
  plane.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    zoom(Math.exp(-Math.max(-300, Math.min(300, event.deltaY * lines)) * 0.002), ...place_of(event));
  }, { passive: false });
  plane.addEventListener("dblclick", (event) => zoom(2, ...place_of(event)));
  at("closer").addEventListener("click", () => zoom(1.6));
  at("wider").addEventListener("click", () => zoom(1 / 1.6));
  at("whole").addEventListener("click", () => fit(everything));

  // The list of classes is the legend.
  const rows = data.classes.map((each, c) => {
    const row = document.createElement("li"), label = document.createElement("label");
    const box = document.createElement("input"), swatch = document.createElement("canvas");
    const name = document.createElement("span"), count = document.createElement("span");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { shown[c] = box.checked; settle(); });
    swatch.width = swatch.height = 32;
    swatch.setAttribute("aria-hidden", "true");
    name.className = "name";
    name.textContent = each.name;
    count.className = "count";
    count.textContent = each.count.toLocaleString("en") + (each.hollow && each.name !== "unknown" ? ", unseen" : "");
    label.append(box, swatch, name, count);
    row.append(label);
    at("classes").append(row);
    return { row, box, swatch };
  });

  function drawSwatches() {
    rows.forEach(({ swatch }, c) => {
      const pen = swatch.getContext("2d");
      pen.setTransform(2, 0, 0, 2, 0, 0);
      pen.clearRect(0, 0, 16, 16);
      pen.beginPath();
      mark(pen, data.classes[c].marker, 8, 8, 5.5);
      ink(pen, c);
    });
  }

  function settle() {
    if (chosen >= 0 && !reachable(chosen)) choose(-1);
    pointed = -1;
    draw();
  }

  function search(text) {
    const wanted = text.trim().toLocaleLowerCase();
    looking = wanted !== "";
    matching = data.classes.map((each) => each.name.toLocaleLowerCase().includes(wanted));
    rows.forEach(({ row }, c) => { row.hidden = !matching[c]; });
    const count = matching.filter(Boolean).length, all = data.classes.length;
    at("found").textContent = looking ? (count || "none") + " of " + all : all + (all === 1 ? " class" : " classes");
    settle();
  }
  at("search").addEventListener("input", (event) => search(event.target.value));
  at("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const points = [...data.x.keys()].filter(reachable);
    if (points.length) fit(extent(points));
  });
  const setListed = (on) => {
    rows.forEach(({ box }, c) => { if (matching[c]) { box.checked = on; shown[c] = on; } });
    settle();
  };
  at("show").addEventListener("click", () => setListed(true));
  at("hide").addEventListener("click", () => setListed(false));

  function open() {
    const [key, value] = [/^#item=(\d+)$/, /^#class=(.*)$/].map((rule) => rule.exec(location.hash));
    if (key && Number(key[1]) < n) choose(Number(key[1]), true);
    else if (value) {
      let name = value[1];
      try { name = decodeURIComponent(name); } catch (_) { /* taken as it stands */ }
      at("search").value = name;
      search(name);
    }
  }
  window.addEventListener("hashchange", open);

  new ResizeObserver(() => {
    const first = width === 1, whole = Math.abs(view.scale - fitting()) < 1e-6 * view.scale;
    width = plane.clientWidth || 1;
    height = plane.clientHeight || 1;
    ratio = window.devicePixelRatio || 1;
    plane.width = Math.round(width * ratio);
    plane.height = Math.round(height * ratio);
    if (first || whole) fit(everything);
    if (first) open();
    drawNow();
  }).observe(plane);
  dark.addEventListener("change", () => { setColors(); drawSwatches(); draw(); });
  setColors();
  drawSwatches();
  search("");
})();
