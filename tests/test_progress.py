from __future__ import annotations

from sae_features.progress import Progress


def test_items_and_tokens_are_shown(capsys):
    with Progress("SAEFeaturizer", "text", 3, is_shown=True) as bar:
        bar.tell(1)
        bar.tell(2, 500)
    shown = capsys.readouterr().err
    assert "SAEFeaturizer" in shown
    assert "3/3" in shown
    assert "tokens/s" in shown


def test_nothing_is_shown_unless_it_is_asked_for(capsys):
    with Progress("SAEFeaturizer", "text", None, is_shown=False) as bar:
        bar.tell(3, 500)
    assert capsys.readouterr().err == ""
