"""What people see on Prefect's own pages: a real server with a password, a real run, and a browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Toy
from fixtures.serving import Server, serving
from test_flow import METRICS, RESULT
from test_report import CHROMIUM, FLAGS, needs_browser

from trainwright.report import page, plots, results

pytestmark = pytest.mark.slow

PATIENCE = 60_000  # milliseconds
RUN = """
from pathlib import Path
from prefect import flow
from flows import dvc, evidence, server
server.required(Path.cwd())
from flows.pipeline import Pipeline
from flows.terminal import Terminal
from prefect.runtime import flow_run
from trainwright import champion, operations
from trainwright.core.layout import Layout

@flow(name="retrain")
def retrain():
    Pipeline(Layout(Path.cwd(), "toy"), dvc.Project(Path.cwd()), operations.Running(pipelines={}), Terminal()).run()
    against = champion.Comparison(
        against="toy@v1.0.0", score="f1", unit="points", challenger=36.4, other=34.1, difference=2.3, low=-0.4,
        high=5.1, error=1.4, rows=1200, groups=300, rule="non_inferior", asked=2.0, margin=2.0, smallest=2.7,
        telling=0.9, passed=True,
    )
    rows = champion.TestSet(1, ("a",), ("0" * 64,))
    evidence.publish_comparison("toy", champion.Verdict(True, "yes", rows, "f1", {"f1": 36.4}, (against,)))
    evidence.publish_decision("toy", "published", "toy@v1.1.0 is published and in use.")
    Path("run").write_text(str(flow_run.id))

retrain()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "prefect") as found:
        yield found


@needs_browser
def test_a_runs_page_shows_its_gates_scores_picture_progress_and_comparison(toy: Toy, server: Server) -> None:
    from playwright.sync_api import expect, sync_playwright

    drawn = plots.alone(results.results(METRICS)["intervals_plot"] or "", page.css())
    toy.write("made/scores.svg", drawn)
    toy.write("made/result.json", json.dumps(RESULT | {"passed": True}))
    toy.write("made/metrics.json", json.dumps(METRICS))
    folder = "data/toy"
    toy.stages(
        cleaning_gate={
            "cmd": f"mkdir -p {folder}/gates/cleaning && cp made/result.json {folder}/gates/cleaning/",
            "outs": [f"{folder}/gates/cleaning/result.json"],
        },
        postprocessing={
            "cmd": f"mkdir -p {folder}/postprocessing && cp made/metrics.json {folder}/postprocessing/",
            "outs": [f"{folder}/postprocessing"],
        },
        report={
            "cmd": f"mkdir -p {folder}/report && cp made/scores.svg {folder}/report/",
            "deps": [f"{folder}/postprocessing"],
            "outs": [f"{folder}/report"],
        },
    )
    child = toy.start("-c", RUN, **server.environment)
    said = child.communicate(timeout=180)
    assert child.returncode == 0, said
    found = {made["key"]: made["latest_id"] for made in server.ask("/artifacts/latest/filter")}
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        tab.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        tab.goto(f"{server.url}/v2/login")
        tab.locator("input[type=password]").fill(server.password)
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/dashboard**")
        tab.goto(f"{server.url}/v2/runs/flow-run/{toy.read('run')}?tab=Artifacts")
        for key in ("toy-comparison", "toy-decision"):
            expect(tab.get_by_text(key, exact=True)).to_be_visible()
        for key, words in {
            "toy-cleaning-gate": ["The cleaning gate of toy: passed", "none", "BROKEN"],
            "toy-scores": ["exact match", "36.4", "untrained, on test"],
            "toy-progress": ["3 of 3 stages, the last of them report@toy", "Progress: 100%"],
            "toy-comparison": ["toy@v1.0.0", "+2.3 (-0.4 to +5.1)", "2.7", "passed"],
            "toy-decision": ["toy: published", "toy@v1.1.0 is published and in use."],
        }.items():
            tab.goto(f"{server.url}/v2/artifacts/artifact/{found[key]}")
            for part in words:
                expect(tab.locator("main").get_by_text(part).first).to_be_visible()
        tab.goto(f"{server.url}/v2/artifacts/artifact/{found['toy-picture']}")
        picture = tab.locator("main img")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 300
        browser.close()
