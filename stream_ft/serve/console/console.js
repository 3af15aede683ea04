"use strict";
// Everything on the page is made by h() and draw(): texts become text nodes, never markup.
(() => {
  const POLL_MS = 2000;
  const VERSIONS = 30;
  const SAID = 20;
  const FEW = 8;
  const WATCH_MS = 15 * 60 * 1000;
  const FOCUSED = "a[href], button, input, select, textarea, summary, [tabindex]";
  const SENDABLE = /^[\x21-\x7e]+$/; // what a header carries
  const $ = (id) => document.getElementById(id);

  const state = {
    token: sessionStorage.getItem("stream_ft.token") || "",
    status: null, versions: [], statements: [], labels: [],
    shown: {}, open: new Set(), whole: new Set(), versionsAt: 0, versionsKey: "", asked: null,
  };

  // --- making elements ---------------------------------------------------------------------------------------------

  function h(name, attributes, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  function s(name, attributes, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value === true ? "" : String(value));
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }

  // Drawn again only when it would differ; what was focused is focused again, by its name within the part.
  function show(id, facts, make) {
    const key = JSON.stringify(facts);
    if (state.shown[id] === key) return;
    state.shown[id] = key;
    const part = $(id);
    const held = part.contains(document.activeElement) ? nameOf(part, document.activeElement) : null;
    part.replaceChildren(...[make()].flat().filter(Boolean));
    if (held === null) return;
    const again = [...part.querySelectorAll(FOCUSED)].find((element) => nameOf(part, element) === held);
    if (again) again.focus({ preventScroll: true });
  }

  // A row keeps its name when others come before it: the name of the row, and which of its controls it is.
  function nameOf(part, element) {
    const row = element.closest("[data-key]");
    const place = [...(row || part).querySelectorAll(FOCUSED)].indexOf(element);
    return `${row ? row.dataset.key : ""} ${place}`;
  }

  // The first rows of a long list, and a button for the rest.
  function few(id, rows) {
    return state.whole.has(id) ? rows : rows.slice(0, FEW);
  }

  function more(id, rows, draw) {
    if (rows.length <= FEW) return null;
    const open = state.whole.has(id);
    return h("p", { class: "more", "data-key": "more" }, h("button", {
      class: "plain", type: "button", "aria-expanded": String(open),
      onclick: () => { if (!state.whole.delete(id)) state.whole.add(id); draw(); $(id).querySelector(".more button").focus(); },
    }, open ? "Show fewer" : `Show all ${rows.length}`));
  }

  // --- numbers and times -------------------------------------------------------------------------------------------

  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
  const share = (value) => (known(value) ? `${(100 * value).toFixed(1)} %` : "–");
  const count = (value) => (known(value) ? value.toLocaleString("en-US") : "–");
  const points = (value) => (known(value) ? `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}` : "–");
  const clip = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

  function at(seconds) {
    if (!known(seconds) || seconds <= 0) return "–";
    const when = new Date(1000 * seconds);
    const clock = when.toTimeString().slice(0, 8);
    const day = new Date(when - 60000 * when.getTimezoneOffset()).toISOString().slice(0, 10);
    return Date.now() - when < 20 * 3600 * 1000 ? clock : `${day} ${clock.slice(0, 5)}`;
  }

  // --- asking the server -------------------------------------------------------------------------------------------

  class Refused extends Error {
    constructor(status, message) {
      super(message);
      this.status = status;
    }
  }

  async function ask(method, path, body) {
    const headers = {};
    if (state.token && !SENDABLE.test(state.token)) {
      $("token-form").hidden = false;
      throw new Refused(0, "The token has a character that no token has, perhaps from a copy. Type it again.");
    }
    if (state.token) headers.authorization = `Bearer ${state.token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method, headers, cache: "no-store", credentials: "omit", redirect: "error",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch {
      throw new Refused(0, "The server cannot be reached. This page goes on trying.");
    }
    const value = await response.json().catch(() => ({}));
    if (response.status === 401 && $("token-form").hidden) {
      $("token-form").hidden = false;
      $("token").focus();
    }
    if (!response.ok) throw new Refused(response.status, value.error || `The server answered ${response.status}.`);
    return value;
  }

  let saidBy = "";
  function say(text, how, by) {
    saidBy = by || "";
    $("said").className = how || "";
    if ($("said").textContent !== text) $("said").textContent = text;
  }

  // --- commands ----------------------------------------------------------------------------------------------------

  async function command(body) {
    try {
      const told = await ask("POST", "control", body);
      const flags = [told.pinned ? "pinned" : "", told.paused ? "paused" : ""].filter(Boolean).join(", ");
      const moved = told.before === told.version ? `In force: ${told.version}` : `${told.before} → ${told.version}`;
      say(`Accepted: ${body.type.replace("_", " ")}. ${moved}${flags ? ` (${flags})` : ""}.`, "good");
      state.versionsAt = 0;
      await refresh();
      return true;
    } catch (error) {
      say(error.message, "bad");
      return false;
    }
  }

  function canBeHad() {
    const wanted = state.status ? state.status.serve.wanted : "";
    return state.versions.filter((one) => one.kept && !one.denied && one.version !== wanted).reverse();
  }

  function openRollback(version) {
    const options = canBeHad().map((one) =>
      h("option", { value: one.version }, `${one.version}, ${one.kind || "?"}, ${at(one.created)}`));
    $("to").replaceChildren(h("option", { value: "previous" }, "the version before"), ...options);
    $("to").value = version || "previous";
    $("reason").value = "";
    $("rollback").returnValue = "";
    $("rollback").showModal();
    $("reason").focus();
  }

  $("do-rollback").addEventListener("click", () => openRollback(""));
  $("rollback").addEventListener("close", () => {
    if ($("rollback").returnValue !== "yes") return;
    command({ type: "rollback", to: $("to").value, reason: $("reason").value });
  });
  // Enter in a field commands nothing by accident: only the button does.
  $("reason").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    $("rollback-yes").focus();
  });
  $("do-pin").addEventListener("click", () => command({ type: state.status.serve.pinned ? "unpin" : "pin" }));
  $("do-pause").addEventListener("click", () => command({ type: state.status.serve.paused ? "resume" : "pause" }));
  $("do-train").addEventListener("click", () => command({ type: "train_now" }));
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = $("token").value.trim();
    sessionStorage.setItem("stream_ft.token", state.token);
    $("token").value = "";
    $("token-form").hidden = true;
    state.versionsAt = 0;
    refresh();
  });

  // --- what is in force --------------------------------------------------------------------------------------------

  function drawTop({ model, serve, learn }) {
    $("model").textContent = model;
    document.title = `${serve.version || "not ready"} · ${model} · stream_ft`;
    const facts = [serve.version, serve.wanted, serve.ready, serve.not_ready, serve.pinned, serve.paused,
      serve.leader, serve.failure, serve.halted, learn && learn.ready, learn && learn.why];
    show("force", facts, () => [
      h("strong", {}, serve.version || "no version"),
      serve.ready ? h("span", { class: "good" }, "answers") : h("span", { class: "bad" }, `not ready: ${serve.not_ready}`),
      serve.version && serve.wanted !== serve.version ? h("span", { class: "warn" }, `wanted: ${serve.wanted}`) : null,
      serve.failure ? h("span", { class: "bad" }, `could not be loaded (${serve.failure.step}): ${serve.failure.reason}`) : null,
      serve.halted ? h("span", { class: "bad" }, "the control log was lost or replaced: no commands are taken") : null,
      serve.pinned ? h("span", { class: "tag warn" }, "pinned") : null,
      serve.paused ? h("span", { class: "tag warn" }, "paused") : null,
      learn && !learn.ready ? h("span", { class: "bad" }, `learner: ${learn.why}`) : null,
      h("span", { class: "soft" }, serve.leader ? `led by ${serve.leader}` : "nobody leads"),
    ]);
    $("do-pin").textContent = serve.pinned ? "Unpin" : "Pin";
    $("do-pin").className = serve.pinned ? "on" : "";
    $("do-pause").textContent = serve.paused ? "Resume" : "Pause";
    $("do-pause").className = serve.paused ? "on" : "";
    for (const id of ["metrics-link", "docs-link"]) $(id).hidden = Boolean(state.token);
  }

  function tile(name, figure, note, how) {
    return h("div", {}, h("dt", {}, name), h("dd", { class: `figure ${how || ""}` }, figure), note ? h("dd", { class: "note" }, note) : null);
  }

  function drawTiles(learn, serve) {
    const trial = serve.trial;
    const facts = learn && [learn.accuracy, learn.accuracy_over, learn.frozen, learn.labels, learn.correction_ratio, learn.corrections_over,
      learn.counts, learn.lag, learn.drift, learn.drift_alarms, learn.round, learn.next_round, trial];
    show("tiles", facts || [trial], () => {
      if (!learn) return tile("Learner", "unknown", "It has not written its status where this server can read it. Its own metrics have its numbers.");
      const frozen = learn.frozen || {};
      const alarm = (learn.happenings || []).filter((one) => one.kind === "drift").pop();
      const round = learn.round ? "running" : known(learn.next_round && learn.next_round.in_s) ? `in ${Math.ceil(learn.next_round.in_s)} s` : "waits";
      return [
        tile("Live accuracy", share(learn.accuracy), learn.accuracy_over ? `of the last ${count(learn.accuracy_over)} labelled events` : "no labelled events yet"),
        frozen.version
          ? tile("Frozen copy", share(frozen.accuracy), frozen.lost || `${frozen.version}, after ${count(frozen.after)} labels; live on the same ${count(frozen.over)}: ${share(frozen.live_accuracy)}`)
          : tile("Frozen copy", "–", frozen.after ? `taken after ${count(frozen.after)} labels; ${count(learn.labels)} so far` : "none is taken"),
        tile("Corrected by users", share(learn.correction_ratio), learn.corrections_over ? `of the last ${count(learn.corrections_over)} answers that they judged` : "nothing judged yet"),
        tile("Drift", learn.drift_alarms ? `${count(learn.drift_alarms)} alarm${learn.drift_alarms === 1 ? "" : "s"}` : "none",
          [alarm ? `Last at ${at(alarm.time)}: ${alarm.text}` : `Detector ${learn.drift.detector}.`,
            known(learn.drift.error) ? `Error now ${share(learn.drift.error)}.` : "",
            known(learn.drift.threshold) ? `Statistic ${learn.drift.statistic.toPrecision(2)}; alarm at ${learn.drift.threshold.toPrecision(2)}.` : "", learn.drift.pending ? "An encoder round is to answer it." : ""].filter(Boolean).join(" "),
          learn.drift.pending ? "warn" : ""),
        tile("Examples", count(learn.counts.train), `${count(learn.counts.holdout)} held out, ${count(learn.counts.waiting)} wait, ${count(learn.lag)} not read yet`),
        tile("Next round", round, learn.round ? `a ${learn.round.kind} round` : learn.next_round && learn.next_round.reason),
        trial ? tile("On trial", trial.version, `${trial.kind}, share ${share(trial.share)}`) : null,
      ];
    });
  }

  // --- the curve ---------------------------------------------------------------------------------------------------

  const MARKS = { promotion: "promoted", refusal: "refused", rollback: "rolled back", drift: "drift" };

  function glyph(kind, x, y, title) {
    const r = 4.5;
    const path = {
      promotion: `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
      refusal: `M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`,
      rollback: `M${x} ${y - r - 1}l${r + 1} ${r + 1}l${-r - 1} ${r + 1}l${-r - 1} ${-r - 1}z`,
      drift: `M${x} ${y - r - 1}l${r + 1} ${2 * r}h${-2 * r - 2}z`,
    }[kind];
    return s("path", { class: `mark ${kind}`, d: path }, title ? s("title", {}, title) : null);
  }

  function drawChart(learn) {
    const curve = (learn && learn.curve) || [];
    const told = ((learn && learn.happenings) || []).filter((one) => one.kind in MARKS);
    const wide = Math.max(280, Math.round($("chart").clientWidth));
    show("chart", [curve, told.map((one) => [one.kind, one.time]), wide], () => {
      if (curve.length < 2) {
        return h("p", { class: "soft" }, "It is drawn once 30 labelled events have come: events of the label topic, whose labels come whether the answer was right or not. "
          + "Users correct errors, not successes; what they say is the rate of corrections above.");
      }
      const [left, right, top, tall] = [44, 10, 8, 190];
      const bottom = top + tall;
      const [first, last] = [curve[0].events, curve[curve.length - 1].events];
      const low = Math.max(0, Math.floor(Math.min(...curve.flatMap((p) => [p.live, p.frozen]).filter(known)) * 10 - 0.5) / 10);
      const x = (events) => left + ((wide - left - right) * (events - first)) / Math.max(1, last - first);
      const y = (value) => bottom - (tall * (value - low)) / (1 - low);
      const line = (name) => curve.filter((p) => known(p[name])).map((p, i) => `${i ? "L" : "M"}${x(p.events).toFixed(1)} ${y(p[name]).toFixed(1)}`).join("");
      const place = (time) => {
        const i = curve.findIndex((p) => p.time >= time);
        if (i < 0) return x(last);
        if (i === 0) return time < curve[0].time - 1 ? null : x(first);
        const [a, b] = [curve[i - 1], curve[i]];
        return x(a.events + ((b.events - a.events) * (time - a.time)) / Math.max(1e-9, b.time - a.time));
      };
      const svg = s("svg", { class: "curve", viewBox: `0 0 ${wide} ${bottom + 46}`, role: "img", "aria-labelledby": "chart-title" });
      const end = curve[curve.length - 1];
      svg.append(s("title", { id: "chart-title" }, `After ${count(last)} labelled events the live version is right in ${share(end.live)}`
        + (known(end.frozen) ? `, the frozen copy in ${share(end.frozen)}.` : ".")));
      const steps = 4;
      for (let i = 0; i <= steps; i += 1) {
        const value = low + ((1 - low) * i) / steps;
        svg.append(s("path", { class: "grid", d: `M${left} ${y(value)}H${wide - right}` }),
          s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(100 * value)}%`));
      }
      svg.append(s("path", { class: "frozen", d: line("frozen") }), s("path", { class: "live", d: line("live") }));
      for (const one of told) {
        const where = place(one.time);
        if (where !== null) svg.append(glyph(one.kind, where, bottom + 13, `${at(one.time)} ${MARKS[one.kind]}: ${one.text}`));
      }
      svg.append(s("text", { x: left, y: bottom + 40 }, count(first)),
        s("text", { x: wide - right, y: bottom + 40, "text-anchor": "end" }, `${count(last)} labelled events`));
      const icon = (kind) => s("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, glyph(kind, 7, 7.5, ""));
      return [
        h("ul", { class: "key" },
          h("li", {}, h("span"), "live"),
          known(end.frozen) ? h("li", { class: "is-frozen" }, h("span"), "frozen copy") : null,
          Object.entries(MARKS).filter(([kind]) => told.some((one) => one.kind === kind)).map(([kind, name]) => h("li", {}, icon(kind), name))),
        svg,
      ];
    });
  }

  // --- what happened -----------------------------------------------------------------------------------------------

  const HOW = { promotion: "good", refusal: "bad", failure: "bad", rollback: "back", drift: "warn" };

  function drawStory(learn) {
    const told = ((learn && learn.happenings) || []).filter((one) => one.kind !== "round").slice(-60).reverse();
    show("story", told.map((one) => [one.time, one.text]), () => {
      if (!told.length) return h("p", { class: "soft" }, "Nothing yet.");
      return h("ul", { tabindex: "0", "aria-label": "What happened, newest first" }, told.map((one) => h("li", {},
        h("time", {}, at(one.time)),
        h("p", {}, h("span", { class: HOW[one.kind] || "soft" }, one.kind), ` ${one.text}`))));
    });
  }

  // --- versions ----------------------------------------------------------------------------------------------------

  function standing(one, denied) {
    if (one.active) return h("span", { class: "good" }, "answers");
    if (denied) return h("span", { class: "bad" }, "denied");
    return one.kept ? "" : h("span", { class: "soft" }, "files gone");
  }

  function drawVersions() {
    const rows = [...state.versions].reverse();
    show("versions", [rows, [...state.open], state.whole.has("versions")], () => {
      if (!rows.length) return h("p", { class: "soft" }, "None yet.");
      const head = ["Version", "Made by", "Trained on", "Before", "Candidate", "Difference", "At least", "Judged on", "When", "", ""];
      return [h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Versions" }, h("table", { class: "list", role: "table" },
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head.map((name, i) => h(name ? "th" : "td", { role: name ? "columnheader" : "cell", scope: name ? "col" : null, class: i > 1 && i < 8 ? "number" : null }, name)))),
        h("tbody", { role: "rowgroup" }, few("versions", rows).flatMap((one) => versionRows(one))))), more("versions", rows, drawVersions)];
    });
  }

  function versionRows(one) {
    const v = one.verdict || {};
    const judged = known(v.lower_bound);
    const number = (label, text) => h("td", { role: "cell", class: "number", "data-label": label }, text);
    const opened = state.open.has(one.version);
    const wanted = state.status ? state.status.serve.wanted : "";
    const row = h("tr", { role: "row", class: one.active ? "now" : null, "data-key": one.version },
      h("th", { role: "rowheader", scope: "row", class: "name" }, h("button", {
        class: "plain", type: "button", "aria-expanded": String(opened), title: "Its manifest and the gate's numbers",
        onclick: () => toggle(one.version),
      }, one.version)),
      h("td", { role: "cell" }, one.kind || ""),
      number("Trained on", one.train_examples ? count(one.train_examples) : ""),
      number("Before", judged ? share(v.champion) : ""),
      number("Candidate", judged ? share(v.candidate) : ""),
      number("Difference", judged ? points(v.difference) : ""),
      number("At least", judged ? points(v.lower_bound) : ""),
      number("Judged on", judged ? count(v.n) : ""),
      h("td", { role: "cell" }, at(one.created)),
      h("td", { role: "cell" }, standing(one, one.denied)),
      h("td", { role: "cell" }, one.kept && !one.denied && one.version !== wanted
        ? h("button", { class: "plain", type: "button", "aria-label": `Roll back to ${one.version}`, onclick: () => openRollback(one.version) }, "Roll back to it") : null));
    return opened ? [row, h("tr", { role: "row" }, h("td", { role: "cell", colspan: "11", class: "whole" }, detail(one)))] : [row];
  }

  const details = new Map();

  async function toggle(version) {
    if (state.open.delete(version)) return drawVersions();
    state.open.add(version);
    if (!details.has(version)) {
      try {
        details.set(version, await ask("GET", `versions/${encodeURIComponent(version)}`));
      } catch (error) {
        details.set(version, { missing: error.message });
      }
    }
    drawVersions();
  }

  function plain(value) {
    if (typeof value === "number") return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(5)));
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  function facts(object, leave) {
    return h("dl", {}, Object.entries(object || {}).filter(([name, value]) => !leave.includes(name) && value !== "" && value !== null)
      .flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, plain(value))]));
  }

  function dense(object, leave) {
    const pairs = facts(object, leave);
    const parts = [...pairs.children];
    return h("dl", { class: "dense" }, parts.filter((_, i) => i % 2 === 0).map((name, i) => h("div", {}, name, parts[2 * i + 1])));
  }

  function detail(one) {
    const whole = details.get(one.version) || one;
    const manifest = whole.manifest;
    return h("div", { class: "detail" },
      whole.missing ? h("p", { class: "warn" }, whole.missing) : null,
      one.verdict && one.verdict.reason ? h("p", {}, one.verdict.reason) : null,
      h("h3", {}, "The gate's numbers"),
      one.verdict && Object.keys(one.verdict).length ? dense(one.verdict, ["reason"]) : h("p", { class: "soft" }, "None: it was not judged."),
      h("h3", {}, "The head"),
      facts({ sha256: one.start_head, examples_upto: one.examples_upto, offsets: one.offsets, seed: one.seed }, []),
      h("h3", {}, "The base"),
      facts({ sha256: one.base }, []),
      manifest ? facts(manifest, ["verdict", "files", "software", "examples_upto", "offsets", "seed", "created"]) : h("p", { class: "soft" }, "It has no manifest: it is the pretrained model."),
      manifest ? [
        h("h3", {}, "Its files"),
        h("dl", {}, Object.entries(manifest.files).flatMap(([name, file]) => [h("dt", {}, name), h("dd", {}, `${count(file.size)} bytes, sha256 ${file.sha256}`)])),
        h("h3", {}, "Software"),
        facts(manifest.software, []),
      ] : null);
  }

  // --- feedback ----------------------------------------------------------------------------------------------------

  const BECAME = {
    unread: "not read by the learner yet", waits_for_prediction: "waits for its prediction", waits_for_label: "waits: the label is new",
    held_out: "held out, to test on", quarantined: "in quarantine", outranked: "another statement counts",
    contradicted: "contradicted by newer ones", sampled_out: "no room among the examples", near_duplicate: "nearly the same text is held",
    holdout_full: "left the holdout", not_trained: "scored, not trained on", dead_letter: "dead letter", unknown: "unknown here",
  };

  function learnedBy(seq) {
    const index = state.versions.findIndex((one) => known(one.examples_upto) && one.kind !== "genesis" && one.examples_upto >= seq);
    if (index < 0) return "";
    const before = index === 0 && state.versions.length >= VERSIONS ? " or one before" : "";
    return `${state.versions[index].version}${before}`;
  }

  function became(one) {
    if (one.became !== "trains") return h("span", { class: ["dead_letter", "quarantined"].includes(one.became) ? "bad" : null }, BECAME[one.became] || one.became);
    const by = learnedBy(one.seq);
    return by ? h("span", { class: "good" }, `learned by ${by}`) : "for the next version";
  }

  function spoken(one) {
    if (one.became === "dead_letter") return one.refused;
    const said = one.kind === "rating" ? `rated ${one.rating}` : one.kind === "accept" ? "right" : one.kind === "reject" ? "wrong" : one.said || "";
    return one.predicted !== undefined ? `${one.predicted || "(no label)"} → ${said}` : said;
  }

  function drawFeedback() {
    const rows = state.statements;
    show("feedback", [rows, state.versions.map((one) => [one.version, one.examples_upto]), $("find-id").value, state.whole.has("feedback")], () => {
      if (!rows.length) return h("p", { class: "soft" }, $("find-id").value ? "Nothing among the newest statements has this id." : "Nobody has said anything yet.");
      const head = ["When", "Prediction or event", "Answered → said", "By", "Answered by", "What became of it"];
      return [h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Feedback" }, h("table", { class: "list", role: "table" },
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head.map((name) => h("th", { role: "columnheader", scope: "col" }, name)))),
        h("tbody", { role: "rowgroup" }, few("feedback", rows).map((one) => h("tr", { role: "row" },
          h("td", { role: "cell" }, at(one.time)),
          h("td", { role: "cell", class: "id" }, one.prediction_id || one.id || `${one.topic} ${one.partition}/${one.offset}`),
          h("td", { role: "cell", class: "words" }, spoken(one), one.input ? h("blockquote", {}, clip(one.input, 240)) : null),
          h("td", { role: "cell" }, one.source || ""),
          h("td", { role: "cell", class: "name" }, one.version || ""),
          h("td", { role: "cell" }, became(one))))))), more("feedback", rows, drawFeedback)];
    });
  }

  let typed = 0;
  $("find").addEventListener("submit", (event) => event.preventDefault());
  $("find-id").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(refresh, 250);
  });

  // --- try a message -----------------------------------------------------------------------------------------------

  async function answerTo(text) {
    const outputs = ["label", "score", "prediction_id", "probabilities"].map((name) => ({ name }));
    const told = await ask("POST", `v2/models/${encodeURIComponent(state.status.model)}/infer`,
      { inputs: [{ name: "text", shape: [1], datatype: "BYTES", data: [text] }], outputs });
    const by = Object.fromEntries(told.outputs.map((one) => [one.name, one]));
    const labels = by.probabilities.parameters.labels;
    state.labels = [...labels].sort();
    const ranked = labels.map((label, i) => ({ label, p: by.probabilities.data[i] })).sort((a, b) => b.p - a.p);
    return { text, id: by.prediction_id.data[0], label: by.label.data[0], score: by.score.data[0], version: told.model_version, ranked: ranked.slice(0, 5) };
  }

  $("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = $("text").value;
    try {
      state.asked = { answer: await answerTo(text), steps: [], since: Date.now(), done: true };
      drawAnswer();
    } catch (error) {
      $("answer").replaceChildren(h("p", { class: "bad" }, error.message));
    }
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });

  function drawAnswer() {
    const { answer } = state.asked;
    const bar = (p) => {
      const span = h("span");
      span.style.width = `${Math.max(0, Math.min(100, 100 * p))}%`;
      return span;
    };
    const form = h("form", { class: "correct", onsubmit: (event) => { event.preventDefault(); feedback({ label: $("right").value.trim() }); } },
      h("div", {}, h("label", { for: "right" }, "The right answer"),
        h("input", { id: "right", list: "labels", maxlength: "200", required: true, autocomplete: "off" }),
        h("datalist", { id: "labels" }, state.labels.map((label) => h("option", { value: label })))),
      h("button", { type: "submit", id: "correct" }, "Correct it"),
      answer.label ? h("button", { type: "button", id: "accept", onclick: () => feedback({ kind: "accept" }) }, "It is right") : null);
    $("answer").replaceChildren(h("div", { class: "answer" },
      answer.label
        ? h("p", {}, h("span", { class: "label" }, answer.label), ` ${share(answer.score)}, by ${answer.version}`)
        : h("p", {}, `The model knows no label yet (${answer.version}). Tell it the first ones.`),
      answer.ranked.length > 1 ? h("table", { class: "bars", "aria-label": "Probabilities" }, h("tbody", {}, answer.ranked.map((one) =>
        h("tr", {}, h("th", { scope: "row" }, one.label), h("td", { class: "bar" }, bar(one.p)), h("td", {}, share(one.p)))))) : null,
      form,
      h("ol", { class: "steps", id: "steps" })));
    drawSteps();
  }

  function drawSteps() {
    const list = $("steps");
    if (list) list.replaceChildren(...state.asked.steps.map((step) => h("li", {}, step.text, step.button || null)));
  }

  async function feedback(said) {
    const { asked } = state;
    try {
      await ask("POST", "feedback", { prediction_id: asked.answer.id, source: "console", ...said });
    } catch (error) {
      asked.steps = [{ text: error.message }];
      return drawSteps();
    }
    asked.said = said;
    asked.steps = [{ text: "Taken, and durable on the log." }];
    asked.since = Date.now();
    asked.done = false;
    drawSteps();
    await refresh();
  }

  // Follows one correction until a version has learned from it, then asks again.
  async function watch() {
    const { asked } = state;
    if (!asked || asked.done) return;
    const { statements } = await ask("GET", `feedback?id=${encodeURIComponent(asked.answer.id)}&limit=1`);
    if (!statements.length || asked !== state.asked) return;
    const [one] = statements;
    const steps = [{ text: "Taken, and durable on the log." }];
    const by = one.became === "trains" ? learnedBy(one.seq) : "";
    if (one.became === "waits_for_label") {
      const allow = h("button", { type: "button", id: "allow", onclick: () => command({ type: "label_add", label: asked.said.label }) }, "Allow this label");
      steps.push({ text: "The label is new: it waits until three people have named it, or you allow it. ", button: allow });
    } else if (one.became === "trains") {
      steps.push({ text: by ? `Example ${count(one.seq)}.` : `Example ${count(one.seq)}: it trains the next version.` });
    } else if (one.became !== "unread") {
      steps.push({ text: `${BECAME[one.became] || one.became}.` });
      asked.done = !["waits_for_prediction", "unknown"].includes(one.became);
    }
    if (by && state.versions.some((v) => v.active && known(v.examples_upto) && v.examples_upto >= one.seq)) {
      const again = await answerTo(asked.answer.text);
      steps.push({ text: `Learned by ${by}. Asked again, ${again.version} says: ${again.label} (${share(again.score)}).` });
      asked.done = true;
    }
    if (Date.now() - asked.since > WATCH_MS) asked.done = true;
    if (JSON.stringify(steps.map((step) => step.text)) === JSON.stringify(asked.steps.map((step) => step.text))) return;
    asked.steps = steps;
    drawSteps();
  }

  // --- the loop ----------------------------------------------------------------------------------------------------

  function redraw() {
    const { serve, learn } = state.status;
    drawTop(state.status);
    drawTiles(learn, serve);
    drawChart(learn);
    drawStory(learn);
    drawVersions();
    drawFeedback();
  }

  let running = null;
  function refresh() {
    if (!running) running = once().finally(() => { running = null; });
    return running;
  }

  async function once() {
    try {
      const id = $("find-id").value.trim();
      const [status, said] = await Promise.all([
        ask("GET", "status"),
        ask("GET", `feedback?limit=${SAID}${id ? `&id=${encodeURIComponent(id)}` : ""}`),
      ]);
      state.status = status;
      state.statements = said.statements;
      const key = `${status.serve.version} ${status.serve.control_offset}`;
      if (key !== state.versionsKey || Date.now() - state.versionsAt > 15000) {
        state.versions = (await ask("GET", `versions?limit=${VERSIONS}`)).versions;
        state.versionsKey = key;
        state.versionsAt = Date.now();
      }
      if (saidBy === "poll") say("", "");
      redraw();
      await watch();
      $("seen").textContent = `As of ${new Date().toTimeString().slice(0, 8)}.`;
      for (const button of document.querySelectorAll(".top button")) button.disabled = false;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status !== 401) say(error.message, "bad", "poll");
      else say(state.token ? "This token was not accepted." : "This server needs a token.", state.token ? "bad" : "", "poll");
      if (error.status === 401 || error.status === 0) {
        for (const button of document.querySelectorAll(".top button")) button.disabled = true;
      }
    }
  }

  async function loop() {
    if (!document.hidden) await refresh().catch((error) => { say(`This page failed: ${error.message}`, "bad"); throw error; }).finally(again);
    else again();
  }

  function again() {
    setTimeout(loop, POLL_MS);
  }

  let resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => state.status && drawChart(state.status.learn), 150);
  });
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  loop();
})();
