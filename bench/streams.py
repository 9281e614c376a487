"""Images that are read once, in order, while they come: for a data set that fits neither in memory nor on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.utils.data import IterableDataset

from dydit.errors import InputError


class StreamedImages(IterableDataset[Tensor]):
    """Images that are never kept: uint8 (3, H, W) each, in the stored order, as many as `count` or an InputError.

    `name`, `size` (H, W) and `preprocessing` are as in `Images`. In a DataLoader the stream takes one worker process
    at most, since several would mix the order.
    """

    def __init__(
        self, name: str, size: tuple[int, int], count: int, read: Callable[[], Iterator[Tensor]], preprocessing: str
    ) -> None:
        """Put a stream together; `read` starts it anew."""
        self.name = name
        self.size = size
        self.count = count
        self._read = read
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        seen = 0
        for seen, image in enumerate(self._read(), 1):
            if seen > self.count:
                break
            yield image
        if seen != self.count:
            many = "more" if seen > self.count else f"{seen}"
            raise InputError(f"{self.name}: {many} images came, expected {self.count}; get another copy of the set")
