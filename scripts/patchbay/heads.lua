-- What heads attend to and what their weights do: scores on repeated random tokens, TransformerLens's detect_head, composition and
-- copying scores, singular directions; and the search for induction circuits, with its causal check. A pattern says where a head
-- looks, weights what it could do; only patching says what it does.
local pb = require "patchbay"
local heads = {}

local function axes(model) return { axes = { "layer", "head" }, unit = "attention", about = { model = model.name, items = "sequences" } } end

-- A mask [T, T] with weight(q, k) where it is not nil.
function heads.mask(length, weight)
  local mask = pb.zeros { length, length }
  for q = 0, length - 1 do
    for k = 0, q do
      local w = weight(q, k)
      if w then mask:set(q, k, w) end
    end
  end
  return mask
end

-- The mean of the attention to `back` tokens before, over the destinations from `first` (default: the first that reaches) to `last`.
function heads.diagonal(length, back, first, last)
  first, last = math.max(first or back, back), last or length - 1
  return heads.mask(length, function(q, k) return q >= first and q <= last and q - k == back and 1 / (last - first + 1) or nil end)
end

-- heads.attention(runs, { name = mask [T, T] }) -> { name = grid [layer, head] }: sum of pattern times mask, mean over runs; and entropy
function heads.attention(runs, masks)
  local model, parts, out = runs[1].model, { entropy = {} }, {}
  for name in pairs(masks) do parts[name] = {} end
  for _, run in ipairs(runs) do
    local rows = {}
    for layer = 0, model.layers - 1 do
      local pattern = run:value("pattern", layer)
      for name in pairs(parts) do
        rows[name] = rows[name] or {}
        local weighed = masks[name] and pattern * masks[name] or pattern * (pattern + 1e-30):log() / -#run
        rows[name][layer + 1] = weighed:sum(-1):sum(-1)
      end
    end
    for name, list in pairs(parts) do
      local one = axes(model)
      one.values, one.name, one.unit = pb.stack(rows[name]), name, name == "entropy" and "nats" or one.unit
      list[#list + 1] = pb.grid(one)
    end
  end
  for name, list in pairs(parts) do out[name] = pb.mean(list) end
  return out
end

-- n lists of `length` different tokens, drawn from o.tokens (default: whole words); or o.sequences, checked.
local function sequences_of(model, o)
  local list = o.sequences
  if list then
    for i, r in ipairs(list) do
      if #r ~= #list[1] then pb.fail("heads: sequences must have one length, the first has %d tokens and number %d has %d", #list[1], i, #r) end
    end
    return #list > 0 and list or pb.fail "heads: the list of sequences is empty"
  end
  local ids = require "patchbay.words".pool(model, o.tokens)
  if #ids < o.length then pb.fail("heads: length %d needs as many different tokens, there are %d", o.length, #ids) end
  list = {}
  for i = 1, o.n do
    list[i] = pb.rand { #ids, seed = o.seed or pb.seed, draw = i }:argsort():narrow(0, 0, o.length):tolist()
    for j, place in ipairs(list[i]) do list[i][j] = ids[math.tointeger(place) + 1] end
  end
  return list
end

-- Runs on [start] + r + r for each r of random tokens, where the first r begins, and how long r is.
function heads.repeated(model, given)
  local o = pb.options(given, { "seed", "tokens", "bos", "sequences", n = 50, length = 16 }, "heads.repeated")
  local start, prompts = model.has_tokenizer and model:encode("", { bos = o.bos }) or {}, {}
  for i, r in ipairs(sequences_of(model, o)) do
    prompts[i] = { table.unpack(start) }
    for _ = 1, 2 do table.move(r, 1, #r, #prompts[i] + 1, prompts[i]) end
  end
  return model:runs(prompts), #start, (#prompts[1] - #start) // 2
end

-- heads.scores(model, { seed =, n =, length =, offsets = 4, tokens =, sequences =, bos = }) -> grids [layer, head]. Means over the destinations in
-- the second r: previous, current, first (attention to the token before, itself, the prompt's first); offset[k], k = 0 to offsets (to the k-th token
-- after the earlier occurrence; the same destinations for all k, those for which that token is still in the first r); duplicate = offset[0],
-- induction = offset[1]. entropy: of all rows. copying: of the weights.
function heads.scores(model, given)
  local o = pb.options(given, { "seed", "tokens", "bos", "sequences", n = 50, length = 16, offsets = 4 }, "heads.scores")
  local offsets = o.offsets
  o.offsets = nil
  local runs, start, n = heads.repeated(model, o)
  if math.type(offsets) ~= "integer" or offsets < 1 or offsets >= n then pb.fail("heads.scores: offsets must be 1 to length - 1 (%d), got %s", n - 1, tostring(offsets)) end
  local T, second = #runs[1], start + n
  local masks = { previous = heads.diagonal(T, 1, second), current = heads.diagonal(T, 0, second),
                  first = heads.mask(T, function(q, k) return k == 0 and q >= second and 1 / n or nil end) }
  for k = 0, offsets do masks["offset " .. k] = heads.diagonal(T, n - k, second, T - 1 - offsets) end
  local scores = heads.attention(runs, masks)
  scores.offset = {}
  for k = 0, offsets do
    scores.offset[k], scores["offset " .. k] = scores["offset " .. k]:titled(("attention to %d after"):format(k)), nil
  end
  scores.duplicate, scores.induction, scores.copying = scores.offset[0], scores.offset[1], heads.copying(model)
  return scores
end

-- heads.detect(run, "previous_token" | "duplicate_token" | "induction" | mask, { measure = "mul" | "abs", exclude_first =, exclude_current = })
-- TransformerLens's detect_head: the share of attention in the mask ("mul"), or 1 - mean distance per row ("abs", not rounded here).
function heads.detect(run, kind, given)
  local o = pb.options(given, { "exclude_first", "exclude_current", measure = "mul" }, "heads.detect")
  pb.one_of(o.measure, { "mul", "abs" }, "heads.detect: measure")
  local T, ids, mask = #run, run.tokens, kind
  local function same(q, k) return q ~= k and ids[q + 1] == ids[k + 1] and 1 or nil end
  if type(kind) == "string" then
    local weights = { previous_token = function(q, k) return q - k == 1 and 1 or nil end, duplicate_token = same,
                      induction = function(q, k) return k > 0 and same(q, k - 1) or nil end }
    mask = heads.mask(T, weights[pb.one_of(kind, { "previous_token", "duplicate_token", "induction" }, "heads.detect: kind")])
  end
  local keep = heads.mask(T, function(q, k) return not (o.exclude_first and k == 0 or o.exclude_current and q == k) and 1 or nil end)
  local rows, one = {}, axes(run.model)
  for layer = 0, run.model.layers - 1 do
    local pattern = run:value("pattern", layer)
    if o.measure == "mul" then rows[layer + 1] = (pattern * keep * mask):sum(-1):sum(-1) / (pattern * keep):sum(-1):sum(-1)
    else rows[layer + 1] = ((pattern - mask):abs() * keep):sum(-1):sum(-1) / -T + 1 end
  end
  one.values = pb.stack(rows)
  return pb.grid(one)
end

-- Weights' scores (composition, copying, singular directions) and the search for induction circuits have files of their own.
for name, fn in pairs(require "patchbay.weights") do heads[name] = fn end
heads.induction = require "patchbay.induction"

return heads
