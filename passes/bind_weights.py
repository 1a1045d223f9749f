# SPDX-License-Identifier: Apache-2.0
"""Turn named weight parameters back into constants: the reverse of `LiftWeights`.

``f(x, w) { conv2d(x, w) }`` with the attribute ``params`` becomes ``f(x) { conv2d(x, const) }``.
Exact; names are lost. For code that wants constants, such as TVM's own constant folding.
"""

from __future__ import annotations

import tvm
from tvm import relax

from decnn_tvm.passes.weights import has_weights, inputs_of, weight_vars


@tvm.transform.module_pass(opt_level=0, name="decnn.BindWeights")
class BindWeights:
    """Turn the named weights of Relax functions into constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every Relax function of `mod` that carries weights."""
        result = mod.clone()
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function) and has_weights(func):
                constants = {
                    param: relax.const(value)
                    for param, value in zip(weight_vars(func), func.attrs["params"], strict=True)
                }
                bound = func.without_attr("params").bind_params(constants)
                assert len(bound.params) == len(inputs_of(func))
                result.update_func(var, bound)
        return result
