"""Notes between the processes of a run: who decided what, who has not come, how another ended. The store is torch's."""

import re

import pytest

from anchorlab.training import peers
from anchorlab.training.peers import LostProcessError, Peers
from anchorlab.training.processes import this_machine
from tests.training.processes import free_port

GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
GLOO_TOO_LATE = RuntimeError("Application timeout caused pair closure")


@pytest.fixture
def two(monkeypatch) -> tuple[Peers, Peers]:
    """Both processes of a run, in this one."""
    monkeypatch.setattr(peers, "ANSWER_SECONDS", 2)
    address = ("127.0.0.1", free_port())
    first, second = Peers(address, 0, 2, hosts_store=True), Peers(address, 1, 2, hosts_store=False)
    first._write("came", "", 0)  # opens the store
    return first, second


def test_the_first_process_decides_for_all(two):
    first, second = two
    assert first.as_the_first("resume", lambda: {"folder": "outputs/a"}, minutes=1) == {"folder": "outputs/a"}
    assert second.as_the_first("resume", lambda: 1 / 0, minutes=1) == {"folder": "outputs/a"}


def test_process_that_does_not_come_is_named(two):
    first, _ = two
    said = "after trainer.timeout=0.001 minutes only 1 of 2 processes have come: without [1]"
    with pytest.raises(LostProcessError, match=re.escape(said)) as lost:
        first.meet(minutes=0.001)
    assert lost.value.is_mine_to_say


def test_reason_of_one_that_ended_ends_the_others(two):
    first, second = two
    second.tell("data.root=/data is no folder")
    with pytest.raises(LostProcessError, match=r"process 1 \(.*\) ended: data.root=/data is no folder"):
        first.meet(minutes=1)


@pytest.mark.parametrize("error", [GLOO, GLOO_TOO_LATE])
def test_collective_that_breaks_is_explained_by_the_process_that_is_gone(two, error):
    first, second = two
    second._write("came", "", 0)  # as its own `meet` does, which would wait here
    first.meet(minutes=1)
    lost = first.explain(error)
    assert str(lost) == f"process 1 ({this_machine()}) was killed or did not answer"
    assert lost is not None
    assert lost.is_mine_to_say
    second.tell("a full disk")
    assert str(first.explain(error)) == f"process 1 ({this_machine()}) ended: a full disk"


def test_error_of_the_own_process_is_left_alone(two):
    assert two[0].explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
