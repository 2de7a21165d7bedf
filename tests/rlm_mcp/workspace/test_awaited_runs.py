from rlm_mcp.workspace.awaited_runs import MOST_HANDED_OVER, MOST_KEPT, AwaitedRuns


def test_a_kept_run_is_handed_out_once_and_is_then_on_its_way_to_its_client() -> None:
    awaited = AwaitedRuns()
    awaited.keep("question", "run_1")
    assert (awaited.kept_for("question"), awaited.is_kept("run_1")) == ("run_1", True)
    assert awaited.hand_out("question") == "run_1"
    assert (awaited.hand_out("question"), awaited.is_kept("run_1")) == (None, False)
    assert awaited.is_being_told("run_1")
    awaited.end_telling("run_1")
    assert not awaited.is_being_told("run_1")


def test_the_run_that_was_kept_last_is_that_of_its_question_and_those_kept_first_make_room() -> None:
    awaited = AwaitedRuns()
    for number in range(MOST_KEPT):
        awaited.keep(f"question {number}", f"run_{number}")
    awaited.keep("question 0", "run_new")  # the newest now
    awaited.keep("another", "run_other")
    assert (awaited.kept_for("question 0"), awaited.kept_for("question 1")) == ("run_new", None)


def test_a_run_that_was_handed_over_is_given_up_when_no_call_waits_for_it_here() -> None:
    awaited = AwaitedRuns()
    awaited.add_calls("run_1", 1)
    assert not awaited.is_handed_over("run_1")
    awaited.note_handed_over("run_1")
    assert awaited.is_given_up_elsewhere("run_1")
    awaited.add_calls("run_1", 1)
    assert not awaited.is_given_up_elsewhere("run_1")
    awaited.add_calls("run_1", -1)
    for number in range(MOST_HANDED_OVER):
        awaited.note_handed_over(f"run_of_others_{number}")
    assert not awaited.is_handed_over("run_1")
