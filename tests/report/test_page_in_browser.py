"""The page in a browser: no request, no error, the slider by keyboard, nothing serious for accessibility, hostile names
inert, not too large.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcal.cli import run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the test extra")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is in the test extra")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; .ci/run installs it")

HOSTILE = ["<script>document.title='gone'<", "a'onerror='x", "{{7*7}}"]


def cohort(root: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Random volumes, with images of noise."""
    rng = np.random.default_rng(0)
    for folder in ("results", "labels", "images"):
        (root / folder).mkdir(parents=True)
    for name, shape in shapes.items():
        # large ones are the worst
        z = (1 + np.prod(shape) / 1e5) * rng.normal(size=(3, *shape)).astype(np.float32)
        np.savez(root / "results" / f"{name}.npz", logits=z)
        np.save(root / "labels" / f"{name}.npy", (z + rng.normal(scale=9, size=z.shape)).argmax(0).astype(np.uint8))
        np.save(root / "images" / f"{name}.npy", rng.normal(size=shape).astype(np.float32))
    folders = [str(root / folder) for folder in ("results", "labels", "images")]
    return [folders[0], "--labels", folders[1], "--images", folders[2], "--background", "0"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    words = cohort(root, dict.fromkeys([*HOSTILE, "usual"], (6, 16, 12)))
    assert run(["fit", *words, "-o", str(root / "c.safetensors"), "--report", str(root / "page.html"), "--quiet"]) == 0
    return root / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_asks_for_nothing_and_reports_no_error(browser: Any, page: Path, width: int, scheme: str) -> None:
    told: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("request", lambda request: told.append(request.url))
    opened.goto(page.as_uri())
    opened.wait_for_load_state("networkidle")
    assert [text for text in told if not text.startswith(("data:image/png", page.as_uri()))] == []
    assert opened.title().startswith("Calibration fitted on")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


def test_the_slider_is_moved_by_keyboard(browser: Any, page: Path) -> None:
    opened = browser.new_page()
    opened.goto(page.as_uri())
    case = opened.locator(".case").first
    shown = lambda: case.locator("img.slice:not([hidden])").get_attribute("alt")  # noqa: E731
    case.locator("input").focus()
    opened.keyboard.press("Home")
    first = shown()
    opened.keyboard.press("ArrowRight")
    second = shown()
    assert first != second
    assert "slice 1 of 12" in first
    assert "slice 2 of 12" in second
    assert case.locator("output").inner_text() == "slice 2 of 12"
    opened.keyboard.press("End")
    assert "slice 12 of 12" in shown()
    assert case.locator("img.slice:not([hidden])").count() == 1
    opened.close()


def test_names_of_cases_do_nothing(browser: Any, page: Path) -> None:
    opened = browser.new_page()
    opened.goto(page.as_uri())
    names = opened.locator("h3").all_inner_texts()
    assert set(HOSTILE) <= set(names)
    assert opened.locator("main script, main [onerror]").count() == 0
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_accessibility(browser: Any, page: Path, scheme: str) -> None:
    # the checker is a script of its own, which the page's policy would not let in
    opened = browser.new_context(bypass_csp=True, color_scheme=scheme).new_page()
    opened.goto(page.as_uri())
    found = axe.Axe().run(opened).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    opened.close()


@pytest.mark.slow
def test_two_hundred_cases_of_noise_stay_under_twenty_megabytes(tmp_path: Path) -> None:
    # the twenty that are shown are as large as a page shows them
    shapes = {f"case {k}": (180, 170, 14) if k < 20 else (12, 12, 4) for k in range(200)}
    words = cohort(tmp_path / "many", shapes)
    page = tmp_path / "page.html"
    assert run(["evaluate", *words, "--report", str(page), "--quiet"]) == 0
    assert 4_000_000 < page.stat().st_size < 20_000_000
