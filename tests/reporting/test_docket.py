"""docket.html: says of any run folder what its files say, needs nothing but itself, and can be used in a browser."""
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from judging.verdict import Claim, Verdict
from reporting import docket, docket_html, report, verdict_file
from tests.browser import CHROMIUM, browser
from tests.reporting.test_report_html import EVIL, Page

ROOT = Path(docket.__file__).parents[1]


def keep(
    place, script="run_mine", experiment="folding", outcome="refuted", *, name="results", claim="Paper folds.",
    measured=("it folds 7 [6.5, 7.5] times",), dataset="digits", seeds=3, seconds=20.0, model="mlp", figures=2,
    flags=(), date="2026-11-26T12:00:00+00:00", report_html=True,
):  # fmt: skip
    """A run folder as the harness leaves it, without a training."""
    folder = place / name / script.removeprefix("run_") / experiment
    (folder / "figures").mkdir(parents=True)
    rows = [{"config_id": f"{model}-{seed}", "model": model, "width": 8 * 2**i, "depth": 1, "dataset": dataset,
             "train_size": 0, "seed": seed, "loss": 0.5, "seconds": seconds}
            for i in range(2) for seed in range(seeds)]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    lines = [f"--experiment={experiment}", f"--out_dir={place / name}", "--width=8,16", *flags]
    (folder / "flags.cfg").write_text("\n".join(lines) + "\n")
    groups = tuple((f"group {i}" if len(measured) > 1 else "", outcome) for i in range(len(measured)))
    verdict = Verdict(outcome, f"({outcome}) {'; '.join(measured)}.", "A t-test.", "At most 5 %.", groups, measured, 0)
    verdict_file.write(
        folder, claim=Claim(claim, source="A. Nobody 2020"), verdict=verdict, script=script, experiment=experiment,
        seeds=list(range(seeds)), configs=len(rows), chances=[], failed={}, taken="", versions="keras 3.15.1",
        machine="2 cores", seconds=seconds * len(rows),
    )  # fmt: skip
    entries = verdict_file.read(folder)
    verdict_file.write_content(folder, {**entries, "date": date})
    rng = np.random.default_rng(0)
    for number in range(figures):
        pixels = np.kron(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((50, 50, 1), np.uint8))
        Image.fromarray(pixels).save(folder / "figures" / f"figure_{number}.png")
    if report_html:
        (folder / "report.html").write_text("<!DOCTYPE html><title>report</title>")
    return folder


def made(place, **options):
    runs = docket.find([place])
    return Page(docket_html.page(runs, place, **options)), runs


def rows_of(page):
    return [element for element in page.all("tr") if element.attributes.get("id")]


# -- what it knows of a folder


def test_it_says_of_a_run_what_its_files_say(tmp_path):
    folder = keep(tmp_path, measured=("first 1 [0, 2]", "second 3 [2, 4]"), flags=["--epochs=3"])
    (run,) = docket.find([tmp_path])
    assert (run.folder, run.script, run.experiment, run.outcome) == (folder, "run_mine", "folding", "refuted")
    assert run.deciding == ("group 0", "first 1 [0, 2]") and len(run.groups) == 2
    assert (run.dataset, run.network, run.seeds, run.configs) == ("digits", "mlp, depth 1, width 8, 16", 3, 6)
    assert run.seconds == 120 and docket.describe_seconds(run.seconds) == "2 min"
    assert run.flags == {"width": "8,16", "epochs": "3"} and f"{run.date:%Y-%m-%d}" == "2026-11-26"
    assert run.report == folder / "report.html" and len(run.figures) == 2


def test_only_what_was_judged_is_counted(tmp_path):
    """Rows that earlier commands left in the same folder come behind those of the last one."""
    folder = keep(tmp_path)
    entries = verdict_file.read(folder)
    table = pd.read_csv(folder / "results.csv")
    more = table.assign(seed=table["seed"] + 10, dataset="cifar10")
    pd.concat([table, more]).to_csv(folder / "results.csv", index=False)
    verdict_file.write_content(folder, entries)
    (run,) = docket.find([tmp_path])
    assert (run.seeds, run.configs, run.dataset) == (3, 6, "digits")


