-- Induction circuits (Elhage et al. 2021; Olsson et al. 2022): a head that attends to the token before tells a later head, through its keys, where
-- the present token was said before. Scores find candidates for both; path patching says which links carry the answer. heads.induction
-- is this file's function.
local pb = require "patchbay"

-- The cells of a grid with at least this value, the largest first.
local function strong(grid, least)
  local list = {}
  for _, cell in ipairs(grid:top(grid.values.count)) do list[#list + 1] = cell.value >= least and cell or nil end
  return list
end

-- heads.induction(model, { seed =, n =, length =, offsets =, least = 0.3, tokens =, sequences =, bos = }) -> { readers, previous, offset, effect, links, scores }
-- Readers attend, with at least `least`, to the offset-th token after an earlier occurrence; previous-token heads to the token before.
-- The causal check: of what is lost when the earlier occurrence is another word, how much does each previous-token head bring back
-- through each reader's keys? (path patching over n pairs, grid effect [sender, receiver]; links is the same as a list, the largest first)
return function(model, given)
  local o = pb.options(given, { "seed", "tokens", "sequences", "bos", n = 20, length = 12, offsets = 4, least = 0.3 }, "heads.induction")
  local found = { readers = {}, links = {} }
  found.scores = require "patchbay.heads".scores(model, { seed = o.seed, offsets = o.offsets, tokens = o.tokens, sequences = o.sequences, bos = o.bos })
  for k = 1, o.offsets do
    local list = strong(found.scores.offset[k], o.least)
    if #list > #found.readers then found.readers, found.offset = list, k end
  end
  found.previous = strong(found.scores.previous, o.least)
  if #found.readers == 0 or #found.previous == 0 then return found end
  local keys = {}
  for i, cell in ipairs(found.readers) do keys[i] = { site = "k", heads = { cell }, name = ("%d.%d"):format(cell.layer, cell.head) } end
  local set = require "patchbay.tasks".induction(model, { n = o.n, length = o.length, seed = o.seed, corrupt = "match", tokens = o.tokens, bos = o.bos })
  found.effect = require "patchbay.path".sweep(set, { senders = found.previous, receivers = keys, metric = "logit_diff" }):recovered()
  for _, cell in ipairs(found.effect:cells()) do
    found.links[#found.links + 1] = { previous = found.previous[cell.sender and cell.sender + 1 or 1], reader = found.readers[cell.receiver + 1],
                                      recovered = cell.value, se = cell.se }
  end
  table.sort(found.links, function(x, y) return x.recovered > y.recovered end)
  return found
end
