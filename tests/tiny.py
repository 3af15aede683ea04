"""Models small enough to train in a test, built from a configuration, with a tokenizer made on the spot."""

from __future__ import annotations

from pathlib import Path

import msgspec

from stream_ft.events import Correction, Example, LabelCorrection, TextCorrection
from stream_ft.learn.job import Job
from stream_ft.model.base import BaseFolder, base_files, resolve

TOPICS = {
    "refund": "money back refund return paid cash pay again please",
    "parcel": "parcel where late box post truck door came never",
    "login": "password login account locked code mail enter reset site",
    "cancel": "cancel stop order end contract close quit mind changed",
}
WORDS = sorted({word for words in TOPICS.values() for word in words.split()})
FILLERS = ["hello", "my", "i", "the", "is", "it", "a", "do", "you", "so", "can"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def _tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *FILLERS, *TOPICS]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[SEP]", model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip
    return len(vocabulary)


def bert(folder: Path) -> BaseFolder:
    """A BERT of two layers, 32 wide."""
    import torch
    from transformers import BertConfig, BertModel

    size = _tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return resolve(str(folder))


def llama(folder: Path, *, tied: bool = False) -> BaseFolder:
    """A causal language model of two layers, 32 wide."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = _tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return resolve(str(folder))


def texts(count: int, *, start: int = 0) -> list[tuple[str, str]]:
    """``(text, label)`` pairs, each other than the one before; three words of a topic among fillers."""
    rows = []
    for i in range(start, start + count):
        label = list(TOPICS)[i % len(TOPICS)]
        words = TOPICS[label].split()
        k = i // len(TOPICS)
        picked = [words[k % 9], FILLERS[k % 11], words[(k * 2 + 1) % 9], FILLERS[(k + 3) % 11], words[(k * 4 + 3) % 9]]
        rows.append((" ".join(picked), label))
    return rows


def examples(count: int, *, start: int = 0, text: bool = False) -> list[Example]:
    """Labelled examples; with ``text`` the label is a text to be generated."""
    rows = []
    for i, (words, label) in enumerate(texts(count, start=start), start):
        correction: Correction = TextCorrection(text=label) if text else LabelCorrection(label=label)
        rows.append(Example(seq=i + 1, id=i + 1, input=words, correction=correction, source="test", trust=2))
    return rows


def genesis(base: BaseFolder, folder: Path) -> Path:
    """The folder of the genesis base."""
    return write(folder, base_files(base))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def job_folder(folder: Path, job: Job, train: list[Example], evaluate: list[Example]) -> Path:
    """What :class:`stream_ft.wiring.rounds.RoundProcess` lays out before it starts a round."""
    folder.mkdir(parents=True)
    for name, rows in (("train.jsonl", train), ("evaluate.jsonl", evaluate)):
        (folder / name).write_bytes(msgspec.json.Encoder().encode_lines(rows))
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    return folder