def test_a_run_of_an_earlier_version_is_read_from_its_report(tmp_path):
    folder = keep(tmp_path)
    verdict = Verdict("supported", "It folds: 7 [6.5, 7.5] times.", "A t-test.", "At most 5 %.")
    frame = pd.DataFrame([[1]])
    facts = report.Facts(
        title="run_mine: folding", claim=Claim("Paper folds.", source="A. Nobody (2020)"), verdict=verdict,
        summary=frame, keys=[], seeds=frame, diverged=frame[:0], unconverged=frame[:0], failed=frame[:0], figures={},
        repeat="", decide="", tensorboard="", flags=[], versions="keras 3.10", machine="1 core, 2.5 GHz",
        seconds="100.0 over 4 configs, 101.0 in this call",
    )  # fmt: skip
    (folder / "report.md").write_text(report.markdown(facts))
    (folder / "verdict.json").unlink()
    (run,) = docket.find([tmp_path])
    assert (run.script, run.experiment, run.outcome) == ("run_mine", "folding", "supported")
    assert (run.claim, run.source) == ("Paper folds.", "A. Nobody (2020)") and run.reason == verdict.reason
    assert (run.configs, run.versions, run.machine) == (4, "keras 3.10", "1 core, 2.5 GHz")


def test_damaged_and_unfinished_folders_are_told_and_stop_nothing(tmp_path):
    keep(tmp_path, name="good")
    keep(tmp_path, name="damaged")
    (tmp_path / "damaged/mine/folding/results.csv").write_text("config_id,seed\na,0\n")
    unfinished = keep(tmp_path, name="unfinished")
    (unfinished / "verdict.json").unlink()
    keep(tmp_path, name="garbage")
    for name in ("verdict.json", "results.csv", "flags.cfg", "figures/figure_0.png"):
        (tmp_path / "garbage/mine/folding" / name).write_bytes(b"\xff\x00{")
    page, runs = made(tmp_path, compare=True)
    by_name = {run.folder.parts[-3]: run for run in runs}
    assert {name: run.outcome for name, run in by_name.items()} == {
        "good": "refuted", "damaged": "none", "unfinished": "none", "garbage": "none"
    }  # fmt: skip
    assert "checksum" in by_name["damaged"].reason and "no verdict yet" in by_name["unfinished"].reason
    assert "4 runs" in page.all("title")[0].text and "3 without a verdict" in page.all("title")[0].text


@pytest.mark.parametrize("place, said", [("empty", "no run folder below"), ("none", "missing"), ("file", "no folder")])
def test_bad_input_is_one_line(tmp_path, place, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=said) as error:
        docket.find([tmp_path / place])
    assert "\n" not in str(error.value)


def test_a_folder_that_is_given_twice_counts_once(tmp_path):
    folder = keep(tmp_path)
    assert len(docket.find([tmp_path, folder, tmp_path / "results"])) == 1


