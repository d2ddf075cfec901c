# SPDX-License-Identifier: Apache-2.0
"""Ansor tasks at other widths: the same compute DAG with different extents along the channels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tvm.auto_scheduler.workload_registry import register_workload_tensors

import tvm
from tvm import auto_scheduler, te, tir
from tvm.contrib.cprune.tuning.ansor.axes import axes_of, counted_flops
from tvm.contrib.cprune.types import CPruneError, Side, Task


def width_of(task: Task, side: Side) -> int:
    """Return the number of output or input channels of a task; see ``tuning.rescale.width_of``."""
    axes = task.out_axes if side == "out" else task.in_axes
    if not axes:
        raise CPruneError(f"{task.title} has no {'output' if side == 'out' else 'input'} channels to change")
    return task.axes[axes[0]][2]


def at_width(task: Task, width: int, side: Side) -> Task:
    """Return the task with ``width`` output or input channels; see ``tuning.rescale.at_width``."""
    channel_axes = set(task.out_axes if side == "out" else task.in_axes)
    old_width = width_of(task, side)
    extents = {number: width for number in channel_axes if task.axes[number][2] == old_width}
    tensors = _rebuild(task.tvm_task.compute_dag, extents)
    dag = auto_scheduler.ComputeDAG(tensors)
    key = register_workload_tensors(dag.workload_key(), tensors)
    tvm_task = auto_scheduler.SearchTask(
        workload_key=key,
        target=task.tvm_task.target,
        layout_rewrite_option=task.tvm_task.layout_rewrite_option,
    )
    return replace(
        task,
        workload_key=key,
        flops=counted_flops(dag),
        axes=axes_of(tvm_task.compute_dag),
        tvm_task=tvm_task,
    )


def _rebuild(dag: Any, extents: Mapping[int, int]) -> list[te.Tensor]:
    """Rebuild a compute DAG with new extents for some of its axes.

    Parameters
    ----------
    extents
        New extents by the number of the axis (see ``axes.py``).

    Returns
    -------
    The input and output tensors of the new DAG.
    """
    rebuilt: dict[te.tensor.Operation, te.tensor.Operation] = {}
    first_axis = 0
    for op in dag.ops:
        if isinstance(op, te.PlaceholderOp):
            tensor = op.output(0)
            shape = [extents.get(first_axis + i, size) for i, size in enumerate(tensor.shape)]
            rebuilt[op] = te.placeholder(shape, tensor.dtype, op.name).op
            first_axis += len(shape)
        else:
            axes = [*op.axis, *op.reduce_axis]
            new_axes = [_resize_axis(axis, extents.get(first_axis + i)) for i, axis in enumerate(axes)]
            rebuilt[op] = _rebuild_compute(op, new_axes, rebuilt)
            first_axis += len(axes)
    return [rebuilt[tensor.op].output(tensor.value_index) for tensor in dag.tensors]


def _resize_axis(axis: tir.IterVar, extent: int | None) -> tir.IterVar:
    dom = axis.dom if extent is None else tvm.ir.Range(0, extent)
    return tir.IterVar(dom, tir.Var(axis.var.name, axis.var.dtype), axis.iter_type, axis.thread_tag)


def _rebuild_compute(
    op: te.ComputeOp, axes: list[tir.IterVar], rebuilt: Mapping[Any, Any]
) -> te.tensor.Operation:
    """Return a compute operation over new axes that reads the rebuilt tensors."""
    variables = {old.var: new.var for old, new in zip([*op.axis, *op.reduce_axis], axes, strict=True)}
    spatial, reduce = axes[: len(op.axis)], axes[len(op.axis) :]

    def replace_load(node: tir.ProducerLoad) -> tir.ProducerLoad:
        producer = node.producer
        return tir.ProducerLoad(rebuilt[producer.op].output(producer.value_index), node.indices)

    def rewrite(expr: tir.PrimExpr) -> tir.PrimExpr:
        statement = tir.stmt_functor.substitute(tir.Evaluate(expr), variables)
        return tir.stmt_functor.ir_transform(statement, None, replace_load, ["tir.ProducerLoad"]).value

    body = []
    for expr in op.body:
        if isinstance(expr, tir.Reduce):
            sources, init = [rewrite(source) for source in expr.source], list(expr.init)
            condition = rewrite(expr.condition)
            body.append(tir.Reduce(expr.combiner, sources, reduce, condition, expr.value_index, init))
        else:
            body.append(rewrite(expr))
    attrs = {name: _rebuild_attribute(value, rebuilt) for name, value in (op.attrs or {}).items()}
    return te._ffi_api.ComputeOp(op.name, op.tag, attrs, spatial, body)


def _rebuild_attribute(value: Any, rebuilt: Mapping[Any, Any]) -> Any:
    """Replace the tensors in an attribute of an operation."""
    if isinstance(value, te.Tensor):
        return rebuilt[value.op].output(value.value_index)
    if isinstance(value, tvm.ir.Array):
        return [_rebuild_attribute(item, rebuilt) for item in value]
    return value
