"""The verb ``evaluate``, on a tiny model, a random SAE and made-up texts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import WORDS, random_sae

from sae_features import cli, load_sae
from sae_features.training.metrics import evaluate_sae
from sae_features.training.streams import BackboneSource


def run(capsys, *arguments):
    status = cli.main(["evaluate", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def texts():
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 12))) for _ in range(60)]


@pytest.fixture
def corpus(tmp_path, texts):
    path = tmp_path / "texts.csv"
    path.write_text("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture
def sae(tiny_sae_folder):
    return tiny_sae_folder("topk")


def test_the_figures_are_those_of_evaluate_sae(capsys, sae, corpus, texts, tiny_bert):
    status, out, err = run(capsys, sae, corpus, "--quiet")
    assert (status, err) == (0, "")
    source = BackboneSource(str(tiny_bert), texts, layer=1)
    expected = evaluate_sae(load_sae(sae), source)
    n = f"{source.n_rows:,}"
    first = f"{sae}: topk SAE of 48 latents for {tiny_bert}, layer 1, resid_post, on {n} of {n} tokens"
    assert out.startswith(first)
    assert f"  FVU                 {expected.fvu:.4f} of the variance is unexplained\n" in out
    assert "  latents alive " in out
    record = json.loads(run(capsys, sae, corpus, "--quiet", "--json")[1])
    assert record["n_tokens"] == source.n_rows
    for name in ("l0", "fvu", "gamma", "cosine", "alive", "explained_variance"):
        assert record[name] == pytest.approx(getattr(expected, name), rel=1e-5)
    fires = expected.density[expected.counts > 0]
    np.testing.assert_allclose(record["density_quartiles"], np.quantile(fires, [0.25, 0.5, 0.75]))


def test_a_part_of_the_tokens_and_a_picture(capsys, sae, corpus, tmp_path):
    picture = tmp_path / "density.png"
    status, out, err = run(capsys, sae, corpus, "--max-tokens", 100, "--plot", picture, "--quiet")
    assert (status, err) == (0, "")
    assert ", on 100 of " in out
    assert out.endswith(f"Drawn: {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--plot", "a.gif"], "Got --plot 'a.gif'; expected a file of kind .png, .pdf, .svg."),
        (["--plot", "none/a.png"], "expected a place in a folder that is there"),
        (["--layer", 2], "reads layer 1; leave one of them out"),
        (["--loss-recovered"], "has no whole language-model head"),
    ],
)
def test_errors(capsys, sae, corpus, arguments, text):
    status, out, err = run(capsys, sae, corpus, "--quiet", *arguments)
    assert (status, out) == (1, "")
    assert text in err
    assert err.count("\n") == 1


def test_a_random_sae_has_no_decoder(capsys, corpus, tiny_bert):
    status, _, err = run(capsys, "random:64:4", corpus, "--model", tiny_bert)
    assert status == 1
    assert "expected an SAE with a decoder" in err


def test_what_the_sae_says_of_its_tokens_is_kept_to(capsys, sae, corpus):
    loaded = load_sae(sae)
    about = {**loaded.metadata, "tokens": "all", "max_length": 8}
    replace(loaded, metadata=about).save(sae)
    counts = []
    for more in ([], ["--tokens-policy", "content"], ["--max-length", 64]):
        out = run(capsys, sae, corpus, "--quiet", "--json", *more)[1]
        counts.append(json.loads(out)["n_tokens"])
    assert counts[0] > counts[1]
    assert counts[0] != counts[2]


def test_an_sae_that_asks_for_another_beginning_of_windows_is_told(capsys, corpus, tmp_path, tiny_xlmr):
    for prepend, is_told in ((True, False), (False, True)):
        sae = random_sae("topk", metadata={"prepend_bos": prepend}).save(tmp_path / str(prepend))
        status, _, err = run(capsys, sae, corpus, "--quiet", "--model", tiny_xlmr)
        assert status == 0, err
        text = "asks for no BOS, other than the model's tokenizer does; it is measured on what the"
        assert (text in err) is is_told
