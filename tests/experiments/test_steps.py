"""The recorded step: real calls, one recording, then replays on the same tensors; other shapes run as they are."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from kit.experiments.steps import WARM_UP, Replayed


@pytest.fixture
def told(monkeypatch):
    """A stand-in for CUDA that logs: a recording computes nothing, a replay does the work for the held tensors."""
    log = []

    class Stream:
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            log.append(("replay", self.inputs[0].item()))

    @contextmanager
    def recording(graph):
        log.append("record")
        before = len(log)
        yield
        graph.inputs = log[-1][1]
        del log[before:]

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    return log


def test_every_call_does_its_work_once_and_the_recording_none(told):
    step = Replayed(lambda *tensors: told.append(("real", tensors)))
    for number in range(WARM_UP + 3):
        step(torch.tensor([float(number)]))
    kinds = [entry if entry == "record" else entry[0] for entry in told]
    assert kinds == ["real"] * WARM_UP + ["record"] + ["replay"] * 3
    assert [entry[1] for entry in told if entry[0] == "replay"] == [3.0, 4.0, 5.0]


def test_a_batch_of_another_size_runs_as_it_is(told):
    step = Replayed(lambda *tensors: told.append(("real", tensors)))
    for _ in range(WARM_UP + 1):
        step(torch.zeros(1))
    step(torch.tensor([7.0, 8.0]))
    assert told[-1][0] == "real"
    assert told[-1][1][0].tolist() == [7.0, 8.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_replayed_step_gives_what_the_plain_one_gives_on_a_gpu():
    plain, replayed = torch.zeros(3, device="cuda"), torch.zeros(3, device="cuda")
    step = Replayed(lambda x: replayed.add_(x * x))
    for number in range(8):
        x = torch.full((3,), float(number), device="cuda")
        plain.add_(x * x)
        step(x)
    assert torch.equal(plain.cpu(), replayed.cpu())
