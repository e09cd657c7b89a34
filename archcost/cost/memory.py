"""Memory: activation bytes alive during each operation, and the bytes that it reads and writes."""

from __future__ import annotations

from itertools import accumulate

from archcost.trace.graph import Op, PackedWeights, Storage, TensorRef, Trace


def live_bytes(trace: Trace) -> list[int]:
    """Bytes of activations alive during each operation, its own results included.

    Activations are the storages that operations allocated, without weights, buffers and the model's inputs.
    A storage lives from the operation that allocated it to the last operation before Python freed it. The
    workspace inside an operator is not seen.
    """
    changes = [0] * (len(trace.ops) + 1)
    for storage in trace.storages:
        if storage.created_by is None:
            continue
        changes[storage.created_by] += storage.nbytes
        if storage.freed_after is not None:
            changes[max(storage.freed_after, storage.created_by) + 1] -= storage.nbytes
    alive = accumulate(changes)
    return [nbytes + op.inner_peak_bytes for nbytes, op in zip(alive, trace.ops, strict=False)]


def traffic(op: Op, storages: tuple[Storage, ...], kind: str) -> tuple[int, int, int]:
    """Bytes of an operation: activations read, weights read, results written; all 0 for a view."""
    if kind == "view":
        return 0, 0, 0
    written = sum(out.nbytes for out in op.outputs)
    if (not op.args and not op.kwargs) or kind == "creation":
        return 0, 0, 0 if "empty" in op.name else written
    read = weights = 0
    seen: set[TensorRef] = set()
    reads = set(op.reads)
    for position, ref in enumerate(op.tensors()):
        if ref in seen or ref.storage not in reads:
            continue
        seen.add(ref)
        # A gather reads the selected rows, not the whole table.
        nbytes = min(ref.nbytes, _gathered(op, written)) if kind == "gather" and not position else ref.nbytes
        if storages[ref.storage].origin in ("parameter", "buffer"):
            weights += nbytes
        else:
            read += nbytes
    weights += sum(arg.nbytes for arg in op.args if isinstance(arg, PackedWeights))
    return read, weights, written


def _gathered(op: Op, written: int) -> int:
    """Bytes of the rows that a gather reads; an embedding bag reads more than it writes."""
    if "embedding_bag" not in op.name:
        return written
    table, indices = op.args[0], op.args[1]
    return int(indices.numel * table.shape[1] * table.dtype.itemsize)
