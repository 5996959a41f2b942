// Draws the charts of the page's data, and what one can click.
(() => {
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const hidden = new Set();  // implementations
const charts = new Map();  // by the canvas's id, what has been drawn
const specs = new Map(data.charts.map((spec) => [spec.id, spec]));

// ---- Figures

function digits(value) {
  const places = 2 - Math.floor(Math.log10(Math.abs(value) || 1));
  return value.toLocaleString("en", {
    minimumFractionDigits: 0,
    maximumFractionDigits: Math.min(20, Math.max(0, places)),
  });
}

function duration(nanos) {
  for (const [scale, unit] of [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]]) {
    if (nanos >= scale) return `${digits(nanos / scale)} ${unit}`;
  }
  return `${digits(nanos)} ns`;
}

const show = (mode, value) =>
    mode === "t" ? duration(value) : `${digits(value)} ×`;

function color(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

// What the section's buttons say; times where there is nothing to divide by.
function modeOf(canvas, spec) {
  const section = canvas.closest("section[id]").id;
  const {value} = document.querySelector(
      `input[name="mode-${section}"]:checked`);
  const some = spec.series.some(
      ({points}) => points.some((point) => point[value]));
  return some ? value : "t";
}

// ---- What Chart.js does not draw

// The quartiles of each point, and a shade where more runs than there are
// processors.
const extras = {
  id: "extras",
  beforeDraw(chart) {
    const {processors} = chart.options.plugins.extras;
    if (!processors) return;
    const {ctx, chartArea: area, scales: {x}} = chart;
    const left = Math.max(area.left, x.getPixelForValue(processors * 1.2));
    if (left >= area.right) return;
    ctx.save();
    ctx.fillStyle = color("shade");
    ctx.fillRect(left, area.top, area.right - left, area.height);
    ctx.restore();
  },
  beforeDatasetsDraw(chart) {
    const {ctx, scales} = chart;
    ctx.save();
    chart.data.datasets.forEach((set, index) => {
      if (!set.spread || !chart.isDatasetVisible(index)) return;
      ctx.strokeStyle = set.borderColor;
      ctx.lineWidth = 1.5;
      set.spread.forEach(([low, high], at) => {
        const {x, y} = set.data[at];
        ctx.beginPath();
        if (chart.options.plugins.extras.across) {
          const row = scales.y.getPixelForValue(y);
          ctx.moveTo(scales.x.getPixelForValue(low), row);
          ctx.lineTo(scales.x.getPixelForValue(high), row);
        } else {
          const column = scales.x.getPixelForValue(x);
          ctx.moveTo(column, scales.y.getPixelForValue(low));
          ctx.lineTo(column, scales.y.getPixelForValue(high));
        }
        ctx.stroke();
      });
    });
    ctx.restore();
  },
};

// ---- Datasets

function look(style) {
  const ours = style.kind === "ours";
  const line = color(style.color);
  const open = style.kind === "target";
  return {
    label: style.title,
    borderColor: line,
    backgroundColor: open ? "transparent" : line,
    borderDash: style.dash,
    borderWidth: ours ? 2.5 : 1.75,
    pointBorderColor: line,
    pointBackgroundColor: open ? "transparent" : line,
    pointBorderWidth: 2,
    pointStyle: style.shape,
    pointRadius: ours ? 6 : style.kind === "floor" ? 7 : open ? 8 : 5,
    rotation: style.shape === "line" ? 90 : 0,
    order: ours ? 0 : 1,  // ours in front
  };
}

function dataset(spec, series, mode, dodge) {
  const style = data.styles[series.impl];
  const points = series.points.filter((point) => point[mode]);
  const across = spec.kind === "dots";
  const set = {
    ...look(style),
    impl: series.impl,
    points,
    data: points.map((point) => across ?
        {x: point[mode][0], y: point.x + dodge} :
        {x: point.x, y: point[mode][0]}),
    spread: points.map((point) => [point[mode][1], point[mode][2]]),
    showLine: !across,
    clip: 10,  // a whole mark at the edge
    hidden: hidden.has(series.impl),
  };
  if (across && style.kind !== "target") set.pointHoverRadius = 8;
  if (spec.processors) {  // hollow where processes share processors
    set.pointBackgroundColor = points.map(
        (point) => point.x > spec.processors ? color("page") : set.borderColor);
  }
  return set;
}

// A band between the quartiles around each segment of a trend.
function trendSets(spec, series, mode, first) {
  const set = dataset(spec, series, mode, 0);
  const state = (point, regressed, improved, other) =>
      point.state === "regressed" ? regressed :
      point.state === "improved" ? improved : other;
  set.borderDash = [];
  set.pointStyle = set.points.map(
      (p) => state(p, "triangle", "triangle", "circle"));
  set.pointRotation = set.points.map((p) => state(p, 0, 180, 0));
  set.pointRadius = set.points.map((p) => state(p, 8, 8, 3));
  set.pointBackgroundColor = set.points.map(
      (p) => state(p, color("missed"), color("met"), set.borderColor));
  set.pointBorderColor = set.pointBackgroundColor;
  set.first = first;
  const edge = (at, fill) => ({
    data: set.points.map((point) => ({x: point.x, y: point[mode][at]})),
    impl: series.impl, band: true, showLine: true, hidden: set.hidden,
    borderWidth: 0, pointRadius: 0, pointHitRadius: 0, fill, order: 2,
    backgroundColor: `${set.borderColor}40`,
  });
  const heaps = set.points.flatMap((point) => (point.raw ? point.raw[mode] : [])
      .map((y) => ({x: point.x, y})));
  const sets = [set, edge(1, false), edge(2, "-1")];
  if (heaps.length) {
    sets.push({data: heaps, impl: series.impl, band: true, showLine: false,
               pointRadius: 2, borderColor: set.borderColor,
               hidden: set.hidden});
  }
  return sets;
}

function datasets(spec, mode) {
  if (spec.kind === "trend") {
    return spec.series.flatMap(
        (series, index) => trendSets(spec, series, mode, index === 0));
  }
  // Peers are often equal: side by side they do not hide each other.
  const isPeer = ({impl}) => !["ours", "floor", "target"].includes(
      data.styles[impl].kind);
  const peers = spec.series.filter(isPeer);
  const middle = (peers.length - 1) / 2;
  return spec.series.map((series) => dataset(
      spec, series, mode,
      isPeer(series) ? (peers.indexOf(series) - middle) / (2 * peers.length) :
                       0));
}

// ---- Scales

function scale(title, more) {
  return {
    title: {display: true, text: title, color: color("muted")},
    grid: {color: color("line"), drawBorder: false},
    ticks: {color: color("muted"), maxRotation: 0},
    ...more,
  };
}

// As many digits between powers of ten as there is room for; even steps where
// a scale is too short for these.
function logTicks(axis) {
  const {min, max} = axis;
  const decades = Math.log10(max / min);
  const room = axis.isHorizontal() ? axis.width / 70 : axis.height / 30;
  const digits = [[1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5], [1, 3]]
      .find((some) => some.length * decades < room) || [1];
  const values = [];
  if (decades < 0.3) {
    const power = 10 ** Math.floor(Math.log10(max - min) - 0.3);
    const step = (max - min) / power > 8 ? 2 * power : power;
    for (let at = Math.ceil(min / step); at * step <= max; ++at) {
      values.push(Number((at * step).toPrecision(6)));
    }
  } else {
    for (let power = Math.floor(Math.log10(min)); 10 ** power <= max; ++power) {
      values.push(...digits.map((digit) => digit * 10 ** power));
    }
  }
  axis.ticks = values.filter((value) => value >= min && value <= max)
      .map((value) => ({value}));
}

// All that a chart shows, with a margin.
function logRange(spec, mode) {
  const values = spec.series.filter(({impl}) => !hidden.has(impl))
      .flatMap(({points}) => points.flatMap((point) => point[mode] || []))
      .filter((value) => value > 0);
  if (mode === "r") values.push(0.8, 1.25);
  return withMargin(values);
}

function withMargin(values) {
  if (!values.length) return {};
  const min = Math.min(...values);
  const max = Math.max(...values);
  const margin = Math.max(1.1, (max / min) ** 0.04);
  return {min: min / margin, max: max * margin};
}

function valueScale(mode, spec) {
  const ratios = spec.kind === "trend" ? `Ratio to ${spec.base}` :
      "Ratio to mp's time";
  const what = mode === "t" ? "Time" : ratios;
  const callback = (value) => show(mode, value);
  if (spec.kind === "trend") {
    return scale([what, "(not from 0; lower is better)"], {
      grace: "15%",
      ticks: {color: color("muted"), maxTicksLimit: 6, callback},
    });
  }
  return scale([what, "(log scale; lower is better)"], {
    type: "logarithmic", afterBuildTicks: logTicks, ...logRange(spec, mode),
    ticks: {color: color("muted"), maxRotation: 0, callback, autoSkip: true},
  });
}

// A name in lines that fit a telephone: broken after / and _.
function broken(text, width) {
  const lines = [""];
  for (const part of text.split(/(?<=[/_])/)) {
    const last = lines[lines.length - 1];
    if (last && last.length + part.length > width) {
      lines.push(part);
    } else {
      lines[lines.length - 1] += part;
    }
  }
  return lines;
}

// Whole numbers that stand for labels.
function labelScale(title, labels, more) {
  return scale(title, {
    type: "linear", min: -0.5, max: labels.length - 0.5,
    afterBuildTicks: (axis) => {
      axis.ticks = labels.map((_, value) => ({value}));
    },
    ticks: {
      color: color("text"), maxRotation: 0, autoSkip: more.autoSkip,
      callback(value) {
        if (!more.wrap) return labels[value];
        return broken(labels[value], this.chart.width < 600 ? 14 : 34);
      },
    },
    ...more.scale,
  });
}

function scales(spec, mode) {
  if (spec.kind === "dots") {
    return {
      x: valueScale(mode, spec),
      y: labelScale("", spec.labels, {
        wrap: true, autoSkip: false,
        scale: {reverse: true, title: {display: false}},
      }),
    };
  }
  const y = valueScale(mode, spec);
  if (spec.kind === "lines") {
    const numbers = Object.keys(spec.ticks).map(Number);
    const over = numbers.some((number) => number > spec.processors);
    const title = [`${spec.axis} (log scale)`];
    if (over) {
      title.push(`hollow, shaded: more than ${spec.processors} processors`);
    }
    return {y, x: scale(title, {
      type: "logarithmic", ...withMargin(numbers),
      afterBuildTicks: (axis) => {
        axis.ticks = numbers.map((value) => ({value}));
      },
      ticks: {color: color("muted"), maxRotation: 0,
              callback: (value) => spec.ticks[value]},
    })};
  }
  const title = spec.kind === "trend" ? "Run, by commit" : "Percentile";
  return {y, x: labelScale(title, spec.labels, {autoSkip: true})};
}

// ---- Charts

function tooltip(spec, mode) {
  return {
    filter: (item) => !item.dataset.band,
    callbacks: {
      title(items) {
        if (!items.length) return "";
        const {dataset: set, dataIndex: at} = items[0];
        const {x} = set.points[at];
        if (spec.kind === "lines") return `${spec.axis}: ${spec.ticks[x]}`;
        if (spec.kind !== "trend") return spec.labels[x];
        const run = data.runs[x];
        return [run.commit, run.subject, run.date].filter(Boolean);
      },
      label({dataset: set, dataIndex: at}) {
        const point = set.points[at];
        const [middle, low, high] = point[mode];
        const range = low === high ? "" :
            `${show(mode, low)} to ${show(mode, high)}, `;
        const spread = point.n === undefined ? "" :
            ` (${range}n = ${point.n})`;
        const state = point.state ? `, ${point.state}` : "";
        return `${set.label}: ${show(mode, middle)}${spread}${state}`;
      },
    },
  };
}

function draw(canvas) {
  const spec = specs.get(canvas.id);
  const mode = modeOf(canvas, spec);
  const options = {
    animation: false,
    maintainAspectRatio: false,
    scales: scales(spec, mode),
    plugins: {
      extras: {processors: spec.processors, across: spec.kind === "dots"},
      legend: {
        onClick: null,  // the checkboxes do that, by keyboard too
        display: spec.kind !== "trend",
        position: "bottom",
        labels: {
          usePointStyle: true, color: color("text"), boxHeight: 7,
          filter: ({datasetIndex: at}, {datasets: sets}) =>
              !sets[at].band && !sets[at].hidden && sets[at].data.length > 0,
        },
      },
      tooltip: tooltip(spec, mode),
    },
  };
  const sets = datasets(spec, mode);
  const old = charts.get(canvas.id);
  if (old) {
    old.data.datasets = sets;
    old.options = options;
    old.update("none");
  } else {
    charts.set(canvas.id, new Chart(canvas, {
      type: "scatter", data: {datasets: sets}, options, plugins: [extras],
    }));
  }
}

function redraw() {
  for (const id of charts.keys()) draw(document.getElementById(id));
  document.querySelectorAll("#implementations canvas").forEach(drawKey);
}

// Charts far away, or in what is closed, cost nothing until one gets there.
const watcher = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    draw(target);
  }
}, {rootMargin: "600px"});

