"""One model trained once, and what is kept of it on disk."""

from __future__ import annotations

import ast
import dataclasses
import functools
import gc
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic
import tensorflow as tf

import piano_tf
from piano_tf.config import Config, EncodingConfig, Frozen, ScoreConfig
from piano_tf.data.logs import split_files
from piano_tf.errors import ConfigError
from piano_tf.evaluation.predictions import Predictions, predict
from piano_tf.features import SPEC_FILE
from piano_tf.files import whole_folder
from piano_tf.training import EncodedLog, fit_log

PREDICTED = ("validation", "test")
RECORD_FILE = "run.json"

_PACKAGES = (
    "piano_tf",
    "tensorflow",
    "tensorflow-ranking",
    "tensorflow-recommenders",
    "lightgbm",
    "numpy",
    "scipy",
)
_SHAPES_A_RUN = (
    "features.py",
    "masks.py",
    "losses.py",
    "metrics.py",
    "rerank.py",
    "calibration.py",
    "training.py",
    "data",
    "layers",
    "models",
    "pretraining",
    "evaluation/predictions.py",
)
# Whose own a part of `ModelConfig` is: no other model reads it.
_PARTS = {"piano": "piano", "trees": "lambdamart"}
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Run:
    """One (label, seed, log).

    Attributes:
      label: Of the model, as people read it.
      log_dir: A folder written by `piano logs`.
      log_digest: Of its files (`log_digest`).
      config: What the model is trained with, its seed included.
      folder: Where it is kept, once finished.
      digest: Equal where the model's configuration, log, code and packages are. Of the moment when
        the run was made: code that is edited while it trains has no part in it.
    """

    label: str
    log_dir: Path
    log_digest: str
    config: Config
    folder: Path
    digest: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        digest = digest_of(settings_of(self.config), self.log_digest)
        object.__setattr__(self, "digest", digest)

    @property
    def title(self) -> str:
        return f"{self.label}, seed {self.config.training.seed}"


class RunRecord(Frozen):
    """What is kept of a run beside its predictions, as `run.json`.

    Attributes:
      label: Of the model.
      log: The log's folder.
      digest: Of the run.
      config: What it was trained with.
      score: a and b of the ranking score, chosen on validation.
      epochs: How many were trained.
      seconds: That training took, evaluation included; encoding the log is not.
      versions: Package -> version.
    """

    label: str
    log: str
    digest: str
    config: Config
    score: ScoreConfig
    epochs: int
    seconds: float
    versions: dict[str, str]


def settings_of(config: Config) -> str:
    """A configuration as JSON, without the parts of `ModelConfig` that are other models' own.

    >>> from piano_tf import Config
    >>> def settings(name, gate):
    ...     return settings_of(Config(model={"name": name, "piano": {"gate": gate}}))
    >>> settings("dnn", True) == settings("dnn", False)
    True
    >>> settings("piano", True) == settings("piano", False)
    False
    """
    others = {part for part, name in _PARTS.items() if name != config.model.name}
    return config.model_dump_json(exclude={"model": others})


def digest_of(*parts: str, code: Sequence[str] = (), packages: Sequence[str] = ()) -> str:
    """SHA-256 of texts, of the code that trains and predicts, and of the packages it stands on.

    Args:
      parts: The texts.
      code: Files or folders of piano_tf that count too.
      packages: Further packages.
    """
    known = hashlib.sha256()
    versions = json.dumps(_versions(*_PACKAGES, *packages), sort_keys=True)
    for part in (_code_digest(*_SHAPES_A_RUN, *code), versions, *parts):
        known.update(part.encode())
        known.update(b"\0")
    return known.hexdigest()


@functools.cache
def _code_digest(*sources: str) -> str:
    """SHA-256 of files and folders of piano_tf; comments and docstrings do not count."""
    known = hashlib.sha256()
    for part in sources:
        path = Path(piano_tf.__file__).parent / part
        for source in [path] if path.is_file() else sorted(path.rglob("*.py")):
            known.update(code_of(source.read_text(encoding="utf-8")).encode())
    return known.hexdigest()


def code_of(source: str) -> str:
    """Python source without comments, layout and docstrings: equal where the code is.

    >>> code_of("x = 1  # one") == code_of("'What x is.'\\nx = (1)")
    True
    >>> code_of("x = 1") == code_of("x = 2")
    False
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        described = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, described) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def _versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def log_digest(log_dir: Path, splits: Sequence[str]) -> str:
    """SHA-256 of a log's columns and of the lists of some splits, wherever the log lies.

    Raises:
      LogError: A split has no files.
    """
    known = hashlib.sha256()
    for file in (
        Path(log_dir) / SPEC_FILE,
        *(file for split in splits for file in split_files(log_dir, split)),
    ):
        known.update(f"{file.relative_to(log_dir)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                known.update(block)
    return known.hexdigest()


def finished(run: Run) -> RunRecord | None:
    """The record of a run that is kept and whose digest is still the same."""
    record = record_of(run.folder)
    return record if record is not None and record.digest == run.digest else None


def record_of(folder: Path) -> RunRecord | None:
    """The record in a run's folder; None where there is none that can be read."""
    try:
        return RunRecord.load(folder / RECORD_FILE)
    except ConfigError:
        return None


def load_predictions(run: Run, split: str) -> Predictions:
    """What a finished run said of a split."""
    return Predictions.load(run.folder / f"{split}.npz")


def train(run: Run) -> None:
    """Trains, predicts the validation and test lists, and keeps both with the record."""
    log = encoded_log(run.log_dir, run.log_digest, run.config.encoding)
    started = time.perf_counter()
    fitted = fit_log(log, run.config, verbose=0)
    size = run.config.training.batch_size
    predictions = {
        split: predict(fitted.model, fitted.score, log.batches(split, size)) for split in PREDICTED
    }
    record = RunRecord(
        label=run.label,
        log=str(run.log_dir),
        digest=run.digest,
        config=run.config,
        score=fitted.score,
        epochs=len(fitted.history.get("loss", ())),
        seconds=time.perf_counter() - started,
        versions=_versions(*_PACKAGES),
    )
    keep(run.folder, record, predictions)
    tf.keras.backend.clear_session()  # or every model's graph would stay in memory
    gc.collect()


def keep(folder: Path, record: pydantic.BaseModel, predictions: Mapping[str, Predictions]) -> None:
    """Writes a run, in place of an older one; nothing half-written is ever at `folder`."""
    with whole_folder(folder, replace=True) as partial:
        for split, said in predictions.items():
            said.save(partial / f"{split}.npz")
        (partial / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n")


def encoded_log(log_dir: Path, digest: str, encoding: EncodingConfig) -> EncodedLog:
    """The log, encoded. A process keeps the last one, for the next run is likely to want it too.

    Args:
      log_dir: A folder written by `piano logs`.
      digest: Of its files.
      encoding: The encoding configuration.
    """
    key = digest, encoding
    if key not in _held:
        while _held:
            _held.popitem()[1].__exit__()
        _held[key] = EncodedLog(log_dir, encoding)
    return _held[key]


_held: dict[tuple[str, EncodingConfig], EncodedLog] = {}
