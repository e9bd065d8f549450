"""Which module may know of which, read from the source, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("piano_tf", "serving", "tfx_pipeline")

# From the ground up. A module may know of its own floor and of those below.
FLOORS = [
    {"errors", "disk", "files", "config", "pages", "cluster", "hardware"},
    {"features"},
    {"masks", "layers", "losses", "metrics", "optimizer", "rerank"},
    {"data", "simulation", "models", "pretraining", "calibration", "propensity"}
    | {"export", "explanation", "warmup"},
    {"warm_start"},
    {"epochs", "checkpoints", "training"},
    {"evaluation"},
    {"experiment"},
    {"cli"},
]
PIPELINE_ONLY = {"tfx", "apache_beam", "tensorflow_transform", "tensorflow_model_analysis"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(module: str, *, lazy: bool = True) -> Iterator[str]:
    """Names of the modules that a module imports; with `lazy` also those inside functions."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not lazy and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                yield within if within in MODULES else node.module


def floor_of(module: str) -> int:
    part = module.split(".")[1]
    (floor,) = (number for number, parts in enumerate(FLOORS) if part in parts)
    return floor


def library() -> list[str]:
    """Every module of piano_tf but its lazy front."""
    return [module for module in MODULES if module.startswith("piano_tf.")]


def test_every_module_has_a_floor() -> None:
    found = {module.split(".")[1] for module in library()}
    known = set().union(*FLOORS)
    assert found - known == set(), "say in FLOORS where it stands"
    assert len(found) > 10


def test_nothing_imports_upwards() -> None:
    upward = {
        f"{module} imports {other}"
        for module in library()
        for other in imports_of(module)
        if other.startswith("piano_tf.") and floor_of(other) > floor_of(module)
    }
    assert upward == set()


def test_no_module_imports_itself_through_others() -> None:
    known = {
        module: {other for other in imports_of(module) if other in MODULES and other != module}
        for module in MODULES
        if module != "piano_tf"  # its imports happen when a name is used
    }
    # A package's front and its own modules are one: the front names what they define.
    settled: set[str] = set()
    remaining = dict(known)
    while remaining:
        free = {module for module, others in remaining.items() if others <= settled | {"piano_tf"}}
        assert free, f"a circle among {sorted(remaining)}"
        settled |= free
        remaining = {m: others for m, others in remaining.items() if m not in free}


@pytest.mark.parametrize("outside", sorted(PIPELINE_ONLY | {"tfx_pipeline", "serving"}))
def test_the_library_knows_nothing_of_pipeline_or_server(outside: str) -> None:
    """Only the command line and an experiment's policies may, and only where they need them."""
    may = {"piano_tf.cli", "piano_tf.experiment.served"}
    for module in library():
        for other in imports_of(module, lazy=module not in may):
            assert other.split(".")[0] != outside, f"{module} imports {other}"


def test_the_command_line_has_no_pipeline_library_of_its_own() -> None:
    others = {other.split(".")[0] for other in imports_of("piano_tf.cli")}
    assert others & PIPELINE_ONLY == set()


def test_the_server_knows_nothing_of_library_or_pipeline() -> None:
    serving = [module for module in MODULES if module.split(".")[0] == "serving"]
    assert len(serving) > 3
    for module in serving:
        roots = {other.split(".")[0] for other in imports_of(module)}
        assert roots & ({"piano_tf", "tfx_pipeline"} | PIPELINE_ONLY) == set(), module


@pytest.mark.parametrize("room", ["client", "server"])
def test_client_and_server_share_the_columns_alone(room: str) -> None:
    modules = [module for module in MODULES if module.startswith(f"serving.{room}")]
    assert len(modules) > 3
    shared = {"serving.columns"}
    for module in modules:
        ours = {name for name in imports_of(module) if name.split(".")[0] == "serving"}
        assert {name for name in ours if not name.startswith(f"serving.{room}")} <= shared, module
    assert [name for name in imports_of("serving.columns") if name in MODULES] == []


def test_the_front_imports_nothing_of_ours_before_it_is_used() -> None:
    assert not {m for m in imports_of("piano_tf", lazy=False) if m.startswith("piano_tf")}


# --- in a fresh interpreter ---


def run(program: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_whole_public_api_works_without_the_pipeline_installed() -> None:
    said = run(
        f"""
        import importlib.abc
        import sys

        class Absent(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted(PIPELINE_ONLY | {"tfx_pipeline", "serving"})!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Absent())
        try:
            import apache_beam
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("the blocker does not block")

        import piano_tf
        assert "tensorflow" not in sys.modules, "import piano_tf alone imports TensorFlow"
        assert "pyarrow" not in sys.modules
        for name in piano_tf.__all__:
            assert getattr(piano_tf, name).__name__ == name, name
        assert set(piano_tf.__all__) <= set(dir(piano_tf))

        spec = piano_tf.FeatureSpec(dataset="shop")
        rows = dict.fromkeys(spec.tables("string"), 3)
        inputs = piano_tf.InputSpec(features=spec, encoding={{}}, rows=rows)
        import tensorflow as tf
        ids = tf.constant([[1, 2]], tf.int64)
        batch = {{
            "user_id": ids[:, 0],
            "query": ids,
            "item_id": ids,
            "history_query": ids[:, tf.newaxis],
            "history_item_id": ids[:, :1],
            "history_action": ids[:, :1],
            "history_age": tf.ones([1, 1]),
        }}
        for name in ("piano", "prm"):
            outputs = piano_tf.build(inputs, piano_tf.ModelConfig(name=name))(batch)
            print(name, *outputs["click"].shape)
        """
    )
    assert said.splitlines() == ["piano 1 2", "prm 1 2"]


def test_help_of_the_command_line_does_not_load_tensorflow() -> None:
    said = run(
        """
        import sys
        import piano_tf.cli
        print(sorted({"tensorflow", "tfx", "apache_beam", "grpc"} & set(sys.modules)))
        """
    )
    assert said == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import piano_tf

    with pytest.raises(AttributeError, match="has no attribute 'Pianola'"):
        piano_tf.Pianola  # noqa: B018
