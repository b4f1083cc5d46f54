"""report.html: needs nothing but itself, shows every seed, believes no text to be markup, and fits narrow screens."""
import base64
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from judging.results import Results
from judging.verdict import Claim, Verdict
from reporting import figures, report, tables
from tests.browser import CHROMIUM, browser

EVIL = '<script>alert("1")</script> & "quotes"'
FIELDS = ["model", "width", "seed"]
MEASURES = {"loss": f"loss {EVIL}", "norm": "squared norm of all of the parameters"}
VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


def write(folder, *, diverged=(), unconverged=(), drawn=True, measures=12):
    rng = np.random.default_rng(0)
    more = {f"m{i}": f"a measure with a long heading, number {i}" for i in range(measures)}
    rows = [
        {"config_id": f"{EVIL if width == 8 else 'mlp'}-{'long-' * 20}{width}-{seed}",
         "model": "mlp", "width": width, "seed": seed, "loss": rng.random(), "norm": 1e5 * rng.random(),
         **{name: rng.random() * 1e-7 for name in more}, "seconds": 1.25}
        for width in (8, 1024)
        for seed in range(5)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["diverged_epoch"] = [3 if i in diverged else np.nan for i in range(len(rows))]
    table["hessian/converged"] = [i not in unconverged for i in range(len(rows))]
    figure, axes = figures.new(1, 2)
    axes[0, 0].set(xlabel="width", ylabel="loss of <b>", title="first")
    axes[0, 1].set(xlabel="width", ylabel="norm")
    experiment = SimpleNamespace(
        claim=Claim(f"All is well. {EVIL}", source=f"Nobody & Sons 2020 {EVIL}"), headings={**MEASURES, **more}
    )
    verdict = Verdict("refuted", f"It is 3 < 4. {EVIL}", f"A t-test, p > 0.05. {EVIL}")
    results, flags = Results(table, {}, {}, FIELDS), ["--experiment=first", f"--model={EVIL}"]
    rows = report.write_results(folder, results, flags)
    report.write_report(
        folder, experiment, results, verdict, {"loss_against_width": figure} if drawn else {}, rows, script="run_x",
        name="first", flags=flags, versions="tensorflow 2.0", seconds=2.0, quiet=True,
    )  # fmt: skip
    return (folder / "report.html").read_text(), table, figure


class Page(HTMLParser):
    """Every element of a page with its attributes and text; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements = [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, text="", **{"attributes": dict(attributes)}))
        if tag not in VOID:
            self.stack.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.stack.pop().tag == tag

    def handle_data(self, data):
        for element in self.stack:
            element.text += data

    def all(self, tag):
        return [element for element in self.elements if element.tag == tag]


def test_it_asks_nobody_for_anything(tmp_path):
    text, *_ = write(tmp_path)
    page = Page(text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on") and not re.match(r"(?i)\s*(https?:|//|javascript:)", value or ""), (
                name,
                value,
            )
    for image in page.all("img"):
        assert image.attributes["src"].startswith("data:image/png;base64,")
    (style,) = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text
    policy = {e.attributes.get("http-equiv"): e.attributes.get("content") for e in page.all("meta")}[
        "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert {link.attributes["href"] for link in page.all("a")} == {"results.csv", "flags.cfg", "report.md"}


def test_no_text_is_markup(tmp_path):
    text, *_ = write(tmp_path, diverged=[0], unconverged=[1])
    assert "<script" not in text and "<b>" not in text
    page = Page(text)
    assert page.all("blockquote")[0].text.startswith(f"All is well. {EVIL}")
    assert any(f"A t-test, p > 0.05. {EVIL}" in paragraph.text for paragraph in page.all("p"))
    assert page.all("img")[0].attributes["alt"] == "loss of <b> against width (first); norm against width"


def test_it_says_what_report_md_says_and_every_seed(tmp_path):
    text, table, _ = write(tmp_path, diverged=[2], unconverged=[7, 8])
    page, other = Page(text), (tmp_path / "report.md").read_text()
    means, troubled, unsure, every = [read(element) for element in re.findall(r"<table>.*?</table>", text, re.DOTALL)]
    summary = tables.summary(Results(table, {}, {}, FIELDS), MEASURES)
    for row, (_, expected) in zip(means[1:], summary.iterrows(), strict=True):
        assert row[:2] == [str(expected["width"]), "5"]
        assert row[3] == expected[MEASURES["norm"]].replace(" [", "[") and expected[MEASURES["norm"]] in other
    assert len(every) == 1 + len(table)
    for row, (_, config) in zip(every[1:], table.iterrows()):
        numbers = [tables.number(config[name]) for name in ("loss", "norm")]
        assert row[:4] == [str(config["width"]), str(config["seed"]), *numbers]
        assert row[-1] == "1.2"
    assert troubled[1:] == [[table["config_id"][2], "3"]]
    assert [row[0] for row in unsure[1:]] == list(table["config_id"][[7, 8]]) and unsure[1][1] == "hessian/converged"
    for part in (f"python run_x.py --flagfile={tmp_path}/flags.cfg", f"tensorboard --logdir={tmp_path}/tensorboard"):
        assert part in other and any(part == pre.text for pre in page.all("pre"))
    said = {dt.text: dd.text for dt, dd in zip(page.all("dt"), page.all("dd"))}
    assert "tensorflow 2." in said["Versions"] and "cores" in said["Machine"]
    assert said["Seconds"].startswith("12.5 over 10 configs")
    assert said["Versions"] in other and said["Machine"] in other and said["Seconds"] in other


def read(table):
    """Rows of texts of an HTML table."""
    rows = []
    for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL):
        page = Page(row)
        rows.append([element.text for element in page.elements if element.tag in ("th", "td")])
    return rows


def test_figures_are_those_of_the_folder(tmp_path):
    text, *_ = write(tmp_path)
    (image,) = Page(text).all("img")
    data = base64.b64decode(image.attributes["src"].split(",", 1)[1])
    assert data == (tmp_path / "figures" / "loss_against_width.png").read_bytes()
    text, *_ = write(tmp_path, drawn=False)
    assert not Page(text).all("img") and "None could be drawn" in text


def test_it_can_be_read_without_eyes(tmp_path):
    page = Page(write(tmp_path, diverged=[1])[0])
    assert page.all("html")[0].attributes["lang"] == "en" and len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("title")[0].text == "run_x: first: refuted"
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert all(head.attributes["scope"] in ("col", "row") for head in page.all("th"))
    for region in (element for element in page.all("div") if element.attributes.get("role") == "region"):
        assert region.attributes["tabindex"] == "0" and region.attributes["aria-label"]  # scrolled by keyboard too


def test_troubles_are_told_only_where_there_are_any(tmp_path):
    heads = [h.text for h in Page(write(tmp_path)[0]).all("h2")]
    assert "Diverged" not in heads and "Not converged" not in heads and "Verdict: refuted" in heads


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_nothing_is_cut_off_in_a_browser(tmp_path):
    write(tmp_path, diverged=[0, 7], unconverged=[1])
    with browser() as page:
        for width in (400, 1280):
            page.open((tmp_path / "report.html").as_uri(), width)
            assert page.evaluate("innerWidth") == width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            # Everything lies in the window, but for what is inside of a table, which scrolls in itself.
            outside = """[...document.querySelectorAll('main *')].filter(e => !e.closest('table') &&
                e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
            assert page.evaluate(outside) == []
            boxes = page.evaluate("[...document.querySelectorAll('.table')].map(e => [e.scrollWidth, e.clientWidth])")
            assert boxes[0][0] > boxes[0][1], "the test's table is wider than the window"
            assert page.evaluate("(b => (b.scrollLeft = 50, b.scrollLeft))(document.querySelector('.table'))") == 50
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        ink = "getComputedStyle(document.body).backgroundColor"
        page.open((tmp_path / "report.html").as_uri(), 400, dark=False)
        light = page.evaluate(ink)
        page.open((tmp_path / "report.html").as_uri(), 400, dark=True)
        assert light == "rgb(255, 255, 255)" and page.evaluate(ink) != light
