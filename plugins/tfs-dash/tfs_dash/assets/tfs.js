// Client-side callbacks: the address, the theme, the zoom. Scripts are loaded from this server only.
(function () {
  "use strict";
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const skip = () => window.dash_clientside.no_update;
  // Run names are joined with commas, so commas in names are escaped (the same format as in view.py).
  const withoutComma = (name) => name.replace(/%/g, "%25").replace(/,/g, "%2C");
  const withCommas = (name) => name.replace(/%2C/g, ",").replace(/%25/g, "%");
  const asText = (value) => (Array.isArray(value) ? value.map(withoutComma).join(",") : String(value));
  const stringified = (id) => (typeof id === "string" ? id : JSON.stringify(id, Object.keys(id).sort()));
  const parse = (text, like) =>
    Array.isArray(like) ? text.split(",").filter(Boolean).map(withCommas) : typeof like === "number" ? Number(text) : text;

  // The page's data attributes name the scripts of charts and of the table, which are loaded lazily.
  const code = document.currentScript.dataset;
  const load = (address) =>
    new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      Object.assign(script, { src: address, onload: resolve, onerror: reject });
      document.head.append(script);
    });
  // Load plotly.js while Dash still requests the layout. Dash awaits window.Plotly, which may be a promise, so a chart
  // that is ready earlier waits for it.
  if (code.plotly) window.Plotly = load(code.plotly);

  // A minimal regeneratorRuntime, the only function that Dash's code uses of its polyfill for old browsers. The polyfill
  // itself takes a tenth of a second to run and is left out (front.py). It runs a generator compiled to a state machine.
  window.regeneratorRuntime = window.regeneratorRuntime || {
    mark: (generator) => generator,
    wrap: function* (step, outer, self) {
      const state = { next: 0, ended: false, stop: () => (state.ended = true) };
      while (!state.ended) {
        const value = step.call(self, state);
        if (!state.ended) state.sent = yield value;
      }
    },
  };

  // The values set from the address in the last second, per control. A control reports such a value as a change, which
  // must not be written back: after a quick second press of Back, the address is already a different one.
  const given = new Map();
  function give(id, value) {
    const before = given.get(id.name);
    const values = before && before.until > Date.now() ? before.values : [];
    given.set(id.name, { until: Date.now() + 1000, values: [...values, asText(value)] });
    window.dash_clientside.set_props(id, { value: value });
  }
  function wasGiven(name, value) {
    const lately = given.get(name);
    return lately !== undefined && lately.until > Date.now() && lately.values.includes(asText(value));
  }

  function systemTheme() {
    return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }
  function show(theme) {
    document.documentElement.setAttribute("data-mantine-color-scheme", theme);
    document.documentElement.dataset.agThemeMode = theme;
    document.body && (document.body.dataset.agThemeMode = theme);
  }
  try {
    show(JSON.parse(window.localStorage.getItem("theme-wish")) || systemTheme()); // before the first paint
  } catch (error) {
    show(systemTheme());
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    tfs: {
      // No polling while the tab is hidden.
      tick: (n) => (document.hidden ? skip() : n),

      // Request the page at the address, unless it is shown already (the first page may come with the layout). For pages
      // whose layout depends on the runs, the runs are part of the place. The page Runs first loads its table script, if
      // another page was opened first.
      arrive: function (path, search, here, followRuns) {
        const runs = followRuns.includes(path) && new URLSearchParams(search || "").get("runs");
        const place = runs ? path + "?runs=" + runs : path;
        if (place === here) return skip();
        return path === "/" && code.table && !window.dash_ag_grid ? load(code.table).then(() => place) : place;
      },

      // Request the charts and parts if the page was sent without them, or if `now` has changed since they were made.
      catchUp: (shown, now) => (same(shown, now) ? skip() : now),

      // Controls -> address. Default values are left out; settings of other pages are kept.
      address: function (values, base, ids, search) {
        const query = new URLSearchParams(search || "");
        const parts = new Map(query);
        const touched = window.dash_clientside.callback_context.triggered.map((entry) => entry.prop_id);
        let changed = false;
        ids.forEach((id, i) => {
          const value = values[i];
          if (!touched.some((place) => place.includes(`"name":"${id.name}"`))) return;
          if (!(id.name in base) || value === null || value === undefined || wasGiven(id.name, value)) return;
          if (same(value, base[id.name])) changed = parts.delete(id.name) || changed;
          else if (parts.get(id.name) !== asText(value)) changed = Boolean(parts.set(id.name, asText(value)));
        });
        if (!changed) return skip();
        const text = [...parts].map(([k, v]) => k + "=" + encodeURIComponent(v).replace(/%2C/g, ",")).join("&");
        return text ? "?" + text : "";
      },

      // Address -> controls: for links, the back button, and the run selector, which exists before its page.
      controls: function (search, base, ids, values) {
        const query = new URLSearchParams(search || "");
        ids.forEach((id, i) => {
          if (!base || !(id.name in base)) return;
          const wanted = query.has(id.name) ? parse(query.get(id.name), base[id.name]) : base[id.name];
          if (!same(wanted, values[i])) give(id, wanted);
        });
        return skip();
      },

      links: function (search, path, ids) {
        return [
          ids.map((id) => id.path + (search || "")),
          ids.map((id) => (id.path === path ? "link here" : "link")),
        ];
      },

      // Synchronize the selected rows of the table with the run selector.
      ticked: function (grids, chosen) {
        const rows = grids[0];
        if (!Array.isArray(rows)) return skip();
        const names = rows.map((row) => row.name);
        return same([...names].sort(), [...(chosen || [])].sort()) ? skip() : names;
      },
      tickRows: function (chosen, grids, ids) {
        if (ids.length === 0) return skip();
        const rows = grids[0];
        const names = Array.isArray(rows) ? rows.map((row) => row.name) : (rows && rows.ids) || [];
        if (!same([...names].sort(), [...(chosen || [])].sort()))
          window.dash_clientside.set_props(ids[0], { selectedRows: { ids: chosen || [] } });
        return skip();
      },
      search: function (values, ids, options) {
        const text = values[ids.findIndex((id) => id.name === "search")];
        return options.map((one) => (one.quickFilterText === text ? skip() : Object.assign({}, one, { quickFilterText: text })));
      },

      theme: function (wish) {
        const theme = wish || systemTheme();
        show(theme);
        return [theme, theme];
      },
      otherTheme: (clicks, theme) => (theme === "dark" ? "light" : "dark"),

      // Plotly also reports resizes. Send the server only a new range of the x axis, with the axes that it belongs to.
      zoom: function (change, figure, before) {
        if (!change || !figure) return skip();
        const ends = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
        if (ends[0] === undefined) return change["xaxis.autorange"] && before ? null : skip();
        const log = figure.layout.xaxis && figure.layout.xaxis.type === "log";
        const range = ends.map((end) => (log ? Math.pow(10, end) : Number(end)));
        const zoom = { revision: figure.layout.uirevision, range: range };
        return same(zoom, before) ? skip() : zoom;
      },
      // Keep the chart's zoom when a new figure arrives. Plotly's uirevision cannot do it: Dash writes the zoom back into
      // the figure, so to Plotly the next figure seems to request the whole axis.
      paint: function (figure, theme, templates) {
        if (!figure || !theme) return skip();
        const layout = Object.assign({}, figure.layout, { template: templates[theme] });
        const place = document.getElementById(stringified(window.dash_clientside.callback_context.outputs_list.id));
        const drawn = place && (place.querySelector(".js-plotly-plot") || {}).layout;
        if (drawn && drawn.uirevision === layout.uirevision)
          ["xaxis", "yaxis"].forEach(function (name) {
            const before = drawn[name];
            if (before && before.autorange === false && layout[name])
              layout[name] = Object.assign({}, layout[name], { range: before.range.slice(), autorange: false });
          });
        return Object.assign({}, figure, { layout: layout });
      },

      copyLink: function () {
        window.dash_clientside.set_props("said", { children: "" });
        navigator.clipboard.writeText(window.location.href).then(
          () => window.dash_clientside.set_props("said", { children: "The link is copied." }),
          () => window.dash_clientside.set_props("said", { children: "Copy it from the address bar." }),
        );
        return skip();
      },
      savePictures: function () {
        document.querySelectorAll(".js-plotly-plot").forEach(function (chart, i) {
          const place = chart.closest("section");
          const name = "tfs-" + ((place && place.getAttribute("aria-label")) || "chart " + i).toLowerCase().replace(/\W+/g, "-");
          window.Plotly.downloadImage(chart, { format: "png", scale: 2, filename: name, width: 1200, height: 600 });
        });
        return skip();
      },
    },
  });

  // Formatters for the table of runs.
  const functions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
  const missing = (value) => value === null || value === undefined;
  functions.tfsPlain = (value) => (missing(value) ? "–" : String(value));
  functions.tfsCount = (value) => (missing(value) ? "–" : value < 1e6 ? value.toLocaleString("en") : functions.tfsShort(value));
  functions.tfsPercent = (value) => (missing(value) ? "–" : value + " %");
  functions.tfsLoss = (value) => (missing(value) ? "–" : value < 100 ? value.toFixed(4) : functions.tfsShort(value));
  functions.tfsShort = function (value) {
    if (missing(value)) return "–";
    const prefixes = ["", " k", " M", " G", " T", " P", " E", " Z", " Y"];
    let power = 0;
    while (Math.abs(value) >= 999.5 && power < prefixes.length - 1) {
      value /= 1000;
      power += 1;
    }
    return (power === 0 ? String(value) : value.toPrecision(3)) + prefixes[power];
  };
  const onSliders = (window.dashMantineFunctions = window.dashMantineFunctions || {});
  onSliders.tfsNumber = (value) => String(value);
  onSliders.tfsFlops = (power) => functions.tfsShort(Math.pow(10, power)) + "FLOPs";

  // Sort unknown values last in both directions, and numbers numerically.
  functions.tfsCompare = function (a, b, nodeA, nodeB, descending) {
    if (missing(a) || missing(b)) return missing(a) && missing(b) ? 0 : (missing(a) ? 1 : -1) * (descending ? -1 : 1);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  };
})();
