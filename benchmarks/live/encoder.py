"""What is served: MiniLM-L6 in fp32 on one core, texts of any length padded to the longest of their batch."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.random import Generator

from kernels.encoders import TOKENS_IN_TABLE, EncoderShape, built
from kernels.torch_backend import Backend, torch

SHAPE = EncoderShape("bert", layers=6, hidden=384, heads=12, intermediate=1536, batch=1, tokens=64, dtype="fp32")
ANSWER_BYTES = 4 * SHAPE.hidden
FIRST_TOKEN = 5


def body(random: Generator, tokens: int) -> bytes:
    """Return a request: random token ids, two bytes each."""
    return random.integers(FIRST_TOKEN, TOKENS_IN_TABLE, tokens).astype(np.uint16).tobytes()


class TextEncoder:
    """The encoder as a worker runs it: bytes of a batch in, bytes of its vectors out."""

    def __init__(self) -> None:
        torch().manual_seed(0)
        self._module = built(SHAPE.config(), Backend.local("cpu", threads=1), SHAPE.dtype)
        gc.collect()
        gc.freeze()  # else a collection that scans all objects of the libraries may fall into a batch

    def answers(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the mean of each text's last states, as fp32."""
        texts = [np.frombuffer(item, np.uint16) for item in bodies]
        ids = np.zeros((len(texts), max(len(text) for text in texts)), np.int64)
        kept = np.zeros(ids.shape, np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)], kept[row, : len(text)] = text, 1
        mask = torch().from_numpy(kept)
        with torch().inference_mode():
            states = self._module(input_ids=torch().from_numpy(ids), attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * weights).sum(1) / weights.sum(1)
        return [vector.tobytes() for vector in vectors.numpy()]


@cache
def own_encoder() -> TextEncoder:
    """Return the one encoder of this process."""
    return TextEncoder()


def agree(bodies: Sequence[bytes], answers: Sequence[bytes]) -> bool:
    """Return whether the answers are what the encoder says of each text alone, without batch and padding."""
    encoder = own_encoder()
    own = [np.frombuffer(encoder.answers([each])[0], np.float32) for each in bodies]
    return np.allclose(own, [np.frombuffer(each, np.float32) for each in answers], atol=1e-4)
