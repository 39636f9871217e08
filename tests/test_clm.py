"""Causal language modelling: blocks, the equality of packed and single documents, scores against a hand-worked loop."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT

from trainwright.core.errors import InputError
from trainwright.core.params import Scratch
from trainwright.engine import scratch
from trainwright.engine.batching import FeatureTable
from trainwright.engine.prediction import load_model, raw_outputs
from trainwright.sources import text as text_source
from trainwright.tasks.clm import features, model, predictions, rows, scores
from trainwright.tasks.clm.params import Evaluation, Postprocessing, Tokenization

ENGLISH = [json.loads(line)["text"] for line in (ROOT / "data/sample/passages.jsonl").read_text().splitlines()][:12]
CHINESE = ["泰山是中國山東省的一座山，海拔一千五百多米。", "北京是首都。", "城市很大，人口很多，歷史很長。"]
TEXTS = [*ENGLISH[:6], *CHINESE, "A", "Ünï 🙂 ok.", ENGLISH[6][:40]]
PARAMS = Tokenization(block=64, beginning=5)


@pytest.fixture(scope="module", params=["bpe", "character"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tokenizer and a GPT-2 from scratch."""
    import transformers

    wanted = Scratch(family="gpt2", layers=2, heads=2, width=32, positions=64, tokenizer=request.param, vocabulary=500)
    tokenizer = scratch.train_tokenizer(lambda: iter([TEXTS]), wanted)
    folder = tmp_path_factory.mktemp("clm")
    tokenizer.save_pretrained(folder)
    scratch.configuration(wanted, tokenizer).save_pretrained(folder)
    transformers.set_seed(3)
    return tokenizer, load_model("AutoModelForCausalLM", folder, scratch=True)


def table(texts: list[str], answered: bool = True) -> pa.Table:
    ids = [f"d{n}" for n in range(len(texts))]
    source = pa.table({"text": texts, "id": ids, "place": ids})
    found, faults = rows.from_source(source, "f", answered)
    assert not faults
    return found


def stream(text: str) -> pa.Table:
    columns = {name: tuple(types) for name, types in rows.COLUMNS.items()}
    records = text_source._stream(text, "f", text_source.Stream(), "train")
    named = {name: column for name, column in records.columns.items() if name in columns}
    source = pa.table({**named, "place": pa.array(records.places)})
    return rows.from_source(source, "f")[0]


def blocks(some: pa.Table, tokenizer: Any, params: Tokenization = PARAMS) -> pa.Table:
    learned = features.learn([some], tokenizer, params)
    found, faults = features.features(some, tokenizer, params, "f", learned)
    assert not faults
    return found


def answered(made: tuple[Any, Any], some: pa.Table, **more: Any) -> tuple[pa.Table, float | None, pa.Table]:
    tokenizer, network = made
    packed = blocks(some, tokenizer)
    section = Evaluation(batch_size=3, new_tokens=4, **more)
    out, loss = raw_outputs(network, model, FeatureTable(packed), tokenizer, section, "float32")
    return out, loss, predictions.predict(some, out, Postprocessing(), {})


def test_logits_of_a_document_in_a_block_are_those_of_the_document_alone(made: tuple[Any, Any]) -> None:
    import torch

    tokenizer, network = made
    short = table([text[:30] for text in TEXTS])
    packed = FeatureTable(blocks(short, tokenizer))
    assert len(packed) < len(TEXTS)  # or nothing would share a block
    batch = model.collate(packed.__getitems__(range(len(packed))), tokenizer, True)
    with torch.inference_mode():
        together = network(**batch).logits
        compared = 0
        for number, feature in enumerate(packed.__getitems__(range(len(packed)))):
            begins = [*np.flatnonzero(feature["position"] == 0), len(feature["position"])]
            for begin, end in pairwise(begins):
                alone = network(torch.from_numpy(feature["input_ids"][None, begin:end].astype(np.int64))).logits[0]
                assert torch.allclose(together[number, begin:end], alone, atol=1e-5)
                compared += 1
    assert compared == len(TEXTS)


