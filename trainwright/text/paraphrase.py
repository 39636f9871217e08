"""English questions said another way: each rule fits a form of question whose rewording is sure to ask the same.

A rule that fits rarely is better than one that is sometimes wrong, because a child that asks something else
teaches something false. No rule touches names or numbers, so an unanswerable question stays unanswerable.
"""

import re
from collections.abc import Iterator

# Verbs that make a question about its own subject ("Who wrote …"), where the order of words can stay.
PAST = (
    r"(?:(?!\w+eed\b)[a-z]{3,}ed|wrote|built|led|won|became|made|found|gave|took|sang|held|drew|began|brought|ran"
    r"|sent|sold|bought|taught|chose|left|lost)"
)
PREPOSITION = r"(In|At|On|From|By|For|To|With|Under|During)"
# Nouns of which "what" and "which" ask the same.
THING = (
    r"(year|month|century|decade|season|city|town|village|country|state|county|province|region|continent|island"
    r"|river|building|book|war|battle|language|company|university|school|hospital|museum|organi[sz]ation|team)"
)
AUXILIARY = r"(did|does|do|was|were|is|are|had|has|could)"
MEASURES = {"length": "long", "width": "wide", "depth": "deep"}

RULES = [
    (re.compile(form), becomes)
    for form, becomes in (
        (rf"^{PREPOSITION} which {THING}\b", r"\1 what \2"),
        (rf"^{PREPOSITION} what {THING}\b", r"\1 which \2"),
        (rf"^What {THING} (?=[a-z])", r"Which \1 "),
        (rf"^Which {THING} (?=[a-z])", r"What \1 "),
        (r"^In (?:what|which) year (did|was|were) ", r"When \1 "),
        (r"^What type of ", "What kind of "),
        (r"^What (?:kind|sort) of ", "What type of "),
        (rf"^Who ({PAST}) ", r"Who was it that \1 "),
        (r"^Who was it (?:that|who) ", "Who "),
        (rf"^Who ({PAST}) (.+)\?$", r"Can you tell me who \1 \2?"),
        (r"^What (is|was) (the [a-z]+ of (?:the )?[\w'-]+)\?$", r"Can you tell me what \2 \1?"),
        (rf"^Why {AUXILIARY} ", r"For what reason \1 "),
        (rf"^For what reason {AUXILIARY} ", r"Why \1 "),
        (r"^How (did|does|do) ", r"In what way \1 "),
        (r"^In what way (did|does|do) ", r"How \1 "),
        (r"^What (is|was) the name of ((?:[\w'-]+ ?){1,6})\?$", r"What \1 \2 called?"),
        (r"^What (is|was) (the (?!.*\b(?:also|often|now|then|once|been|being|\w+ly|first) called).+) called\?$",
         r"What \1 the name of \2?"),
        (r"^By whom (was|were) ((?:[\w'-]+ ?){2,6})\?$", r"Who \1 \2 by?"),
        (r"^Who (was|were) ([^,?]+ed) by\?$", r"By whom \1 \2?"),
        (r"^Whom did ", "Who did "),
        (r"^For how long (?=did|was|were|had|has)", "How long "),
        (r"^How large ", "How big "),
        (r"^How big ", "How large "),
        (r"^(?:About|Roughly) how (many|much) ", r"Approximately how \1 "),
        (r"^Approximately how (many|much) ", r"About how \1 "),
        (r"^What percentage of ", "What percent of "),
        (r"^What percent of ", "What percentage of "),
        (r"^Where (is|was|are|were) ([^,?]+) (?:located|situated)\?$", r"Where \1 \2?"),
        *((rf"^What (is|was) the {noun} of (the [^,?]+)\?$", rf"How {how} \1 \2?") for noun, how in MEASURES.items()),
        (r"^(What|Who|Where) is (?=the|a|an|his|her|its|their)\b", r"\1's "),
        (r"^(What|Who|Where)'s (?=the|a|an|his|her|its|their)\b", r"\1 is "),
        (r"\b(did|does|do|was|were|is|are|could|would|had|has) not\b", r"\1n't"),
        (r"\bcan ?not\b", "can't"),
    )
]  # fmt: skip


def paraphrases(question: str) -> Iterator[str]:
    """The question as each rule that fits would put it."""
    for form, becomes in RULES:
        said = form.sub(becomes, question, count=1)
        if said != question:
            yield said


def paraphrase(question: str, choice: int) -> str | None:
    """One of the question's paraphrases (`choice` is any natural number), or None where no rule fits."""
    said = list(paraphrases(question))
    return said[choice % len(said)] if said else None
