"""The functions of `fastrl.kernels.simd` as LLVM's vector instructions."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import impl_ret_borrowed
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model


class VectorType(types.Type):
    """`lanes` numbers of `dtype` in a register; of booleans, a mask."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"vector({dtype} x {lanes})")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        item = ir.IntType(1) if fe_type.dtype == types.boolean else dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(item, fe_type.lanes))


def _address(context: Any, builder: Any, array_type: Any, array: Any, i: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [i]), vector.as_pointer())


def _align(array_type: Any, context: Any) -> int:
    return int(context.get_abi_sizeof(context.get_data_type(array_type.dtype)))


@intrinsic(prefer_literal=True)
def zeros(typingctx, array, lanes):
    vector = VectorType(array.dtype, lanes.literal_value)

    def codegen(context, builder, sig, args):
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array, lanes), codegen


@intrinsic
def flat(typingctx, array):
    if not isinstance(array, types.Array) or array.layout != "C":
        return None
    result = array.copy(ndim=1)

    def codegen(context, builder, sig, args):
        whole = context.make_array(array)(context, builder, args[0])
        part = context.make_array(result)(context, builder)
        size, itemsize = whole.nitems, whole.itemsize
        context.populate_array(part, data=whole.data, shape=[size], strides=[itemsize], itemsize=itemsize, meminfo=None)
        return impl_ret_borrowed(context, builder, result, part._getvalue())

    return result(array), codegen


@intrinsic
def load(typingctx, array, i, like):
    vector = VectorType(array.dtype, like.lanes)

    def codegen(context, builder, sig, args):
        stored = ir.VectorType(context.get_data_type(array.dtype), vector.lanes)
        address = _address(context, builder, array, args[0], args[1], stored)
        value = builder.load(address, align=_align(array, context))
        if vector.dtype == types.boolean:  # a byte each
            value = builder.icmp_unsigned("!=", value, ir.Constant(stored, None))
        return value

    return vector(array, types.intp, like), codegen


@intrinsic
def store(typingctx, array, i, vector):
    def codegen(context, builder, sig, args):
        address = _address(context, builder, array, args[0], args[1], args[2].type)
        builder.store(args[2], address, align=_align(array, context))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


def _each(builder: Any, vector: Any, last: Any) -> Any:
    """(lane, its index or `last`'s where that is lower) of all lanes."""
    for k in range(vector.count):
        lane = ir.Constant(last.type, k)
        yield ir.IntType(32)(k), builder.select(builder.icmp_signed("<", lane, last), lane, last)


@intrinsic
def strided(typingctx, array, i, stride, last, like):
    def codegen(context, builder, sig, args):
        data = context.make_array(array)(context, builder, args[0]).data
        vector = ir.Constant(context.get_value_type(like), ir.Undefined)
        for lane, k in _each(builder, vector.type, args[3]):
            place = builder.gep(data, [builder.add(args[1], builder.mul(args[2], k))])
            vector = builder.insert_element(vector, builder.load(place), lane)
        return vector

    return like(array, types.intp, types.intp, types.intp, like), codegen


@intrinsic
def scatter(typingctx, array, i, stride, last, vector):
    def codegen(context, builder, sig, args):
        data = context.make_array(array)(context, builder, args[0]).data
        for lane in range(vector.lanes):
            k = ir.Constant(args[3].type, lane)
            with builder.if_then(builder.icmp_signed("<=", k, args[3])):
                place = builder.gep(data, [builder.add(args[1], builder.mul(args[2], k))])
                builder.store(builder.extract_element(args[4], ir.IntType(32)(lane)), place)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, vector), codegen


@intrinsic
def picked(typingctx, array, column, order, i, last, like):
    def codegen(context, builder, sig, args):
        whole, rows = (context.make_array(t)(context, builder, x) for t, x in ((array, args[0]), (order, args[2])))
        width = cgutils.unpack_tuple(builder, whole.shape)[1] if array.ndim == 2 else args[3].type(1)
        vector = ir.Constant(context.get_value_type(like), ir.Undefined)
        for lane, k in _each(builder, vector.type, args[4]):
            row = builder.load(builder.gep(rows.data, [builder.add(args[3], k)]))
            place = builder.gep(whole.data, [builder.add(builder.mul(row, width), args[1])])
            number = context.cast(builder, builder.load(place), array.dtype, like.dtype)
            vector = builder.insert_element(vector, number, lane)
        return vector

    return like(array, types.intp, order, types.intp, types.intp, like), codegen


