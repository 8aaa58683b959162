-- Reference: tensors.
local entries = {
  { name = "tensor", summary = "Numbers in row-major order: float32 (or int32, for token lists), as views on shared memory.",
    text = [[
Axes and indices are 0-based and negative ones count from the end: t:select(0, -1) is the last row. Only Lua tables (shapes,
lists, what totable gives) are 1-based.

Properties: t.shape (a list), t.ndim, t.count, t.dtype, t.is_contiguous; #t is the length of axis 0.
Operators: + - * / ^ and unary minus, between tensors and numbers, with numpy's broadcasting. == compares identity, not
content: use a:max_difference(b), or check.eq in tests. Indexing with [ ] raises: t:get(i, j) gives a number,
t:select(axis, i) a part.

select, narrow, transpose, reshape, expand, unsqueeze and squeeze give views: they share memory with t, and writing to one
writes to the other. Everything else gives a new tensor, and t:clone() a copy. Names with a trailing _ change t in place and
return it; they refuse views that repeat elements (expand) and operands that overlap t in another layout.

t:close() or `local t <close> = ...` frees memory at once; the collector does it otherwise. print(t) shows the shape and the
values, or the edges of a large tensor.]],
    example = [[
local t = pb.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
print(t:sum(), (t * 2):select(0, -1), t:softmax())]] },

  { name = "tensor.shape", signature = "t.shape -> list", summary = "Lengths of the axes, a new Lua list: t.shape[1] is the length of axis 0." },
  { name = "tensor.ndim", signature = "t.ndim -> integer", summary = "Number of axes; 0 for a scalar." },
  { name = "tensor.count", signature = "t.count -> integer", summary = "Number of elements." },
  { name = "tensor.dtype", signature = "t.dtype -> text", summary = '"float32" or "int32".' },
  { name = "tensor.is_contiguous", signature = "t.is_contiguous -> boolean", summary = "Whether the elements lie in row-major order without gaps." },

  { name = "tensor:get", signature = "t:get(i, j, ...) -> number", summary = "One element; one index per axis.",
    text = "0-based; negative indices count from the end. An index out of range, or another number of indices than axes, raises.",
    example = "pb.tensor { { 1, 2 }, { 3, 4 } }:get(1, -1)  -- 4.0" },
  { name = "tensor:set", signature = "t:set(i, j, ..., value) -> t", summary = "Change one element: the indices as for get, then the value.",
    example = "t:set(0, 2, 3.5)" },
  { name = "tensor:item", signature = "t:item() -> number", summary = "The number in a tensor of one element, whatever its axes." },
  { name = "tensor:totable", signature = "t:totable() -> nested lists", summary = "The elements as nested Lua lists (1-based); a number for a scalar." },
  { name = "tensor:tolist", signature = "t:tolist() -> list", summary = "The elements as one flat Lua list, in row-major order." },
  { name = "tensor:max_difference", signature = "a:max_difference(b) -> absolute, relative",
    summary = "The largest |a - b| over all elements, and that divided by the largest |b|.",
    text = "Shapes must be equal. Equal infinities differ by 0; NaN or other infinities give infinity." },
  { name = "tensor:nonfinite", signature = "t:nonfinite() -> count [, index]",
    summary = "How many elements are NaN or infinite, and the flat index of the first one." },

  { name = "tensor:select", signature = "t:select(axis, index) -> view", summary = "One place along an axis; the axis is gone.",
    example = "run:value('resid_post', 3):select(0, -1)  -- [d_model] at the last position" },
  { name = "tensor:narrow", signature = "t:narrow(axis, start, length) -> view", summary = "The places start .. start + length - 1 along an axis.",
    text = "The part must lie inside the tensor; a negative start counts from the end." },
  { name = "tensor:transpose", signature = "t:transpose([axis_a, axis_b]) -> view", summary = "Two axes swapped; the last two by default." },
  { name = "tensor:reshape", signature = "t:reshape(n, m, ...) -> view", summary = "Other axes over the same elements; one length may be -1 (worked out).",
    text = "Lengths as numbers or as one list. Raises where the strides allow no view: t:contiguous():reshape(...) copies first." },
  { name = "tensor:expand", signature = "t:expand(n, m, ...) -> view", summary = "Axes of length 1 repeated without copying; the result cannot be written to." },
  { name = "tensor:unsqueeze", signature = "t:unsqueeze(axis) -> view", summary = "A new axis of length 1 at that place." },
  { name = "tensor:squeeze", signature = "t:squeeze(axis) -> view", summary = "Without an axis of length 1." },

  { name = "tensor:clone", signature = "t:clone() -> tensor", summary = "A contiguous copy." },
  { name = "tensor:contiguous", signature = "t:contiguous() -> tensor", summary = "t itself if it is contiguous, else a contiguous copy." },
  { name = "tensor:cast", signature = 't:cast("float32" | "int32") -> tensor', summary = "A copy of another type; to int32 only where every element is an integer." },
  { name = "tensor:index", signature = "t:index(axis, indices) -> tensor", summary = "A copy of chosen places along an axis, in the given order, repeats allowed.",
    text = "indices: a list of integers, or an int32 tensor [n] such as topk and argsort give.", example = "t:index(0, { 2, 0, -1 })" },
  { name = "tensor:copy_", signature = "t:copy_(source) -> t", summary = "Overwrite the elements with those of a tensor, nested lists or a number, broadcast." },
  { name = "tensor:fill_", signature = "t:fill_(value) -> t", summary = "Overwrite every element with a number." },

  { name = "tensor:softmax", signature = "t:softmax([axis]) -> tensor", summary = "exp(t - max) / sum along an axis, the last by default; rows of -inf alone give NaN." },
  { name = "tensor:log_softmax", signature = "t:log_softmax([axis]) -> tensor", summary = "Natural logarithm of the softmax, computed through logsumexp." },
  { name = "tensor:cumsum", signature = "t:cumsum([axis]) -> tensor", summary = "Running sum along an axis, the last by default." },
  { name = "tensor:topk", signature = "t:topk(k) -> values, indices", summary = "The k largest along the last axis, largest first; ties by lower index.",
    text = "values is float32, indices int32 (0-based), both [..., k].", example = "local values, tokens = run[\"logits\"]:select(0, -1):topk(5)" },
  { name = "tensor:argsort", signature = "t:argsort([descending]) -> int32 tensor", summary = "The permutation that sorts a tensor [n]: stable, rising unless told otherwise, NaN last." },

  { name = "tensor:matmul", signature = "a:matmul(b) -> tensor", summary = "Matrix product as numpy.matmul: vectors, matrices, leading axes broadcast." },
  { name = "tensor:svd", signature = "a:svd() -> u, s, vt", summary = "Thin singular value decomposition: a [m, n] = u diag(s) vt, s falling.",
    text = "u [m, k], s [k], vt [k, n], k = min(m, n). LAPACK." },
  { name = "tensor:eigh", signature = "a:eigh() -> values, vectors", summary = "Eigenvalues (rising) and eigenvectors (columns) of a symmetric matrix.",
    text = "a [n, n] that is not symmetric beyond rounding is an error. LAPACK." },
  { name = "tensor:eigvals", signature = "a:eigvals() -> tensor [n, 2]", summary = "Eigenvalues of any square matrix: real and imaginary part, by falling magnitude." },
  { name = "tensor:solve", signature = "a:solve(b) -> x", summary = "x with a x = b; a [n, n], b [n] or [n, m]; computed in double.",
    text = "A singular matrix is an error." },
  { name = "tensor:cholesky", signature = "a:cholesky() -> l", summary = "Lower triangular l with l l^T = a; a that is not positive definite is an error." },
  { name = "tensor:lstsq", signature = "a:lstsq(b) -> x", summary = "x that minimises |a x - b|, of least norm where several do; a [m, n], b [m] or [m, k]." },
}

