"""The picture in docs/stages.md: `python -m tests.experiments.stages_picture` trains and photographs the page."""

import tempfile
from pathlib import Path

from experiments.two_layer import command, outputs
from tests.browser import chromium

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "stages_page.png"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        command.main(["--data", "xor", "--page", "--out", f"{folder}/xor"])
        page = browser.new_page(viewport={"width": 1100, "height": 1230})
        page.goto((Path(folder) / "xor" / outputs.PAGE).as_uri())
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURE)
