"""Texts from outside stay texts in Markdown: parsed by a CommonMark parser, nothing but text comes out."""

import re

import pytest
from markdown_it import MarkdownIt

from trainwright.report import markdown

ATTACKS = [
    "mit\n\n## Scores\n\n| a | b |\n| --- | --- |\n| 1 | 2 |",
    "![x](https://a.example/x.png)",
    "<img src=https://a.example/x.png onerror=alert(1)>",
    "[click](javascript:alert)",
    "see https://a.example/?q=1 and WWW.a.example and me@a.example",
    "`code` and ``more``",
    "**bold** _low_ ~~gone~~ &lt;b&gt;",
    "a\\`b",
    "`",
    "x | y\r\ny",
    "[ref]: https://a.example",
    "# heading",
    "> quote\u2028# heading",
]


def tokens(text: str) -> set[str]:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = parser.parse(text)
    return {token.type for block in blocks for token in [block, *(block.children or [])]}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_text_makes_nothing_but_text(attack: str) -> None:
    allowed = {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    assert tokens(f"Licence: {markdown.plain(attack)}.") <= allowed
    assert tokens(markdown.plain(attack)) <= allowed
    assert tokens(f"Licence: {markdown.code(attack)}.") <= {*allowed, "code_inline"}
    assert "\n" not in markdown.plain(attack) + markdown.code(attack)
    assert not re.search(r"(?i)://|www\.|(?<!\\)@", markdown.plain(attack))  # of which GitHub's Markdown makes links


def test_a_text_is_shown_as_it_is() -> None:
    assert markdown.plain("31.6 (25.6 to 37.6), F1!") == "31.6 (25.6 to 37.6), F1!"
    shown = MarkdownIt("commonmark").renderInline(markdown.plain("a_b <c> [d] https://e.example"))
    assert shown == "a_b &lt;c&gt; [d] https://e.example"


def test_a_cell_is_escaped_only_if_something_could_come_of_it() -> None:
    for text in ("toy@v1.0.0", "a_b: 5 * 3", "at most 0.6"):
        assert markdown.cell(text) == text
    for text in ("![x](http://a.example/x.png)", "<b>", "see www.example.org", "`x`"):
        assert markdown.cell(text) == markdown.plain(text) != text
    assert markdown.cell("a\n# b") == "a # b"
