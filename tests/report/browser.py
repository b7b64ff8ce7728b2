"""A page in headless Chromium: how wide it is, what its console says, how small its letters are."""

import html
import json
import re
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

PROBE = """
<!doctype html><body style="margin:0"><iframe id="page" style="border:0;width:%dpx;height:900px"
src="%s"></iframe><pre id="found"></pre><script>
document.getElementById("page").onload = event => {
  const page = event.target.contentDocument, root = page.documentElement
  const letters = [...page.querySelectorAll("svg text")].filter(each => each.textContent.trim())
  const inside = each => {
    const box = each.getBoundingClientRect(), svg = each.closest("svg").getBoundingClientRect()
    return box.left >= svg.left - 1 && box.right <= svg.right + 1
      && box.top >= svg.top - 1 && box.bottom <= svg.bottom + 1
  }
  const size = e => parseFloat(getComputedStyle(e).fontSize) * e.closest("svg").getScreenCTM().a
  const lefts = [...page.querySelectorAll(".grid svg")].map(s => s.getBoundingClientRect().left)
  document.getElementById("found").textContent = JSON.stringify({
    width: root.scrollWidth, drawings: lefts.length, columns: new Set(lefts).size,
    outside: letters.filter(each => !inside(each)).map(each => each.textContent),
    smallest: Math.min(...letters.map(size)),
    dark: getComputedStyle(page.body).backgroundColor, ready: true,
  })
}
</script></body>
"""


def looked_at(page, width, folder, dark=False):
    """What a browser of some width makes of a page.

    Args:
        page: The path of an HTML file.
        width: In pixels.
        folder: Where to write what the browser needs.
        dark: Whether the reader prefers a dark page.

    Returns:
        A dict of `width` (what the page takes), `drawings`, `columns`, `outside` (texts that a
        drawing cuts off), `smallest` (the least size of letters in a drawing, in pixels), `dark`
        (the page's color) and `console` (what was said there).
    """
    frame = folder / f"frame-{width}.html"
    frame.write_text(PROBE % (width, page.as_uri()), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         "--window-size=1600,1000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(\{.*?\})</pre>', done.stdout, re.DOTALL)
    if found is None:
        raise RuntimeError(f"Chromium did not show the page: {done.stderr[-2000:]}")
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return {**json.loads(html.unescape(found[1])), "console": console}
