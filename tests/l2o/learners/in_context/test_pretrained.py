import os
import struct
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from l2o.learners.in_context.language_model import LanguageModel, pretrained, wrap
from l2o.learners.in_context.tokenizers import HubTokens, LlamaTokens
from tests.l2o.learners.in_context.colours import every_kind, model


@every_kind
def test_a_model_that_is_there_is_wrapped_as_it_is(kind: str) -> None:
    m, tokens = model(kind).eval(), torch.arange(6)[None]
    again = wrap(m.network, "eager")
    assert torch.equal(again(tokens).logits, m(tokens).logits)
    fresh = LanguageModel(**again.config)
    fresh.load_state_dict(again.state_dict())
    assert torch.equal(fresh.eval()(tokens).logits, m(tokens).logits)


def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    m = model("llama")
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>").save_pretrained(tmp_path)
    m.network.save_pretrained(tmp_path)
    found = pretrained(str(tmp_path), "eager")
    assert found.tokens.encode("a b c") == [1, 2, 3] and found.tokens.start == 0
    tokens = torch.arange(6)[None]
    torch.testing.assert_close(found.model.eval()(tokens).logits, m.eval()(tokens).logits)
    assert HubTokens(words).encode("b a") == [2, 1] and HubTokens(words).start is None


STORIES = Path(os.environ.get("L2O_DATA", "nowhere")) / "lm" / "stories260K.bin"
needs_stories = pytest.mark.skipif(not STORIES.is_file(), reason="stories260K.bin is in no folder that L2O_DATA names")


@needs_stories
@torch.no_grad()
def test_stories260k_tells_the_story_that_llama2c_documents() -> None:
    m, tokens = pretrained(str(STORIES))
    ids, past, turn = [tokens.start, *tokens.encode(" Once upon a time")], None, None
    for _ in range(40):
        read = m(torch.tensor([ids if turn is None else [turn]]), past, caching=True)
        past, turn = read.past, int(read.logits[0, -1].argmax())
        ids.append(turn)
    assert tokens.decode(ids).startswith(
        " Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw"
    )
    assert tokens.decode(tokens.encode("Zoë's café\n")) == "Zoë's café\n"


@needs_stories
def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    data = STORIES.read_bytes()
    for content, message in (
        (data[:-4], "must have 1056540 bytes; .* has 1056536"),
        (data[:20], "must begin with seven numbers"),
        (struct.pack("<7i", 0, *[1] * 6) + b"1234", "first numbers are no sizes"),
        (data, "needs its tokenizer beside it"),
    ):
        (tmp_path / "m.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            pretrained(str(tmp_path / "m.bin"))
    (tmp_path / "tok512.bin").write_bytes(STORIES.with_name("tok512.bin").read_bytes()[:-3])
    with pytest.raises(ValueError, match="ends within piece 511"):
        LlamaTokens.read(tmp_path / "tok512.bin")
