"""`feedcore plan`: flags make a workload; tables, JSON; errors name flag, value and bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedcore.cli import main
from feedcore_planner.capacity import plan
from feedcore_planner.command import FLAGS
from feedcore_planner.figures import SHIPPED, shipped
from feedcore_planner.workload import DEMO, DESIGN

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[3]


def printed(captured: Captured, *arguments: str) -> str:
    assert main(["plan", *arguments]) == 0
    return captured.readouterr().out


def test_the_table_of_the_design(capsys: Captured) -> None:
    shown = printed(capsys)
    made = plan(DESIGN, shipped())
    assert f"{made['servers']:,.0f}" in shown
    for words in ("100x", "200 M", "first bottleneck", "feed store nodes", "goals", "assumptions"):
        assert words in shown
    assert "**" not in shown


def test_json_is_the_plan(capsys: Captured) -> None:
    answer = json.loads(printed(capsys, "--scale", "1,2.5", "--threshold", "2K", "--json"))
    assert [made["scale"] for made in answer["plans"]] == [1.0, 2.5]
    made = plan(DESIGN.replace(push_threshold=2_000), shipped(), 2.5)
    assert answer["plans"][1]["values"] == made.values()
    assert answer["workload"]["push_threshold"] == 2_000
    assert answer["units"]["feed_bytes"] == "bytes"
    assert answer["figures"]["spares"]["basis"] == "defined"
    assert answer["plans"][0]["bottlenecks"][0]["ratio"] > 0
    assert "sweep" not in answer


def test_every_flag_changes_its_field(capsys: Captured) -> None:
    # Small steps, so that all of them together still are a possible world.
    wanted = {field: value * 0.97 for field, value in DESIGN.values().items()}
    wanted |= {"activity_exponent": 0.1, "load_peak_factor": 3.0, "post_peak_factor": 2.0}
    arguments = [part for field, flag in FLAGS.items() for part in (flag, repr(wanted[field]))]
    answer = json.loads(printed(capsys, *arguments, "--scale", "1", "--json"))
    assert answer["workload"] == wanted


def test_a_preset_is_the_start(capsys: Captured) -> None:
    answer = json.loads(printed(capsys, "--preset", "demo", "--scale", "1", "--json"))
    assert answer["workload"] == DEMO.values()
    assert "one machine" in printed(capsys, "--preset", "demo", "--scale", "1")
    assert "one machine" not in printed(capsys, "--scale", "1")


def test_explain_prints_formulas_and_what_went_in(capsys: Captured) -> None:
    shown = printed(capsys, "--scale", "10", "--explain")
    assert "loads_mean = users * loads_per_user / DAY_S = 120 K loads/s" in shown
    assert "[users 2 B, loads_per_user 5.18, DAY_S 86.4 K]" in shown
    assert "servers = feed_nodes + " in shown


def test_the_sweep_draws_bars_and_marks_the_least(capsys: Captured) -> None:
    shown = printed(capsys, "--sweep", "threshold")
    lines = shown.splitlines()
    (least,) = (line for line in lines if line.endswith("least") or "  least  " in line)
    chart = [line for line in lines if "\N{FULL BLOCK}" in line]
    assert len(chart) == 16
    assert least.count("\N{FULL BLOCK}") == min(line.count("\N{FULL BLOCK}") for line in chart)
    answer = json.loads(printed(capsys, "--sweep", "threshold", "--json"))
    assert len(answer["sweep"]["points"]) == 16
    assert answer["sweep"]["cheapest"] in answer["sweep"]["points"]


def test_own_figures(tmp_path: Path, capsys: Captured) -> None:
    rows = json.loads((ROOT / "tools" / "planner" / SHIPPED).read_text(encoding="utf-8"))
    rows["spares"]["value"] = 3
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    ours, theirs = (
        json.loads(printed(capsys, "--scale", "1", "--json", *more))["plans"][0]["values"]
        for more in (["--figures", str(file)], [])
    )
    assert ours["servers"] == theirs["servers"] + 7
    del rows["spares"]
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert main(["plan", "--figures", str(file)]) == 2
    assert "figures.spares: missing" in capsys.readouterr().err


def test_rewrite_renews_a_document(tmp_path: Path, capsys: Captured) -> None:
    right = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    file = tmp_path / "capacity.md"
    file.write_text(right.replace("200 M", "300 M"), encoding="utf-8")
    printed(capsys, "--rewrite", str(file))
    # What stands outside the marks is the author's.
    marks = right.partition("<!-- plan:summary -->")
    expected = marks[0].replace("200 M", "300 M") + marks[1] + marks[2]
    assert file.read_text(encoding="utf-8") == expected
    file.write_text("nothing", encoding="utf-8")
    assert main(["plan", "--rewrite", str(file)]) == 2
    assert "marks of the document: none" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "nothing"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--users-per-day", "5"], ["--users-per-day: 5;", "from 100", "users/day"]),
        (["--users-per-day", "many"], ["--users-per-day", "'many'", "200M"]),
        (["--users-per-day", "inf"], ["--users-per-day", "finite"]),
        (["--users-per-day", "1M"], ["--followers-max: 50,000,000", "2,000,000"]),
        (["--followers-mean", "210"], ["--followers-mean: 210", "from 356.1 to 1,915"]),
        (["--threshold", "-1"], ["--threshold: -1", "followers"]),
        (["--retention-days", "400"], ["--retention-days: 400", "365 days"]),
        (["--visits-per-user", "9"], ["--visits-per-user: 9", "5.184"]),
        (["--scale", "0"], ["--scale: 0", "times"]),
        (["--scale", "1,x"], ["--scale", "'x'"]),
        (["--scale", ",".join(["1"] * 21)], ["--scale", "21 scales; at most 20"]),
        (["--sweep", "users"], ["--sweep", "threshold"]),
        (["--preset", "moon"], ["--preset", "design"]),
        (["--figures", "absent.json"], ["absent.json", "does not exist"]),
        (["--rewrite", __file__, "--threshold", "1"], ["--rewrite", "design"]),
    ],
)
def test_errors_name_flag_value_and_bound(
    arguments: list[str], words: list[str], capsys: Captured
) -> None:
    assert main(["plan", *arguments]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    for word in words:
        assert word in shown
