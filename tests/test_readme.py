"""The README's scripts run as they stand, and learn."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from piano_tf.data.logs import write_log
from piano_tf.data.splits import ByShare
from piano_tf.simulation import SimulationConfig, simulate

README = Path(__file__).parents[1] / "README.md"


def test_the_scripts_run_on_a_small_log(tmp_path: Path) -> None:
    script, why = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert script.count('"demo/simulated/logs"') == 1
    log = tmp_path / "logs"
    world = SimulationConfig.model_validate(
        {
            "lists": 300,
            "listeners": {"count": 20},
            "catalogue": {"tracks": 100, "artists": 20, "genres": 4},
            "first_stage": {"pool": 30},
        }
    )
    write_log(simulate(world), log, ByShare())
    script = script.replace("demo/simulated/logs", str(log)).replace("epochs=4", "epochs=1")
    whole = script + why  # the second goes on where the first ends
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'click_ndcg_10': 0." in done.stdout
    assert re.search(r"\n\[\[.*\] \[.*\]$", done.stdout.strip(), re.DOTALL)
    assert len(script.strip().splitlines()) <= 24


def test_every_file_it_names_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    named += re.findall(r"`((?:piano_tf|serving|tfx_pipeline|tests)/[\w./-]+)`", README.read_text())
    assert named
    for path in named:
        assert (README.parent / path).exists(), path
