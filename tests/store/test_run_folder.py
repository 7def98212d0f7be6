import json

import pytest

from overspan.schema.errors import InputError, RunDamaged, UnknownName
from overspan.store.run_folder import RunFolder, all_runs, open_run, summaries
from support.runs import a_plan


@pytest.fixture
def run() -> RunFolder:
    folder = RunFolder.create("smollm2-135m")
    folder.write("plan.json", a_plan(8000))
    folder.append("planned", state="planned")
    return folder


def test_a_plan_comes_back_as_it_was_written(run: RunFolder) -> None:
    assert run.plan() == a_plan(8000)


def test_name_and_id_of_a_name_with_dashes(run: RunFolder) -> None:
    assert run.name == "smollm2-135m"
    assert open_run(run.id).path == open_run("smollm2-135m").path == open_run(str(run.path)).path == run.path


def test_an_unknown_run_tells_the_nearest(run: RunFolder) -> None:
    with pytest.raises(UnknownName, match=r"did you mean smollm2-135m"):
        open_run("smolm2-135m")


def test_without_any_run_the_next_command_is_told() -> None:
    with pytest.raises(InputError) as caught:
        open_run()
    assert caught.value.next == "overspan up smollm2-135m"


@pytest.mark.parametrize("text", ["", "{", '{"recipe": 1}', "\x00\x01"])
def test_a_damaged_plan_is_one_clear_error(run: RunFolder, text: str) -> None:
    (run.path / "plan.json").write_text(text)
    with pytest.raises(RunDamaged, match=r"plan\.json"):
        run.plan()


@pytest.mark.parametrize(("field", "name"), [("engine", "toy"), ("launcher", "nomad")])
def test_the_plan_of_an_engine_or_launcher_that_is_gone_is_still_read(run: RunFolder, field: str, name: str) -> None:
    text = (run.path / "plan.json").read_text()
    data = json.loads(text)
    data["inventory" if field == "launcher" else "recipe"][field] = name
    (run.path / "plan.json").write_text(json.dumps(data))
    plan = run.plan()
    assert name in (plan.recipe.engine, plan.inventory.launcher)


def test_processes_of_a_run_of_november_2026_are_still_read(run: RunFolder) -> None:
    (run.path / "processes.json").write_text(
        '[{"name": "frontend", "host": "a", "argv": ["x"], "waits_for": ["etcd"]}]'
    )
    assert [each.name for each in run.processes()] == ["frontend"]


def test_a_half_written_last_event_is_left_out(run: RunFolder) -> None:
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"at": "2026-11-22T1')
    assert run.state() == "planned"


def test_a_damaged_event_in_the_middle_is_told_and_hides_no_other(run: RunFolder) -> None:
    (run.path / "events.jsonl").write_text("garbage\n" + (run.path / "events.jsonl").read_text())
    told, planned = run.events()
    assert (told.message, told.data) == ("events.jsonl, line 1 is damaged", {"lines": ["garbage"]})
    assert (planned.state, run.state(), run.ended) == ("planned", "planned", False)


@pytest.mark.parametrize("end", ["\u0085", "\u2028"])
def test_a_token_that_holds_an_end_of_lines_damages_nothing(run: RunFolder, end: str) -> None:
    run.append("first token after 1.0 s", state="ready", token=f"a{end}b")
    run.append("known answers: 1 right", state="verified")
    assert [event.data.get("token") for event in run.events()] == [None, f"a{end}b", None]
    assert run.state() == "verified"
    assert summaries()[0]["message"].startswith("the supervisor died without recording why; last event ")


def test_an_event_after_a_half_written_one_is_not_lost(run: RunFolder) -> None:
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"at":"2026-11-30T18:00:00Z","mess')
    run.append("stopped", state="stopped")
    run.append("bench ended")
    assert [event.message for event in run.events()] == ["planned", "stopped", "bench ended"]
    assert run.ended


def test_without_a_name_the_newest_run_that_goes_on_is_meant(run: RunFolder) -> None:
    for name in ("ended", "damaged"):
        RunFolder.create(name)
    open_run("ended").append("stopped", state="stopped")
    (open_run("damaged").path / "events.jsonl").write_text("garbage\n")
    assert open_run().id == run.id


def test_list_shows_a_damaged_run_beside_the_others(run: RunFolder) -> None:
    broken = RunFolder.create("broken")
    states = {row["name"]: row["state"] for row in summaries()}
    assert states["broken"] == "damaged"
    assert len(all_runs()) == 2
    assert broken.path.exists()


def test_list_tells_a_run_whose_supervisor_is_gone(run: RunFolder) -> None:
    assert summaries()[0]["state"] == "failed"
    assert "supervisor died" in summaries()[0]["message"]


def test_a_run_whose_events_cannot_be_read_hides_no_other_and_can_be_stopped() -> None:
    good, bad = RunFolder.create("good"), RunFolder.create("bad")
    good.append("ready", state="ready")
    (bad.path / "events.jsonl").mkdir()
    assert {row["name"]: row["state"] for row in summaries()} == {"good": "failed", "bad": "damaged"}
    assert not bad.ended
    with pytest.raises(RunDamaged, match=r"events\.jsonl cannot be read: Is a directory"):
        bad.events()