@pytest.mark.slow
def test_the_script_needs_no_tensorflow_and_says_what_it_wrote(tmp_path):
    keep(tmp_path)
    code = "import sys; from absl import app; import docket; " \
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'a docket must open in no time'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    command = [sys.executable, ROOT / "docket.py", tmp_path, f"--out={tmp_path / 'docket.html'}", "--compare"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout == f"{tmp_path / 'docket.html'}: 1 run of 1 claim: 1 refuted\n", said.stderr
    for arguments, error in (
        (["missing"], "error: missing is missing\n"), (["--colour=red"], "error: Unknown command line flag 'colour'\n"),
        ([tmp_path, "--out=missing/folder.cfg/x"], ""), ([tmp_path, f"--out={tmp_path}"], "cannot be written"),
    ):  # fmt: skip
        said = subprocess.run([*command[:2], *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert error in said.stderr and len(said.stderr.splitlines()) <= 1, said.stderr
        assert bool(said.returncode) == bool(error)


# -- the page


def test_it_asks_nobody_for_anything_and_no_text_is_markup(tmp_path):
    keep(tmp_path, claim=EVIL, measured=(EVIL,), dataset=EVIL, flags=[f"--model={EVIL}"])
    keep(tmp_path, name="</script><b>", claim=EVIL, measured=(f"{EVIL} again",), outcome="supported")
    page, _ = made(tmp_path, compare=True)
    assert all(EVIL in row.text for row in rows_of(page)) and len(rows_of(page)) == 2
    own, data = ([e for e in page.all("script") if ("type" in e.attributes) == typed] for typed in (False, True))
    assert len(own) == 1 and "alert" not in own[0].text and len(data) == 1
    assert {run["groups"][0][2] for run in json.loads(data[0].text)} == {EVIL, f"{EVIL} again"}
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on") and name != "style", (name, value)
            if name in ("href", "src"):
                assert not re.match(r"(?i)\s*(https?:|//|javascript:)", value), value
    assert "url(" not in page.all("style")[0].text
    policy = next(e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_links_are_relative_to_where_the_page_lies(tmp_path):
    folder = keep(tmp_path, name="my results #1")
    runs = docket.find([tmp_path])
    for place in (tmp_path, tmp_path / "pages" / "deep"):
        page = Page(docket_html.page(runs, place))
        links = [link.attributes["href"] for link in page.all("a")]
        assert "%23" in links[0] and links[0].endswith("mine/folding/report.html")
        assert [(place / unquote(link)).resolve() for link in links] == [
            (folder / name).resolve() for name in ("report.html", "figures/figure_0.png", "figures/figure_1.png")
        ]


def test_a_verdict_is_a_word_and_a_sign_beside_its_colour(tmp_path):
    for outcome in ("supported", "refuted", "undecided"):
        keep(tmp_path, name=outcome, outcome=outcome)
    page, _ = made(tmp_path)
    badges = {e.attributes["class"]: e.text for e in page.all("span") if "badge" in e.attributes.get("class", "")}
    assert badges == {
        "badge supported": "✓ supported", "badge refuted": "✗ refuted", "badge undecided": "? undecided"
    }  # fmt: skip


def test_runs_that_disagree_are_compared_first(tmp_path):
    for experiment, outcomes in {
        "agreeing": ("refuted", "refuted"),
        "open": ("undecided", "supported"),
        "torn": ("supported", "undecided", "refuted"),
        "single": ("supported",),
    }.items():
        for i, outcome in enumerate(outcomes):
            keep(tmp_path, experiment=experiment, name=f"n{i}", outcome=outcome, claim=f"{experiment} claim")
    page, _ = made(tmp_path, compare=True)
    panels = [e for e in page.all("details") if e.attributes.get("class") == "panel"]
    heads = [e.text for e in page.all("summary") if "claim" in e.text]
    assert [head.split()[0] for head in heads] == ["torn", "open", "agreeing"] and len(panels) == 3
    assert "contradict" in heads[0] and "differ" in heads[1] and "agree" in heads[2]
    chosen = [e.text for e in page.all("option") if "selected" in e.attributes]
    assert {re.search(r"\((\w+),", text)[1] for text in chosen[:2]} == {"supported", "refuted"}
    page, _ = made(tmp_path)
    assert not [e for e in page.all("details") if e.attributes.get("class") == "panel"]


def many(place, number):
    folder = keep(place, figures=4)
    rng = np.random.default_rng(1)
    for figure in (folder / "figures").iterdir():  # as hard to compress as any figure
        Image.fromarray(rng.integers(0, 255, (600, 800, 3), dtype=np.uint8)).save(figure)
    (run,) = docket.find([place])
    return [SimpleNamespace(**{**vars(run), "name": run.name, "report": run.report, "folder": run.folder / str(i)})
            for i in range(number)]  # fmt: skip


def test_the_page_stays_below_5_mb_for_many_runs(tmp_path, monkeypatch):
    runs = many(tmp_path, 400)
    picture = docket.thumbnail(runs[0].folder.parent / "figures" / "figure_0.png")
    monkeypatch.setattr(docket, "thumbnail", lambda path: picture)
    for compare in (False, True):
        text = docket_html.page(runs, tmp_path, compare)
        assert 4e6 < len(text.encode()) < 5e6 and 100 < text.count("data:image/webp") < 1600
        assert text.count("<tr id=") == 400


# -- in a browser

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
SHOWN = "[...document.querySelectorAll('tbody tr[id]')].filter(r => r.checkVisibility()).map(r => r.id).join(' ')"
NAMES = """[...document.querySelectorAll('tbody tr[id]')].filter(r => r.checkVisibility())
    .map(r => r.querySelector('th a').textContent).join('|')"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    place = tmp_path_factory.mktemp("docket")
    keep(place, "run_ntk", "drift", "supported", claim="B stays.", seconds=300.0, date="2026-11-20T00:00:00+00:00")
    keep(place, "run_ntk", "drift", "refuted", name="wide", claim="B stays.", dataset="cifar10", seconds=5.0,
         flags=["--epochs=9"], measured=("it moves 2 [1, 3] far, over a word that is long: " + "w" * 90,))  # fmt: skip
    keep(place, "run_rank", "folding", "undecided", claim="A folds.", seeds=12, model="resnet")
    keep(place, "run_rank", "folding", "undecided", name="wide", claim="A folds.", seeds=2, seconds=70.0)
    (place / "docket.html").write_text(docket_html.page(docket.find([place]), place, compare=True))
    return place / "docket.html"


@pytest.fixture(scope="module")
def chrome():
    with browser() as page:
        yield page


@needs_browser
def test_filters(written, chrome):
    chrome.open(written.as_uri(), 1280)
    count = "document.querySelector('.filters output').textContent"
    assert chrome.evaluate(NAMES) == "B stays.|B stays.|A folds.|A folds." and chrome.evaluate(count) == "4 runs"
    chrome.evaluate("document.querySelector('[name=verdict][value=undecided]').click()")
    assert chrome.evaluate(NAMES) == "B stays.|B stays." and chrome.evaluate(count) == "2 of 4 runs"
    pick = "(s => {{ s.value = '{1}'; s.dispatchEvent(new Event('input', {{bubbles: true}})) }})" \
        "(document.querySelector('[name={0}]'))"
    chrome.evaluate(pick.format("dataset", "cifar10"))
    assert chrome.evaluate(SHOWN) == "run-0"
    chrome.evaluate(pick.format("script", "run_rank"))
    assert chrome.evaluate(NAMES) == "" and chrome.evaluate("document.querySelector('#nothing').checkVisibility()")
    chrome.evaluate("document.querySelector('#nothing button').click()")
    chrome.wait(f"{count} == '4 runs'")
    assert chrome.evaluate("document.activeElement.name") == "text"
    chrome.evaluate(pick.format("text", "FOLDS resnet"))
    assert chrome.evaluate(count) == "1 of 4 runs" and chrome.evaluate(NAMES) == "A folds."


@needs_browser
def test_columns_sort(written, chrome):
    chrome.open(written.as_uri(), 1280)
    click = "[...document.querySelectorAll('thead button')].find(b => b.textContent == '{}').click()"
    values = "[...document.querySelectorAll('tbody tr[id] [data-head={}]')].map(c => c.dataset.sort).join(' ')"
    for column, ascending in (("Seeds", "2 3 3 12"), ("Cost", "30.0 280.0 480.0 1800.0")):
        chrome.evaluate(click.format(column))
        assert chrome.evaluate(values.format(column)) == ascending
        chrome.evaluate(click.format(column))
        assert chrome.evaluate(values.format(column)) == " ".join(ascending.split()[::-1])
    assert chrome.evaluate("[...document.querySelectorAll('[aria-sort]')].map(h => h.ariaSort).join(' ')").split() == [
        *["none"] * 5, "descending", "none"
    ]  # fmt: skip
    chrome.evaluate(click.format("Claim"))
    assert chrome.evaluate(NAMES) == "A folds.|A folds.|B stays.|B stays."


@needs_browser
def test_a_row_opens_its_report(written, chrome):
    chrome.open(written.as_uri(), 1280)
    chrome.evaluate("document.querySelector('tbody tr[id] th a').click()")
    chrome.wait("document.title == 'report'")
    assert chrome.evaluate("location.href").endswith("/ntk/drift/report.html")


@needs_browser
def test_two_runs_are_compared(written, chrome):
    chrome.open(written.as_uri(), 1280)
    rows = """[...document.querySelectorAll('.panel')].map(p => Object.fromEntries([...p.querySelectorAll('tr')].map(
        r => [r.cells[0].textContent, [...r.cells].slice(1).map(c => c.textContent)])))"""
    torn, same = chrome.evaluate(rows)
    assert set(torn["Verdict"]) == {"✓ supported", "✗ refuted"} and set(same["Verdict"]) == {"? undecided"}
    assert set(torn["--epochs"]) == {"9", "–"} and set(torn["data"]) == {"digits", "cifar10"}
    assert "--width" not in torn and "network" not in torn and set(same["seeds"]) == {"12", "2"}
    assert any("it moves 2 [1, 3] far" in text for text in torn["Measured"])
    chrome.evaluate("""(s => { s.value = s.value == '0' ? '1' : '0';
        s.dispatchEvent(new Event('change', {bubbles: true})) })(document.querySelector('.panel select'))""")
    assert len(set(chrome.evaluate(rows)[0]["Verdict"])) == 1
    assert chrome.evaluate("document.querySelector('.panel .same').textContent") == "This is the same run twice."


def press(page, key, code, text=""):
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


@needs_browser
def test_all_of_it_works_from_the_keyboard(written, chrome):
    chrome.open(written.as_uri(), 1280)
    reached = []
    for _ in range(60):
        press(chrome, "Tab", 9)
        here = chrome.evaluate("""(e => e == document.body ? '' : [e.tagName, e.name || e.className || '',
            e.closest('tr[id]') ? 'row' : ''].join(' ').trim() + (getComputedStyle(e).outlineStyle == 'none' ? '!' : '')
            )(document.activeElement)""")
        if not here or reached[-1:] == ["done"]:
            break
        reached.append(here)
    assert not [name for name in reached if name.endswith("!")], "what has the focus must be seen to have it"
    for what in ("SUMMARY", "SELECT", "INPUT verdict", "INPUT text", "BUTTON reset", "BUTTON", "A  row"):
        assert any(name.startswith(what) for name in reached), (what, reached)
    chrome.evaluate("document.querySelector('[name=text]').focus()")
    chrome.call("Input.insertText", text="resnet")
    assert chrome.evaluate(NAMES) == "A folds."
    press(chrome, "Enter", 13, "\r")  # submits no form
    assert chrome.evaluate(NAMES) == "A folds."
    chrome.evaluate("document.querySelector('[name=verdict][value=undecided]').focus()")
    press(chrome, " ", 32, " ")
    assert chrome.evaluate(NAMES) == ""
    press(chrome, " ", 32, " ")
    chrome.evaluate("document.querySelector('thead button').focus()")
    press(chrome, "Enter", 13, "\r")
    assert chrome.evaluate("document.querySelector('thead th').ariaSort") == "ascending"


@needs_browser
def test_it_fits_a_phone_and_follows_the_dark(written, chrome):
    seen = {}
    for width in (360, 700, 1280):
        for dark in (False, True):
            chrome.open(written.as_uri(), width, dark=dark)
            assert chrome.evaluate("document.documentElement.scrollWidth") <= width
            outside = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.table table')
                && e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
            assert chrome.evaluate(outside) == []
            assert chrome.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            seen[width, dark] = chrome.evaluate("getComputedStyle(document.body).backgroundColor")
        if width == 1280:  # the table has room there
            assert chrome.evaluate("(b => b.scrollWidth <= b.clientWidth)(document.querySelector('#runs ~ .table'))")
        if width == 360:  # all of a row can be read there without scrolling sideways
            cells = "[...document.querySelectorAll('tbody tr[id] > *')].map(c => c.getBoundingClientRect().right)"
            assert max(chrome.evaluate(cells)) <= width
            heads = "[...document.querySelectorAll('thead button')].every(b => b.checkVisibility())"
            assert chrome.evaluate(heads)
    assert set(seen.values()) == {seen[360, False], seen[360, True]} and seen[360, False] != seen[360, True]


@needs_browser
def test_words_can_be_read_on_their_ground(written, chrome):
    """Contrast of at least 4.5 (WCAG 2, AA), of everything that is text."""
    contrast = """(() => {
      const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(
        v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
      const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (c != 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' };
      return Math.min(...[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() &&
        [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())).map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
        return (a + .05) / (b + .05) })) })()"""
    for dark in (False, True):
        chrome.open(written.as_uri(), 1280, dark=dark)
        assert chrome.evaluate(contrast) >= 4.5
