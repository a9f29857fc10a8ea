"""Writing a report: sections from rows, then one HTML page, and Markdown with pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sae_features.errors import InvalidParameterError
from sae_features.report.comparisons import checked_comparisons
from sae_features.report.controls import control_blocks
from sae_features.report.differences import difference_blocks, record_table
from sae_features.report.document import Document, Section, Text
from sae_features.report.html_page import as_html
from sae_features.report.latent_cards import latent_cards
from sae_features.report.markdown_page import as_markdown
from sae_features.report.notices import notice_blocks
from sae_features.report.pictures import (
    can_draw,
    comparison_pictures,
    difference_pictures,
    score_pictures,
)
from sae_features.report.rows import (
    METRICS,
    checked_rows,
    distinct,
    grouped,
    is_transfer,
    kind_name,
    kinds_of,
    of_method,
    setting_name,
    without_controls,
)
from sae_features.report.run_facts import protocol_name, run_blocks
from sae_features.report.score_tables import kinds_table, matrix_table, methods_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sae_features.report.document import Block, Picture
    from sae_features.report.rows import Rows

ENDINGS: Final = (".html", ".htm")
HOW_LATENTS: Final = (
    "A coefficient says what the classifier's decision changes by where the latent grows by 1; an "
    "importance, where it grows by its standard deviation (of permutation: what the score loses). Where "
    "a class is named, positive speaks for it, negative against it. Below each latent are the items "
    "that it fires on most, with the token or patch marked."
)
NO_PICTURES: Final = (
    'There are no pictures: matplotlib is not installed. With it (pip install "sae-features[plot]"), '
    "it is written again by `sae-features report FOLDER`, with the folder of these results."
)


def write_report(
    results: Any,
    place: str | Path,
    *,
    title: str,
    metric: str = "macro_f1",
    latents: Sequence[Mapping[str, Any]] | None = None,
    items: Sequence[Any] | None = None,
    comparisons: Iterable[Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write results as one HTML page that needs nothing else, and as Markdown with pictures beside it.

    The page has what was run, what must not be missed, scores (tables and the pictures that suit them),
    paired differences, the control with permuted labels, and latents with what they fire on.  The same
    results give the same files, to the byte.  Without matplotlib there are no pictures, and the
    page says so.

    Parameters
    ----------
    results : Results or sequence of mapping
        What has ``rows``, or rows, one per fold.
    place : str or Path
        A folder, for ``report.html``, or an HTML file.  Beside it, with the same name, are put the
        Markdown file and a folder of pictures.
    title : str
        Of the page.
    metric : str, default="macro_f1"
        The score of the main tables and of all pictures.
    latents : sequence of mapping, optional
        Records with ``latent`` and where they are known ``label``, ``class``, ``importance``,
        ``coefficient`` and ``active``, as
        :func:`~sae_features.evaluation.importance.latent_importance` gives them, and with ``top``:
        what the latent fires on, each a text, a
        :class:`~sae_features.evaluation.top_activations.TopItem`, or a mapping with ``value`` and

        - ``text``, and ``start`` and ``end`` of the token in it;
        - or ``before``, ``token``, ``after``;
        - or ``tokens`` (texts that joined are the whole) and ``position``;
        - or ``image`` (a path, PIL image or uint8 array) and ``box`` (left, top, right, bottom).

    items : sequence, optional
        What ``TopItem.item`` is a position in; needed to show pictures.
    comparisons : iterable of mapping, optional
        Comparisons that were made elsewhere, which are listed in place of those that are made here: with
        ``difference``, and where they are known ``dataset``, ``method``, ``reference``, ``metric``,
        ``low``, ``high``, ``p``, ``p_adjusted``; other keys are listed, too.
    provenance : mapping, optional
        What was run; that of the results if not given.  ``command``, ``versions``, ``data``,
        ``n_leaking`` and ``warnings`` have places of their own.

    Returns
    -------
    Path
        Of the HTML file.

    Raises
    ------
    InputTypeError
        If results, latents or comparisons are of another kind.
    InvalidInputError
        If there are no rows, none has the metric, or a record lacks what it must have.
    InvalidParameterError
        If the place is a file of another kind.

    Examples
    --------
    >>> import tempfile
    >>> rows = [
    ...     {"dataset": "bbc", "method": method, "kind": kind, "fold": fold, "macro_f1": score}
    ...     for method, kind, score in [("SAE max", "sae", 0.9), ("words", "tfidf_word", 0.8)]
    ...     for fold in (0, 1)
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(rows, folder, title="News")
    ...     page.name, sorted(path.name for path in page.parent.glob("report.*"))
    ('report.html', ['report.html', 'report.md'])
    """
    path = _html_path(place)
    rows = checked_rows(results, metric)
    about = getattr(results, "provenance", None) or {} if provenance is None else provenance
    records = None if comparisons is None else checked_comparisons(comparisons)
    sections = [Section("What was run", tuple(run_blocks(rows, about)))]
    _add(sections, "Warnings", notice_blocks(rows, about))
    for heading, name, here in _parts(without_controls(rows)):
        _add(sections, heading, _score_blocks(here, metric, name))
        if records is None:
            pictures = difference_pictures(here, metric, name) if can_draw() else []
            told = difference_blocks(here, metric)
            _add(
                sections,
                heading.replace("Scores", "Paired differences"),
                [*told[:2], *pictures, *told[2:]],
            )
    if records:
        drawn: list[Picture] = comparison_pictures(records) if can_draw() else []
        _add(sections, "Paired differences", [record_table(records), *drawn])
    _add(sections, "Control: permuted labels", control_blocks(rows))
    if latents:
        _add(sections, "Latents", [Text(HOW_LATENTS), *latent_cards(latents, items)])
    document = Document(title, tuple(sections))
    return _write(document, path)