local function add(entry) entries[#entries + 1] = entry end

-- names of a table in order: what is printed must not follow the hash
local function sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  local i = 0
  return function()
    i = i + 1
    return names[i], t[names[i]]
  end
end

-- elementwise with two operands, and in place
for name, what in sorted { add = "t + other", sub = "t - other", mul = "t * other", div = "t / other", pow = "t to the power of other",
                          minimum = "the smaller of t and other", maximum = "the larger of t and other" } do
  add { name = "tensor:" .. name, signature = ("t:%s(other) -> tensor"):format(name),
        summary = ("Elementwise: %s. other: a tensor that broadcasts, or a number."):format(what) }
  add { name = "tensor:" .. name .. "_", signature = ("t:%s_(other) -> t"):format(name),
        summary = ("In place: %s. other broadcasts to t's shape, never the other way."):format(what) }
end
for name, what in sorted { eq = "equal to", ne = "other than", lt = "less than", le = "at most", gt = "greater than", ge = "at least" } do
  add { name = "tensor:" .. name, signature = ("t:%s(other) -> tensor"):format(name),
        summary = ("1 where an element is %s other's, else 0. other: a tensor that broadcasts, or a number."):format(what) }
end

-- elementwise with one operand, and in place
for name, what in sorted { neg = "-x", abs = "|x|", sign = "-1, 0 or 1", exp = "e^x", log = "natural logarithm", sqrt = "square root",
                          tanh = "hyperbolic tangent", sigmoid = "1 / (1 + e^-x)", square = "x^2", relu = "max(x, 0)",
                          gelu = "x Phi(x), with the error function", gelu_tanh = "GELU by the tanh formula (GPT-2's gelu_new)",
                          silu = "x sigmoid(x)", erf = "error function", isnan = "1 where x is NaN, else 0" } do
  add { name = "tensor:" .. name, signature = ("t:%s() -> tensor"):format(name), summary = ("Elementwise: %s."):format(what) }
  add { name = "tensor:" .. name .. "_", signature = ("t:%s_() -> t"):format(name), summary = ("In place: %s."):format(what) }
end

-- reductions
for name, what in sorted { sum = "Sum (accumulated in double)", mean = "Mean (accumulated in double)", max = "Largest element", min = "Smallest element",
                          argmax = "0-based index of the largest element (the first of equals)",
                          argmin = "0-based index of the smallest element (the first of equals)",
                          var = "Variance, divided by n", norm = "Euclidean norm", logsumexp = "log(sum(exp(x)))" } do
  add { name = "tensor:" .. name, signature = ("t:%s([axis [, keep]]) -> number or tensor"):format(name),
        summary = what .. (name:find "^arg" and " of all (flat), or along an axis." or " of all elements, or along an axis."),
        text = "Without an axis: a number. With one: a tensor without that axis, or with it at length 1 if keep is true. " ..
               (name:find "^arg" and "NaN counts as larger (smaller) than all." or
                (name == "max" or name == "min") and "NaN wins." or
                name == "sum" and "An empty axis sums to 0." or "An empty axis is an error.") }
end

return entries
