"""What the page does for somebody with a browser, with its script and without it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from .conftest import JOB, WEB, WORKER
from .docker import container

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import BrowserContext, Locator, Page, Route

    from .api import Api
    from .conftest import Visitor
    from .docker import FakeDocker

pytestmark = pytest.mark.browser

INTERVAL = 5_500
"""Milliseconds within which the page asks again when all is well."""

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}
LOOKS: list[dict[str, Any]] = [
    {"color_scheme": theme, "viewport": viewport}
    for theme in ("light", "dark")
    for viewport in (DESKTOP, PHONE)
]


def main_names(page: Page) -> Locator:
    """Return where the names in the list are."""
    return page.locator("tbody .main")


def notice(page: Page) -> Locator:
    """Return what the page says about its list."""
    return page.get_by_role("status")


def until(page: Page, place: Locator, text: str | list[str] | re.Pattern[str]) -> None:
    """Let the time of the page pass, in its longest intervals, until there is a text in a place.

    The API keeps a list for a second of true time, so the first that the page gets may be old.
    """
    for _ in range(5):
        page.clock.run_for(35_000)
        try:
            expect(place).to_have_text(text, timeout=1_200)
        except AssertionError:
            continue
        return
    expect(place).to_have_text(text)


def test_lists_what_runs(visit: Callable[..., Visitor]) -> None:
    """The page shows name, image, state, health, age and ports, each as text."""
    page = visit().page
    expect(main_names(page)).to_have_text(["web", "worker"])
    row = page.get_by_role("row").filter(has_text="nginx:1.29")
    expect(row.get_by_role("rowheader")).to_contain_text("web")
    expect(row.get_by_role("cell")).to_contain_text(
        ["running Up 3 hours", "nginx:1.29", "healthy", " y", "80 → 8080/tcp"]
    )
    expect(row.locator("time")).to_have_attribute("title", "2019-12-31 23:00:00 UTC")
    expect(notice(page)).to_have_text("2 of 3 containers.")


def test_search_filters_as_one_types(visit: Callable[..., Visitor]) -> None:
    """The list follows the search, the address with it, and the field keeps the focus."""
    visitor = visit()
    page = visitor.page
    search = page.get_by_label("Search")
    search.press_sequentially("work")
    page.clock.run_for(1_000)
    expect(main_names(page)).to_have_text(["worker"])
    expect(search).to_be_focused()
    expect(page).to_have_url(f"{visitor.url}/?q=work&state=running&sort=name")
    page.reload()
    expect(main_names(page)).to_have_text(["worker"])
    expect(search).to_have_value("work")


def test_states_filter(visit: Callable[..., Visitor]) -> None:
    """Ticked states are listed, none ticked lists all, and each says how many there are."""
    page = visit().page
    exited = page.get_by_role("checkbox", name="exited 1")
    exited.check()
    page.get_by_role("checkbox", name="running 2").uncheck()
    expect(main_names(page)).to_have_text(["job"])
    exited.uncheck()
    expect(main_names(page)).to_have_text(["job", "web", "worker"])
    expect(exited).to_be_focused()


def test_nothing_that_fits_has_a_way_out(visit: Callable[..., Visitor]) -> None:
    """A filter that nothing fits says so and leads back to everything."""
    page = visit("/?q=nothing").page
    expect(page.get_by_text("No container is like that.")).to_be_visible()
    page.get_by_role("link", name="Show all 3").click()
    expect(main_names(page)).to_have_count(3)


def test_sorts_by_keyboard(visit: Callable[..., Visitor]) -> None:
    """A heading sorts on Enter, turns round on the next, says so, and keeps the focus."""
    page = visit().page
    heading = page.get_by_role("columnheader", name="Health")
    link = heading.get_by_role("link")
    link.focus()
    page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(main_names(page)).to_have_text(["worker", "web"])
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(main_names(page)).to_have_text(["web", "worker"])
    page.get_by_role("checkbox", name="exited").check()
    expect(main_names(page)).to_have_text(["job", "web", "worker"])


def test_everything_is_reached_by_tab(visit: Callable[..., Visitor]) -> None:
    """The Tab key leads through the page in its order, and what has the focus shows it."""
    page = visit().page
    order = ["API documentation", "JSON", "q", *["state"] * 7, "Reset", "Pause"]
    order += ["Name", "State", "Image", "Health", "Age"]
    for name in order:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.evaluate("e => e.name || e.textContent.trim()") == name
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


def test_keeps_itself_fresh(visit: Callable[..., Visitor], fake: FakeDocker) -> None:
    """What is new comes by itself; what is the same stays as it is, and nothing moves for it."""
    visitor = visit("/?q=")
    page = visitor.page
    first = page.get_by_role("row").filter(has_text="nginx:1.29")
    first.evaluate("row => { row.kept = true }")
    page.evaluate(WATCH_SHIFTS)
    fake.items = [WEB, {**WORKER, "Status": "Up 6 minutes (healthy)"}, JOB]
    until(page, page.locator("tr", has_text="app:2").locator("td.health"), "healthy")
    expect(page.get_by_text("Up 6 minutes", exact=True)).to_be_visible()
    fake.items.append(container(9, "zebra", "zoo:1"))
    until(page, main_names(page), ["job", "web", "worker", "zebra"])
    assert first.evaluate("row => row.kept") is True
    assert page.evaluate("() => window.shifts") == []
    fake.items = [WORKER]
    until(page, main_names(page), ["worker"])


WATCH_SHIFTS = """() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) window.shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
}"""


def test_pauses_when_told(visit: Callable[..., Visitor], fake: FakeDocker) -> None:
    """Pause stops what moves until Resume, which brings the newest; a filter still works."""
    visitor = visit()
    page = visitor.page
    page.get_by_role("button", name="Pause").click()
    fake.items = [WORKER, JOB]
    asked = visitor.lists
    page.clock.run_for(10 * INTERVAL)
    assert visitor.lists == asked
    expect(page.locator("#ago")).to_have_text(re.compile("^5[5-9] s ago$"))
    page.get_by_role("checkbox", name="exited").check()
    expect(main_names(page)).to_contain_text(["job"])
    page.clock.run_for(10 * INTERVAL)
    assert visitor.lists == asked + 1
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert visitor.lists == asked + 2
    fake.items = [WEB]
    until(page, main_names(page), ["web"])


def test_pauses_when_hidden(
    visit: Callable[..., Visitor], window: BrowserContext, fake: FakeDocker
) -> None:
    """A page that nobody sees asks for nothing, and asks at once when it is seen again."""
    visitor = visit(window=window)
    page = visitor.page
    other = window.new_page()
    assert page.evaluate("() => document.hidden")
    asked = visitor.lists
    page.clock.run_for(10 * INTERVAL)
    page.context.set_offline(offline=True)
    page.context.set_offline(offline=False)
    assert visitor.lists == asked
    page.reload()
    page.clock.run_for(10 * INTERVAL)
    assert visitor.lists == asked + 1
    fake.items = [WORKER]
    other.close()
    page.bring_to_front()
    expect(page.locator("#ago")).to_have_text("0 s ago")
    assert visitor.lists == asked + 2
    until(page, main_names(page), ["worker"])


def test_survives_the_api(
    visit: Callable[..., Visitor], api: Api, fake: FakeDocker, axe: str
) -> None:
    """When the API goes the last list stays, with its age and a sentence, until it is back."""
    visitor = visit()
    page = visitor.page
    page.evaluate(WATCH_SHIFTS)
    api.stop()
    page.clock.run_for(INTERVAL)
    said = "Slipway cannot be reached. Below is the last list that came."
    expect(notice(page)).to_have_text(said)
    expect(main_names(page)).to_have_text(["web", "worker"])
    expect(page.locator("#ago")).to_contain_text("s ago")
    assert violations(page, axe) == []
    page.get_by_label("Search").fill("w")
    page.clock.run_for(1_000)
    expect(main_names(page)).to_have_text(["web", "worker"])
    assert page.evaluate("() => window.shifts") == []
    fake.items = [WORKER]
    api.start()
    until(page, notice(page), "1 of 1 container.")
    expect(main_names(page)).to_have_text(["worker"])


def test_drops_what_is_no_longer_wanted(visit: Callable[..., Visitor]) -> None:
    """An answer that another one was wanted instead of is no failure, and is not waited for."""
    page = visit().page
    held: list[Route] = []
    page.route("**/?*", lambda route: held.append(route))  # noqa: PLW0108 - it looks for a signature
    page.evaluate(WATCH_NOTICE)
    page.get_by_role("link", name="Image").click()
    page.get_by_role("link", name="Health").click()
    with page.expect_event("requestfinished"):
        held[-1].continue_()
    expect(main_names(page)).to_have_text(["worker", "web"])
    assert len(held) == 2
    assert page.evaluate("() => window.notices") == []


WATCH_NOTICE = """() => {
    window.notices = [];
    const watched = { childList: true, characterData: true, subtree: true };
    const notice = document.querySelector("[role=status]");
    new MutationObserver(() => window.notices.push(notice.textContent)).observe(notice, watched);
}"""


def test_backs_off(visit: Callable[..., Visitor], api: Api) -> None:
    """The longer there is no list, the less it is asked for, but twice a minute at least."""
    visitor = visit()
    api.stop()
    waits = [wait_for_loss(visitor) for _ in range(6)]
    for wait, seconds in zip(waits[1:], (10, 20, 30, 30, 30), strict=True):
        # A tenth more or less is its own, half a second is the step of the clock here.
        assert 0.85 * seconds <= wait <= 1.1 * seconds + 1


def wait_for_loss(visitor: Visitor) -> float:
    """Let the time of the page pass until it asks in vain; return how many seconds that took."""
    before = visitor.losses
    steps = 0
    while visitor.losses == before:
        assert steps < 2 * 60, "the page does not ask any more"
        visitor.page.clock.run_for(500)
        steps += 1
    return steps / 2


def test_survives_docker(visit: Callable[..., Visitor], fake: FakeDocker) -> None:
    """When Docker goes it is told from the API: in the API's own sentence, above the last list."""
    page = visit().page
    fake.gone = True
    said = "Docker cannot be reached. Below is the last list that came."
    until(page, notice(page), said)
    expect(main_names(page)).to_have_text(["web", "worker"])
    fake.gone = False
    fake.items = [WORKER]
    until(page, notice(page), "1 of 1 container.")
    expect(main_names(page)).to_have_text(["worker"])