def test_a_text_shorter_than_a_block_is_refused_with_both_lengths(made: tuple[Any, Any]) -> None:
    tokenizer, _ = made
    some = table(["Ada met Bo."])
    size = len(tokenizer("Ada met Bo.")["input_ids"])
    assert features.learn([some], tokenizer, Tokenization(block=size))["stream"] is False
    with pytest.raises(InputError, match=f"has {size} tokens in all, fewer than one block of {size + 1}") as caught:
        features.learn([some], tokenizer, Tokenization(block=size + 1))
    assert (caught.value.faults[0].file, caught.value.faults[0].field) == ("params.yaml", "tokenization.block")


def test_an_encoder_that_becomes_a_language_model_does_not_see_what_comes_after(tmp_path: Path) -> None:
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config.save_pretrained(tmp_path)
    network = load_model(model.AUTO_CLASS, tmp_path, model.settings({}), scratch=True)
    network.save_pretrained(tmp_path / "trained")
    published = load_model(model.AUTO_CLASS, tmp_path / "trained")
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        assert torch.allclose(published(ids).logits[:, :4], published(ids[:, :4]).logits, atol=1e-5)


def test_every_document_stands_in_blocks_once_with_all_its_characters(made: tuple[Any, Any]) -> None:
    tokenizer, _ = made
    some = table(TEXTS)
    packed = blocks(some, tokenizer)
    assert max(len(ids) for ids in packed["input_ids"].to_pylist()) <= PARAMS.block
    written = dict.fromkeys(range(len(TEXTS)), "")
    ids: dict[int, list[int]] = {n: [] for n in written}
    characters, octets = np.zeros(len(TEXTS), int), np.zeros(len(TEXTS), int)
    for block in packed.to_pylist():
        for owner, token, count, size in zip(
            block["owner"], block["input_ids"], block["characters"], block["bytes"], strict=True
        ):
            ids[block["row"] + owner].append(token)
            characters[block["row"] + owner] += count
            octets[block["row"] + owner] += size
    for n, text in enumerate(TEXTS):
        rest = tokenizer(text)["input_ids"]
        whole = [tokenizer.bos_token_id, *rest, tokenizer.eos_token_id]
        assert ids[n] == whole or ids[n] == whole[:-1]  # a last token alone could not be predicted
    assert characters.tolist() == [len(text) for text in TEXTS]
    assert octets.tolist() == [len(text.encode()) for text in TEXTS]
    assert features.misaligned(some, packed).to_pylist() == []


def test_a_stream_is_blocks_of_it_whatever_its_rows(made: tuple[Any, Any]) -> None:
    tokenizer, _ = made
    text = "\n".join(ENGLISH)
    some = stream(text)
    assert some.num_rows > 3
    packed = blocks(some, tokenizer)
    lengths = [len(ids) for ids in packed["input_ids"].to_pylist()]
    assert set(lengths[:-1]) == {PARAMS.block}
    ids = [token for block in packed["input_ids"].to_pylist() for token in block]
    pieces = [token for piece in some["text"].to_pylist() for token in tokenizer(piece)["input_ids"]]
    assert ids == pieces[: len(ids)]
    assert len(pieces) - len(ids) < 2
    assert tokenizer.bos_token_id not in ids
    dropped = blocks(some.filter(pa.array([n != 1 for n in range(some.num_rows)])), tokenizer)
    assert sum(position.count(0) for position in dropped["position"].to_pylist()) >= 2  # no bridge over a gap


