"""Memory, from the lifetimes of storages: what is alive while each operation runs."""

from __future__ import annotations

from itertools import accumulate

from archcost.trace.graph import Op, PackedWeights, Storage, TensorRef, Trace


def live_bytes(trace: Trace) -> list[int]:
    """Bytes of activations alive while each operation runs, its own results included.

    Activations are the storages that operations allocated; weights, buffers and the caller's inputs are
    not among them. A storage lives from the operation that made it to the last one that ran before
    Python let go of it. Scratch space inside an operator is not seen.
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
    """Bytes one operation reads of activations, reads of weights, and writes; a view moves nothing."""
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
        # A gather reads the rows it picks, not the whole table.
        nbytes = min(ref.nbytes, _gathered(op, written)) if kind == "gather" and not position else ref.nbytes
        if storages[ref.storage].origin in ("parameter", "buffer"):
            weights += nbytes
        else:
            read += nbytes
    weights += sum(arg.nbytes for arg in op.args if isinstance(arg, PackedWeights))
    return read, weights, written


def _gathered(op: Op, written: int) -> int:
    """Bytes of the rows an operation picks; a bag of embeddings picks more than it writes."""
    if "embedding_bag" not in op.name:
        return written
    table, indices = op.args[0], op.args[1]
    return indices.numel * table.shape[1] * table.dtype.itemsize
