// Draws the figures, with their colours taken from the page's CSS variables, so that charts follow light and dark.
(() => {
  const root = document.documentElement;
  const source = document.getElementById("figures");
  const figures = source ? JSON.parse(source.textContent) : {};
  const config = { displayModeBar: false };

  const themed = (value, css, key = "") => {
    if (Array.isArray(value)) return value.map((item) => themed(item, css, key));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, css, name)]));
    const isColour = key.endsWith("color") && typeof value === "string" && value.startsWith("--");
    return isColour ? css.getPropertyValue(value).trim() : value;
  };

  // What the reader picked, by the name of the picks: a trace is shown when all that it is marked with is picked.
  const picked = () => Object.fromEntries([...document.querySelectorAll('input[type="radio"]:checked')].map((input) => [input.name, input.value]));
  const shown = (marks, picks) => Object.entries(marks).every(([name, mark]) => !(name in picks) || String(mark) === picks[name]);

  const draw = () => {
    const css = getComputedStyle(root);
    const picks = picked();
    for (const [name, figure] of Object.entries(figures)) {
      const { data, layout } = themed(figure, css);
      for (const trace of data)
        if (trace.meta && Object.keys(trace.meta).some((name) => name in picks)) trace.visible = shown(trace.meta, picks);
      const plot = document.getElementById(`chart-${name}`);
      // The box is the style sheet's, on a screen of any width as on paper.
      Object.assign(layout, { width: plot.clientWidth, height: plot.clientHeight });
      Plotly.react(plot, data, layout, config);
    }
  };

  for (const input of document.querySelectorAll('input[type="radio"]')) input.addEventListener("change", draw);
  addEventListener("resize", () => requestAnimationFrame(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const printed = (on) => () => {
    root.classList.toggle("printing", on);
    for (const fold of document.querySelectorAll("details")) {
      if (on) fold.dataset.wasOpen = fold.open ? "yes" : "";
      fold.open = on || fold.dataset.wasOpen === "yes";
    }
    draw();
  };
  addEventListener("beforeprint", printed(true));
  addEventListener("afterprint", printed(false));

  for (const button of document.querySelectorAll("button[data-copies]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  }

  root.classList.add("scripted");
  draw();
})();
