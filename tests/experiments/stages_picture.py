"""The picture in docs/stages.md: `python -m tests.experiments.stages_picture` trains and photographs the page."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from experiments import outputs, two_layer

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "stages_page.png"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        two_layer.main(["--data", "xor", "--page", "--out", f"{folder}/xor"])
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1230})
        page.goto((Path(folder) / "xor" / outputs.PAGE).as_uri())
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURE)
        browser.close()
