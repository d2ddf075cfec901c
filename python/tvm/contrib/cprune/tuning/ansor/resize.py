# SPDX-License-Identifier: Apache-2.0
"""Ansor's tasks at other widths: the same compute DAG, with other extents along the channels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tvm.auto_scheduler.workload_registry import register_workload_tensors

import tvm
from tvm import auto_scheduler, te, tir
from tvm.contrib.cprune.tuning.ansor.axes import axes_of
from tvm.contrib.cprune.types import CPruneError, Side, Task


def width_of(task: Task, side: Side) -> int:
    """Return a task's number of output or input channels."""
    axes = task.out_axes if side == "out" else task.in_axes
    if not axes:
        raise CPruneError(f"{task.title} has no {'output' if side == 'out' else 'input'} channels to change")
    return task.axes[axes[0]][2]


def at_width(task: Task, width: int, side: Side) -> Task:
    """Return ``task`` with ``width`` output or input channels."""
    channels, old = set(task.out_axes if side == "out" else task.in_axes), width_of(task, side)
    extents = {number: width for number in channels if task.axes[number][2] == old}
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
        flops=float(dag.flop_ct),
        axes=axes_of(tvm_task.compute_dag),
        tvm_task=tvm_task,
    )


def _rebuild(dag: Any, extents: Mapping[int, int]) -> list[te.Tensor]:
    """Return the inputs and outputs of a DAG with new extents for some of its numbered axes."""
    new: dict[te.tensor.Operation, te.tensor.Operation] = {}
    number = 0
    for op in dag.ops:
        if isinstance(op, te.PlaceholderOp):
            tensor = op.output(0)
            shape = [extents.get(number + i, size) for i, size in enumerate(tensor.shape)]
            new[op] = te.placeholder(shape, tensor.dtype, op.name).op
            number += len(shape)
        else:
            axes = [*op.axis, *op.reduce_axis]
            changed = [_axis(axis, extents.get(number + i)) for i, axis in enumerate(axes)]
            new[op] = _compute(op, changed, new)
            number += len(axes)
    return [new[tensor.op].output(tensor.value_index) for tensor in dag.tensors]


def _axis(axis: tir.IterVar, extent: int | None) -> tir.IterVar:
    dom = axis.dom if extent is None else tvm.ir.Range(0, extent)
    return tir.IterVar(dom, tir.Var(axis.var.name, axis.var.dtype), axis.iter_type, axis.thread_tag)


def _compute(op: te.ComputeOp, axes: list[tir.IterVar], new: Mapping[Any, Any]) -> te.tensor.Operation:
    variables = {old.var: axis.var for old, axis in zip([*op.axis, *op.reduce_axis], axes, strict=True)}
    spatial, reduce = axes[: len(op.axis)], axes[len(op.axis) :]

    def load(node: tir.ProducerLoad) -> tir.ProducerLoad:
        producer = node.producer
        return tir.ProducerLoad(new[producer.op].output(producer.value_index), node.indices)

    def moved(expr: tir.PrimExpr) -> tir.PrimExpr:
        statement = tir.stmt_functor.substitute(tir.Evaluate(expr), variables)
        return tir.stmt_functor.ir_transform(statement, None, load, ["tir.ProducerLoad"]).value

    body = []
    for expr in op.body:
        if isinstance(expr, tir.Reduce):
            sources, init = [moved(each) for each in expr.source], list(expr.init)
            condition = moved(expr.condition)
            body.append(tir.Reduce(expr.combiner, sources, reduce, condition, expr.value_index, init))
        else:
            body.append(moved(expr))
    attrs = {name: _attribute(value, new) for name, value in (op.attrs or {}).items()}
    return te._ffi_api.ComputeOp(op.name, op.tag, attrs, spatial, body)


def _attribute(value: Any, new: Mapping[Any, Any]) -> Any:
    """Return an attribute of an operation with the tensors in it replaced."""
    if isinstance(value, te.Tensor):
        return new[value.op].output(value.value_index)
    if isinstance(value, tvm.ir.Array):
        return [_attribute(each, new) for each in value]
    return value
