"""A version that is taken back: not served, and nothing that a later run goes on from."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from push_alone import push
from tfx import types
from tfx.types import artifact_utils, standard_artifacts

from piano_tf import cli
from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import read_lists
from piano_tf.evaluation.predictions import Predictions, initial_order
from tfx_pipeline import withdrawal
from tfx_pipeline.configs import PIPELINE_NAME, Home, Thresholds
from tfx_pipeline.gates import model as model_gate
from tfx_pipeline.gates.blessing import BLESSED, MODEL_ID, is_withdrawn
from tfx_pipeline.gates.model import COMPARISON_FILE, Comparison, ModelGate
from tfx_pipeline.home_lock import alone
from tfx_pipeline.lineage import RUN, open_store
from tfx_pipeline.origin import stamp
from tfx_pipeline.resolvers import LastBlessedModel
from tfx_pipeline.run_folder import BLESSED_SENTENCE, CARD_FILE, folder_of, pushed_sentence
from tfx_pipeline.withdrawal import withdraw

FIRST_SPAN = 10


class Runs:
    """A pipeline's home as runs of one day after another leave it, each of which pushed a model.

    Args:
      folder: The home.
    """

    def __init__(self, folder: Path) -> None:
        self.home = Home(home=folder)
        folder.mkdir()
        self.store = open_store(self.home)
        self._spans: list[int] = []

    def run(self, weights: str, *, recorded: bool = True) -> str:
        """A run of the next day; the version that it pushed, recorded or not."""
        span = FIRST_SPAN + len(self._spans)
        self._spans.append(span)
        of = self.examples(span)
        model = standard_artifacts.Model()
        model.uri = str(self.home.artifacts / "model" / str(span))
        saved(Path(model.uri) / "Format-Serving", weights)
        self.executed("Trainer", model)
        for stage, blessing in (
            ("Evaluator", standard_artifacts.ModelBlessing()),
            ("ModelGate", standard_artifacts.ModelBlessing()),
            ("ServingGate", standard_artifacts.InfraBlessing()),
        ):
            blessing.uri = str(self.home.artifacts / stage / str(span))
            blessing.set_int_custom_property(BLESSED, 1)
            blessing.set_int_custom_property(MODEL_ID, model.id)
            stamp(blessing, of)
            self.executed(stage, blessing, model)
        version = str(1000 + span)
        saved(self.home.pushed / version, weights)
        if recorded:
            record = standard_artifacts.PushedModel()
            record.uri = str(self.home.artifacts / "pushed" / version)
            record.set_string_custom_property("pushed_version", version)
            self.executed("Pusher", record, model)
        card = folder_of(self.home, self.newest) / CARD_FILE
        card.parent.mkdir(parents=True)
        card.write_text(f"<li>{BLESSED_SENTENCE}</li>\n<li>{pushed_sentence(version)}</li>\n")
        return version

    def executed(self, stage: str, output: types.Artifact, *inputs: types.Artifact) -> None:
        """Puts an execution with its output into ML Metadata."""
        kind = self.store.put_artifact_type(output.artifact_type, can_add_fields=True)
        output.type_id = kind
        (output.id,) = self.store.put_artifacts([output.mlmd_artifact])
        execution_type = self.store.put_execution_type(mlmd.ExecutionType(name=stage))
        (execution,) = self.store.put_executions([mlmd.Execution(type_id=execution_type)])
        here = [
            mlmd.Association(execution_id=execution, context_id=self._context(kind, name))
            for kind, name in (("node", f"{PIPELINE_NAME}.{stage}"), (RUN, self.newest))
        ]
        self.store.put_attributions_and_associations([], here)
        events = [(output, mlmd.Event.OUTPUT), *((one, mlmd.Event.INPUT) for one in inputs)]
        self.store.put_events(
            [
                mlmd.Event(artifact_id=one.id, execution_id=execution, type=event)
                for one, event in events
            ]
        )

    def _context(self, kind: str, name: str) -> int:
        """Id of the context of a type and a name."""
        known = self.store.get_context_by_type_and_name(kind, name)
        if known is not None:
            return known.id
        number = self.store.put_context_type(mlmd.ContextType(name=kind))
        (made,) = self.store.put_contexts([mlmd.Context(type_id=number, name=name)])
        return made

    @property
    def newest(self) -> str:
        """The name of the newest run, as TFX gives it."""
        return f"2026-07-{self._spans[-1]}T06:00:00.5"

    def verdicts(self) -> dict[str, list[str]]:
        """What the cards of runs say of the model gate and of the push, by the runs' folders."""
        return {
            card.parent.name: re.findall(r"<li>(.*)</li>", card.read_text())
            for card in sorted(self.home.runs.glob(f"*/{CARD_FILE}"))
        }

    def examples(self, span: int) -> types.Artifact:
        found = standard_artifacts.Examples()
        found.id = 100_000 + span
        found.set_int_custom_property("span", span)
        return found

    def known(self, kind: type[types.Artifact]) -> list[types.Artifact]:
        """All artifacts of a type, as they are in ML Metadata now."""
        of_type = self.store.get_artifact_type(kind.TYPE_NAME)
        found = self.store.get_artifacts_by_type(kind.TYPE_NAME)
        return [artifact_utils.deserialize_artifact(of_type, one) for one in found]

    def next_starts_from(self) -> str | None:
        """The weights of the model that a run of the day after the last is held to."""
        found = LastBlessedModel("settings").resolve_artifacts(
            self.store,
            {
                "examples": [self.examples(FIRST_SPAN + len(self._spans))],
                "model": self.known(standard_artifacts.Model),
                "model_blessing": [
                    one
                    for one in self.known(standard_artifacts.ModelBlessing)
                    if "ModelGate" in one.uri
                ],
                "infra_blessing": self.known(standard_artifacts.InfraBlessing),
            },
        )
        for model in found["model"]:
            return (Path(model.uri) / "Format-Serving" / "saved_model.pb").read_text()
        return None

    def left(self) -> list[str]:
        """What is in the pushed folder, hidden or not."""
        return sorted(path.name for path in self.home.pushed.iterdir())


