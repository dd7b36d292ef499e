"""Random numbers of one training, which other trainings of the same process do not disturb."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

# Networks draw their first weights, and dropout, from torch's numbers, which all threads share.
_of_all_threads = threading.Lock()


class Chance:
    """Draws random numbers: from torch's own, which all threads share, or from a generator.

    Args:
        held: Open while nobody else that uses `seeded` may seed torch's numbers.
    """

    def __init__(self, held: ExitStack | None = None) -> None:
        self._held = held or ExitStack()
        self._generator: torch.Generator | None = None

    def part(self, network: nn.Module, side: int) -> None:
        """Draw from a generator from now on, and release torch's numbers; their state goes on.

        Where that would change a training nothing is done: on a GPU, and for a network that draws
        random numbers itself, as dropout does.

        Args:
            network: It maps (n, 3, h, w) to (n, classes, h, w).
            side: Pixels of a side of its images.
        """
        if _is_on_cpu(network) and not _draws(network, side):
            self._generator = torch.Generator()
            self._generator.set_state(torch.get_rng_state())
            self._held.close()

    def permutation(self, number: int) -> Tensor:
        """Return the integers below `number` in random order, on the CPU."""
        return torch.randperm(number, generator=self._generator)

    def integer(self, number: int) -> int:
        """Return an integer from 0 to below `number`."""
        return int(torch.randint(number, (), generator=self._generator))

    def uniform(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """Return numbers in [0, 1), on the CPU unless a device is given."""
        return torch.rand(shape, generator=self._generator, device=device)

    def normal_like(self, planes: Tensor) -> Tensor:
        """Return normal numbers of the shape of `planes`, on their device."""
        return torch.randn(planes.shape, generator=self._generator, device=planes.device)


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[Chance]:
    """Seed torch's own numbers, and restore their state after `Chance.part` or at the end.

    Meanwhile other threads wait at `seeded`.

    Args:
        seed: Of the numbers.
        device: That a training computes on. No other GPU is touched: to ask a GPU for its state
            takes memory there, and fails if the GPU is full.
    """
    with ExitStack() as held:
        held.enter_context(_of_all_threads)
        held.enter_context(torch.random.fork_rng(devices=_cards(device)))
        torch.manual_seed(seed)
        yield Chance(held)


def _cards(device: str) -> list[int]:
    """Return the numbers of the NVIDIA GPUs that a device names: one or none."""
    named = torch.device(device)
    if named.type != "cuda":
        return []
    return [named.index if ":" in device else torch.cuda.current_device()]


def _is_on_cpu(network: nn.Module) -> bool:
    return next(network.parameters()).device.type == "cpu"


@torch.no_grad()
def _draws(network: nn.Module, side: int) -> bool:
    """Return whether a network draws random numbers while it trains."""
    before = torch.get_rng_state()
    try:
        deepcopy(network).train()(torch.zeros(2, 3, side, side))
        return not torch.equal(before, torch.get_rng_state())
    except RuntimeError:  # such as too little memory, which the first batch reports
        return True
    finally:
        torch.set_rng_state(before)
