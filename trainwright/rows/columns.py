"""What a task says of the columns of its rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A text column (string, or list<string> of several texts a row), and the span columns that point into it.

    `starts` (list<int32>, in characters) and `texts` (list<string>) are parallel list columns: an edit of the text
    moves the starts along and takes the texts anew, and augmentation leaves what lies in a span as it is. So are
    `labels`, which say something of each span. A row that loses a span to an edit is dropped, but where spans have
    labels the span is, with its labels: what is not in the text any more is no entity. `pieces` names the starts and
    ends (list<int32>, parallel) of parts of the text that are moved along, and go where they become empty (tokens).
    A column of lists has none of these. A row without the text is dropped, unless it is `optional`. With
    `augment=False` no training copy of the text has typing errors: it is what the model should say.
    """

    column: str
    starts: str | None = None
    texts: str | None = None
    labels: tuple[str, ...] = ()
    pieces: tuple[str, str] | None = None
    optional: bool = False
    augment: bool = True