def saved(folder: Path, weights: str) -> None:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text(weights)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "home")


def test_a_withdrawn_model_is_not_served_and_nothing_goes_on_from_it(runs: Runs) -> None:
    monday, tuesday = runs.run("monday's"), runs.run("tuesday's")
    assert runs.next_starts_from() == "tuesday's"

    done = withdraw(runs.home, tuesday)
    assert runs.left() == [monday]
    assert done.folder == runs.home.pushed / tuesday
    assert done.served == runs.home.pushed / monday
    assert runs.next_starts_from() == "monday's"
    assert runs.verdicts() == {
        "2026-07-10T06-00-00.5": ["Model gate: blessed.", f"Pushed as version {monday}."],
        "2026-07-11T06-00-00.5": [
            "Model gate: blessed, and withdrawn since.",
            f"Pushed as version {tuesday}, and taken back since.",
        ],
    }
    for blessing in runs.known(standard_artifacts.ModelBlessing):
        is_taken = (
            "ModelGate" in blessing.uri
            and blessing.get_int_custom_property(MODEL_ID) in done.models
        )
        assert blessing.get_int_custom_property(BLESSED) == int(not is_taken)
    marked = [one.id for one in runs.known(standard_artifacts.Model) if is_withdrawn(one)]
    assert marked == list(done.models)

    runs.run("wednesday's")
    assert runs.next_starts_from() == "wednesday's"