def _html_path(place: str | Path) -> Path:
    path = Path(place)
    if path.suffix.lower() in ENDINGS:
        return path
    if path.suffix and not path.is_dir() and (path.is_file() or path.suffix.lower() in {".md", ".pdf"}):
        message = f"Got {str(place)!r}; expected a folder, or a file that ends in .html."
        raise InvalidParameterError(message)
    return path / "report.html"


def _parts(rows: Rows) -> list[tuple[str, str, list[Any]]]:
    """Return what is told of by itself: each protocol, and each data set of a transfer."""
    parts: list[tuple[str, str, list[Any]]] = []
    for (protocol,), here in grouped(rows, "protocol").items():
        name = protocol_name(protocol)
        heading = f"Scores: {name}" if protocol else "Scores"
        if is_transfer(here) and len(distinct(here, "dataset")) > 1:
            parts += [
                (f"{heading}, {dataset}", f"part_{len(parts) + number}", group)
                for number, ((dataset,), group) in enumerate(grouped(here, "dataset").items(), 1)
            ]
        else:
            parts.append((heading, f"part_{len(parts) + 1}", here))
    return parts


def _score_blocks(rows: Rows, metric: str, name: str) -> list[Block]:
    blocks: list[Block] = []
    has_choice = len(distinct(rows, "method")) > len(kinds_of(rows))
    if has_choice:
        blocks.append(kinds_table(rows, metric))
    else:
        blocks.append(methods_table(rows, metric))
    blocks += score_pictures(rows, metric, name) if can_draw() else [Text(NO_PICTURES)]
    if is_transfer(rows):
        blocks += _matrices(rows, metric)
    if has_choice:
        blocks.append(methods_table(rows, metric))
    for other in METRICS:
        is_there = any(row.get(other) is not None for row in rows)
        if is_there and other not in {metric, "validation"}:
            blocks.append(kinds_table(rows, other, is_folded=True))
    return blocks


def _matrices(rows: Rows, metric: str) -> list[Block]:
    """Return the numbers of each kind and setting of a transfer, folded away."""
    blocks: list[Block] = []
    for kind in kinds_of(rows):
        chosen = of_method(rows, kind)
        for setting in dict.fromkeys(
            row.get("setting") for row in chosen if row["train_on"] != row["test_on"]
        ):
            own = (setting, "in_language", None)
            here = [row for row in chosen if row.get("setting") in own]
            what = ", ".join(filter(None, [kind_name(kind), setting_name(setting)]))
            blocks.append(matrix_table(here, metric, what))
    return blocks


def _add(sections: list[Section], title: str, blocks: Sequence[Block]) -> None:
    if blocks:
        sections.append(Section(title, tuple(blocks)))


def _write(document: Document, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = f"{path.stem}_pictures"
    markdown, pictures = as_markdown(document, folder)
    if pictures:
        (path.parent / folder).mkdir(exist_ok=True)
    for name, data in pictures.items():
        (path.parent / folder / name).write_bytes(data)
    path.with_suffix(".md").write_text(markdown, encoding="utf-8", newline="\n")
    path.write_text(as_html(document), encoding="utf-8", newline="\n")
    return path
