"""The pages in a browser of a phone's width and of a desktop's: none scrolls sideways, no letter is too small to read.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from nas.report.front import render_front
from nas.report.page import render_report
from nas.report.run import load_run
from search_space.reading import to_plain
from tests.nas.report.test_answers import SUPPORT
from tests.nas.report.test_front_report import PROVENANCE, ROWS
from tests.nas.report.test_report import write_sample
from tests.nas.run.test_confusion import answered

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
LEAST_PX = 10  # of a letter on the screen
MEASURE = """
<script>
addEventListener("load", function () {
  var least = 99, where = "";
  document.querySelectorAll("details").forEach(function (d) { d.open = true; });
  document.querySelectorAll("body *").forEach(function (e) {
    var own = Array.from(e.childNodes).some(function (n) { return n.nodeType === 3 && n.data.trim(); });
    if (!own || !e.getClientRects().length || /^(SCRIPT|STYLE|DESC)$/i.test(e.tagName)) return;
    var svg = e.closest("svg");
    var size = parseFloat(getComputedStyle(e).fontSize);
    if (svg) size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < least) { least = size; where = e.textContent; }
  });
  var found = {width: innerWidth, scrolled: document.documentElement.scrollWidth, least: least, where: where};
  parent.document.title = JSON.stringify(found);
});
</script>
"""


def measured(html: str, width: int, folder: Path) -> dict[str, Any]:
    """What the browser makes of a page at a width, in pixels of the screen; in a frame, since windows are 500 wide."""
    html = html.replace("</body>", f"{MEASURE}</body>").replace("default-src 'none'", "img-src *")
    frame = f'<iframe srcdoc="{escape(html)}" style="border:0" width="{width}" height="900"></iframe>'
    (folder / "frame.html").write_text(f"<!doctype html><title></title>{frame}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
    address = (folder / "frame.html").as_uri()
    assert BROWSER is not None
    done = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=120, check=False)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    found: dict[str, Any] = json.loads(unescape(title))
    return found


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 800, 1200])
@pytest.mark.parametrize("kind", ["run", "front"])
def test_a_page_fits_its_window_and_can_be_read(kind: str, width: int, tmp_path: Path) -> None:
    record = write_sample(tmp_path)
    record["latency"]["vpu"]["support"] = to_plain(SUPPORT)
    record["accuracy"] |= {"largest_class": 0.2, "baseline": 0.9, "by_class": {"a long name of a class " * 3: 0.5}}
    record["accuracy"]["balanced"] = 0.5
    record["provenance"]["settings"] = {f"option{n}": "/a/long/path" * 9 for n in range(20)}
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    answered()[0].save(tmp_path)
    html = render_report(load_run(tmp_path)) if kind == "run" else render_front(ROWS, PROVENANCE)
    found = measured(html, width, tmp_path)
    assert found["width"] == width and found["scrolled"] <= width, found
    assert found["least"] >= LEAST_PX, found
