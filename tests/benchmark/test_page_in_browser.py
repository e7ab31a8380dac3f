"""The report in a real browser: what runs there, what does not, and what a reader can do."""

import dataclasses
import html
import json
import os
import re
import subprocess

import pytest
import report_samples as samples

from tfcompress.benchmark import browser, report
from tfcompress.errors import MissingExtra

pytestmark = pytest.mark.slow

# What a model could be called; the mark that it leaves is looked for in the page.
EVIL = "document.documentElement.setAttribute('data-owned', 1)"
NAMES = (f"</script><script>{EVIL}</script>", f"<img src=x onerror={EVIL!r}>",
         f'"><svg onload="{EVIL}">', f"javascript:{EVIL}", "<!--<script>", "]]>")


def shown(page: str, folder, size: str = "1280,900") -> str:
    """The page's elements after its scripts have run."""
    try:
        program = browser.find_browser()
    except MissingExtra as error:
        pytest.skip(f"{error.message}: {error.hint}")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    done = subprocess.run(
        [program, *browser.FLAGS, *root, f"--user-data-dir={folder}/profile",
         f"--window-size={size}", "--virtual-time-budget=3000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def driven(page: str, script: str, folder, size: str = "1280,900") -> dict:
    """What `script` returns when it runs behind the page's own; the policy would forbid it."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    driver = ("<script>addEventListener('load', () => { const out = document.createElement('pre');"
              f"out.id = 'out'; out.textContent = JSON.stringify((() => {{{script}}})());"
              "document.body.append(out); });</script></body>")
    text = shown(page.replace("</body>", driver), folder, size)
    return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', text, re.S)[1]))


def hostile(name: str):
    """A report in which everything that a model names is called `name`."""
    given = samples.places()
    row = given.rows[1]
    found = [f | {"layer": name, "ops": {name: 1}, "dtypes": {name: 9}, "gives": name}
             for f in samples.layers(14)]
    row = dataclasses.replace(
        row, target=name, io={**row.io, "layers": found, "layers_note": name},
        findings=({"level": "warning", "text": name, "advice": name},))
    rows = (given.rows[0], row, *given.rows[2:])
    return dataclasses.replace(given, rows=rows, source={**given.source, "path": name,
                                                         "notes": [name]}, command=name)


def test_nothing_of_a_model_runs(tmp_path):
    """Even with the policy taken away: the names are text."""
    together = " ".join(NAMES)
    for name in (*NAMES, together):
        page = report.html(hostile(name))
        bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        for text in (page, bare):
            assert "data-owned=" not in shown(text, tmp_path), name
        if name != together:
            continue
        assert 'class="tip"' in shown(page, tmp_path)  # and the page's own script did run


def test_the_policy_stops_what_would_run(tmp_path):
    """The check can fail: the same names unescaped run without the policy, and not with it."""
    page = report.html(samples.usual()).replace("<main>", f"<main>{NAMES[0]}{NAMES[1]}", 1)
    assert "data-owned=" not in shown(page, tmp_path)
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert "data-owned=" in shown(bare, tmp_path)


def test_tables_sort_by_figures(tmp_path):
    found = driven(report.html(samples.places()), """
        const table = document.querySelector("table.sortable");
        const heads = [...table.tHead.rows[0].cells];
        const press = (title) => {
          const head = heads.find((h) => h.textContent === title);
          head.querySelector("button").click();
          return [head.getAttribute("aria-sort"),
                  ...[...table.tBodies[0].rows].map((r) => r.cells[0].textContent)];
        };
        return [press("Size"), press("Size"), press("Zeros"), press("Zeros"), press("Layer"),
                press("#"), heads.filter((h) => h.hasAttribute("aria-sort")).length];
    """, tmp_path)
    assert found == [["descending", "3", "2", "1"], ["ascending", "1", "2", "3"],
                     ["descending", "1", "3", "2"], ["ascending", "1", "3", "2"],
                     ["ascending", "1", "2", "3"], ["descending", "1", "2", "3"], 1]


def test_a_mark_tells_its_figures_lights_its_row_and_leads_to_its_account(tmp_path):
    found = driven(report.html(samples.usual()), """
        const point = document.querySelector('a.point[data-t="5"]');
        const tip = document.querySelector(".tip");
        const before = tip.hidden;
        point.focus();
        const told = [...tip.children].map((line) => line.textContent);
        const lit = [...document.querySelectorAll("tr.lit")].map((r) => r.dataset.t);
        point.blur();
        const after = [tip.hidden, document.querySelectorAll(".lit").length];
        point.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
        return [before, told, lit, after, location.hash,
                document.querySelector("article:target h3").textContent];
    """, tmp_path)
    before, told, lit, after, place, name = found
    assert before and told[0] == "tflite-int8" and "Size: 96.4 kB (3.59× smaller)" in told
    assert "on the Pareto front" in told
    assert lit == ["5"] and after == [True, 0]
    assert (place, name) == ("#t5", "tflite-int8")


def test_marks_under_one_another_are_named_together(tmp_path):
    rows = [samples.row(**samples.SOURCE), samples.row("micro", 36_960, accuracy=0.87),
            samples.row("tflite-int8", 36_976, accuracy=0.87),
            samples.row("tflite-float16", 90_000, accuracy=0.872)]
    found = driven(report.html(samples.report(rows)), """
        return [1, 3].map((number) => {
          const points = [...document.querySelectorAll(`a.point[data-t="${number}"]`)];
          const point = points.find((one) => one.getBoundingClientRect().width);
          point.dispatchEvent(new Event("pointerenter"));
          return document.querySelector(".tip").lastChild.textContent;
        });""", tmp_path)
    assert found[0] == "Also here: tflite-int8" and not found[1].startswith("Also")


def test_axes_are_chosen_without_the_script(tmp_path):
    page = re.sub(r"<script>.*?</script>", "", report.html(samples.places()), flags=re.S)
    found = driven(page, """
        const seen = () => [...document.querySelectorAll(".chart")]
          .filter((c) => getComputedStyle(c).display !== "none").map((c) => c.className);
        const pick = (name) => { document.querySelector("." + name).click(); return seen(); };
        return [seen(), pick("across-latency"), pick("upwards-snr"), pick("across-size_gzip")];
    """, tmp_path)
    assert found == [["chart a-size u-metric"], ["chart a-latency u-metric"],
                     ["chart a-latency u-snr"], ["chart a-size_gzip u-snr"]]


@pytest.mark.parametrize("size", ["390,844", "1280,900"])
@pytest.mark.parametrize("name", ["places", "crowd", "trained", "hostile"])
def test_nothing_runs_out_of_the_page(tmp_path, name, size):
    frame = ("<body style='margin:0'><iframe style='border:0;width:{}px;height:800px' "
             "srcdoc=\"{}\"></iframe></body>")
    inside = html.escape(report.html(samples.ALL[name]()))
    found = driven(frame.format(size.split(",")[0], inside), """
        const root = document.querySelector("iframe").contentDocument.documentElement;
        return [root.clientWidth, root.scrollWidth];
    """, tmp_path)
    wide, needed = found
    assert wide >= int(size.split(",")[0]) - 20 and needed <= wide


def test_everything_is_open_on_paper(tmp_path):
    found = driven(report.html(samples.usual()), """
        const open = () => document.querySelectorAll("details:not([open])").length;
        const before = open();
        dispatchEvent(new Event("beforeprint"));
        const during = open();
        dispatchEvent(new Event("afterprint"));
        return [before, during, open()];
    """, tmp_path)
    assert found[0] > 0 and found[1] == 0 and found[2] == found[0]


def test_every_control_can_be_reached_and_named(tmp_path):
    found = driven(report.html(samples.places()), """
        const named = (e) => (e.getAttribute("aria-label") || e.textContent
          || (e.labels && [...e.labels].map((l) => l.textContent).join("")) || "").trim();
        const all = [...document.querySelectorAll("a[href], button, input, summary")];
        const roles = [...document.querySelectorAll("svg.plot")].map((s) =>
          [s.getAttribute("role"), ...s.getAttribute("aria-labelledby").split(" ")
            .map((id) => document.getElementById(id).textContent.length > 0)]);
        return [all.filter((e) => !named(e)).length, all.filter((e) => e.tabIndex < 0).length,
                roles.every((r) => ["img", "group"].includes(r[0]) && r[1] && r[2])];
    """, tmp_path)
    assert found == [0, 0, True]
