from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from model.chance import Chance, seeded


class Convolution(nn.Conv2d):
    """A network without random numbers of its own."""

    def __init__(self) -> None:
        super().__init__(3, 1, 1)


class WithDropout(Convolution):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(input), 0.5, self.training)


def numbers(chance: Chance) -> list[float]:
    order = chance.permutation(4)
    return [*order.tolist(), chance.integer(100), *chance.uniform(3).tolist()]


def test_numbers_go_on_from_torchs_own_and_nobody_else_disturbs_them() -> None:
    torch.manual_seed(5)
    Convolution()
    order = torch.randperm(4)
    expected = [*order.tolist(), int(torch.randint(100, ())), *torch.rand(3).tolist()]
    with seeded(5) as chance:
        chance.part(Convolution(), 32)
        torch.manual_seed(1)  # somebody else's training
        assert numbers(chance) == expected


def test_torchs_own_numbers_are_as_before() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(5) as chance:
        chance.part(Convolution(), 32)
        numbers(chance)
        torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)


def test_a_network_that_draws_numbers_goes_on_with_the_same_ones_as_its_training() -> None:
    with seeded(5) as chance:
        chance.part(WithDropout(), 32)
        first = chance.uniform(3)
        torch.manual_seed(5)
        WithDropout()
        torch.testing.assert_close(first, torch.rand(3), rtol=0, atol=0)


def test_on_another_device_torchs_numbers_are_kept() -> None:
    network = Convolution().to("meta")
    with seeded(5) as chance:
        chance.part(network, 32)
        assert chance.uniform(2, device=torch.device("meta")).device.type == "meta"
        assert chance.normal_like(torch.empty(2, device="meta")).device.type == "meta"


def test_only_the_gpu_that_computes_is_asked_for_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def state(device: int) -> Tensor:
        asked.append(device)
        return torch.zeros(1)

    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_rng_state", state)
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: None)
    for device in ("cpu", "cuda:2"):
        with seeded(5, device):
            pass
    assert asked == [2]


@pytest.mark.parametrize("network", [Convolution(), WithDropout()], ids=lambda n: type(n).__name__)
def test_a_network_that_draws_numbers_keeps_torchs_to_itself(network: nn.Module) -> None:
    begun = threading.Event()

    def another() -> None:
        with seeded(1):
            begun.set()

    with seeded(5) as chance:
        thread = threading.Thread(target=another)
        thread.start()
        assert not begun.wait(0.1), "first weights are drawn in turn"
        chance.part(network, 32)
        if type(network) is Convolution:
            assert begun.wait(60)
        else:
            assert not begun.wait(0.1)
    thread.join()
    assert begun.is_set()
