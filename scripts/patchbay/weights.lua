-- What the weights of heads say (Elhage et al. 2021): composition scores, copying scores, singular directions in words. Raw weights, no
-- layer norm, no biases. A matrix of D x D that is a product of thin ones is never made: all is done with d_head x d_head or thin parts.
local pb = require "patchbay"
local weights = {}

-- W_Q, W_K, W_V [D, d_head] and W_O [d_head, D] of every head of queries in a layer, from 1; key-value heads stand for all that share them.
function weights.of(model, layer)
  local out, group = {}, model.heads // model.kv_heads
  for _, name in ipairs { "W_Q", "W_K", "W_V", "W_O" } do
    local all, list = model:parameter(("blocks.%d.attn.%s"):format(layer, name)), {}
    for h = 0, model.heads - 1 do list[h + 1] = all:select(0, (name == "W_K" or name == "W_V") and h // group or h):contiguous() end
    out[name] = list
  end
  return out
end

local function t(x) return x:transpose(0, 1):contiguous() end

-- F [d, d] with |W X| = |F X| for every X: the Gram matrix' root.
local function root(W)
  local values, vectors = t(W):matmul(W):eigh()
  return t(vectors) * values:maximum(0):sqrt():unsqueeze(1)
end

-- Norms of the d x d blocks of [H d, H' d]: [H, H'].
local function block_norms(product, rows, columns)
  local d = product.shape[1] // rows
  return product:square():reshape { rows, d, columns, product.shape[2] // columns }:sum(3):sum(1):sqrt()
end

-- weights.composition(model, "Q" | "K" | "V") -> grid [layer, head, later_layer, later_head]: |A B| / (|A| |B|), A = W_V W_O of the earlier head,
-- B = W_Q W_K^T ("Q"), its transpose ("K") or W_V W_O ("V") of the later one; 0 where it is not in a later layer
function weights.composition(model, kind)
  pb.one_of(kind, { "Q", "K", "V" }, "heads.composition: kind")
  local L, H, left, right, norm = model.layers, model.heads, {}, {}, { left = {}, right = {} }
  for layer = 0, L - 1 do
    local w, rows, columns, a, b = weights.of(model, layer), {}, {}, {}, {}
    for h = 1, H do
      rows[h] = root(w.W_V[h]):matmul(w.W_O[h])                                                -- |W_V W_O X| = |rows X|
      if kind == "V" then columns[h] = w.W_V[h]:matmul(t(root(t(w.W_O[h]))))
      else
        local x, y = kind == "Q" and w.W_Q[h] or w.W_K[h], kind == "Q" and w.W_K[h] or w.W_Q[h]
        columns[h] = x:matmul(t(root(y)))                                                      -- |X x y^T| = |X columns|
      end
      a[h], b[h] = rows[h]:norm(), columns[h]:norm()
    end
    left[layer], right[layer] = pb.concat(rows, 0), pb.concat(columns, 1)
    norm.left[layer], norm.right[layer] = pb.tensor(a), pb.tensor(b)
  end
  local values = pb.zeros { L, H, L, H }
  for i = 0, L - 1 do
    for j = i + 1, L - 1 do
      local score = block_norms(left[i]:matmul(right[j]), H, H) / norm.left[i]:unsqueeze(1) / norm.right[j]:unsqueeze(0)
      values:select(0, i):select(1, j):copy_(score)
    end
  end
  return pb.grid { values = values, axes = { "layer", "head", "later_layer", "later_head" }, unit = "composition score", name = kind .. " composition",
                   about = { model = model.name } }
end

-- Sum of eigenvalues over sum of their sizes: 1 where all are positive.
local function positivity(square)
  local values = square:eigvals()
  return values:select(1, 0):sum() / math.max(values:square():sum(1):sqrt():sum(), 1e-30)
end

-- weights.copying(model, "full_ov" | "ov" | "full_qk") -> grid [layer, head]: full_ov of W_E W_V W_O W_U (does attending to a token raise that
-- token?), ov of W_V W_O, full_qk of W_E W_Q W_K^T W_E^T (does a token attend to itself?)
function weights.copying(model, kind)
  kind = pb.one_of(kind or "full_ov", { "full_ov", "ov", "full_qk" }, "heads.copying: kind")
  local W_E, through = kind ~= "ov" and model:parameter "embed.W_E", nil
  if kind == "full_ov" then through = model:parameter("unembed.W_U"):matmul(W_E) elseif kind == "full_qk" then through = t(W_E):matmul(W_E) end
  local rows = {}
  for layer = 0, model.layers - 1 do
    local w, row = weights.of(model, layer), {}
    for h = 1, model.heads do
      local a, b = w.W_O[h], w.W_V[h]
      if kind == "full_qk" then a, b = t(w.W_K[h]), w.W_Q[h] end
      row[h] = positivity((through and a:matmul(through) or a):matmul(b))                       -- the non-zero eigenvalues of b a
    end
    rows[layer + 1] = pb.tensor(row)
  end
  return pb.grid { values = pb.stack(rows), axes = { "layer", "head" }, unit = "sum of eigenvalues / sum of their sizes", name = "copying (" .. kind .. ")",
                   about = { model = model.name } }
end

-- weights.circuit(model, layer, head, "ov" | "qk" [, { directions = 5, tokens = 5 }]) -> { u [D, d_head], s [d_head], v [d_head, D], eigenvalues [d_head, 2],
-- directions = list of { strength =, reads = labels, writes = labels (ov) or query =, key = (qk) } }
-- The singular value decomposition of W_V W_O or W_Q W_K^T, and the tokens that its first directions mean in embedding and unembedding.
function weights.circuit(model, layer, head, kind, given)
  local o = pb.options(given, { directions = 5, tokens = 5 }, "heads.circuit")
  pb.one_of(kind, { "ov", "qk" }, "heads.circuit: kind")
  local w = weights.of(model, layer)
  local a, b = w.W_V[head + 1], w.W_O[head + 1]
  if kind == "qk" then a, b = w.W_Q[head + 1], t(w.W_K[head + 1]) end
  local u1, s1, v1 = a:svd()
  local u2, s, v = (v1 * s1:unsqueeze(1)):matmul(b):svd()
  local out = { u = u1:matmul(u2), s = s, v = v, eigenvalues = b:matmul(a):eigvals(), directions = {} }
  local W_E = model:parameter "embed.W_E"
  local into = W_E:matmul(out.u)                                                               -- [vocab, d_head]
  local from = kind == "ov" and t(v:matmul(model:parameter "unembed.W_U")) or W_E:matmul(t(v))
  local function tokens(column)
    local list, _, ids = {}, column:contiguous():topk(o.tokens)
    for i, id in ipairs(ids:tolist()) do list[i] = model.has_tokenizer and model:label(math.tointeger(id)) or tostring(math.tointeger(id)) end
    return list
  end
  for k = 0, math.min(o.directions, s.count) - 1 do
    local x, y = into:select(1, k), from:select(1, k)
    -- a direction's sign is free: the one whose largest token stands out more
    local flip = x:max() < -x:min() and -1 or 1
    out.directions[k + 1] = { strength = s:get(k), [kind == "ov" and "reads" or "query"] = tokens(x * flip), [kind == "ov" and "writes" or "key"] = tokens(y * flip) }
  end
  return out
end

return weights
