"""One page that says what ran and what it came to, and the folder to publish: `python -m stages.report NAME`.

Writes index.html, scores.svg (its picture of the scores) and model/ (the trained model with its card and settings).
"""

from trainwright.core import layout, process
from trainwright.core.process import Run
from trainwright.report import facts as evidence
from trainwright.report import page, publish
from trainwright.report.facts import Facts
from trainwright.report.results import title


def report(facts: Facts) -> str:
    """The page of a run."""
    return page.render(facts)


def main(run: Run) -> None:
    facts = evidence.gather(run)
    with layout.writing(run.layout.stage("report")) as folder:
        (folder / "index.html").write_text(report(facts), encoding="utf-8")
        if picture := page.picture(facts):
            (folder / "scores.svg").write_text(picture, encoding="utf-8")
        publish.assemble(facts, run.open("training") / "model", folder / "model")
    written = run.layout.stage("report").relative_to(run.layout.root)
    process.say(f"report: {written}/index.html, and the model to publish in {written}/model")
    for floor in facts.floors:
        if not floor.reached:
            wanted = f"{'above its ceiling' if floor.ceiling else 'below its floor'} {floor.limit:g}"
            process.say(f"report: {title(floor.metric)} on test is {floor.seen}, {wanted}")


if __name__ == "__main__":
    process.stage("report", main)