def _broadcast(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


@intrinsic
def splat(typingctx, number, like):
    def codegen(context, builder, sig, args):
        return _broadcast(builder, args[0], like.lanes)

    return like(like.dtype, like), codegen


@intrinsic
def spread(typingctx, vector):
    def codegen(context, builder, sig, args):
        return _broadcast(builder, builder.extract_element(args[0], ir.IntType(32)(0)), vector.lanes)

    return vector(vector), codegen


@intrinsic
def where(typingctx, mask, one, other):
    def codegen(context, builder, sig, args):
        return builder.select(*args)

    return one(mask, one, other), codegen


def _beside_zero(instruction: str, comparison: str) -> Any:
    @intrinsic
    def function(typingctx, vector):
        def codegen(context, builder, sig, args):
            return getattr(builder, instruction)(comparison, args[0], ir.Constant(args[0].type, None))

        return VectorType(types.boolean, vector.lanes)(vector), codegen

    return function


nonzero, positive = _beside_zero("fcmp_unordered", "!="), _beside_zero("fcmp_ordered", ">")


def _choice(comparison: str) -> Any:
    @intrinsic
    def function(typingctx, one, other):
        def codegen(context, builder, sig, args):
            first, second = args[0], args[1] if one == other else _broadcast(builder, args[1], one.lanes)
            return builder.select(builder.fcmp_unordered(comparison, first, second), first, second)  # NaN stays

        return one(one, other if one == other else one.dtype), codegen

    return function


minimum, maximum = _choice("<="), _choice(">=")


def _unary(name: str) -> Any:
    @intrinsic
    def function(typingctx, x):
        def codegen(context, builder, sig, args):
            item = getattr(x, "dtype", x)
            suffix = f"v{x.lanes}f{item.bitwidth}" if isinstance(x, VectorType) else f"f{item.bitwidth}"
            function_type = ir.FunctionType(args[0].type, [args[0].type])
            called = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}")
            return builder.call(called, args)

        return x(x), codegen

    return function


sqrt, rint = _unary("sqrt"), _unary("rint")


def _reduction(name: str, *start: float) -> Any:
    @intrinsic
    def function(typingctx, vector):
        def codegen(context, builder, sig, args):
            item = args[0].type.element
            first = [ir.Constant(item, x) for x in start]
            function_type = ir.FunctionType(item, [*(x.type for x in first), args[0].type])
            full = f"llvm.vector.reduce.{name}.v{vector.lanes}f{vector.dtype.bitwidth}"
            called = cgutils.get_or_insert_function(builder.module, function_type, full)
            return builder.call(called, [*first, args[0]], fastmath=("reassoc",))

        return vector.dtype(vector), codegen

    return function


total, greatest = _reduction("fadd", 0.0), _reduction("fmax")


def _lanes(comparison: str) -> Any:
    @intrinsic
    def function(typingctx, like, number):
        def codegen(context, builder, sig, args):
            lane = ir.Constant(ir.VectorType(args[1].type, like.lanes), list(range(like.lanes)))
            return builder.icmp_signed(comparison, lane, _broadcast(builder, args[1], like.lanes))

        return VectorType(types.boolean, like.lanes)(like, number), codegen

    return function


below, at = _lanes("<"), _lanes("==")


@intrinsic
def exponent(typingctx, vector):
    def codegen(context, builder, sig, args):
        whole = ir.VectorType(ir.IntType(32), vector.lanes)
        shifted = builder.lshr(builder.bitcast(args[0], whole), ir.Constant(whole, [23] * vector.lanes))
        return builder.sitofp(builder.sub(shifted, ir.Constant(whole, [127] * vector.lanes)), args[0].type)

    return vector(vector), codegen


@intrinsic
def power_of_two(typingctx, x):
    def codegen(context, builder, sig, args):
        whole, bias, place = ir.IntType(32), 127, 23
        if isinstance(x, VectorType):
            whole = ir.VectorType(whole, x.lanes)
            bias, place = [bias] * x.lanes, [place] * x.lanes
        shifted = builder.add(builder.fptosi(args[0], whole), ir.Constant(whole, bias))
        return builder.bitcast(builder.shl(shifted, ir.Constant(whole, place)), args[0].type)

    return x(x), codegen


@intrinsic(prefer_literal=True)
def shift(typingctx, vector, by, fill):
    def codegen(context, builder, sig, args):
        lanes = [lane + by.literal_value for lane in range(vector.lanes)]
        return builder.shuffle_vector(args[0], args[2], ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    return vector(vector, by, fill), codegen


@lower_builtin(len, VectorType)
def _lower_len(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.get_constant(types.intp, sig.args[0].lanes)


@infer_global(len)
class _Len(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.intp, *args) if isinstance(args[0], VectorType) else None


def _define(function: Any, instruction: str) -> None:
    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = {arg for arg in args if isinstance(arg, VectorType)}
            if len(args) == 2 and len(vectors) == 1:  # of two vectors, or a vector and a number
                (vector,) = vectors
                return signature(vector, *(arg if arg == vector else vector.dtype for arg in args))
            return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = sig.return_type.lanes
        args = [a if isinstance(t, VectorType) else _broadcast(builder, a, lanes)
                for a, t in zip(args, sig.args, strict=True)]  # fmt: skip
        flags = () if sig.return_type.dtype == types.boolean else ("contract",)
        return getattr(builder, instruction)(*args, flags=flags)

    for kinds in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(function, *kinds)(lower)


for _function, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
    (operator.or_, "or_"), (operator.and_, "and_"),
):  # fmt: skip
    _define(_function, _instruction)