// ---- What one can click

function setTheme(theme) {
  root.dataset.theme = theme;
  document.getElementById("theme").setAttribute(
      "aria-pressed", String(theme === "dark"));
  redraw();
}

function remembered() {
  try {
    return localStorage.getItem("mp-dashboard-theme");
  } catch (error) {
    return null;  // some browsers forbid it to files
  }
}

function remember(theme) {
  try {
    localStorage.setItem("mp-dashboard-theme", theme);
  } catch (error) {
    // Then the next visit begins as the system is.
  }
}

// A sample of an implementation's line and shape.
function drawKey(canvas) {
  const style = look(data.styles[canvas.dataset.impl]);
  const context = canvas.getContext("2d");
  context.setTransform(2, 0, 0, 2, 0, 0);
  context.clearRect(0, 0, 24, 16);
  context.strokeStyle = style.borderColor;
  context.fillStyle = style.pointBackgroundColor;
  context.lineWidth = 2;
  context.setLineDash(style.borderDash);
  context.beginPath();
  context.moveTo(0, 8);
  context.lineTo(24, 8);
  context.stroke();
  context.setLineDash([]);
  Chart.helpers.drawPoint(context, {
    pointStyle: style.pointStyle, radius: 5, rotation: style.rotation,
    borderWidth: 2,
  }, 12, 8);
}

