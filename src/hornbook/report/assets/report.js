// Draws the charts of the report with uPlot, from the JSON that is in the page.
"use strict";
(() => {
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });

  const data = JSON.parse(document.getElementById("report-data").textContent);
  const form = document.getElementById("controls");
  const several = data.runs.length > 1;
  const KIND = { raw: "single steps", line: "mean", validation: "held-out" };
  let plots = [];

  // --- where a step lies along the chosen axis ---------------------------------------------

  function settings() {
    return {
      x: form.elements.x.value,
      logX: form.elements["log-x"].checked,
      logY: form.elements["log-y"].checked,
      raw: form.elements.raw.checked,
    };
  }

  // Piecewise linear: the value of `ys` at x, held constant outside of `xs`.
  function interpolate(xs, ys, x) {
    let low = 0, high = xs.length - 1;
    if (high < 0) return null;
    if (x <= xs[0]) return ys[0];
    if (x >= xs[high]) return ys[high];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle; else high = middle;
    }
    return ys[low] + (ys[high] - ys[low]) * (x - xs[low]) / (xs[high] - xs[low]);
  }

  function along(run, step, axis) {
    if (axis.name === "step") return step;
    const clock = data.runs[run].clock;
    const value = interpolate(clock.step, clock[axis.name], step);
    return value === null ? null : value / axis.divisor;
  }

  function axisOf(name) {
    if (name === "step") return { name, label: "step", divisor: 1 };
    const longest = Math.max(...data.runs.map((run) => Math.max(0, ...run.clock[name])));
    if (name === "tokens") return { name, label: "tokens", divisor: 1 };
    if (longest > 3 * 86400) return { name, label: "days", divisor: 86400 };
    if (longest > 2 * 3600) return { name, label: "hours", divisor: 3600 };
    if (longest > 120) return { name, label: "minutes", divisor: 60 };
    return { name, label: "seconds", divisor: 1 };
  }

  // --- numbers as people read them ---------------------------------------------------------

  function brief(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= unit) return trim(value / (name === "k" ? 1e3 : unit)) + name;
    }
    if (size > 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
    return trim(value);
  }

  function trim(value) { return String(Number(value.toPrecision(4))); }

  // --- one chart ---------------------------------------------------------------------------

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const colour = (run) => style(`--run-${run}`);

  function label(curve, alone, isLoss) {
    const run = several ? data.runs[curve.run].name : "";
    const kind = isLoss && curve.kind === "line" ? "training" : KIND[curve.kind];
    if (alone) return run || (isLoss ? kind : "value");
    return run ? `${run}, ${kind}` : kind;
  }

  // One run: held-out in a colour of its own. Several: a colour for each run, held-out dashed.
  function strokeOf(curve) {
    const stroke = !several && curve.kind === "validation" ? colour(1) : colour(curve.run);
    return curve.kind === "raw" ? stroke + "77" : stroke;
  }

  function markerFill(curve) {
    if (!curve) return "transparent"; // the x axis has a place in the legend, too
    return several && curve.kind === "validation" ? style("--panel") : strokeOf(curve);
  }

  function series(curve, alone, isLoss) {
    const dots = curve.kind === "validation";
    const stroke = strokeOf(curve);
    return {
      label: label(curve, alone, isLoss),
      stroke,
      width: curve.kind === "raw" ? 1 : 2,
      dash: several && dots ? [6, 4] : [],
      points: { show: dots || curve.step.length < 3, size: 6, fill: stroke },
      value: (plot, value) => brief(value),
    };
  }

  // uPlot wants one x column: the curves' own ones are merged, with gaps where a curve has none.
  function columns(curves, axis, options) {
    return uPlot.join(curves.map((curve) => {
      const xs = [], ys = [];
      curve.step.forEach((step, i) => {
        const x = along(curve.run, step, axis);
        if (x === null || (options.logX && x <= 0)) return;
        if (xs.length && x <= xs[xs.length - 1]) { ys[ys.length - 1] = curve.value[i]; return; }
        xs.push(x);
        ys.push(curve.value[i]);
      });
      return [xs, ys];
    }));
  }

  // The cursor reads each curve at its own nearest point, since the merged column has gaps.
  function nearest(plot, seriesIndex, index) {
    const values = plot.data[seriesIndex];
    if (seriesIndex === 0 || values[index] != null) return index;
    for (let away = 1; away < values.length; away++) {
      if (values[index - away] != null) return index - away;
      if (values[index + away] != null) return index + away;
    }
    return index;
  }

  function drawMarks(plot, axis) {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.font = `bold ${10 * devicePixelRatio}px sans-serif`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    data.runs.forEach((run, index) => {
      for (const mark of run.marks) {
        const at = along(index, mark.step, axis);
        const x = at === null ? NaN : plot.valToPos(at, "x", true);
        if (!(x >= left && x <= left + width)) continue;
        ctx.strokeStyle = ctx.fillStyle = several ? colour(index) : style("--run-4");
        ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + height);
        ctx.stroke();
        ctx.beginPath();
        ctx.arc(x, top, 8 * devicePixelRatio, 0, 2 * Math.PI);
        ctx.fill();
        ctx.fillStyle = style("--paper");
        ctx.fillText(mark.letter, x, top + devicePixelRatio);
      }
    });
    ctx.restore();
  }

  function logRange(plot, low, high) {
    return low > 0 && high > 0 ? [low * 0.98, high * 1.02] : [0.1, 10];
  }

  // Round numbers inside a logarithmic range, as many for each power of ten as there is room for.
  function logSplits(plot, axisIndex, low, high) {
    const found = [];
    const [pixels, room] = axisIndex ? [plot.bbox.height, 26] : [plot.bbox.width, 52];
    const each = pixels / devicePixelRatio / room / Math.log10(high / low);
    const digits = each > 10 ? [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9] : each > 7
      ? [1, 2, 3, 4, 6, 8] : each > 2.6 ? [1, 2, 5] : each > 1.2 ? [1, 3] : [1];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of digits) {
        const value = digit * 10 ** power;
        if (value >= low && value <= high) found.push(value);
      }
    }
    return found;
  }

  function axes(axis, options, isLoss) {
    const common = { stroke: style("--muted"), grid: { stroke: style("--line"), width: 1 },
      ticks: { stroke: style("--line"), width: 1 }, font: "12px system-ui, sans-serif",
      values: (plot, splits) => splits.map((value) => value == null ? "" : brief(value)) };
    const log = { splits: logSplits, filter: (plot, splits) => splits };
    return [
      { ...common, ...(options.logX ? log : {}), size: 30, space: 60,
        ...(isLoss ? { label: axis.label, labelSize: 20, labelFont: common.font } : {}) },
      { ...common, ...(isLoss && options.logY ? log : {}), size: 56, space: 32 },
    ];
  }

  function draw(chart) {
    const options = settings();
    const axis = axisOf(options.x);
    const isLoss = chart.id === "loss";
    const curves = chart.curves.filter((curve) => curve.kind !== "raw" || options.raw);
    const alone = curves.every((curve) => curve.kind === curves[0].kind);
    const place = document.getElementById(`chart-${chart.id}`);
    place.replaceChildren();
    const log = { distr: 3, range: logRange };
    // On paper a chart is scaled to its frame; drawn at about that size, its letters stay legible.
    const printing = root.classList.contains("print");
    const width = printing ? (isLoss ? 680 : 330) : place.clientWidth || 600;
    const plot = new uPlot({
      width,
      height: isLoss ? Math.min(420, Math.max(260, Math.round(width * 0.42))) : 190,
      series: [
        { label: axis.label, value: (plot, value) => brief(value) },
        ...curves.map((curve) => series(curve, alone, isLoss)),
      ],
      scales: {
        x: { time: false, ...(options.logX ? log : {}) },
        y: isLoss && options.logY ? log : {},
      },
      axes: axes(axis, options, isLoss),
      cursor: { dataIdx: nearest, sync: { key: "report", scales: ["x", null] }, y: false },
      legend: {
        show: isLoss || data.runs.length <= 4,
        markers: { fill: (plot, i) => markerFill(curves[i - 1]) },
      },
      hooks: { draw: isLoss ? [(plot) => drawMarks(plot, axis)] : [] },
    }, columns(curves, axis, options), place);
    return { plot, place, isLoss };
  }

  // A forecast: what was measured, the fit, the band ahead of it, the target and the crossing.
  function drawCrossing(plot, total) {
    const { ctx, bbox } = plot;
    const [low, middle, high] = total.map((x) =>
      x == null ? bbox.left + bbox.width : plot.valToPos(x, "x", true));
    ctx.save();
    ctx.fillStyle = style("--run-2") + "22";
    ctx.fillRect(low, bbox.top, high - low, bbox.height);
    ctx.strokeStyle = style("--run-2");
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(middle, bbox.top);
    ctx.lineTo(middle, bbox.top + bbox.height);
    ctx.stroke();
    const left = middle > bbox.left + bbox.width / 2;
    ctx.fillStyle = style("--run-2");
    ctx.font = `bold ${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = left ? "right" : "left";
    const away = 6 * devicePixelRatio;
    ctx.fillText(`target reached after ${brief(total[1])} tokens`,
      middle + (left ? -away : away), bbox.top + 3 * away);
    ctx.restore();
  }

  function drawForecast(forecast) {
    const place = document.getElementById(forecast.id);
    place.replaceChildren();
    const end = forecast.ahead_tokens[forecast.ahead_tokens.length - 1];
    const ahead = [forecast.low, forecast.middle, forecast.high];
    const columns = [[forecast.tokens, forecast.loss], [forecast.fit_tokens, forecast.fit],
      ...ahead.map((values) => [forecast.ahead_tokens, values])];
    const line = (label, stroke, rest) => ({ label, stroke, width: 2, points: { show: false },
      value: (plot, value) => brief(value), ...rest });
    const fit = style("--run-1");
    const lines = [line("measured", colour(0), { width: 1 }), line("fitted", fit),
      line("ahead, low", fit + "55", { width: 1 }), line("ahead, middle", fit, { dash: [6, 4] }),
      line("ahead, high", fit + "55", { width: 1 })];
    if (forecast.target != null) {
      columns.push([[forecast.tokens[0], end], [forecast.target, forecast.target]]);
      lines.push(line("target", style("--run-2")));
    }
    const width = root.classList.contains("print") ? 680 : place.clientWidth || 600;
    const plot = new uPlot({
      width,
      height: Math.min(420, Math.max(260, Math.round(width * 0.42))),
      series: [{ label: "tokens", value: (plot, value) => brief(value) }, ...lines],
      bands: [{ series: [5, 3], fill: fit + "22" }],
      scales: { x: { time: false, distr: 3, range: logRange } },
      axes: axes({ label: "tokens" }, { logX: true, logY: false }, true),
      cursor: { dataIdx: nearest, y: false },
      hooks: { draw: forecast.total.length ? [(plot) => drawCrossing(plot, forecast.total)] : [] },
    }, uPlot.join(columns), place);
    return { plot, place };
  }

  function drawAll() {
    plots.forEach(({ plot }) => plot.destroy());
    plots = [...data.charts.map(draw), ...data.forecasts.map(drawForecast)];
  }

  function fit() {
    if (root.classList.contains("print")) return;
    for (const { plot, place } of plots) {
      if (place.clientWidth && place.clientWidth !== plot.width) {
        plot.setSize({ width: place.clientWidth, height: plot.height });
      }
    }
  }

  if (data.charts.length) {
    form.hidden = false;
    form.addEventListener("change", drawAll);
    drawAll();
    new ResizeObserver(fit).observe(document.body);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    window.addEventListener("beforeprint", () => { root.classList.add("print"); drawAll(); });
    window.addEventListener("afterprint", () => { root.classList.remove("print"); drawAll(); });
  }
  root.dataset.ready = "true";
})();
