"""Register tiles of a matrix product, as LLVM's vector instructions: what `fastrl.kernels.matmul` is made of.

Numba has no `restrict`: in a loop over arrays the result might overlap the factors, which keeps it in memory. Here the
partial sums of a tile stay in registers until the tile is done.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

_given: Any = config.CPU_FEATURES  # type: ignore[attr-defined]
_FEATURES = (get_host_cpu_features() if _given is None else _given).split(",")  # what Numba compiles for
LANES = 16 if "+avx512f" in _FEATURES else 8 if "+avx" in _FEATURES else 4
MANY_REGISTERS = LANES == 16 or platform.machine() in ("aarch64", "arm64")

# (rows, vectors) of the tiles, widest first: as many partial sums as there are registers for.
SHAPES = ((4, 4), (8, 2), (16, 1)) if MANY_REGISTERS else ((4, 2), (4, 2), (8, 1))

_INT, _LANE = ir.IntType(64), ir.IntType(32)
_FLOAT, _BIT = ir.FloatType(), ir.IntType(1)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_MASK = ir.VectorType(_BIT, LANES)


def _spread(b: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = b.insert_element(undefined, value, _LANE(0))
    return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES))


class _Masked:
    """Loads and stores of the first `count` of 0 … `vectors` · LANES numbers; no others are touched."""

    def __init__(self, b: Any, count: Any, vectors: int) -> None:
        pointer = _VECTOR.as_pointer()
        name = f"v{LANES}f32.p0v{LANES}f32"
        self.b, self.count = b, count
        self._load = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(_VECTOR, [pointer, _LANE, _MASK, _VECTOR]), f"llvm.masked.load.{name}"
        )
        self._store = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), [_VECTOR, pointer, _LANE, _MASK]), f"llvm.masked.store.{name}"
        )
        lane = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
        self.masks = [
            b.icmp_signed("<", lane, _spread(b, b.sub(count, _INT(v * LANES)))) for v in range(vectors)
        ]

    def load(self, address: Any, v: int, also: Any = None) -> Any:
        mask = self.masks[v] if also is None else self.b.and_(self.masks[v], also)
        zeros = ir.Constant(_VECTOR, [0.0] * LANES)
        return self.b.call(self._load, [self._at(address, v), _LANE(4), mask, zeros])

    def store(self, values: Any, addresses: Any, v: int) -> None:
        """Whole vectors where that will do: what was stored under a mask takes long to be loaded again."""
        whole = self.b.icmp_signed(">=", self.count, _INT((v + 1) * LANES))
        with self.b.if_else(whole) as (then, otherwise):
            with then:
                for value, address in zip(values, addresses, strict=True):
                    self.b.store(value, self._at(address, v), align=4)
            with otherwise:
                for value, address in zip(values, addresses, strict=True):
                    self.store_if(value, address, v)

    def store_if(self, value: Any, address: Any, v: int, also: Any = None) -> None:
        mask = self.masks[v] if also is None else self.b.and_(self.masks[v], also)
        self.b.call(self._store, [value, self._at(address, v), _LANE(4), mask])

    def _at(self, address: Any, v: int) -> Any:
        return self.b.bitcast(self.b.gep(address, [_INT(v * LANES)]), _VECTOR.as_pointer())


def make_tile(rows: int, vectors: int) -> Any:
    """A function tile(a, i_a, lda, step, b, i_b, ldb, c, i_c, ldc, start, i_s, lds, started, depth, count).

    c[r, j] = Σ_k a[r, k] b[k, j] (+ start[r, j] where `started`), for `rows` rows and `count` ≤ vectors · LANES
    columns, in flat float32 arrays; element (r, k) of a is a[i_a + r lda + k step], and (k, j) of b is
    b[i_b + k ldb + j]. `depth` ≥ 1.
    """

    @intrinsic
    def tile(typingctx, a, i_a, lda, step, w, i_w, ldw, c, i_c, ldc, start, i_s, lds, started, depth, count):
        def codegen(context, b, sig, args):
            base = [
                b.gep(context.make_array(array)(context, b, args[i]).data, [args[i + 1]])
                for i, array in ((0, a), (4, w), (7, c), (10, start))
            ]
            a_, w_, c_, s_ = base
            lda_, step_, ldw_, ldc_, lds_, started_, depth_, count_ = (args[i] for i in (2, 3, 6, 9, 12, 13, 14, 15))
            # fused where the processor can: a call of the C library for each number would take its place elsewhere
            fma = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
            )
            memory = _Masked(b, count_, vectors)
            wanted = _spread(b, b.trunc(started_, _BIT) if started_.type != _BIT else started_)
            first = [
                [memory.load(b.gep(s_, [b.mul(lds_, _INT(r))]), v, wanted) for v in range(vectors)]
                for r in range(rows)
            ]
            entry, loop, done = b.block, b.append_basic_block("depth"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(_INT)
            k.add_incoming(_INT(0), entry)
            sums = [[b.phi(_VECTOR) for _ in range(vectors)] for _ in range(rows)]
            for r in range(rows):
                for v in range(vectors):
                    sums[r][v].add_incoming(first[r][v], entry)
            row = b.gep(w_, [b.mul(k, ldw_)])
            factors = [memory.load(row, v) for v in range(vectors)]
            results = []
            for r in range(rows):
                at = b.add(b.mul(lda_, _INT(r)), b.mul(k, step_))
                x = _spread(b, b.load(b.gep(a_, [at]), align=4))
                results.append([b.call(fma, [x, factors[v], sums[r][v]]) for v in range(vectors)])
            following = b.add(k, _INT(1))
            k.add_incoming(following, loop)
            for r in range(rows):
                for v in range(vectors):
                    sums[r][v].add_incoming(results[r][v], loop)
            b.cbranch(b.icmp_signed("<", following, depth_), loop, done)
            b.position_at_end(done)
            targets = [b.gep(c_, [b.mul(ldc_, _INT(r))]) for r in range(rows)]
            for v in range(vectors):
                memory.store([row[v] for row in results], targets, v)
            return context.get_dummy_value()

        n = types.intp
        return types.void(a, n, n, n, w, n, n, c, n, n, start, n, n, types.boolean, n, n), codegen

    return tile


@intrinsic
def transpose_tile(typingctx, a, i_a, lda, c, i_c, ldc, rows, columns):
    """c[i_c + j ldc + r] = a[i_a + r lda + j] for r < rows and j < columns, LANES at most each."""

    def codegen(context, b, sig, args):
        a_ = b.gep(context.make_array(a)(context, b, args[0]).data, [args[1]])
        c_ = b.gep(context.make_array(c)(context, b, args[3]).data, [args[4]])
        lda_, ldc_, rows_, columns_ = args[2], args[5], args[6], args[7]
        source, target = _Masked(b, columns_, 1), _Masked(b, rows_, 1)
        line = []
        for r in range(LANES):
            there = _spread(b, b.icmp_signed("<", _INT(r), rows_))
            line.append(source.load(b.gep(a_, [b.mul(lda_, _INT(r))]), 0, there))
        size = 1
        while size < LANES:  # exchange the blocks beside the diagonal, of 1, 2, 4, … rows
            for r in (r for r in range(LANES) if not r & size):
                one, other = line[r], line[r + size]
                low = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
                high = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
                line[r], line[r + size] = (
                    b.shuffle_vector(one, other, ir.Constant(ir.VectorType(_LANE, LANES), order))
                    for order in (low, high)
                )
            size *= 2
        for j in range(LANES):
            there = _spread(b, b.icmp_signed("<", _INT(j), columns_))
            target.store_if(line[j], b.gep(c_, [b.mul(ldc_, _INT(j))]), 0, there)
        return context.get_dummy_value()

    n = types.intp
    return types.void(a, n, n, c, n, n, n, n), codegen


@intrinsic
def plain(typingctx, x):
    """x, but no constant to the compiler: each combination of constants is another version of a function."""
    return types.unliteral(x)(x), lambda context, builder, sig, args: args[0]
