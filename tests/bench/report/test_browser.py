"""The page in a real browser: no error, no request, tables that sort and filter, no barrier that axe-core knows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.report.page import write_page
from bench.report.runs import run_folders

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parents[3] / "node_modules" / "axe-core" / "axe.min.js"))

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
needs_axe = pytest.mark.skipif(
    not AXE.is_file(), reason="no axe-core: npm install --no-save axe-core, or AXE_CORE=PATH/axe.min.js"
)

REPORT = """
<script>
async function report(probe) {
  const out = document.createElement("pre");
  out.id = "probe";
  if (document.readyState !== "complete") await new Promise((done) => addEventListener("load", done));
  let result;
  try { result = await probe(); } catch (error) { result = { error: String(error) }; }
  out.textContent = JSON.stringify(result);
  document.body.append(out);
}
const requests = () => performance.getEntriesByType("resource").map((each) => each.name)
  .filter((name) => !name.startsWith("data:"));
</script>
"""
LISTEN = """
<script>
addEventListener("message", (event) => {
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = event.data;
  document.body.append(out);
});
</script>
"""
USE = """
const table = document.querySelector("#scoreboard table");
const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);
const button = table.tHead.rows[0].cells[1].querySelector("button");
const before = column(1);
button.click();
const up = column(1);
button.click();
const down = column(1), sorted = table.tHead.rows[0].cells[1].getAttribute("aria-sort");
const filter = document.querySelector("#scoreboard input");
filter.value = "TABLE quote";
filter.dispatchEvent(new Event("input"));
const left = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
const root = document.documentElement;
document.querySelector(".theme").click();
return { before, up, down, sorted, left, theme: root.dataset.theme, requests: requests() };
"""
WIDTH = """
document.querySelectorAll("details").forEach((each) => { each.open = true; });
return { wide: document.documentElement.scrollWidth, window: innerWidth };
"""
LOOK = """
document.querySelectorAll("details").forEach((each) => { each.open = true; });
document.documentElement.dataset.theme = "THEME";
const found = await axe.run(document, { resultTypes: ["violations"] });
return found.violations.map((each) => [each.id, each.nodes.length, each.nodes[0].html.slice(0, 200)]);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the page of the committed runs."""
    path = write_page(run_folders(), tmp_path_factory.mktemp("page") / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., tuple[str, list[str]]]:
    """(text of a page, options) -> what the browser made of it, and all that it wrote to its console."""

    def run(text: str, options: Sequence[str] = ()) -> tuple[str, list[str]]:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        assert CHROMIUM is not None
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=60000",
            *options, "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return done.stdout, re.findall(r"CONSOLE.*?\] (.*)", done.stderr)

    return run


def probed(text: str, body: str, extra: str = "") -> str:
    """The page with a probe behind it, which leaves its findings in the document."""
    probe = f"<script>\nreport(async () => {{ {body} }});\n</script>"
    return text.replace("</body>", f"{REPORT}{extra}{probe}</body>")


def found(document: str) -> Any:
    match = re.search(r'<pre id="probe">(.*?)</pre>', document, re.DOTALL)
    assert match is not None, "the probe did not end"
    text = match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


def test_the_page_works_without_error_or_request(page: str, browse: Callable[..., tuple[str, list[str]]]) -> None:
    document, console = browse(probed(page, USE))
    result = found(document)
    assert console == []
    assert result["requests"] == []
    assert result["up"] == sorted(result["before"], key=int)
    assert result["down"] == result["up"][::-1] or sorted(result["down"], key=int)[::-1] == result["down"]
    assert result["sorted"] == "descending" and result["up"] != result["before"]
    assert result["left"] and all("quote" in name for name in result["left"])
    assert result["theme"] in ("dark", "light")


def test_an_error_and_a_request_would_be_seen(browse: Callable[..., tuple[str, list[str]]]) -> None:
    text = "<!DOCTYPE html><body><img src='http://127.0.0.1:9/a.png'><script>console.error('seen')</script></body>"
    document, console = browse(probed(text, "return { requests: requests() };"))
    assert any("seen" in line for line in console)
    assert len(found(document)["requests"]) == 1


def test_the_page_reads_without_script(page: str, browse: Callable[..., tuple[str, list[str]]]) -> None:
    bare = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    document, console = browse(bare)
    assert console == [] and "<button" not in document and "<input" not in document
    assert "Is 1.73x real on my machine?" in document and document.count("<tr>") == page.count("<tr>")


@pytest.mark.parametrize("width", [390, 1000, 1600])
def test_nothing_is_wider_than_the_window(page: str, browse: Callable[..., tuple[str, list[str]]], width: int) -> None:
    # A window has a least width; a frame has none.
    framed = probed(page, WIDTH).replace("document.body.append(out)", "parent.postMessage(out.textContent, '*')")
    escaped = framed.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{escaped}"></iframe>'
    document, _ = browse(f"<!DOCTYPE html><body>{LISTEN}{frame}</body>", [f"--window-size={width + 100},1000"])
    result = found(document)
    assert result["window"] == width and result["wide"] <= width


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_barrier(page: str, browse: Callable[..., tuple[str, list[str]]], theme: str) -> None:
    axe = f"<script>{AXE.read_text(encoding='utf-8')}</script>"
    document, console = browse(probed(page, LOOK.replace("THEME", theme), axe))
    assert found(document) == []
    assert console == []


@needs_axe
def test_a_barrier_would_be_found(browse: Callable[..., tuple[str, list[str]]]) -> None:
    axe = f"<script>{AXE.read_text(encoding='utf-8')}</script>"
    text = '<!DOCTYPE html><html lang="en"><body><img src="data:,"><p style="color:#ccc">faint</p></body></html>'
    document, _ = browse(probed(text, LOOK.replace("THEME", "light"), axe))
    assert {"image-alt", "color-contrast"} <= {name for name, *_ in found(document)}