def test_first_visit_without_docker(
    visit: Callable[..., Visitor], fake: FakeDocker, axe: str
) -> None:
    """Who comes when Docker is gone reads so on a page, and has the list when it is back."""
    fake.gone = True
    visitor = visit("/?q=&sort=-name")
    page = visitor.page
    expect(page.get_by_text("There is no list to show.")).to_be_visible()
    expect(notice(page)).to_have_text("Docker cannot be reached.")
    assert violations(page, axe) == []
    fake.gone = False
    until(page, notice(page), "3 of 3 containers.")
    expect(main_names(page)).to_have_text(["worker", "web", "job"])


def test_works_without_script(visit: Callable[..., Visitor]) -> None:
    """With no script at all, filters are a form with a button, headings are links."""
    page = visit(java_script_enabled=False).page
    expect(main_names(page)).to_have_text(["web", "worker"])
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    expect(page.get_by_text("as old as the page")).to_be_visible()
    page.get_by_role("checkbox", name="exited").check()
    page.get_by_label("Search").fill("o")
    page.get_by_role("button", name="Apply").click()
    expect(main_names(page)).to_have_text(["job", "worker"])
    page.get_by_role("link", name="Name").click()
    expect(main_names(page)).to_have_text(["worker", "job"])
    expect(page.get_by_label("Search")).to_have_value("o")
    page.get_by_role("link", name="Reset").click()
    expect(main_names(page)).to_have_text(["web", "worker"])


