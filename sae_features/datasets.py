"""The small data set that comes with the library, for examples and quick trials."""

from __future__ import annotations

import csv
import io
from importlib import resources
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from sklearn.utils import Bunch

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET_NAMES = ("negative", "positive")

DESCRIPTION = """\
Movie-review snippets with human sentiment ratings
==================================================

2,000 English snippets of 4 to 47 words (median 19), 1,000 of each class, in random order.

data          the snippets as the source has them (5 hold HTML entities such as ``&amp;``)
target        0 negative: mean rating below -1;  1 positive: mean rating above 1
rating        mean human rating, from -4 to 4, rounded to four decimals

The labels are thresholded mean ratings, not the verdict of the review a snippet is from. The
threshold of 1 is this library's choice: snippets in between (15 % of the source) are left out,
which makes the task easier than it is in the wild. The source describes at least 20 raters per
snippet; its file of raw ratings holds 15 to 29 for the movie snippets, 18 in the median.

The snippets carry no number of their review or film, so snippets of one review, or of one film,
may stand on both sides of a split. Exact repeats (whatever the case and white space) were removed
before 1,000 of each class were drawn at random from the 4,399 negative and 4,465 positive ones of
at least 4 words.

Source: ``movieReviewSnippets_GroundTruth.txt`` in the source distribution of vaderSentiment
3.3.2, which took the texts from rotten.tomatoes.com by way of Pang & Lee. Its licence, MIT
(copyright 2016 C.J. Hutto), stands beside the file in ``vaderSentiment-LICENSE.txt``. It is the
licence of that package; the words of each snippet are its reviewer's.

Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text. ICWSM-14, Ann Arbor, MI.
"""


@overload
def load_movie_snippets(*, return_X_y: Literal[False] = False) -> Bunch: ...


@overload
def load_movie_snippets(*, return_X_y: Literal[True]) -> tuple[list[str], NDArray[np.int64]]: ...


def load_movie_snippets(*, return_X_y: bool = False) -> Bunch | tuple[list[str], NDArray[np.int64]]:
    """Load 2,000 movie-review snippets with a clear human sentiment rating.

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` alone.

    Returns
    -------
    sklearn.utils.Bunch
        With ``data``, a list of 2,000 str; ``target``, int64 of shape (2000,), 0 for negative
        and 1 for positive, 1,000 each; ``target_names``, ``["negative", "positive"]``;
        ``rating``, float64 of shape (2000,), the mean human rating from -4 to 4; and ``DESCR``,
        which says how the snippets were chosen and where the labels' limits are.
    (data, target) : tuple of list and ndarray
        If ``return_X_y`` is True.

    Notes
    -----
    The snippets are from vaderSentiment 3.3.2 (MIT licence) [1]_. They carry no number of their
    review, so snippets of one review may stand on both sides of a split.

    References
    ----------
    .. [1] Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for
       Sentiment Analysis of Social Media Text. ICWSM-14.

    Examples
    --------
    >>> from sae_features.datasets import load_movie_snippets
    >>> snippets = load_movie_snippets()
    >>> snippets.data[3], snippets.target_names[snippets.target[3]], float(snippets.rating[3])
    ('...begins on a high note and sustains it beautifully.', 'positive', 2.75)
    >>> X, y = load_movie_snippets(return_X_y=True)
    >>> len(X), y.tolist().count(0), y.tolist().count(1)
    (2000, 1000, 1000)
    """
    file = resources.files("sae_features") / "data" / "movie_snippets.csv"
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    data = [row["text"] for row in rows]
    target = np.array([TARGET_NAMES.index(row["label"]) for row in rows], dtype=np.int64)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=list(TARGET_NAMES),
        rating=np.array([row["rating"] for row in rows], dtype=np.float64),
        DESCR=DESCRIPTION,
    )
