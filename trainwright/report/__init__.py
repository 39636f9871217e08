"""The report: what a pipeline did and came to, as one page that opens offline and one folder to publish.

    facts = facts.gather(run)             every earlier stage's evidence, certified
    html = page.render(facts)             the page
    publish.assemble(facts, from, to)     the model's folder with its card

What is not known is None in the facts and "not computed", "not timed" or "unknown" on page and card.
"""
