# SPDX-License-Identifier: Apache-2.0
"""Placement of every tensor of a function: an analysis, nothing is rewritten.

The bindings are walked in order. Each operator's rule says which placements it needs; wherever an
operand has another one, a movement is recorded. An operator without a rule, or whose rule
declines, gathers its operands and runs replicated, with a logged reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import tvm
from tvm import relax

from decnn_tvm.passes.placement_rules import (
    Context,
    Decision,
    Operand,
    Rule,
    rule_for,
    whole,
)
from decnn_tvm.passes.weights import inputs_of, static_shape, weight_vars
from decnn_tvm.placement.ownership import Groups, fragments
from decnn_tvm.plan import Host, Placement, Replicated, Sharded, Strips

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Inference:
    """What the analysis found.

    Attributes
    ----------
    placements : dict
        The placement of every variable.
    decisions : dict
        The decision for every variable bound to an operator call.
    movements : dict
        ``(variable, placement it must change to)``, in the order in which they are needed.
    reasons : dict
        Why an operator runs replicated.
    """

    groups: int
    placements: dict[relax.Var, Placement] = field(default_factory=dict)
    decisions: dict[relax.Var, Decision] = field(default_factory=dict)
    movements: dict[tuple[relax.Var, Placement], None] = field(default_factory=dict)
    reasons: dict[relax.Var, str] = field(default_factory=dict)

    def cost(self) -> tuple[int, int]:
        """Return the numbers of movements and of contiguous runs that they copy."""
        runs = 0
        for var, target in self.movements:
            source = self.placements[var]
            if isinstance(source, Sharded):
                channels = static_shape(var)[source.axis]
                wanted = target.groups if isinstance(target, Sharded) else None
                runs += fragments(source.groups, wanted, channels)
        return len(self.movements), runs


def bindings_of(func: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    """Yield the variables and values that the body of `func` binds."""
    for block in func.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def output_vars(func: relax.Function) -> list[relax.Var]:
    """Return the variables that `func` returns."""
    result = func.body.body
    bound = dict(bindings_of(func))
    while result in bound and isinstance(bound[result], relax.Var | relax.Tuple):
        result = bound[result]
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]


def infer_placement(
    func: relax.Function,
    groups: int,
    preferred: Mapping[relax.Var, Groups],
    rules: Callable[[relax.Call], Rule | None] = rule_for,
) -> Inference:
    """Infer the placement of every tensor of `func` over `groups` groups.

    Parameters
    ----------
    func : relax.Function
        In canonical form: named weights, one dataflow block, static shapes.
    groups : int
        Number of groups.
    preferred : mapping
        The local channel order that free variables should have.
    rules : callable
        Gives the rule of an operator's call.
    """
    found = Inference(groups)
    weights = set(weight_vars(func))
    for var in inputs_of(func):
        found.placements[var] = Host()
    for var, value in bindings_of(func):
        found.placements[var] = _bind(var, value, weights, preferred.get(var), found, rules)
    for var in output_vars(func):
        if found.placements.get(var) not in (None, Host()):
            found.movements.setdefault((var, Host()))
    return found


def _bind(
    var: relax.Var,
    value: relax.Expr,
    weights: set[relax.Var],
    preferred: Groups | None,
    found: Inference,
    rules: Callable[[relax.Call], Rule | None],
) -> Placement:
    if isinstance(value, relax.Var):
        return found.placements[value]
    if not isinstance(value, relax.Call):
        return Replicated()
    args = [_operand(arg, found) for arg in arguments(value)]
    gathered = frozenset(
        i for i, a in enumerate(arguments(value)) if (a, Replicated()) in found.movements
    )
    context = Context(groups=found.groups, preferred=preferred, gathered=gathered)
    rule = rules(value)
    decision: Decision | str = "no placement rule"
    if found.groups == 1:
        decision = whole(args)  # one group holds everything: nothing needs to move
    elif rule is not None:
        decision = rule(value, args, context)
    if isinstance(decision, str):
        name = getattr(value.op, "name", value.op)
        logger.info("%s (%s) runs replicated: %s", var.name, name, decision)
        found.reasons[var] = decision
        decision = whole(args)
    for i, needed in decision.operands.items():
        source = arguments(value)[i]
        for target in route(found.placements[source], needed):
            found.movements.setdefault((source, target))
    found.decisions[var] = decision
    return decision.result


def route(source: Placement, target: Placement) -> list[Placement]:
    """Return the placements through which a tensor passes from `source` to `target`.

    A transfer runs along one axis, so a tensor whose sharded axis changes is gathered first.
    """
    if source == target:
        return []
    spread = Sharded | Strips
    if isinstance(source, spread) and isinstance(target, spread) and source.axis != target.axis:
        return [Replicated(), target]
    return [target]


def arguments(call: relax.Call) -> list[relax.Expr]:
    """Return the arguments of `call`, the fields of tuples one by one."""
    parts = (arg.fields if isinstance(arg, relax.Tuple) else [arg] for arg in call.args)
    return [arg for part in parts for arg in part]


def with_arguments(call: relax.Call, args: list[relax.Expr]) -> list[relax.Expr]:
    """Return `args`, one for each of ``arguments(call)``, in the tuples of the call."""
    left = iter(args)
    return [
        relax.Tuple([next(left) for _ in arg.fields])
        if isinstance(arg, relax.Tuple)
        else next(left)
        for arg in call.args
    ]


def _operand(arg: relax.Expr, found: Inference) -> Operand | None:
    if isinstance(arg.ty, relax.TensorType):
        placement = found.placements.get(arg) if isinstance(arg, relax.Var) else None
        return Operand(shape=static_shape(arg), placement=placement)
    if isinstance(arg, relax.Var) and isinstance(arg.ty, tvm.ir.TupleType):
        return Operand(shape=(), placement=found.placements.get(arg))
    return None
