"""`environment.py` in machine code: calls of functions by their address, with Numba's own calling convention."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

STATE, STREAM, OBS = (types.Array(t, 1, "C") for t in (types.float64, types.uint64, types.float32))
ACTIONS = (types.int64, types.Array(types.int64, 1, "C"), types.Array(types.float32, 1, "C"))
OUTCOME = types.Tuple((types.float64, types.boolean))


def _call(place: int, result: Any) -> Any:
    """Code that calls the function whose address is env[place] with the constants at env[3] and the arguments."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        env = context.make_array(signature.args[0])(context, builder, values[0])
        words = [builder.load(builder.gep(env.data, [context.get_constant(types.intp, i)])) for i in (place, 3)]
        arguments = (types.voidptr, *signature.args[1:])
        function_type = context.call_conv.get_function_type(result, arguments)
        function = builder.inttoptr(words[0], function_type.as_pointer())
        constants = builder.inttoptr(words[1], context.get_value_type(types.voidptr))
        status, value = context.call_conv.call_function(
            builder, function, result, arguments, [constants, *values[1:]]
        )  # fmt: skip
        with cgutils.if_unlikely(builder, status.is_error):  # what the function raised is raised here
            context.call_conv.return_status_propagate(builder, status)
        return value

    return codegen


@intrinsic
def row(typing: Any, array: Any, i: Any) -> Any:
    if not isinstance(array, types.Array) or array.layout != "C" or array.ndim > 2:
        return None
    result = array.dtype if array.ndim == 1 else types.Array(array.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        whole = context.make_array(array)(context, builder, values[0])
        if array.ndim == 1:
            return context.unpack_value(builder, array.dtype, builder.gep(whole.data, [values[1]]))
        shape, strides = (cgutils.unpack_tuple(builder, part) for part in (whole.shape, whole.strides))
        part = context.make_array(result)(context, builder)
        context.populate_array(
            part,
            data=builder.gep(whole.data, [builder.mul(values[1], shape[1])]),
            shape=[shape[1]],
            strides=[strides[1]],
            itemsize=whole.itemsize,
            meminfo=None,  # nobody's: no count of references is kept, which would cost more than a step
        )
        return impl_ret_borrowed(context, builder, result, part._getvalue())

    return result(array, types.intp), codegen


@intrinsic
def reset(typing: Any, env: Any, state: Any, rng: Any) -> Any:
    return types.none(env, STATE, STREAM), _call(0, types.none)


@intrinsic
def step(typing: Any, env: Any, state: Any, action: Any, rng: Any) -> Any:
    kind = types.int64 if isinstance(action, types.Integer) else action
    if kind in ACTIONS:
        return OUTCOME(env, STATE, kind, STREAM), _call(1, OUTCOME)
    return None


@intrinsic
def observe(typing: Any, env: Any, state: Any, obs: Any) -> Any:
    return types.none(env, STATE, OBS), _call(2, types.none)
