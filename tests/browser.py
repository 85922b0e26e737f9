"""Runs pages in Chromium, if it is installed."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package)")


def run_in_browser(page, probe, folder, width=1200):
    """Runs a script at the end of a page and returns its value of `result`; the console must stay empty."""
    script = f"<script>{{ let result; {probe}; document.title = JSON.stringify(result); }}</script>"
    copy = folder / "page.html"
    copy.write_text(page.replace("</body>", f"{script}</body>"))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "CONSOLE" not in done.stderr
    return json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
