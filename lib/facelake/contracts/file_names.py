"""What the name of a data file records, built and parsed in one place."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

_MODEL_DIGITS, _CORPUS_DIGITS = 8, 12
_NAME = re.compile(
    r"(?:(?P<model>[0-9a-f]{8})-)?(?:(?P<corpus>[0-9a-f]{12})-)?(?:(?P<part>.+)-)?(?P<nonce>[0-9a-f]{16})\.parquet"
)


@dataclass(frozen=True, slots=True)
class DataFileName:
    """The name `model-corpus-part-nonce.parquet` of a table's data file; parts that do not apply are left out.

    Names stay in the Delta log after the rows are erased, so they carry digests and numbers only.
    """

    model: str = ""
    """first 8 hex digits of the model digest: faces and rejects"""
    corpus: str = ""
    """`corpus_key` of the corpus file: faces, rejects and admissions"""
    part: str = ""
    """first corpus row (faces, rejects), digest of the decisions (admissions), or "part" """
    nonce: str = ""
    """16 hex digits that make the name unique; empty before the file is staged"""

    @classmethod
    def of_chunk(cls, model_digest: str, corpus_file: str, row_start: int) -> DataFileName:
        """The name of the faces or rejects of a chunk."""
        return cls(model_digest[:_MODEL_DIGITS], corpus_key(corpus_file), f"{row_start:010d}")

    @classmethod
    def of_corpus_file(cls, corpus_file: str, part: str = "") -> DataFileName:
        """The name of the admission decisions about a corpus file."""
        return cls(corpus=corpus_key(corpus_file), part=part)

    @classmethod
    def parse(cls, path: str) -> DataFileName:
        """Read a data file's path, relative to the table's root; of an unknown form: everything is its `part`."""
        match = _NAME.fullmatch(path)
        if match is None:
            stem, _, nonce = path.removesuffix(".parquet").rpartition("-")
            return cls(part=stem, nonce=nonce)
        return cls(**{name: value or "" for name, value in match.groupdict().items()})

    def render(self) -> str:
        """The file's name."""
        return "-".join(field for field in (self.model, self.corpus, self.part, self.nonce) if field) + ".parquet"

    def with_nonce(self, nonce: str) -> DataFileName:
        """The same name with another (or, when empty, no) nonce."""
        return replace(self, nonce=nonce)

    def is_of_model(self, model_digest: str) -> bool:
        """Whether the rows were made by the model of this digest."""
        return bool(self.model) and self.model == model_digest[:_MODEL_DIGITS]


def corpus_key(corpus_file: str) -> str:
    """12 hex digits that stand for a corpus file in names of data files: a digest, since names stay in the log."""
    return hashlib.sha256(corpus_file.encode()).hexdigest()[:_CORPUS_DIGITS]


def is_of_model(path: str, model_digest: str) -> bool:
    """Whether the name of a data file records that the model of this digest made its rows."""
    return DataFileName.parse(path).is_of_model(model_digest)
