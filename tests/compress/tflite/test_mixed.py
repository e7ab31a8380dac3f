"""The search for the operations that must be wider, on a model of additive noise."""

import math

from tfcompress.compress.tflite.mixed import Search


def trial(noises):
    """SNR of a plan in which every narrow item adds its own noise power."""
    def run(plan):
        power = math.fsum(noises[item] for item, p in plan.items() if p == "narrow") + 1e-6
        return -10 * math.log10(power)
    return run


def widen(noises, goal, **settings):
    search = Search(trial(noises), goal, **settings)
    plan = dict.fromkeys(noises, "narrow")
    found = search.widen(plan, dict.fromkeys(noises, "wide"), [])
    return found and {item for item, p in found.items() if p == "wide"}, search


def test_only_the_loud_ones_are_widened():
    noises = {f"op{i}": 1e-4 for i in range(20)} | {"loud": 0.1, "louder": 1.0}
    chosen, search = widen(noises, 20)
    assert chosen == {"loud", "louder"} and search.tries < 40
    assert search.alone["louder"] < search.alone["loud"] < search.alone["op3"]


def test_an_operation_that_does_not_run_is_infinitely_loud():
    noises = {f"op{i}": 1e-4 for i in range(9)}
    good = trial(noises)

    def run(plan):
        return -math.inf if plan["op4"] == "narrow" else good(plan)

    plan = dict.fromkeys(noises, "narrow")
    found = Search(run, 20).widen(plan, dict.fromkeys(noises, "wide"), [])
    assert {item for item, p in found.items() if p == "wide"} == {"op4"}


def test_groups_are_resolved_to_single_operations():
    noises = {f"op{i:03}": 1e-7 for i in range(200)} | {"op077": 1.0}
    chosen, search = widen(noises, 20, most=16)
    assert chosen == {"op077"} and search.tries < 60


def test_no_plan_where_even_the_widest_is_too_loud():
    search = Search(lambda plan: 3.0, 20)
    assert search.widen({"a": "narrow"}, {"a": "wide"}, []) is None


def test_hints_are_tried_first():
    noises = {f"op{i}": 1e-5 for i in range(50)} | {"softmax": 1.0}
    search = Search(trial(noises), 20)
    plan = dict.fromkeys(noises, "narrow")
    found = search.widen(plan, dict.fromkeys(noises, "wide"), ["softmax"])
    assert [item for item, p in found.items() if p == "wide"] == ["softmax"]
    assert search.tries == 1