def test_perplexity_and_nats_are_those_of_a_loop_by_hand_and_of_torchmetrics(made: tuple[Any, Any]) -> None:
    import torch
    from torch.nn.functional import cross_entropy
    from torchmetrics.text import Perplexity

    tokenizer, network = made
    some = table([text[:30] for text in TEXTS])
    _, mean, found = answered(made, some)
    measured = scores.scores(some, found, Postprocessing(bootstrap=50), "en")
    total, count, metric = 0.0, 0, Perplexity(ignore_index=-100)
    for text in some["text"].to_pylist():
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.inference_mode():
            logits = network(ids).logits[:, :-1]
        total += float(cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
        metric.update(logits, ids[:, 1:])
        count += ids.shape[1] - 1
    assert measured["tokens"] == count
    assert mean == pytest.approx(total / count, abs=1e-4)
    assert measured["loss"]["value"] == pytest.approx(total / count, abs=1e-3)
    assert measured["perplexity"]["value"] == pytest.approx(float(metric.compute()), rel=1e-3)
    assert measured["perplexity"]["value"] == pytest.approx(math.exp(total / count), rel=1e-3)
    characters = sum(map(len, some["text"].to_pylist()))
    octets = sum(len(text.encode()) for text in some["text"].to_pylist())
    assert measured["nats_per_character"]["value"] == pytest.approx(total / characters, abs=1e-3)
    assert measured["nats_per_byte"]["value"] == pytest.approx(total / octets, abs=1e-3)
    assert measured["loss"]["low"] < measured["loss"]["value"] < measured["loss"]["high"]
    assert 0 < measured["unigram_loss"] < math.log(len(tokenizer))


def test_continuations_are_what_generate_gives_each_beginning_alone_and_the_same_again(made: tuple[Any, Any]) -> None:
    import torch

    tokenizer, network = made
    some = table(TEXTS)
    _, _, found = answered(made, some)
    for text, said in zip(TEXTS[:8], found["prediction"].to_pylist(), strict=False):
        beginning = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]][: PARAMS.beginning]
        ids = torch.tensor([beginning])
        seen = torch.ones_like(ids)
        new = network.generate(ids, attention_mask=seen, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert said == tokenizer.decode(new[0, len(beginning) :], skip_special_tokens=True)
    drawn = [answered(made, some, temperature=1.0)[2]["prediction"].to_pylist() for _ in range(2)]
    assert drawn[0] == drawn[1] != found["prediction"].to_pylist()


def test_beside_a_continuation_stands_how_the_text_went_on_as_long_as_it() -> None:
    texts = ["Ada met Bo.", "Ada met Bo.", "Ada met Bo.", "Ada"]
    rows_ = pa.table({"id": list("abcd"), "text": texts})
    said = pa.table(
        {"id": list("abcd"), "beginning": ["Ada", "ada met", "Bo", "Ada"], "prediction": [" saw", "", "x", "y"]}
    )
    found = scores.each(rows_, said, "en")
    assert found.column_names == ["id", "prediction", "gold"]  # there are many ways to go on: none is right or wrong
    assert found["gold"].to_pylist() == [
        {"start": 3, "end": 7, "text": " met"},
        {"start": 7, "end": 8, "text": " "},
        None,  # the tokens of the beginning do not read back as it stands
        None,  # nothing is left
    ]


def test_a_text_to_be_gone_on_from_is_taken_whole_and_has_no_end(made: tuple[Any, Any], tmp_path: Path) -> None:
    tokenizer, network = made
    some = table(CHINESE, answered=False)
    packed, faults = features.features(some, tokenizer, PARAMS, "f", features.learn([table(TEXTS)], tokenizer, PARAMS))
    assert not faults
    assert tokenizer.eos_token_id not in [token for ids in packed["input_ids"].to_pylist() for token in ids]
    out, loss = raw_outputs(
        network, model, FeatureTable(packed), tokenizer, Evaluation(new_tokens=4), "float32", labels=False
    )
    found = predictions.predict(some, out, Postprocessing(), {})
    assert loss is None
    assert found["beginning"].to_pylist() == CHINESE
    predictions.write(found, tmp_path)
    written = json.loads((tmp_path / "predictions.json").read_text())
    assert written == dict(zip(some["id"].to_pylist(), found["prediction"].to_pylist(), strict=True))


def test_texts_of_which_a_beginning_is_cut_are_known(made: tuple[Any, Any]) -> None:
    tokenizer, network = made
    params = Evaluation(new_tokens=7)
    assert model.longest_beginning(network, params) == network.config.max_position_embeddings - 7
    texts = ["The city of", "It was built in the year. " * 40, "A"]
    sizes = [len(tokenizer(text)["input_ids"]) for text in texts]
    found = blocks(table(texts, answered=False), tokenizer)
    assert features.longer(found, PARAMS.block) == {at for at, size in enumerate(sizes) if size > PARAMS.block} == {1}