def test_fits_a_telephone(visit: Callable[..., Visitor], fake: FakeDocker) -> None:
    """On a telephone nothing has to be scrolled sideways, and sorting is still there."""
    digest = "sha256:" + "0b" * 32
    fake.items.append(container(7, "a" * 60, f"registry.example:5000/{'b' * 60}@{digest}"))
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True).page
    expect(main_names(page)).to_have_count(3)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("link", name="Health").tap()
    expect(main_names(page)).to_have_text(["worker", "web", "a" * 60])
    for target in page.locator("button:visible, label:has(input):visible, thead a:visible").all():
        box = target.bounding_box()
        assert box is not None
        assert min(box["height"], box["width"]) >= 24, "WCAG 2.2, 2.5.8"


@pytest.mark.parametrize(
    "look", LOOKS, ids=lambda look: f"{look['color_scheme']}-{look['viewport']['width']}"
)
@pytest.mark.parametrize("query", ["/?q=", "/?q=nothing"], ids=["list", "nothing"])
def test_axe_finds_nothing(
    visit: Callable[..., Visitor], fake: FakeDocker, axe: str, look: dict[str, Any], query: str
) -> None:
    """No rule of axe-core's is broken, contrast in both themes among them, in whatever state."""
    fake.items += EVERY_STATE
    page = visit(query, **look).page
    expect(notice(page)).to_contain_text("of 9 containers.")
    assert violations(page, axe) == []


EVERY_STATE = [
    container(17, "boots", "app:1", Status="Up 2 seconds (health: starting)"),
    container(18, "new", "app:1", "created"),
    container(19, "again", "app:1", "restarting"),
    container(20, "gone", "app:1", "removing"),
    container(21, "still", "app:1", "paused"),
    container(22, "lost", "app:1", "dead"),
]


def violations(page: Page, axe: str) -> list[Any]:
    """Return what axe-core has against a page, shortened to what one needs to find it."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run()")
    assert found["passes"], "axe-core has looked at nothing"
    return [
        (each["id"], each["help"], [node["html"] for node in each["nodes"]])
        for each in found["violations"]
    ]
