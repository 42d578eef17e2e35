"""Every reader of files in l2o, with the files that the fuzzer gives to it."""

from __future__ import annotations

import gzip
from functools import cache

import numpy as np

import l2o
from benchmarks.fuzz.agents import journals, library, lineages, lived, read_journal, read_lineage, read_skills, skills
from benchmarks.fuzz.damage import damaged, some
from benchmarks.fuzz.models import llama, model_files, read_model, tokens
from benchmarks.fuzz.pictures import IDX, MNIST, omniglot, picture, zips
from benchmarks.fuzz.reader import Target
from benchmarks.fuzz.released import NPY, arrays, celo, flax, libraries
from benchmarks.fuzz.saved import checkpoint, configs, headers, ledgers, modules, read_configs, resume, trees
from benchmarks.fuzz.texts import CSV, SENTENCES, json_lines, read_sentences
from l2o.arrays import read_arrays
from l2o.learners.in_context.tokenizers import LlamaTokens
from l2o.released import CELO, load_released
from l2o.tasks.data.image_folder import image_folder
from l2o.tasks.data.images import read_idx, read_npz
from l2o.tasks.data.omniglot import omniglot_characters, read_omniglot_zip
from l2o.tasks.data.text_tasks import read_csv, read_json_lines
from l2o.training import ledger


@cache
def targets() -> dict[str, Target]:
    """Every reader, by the kind of its files."""
    bomb = gzip.compress(bytes(10**7))
    library(), lived()  # made before anything is drawn
    state = flax({"a": celo()[f"{CELO}w1"], "b": {"c/d": np.zeros((), np.float32)}})
    return {
        "weights": Target("a.safetensors", some(*modules()), l2o.load),
        "weights, headers": Target("a.safetensors", headers(), l2o.load),
        "checkpoints": Target("a.safetensors", some(checkpoint()), resume),
        "checkpoints, trees": Target("a.safetensors", trees(), resume),
        "settings (YAML)": Target("config.yaml", configs(), read_configs),
        "ledgers (JSON)": Target("ledger.jsonl", ledgers(), ledger.audit),
        "library files, .npz": Target("a.npz", libraries() | damaged(libraries()), load_released),
        "library files, .npy": Target("a.npy", NPY | damaged(NPY), load_released),
        "library files, flax": Target("a.state", some(state), read_arrays),
        "drawings (zip)": Target("images_background.zip", zips() | damaged(zips()), read_omniglot_zip),
        "drawings (.npz)": Target(
            "omniglot_28.npz", some(omniglot()), lambda path: omniglot_characters.__wrapped__(root=str(path.parent))
        ),
        "digits (.npz)": Target("mnist.npz", some(arrays(MNIST)), read_npz),
        "digits (IDX)": Target("a-idx3-ubyte.gz", some(IDX, gzip.compress(IDX), bomb), read_idx),
        "pictures": Target(
            "mine/cat/a.png",
            some(picture(9), picture(9, "GIF"), picture(9, "BMP"), picture(9, "JPEG")),
            lambda path: image_folder.__wrapped__(str(path.parents[1])),
        ),
        "text tasks (JSON lines)": Target("a.jsonl", json_lines(), read_json_lines),
        "text tasks (CSV)": Target("a.csv", CSV | damaged(CSV), read_csv),
        "text tasks (sentences)": Target("TREC.test.all", damaged(SENTENCES), read_sentences),
        "language models (llama2.c)": Target("a.bin", model_files() | some(llama()), read_model),
        "tokenizers (llama2.c)": Target("tok.bin", some(tokens()), LlamaTokens.read),
        "skills (SQLite)": Target("skills.sqlite", skills() | damaged(skills()), read_skills),
        "lineages (JSON)": Target("ledger.jsonl", lineages(), read_lineage),
        "journals of agents (JSON)": Target("rounds.jsonl", journals(), read_journal),
    }