function addCheckboxes() {
  const used = new Set(data.charts.flatMap(
      (spec) => spec.series.map((series) => series.impl)));
  const box = document.querySelector("#implementations fieldset");
  for (const [impl, style] of Object.entries(data.styles)) {
    if (!used.has(impl)) continue;
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.checked = true;
    input.value = impl;
    input.addEventListener("change", () => {
      if (input.checked) hidden.delete(impl); else hidden.add(impl);
      redraw();
    });
    const key = document.createElement("canvas");
    key.width = 48;
    key.height = 32;
    key.dataset.impl = impl;
    key.setAttribute("aria-hidden", "true");
    label.append(input, key, style.title);
    box.append(label);
  }
}

// How old the newest run is now, not when the page was made.
function showAge() {
  const days = (Date.now() - Date.parse(data.date)) / 864e5;
  if (Number.isNaN(days)) return;
  const age = days < 1 ? "less than a day ago" :
      days < 2 ? "a day ago" : `${Math.floor(days)} days ago`;
  document.getElementById("run-age").textContent = `(${age})`;
  document.getElementById("stale").hidden = days <= 7;
}

const system = matchMedia("(prefers-color-scheme: dark)");
const systemTheme = () => system.matches ? "dark" : "light";
addCheckboxes();
setTheme(remembered() || systemTheme());
system.addEventListener("change", () => {
  if (!remembered()) setTheme(systemTheme());
});
document.getElementById("theme").addEventListener("click", () => {
  const theme = root.dataset.theme === "dark" ? "light" : "dark";
  remember(theme);
  setTheme(theme);
});
for (const input of document.querySelectorAll(".mode input")) {
  input.addEventListener("change", redraw);
}
showAge();
document.querySelectorAll("figure canvas").forEach(
    (canvas) => watcher.observe(canvas));
})();