def test_a_withdrawn_model_is_refused_by_the_gate_whatever_it_is_held_to(
    runs: Runs, log_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works anew where its limits, its code or the model to hold to are others."""
    runs.run("monday's")
    withdraw(runs.home, runs.run("tuesday's"))
    monkeypatch.setattr(model_gate, "_predictions", lambda _, logs: as_the_first_stage(logs))
    evaluated = standard_artifacts.ModelBlessing()
    evaluated.set_int_custom_property(BLESSED, 1)
    monday, tuesday = runs.known(standard_artifacts.Model)
    for model, baseline, complaints in (
        (monday, None, ()),
        (tuesday, None, ("it was withdrawn",)),
        (tuesday, monday, ("it was withdrawn",)),
    ):
        blessing = standard_artifacts.ModelBlessing()
        blessing.uri = str(runs.home.artifacts / "anew")
        inputs = {"model": [model], "evaluated": [evaluated]}
        ModelGate.EXECUTOR_SPEC.executor_class().Do(
            inputs if baseline is None else {**inputs, "baseline": [baseline]},
            {"blessing": [blessing]},
            {
                "logs": str(log_dir),
                "limits": Thresholds(undecided="bless").model_dump_json(),
                "code": "another",
            },
        )
        assert Comparison.load(Path(blessing.uri) / COMPARISON_FILE).complaints == complaints
        assert blessing.get_int_custom_property(BLESSED) == int(not complaints)


def as_the_first_stage(logs: Path) -> Predictions:
    """Of a model that orders the test split as it was."""
    lists = read_lists(logs, "test")
    share, any_share = lists.mask * 0.3, np.full(len(lists), 0.5)
    return Predictions(initial_order(lists), share, share, any_share, any_share)


def test_a_withdrawn_model_is_not_pushed_whoever_blesses_it(runs: Runs) -> None:
    monday = runs.run("monday's")
    withdraw(runs.home, runs.run("tuesday's"))
    trained = dict(zip(("monday", "tuesday"), runs.known(standard_artifacts.Model), strict=True))
    record = push(trained["tuesday"], runs.home.pushed)
    assert record.get_int_custom_property("pushed") == 0
    assert runs.left() == [monday]
    assert push(trained["monday"], runs.home.pushed).get_int_custom_property("pushed") == 1


def test_the_version_before_may_be_withdrawn_and_what_is_served_stays(runs: Runs) -> None:
    monday, tuesday = runs.run("monday's"), runs.run("tuesday's")
    assert withdraw(runs.home, monday).served == runs.home.pushed / tuesday
    assert runs.left() == [tuesday]
    assert runs.next_starts_from() == "tuesday's"


@pytest.mark.parametrize("recorded", [True, False])
def test_the_model_is_known_by_its_record_or_by_its_files(runs: Runs, recorded: bool) -> None:
    """A version may be damaged, which may be why; and a run may not have lived to record it."""
    runs.run("monday's")
    tuesday = runs.run("tuesday's", recorded=recorded)
    if recorded:
        (runs.home.pushed / tuesday / "saved_model.pb").write_text("damaged")
    withdraw(runs.home, tuesday)
    assert runs.next_starts_from() == "monday's"


def test_the_same_model_of_another_day_is_withdrawn_too(runs: Runs) -> None:
    runs.run("monday's")
    runs.run("the same")
    (runs.home.pushed / "1011").rename(runs.home.pushed / "1012.moved")  # it was pushed once
    wednesday = runs.run("the same")
    assert len(withdraw(runs.home, wednesday).models) == 2
    assert runs.next_starts_from() == "monday's"


@pytest.mark.parametrize("killed_in", ["_set_aside", "_tell", "_remove"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_withdrawal_that_was_killed_is_finished_by_the_same_command(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, killed_in: str, recorded: bool
) -> None:
    monday, tuesday = runs.run("monday's"), runs.run("tuesday's", recorded=recorded)
    with monkeypatch.context() as dying:
        dying.setattr(withdrawal, killed_in, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            withdraw(runs.home, tuesday)
    assert runs.next_starts_from() == "monday's", "the blessing goes first"
    aside = f".{tuesday}.withdrawn"
    assert runs.left() == ([monday, tuesday] if killed_in == "_set_aside" else [aside, monday])
    done = withdraw(runs.home, tuesday)
    assert runs.left() == [monday]
    assert done.folder == runs.home.pushed / tuesday
    assert len(done.models) == 1
    assert done.served == runs.home.pushed / monday
    assert [told[0] for told in runs.verdicts().values()] == [
        "Model gate: blessed.",
        "Model gate: blessed, and withdrawn since.",
    ]
    told = f"{runs.home.pushed / tuesday}: was withdrawn before; nothing is left to do"
    if not recorded:
        told = f"{runs.home.pushed}: there is no version '{tuesday}'; expected one of {monday}"
    refused(runs, tuesday, told)


@pytest.mark.parametrize("recorded", [True, False])
def test_one_that_was_killed_among_the_files_is_finished_too(runs: Runs, recorded: bool) -> None:
    """Then the model is known by its record alone."""
    monday, tuesday = runs.run("monday's"), runs.run("tuesday's", recorded=recorded)
    (runs.home.pushed / tuesday / "saved_model.pb").unlink()
    (runs.home.pushed / tuesday).rename(runs.home.pushed / f".{tuesday}.withdrawn")
    assert len(withdraw(runs.home, tuesday).models) == int(recorded)
    assert runs.left() == [monday]


@pytest.mark.parametrize(
    ("where", "what", "told"),
    [
        (Path, "rename", "{pushed}/{version}: is served still, for it cannot be renamed (No "),
        (os, "replace", "{runs}/2026-07-11T06-00-00.5: cannot be rewritten (No space left "),
        (shutil, "rmtree", "{pushed}/.{version}.withdrawn: cannot be removed (No space left "),
    ],
    ids=["rename", "replace", "rmtree"],
)
def test_a_folder_that_cannot_be_removed_is_one_sentence(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, where: object, what: str, told: str
) -> None:
    monday, tuesday = runs.run("monday's"), runs.run("tuesday's")
    with monkeypatch.context() as failing:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        failing.setattr(where, what, mock.Mock(side_effect=error))
        with pytest.raises(PianoError) as raised:
            withdraw(runs.home, tuesday)
    told = told.format(pushed=runs.home.pushed, runs=runs.home.runs, version=tuesday)
    assert str(raised.value).startswith(told)
    assert str(raised.value).endswith("the same command goes on")
    withdraw(runs.home, tuesday)
    assert runs.left() == [monday]
    assert runs.next_starts_from() == "monday's"


def refused(runs: Runs, version: str, sentence: str) -> None:
    left, before = runs.left(), runs.next_starts_from()
    with pytest.raises(PianoError, match=re.escape(sentence)) as error:
        withdraw(runs.home, version)
    assert len(str(error.value).splitlines()) == 1
    assert runs.left() == left
    assert runs.next_starts_from() == before


def test_what_cannot_be_withdrawn_is_told_and_nothing_changes(runs: Runs) -> None:
    pushed = runs.home.pushed
    monday = runs.run("monday's")
    refused(runs, "7", f"{pushed}: there is no version '7'; expected one of {monday}")
    refused(runs, monday, f"{pushed / monday}: is the only version, without which nothing is")
    tuesday = runs.run("tuesday's")
    elsewhere = f"../pushed/{tuesday}"
    refused(runs, elsewhere, f"no version {elsewhere!r}; expected one of {monday}, {tuesday}")
    saved(pushed / "9999", "by hand")
    refused(runs, "9999", f"{pushed / '9999'}: no run in {runs.home.home} is known to have pushed")
    with alone(runs.home.home):
        refused(runs, tuesday, f"{runs.home.home}: another run is at work there")


def test_the_only_version_goes_by_force(runs: Runs) -> None:
    monday = runs.run("monday's")
    assert withdraw(runs.home, monday, force=True).served is None
    assert runs.left() == []
    assert runs.next_starts_from() is None


def test_the_command_says_what_is_served_now(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monday, tuesday = runs.run("monday's"), runs.run("tuesday's")

    def command(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["piano", "withdraw", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return str(ended.value.code)

    nobody = tmp_path / "nobody"
    assert command(nobody, "7") == (
        f"error: {nobody}: no pipeline has run there; expected its home"
    )
    assert not nobody.exists()
    assert command(runs.home.home, tuesday) == "0"
    assert capsys.readouterr().out == (
        f"withdrawn: {runs.home.pushed / tuesday}, model 6 in ML Metadata\n"
        f"a server that watches goes back to {runs.home.pushed / monday}\n"
    )
    wednesday = runs.run("wednesday's")
    assert command(runs.home.home, monday) == "0"
    assert capsys.readouterr().out.splitlines()[1] == (
        f"a server that watches stays with {runs.home.pushed / wednesday}"
    )
    assert command(runs.home.home, wednesday, "--force") == "0"
    assert capsys.readouterr().out.splitlines()[1] == "there is no version left to serve"
    assert command(runs.home.home, "7") == (
        f"error: {runs.home.pushed}: there is no version '7'; there is none at all"
    )
