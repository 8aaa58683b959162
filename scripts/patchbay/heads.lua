-- What heads attend to and what their weights do: scores on repeated random tokens, TransformerLens's detect_head, composition and
-- copying scores, singular directions; and the search for induction circuits, with its causal check. A pattern says where a head
-- looks, weights what it could do; only patching says what it does.
local pb = require "patchbay"
local heads = {}

local function axes(model) return { axes = { "layer", "head" }, unit = "attention", about = { model = model.name } } end

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

-- The mean over destinations from `first` on (default: all that reach) of the attention to `back` tokens before.
function heads.diagonal(length, back, first)
  first = math.max(first or back, back)
  return heads.mask(length, function(q, k) return q >= first and q - k == back and 1 / (length - first) or nil end)
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

-- Runs on [start] + r + r, r of `length` random tokens, and where the first r begins.
function heads.repeated(model, given)
  local o = pb.options(given, { "seed", "tokens", "bos", n = 10, length = 16 }, "heads.repeated")
  local ids = o.tokens or require "patchbay.words".tokens(model)
  if #ids < o.length then pb.fail("heads: length %d needs as many different tokens, there are %d", o.length, #ids) end
  local start, prompts = model.has_tokenizer and model:encode("", { bos = o.bos }) or {}, {}
  for i = 1, o.n do
    local order, prompt = pb.rand { #ids, seed = o.seed or pb.seed, draw = i }:argsort():narrow(0, 0, o.length):tolist(), { table.unpack(start) }
    for j = 1, 2 * o.length do prompt[#prompt + 1] = ids[math.tointeger(order[(j - 1) % o.length + 1]) + 1] end
    prompts[i] = prompt
  end
  return model:runs(prompts), #start, o.length
end

-- heads.scores(model, { seed =, n =, length =, offsets = 4, tokens = }) -> grids [layer, head]: previous, current, first, duplicate, induction,
-- offset[k] (attention from a repeated token to the k-th token after its earlier occurrence), entropy, copying
function heads.scores(model, given)
  local o = pb.options(given, { "seed", "tokens", "bos", n = 10, length = 16, offsets = 4 }, "heads.scores")
  local offsets = o.offsets
  o.offsets = nil
  local runs, start, n = heads.repeated(model, o)
  local T = #runs[1]
  local masks = { previous = heads.diagonal(T, 1), current = heads.diagonal(T, 0), first = heads.mask(T, function(_, k) return k == 0 and 1 / T or nil end) }
  for k = 0, offsets do masks["offset " .. k] = heads.diagonal(T, n - k, start + n) end
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

-- ---- induction circuits -------------------------------------------------------------------------------------------------------------

-- heads.induction(model, { seed =, n =, length =, offsets =, least = 0.3 }) -> { readers, previous, offset, effect, links, scores }
-- Readers attend, with at least `least`, to the offset-th token after an earlier occurrence; previous-token heads to the token before.
-- The causal check: of what is lost when the earlier occurrence is another word, how much does each previous-token head bring back
-- through each reader's keys? (path patching, grid effect [sender, receiver]; links is the same as a list, the largest first)
function heads.induction(model, given)
  local o = pb.options(given, { "seed", n = 20, length = 12, offsets = 4, least = 0.3 }, "heads.induction")
  local found = { readers = {}, links = {}, scores = heads.scores(model, { seed = o.seed, offsets = o.offsets }) }
  local function strong(grid)
    local list = {}
    for _, cell in ipairs(grid:top(model.layers * model.heads)) do list[#list + 1] = cell.value >= o.least and cell or nil end
    return list
  end
  for k = 1, o.offsets do
    local list = strong(found.scores.offset[k])
    if #list > #found.readers then found.readers, found.offset = list, k end
  end
  found.previous = strong(found.scores.previous)
  if #found.readers == 0 or #found.previous == 0 then return found end
  local keys = {}
  for i, cell in ipairs(found.readers) do keys[i] = { site = "k", heads = { cell }, name = ("%d.%d"):format(cell.layer, cell.head) } end
  local set = require "patchbay.tasks".induction(model, { n = o.n, length = o.length, seed = o.seed, corrupt = "match" })
  found.effect = require "patchbay.path".sweep(set, { senders = found.previous, receivers = keys, metric = "logit_diff" }):recovered()
  for _, cell in ipairs(found.effect:cells()) do
    found.links[#found.links + 1] = { previous = found.previous[cell.sender and cell.sender + 1 or 1], reader = found.readers[cell.receiver + 1],
                                      recovered = cell.value, se = cell.se }
  end
  table.sort(found.links, function(x, y) return x.recovered > y.recovered end)
  return found
end

-- Scores of weights (composition, copying, singular directions) have a file of their own.
for name, fn in pairs(require "patchbay.weights") do heads[name] = fn end

return heads
